import io
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from fafa.dataset_builders import syncpr
from fafa.dataset_builders.records import DataFormatError


@pytest.fixture
def hub_client(tmp_path, monkeypatch):
    """Stands for the Hub: every repository is `snapshot`, and `calls` tells what was asked for."""
    client = SimpleNamespace(snapshot=tmp_path / "snapshots/0123abc", calls=[])
    client.snapshot.mkdir(parents=True)

    def snapshot_download(repo_id, **options):
        client.calls.append({"repo_id": repo_id, **options})
        return str(client.snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(syncpr, "PUBLISHED", {"records": 6, "groups": 3})
    return client


def zip_bytes(folder: Path, below: Path) -> bytes:
    """The files of a folder, with paths relative to `below`."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("empty folder")
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(below))
    return stream.getvalue()


def tar_bytes(folder: Path, below: Path, mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        archive.add(folder, folder.relative_to(below))
    return stream.getvalue()


def spanned_zip(content: bytes, size: int) -> list[bytes]:
    """A zip cut as `zip -s` does: offsets count from the part ("disk") they lie in."""
    content = bytearray(b"PK\7\x08" + content)
    end = content.rfind(b"PK\5\6")
    num_entries, directory_size, directory = struct.unpack_from("<HLL", content, end + 10)
    entry = directory = directory + 4
    for _ in range(num_entries):
        name, extra, comment = struct.unpack_from("<3H", content, entry + 28)
        (header,) = struct.unpack_from("<L", content, entry + 42)
        struct.pack_into("<H", content, entry + 34, (header + 4) // size)
        struct.pack_into("<L", content, entry + 42, (header + 4) % size)
        entry += 46 + name + extra + comment
    assert entry == directory + directory_size == end
    struct.pack_into("<2H", content, end + 4, end // size, directory // size)
    struct.pack_into("<L", content, end + 16, directory % size)
    return cut(bytes(content), size)


def cut(content: bytes, size: int) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


def plain_folders(root, snapshot):
    shutil.copytree(root, snapshot, dirs_exist_ok=True)


def one_zip_of_everything(root, snapshot):
    (snapshot / "SynCPR.zip").write_bytes(zip_bytes(root, below=root.parent))


def annotations_beside_a_zip(root, snapshot):
    shutil.copy(root / "SynCPR.json", snapshot)
    (snapshot / "images.zip").write_bytes(zip_bytes(root / "test2", below=root))


def a_zip_named_like_the_folder_it_lacks(root, snapshot):
    shutil.copy(root / "SynCPR.json", snapshot)
    (snapshot / "test2.zip").write_bytes(zip_bytes(root / "test2", below=root / "test2"))


def images_without_their_first_folder(root, snapshot):
    shutil.copy(root / "SynCPR.json", snapshot)
    (snapshot / "all.zip").write_bytes(zip_bytes(root / "test2", below=root / "test2"))


def loose_images_without_their_first_folder(root, snapshot):
    shutil.copy(root / "SynCPR.json", snapshot)
    shutil.copytree(root / "test2/sub_img", snapshot / "images/sub_img")


def a_tar_for_each_side(root, snapshot):
    shutil.copy(root / "SynCPR.json", snapshot)
    for side in ("left", "right"):
        folder = root / f"test2/sub_img/img_{side}"
        (snapshot / f"{side}.tar.gz").write_bytes(tar_bytes(folder, below=root))


def a_folder_in_two_archives(root, snapshot):
    shutil.copy(root / "SynCPR.json", snapshot)
    for part in ("a.tar", "b.tar"):
        with tarfile.open(snapshot / part, "w") as archive:
            for file in sorted(root.rglob("*.png"))[part == "b.tar" :: 2]:
                archive.add(file, file.relative_to(root))


def a_zip_cut_into_numbered_parts(root, snapshot):
    parts = cut(zip_bytes(root, below=root), 250)
    assert len(parts) > 9
    for number, part in enumerate(parts, start=1):
        (snapshot / f"SynCPR.zip.{number:03d}").write_bytes(part)


def a_tar_cut_into_parts_with_letters(root, snapshot):
    (snapshot / "data").mkdir()
    parts = cut(tar_bytes(root, below=root.parent, mode="w"), 400)
    assert len(parts) > 27
    for number, part in enumerate(parts):
        letters = chr(ord("a") + number // 26) + chr(ord("a") + number % 26)
        (snapshot / f"data/SynCPR.tar.part-{letters}").write_bytes(part)


def a_spanned_zip(root, snapshot):
    *parts, last = spanned_zip(zip_bytes(root, below=root), 500)
    for number, part in enumerate(parts, start=1):
        (snapshot / f"SynCPR.z{number:02d}").write_bytes(part)
    (snapshot / "SynCPR.zip").write_bytes(last)


def a_tar_within_a_zip(root, snapshot):
    with zipfile.ZipFile(snapshot / "release.zip", "w") as archive:
        archive.write(root / "SynCPR.json", "release/SynCPR.json")
        archive.writestr("release/test2.tar.xz", tar_bytes(root / "test2", below=root, mode="w:xz"))


@pytest.mark.parametrize(
    "pack",
    [
        plain_folders,
        one_zip_of_everything,
        annotations_beside_a_zip,
        a_zip_named_like_the_folder_it_lacks,
        images_without_their_first_folder,
        loose_images_without_their_first_folder,
        a_tar_for_each_side,
        a_folder_in_two_archives,
        a_zip_cut_into_numbered_parts,
        a_tar_cut_into_parts_with_letters,
        a_spanned_zip,
        a_tar_within_a_zip,
    ],
)
def test_a_repository_is_unpacked_and_its_images_found(load, hub_client, syncpr_root, pack, caplog):
    pack(syncpr_root, hub_client.snapshot)
    shutil.rmtree(syncpr_root)
    dataset = load("SynCPR", split="train")
    assert [row["reference_image"].getpixel((0, 0))[0] for row in dataset] == [0, 1, 2, 3, 4, 5]
    assert [row["target_image"].getpixel((0, 0))[0] for row in dataset] == [100, 101, 102, 103, 104, 105]
    assert hub_client.calls[0]["repo_id"] == "a1557811266/SynCPR"
    assert hub_client.calls[0]["repo_type"] == "dataset"
    assert not caplog.records


def test_the_second_load_does_not_ask_the_hub(load, hub_client, syncpr_root):
    one_zip_of_everything(syncpr_root, hub_client.snapshot)
    load("SynCPR")
    load("SynCPR")
    assert len(hub_client.calls) == 1
    load("SynCPR", download_mode="force_redownload")
    assert hub_client.calls[1]["force_download"] is True


def test_another_repository_or_revision_is_fetched_and_cached_apart(load, hub_client, syncpr_root):
    plain_folders(syncpr_root, hub_client.snapshot)
    options = [{}, {"repo_id": "me/mine"}, {"repo_id": "me/other"}, {"revision": "v2"}, {"token": "secret"}]
    caches = [load("SynCPR", split="train", **chosen).cache_files[0]["filename"] for chosen in options]
    asked_for = [(call["repo_id"], call["revision"]) for call in hub_client.calls]
    authors = "a1557811266/SynCPR"
    assert asked_for == [(authors, None), ("me/mine", None), ("me/other", None), (authors, "v2")]
    assert len(set(caches)) == 4 and caches[4] == caches[0]


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"token": "hf_secret"}, {"token": "hf_secret"}),
        ({"token": False}, {"token": False}),
        ({"download_config": datasets.DownloadConfig(token="hf_other")}, {"token": "hf_other"}),
        ({"download_config": datasets.DownloadConfig(local_files_only=True)}, {"local_files_only": True}),
        ({"download_config": datasets.DownloadConfig(force_download=True)}, {"force_download": True}),
    ],
)
def test_what_is_said_of_the_download_reaches_the_hub(load, hub_client, syncpr_root, options, asked):
    plain_folders(syncpr_root, hub_client.snapshot)
    load("SynCPR", **options)
    assert hub_client.calls[0] | asked == hub_client.calls[0]


def test_streaming_from_the_hub(load, hub_client, syncpr_root):
    one_zip_of_everything(syncpr_root, hub_client.snapshot)
    stream = load("SynCPR", split="train", streaming=True)
    assert next(iter(stream))["target_image"].getpixel((0, 0)) == (100, 0, 0)


def test_an_incomplete_copy_from_the_hub_is_warned_of(load, hub_client, syncpr_root, monkeypatch, caplog):
    """However small: it calls itself SynCPR."""
    plain_folders(syncpr_root, hub_client.snapshot)
    monkeypatch.setattr(syncpr, "PUBLISHED", {"records": 1_000, "groups": 3})
    load("SynCPR")
    assert "6 records (published: 1,000)" in caplog.text


def test_offline_it_says_what_to_do(load, monkeypatch):
    def snapshot_download(repo_id, **options):
        raise LocalEntryNotFoundError("outgoing traffic has been disabled")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ConnectionError) as error:
        load("SynCPR")
    for part in (
        "outgoing traffic",
        "hf download a1557811266/SynCPR --repo-type dataset",
        "data_dir=",
        "HF_HUB_OFFLINE",
    ):
        assert part in str(error.value)


def test_a_repository_without_annotations_is_an_error_that_tells_what_it_holds(load, hub_client):
    (hub_client.snapshot / "README.md").write_text("soon")
    with pytest.raises(DataFormatError, match=r"expected SynCPR.json in the repository.*found README.md"):
        load("SynCPR")


def test_itcpr_of_the_hub_lacks_its_licensed_images_and_says_so(load, hub_client, itcpr_root):
    for name in ("query.json", "gallery.json"):
        shutil.copy(itcpr_root / name, hub_client.snapshot)
    with pytest.raises(DataFormatError, match=r"you must obtain from their authors.*pass that folder as data_dir="):
        load("ITCPR", "query")
    assert hub_client.calls[0]["repo_id"] == "a1557811266/ITCPR"


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("pack", [annotations_beside_a_zip, images_without_their_first_folder])
def test_images_are_not_taken_from_another_part_of_the_data(load, hub_client, syncpr_root, pack, number):
    """Only test2 is there; it has files of the same names as test1, in folders of the same names."""
    file = syncpr_root / "SynCPR.json"
    file.write_text(file.read_text().replace(f"test2/sub_img/img_left/{number}", f"test1/sub_img/img_left/{number}"))
    pack(syncpr_root, hub_client.snapshot)
    with pytest.raises(DataFormatError, match=r"image file that is missing"):
        load("SynCPR")
