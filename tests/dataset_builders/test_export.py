import errno
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tracemalloc
from functools import partial
from types import SimpleNamespace

import huggingface_hub
import pyarrow.parquet
import pytest
from damage import flip_a_byte
from datasets import Image
from filelock import FileLock
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image as PilImage

from fafa.dataset_builders import export
from fafa.dataset_builders import shards as writing
from fafa.dataset_builders.records import DataFormatError
from fafa.files import SEAL

RECORD = 600  # bytes: more than one of the tiny records, less than two

# Reads exports with datasets alone; prints their records, images as hashes of bytes and of pixels.
READ_WITHOUT_FAFA = """
import hashlib, json, sys
sys.modules["fafa"] = None  # importing it raises
from datasets import Image, load_dataset

def read(folder, config, split, streaming):
    dataset = load_dataset(folder, config, split=split, streaming=streaming, cache_dir=sys.argv[1])
    images = [name for name, feature in dataset.features.items() if isinstance(feature, Image)]
    raw = dataset
    for name in images:
        raw = raw.cast_column(name, Image(decode=False))
    records = []
    for record, files in zip(dataset, raw, strict=True):
        record.pop("__url__", None)
        for name in images:
            hashes = [hashlib.sha256(data).hexdigest() for data in (files[name]["bytes"], record[name].tobytes())]
            record[name] = [*hashes, list(record[name].size)]
        records.append(record)
    return records

print(json.dumps([read(*one, streaming) for one in json.loads(sys.argv[2]) for streaming in (False, True)]))
"""

# Exports, and dies by SIGKILL while it writes the second shard.
EXPORT_AND_DIE = """
import os, signal, sys
from fafa.dataset_builders import export, shards

write, calls = shards._write_parquet, []

def write_or_die(stream, records, features):
    calls.append(1)
    if len(calls) == 2:
        stream.write(b"PAR1 and no more")
        stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    write(stream, records, features)

shards._write_parquet = write_or_die
export.export_dataset("SynCPR", data_dir=sys.argv[1], output_dir=sys.argv[2], cache_dir=sys.argv[3], shard_size=600)
"""


@pytest.fixture
def run(tmp_path):
    """`export_dataset` with a cache of its own, to tmp_path/"out"."""
    return partial(
        export.export_dataset, output_dir=tmp_path / "out", cache_dir=tmp_path / "cache", show_progress=False
    )


def names(folder) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def source_records(load, name, config, root, split) -> list[dict]:
    """What READ_WITHOUT_FAFA should give, from the files themselves."""
    records = list(load(name, config, data_dir=root, split=split))
    for record in records:
        for column, image in record.items():
            if isinstance(image, PilImage.Image):
                path = record[f"{column}_path"]
                hashes = [hashlib.sha256(data).hexdigest() for data in ((root / path).read_bytes(), image.tobytes())]
                record[column] = [*hashes, list(image.size)]
    return records


def flatten(record: dict) -> dict:
    """A WebDataset record in the columns of the data set."""
    images = {name.split(".")[0]: value for name, value in record.items() if name not in ("json", "__key__")}
    return images | record["json"]


def test_stock_load_dataset_reads_exports_equal_record_for_record_where_fafa_cannot_be_imported(
    run, load, syncpr_root, itcpr_root, tmp_path, monkeypatch
):
    monkeypatch.setattr(writing, "_ROW_GROUP_BYTES", 200)
    wanted, expected = [], []
    for name, root, configs in [
        ("SynCPR", syncpr_root, [("default", "train")]),
        ("ITCPR", itcpr_root, [("query", "test"), ("gallery", "test")]),
    ]:
        for format, size in (("parquet", 1_000), ("webdataset", 8_000)):
            output = tmp_path / f"{name}-{format}"
            shards = run(name, data_dir=root, output_dir=output, format=format, shard_size=size)
            assert len(shards) > len(configs)
            for config, split in configs:
                wanted.append((str(output), None if config == "default" else config, split))
                expected.append((format, source_records(load, name, config, root, split)))
    shutil.rmtree(syncpr_root)
    shutil.rmtree(itcpr_root)
    done = subprocess.run(
        [sys.executable, "-c", READ_WITHOUT_FAFA, str(tmp_path / "stock"), json.dumps(wanted)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert len(read) == 2 * len(expected)
    for number, records in enumerate(read):  # each twice: not streamed, streamed
        format, source = expected[number // 2]
        if format == "webdataset":
            assert [record["__key__"] for record in records] == [f"{index:08d}" for index in range(len(source))]
            assert "json" in records[0] and all("." in name for name in list(records[0])[:-2])
            records = [flatten(record) for record in records]
        assert records == source
        assert format == "webdataset" or list(records[0]) == list(source[0])


def test_an_export_killed_while_writing_goes_on_and_ends_the_same_to_the_byte(run, syncpr_root, tmp_path):
    whole = run("SynCPR", data_dir=syncpr_root, output_dir=tmp_path / "whole", shard_size=RECORD)
    code = [sys.executable, "-c", EXPORT_AND_DIE, str(syncpr_root), str(tmp_path / "out"), str(tmp_path / "cache")]
    killed = subprocess.run(code, capture_output=True, timeout=300)
    assert killed.returncode == -9
    data = tmp_path / "out/data"
    assert names(data) == ["train-00000.parquet", "train-00001.parquet.part"]
    before = (data / "train-00000.parquet").stat()

    shards = run("SynCPR", data_dir=syncpr_root, shard_size=RECORD)
    assert len(shards) == len(whole) == 6
    assert [file.read_bytes() for file in shards] == [file.read_bytes() for file in whole]
    after = (data / "train-00000.parquet").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert names(data) == [file.name for file in shards]
    assert (tmp_path / "out/README.md").read_text() == (tmp_path / "whole/README.md").read_text()


def test_a_copied_or_touched_source_is_known_by_its_contents(run, syncpr_root, tmp_path, monkeypatch):
    shards = run("SynCPR", data_dir=syncpr_root, shard_size=RECORD)
    shards[1].unlink()
    copy = tmp_path / "copy"
    shutil.copytree(syncpr_root, copy, copy_function=shutil.copyfile)
    written, write = [], writing._write_parquet
    monkeypatch.setattr(
        writing, "_write_parquet", lambda stream, *args: (written.append(stream.name), write(stream, *args))
    )
    assert run("SynCPR", data_dir=copy, shard_size=RECORD) == shards
    assert written == [f"{shards[1]}.part"]
    read = []
    monkeypatch.setattr(writing, "_contents_of", lambda *_: read.append(1))
    run("SynCPR", data_dir=copy, shard_size=RECORD)
    assert not read  # its stamps are known now


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_every_file_of_an_export_has_a_checksum_and_a_damaged_shard_is_written_anew(
    run, syncpr_root, tmp_path, format, caplog
):
    """A flipped shard used to be "done"."""
    settings = {
        "data_dir": syncpr_root,
        "shard_size": 6_000 if format == "webdataset" else 2 * RECORD,
        "format": format,
    }
    shards, folder = run("SynCPR", **settings), tmp_path / "out"
    assert export.verify_export(folder) == [] and len(shards) > 1
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != export._LOCK)
    assert len(files) == len(shards) + 2
    contents = [file.read_bytes() for file in files]
    for file, data in zip(files, contents, strict=True):
        for place in (0.1, 0.5, 1.0):
            flip_a_byte(file, place)
            (fault,) = export.verify_export(folder)
            assert file.name in fault and ("damaged" in fault or "not as it was written" in fault)
            file.write_bytes(data)
    flip_a_byte(shards[1], 0.5)
    assert run("SynCPR", **settings) == shards
    assert f"{shards[1].relative_to(folder)} is damaged" in caplog.text and "written anew" in caplog.text
    assert [file.read_bytes() for file in shards] == [
        data for file, data in zip(files, contents, strict=True) if file in shards
    ]


def test_a_damaged_shard_is_not_pushed(run, hub, syncpr_root, tmp_path):
    shards = run("SynCPR", data_dir=syncpr_root, shard_size=RECORD)
    flip_a_byte(shards[2], 0.5)
    with pytest.raises(ValueError, match=r"train-00002\.parquet is damaged.*export command again"):
        export.push_to_hub(tmp_path / "out", "me/syncpr")
    assert not hub.calls


def test_an_export_of_an_earlier_version_without_checksums_is_refused(run, syncpr_root, tmp_path):
    run("SynCPR", data_dir=syncpr_root, shard_size=RECORD)
    file = tmp_path / "out/export.json"
    manifest = json.loads(file.read_text())
    del manifest[SEAL]
    file.write_text(json.dumps(manifest))
    with pytest.raises(FileExistsError, match=r"export\.json is .* of an earlier version: .* choose another folder"):
        run("SynCPR", data_dir=syncpr_root, shard_size=RECORD)


@pytest.mark.parametrize("text", ["[" * 100_000, "{}", '{"parts": 1}', '{"parts": [{"shards": [{}]}]}', "null", "\0"])
def test_a_manifest_of_something_else_is_refused_by_name(run, syncpr_root, tmp_path, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/export.json").write_text(text)
    with pytest.raises(FileExistsError, match=r"export\.json is damaged, or not of an export"):
        run("SynCPR", data_dir=syncpr_root)
    assert len(export.verify_export(tmp_path / "out")) == 1


def test_a_finished_export_is_not_written_again_but_a_lost_or_cut_shard_is(run, syncpr_root, monkeypatch):
    shards = run("SynCPR", data_dir=syncpr_root, shard_size=RECORD)
    contents = [file.read_bytes() for file in shards]
    shards[1].unlink()
    shards[3].write_bytes(contents[3][:-10])
    written, write = [], writing._write_parquet
    monkeypatch.setattr(
        writing, "_write_parquet", lambda stream, *args: (written.append(stream.name), write(stream, *args))
    )
    assert run("SynCPR", data_dir=syncpr_root, shard_size=RECORD) == shards
    assert [file.read_bytes() for file in shards] == contents
    assert written == [f"{shards[1]}.part", f"{shards[3]}.part"]


def test_shards_and_row_groups_keep_to_their_sizes(run, syncpr_root, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_ROW_GROUP_BYTES", 400)
    record = sum(file.stat().st_size for file in syncpr_root.rglob("*-1_*.png")) / 6  # bytes of images
    (shard,) = run("SynCPR", data_dir=syncpr_root)
    metadata = pyarrow.parquet.ParquetFile(shard).metadata
    rows = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    assert sum(rows) == 6 and max(rows) == 400 // record
    for file in run(
        "SynCPR", data_dir=syncpr_root, output_dir=tmp_path / "tar", format="webdataset", shard_size="12kB"
    ):
        assert file.stat().st_size <= 20_480  # a tar is filled up to a multiple of 10,240


def test_memory_holds_a_row_group_not_a_shard(run, tmp_path, monkeypatch):
    """Rows read together used to keep all their images alive."""
    monkeypatch.setattr(writing, "_ROW_GROUP_BYTES", 500_000)
    root = tmp_path / "SynCPR"
    root.mkdir()
    noise = random.Random(0).randbytes(300 * 300 * 3)
    PilImage.frombytes("RGB", (300, 300), noise).save(root / "a.png", compress_level=0)
    record = dict.fromkeys(("reference_image_path", "target_image_path"), "a.png")
    record |= dict.fromkeys(("reference_caption", "target_caption", "edit_caption"), "text")
    (root / "SynCPR.json").write_text(json.dumps([record | {"cpr_id": number} for number in range(40)]))
    tracemalloc.start()
    (shard,) = run("SynCPR", data_dir=root)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shard.stat().st_size > 20_000_000 and peak < 6_000_000


@pytest.mark.parametrize("change", ["image", "caption", "fewer"])
def test_a_source_that_changed_since_is_refused_and_shards_stay(run, syncpr_root, syncpr_records, change):
    shards = run("SynCPR", data_dir=syncpr_root, shard_size=RECORD)
    before = [file.read_bytes() for file in shards]
    if change == "image":
        file = syncpr_root / syncpr_records[2]["target_image_path"]
        status = file.stat()
        file.write_bytes(b"x" * status.st_size)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # as `cp -p` or `rsync -t`
        match = "contents of image files of records 2 to 2, which are in data/train-00002.parquet"
    elif change == "caption":
        syncpr_records[2]["edit_caption"] = "Now in a hat."
        match = "records 2 to 2, which are in data/train-00002.parquet"
    else:
        del syncpr_records[5]
        match = "data/train-00005.parquet would not begin or end with the same record"
    (syncpr_root / "SynCPR.json").write_text(json.dumps(syncpr_records))
    with pytest.raises(FileExistsError, match=match):
        run("SynCPR", data_dir=syncpr_root, shard_size=RECORD)
    assert [file.read_bytes() for file in shards] == before


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"shard_size": "1MB"}, "shard_size 500000000 and not 1000000"),
        ({"format": "webdataset"}, "format parquet and not webdataset"),
    ],
)
def test_other_settings_are_refused_with_the_difference(run, syncpr_root, settings, difference):
    run("SynCPR", data_dir=syncpr_root)
    with pytest.raises(FileExistsError, match=difference):
        run("SynCPR", data_dir=syncpr_root, **settings)


def test_folders_of_others_are_left_alone(run, syncpr_root, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        run("SynCPR", data_dir=syncpr_root)
    assert names(tmp_path / "out") == ["notes.txt"]


def test_two_exports_do_not_write_one_folder(run, syncpr_root, tmp_path):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / export._LOCK), pytest.raises(BlockingIOError, match="another process"):
        run("SynCPR", data_dir=syncpr_root)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip_a_pixel(data: bytes) -> bytes:
    middle = data.index(b"IDAT") + 8
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    ("break_it", "format", "record"),
    [(cut, "PNG", 4), (cut, "JPEG", 4), (flip_a_pixel, "PNG", 4), (lambda data: b"not an image", "PNG", 0)],
)
def test_a_broken_image_stops_with_its_record_and_file_and_once_repaired_the_export_goes_on(
    run, syncpr_root, syncpr_records, break_it, format, record
):
    file = syncpr_root / syncpr_records[record]["target_image_path"]
    stream = io.BytesIO()
    PilImage.effect_noise((64, 64), 50).save(stream, format)
    file.write_bytes(break_it(stream.getvalue()))
    with pytest.raises(DataFormatError, match=rf"SynCPR train.*\n.*not a whole image.*record {record} \({file}"):
        run("SynCPR", data_dir=syncpr_root, shard_size=RECORD)
    file.write_bytes(stream.getvalue())
    shards = run("SynCPR", data_dir=syncpr_root, shard_size=RECORD)
    assert len(shards) == 6
    assert pyarrow.parquet.read_table(shards[record])["target_image"][0]["bytes"].as_py() == stream.getvalue()


def test_images_that_vanished_since_loading_are_all_named_before_anything_is_written(
    run, load, syncpr_root, syncpr_records, tmp_path
):
    load("SynCPR", data_dir=syncpr_root)  # from now on its records are cached
    (syncpr_root / syncpr_records[1]["target_image_path"]).unlink()
    (syncpr_root / syncpr_records[3]["reference_image_path"]).write_bytes(b"")
    with pytest.raises(DataFormatError, match=r"missing \(1\): record 1 .*\n.*\n.*0 bytes \(1\): record 3"):
        run("SynCPR", data_dir=syncpr_root)
    assert not list((tmp_path / "out").rglob("*.parquet"))


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_a_full_disk_is_told_and_finished_shards_stay(run, syncpr_root, tmp_path, monkeypatch, format):
    fsync, read = os.fsync, writing.read_image_file
    images = []
    monkeypatch.setattr(writing, "read_image_file", lambda file: images.append(file) or read(file))

    def fsync_until_full(descriptor):
        if len(images) > 8:  # of the fifth record
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync_until_full)
    arguments = {"data_dir": syncpr_root, "shard_size": 6_000 if format == "webdataset" else RECORD, "format": format}
    with pytest.raises(OSError, match=r"disk is full.*finished before is kept.*same command"):
        run("SynCPR", **arguments)
    left = names(tmp_path / "out/data")
    assert left and not any(name.endswith(".part") for name in left)
    monkeypatch.setattr(os, "fsync", fsync)
    images.clear()
    shards = run("SynCPR", **arguments)
    assert names(tmp_path / "out/data") == [file.name for file in shards] and len(shards) > len(left)
    assert len(images) < 12  # finished shards were not read again


def test_configurations_exported_one_after_the_other_share_the_card(run, load, itcpr_root, tmp_path):
    run("ITCPR", "gallery", data_dir=itcpr_root)
    assert len(load(str(tmp_path / "out"), split="test")) == 4  # the one that is there needs no name
    run("ITCPR", "query", data_dir=itcpr_root)
    assert load(str(tmp_path / "out"), "query", split="test")["instance_id"][:] == [0, 1]
    assert load(str(tmp_path / "out"), "gallery", split="test")["instance_id"][:] == [0, 1, 1, -1]


def test_webdataset_keeps_one_image_column_when_files_have_several_suffixes(
    run, load, itcpr_root, itcpr_records, tmp_path
):
    """Columns are named by suffix; the usual one serves all, and the bytes decide how they decode."""
    _, gallery = itcpr_records
    gallery[3]["file_path"] = "Celeb-reID/002/2_1_0.png"
    PilImage.new("RGB", (4, 8), (9, 8, 7)).save(itcpr_root / gallery[3]["file_path"])
    (itcpr_root / "gallery.json").write_text(json.dumps(gallery))
    run("ITCPR", "gallery", data_dir=itcpr_root, format="webdataset")
    dataset = load(str(tmp_path / "out"), split="test")
    assert set(dataset.column_names) == {"image.jpg", "json", "__key__", "__url__"}
    assert dataset[3]["image.jpg"].getpixel((0, 0)) == (9, 8, 7)
    raw = dataset.cast_column("image.jpg", Image(decode=False))
    assert raw[3]["image.jpg"]["bytes"] == (itcpr_root / gallery[3]["file_path"]).read_bytes()


def test_no_path_of_this_machine_is_exported(run, syncpr_root, tmp_path):
    run("SynCPR", data_dir=syncpr_root)
    for file in (tmp_path / "out").rglob("*"):
        assert file.is_dir() or str(tmp_path).encode() not in file.read_bytes()


def test_a_card_that_was_edited_is_kept(run, syncpr_root, tmp_path, caplog):
    run("SynCPR", data_dir=syncpr_root)
    card = tmp_path / "out/README.md"
    generated = card.read_text()
    card.write_text(generated + "\nMy notes.\n")
    run("SynCPR", data_dir=syncpr_root)
    assert card.read_text().endswith("My notes.\n") and "was edited" in caplog.text
    assert export.verify_export(tmp_path / "out") == []  # taken over
    card.unlink()
    run("SynCPR", data_dir=syncpr_root)
    assert card.read_text() == generated


@pytest.mark.parametrize(
    "arguments", [{"name": "CIFAR"}, {"format": "zip"}, {"shard_size": 0}, {"shard_size": "much"}, {"config": "train"}]
)
def test_arguments_out_of_range_are_refused(run, syncpr_root, arguments):
    with pytest.raises(ValueError):
        run(**{"name": "SynCPR", "data_dir": syncpr_root, **arguments})


class StubHub:
    """Stands in for `HfApi`; notes what is called."""

    calls: list

    def create_repo(self, repo_id, **options):
        self.calls.append(("create", repo_id, options))
        return f"https://huggingface.co/datasets/{repo_id}"

    def upload_folder(self, **options):
        self.calls.append(("upload", options.pop("repo_id"), options))


@pytest.fixture
def hub(monkeypatch):
    StubHub.calls = []
    monkeypatch.setattr(huggingface_hub, "HfApi", StubHub)
    return StubHub


def test_the_command_exports_and_pushes_to_a_private_repository(hub, itcpr_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export.datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    output = str(tmp_path / "out")
    export.main(["ITCPR", "--data-dir", str(itcpr_root), "--output", output, "--push-to-hub", "me/itcpr"])
    (_, repo, created), (_, _, upload) = hub.calls
    assert repo == "me/itcpr" and created["repo_type"] == upload["repo_type"] == "dataset"
    assert created["private"] and created["exist_ok"] and upload["folder_path"] == output
    files = [str(file.relative_to(output)) for file in (tmp_path / "out").rglob("*") if file.is_file()]
    sent = huggingface_hub.utils.filter_repo_objects(files, ignore_patterns=upload["ignore_patterns"])
    assert sorted(sent) == ["README.md", "gallery/test-00000.parquet", "query/test-00000.parquet"]
    assert upload["delete_patterns"] == ["query/test-*.parquet", "gallery/test-*.parquet"]
    assert "https://huggingface.co/datasets/me/itcpr" in capsys.readouterr().out


def test_a_hub_that_refuses_is_told_with_a_remedy_and_nothing_is_lost(run, hub, syncpr_root, tmp_path, monkeypatch):
    shards = run("SynCPR", data_dir=syncpr_root)

    def refuse(self, *args, **kwargs):
        response = SimpleNamespace(headers={}, request=None, status_code=403)
        raise HfHubHTTPError("403 Forbidden", response=response)

    monkeypatch.setattr(hub, "upload_folder", refuse)
    with pytest.raises(ConnectionError, match=r"403 Forbidden\nRemedy: .*hf auth login"):
        export.push_to_hub(tmp_path / "out", "me/syncpr")
    assert all(file.exists() for file in shards)


def test_an_unfinished_export_is_not_pushed(hub, tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished export"):
        export.push_to_hub(tmp_path, "me/syncpr")
    assert not hub.calls


def test_the_command_ends_with_the_reason(tmp_path):
    with pytest.raises(SystemExit, match="no such folder"):  # Python prints it, and ends with 1
        export.main(["SynCPR", "--data-dir", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")])


@pytest.mark.parametrize("size", ["lots", "0", "-5MB", "5 parsecs", ""])
def test_a_size_that_is_none_is_refused_by_name_and_no_traceback(syncpr_root, tmp_path, size):
    arguments = ["SynCPR", "--data-dir", str(syncpr_root), "--output", str(tmp_path / "out"), f"--shard-size={size}"]
    with pytest.raises(SystemExit, match=r"^shard_size "):
        export.main(arguments)
    assert not (tmp_path / "out").exists()
