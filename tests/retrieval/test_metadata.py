"""What is known of images comes back as it was noted; EXIF that is damaged tells nothing and harms nothing."""

import os
import sqlite3

import pytest
from PIL import Image

from fafa.retrieval.metadata import Entry, Metadata, change_entries, exif_of, write_entries

ENTRIES = [
    Entry(
        "a.png", "10-abc", (1, 2, 3, 4), True, (0, 1, 2.5, 3), 1.5, "gate 3", "2024-05-01", {"a": 1, "b": "x", "c": 0.5}
    ),
    Entry(),
    Entry(os.fsdecode(b"caf\xe9/\n'\".png"), tags={"größe": "L"}),
]


@pytest.mark.parametrize("is_file", [True, False])
def test_entries_come_back_as_they_were(tmp_path, is_file):
    if is_file:
        assert write_entries(tmp_path / "e.sqlite", ENTRIES) == {
            "a": ["number"],
            "b": ["text"],
            "c": ["number"],
            "größe": ["text"],
        }
    metadata = Metadata.open(tmp_path / "e.sqlite") if is_file else Metadata.in_memory(ENTRIES)
    assert metadata.read([2, 0, 1, 0]) == [ENTRIES[2], ENTRIES[0], ENTRIES[1], ENTRIES[0]]
    assert metadata.paths() == [entry.path for entry in ENTRIES]
    assert metadata.rows_of("path", ENTRIES[2].path) == [2] and metadata.rows_of("contents", "10-abc") == [0]
    assert metadata.rows_of("path", "nowhere") == []
    if is_file:
        (tmp_path / "e.sqlite").unlink()  # it is open
        assert metadata.read([1]) == [ENTRIES[1]]


def test_a_file_that_goes_while_it_is_opened_is_told_as_gone(tmp_path, monkeypatch):
    """SQLite's own error ended a reader that a writer had overtaken: if a file is gone, readers read the list again."""
    write_entries(tmp_path / "e.sqlite", ENTRIES)
    connect = sqlite3.connect

    def connect_late(*place, **options):
        (tmp_path / "e.sqlite").unlink()
        return connect(*place, **options)

    monkeypatch.setattr(sqlite3, "connect", connect_late)
    with pytest.raises(FileNotFoundError, match="it cannot be opened"):
        Metadata.open(tmp_path / "e.sqlite")


def test_entries_are_changed(tmp_path):
    write_entries(tmp_path / "e.sqlite", ENTRIES)
    change_entries(tmp_path / "e.sqlite", {0: Entry("moved.png", tags={"b": "y"})})
    metadata = Metadata.open(tmp_path / "e.sqlite")
    assert metadata.read([0, 2]) == [Entry("moved.png", tags={"b": "y"}), ENTRIES[2]]
    assert metadata.kinds() == {"b": ["text"], "größe": ["text"]}


def test_a_database_that_is_none_is_told(tmp_path):
    with pytest.raises(FileNotFoundError):
        Metadata.open(tmp_path / "e.sqlite")
    (tmp_path / "e.sqlite").write_bytes(b"no database " * 99)
    with pytest.raises(ValueError, match=r"e\.sqlite is damaged"):
        Metadata.open(tmp_path / "e.sqlite")


WRONG = {
    "camera": ({"camera": 3}, TypeError, "camera is 3, expected text or None"),
    "time": ({"time": "now"}, TypeError, "time is 'now', expected a number"),
    "box": ({"box": (1, 2, 3)}, ValueError, "expected four numbers"),
    "a tag's name": ({"tags": {"two words": 1}}, ValueError, "a tag is called 'two words'"),
    "a tag called as a field": ({"tags": {"camera": "x"}}, ValueError, "a tag is called 'camera'"),
    "a tag's value": ({"tags": {"a": ["x"]}}, TypeError, "the tag a is"),
}


@pytest.mark.parametrize(("given", "kind", "message"), WRONG.values(), ids=WRONG)
def test_other_values_are_refused(given, kind, message):
    with pytest.raises(kind, match=message):
        Entry(**given)


def photo(path, **tags):
    exif = Image.Exif()
    for tag, value in tags.pop("plain", {}).items():
        exif[tag] = value
    for tag, value in tags.pop("of_camera", {}).items():
        exif.get_ifd(0x8769)[tag] = value
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    return path


def test_camera_and_date_come_from_exif(tmp_path):
    plain = {0x0110: "X100\0 ", 0x0132: "2020:01:02 03:04:05"}
    assert exif_of(photo(tmp_path / "a.jpg", plain=plain)) == {"camera": "X100", "taken": "2020-01-02T03:04:05"}
    assert exif_of(tmp_path / "none.jpg") == {"camera": None, "taken": None}
