import io
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from fafa.dataset_builders import archives, syncpr
from fafa.dataset_builders.archives import JoinedFiles, unpack_archives
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


def test_unpacking_goes_on_where_it_stopped(tmp_path, syncpr_root, monkeypatch):
    (tmp_path / "in").mkdir()
    one_zip_of_everything(syncpr_root, tmp_path / "in")
    copy, written = shutil.copyfileobj, []

    def copy_five_files(source, target, length):
        written.append(target.name)
        copy(source, target, length) if len(written) < 6 else target.write(b"half")
        if len(written) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfileobj", copy_five_files)
    with pytest.raises(KeyboardInterrupt):
        unpack_archives(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out/SynCPR").exists()

    monkeypatch.setattr(
        shutil, "copyfileobj", lambda source, target, length: (written.append(target.name), copy(source, target))
    )
    unpack_archives(tmp_path / "in", tmp_path / "out")
    assert len(written) == 6 + 13 - 5 and written[5] == written[6]
    for file in syncpr_root.rglob("*.png"):
        assert (tmp_path / "out/SynCPR" / file.relative_to(tmp_path)).read_bytes() == file.read_bytes()

    unpack_archives(tmp_path / "in", tmp_path / "out")
    assert len(written) == 14


@pytest.mark.parametrize("name", ["../evil.png", "/tmp/evil.png", "a/../../evil.png", "..\\evil.png", "C:/evil.png"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_member_that_leads_out_of_the_folder_is_refused(tmp_path, name, kind):
    (tmp_path / "in").mkdir()
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "in/a.zip", "w") as archive:
            archive.writestr(name, b"evil")
    else:
        with tarfile.open(tmp_path / "in/a.tar", "w") as archive:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(DataFormatError, match="outside of"):
        unpack_archives(tmp_path / "in", tmp_path / "out")
    assert not list(tmp_path.rglob("evil.png"))


def test_links_in_archives_are_not_followed_but_reported(tmp_path, caplog):
    """A link to a folder outside, and then a file through it, would write anywhere."""
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in/a.tar", "w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "outside")
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("link/file.png"), io.BytesIO())
    unpack_archives(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out/a/link/file.png").is_file() and not (tmp_path / "outside").exists()
    assert "1 links and special files were not unpacked" in caplog.text


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a.zip": b"PK, then nothing"}, "a.zip: cannot be unpacked"),
        ({"a.tar.gz": b"not an archive"}, "a.tar.gz: cannot be unpacked"),
        ({"a.zip.001": b"", "a.zip.003": b""}, "a.zip.003: part 2 before it is missing"),
        ({"a.tar.gz.part-ab": b""}, "part-ab: part 1 before it is missing"),
        ({"a.z02": b"", "a.zip": b""}, "a.z02: part 1 before it is missing"),
        ({"a.z01": b"", "a.z02": b""}, "a.z02: the last part, a.zip, is missing"),
        ({"a.zip": b"", "a.tar": b""}, "would be unpacked to the same folder"),
        ({"a.7z": b""}, "a.7z: this kind of archive is not supported"),
    ],
)
def test_archives_that_cannot_be_unpacked_are_named(tmp_path, files, expected):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataFormatError, match=expected) as error:
        unpack_archives(tmp_path, tmp_path / "out")
    assert "Remedy:" in str(error.value)


def test_a_truncated_tar_is_an_error(tmp_path, syncpr_root):
    (tmp_path / "in").mkdir()
    content = tar_bytes(syncpr_root, below=tmp_path)
    (tmp_path / "in/a.tar.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataFormatError, match="cannot be unpacked"):
        unpack_archives(tmp_path / "in", tmp_path / "out")


def test_names_that_are_no_archives_are_left_alone(tmp_path):
    for name in ("a.png", "zip", "a.zip.txt", "a.tar.json", "a.zipped", "query.json", "z01", "a.b.c"):
        (tmp_path / name).write_bytes(b"")
    assert archives.find_archives(tmp_path) == {}


def test_joined_files_read_like_one_file(tmp_path):
    content = bytes(range(200))
    parts = []
    for number, part in enumerate([content[:70], b"", content[70:71], content[71:]]):
        parts.append(tmp_path / str(number))
        parts[-1].write_bytes(part)
    with JoinedFiles(parts) as joined, io.BufferedReader(joined, 16) as stream:
        assert stream.read() == content
        for start in range(0, 200, 7):
            stream.seek(start)
            assert stream.read(9) == content[start : start + 9]
        assert stream.seek(-3, io.SEEK_END) == 197 and stream.read() == content[197:]
