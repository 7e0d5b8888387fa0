"""Files: whole or not at all, told from one another by contents, and checked."""

import errno
import fcntl
import os
import subprocess
import sys
import threading

import pytest

from fafa.files import (
    contents_of,
    faults_of,
    hash_file,
    locked,
    record_files,
    stamp_of,
    whole_file,
    whole_folder,
    write_whole,
)

MIB = 1 << 20


def test_a_file_that_was_not_finished_replaces_nothing(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("before")
    with pytest.raises(KeyboardInterrupt), whole_file(file) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]
    with whole_file(file) as part:
        part.write_text("after")
    assert file.read_text() == "after" and list(tmp_path.iterdir()) == [file]


def test_writers_of_one_file_at_the_same_time_do_not_touch_one_another_s_work(tmp_path):
    file = tmp_path / "result.png"
    (tmp_path / "result.png.part").write_text("of a run that was killed")
    first_writes, second_is_done = threading.Event(), threading.Event()

    def write_first():
        with whole_file(file) as part:
            part.write_text("first")
            first_writes.set()
            second_is_done.wait(10)

    first = threading.Thread(target=write_first)
    first.start()
    assert first_writes.wait(10)
    with whole_file(file) as part:
        part.write_text("second")
    assert file.read_text() == "second"
    second_is_done.set()
    first.join()
    assert file.read_text() == "first" and list(tmp_path.iterdir()) == [file]


def test_where_files_cannot_be_locked_nothing_is_left_beside_them(tmp_path, monkeypatch):
    """As on some network drives; of a million pictures each would keep an empty file beside it."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    for text in ("first", "second"):
        write_whole(tmp_path / "new" / "a.txt", text)
        assert {file.name: file.read_text() for file in (tmp_path / "new").iterdir()} == {"a.txt": text}


def test_a_lock_is_held_by_one_and_free_at_the_end(tmp_path):
    lock = tmp_path / ".lock"
    with locked(lock, "in use"), pytest.raises(BlockingIOError, match="in use"), locked(lock, "in use"):
        pass
    with locked(lock, "in use"):
        pass


def test_a_link_that_a_killed_run_left_is_not_written_through(tmp_path):
    source = tmp_path / "a user's photograph"
    source.write_text("precious")
    for link in ("symlink_to", "hardlink_to"):
        getattr(tmp_path / "copy.jpg.part", link)(source)
        with whole_file(tmp_path / "copy.jpg") as part:
            part.write_text("new")
        assert source.read_text() == "precious" and (tmp_path / "copy.jpg").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 2


KILLED = """
import sys, time
from fafa.files import whole_folder
with whole_folder(sys.argv[1], last="config.json") as folder:
    (folder / "weights").write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_is_whole_or_not_there_and_a_killed_run_s_part_goes_with_the_next(is_there, tmp_path):
    """Beside a folder that is absent, within one that is empty, as mount points are, which cannot be replaced."""
    folder = tmp_path / "above" / "model"
    if is_there:
        folder.mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", KILLED, folder], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        with pytest.raises(FileExistsError, match="is being written by another process"):
            whole_folder(folder, last="config.json").__enter__()
        process.kill()
    with pytest.raises(KeyboardInterrupt), whole_folder(folder, last="config.json") as part:
        assert [path.name for path in part.iterdir()] == [".lock"]
        (part / "config.json").write_text("half")
        raise KeyboardInterrupt
    assert list((tmp_path / "above").iterdir()) == ([folder] if is_there else [])
    with whole_folder(folder, last="config.json") as part:
        (part / "config.json").write_text("{}")
        (part / "sub").mkdir()
        (part / "sub" / "weights").write_text("all")
        assert not (folder / "config.json").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "sub"]
    assert list((tmp_path / "above").iterdir()) == [folder]
    with pytest.raises(FileExistsError, match="name a folder that is absent or empty"):
        whole_folder(folder, last="config.json").__enter__()


def test_a_folder_that_somebody_else_filled_meanwhile_is_left_as_it_is(tmp_path):
    folder = tmp_path / "model"
    with pytest.raises(FileExistsError), whole_folder(folder, last="config.json") as part:
        (part / "config.json").write_text("{}")
        folder.mkdir()
        (folder / "precious").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in folder.iterdir()] == ["precious"]


def test_a_full_disk_is_told_with_the_file_and_the_remedy(tmp_path):
    with (
        pytest.raises(OSError, match=r"the disk is full \(.* MiB free\).*Make room.*a\.json"),
        whole_file(tmp_path / "a.json"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("size", [0, 10, MIB, MIB + 1, 3 * MIB])
def test_contents_are_told_by_size_first_and_last_bytes(tmp_path, size):
    file, other = tmp_path / "a.jpg", tmp_path / "b.jpg"
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    file.write_bytes(data)
    other.write_bytes(data)
    assert contents_of(file) == contents_of(other)
    for changed in (data + b"x", data[:-1] + b"x" if size else b"x", b"x" + data[1:] if size else b"xy"):
        other.write_bytes(changed)
        assert contents_of(file) != contents_of(other)


@pytest.mark.parametrize("start", [b"BM", b"II*\0", b"MM\0*", b"P6\n"])
def test_one_pixel_anywhere_in_a_large_uncompressed_picture_counts(tmp_path, start):
    """Compressed anew, a picture changes everywhere; these are changed in place."""
    file = tmp_path / "picture"
    data = bytearray(start + bytes(4 * MIB))
    file.write_bytes(data)
    before = contents_of(file)
    data[MIB + 400_000] = 1  # in none of the parts that are read of a compressed one
    file.write_bytes(data)
    assert contents_of(file) != before


def test_a_stamp_tells_a_file_whose_time_and_size_were_kept(tmp_path):
    file, other = tmp_path / "a.jpg", tmp_path / "b.jpg"
    file.write_bytes(b"one")
    other.write_bytes(b"two")
    before = stamp_of(file.stat())
    assert stamp_of(file.stat()) == before
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    other.replace(file)
    assert stamp_of(file.stat())[:2] == before[:2] and stamp_of(file.stat()) != before


def test_missing_short_and_damaged_files_are_named(tmp_path):
    for name in "abcd":
        (tmp_path / name).write_bytes(name.encode() * 100)
    recorded = record_files(tmp_path, "abcd")
    assert list(faults_of(tmp_path, recorded)) == [] and recorded["a"]["xxh3_128"] == hash_file(tmp_path / "a")
    (tmp_path / "a").unlink()
    (tmp_path / "b").write_bytes(b"b")
    (tmp_path / "c").write_bytes(b"c" * 99 + b"d")
    faults = list(faults_of(tmp_path, recorded))
    assert faults[:2] == ["a is missing", "b has 1 bytes instead of 100"]
    assert faults[2].startswith("c is damaged") and len(faults) == 3
    assert len(list(faults_of(tmp_path, recorded, contents=False))) == 2


def test_a_pipe_that_has_taken_a_files_name_is_not_opened(tmp_path):
    """To open it might never end: one result's file kept every search of a server waiting."""
    os.mkfifo(tmp_path / "photo.jpg")
    with pytest.raises(OSError, match="it is no regular file"):
        contents_of(tmp_path / "photo.jpg")
