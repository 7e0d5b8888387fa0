"""Finds archives and their parts by name, and decides which folder each is unpacked to."""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from ..layout import list_files
from ..records import DataFormatError

# x.zip, x.tar.gz, ...; in parts: x.zip.001, x.tar.part-aa, x.tgz_00, and x.z01, x.z02, ... with x.zip the last
_ARCHIVE = re.compile(
    r"(?P<name>.*)\.(?P<kind>zip|tgz|tbz2?|txz|tar\.gz|tar\.bz2|tar\.xz|tar)"
    r"(?:[._-]?(?:part)?[._-]?(?P<part>\d+|[a-z]{2}))?",
    re.IGNORECASE | re.DOTALL,
)
SPANNED_ZIP = re.compile(r"(?P<name>.*)\.z(?P<part>\d{2,})", re.IGNORECASE | re.DOTALL)
_MAYBE_ARCHIVE = re.compile(r"\.(zip|z\d|t|7z|rar)", re.IGNORECASE)  # to sort out images quickly
_UNSUPPORTED = re.compile(r".+\.(7z(\.\d+)?|rar|tar\.zst|tzst)", re.IGNORECASE | re.DOTALL)

INCOMPLETE = ".incomplete"  # the end of the name of an archive's folder until it is complete
ARCHIVES_WITHIN = "archives-within.unpacked"  # the folder for what comes out of archives in an archive
FETCH_AGAIN = "fetch the repository again, with download_mode='force_redownload'"
BY_HAND = "if you trust it, unpack it by hand and pass data_dir="


def find_archives(folder: str | Path) -> dict[str, list[Path]]:
    """Archives below a folder: where to unpack each, relative to the folder -> its parts in order.

    Raises:
        DataFormatError: as `unpack_archives`.
    """
    archives: dict[str, list[tuple[str, int | None, Path]]] = defaultdict(list)
    for file in list_files([folder], wanted=_MAYBE_ARCHIVE.search):
        if file.name.startswith("._") or file.relative_to(folder).parts[0] == ARCHIVES_WITHIN:
            continue  # macOS's notes about a file, under its name; or an earlier attempt's work
        if match := SPANNED_ZIP.fullmatch(file.name):
            kind = "spanned zip"
        elif match := _ARCHIVE.fullmatch(file.name):
            kind = match["kind"].lower()
        elif _UNSUPPORTED.fullmatch(file.name):
            raise DataFormatError(f"{file}: this kind of archive is not supported. Remedy: {BY_HAND}.")
        else:
            continue
        name = match["name"]
        if not name.strip(".") or name.endswith(INCOMPLETE) or len(os.fsencode(name)) + len(INCOMPLETE) > 255:
            raise DataFormatError(
                f"{file}: no folder can be named after this archive. Remedy: rename it, or {BY_HAND}."
            )
        target = file.relative_to(folder).with_name(name).as_posix()
        archives[target].append((kind, _part_number(match["part"]), file))
    return {target: _in_order(parts) for target, parts in archives.items()}


def _part_number(part: str | None) -> int | None:
    if part is None or part.isdigit():
        return part and int(part)
    first, second = (ord(letter) - ord("a") for letter in part.lower())  # split's aa, ab, ..., ba, ...
    return 26 * first + second + 1


def _in_order(parts: list[tuple[str, int | None, Path]]) -> list[Path]:
    """The parts by number. A file without a number is the whole archive, or the last part (.zip after .z01, .z02)."""
    whole = [file for _, number, file in parts if number is None]
    numbered = sorted((number, file) for _, number, file in parts if number is not None)
    files = [file for _, file in numbered] + whole
    kinds = {kind for kind, _, _ in parts}
    is_spanned = "spanned zip" in kinds
    if len(whole) > 1 or len(kinds - {"spanned zip"}) > 1 or (whole and numbered and not is_spanned):
        raise same_folder(files[0], files[-1])
    if is_spanned and not whole:
        raise DataFormatError(
            f"{files[-1]}: the last part, {files[-1].with_suffix('.zip').name}, is missing. Remedy: {FETCH_AGAIN}."
        )
    for (number, file), (next_number, next_file) in pairwise(numbered):
        if number == next_number:
            raise DataFormatError(f"{file} and {next_file}: both are part {number}. Remedy: remove the wrong one.")
    first = min(1, numbered[0][0]) if numbered else 0
    for expected, (number, file) in enumerate(numbered, start=first):
        if number != expected:
            raise DataFormatError(f"{file}: part {expected} before it is missing. Remedy: {FETCH_AGAIN}.")
    return files


def same_folder(one: Path, other: Path) -> DataFormatError:
    """The error for two archives that would go to one folder."""
    return DataFormatError(
        f"{one} and {other}: would be unpacked to the same folder. Remedy: unpack the right one by hand and pass "
        "data_dir=."
    )


def is_zip(parts: Sequence[Path]) -> bool:
    """Whether an archive is a zip, by its name; otherwise it is a tar."""
    return _ARCHIVE.fullmatch(parts[-1].name)["kind"].lower() == "zip"
