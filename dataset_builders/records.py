"""Reads annotation files, JSON lists of records, in pieces, and checks them record by record."""

import json
import logging
import re
import reprlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from datasets.exceptions import DatasetGenerationError

from ..captions_fafa import has_word
from ..files import printable

logger = logging.getLogger(__name__)

_PIECE = 1 << 22  # characters read at a time
_LONGEST_RECORD = 1 << 20  # characters; real records have a few hundred
_LONGEST_PATH, _LONGEST_NAME = 3_000, 255  # bytes; file systems take 4,095, with the folder before it, and 255
_BLANKS = re.compile(r"[ \t\n\r]*")
_FIRST_FEW = 5

# What can be wrong with a record, and what to do about it.
INACCESSIBLE = "names an image file that cannot be read now"
REMEDIES = {
    "is not a JSON object": 'write every record as {"field": value, ...}',
    "lacks a field": "add the field, or fetch the annotation file again",
    "has a field of the wrong type": "write the field as described",
    "has an empty text": "write the text, or take the record out",
    "has a caption without a word": "write what the caption shall say, or take the record out",
    "has a path that is not below the folder": "write paths relative to the folder, with forward slashes and no '..'",
    "has a path that is too long": f"name the file in at most {_LONGEST_NAME} bytes, its path in {_LONGEST_PATH:,}",
    "names an image file that is missing": "copy the file to its place, or take the record out",
    "names an image file in another case": "rename the file, or write its name as it is; upper and lower case count",
    "names an image file of 0 bytes": "copy or unpack the file again",
    INACCESSIBLE: "see to its permissions, or to the disk or network drive it lies on, and start again",
    "names an image of another split": "take it from the image folder of its own split, or move the record",
    "has an id out of range": "number people from 0 or from 1",
    "has an instance_id out of range": "number matching images from 0; -1 is for gallery images that match no query",
    "is a query without a match in the gallery": "add an image of that instance_id to it, or take the query out",
}


class DataFormatError(DatasetGenerationError, ValueError):
    """An archive, an annotation file or a record is not as documented.

    The message names the file, the record (counted from 0), what was expected, and the remedy. Being a
    `DatasetGenerationError`, it passes through `load_dataset` as it is.
    """


class BadRecord(Exception):
    """One record cannot be used. `problem` is a key of `REMEDIES`, `detail` says where in the record."""

    def __init__(self, problem: str, detail: str):
        super().__init__(problem, detail)
        self.problem, self.detail = problem, printable(detail)  # a path or text of the record may be in it


class Problems:
    """The bad records of one annotation file, to report in one error.

    Args:
        file: The annotation file.
        remedies: Remedies that replace those of `REMEDIES`.
    """

    def __init__(self, file: str, remedies: dict[str, str] | None = None):
        self.file = file
        self.remedies = REMEDIES | (remedies or {})
        self.found: dict[str, list[str]] = defaultdict(list)

    def add(self, number: int, bad: BadRecord) -> None:
        """Note that record `number` is bad."""
        self.found[bad.problem].append(f"record {number} ({bad.detail})")

    def raise_if_any(self, num_checked: int) -> None:
        """Raise one `DataFormatError` for all that was found among the first `num_checked` records."""
        if not self.found:
            return
        num_bad = sum(map(len, self.found.values()))
        lines = [f"{self.file}: {num_bad:,} of the {num_checked:,} records checked cannot be used (counted from 0)."]
        for problem, where in self.found.items():
            more = f"; and {len(where) - _FIRST_FEW:,} more" if len(where) > _FIRST_FEW else ""
            lines += [
                f"- {problem} ({len(where):,}): {'; '.join(where[:_FIRST_FEW])}{more}.",
                f"  Remedy: {self.remedies[problem]}.",
            ]
        raise DataFormatError("\n".join(lines))


class Repeats:
    """Finds records that repeat an earlier one in every field, by 64 bits of each."""

    def __init__(self):
        self._first: dict[int, int] = {}
        self.found: list[tuple[int, int]] = []  # the numbers of a record and of the earlier one

    def see(self, number: int, row: tuple) -> None:
        """Note the fields of record `number`."""
        earlier = self._first.setdefault(hash(row), number)
        if earlier != number:
            self.found.append((number, earlier))

    def report(self, file: str, num_published: int) -> None:
        """Refuse repeats. In a file with as many records as the published one, log them: that one stays as it is.

        Raises:
            DataFormatError: there are repeats in a file of another size.
        """
        if not self.found:
            return
        few = "; ".join(f"record {number} repeats record {earlier}" for number, earlier in self.found[:_FIRST_FEW])
        message = f"{file}: records repeat an earlier one ({len(self.found):,}): {few} (counted from 0)."
        if len(self._first) + len(self.found) != num_published:
            raise DataFormatError(f"{message} Remedy: take the repetitions out.")
        logger.warning("%s They are kept, as published.", message)


def check_records(
    records: Iterable[Any], read_row: Callable[[Any], tuple], problems: Problems, first: int = 0
) -> list[tuple]:
    """Turn records into rows.

    Args:
        records: Records number `first`, `first + 1`, and so on.
        read_row: Makes a row of a record, or raises `BadRecord`.
        problems: Gathers the bad records.
        first: Number of the first record.

    Raises:
        DataFormatError: some records are bad; the message counts all of them.
    """
    rows, number = [], first - 1
    for number, record in enumerate(records, first):
        try:
            require_object(record)
            rows.append(read_row(record))
        except BadRecord as bad:
            problems.add(number, bad)
    problems.raise_if_any(num_checked=number + 1)
    return rows


def read_records(file: str) -> Iterator[Any]:
    """Yield the elements of a JSON list one by one; memory holds a few megabytes of the file at a time.

    Args:
        file: Path of a UTF-8 file.

    Raises:
        DataFormatError: the file is not a JSON list, is empty, or ends early.
    """
    decode = json.JSONDecoder(object_pairs_hook=_object).raw_decode
    with Path(file).open(encoding="utf-8-sig") as stream:
        text = _read(stream, file)
        position = _skip_blanks(text, 0)
        if not text.startswith("[", position):
            raise DataFormatError(
                f"{file}: expected a JSON list of records, but it begins with {text[position:][:40]!r}. "
                "Remedy: write the records as [{...}, {...}], or fetch the file again."
            )
        position = _skip_blanks(text, position + 1)
        if text.startswith("]", position):
            raise DataFormatError(f"{file}: the list is empty. Remedy: write at least one record.")
        for number in count():
            if len(text) - position < _LONGEST_RECORD:  # so `text` always holds the whole next record
                text, position = text[position:] + _read(stream, file), 0
            position = _skip_blanks(text, position)
            try:
                record, position = decode(text, position)
            except (ValueError, RecursionError) as error:
                reason = str(error)
                if len(text) - position >= _LONGEST_RECORD and isinstance(error, json.JSONDecodeError):
                    reason += f"; or it has more than {_LONGEST_RECORD:,} characters"
                raise _broken(file, number, reason, text, position) from None
            yield record
            position = _skip_blanks(text, position)
            if text.startswith("]", position):
                break
            if not text.startswith(",", position):
                raise _broken(file, number, "expected , or ] after it", text, position)
            position += 1
        rest = text[position + 1 :] + _read(stream, file)
        if rest.strip():
            raise _broken(file, number, "expected nothing after the list", rest, 0)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{_short(twice)} is in it twice")
    return fields


def _read(stream, file: str) -> str:
    try:
        return stream.read(_PIECE)
    except UnicodeDecodeError as error:
        raise DataFormatError(f"{file}: is not UTF-8 text ({error}). Remedy: save it as UTF-8.") from None


def _skip_blanks(text: str, position: int) -> int:
    return _BLANKS.match(text, position).end()


def _broken(file: str, number: int, reason: str, text: str, position: int) -> DataFormatError:
    near = text[position:][:40]
    place = f"near {near!r}" if near else "where the file ends"
    return DataFormatError(
        f"{file}: broken JSON at record {number} (counted from 0), {place}: {reason}. "
        "Remedy: fetch the file again; it may have been cut off."
    )


def require_object(record: Any) -> None:
    """Refuse what is not a JSON object. Raises `BadRecord`."""
    if type(record) is not dict:
        raise BadRecord("is not a JSON object", f"it is {_kind(record)}")


def read_fields(record: dict, fields: dict[str, Callable[[dict, str], Any]]) -> list:
    """The values of the fields of a record, each read by its function. Raises `BadRecord`."""
    return [read(record, name) for name, read in fields.items()]


def text_field(record: dict, field: str) -> str:
    """The text of a field; not blank. Raises `BadRecord`."""
    value = field_of(record, field)
    if type(value) is not str:
        raise wrong_type(field, value, "a text")
    if not value or value.isspace():
        raise BadRecord("has an empty text", field)
    require_unicode(field, value)
    return value


def require_unicode(field: str, text: str) -> None:
    """Refuse text that no file can hold. Raises `BadRecord`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        problem = f"{field} holds half a surrogate pair, expected Unicode text"
        raise BadRecord("has a field of the wrong type", problem) from None


def caption_field(record: dict, field: str) -> str:
    """The caption of a field: a text with a word in it, once it is cleaned for a model. Raises `BadRecord`."""
    caption = text_field(record, field)
    if not has_word(caption):
        raise BadRecord("has a caption without a word", f"{field} is {_short(caption)}")
    return caption


def integer_field(record: dict, field: str) -> int:
    """The integer of a field; a text such as "12" is read as 12. Raises `BadRecord`."""
    value = field_of(record, field)
    if type(value) is str and re.fullmatch(r"-?[0-9]{1,19}", value):
        value = int(value)
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise wrong_type(field, value, "a 64-bit integer")
    return value


def path_field(record: dict, field: str) -> str:
    """The path of a field: relative, with forward slashes, never leading upwards, of a length that files can have.

    Raises `BadRecord`.
    """
    path = text_field(record, field)
    leads_out = path[0] == "/" or path[1:2] == ":" or "\\" in path or "\0" in path
    if leads_out or (".." in path and ".." in path.split("/")):
        raise BadRecord("has a path that is not below the folder", f"{field}: {_short(path)}")
    data = path.encode()
    if len(data) > _LONGEST_PATH or max(map(len, data.split(b"/"))) > _LONGEST_NAME:
        raise BadRecord("has a path that is too long", f"{field}: {_short(path)}")
    return path


def field_of(record: dict, field: str) -> Any:
    """The value of a field, of any type. Raises `BadRecord`."""
    try:
        return record[field]
    except KeyError:
        raise BadRecord("lacks a field", f"no {field}") from None


def wrong_type(field: str, value: Any, expected: str) -> BadRecord:
    """The error for a field whose value is of another kind than expected."""
    return BadRecord("has a field of the wrong type", f"{field} is {_kind(value)}, expected {expected}")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return f"{names.get(type(value), 'a number')}: {_short(value)}"


def _short(value: Any) -> str:
    shown = reprlib.repr(value)  # of whatever depth and size
    return shown if len(shown) <= 40 else shown[:37] + "..."
