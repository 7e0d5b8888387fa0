"""What is known of a gallery's images besides features, in SQLite: where they lie, boxes, times, cameras, free tags."""

import errno
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from os import fsdecode, fsencode
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..image_reading_fafa import photo_facts

TEXT, NUMBER = "text", "number"
# The fields of an entry that filters know, besides its tags.
FIELDS = {
    "path": TEXT,
    "time": NUMBER,
    "camera": TEXT,
    "taken": TEXT,
    "left": NUMBER,
    "top": NUMBER,
    "right": NUMBER,
    "bottom": NUMBER,
}
_COLUMNS = ["path", "contents", "stamp", "fresh", "left", "top", "right", "bottom", "time", "camera", "taken"]
_ROWS_AT_ONCE = 2_000
_TABLES = """
CREATE TABLE entries (row INTEGER PRIMARY KEY, path TEXT, contents TEXT, stamp TEXT, fresh INTEGER, left REAL, top REAL,
    right REAL, bottom REAL, time REAL, camera TEXT, taken TEXT);
CREATE TABLE tags (name TEXT, value, row INTEGER, PRIMARY KEY (name, value, row)) WITHOUT ROWID;
"""
_INDEXES = """
CREATE INDEX entries_by_path ON entries (path);
CREATE INDEX entries_by_contents ON entries (contents);
CREATE INDEX tags_by_row ON tags (row);
"""
# Paths hold any bytes, so they come as such.
_INSERT = f"INSERT INTO entries VALUES (?, CAST(? AS TEXT){', ?' * (len(_COLUMNS) - 1)})"


@dataclass(frozen=True)
class Entry:
    """What is known of one image.

    Args:
        path: of its file, relative to the folder of the gallery's images, or absolute; None without one.
        contents: equal for equal images, see `files.contents_of`.
        stamp: see `files.stamp_of`; None where nothing is noted.
        is_fresh: whether the file had changed so shortly before that the stamp is not to be relied on.
        box: left, top, right, bottom of the person in the image, in pixels; None for the whole image.
        time: seconds from the beginning of the video that it was taken from.
        camera: what it was taken with, from EXIF, or by which camera of several.
        taken: when, as ISO 8601 text without a time zone, "2024-05-01T10:30:00"; from EXIF.
        tags: anything else: name, which is a Python name -> text, number, or True or False.

    Raises:
        ValueError, TypeError: a value of another kind, or a tag of the name of a field.
    """

    path: str | None = None
    contents: str | None = None
    stamp: tuple[int, ...] | None = None
    is_fresh: bool = False
    box: tuple[float, float, float, float] | None = None
    time: float | None = None
    camera: str | None = None
    taken: str | None = None
    tags: Mapping[str, str | float | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, kinds in (("camera", str), ("taken", str), ("time", (int, float))):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kinds):
                raise TypeError(f"{name} is {value!r:.60}, expected {'a number' if name == 'time' else 'text'} or None")
        if self.box is not None and not (
            len(self.box) == 4 and all(isinstance(side, (int, float)) for side in self.box)
        ):
            raise ValueError(f"box is {self.box!r:.60}, expected four numbers: left, top, right, bottom")
        for name, value in self.tags.items():
            if (
                not (isinstance(name, str) and name.isidentifier())
                or name in FIELDS
                or name in ("contents", "stamp", "row")
            ):
                raise ValueError(
                    f"a tag is called {name!r:.60}, expected a Python name, and none of {', '.join(FIELDS)}"
                )
            if not isinstance(value, (str, int, float)):
                raise TypeError(f"the tag {name} is {value!r:.60}, expected text, a number, True or False")

    def description(self) -> dict[str, Any]:
        """As `identity.describe_image` gives it."""
        stamp = {} if self.stamp is None else {"stamp": list(self.stamp)}
        return {"path": self.path, "contents": self.contents, **stamp, **({"fresh": True} if self.is_fresh else {})}


def entry_of(description: Mapping[str, Any], **known: Any) -> Entry:
    """The entry of a file, see `identity.describe_image`, with what else is known of it."""
    stamp = None if description.get("stamp") is None else tuple(description["stamp"])
    return Entry(description.get("path"), description.get("contents"), stamp, bool(description.get("fresh")), **known)


def exif_of(path: Path) -> dict[str, str | None]:
    """Camera and date of a photograph, as far as EXIF tells them."""
    facts = photo_facts(path)
    return {"camera": facts.camera, "taken": facts.taken}


class Metadata:
    """The entries of one segment, by its rows from 0; threads may share it."""

    def __init__(self, connection: sqlite3.Connection, name: str):
        connection.text_factory = fsdecode
        self._connection, self._name, self._lock = connection, name, threading.Lock()

    @classmethod
    def open(cls, file: Path) -> "Metadata":
        """Opens what `write_entries` wrote.

        Raises:
            FileNotFoundError: there is no such file, perhaps since a moment. OSError: it cannot be read.
            ValueError: it is none of these.
        """
        if not file.exists():
            raise FileNotFoundError(errno.ENOENT, "it is not there", str(file))
        place = f"file:{quote(fsencode(file.absolute()))}?mode=ro&immutable=1"
        try:
            connection = sqlite3.connect(place, uri=True, check_same_thread=False)
        except sqlite3.OperationalError as error:
            code = errno.EIO if file.exists() else errno.ENOENT
            raise OSError(code, f"it cannot be opened ({error})", str(file)) from error
        metadata = cls(connection, str(file))
        metadata.ask("PRAGMA trusted_schema = OFF")
        metadata.ask("SELECT row FROM entries LIMIT 0")  # so that the file is open, though its name may go
        return metadata

    @classmethod
    def in_memory(cls, entries: Iterable[Entry]) -> "Metadata":
        """Holds entries in memory."""
        connection = sqlite3.connect(":memory:", check_same_thread=False)
        _fill(connection, entries)
        return cls(connection, "the gallery in memory")

    def ask(self, question: str, parameters: Sequence[Any] = ()) -> list[tuple]:
        """The answer to SQL.

        Raises:
            ValueError: the database is damaged.
        """
        try:
            with self._lock:
                return self._connection.execute(question, parameters).fetchall()
        except sqlite3.DatabaseError as error:
            if "too many" in str(error) or "too large" in str(error):
                raise ValueError("the filter has too many terms; ask for several values by one: in (…, …)") from error
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> ValueError:
        return ValueError(f"{self._name} is damaged ({error}); index the images again, into another folder")

    def read(self, rows: Sequence[int]) -> list[Entry]:
        """The entries of rows, in their order."""
        found: dict[int, tuple] = {}
        tags: dict[int, dict[str, Any]] = {}
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            chosen = [json.dumps([int(row) for row in rows[start : start + _ROWS_AT_ONCE]])]
            wanted = "WHERE row IN (SELECT value FROM json_each(?))"
            found |= {row: rest for row, *rest in self.ask(f"SELECT * FROM entries {wanted}", chosen)}
            for name, value, row in self.ask(f"SELECT name, value, row FROM tags {wanted}", chosen):
                tags.setdefault(row, {})[name] = value
        try:
            return [_entry(found[int(row)], tags.get(int(row), {})) for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(error) from error

    def read_all(self, rows: np.ndarray) -> Iterator[Entry]:
        """The entries of many rows, a few at a time."""
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            yield from self.read(rows[start : start + _ROWS_AT_ONCE])

    def paths(self) -> list[str | None]:
        """Of all rows, in order."""
        return [path for (path,) in self.ask("SELECT path FROM entries ORDER BY row")]

    def whereabouts(self) -> Iterator[tuple[int, Entry]]:
        """The row, and the path, contents, stamp and time of each entry, in order."""
        for row, path, contents, stamp, fresh, time in self.ask(
            "SELECT row, path, contents, stamp, fresh, time FROM entries ORDER BY row"
        ):
            stamp = None if stamp is None else tuple(json.loads(stamp))
            yield row, Entry(path, contents, stamp, bool(fresh), time=time)

    def rows_of(self, field: str, value: str) -> list[int]:
        """The rows with this `path` or these `contents`."""
        return [
            row for (row,) in self.ask(f"SELECT row FROM entries WHERE {field} = CAST(? AS TEXT)", [fsencode(value)])
        ]

    def values_of(self, field: str, most: int) -> tuple[list[Any], Any, Any]:
        """The values that a field or tag has, all if they are at most so many, or else none; the least; the greatest.

        Those of deleted images are among them.
        """
        column, table, chosen = (
            (f'"{field}"', "entries", []) if field in FIELDS else ("value", "tags WHERE name = ?", [field])
        )
        known = f"FROM (SELECT {column} AS value FROM {table}) WHERE value IS NOT NULL"
        found = [value for (value,) in self.ask(f"SELECT DISTINCT value {known} LIMIT {most + 1}", chosen)]
        [(least, greatest)] = self.ask(f"SELECT min(value), max(value) {known}", chosen)
        return found if len(found) <= most else [], least, greatest

    def kinds(self) -> dict[str, list[str]]:
        """Which kinds of values each tag has: name -> "text", "number"."""
        found: dict[str, list[str]] = {}
        question = "SELECT DISTINCT name, CASE typeof(value) WHEN 'text' THEN 'text' ELSE 'number' END FROM tags"
        for name, kind in sorted(self.ask(question)):
            found.setdefault(name, []).append(kind)
        return found


def write_entries(file: Path, entries: Iterable[Entry]) -> dict[str, list[str]]:
    """Writes entries to a new file, in the order of rows; returns the kinds of their tags.

    Raises:
        OSError: it cannot be written.
    """
    with _writing(file), closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")  # the file counts once it is flushed whole
        _fill(connection, entries)
    return Metadata.open(file).kinds()


def change_entries(file: Path, changed: Mapping[int, Entry]) -> None:
    """Replaces entries in a file that is nobody's yet, such as a copy.

    Raises:
        OSError: it cannot be written.
    """
    with _writing(file), closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        for table in ("entries", "tags"):
            connection.executemany(f"DELETE FROM {table} WHERE row = ?", [(row,) for row in changed])
        _insert(connection, changed.items())
        connection.commit()


def _fill(connection: sqlite3.Connection, entries: Iterable[Entry]) -> None:
    connection.executescript(_TABLES)
    _insert(connection, enumerate(entries))
    connection.executescript(_INDEXES)
    connection.commit()


def _insert(connection: sqlite3.Connection, entries: Iterable[tuple[int, Entry]]) -> None:
    entries = iter(entries)
    while some := list(islice(entries, _ROWS_AT_ONCE)):
        connection.executemany(_INSERT, (_columns(row, entry) for row, entry in some))
        tags = ((name, value, row) for row, entry in some for name, value in entry.tags.items())
        connection.executemany("INSERT INTO tags VALUES (?, ?, ?)", tags)


def _columns(row: int, entry: Entry) -> tuple[Any, ...]:
    path = None if entry.path is None else fsencode(entry.path)
    stamp = None if entry.stamp is None else json.dumps(entry.stamp)
    box = entry.box or (None,) * 4
    return row, path, entry.contents, stamp, entry.is_fresh, *box, entry.time, entry.camera, entry.taken


def _entry(columns: Sequence[Any], tags: Mapping[str, Any]) -> Entry:
    path, contents, stamp, fresh, *box, time, camera, taken = columns
    for value in (path, contents):
        if not isinstance(value, (str, type(None))):
            raise ValueError(f"{value!r:.60} is no text")
    stamp = None if stamp is None else tuple(map(int, json.loads(stamp)))
    return Entry(path, contents, stamp, bool(fresh), None if box[0] is None else tuple(box), time, camera, taken, tags)


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    """Turns SQLite's errors into those of the disk."""
    try:
        yield
    except sqlite3.Error as error:
        number = errno.ENOSPC if "full" in str(error) else errno.EIO
        raise OSError(number, f"cannot be written ({error})", str(file)) from error
