"""Unpacking archives that others made: zip and tar, in parts, and within one another.

What comes out is whole or an error. Nothing is written outside of the folder, no link is followed, and an archive that
is damaged, cut off or hostile is refused by its name and its member's, as far as can be before anything is written.
"""

import bz2
import errno
import io
import logging
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import BinaryIO

from tqdm.auto import tqdm

from ..files import DISK_FULL
from .layout import list_files
from .records import DataFormatError

logger = logging.getLogger(__name__)

# x.zip, x.tar.gz, ...; in parts: x.zip.001, x.tar.part-aa, x.tgz_00, and x.z01, x.z02, ... with x.zip the last
_ARCHIVE = re.compile(
    r"(?P<name>.*)\.(?P<kind>zip|tgz|tbz2?|txz|tar\.gz|tar\.bz2|tar\.xz|tar)"
    r"(?:[._-]?(?:part)?[._-]?(?P<part>\d+|[a-z]{2}))?",
    re.IGNORECASE | re.DOTALL,
)
_SPANNED_ZIP = re.compile(r"(?P<name>.*)\.z(?P<part>\d{2,})", re.IGNORECASE | re.DOTALL)
_MAYBE_ARCHIVE = re.compile(r"\.(zip|z\d|t|7z|rar)", re.IGNORECASE)  # to sort out images quickly
_UNSUPPORTED = re.compile(r".+\.(7z(\.\d+)?|rar|tar\.zst|tzst)", re.IGNORECASE | re.DOTALL)
_RESERVED_ON_WINDOWS = re.compile(r'(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*[<>:"|?*\x01-\x1f].*|.*[. ]', re.IGNORECASE)
_ON_WINDOWS = os.name == "nt"

_INCOMPLETE = ".incomplete"
_ARCHIVES_WITHIN = "archives-within.unpacked"  # the folder of what comes out of archives in an archive
_FETCH_AGAIN = "fetch the repository again, with download_mode='force_redownload'"
_BY_HAND = "if you trust it, unpack it by hand and pass data_dir="

_LONGEST_ZIP_END = (1 << 16) + 100  # bytes of a zip's end records and comment
_LONGEST_NAME = 255  # bytes: of ext4, XFS and APFS; NTFS counts 255 units
_LONGEST_PATH = 4_000  # bytes; Linux takes 4,095
_MOST_FOLDERS = 100  # in one path; os.walk calls itself for each
_LARGEST_HEADER = 1 << 20  # bytes of a tar's header: paths, times and attributes have some hundreds
_LONGEST_PADDING = 1 << 26  # bytes of zeros after a tar's end; it is filled up to a record, 10 KiB as a rule
_XZ_MEMORY = 1 << 29  # bytes; `xz -9` needs 65 MiB
_PIECE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What the archives of one folder may come to, with those within them.

    Attributes:
        depth: Archives within archives. Releases that were met have 2: a zip of tars.
        members: Files. SynCPR has 2.3 million.
        ratio: Bytes for each byte of the archives. Pictures are compressed already, so theirs is 1, that of annotation
            files 10 to 20; one zip can reach 1,032, zips within zips any.
        always: Bytes that are allowed whatever the ratio.
    """

    depth: int = 4
    members: int = 20_000_000
    ratio: int = 100
    always: int = 1 << 30


class _Budget:
    """Counts what comes out of archives, and ends it at the limits."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.members, self.bytes, self.packed = 0, 0, 0

    def spend(self, archive: Path, members: int, num_bytes: int) -> None:
        """Take account of files. Raises `DataFormatError` beyond the limits."""
        self.members += members
        self.bytes += num_bytes
        most = max(self.limits.always, self.limits.ratio * self.packed)
        if self.members > self.limits.members:
            raise DataFormatError(
                f"{archive}: more than {self.limits.members:,} files come out of these archives. Remedy: {_BY_HAND}."
            )
        if self.bytes > most:
            raise DataFormatError(
                f"{archive}: more than {_size(most)} come out of archives of {_size(self.packed)}, which no pictures "
                f"and annotations do: it looks like a bomb. Remedy: {_BY_HAND}."
            )


def unpack_archives(folder: str | Path, output: str | Path, limits: Limits | None = None) -> None:
    """Unpack all zip and tar archives below a folder, split ones and archives within archives included.

    An archive a/b.zip goes to the folder a/b below `output`. That folder appears when it is complete and on the disk;
    until then it is called a/b.incomplete, and another attempt goes on from what is in it, after comparing contents. Of
    an archive that is refused nothing stays.

    All names in all zips are checked before the first file is written, and what all archives say of their sizes is
    compared with the free disk. Symbolic links and special files are left out, and counted in a warning.

    Args:
        folder: Where the archives lie.
        output: Where to unpack them.
        limits: What they may come to; None for `Limits()`.

    Raises:
        DataFormatError: an archive is broken, of an unknown kind, or beyond the limits; a part is missing; two archives
            would go to one folder; a member's name leads out of its folder, cannot be a file's, or is another's, too.
        OSError: the disk is full or cannot be written; what is whole stays for the next attempt.
    """
    budget = _Budget(limits or Limits())
    _unpack_all(Path(folder), Path(output), budget, depth=1)


def _unpack_all(folder: Path, output: Path, budget: _Budget, depth: int) -> None:
    archives = find_archives(folder)
    to_do = {target: parts for target, parts in archives.items() if not (output / target).is_dir()}
    if to_do and depth > budget.limits.depth:
        first = next(iter(to_do.values()))[0]
        raise DataFormatError(
            f"{first}: lies within {depth - 1} other archives; more than {budget.limits.depth} in one another are not "
            f"unpacked. Remedy: {_BY_HAND}."
        )
    if depth == 1:
        budget.packed = sum(part.stat().st_size for parts in to_do.values() for part in parts)
    sizes = {target: _announced_size(parts, output / target, budget) for target, parts in to_do.items()}
    _require_room(output, sum(sizes.values()), f"unpacking {folder}")

    for target, parts in to_do.items():
        destination = output / target
        incomplete = destination.with_name(destination.name + _INCOMPLETE)
        incomplete.mkdir(parents=True, exist_ok=True)
        try:
            _unpack(parts, incomplete, budget)
            _unpack_all(incomplete, incomplete / _ARCHIVES_WITHIN, budget, depth + 1)
            for other in archives:
                if other.startswith(f"{target}/") and (incomplete / other[len(target) + 1 :]).exists():
                    raise _contended(parts[-1], archives[other][-1])
        except DataFormatError:
            shutil.rmtree(incomplete, ignore_errors=True)  # nothing of an archive that is refused
            raise
        if hasattr(os, "sync"):
            os.sync()  # after a power cut a complete folder must not hold files without contents
        incomplete.rename(destination)


def find_archives(folder: str | Path) -> dict[str, list[Path]]:
    """Archives below a folder: where to unpack each, relative to the folder -> its parts in order.

    Raises:
        DataFormatError: as `unpack_archives`.
    """
    archives: dict[str, list[tuple[str, int | None, Path]]] = defaultdict(list)
    for file in list_files([folder], wanted=_MAYBE_ARCHIVE.search):
        if file.name.startswith("._"):  # what macOS notes of a file, under the file's name
            continue
        if match := _SPANNED_ZIP.fullmatch(file.name):
            kind = "spanned zip"
        elif match := _ARCHIVE.fullmatch(file.name):
            kind = match["kind"].lower()
        elif _UNSUPPORTED.fullmatch(file.name):
            raise DataFormatError(
                f"{file}: this kind of archive is not supported. Remedy: unpack it by hand and pass data_dir=."
            )
        else:
            continue
        name = match["name"]
        if not name.strip(".") or name.endswith(_INCOMPLETE) or len(os.fsencode(name)) + len(_INCOMPLETE) > 255:
            raise DataFormatError(
                f"{file}: no folder can be named after this archive. Remedy: rename it, or unpack it by hand and pass "
                "data_dir=."
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
    """The parts by number. One without a number is the whole archive, or the last part (.zip after .z01, .z02)."""
    whole = [file for _, number, file in parts if number is None]
    numbered = sorted((number, file) for _, number, file in parts if number is not None)
    files = [file for _, file in numbered] + whole
    kinds = {kind for kind, _, _ in parts}
    is_spanned = "spanned zip" in kinds
    if len(whole) > 1 or len(kinds - {"spanned zip"}) > 1 or (whole and numbered and not is_spanned):
        raise _contended(files[0], files[-1])
    if is_spanned and not whole:
        raise DataFormatError(
            f"{files[-1]}: the last part, {files[-1].with_suffix('.zip').name}, is missing. Remedy: {_FETCH_AGAIN}."
        )
    for (number, file), (next_number, next_file) in pairwise(numbered):
        if number == next_number:
            raise DataFormatError(f"{file} and {next_file}: both are part {number}. Remedy: remove the wrong one.")
    first = min(1, numbered[0][0]) if numbered else 0
    for expected, (number, file) in enumerate(numbered, start=first):
        if number != expected:
            raise DataFormatError(f"{file}: part {expected} before it is missing. Remedy: {_FETCH_AGAIN}.")
    return files


def _contended(one: Path, other: Path) -> DataFormatError:
    return DataFormatError(
        f"{one} and {other}: would be unpacked to the same folder. "
        "Remedy: unpack the right one by hand and pass data_dir=."
    )


def _announced_size(parts: Sequence[Path], destination: Path, budget: _Budget) -> int:
    """Bytes that are still to be written by what the archive itself says; of a zip, all members are checked."""
    size = sum(part.stat().st_size for part in parts)  # a tar; compressed pictures come to hardly less
    if _is_zip(parts):
        with _naming(parts[0]), _open_zip(parts) as (_, members):
            _check_zip(parts[0], members, destination)
            size = sum(member.file_size for member in members)
            ahead = _Budget(budget.limits)
            ahead.members, ahead.bytes, ahead.packed = budget.members, budget.bytes, budget.packed
            ahead.spend(parts[0], len(members), size)
    earlier = destination.with_name(destination.name + _INCOMPLETE)
    return max(0, size - sum(file.stat().st_size for file in list_files([earlier], wanted=lambda _: True)))


def _require_room(place: Path, num_bytes: int, what: str) -> None:
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if num_bytes > free:
        raise OSError(
            errno.ENOSPC,
            f"{what} takes {_size(num_bytes)}, but the disk has {_size(free)} free. Make room, or set HF_HOME (or "
            "cache_dir=) to a larger disk; what was finished before stays",
            str(place),
        )


def _unpack(parts: Sequence[Path], path: Path, budget: _Budget) -> None:
    """Unpack one archive."""
    folder = _Folder(path, parts[0], budget)
    with _naming(parts[0], folder):
        (_unpack_zip if _is_zip(parts) else _unpack_tar)(parts, folder)
    if folder.left_out:
        logger.warning(
            "%s: %d links and special files were not unpacked, %r the first of them.",
            parts[0],
            len(folder.left_out),
            folder.left_out[0],
        )


def _is_zip(parts: Sequence[Path]) -> bool:
    return _ARCHIVE.fullmatch(parts[-1].name)["kind"].lower() == "zip"


@contextmanager
def _naming(archive: Path, folder: "_Folder | None" = None) -> Iterator[None]:
    """Whatever the decoders raise over a broken archive becomes a `DataFormatError` that names it and the member."""
    try:
        yield
    except DataFormatError:
        raise
    except Exception as error:
        member = f"its member {_shown(folder.member)} " if folder and folder.member else ""
        if isinstance(error, OSError) and error.errno is not None:  # the disk's
            reason = error.strerror
            if error.errno in DISK_FULL:
                free = shutil.disk_usage(folder.path).free if folder else 0
                reason = f"the disk is full ({_size(free)} free). Make room, and load again: what is whole stays"
            raise OSError(error.errno, f"{archive}: {member or 'it '}cannot be unpacked: {reason}") from error
        reason = str(error) or type(error).__name__
        raise DataFormatError(f"{archive}: {member}cannot be unpacked: {reason}. Remedy: {_FETCH_AGAIN}.") from error


class _Folder:
    """The folder that one archive is unpacked to.

    Args:
        path: The folder; it exists.
        archive: The archive's first part, for messages.
        budget: Counts what is written.

    Attributes:
        member: Name of the member that is being read, for messages.
        left_out: Names of the members that were not unpacked.
    """

    def __init__(self, path: Path, archive: Path, budget: _Budget):
        self.path, self.archive, self.budget = path, archive, budget
        self.member = ""
        self.left_out: list[str] = []
        self._fold = _folding(path)
        self._seen: set[int] = set()  # 64 bits of each file's name; there are millions
        self._made: set[str] = set()

    def make_folders(self, folders: set[str]) -> None:
        """Make folders beforehand.

        ext4 then spreads them over the disk: files are made several times faster than if each folder were filled
        before the next is made.
        """
        for folder in sorted(folders):
            self._make(folder)

    def write(self, name: str, size: int, content: BinaryIO) -> None:
        """Write a member, or see that it is there.

        Args:
            name: As the archive has it.
            size: In bytes, as the archive announces it.
            content: What to write.

        Raises:
            DataFormatError: the name cannot be used or is there twice, or the content has another size.
        """
        path = check_name(name, self.archive, self.path)
        self.budget.spend(self.archive, 1, size)
        if size > _PIECE:
            _require_room(self.path, size - self._size_there(path), f"{self.archive}: its member {_shown(name)}")
        parent, _, _ = path.rpartition("/")
        self._make(parent)
        key = hash(self._fold(path))
        is_repeated = key in self._seen
        self._seen.add(key)
        file = f"{self.path}/{path}"
        if is_repeated:
            self._compare(file, name, size, content)
            return
        try:
            try:
                handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
            except FileExistsError:
                self._mend(file, name, size, content)
            else:
                with open(handle, "wb", buffering=0) as stream:  # noqa: PTH123 - no path, and Path takes far longer
                    self._copy(content, stream, size, name)
        except BaseException:
            with suppress(OSError):  # a folder of this name
                os.unlink(file)  # noqa: PTH108 - half a file
            raise

    def _size_there(self, path: str) -> int:
        try:
            return (self.path / path).stat().st_size
        except OSError:
            return 0

    def _make(self, parent: str) -> None:
        if parent in self._made:
            return
        try:
            os.makedirs(f"{self.path}/{parent}", exist_ok=True)  # noqa: PTH103
        except (FileExistsError, NotADirectoryError):
            raise _file_and_folder(self.archive, parent) from None
        self._made.add(parent)

    def _copy(self, content: BinaryIO, stream: BinaryIO, size: int, name: str) -> None:
        count = 0
        while piece := content.read(_PIECE):
            count += len(piece)
            if count > size:
                break
            while piece:  # a system call may write less than it is given
                piece = piece[stream.write(piece) :]
        self._require_size(name, size, count)

    def _mend(self, file: str, name: str, size: int, content: BinaryIO) -> None:
        """See that a file of an earlier attempt holds what it should: a power cut may have left zeros in it."""
        if not stat.S_ISREG(os.lstat(file).st_mode):
            raise _file_and_folder(self.archive, name)
        with Path(file).open("rb+", buffering=0) as stream:
            count = 0
            while piece := content.read(_PIECE):
                count += len(piece)
                if count > size:
                    break
                if _read_fully(stream, len(piece)) != piece:
                    stream.seek(count - len(piece))
                    while piece:
                        piece = piece[stream.write(piece) :]
            self._require_size(name, size, count)
            if os.fstat(stream.fileno()).st_size != size:
                stream.truncate(size)

    def _compare(self, file: str, name: str, size: int, content: BinaryIO) -> None:
        """Of two members of one name the second must hold what the first does."""
        try:
            with Path(file).open("rb") as stream:
                is_equal = os.fstat(stream.fileno()).st_size == size
                while is_equal and (piece := content.read(_PIECE)):
                    is_equal = stream.read(len(piece)) == piece
        except FileNotFoundError:  # the other's name is spelt otherwise
            is_equal = False
        if not is_equal:
            raise _named_twice(self.archive, name)

    def _require_size(self, name: str, size: int, count: int) -> None:
        if count != size:
            raise DataFormatError(
                f"{self.archive}: its member {_shown(name)} holds {'more' if count > size else 'fewer'} bytes than the "
                f"{size:,} that are announced. Remedy: {_FETCH_AGAIN}."
            )


def _read_fully(stream: BinaryIO, size: int) -> bytes:
    """A system call may read less than it is asked for."""
    data = stream.read(size)
    while len(data) < size and (more := stream.read(size - len(data))):
        data += more
    return data


def check_name(name: str, archive: Path, folder: Path) -> str:
    """The path of a member, relative to the folder it goes to.

    Raises:
        DataFormatError: it leads out of the folder, or no file can be called so.
    """
    path = name.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or re.match("[A-Za-z]:", path):
        raise DataFormatError(
            f"{archive}: its member {_shown(name)} would be written outside of {folder}. "
            "Remedy: do not use this archive."
        )
    if not parts or path.endswith("/"):
        problem = "has no name"
    elif "\0" in name:
        problem = "has a NUL in its name"
    elif len(parts) > _MOST_FOLDERS:
        problem = f"lies in {len(parts) - 1:,} folders within one another; {_MOST_FOLDERS} is the most"
    elif parts[0] == _ARCHIVES_WITHIN:
        problem = "would be taken for what comes out of an archive within"
    elif _ON_WINDOWS and any(map(_RESERVED_ON_WINDOWS.fullmatch, parts)):
        problem = "has a name that Windows reserves or changes"
    else:
        problem = _length_problem(parts, folder)
    if problem:
        raise DataFormatError(
            f"{archive}: its member {_shown(name)} {problem}. Remedy: have it packed under another name; {_BY_HAND}."
        )
    return "/".join(parts)


def _length_problem(parts: list[str], folder: Path) -> str:
    try:
        sizes = [len(part) if part.isascii() else len(os.fsencode(part)) for part in parts]
    except UnicodeEncodeError:
        return "has a name that is not text"
    if max(sizes) > _LONGEST_NAME:
        return f"has a name of {max(sizes):,} bytes; file systems take {_LONGEST_NAME}"
    if (whole := sum(sizes) + len(sizes) + len(os.fsencode(folder))) > _LONGEST_PATH:
        return f"would have a path of {whole:,} bytes; {_LONGEST_PATH:,} is the most"
    return ""


def _folding(folder: Path) -> Callable[[str], str]:
    """What a file system makes of a name: of two names that give one text, it knows one file only."""
    plain, other = folder / ".fafa-\u00e9", folder / ".FAFA-e\u0301"
    if _is_one_file(plain, folder / ".FAFA-\u00e9"):
        return lambda name: unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    if _is_one_file(plain, other.with_name(".fafa-e\u0301")):
        return lambda name: unicodedata.normalize("NFC", name)
    return lambda name: name


def _is_one_file(one: Path, other: Path) -> bool:
    try:
        one.touch()
        return other.exists()
    except (OSError, UnicodeEncodeError):  # such a name cannot be written here
        return False
    finally:
        with suppress(OSError, UnicodeEncodeError):
            one.unlink()


def _file_and_folder(archive: Path, name: str) -> DataFormatError:
    return DataFormatError(
        f"{archive}: its member {_shown(name)} is a file and a folder at once. "
        f"Remedy: have it packed again; {_BY_HAND}."
    )


def _named_twice(archive: Path, name: str) -> DataFormatError:
    return DataFormatError(
        f"{archive}: its member {_shown(name)} is in it twice with different contents, or another member's name "
        "differs in case or in Unicode form only, which this disk takes for the same. Remedy: have it packed again; "
        f"{_BY_HAND}."
    )


def _shown(name: str) -> str:
    return repr(name) if len(name) <= 100 else f"{name[:60]!r}... ({len(name):,} characters)"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 2**29 else f"{num_bytes / 2**20:,.1f} MiB"


@contextmanager
def _open_zip(parts: Sequence[Path]) -> Iterator[tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]]:
    """A zip and its files, without folders, as they lie in it."""
    with JoinedFiles(parts) as joined:
        is_spanned = joined.mend_spanned_zip()
        with zipfile.ZipFile(io.BufferedReader(joined, _PIECE // 4)) as archive:
            for member in archive.filelist if is_spanned else ():
                # zipfile took the offsets for relative to the central directory; they are relative to a part.
                if member.volume >= len(parts):
                    raise zipfile.BadZipFile(f"part {member.volume + 1} is missing")
                member.header_offset += joined.starts[member.volume] - archive.start_dir
                if hasattr(member, "_end_offset"):  # newer versions of zipfile check overlaps by it
                    member._end_offset = None
            _check_extent(archive, joined, len(parts) > 1)
            files = [member for member in archive.filelist if not member.is_dir()]
            yield archive, sorted(files, key=lambda member: member.header_offset)


def _check_extent(archive: zipfile.ZipFile, joined: "JoinedFiles", is_split: bool) -> None:
    """See that members do not lie in one another, which is how small archives come to much, and that all is used."""
    end = 0
    members = sorted(archive.filelist, key=lambda member: member.header_offset)
    for member in members:
        if member.header_offset < end:
            raise zipfile.BadZipFile(f"its member {_shown(member.filename)} lies within another")
        end = member.header_offset + zipfile.sizeFileHeader + member.compress_size
    if end > archive.start_dir:
        raise zipfile.BadZipFile(f"its member {_shown(members[-1].filename)} is longer than the file")
    first = members[0].header_offset if members else archive.start_dir
    joined.seek(0)
    if first and not is_split and joined.read(4) == zipfile.stringFileHeader:
        raise zipfile.BadZipFile("another archive lies before it in the file")
    joined.seek(joined.starts[-1] - zipfile.sizeEndCentDir - len(archive.comment))
    if joined.read(4) != zipfile.stringEndArchive:
        raise zipfile.BadZipFile("other bytes follow its end")


def _name_in_zip(member: zipfile.ZipInfo) -> str:
    """The name, which zipfile cuts at a NUL and, unless it is marked as UTF-8, takes for that of an old PC.

    macOS and Info-ZIP write UTF-8 without the mark; the names of an old PC are no UTF-8 but by an odd chance.
    """
    name = member.orig_filename
    if not (name.isascii() or member.flag_bits & 0x800):
        with suppress(UnicodeError):
            return name.encode("cp437").decode("utf-8")
    return name


def _check_zip(archive: Path, members: list[zipfile.ZipInfo], folder: Path) -> set[str]:
    """The folders of a zip; refuses members that cannot be unpacked."""
    fold = _folding(next(place for place in (folder, *folder.parents) if place.is_dir()))
    files: set[int] = set()
    repeated: dict[int, set[tuple[int, int]]] = {}
    folders: set[str] = set()
    for member in members:
        path = check_name(_name_in_zip(member), archive, folder)
        if member.flag_bits & 1:
            raise DataFormatError(
                f"{archive}: its member {_shown(path)} is encrypted. Remedy: unpack it by hand and pass data_dir=."
            )
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            raise DataFormatError(
                f"{archive}: its member {_shown(path)} is compressed in a way that Python does not know "
                f"({member.compress_type}). Remedy: unpack it by hand and pass data_dir=."
            )
        key = hash(fold(path))
        if key in files:
            repeated[key] = set()
        files.add(key)
        folder_of_file = path.rpartition("/")[0]
        while folder_of_file and folder_of_file not in folders:
            folders.add(folder_of_file)
            folder_of_file = folder_of_file.rpartition("/")[0]
    for folder_of_file in folders:
        if hash(fold(folder_of_file)) in files:
            raise _file_and_folder(archive, folder_of_file)
    for member in members if repeated else ():
        path = check_name(_name_in_zip(member), archive, folder)
        if (contents := repeated.get(hash(fold(path)))) is not None:
            contents.add((member.file_size, member.CRC))
            if len(contents) > 1:
                raise _named_twice(archive, path)
    return folders


def _unpack_zip(parts: Sequence[Path], folder: _Folder) -> None:
    with _open_zip(parts) as (archive, members):
        folder.make_folders(_check_zip(parts[0], members, folder.path))
        for member in tqdm(members, f"Unpacking {parts[0].name}", unit=" files"):
            folder.member = _name_in_zip(member)
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                folder.left_out.append(folder.member)
                continue
            with archive.open(member) as content:
                folder.write(folder.member, member.file_size, content)


def _unpack_tar(parts: Sequence[Path], folder: _Folder) -> None:
    with JoinedFiles(parts) as joined:
        stream = _TarStream(_decompressed(joined))
        with stream.header(), tarfile.open(fileobj=stream, mode="r:") as archive:
            with tqdm(desc=f"Unpacking {parts[0].name}", unit=" files") as bar:
                while member := archive.next():
                    with stream.contents():
                        _unpack_tar_member(archive, member, folder)
                        stream.seek(max(stream.tell(), archive.offset))
                    archive.members.clear()  # or a million members stay in memory
                    bar.update()
                folder.member = ""
            with stream.contents():
                stream.check_end(archive.offset)


def _unpack_tar_member(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: _Folder) -> None:
    folder.member = member.name
    if member.size < 0:
        raise tarfile.ReadError(f"a size of {member.size:,} bytes")
    if member.isfile():
        with archive.extractfile(member) as content:
            folder.write(member.name, member.size, content)
    elif member.islnk():  # another name for a file that came before
        path, source = (check_name(name, folder.archive, folder.path) for name in (member.name, member.linkname))
        if path == source:
            return
        file = folder.path / source
        if not stat.S_ISREG(os.lstat(file).st_mode if file.exists() else 0):
            raise tarfile.ReadError(f"it is a link to {_shown(member.linkname)}, which does not come before it")
        with file.open("rb") as content:
            folder.write(member.name, file.stat().st_size, content)
    elif not member.isdir():
        folder.left_out.append(member.name)
        folder.budget.spend(folder.archive, 1, max(0, archive.offset - member.offset_data))


def _decompressed(joined: "JoinedFiles") -> io.RawIOBase:
    """What a tar holds, decompressed as its first bytes tell."""
    start = joined.read(6)
    joined.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return _Decompressed(joined, _Gunzip)
    if start.startswith(b"BZh"):
        return _Decompressed(joined, bz2.BZ2Decompressor)
    if start.startswith(b"\xfd7zXZ\0"):
        return _Decompressed(joined, lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY))
    return joined


class _Gunzip:
    """Decompresses gzip, as `bz2.BZ2Decompressor` does bzip2; its checksum is checked."""

    def __init__(self):
        self._decompressor = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._decompressor.eof

    @property
    def unused_data(self) -> bytes:
        return self._decompressor.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._decompressor.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._decompressor.decompress(self._decompressor.unconsumed_tail + data, max_length)


class _Decompressed(io.RawIOBase):
    """A compressed file, decompressed; the standard library's classes do not tell what follows its end.

    Args:
        source: The compressed file.
        make: Makes a decompressor; there may be several streams, one after the other.
    """

    def __init__(self, source: BinaryIO, make: Callable):
        self._source, self._make = source, make
        self._decompressor = make()
        self._is_at_end = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        output = b""
        while not output and not self._is_at_end:
            if self._decompressor.eof:
                data = self._next_stream()
            else:
                data = self._source.read(_PIECE) if self._decompressor.needs_input else b""
            if self._is_at_end:
                break
            needed, length = self._decompressor.needs_input, len(data)
            output = self._decompressor.decompress(data, len(buffer))
            if needed and not (length or output or self._decompressor.eof):
                raise EOFError("it ends early: its last part is missing, or it was cut off")
        buffer[: len(output)] = output
        return len(output)

    def _next_stream(self) -> bytes:
        """What follows the end of one stream; zeros are padding."""
        data = self._decompressor.unused_data or self._source.read(_PIECE)
        while data and not data.strip(b"\0"):
            data = self._source.read(_PIECE)
        if not data:
            self._is_at_end = True
            return b""
        self._decompressor = self._make()
        if not data.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")):
            raise EOFError("other bytes follow its end")
        return data


class _TarStream:
    """What tarfile reads a tar from: forwards only, and a header has an end.

    tarfile reads headers of any length, and some that are cut off for ever.
    """

    def __init__(self, source: io.RawIOBase):
        self._stream = io.BufferedReader(source, _PIECE // 4)
        self._position = 0
        self._left: int | None = None  # bytes that may yet be read of a header
        self._last = b""

    @contextmanager
    def header(self) -> Iterator[None]:
        """What is read now is headers."""
        self._left = _LARGEST_HEADER
        yield

    @contextmanager
    def contents(self) -> Iterator[None]:
        """What is read now is what a member holds."""
        self._left = None
        yield
        self._left = _LARGEST_HEADER

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        if size < 0:
            raise tarfile.ReadError("a header of a negative size")
        if self._left is not None:
            self._left -= max(size, 1)
            if self._left < 0:
                raise tarfile.ReadError(f"a header has more than {_size(_LARGEST_HEADER)}, or does not end")
        self._last = self._stream.read(size)
        self._position += len(self._last)
        return self._last

    def seek(self, offset: int) -> int:
        """Go on to an offset from the start."""
        if offset < self._position:
            raise tarfile.ReadError("a member lies within another")
        while left := offset - self._position:
            if not self.read(min(left, _PIECE)):
                raise tarfile.ReadError("it ends early: its last part is missing, or it was cut off")
        return self._position

    def check_end(self, offset: int) -> None:
        """See that two blocks of zeros, and zeros alone, follow the last member; tarfile ends at what it cannot read.

        Args:
            offset: Where the last member ends.
        """
        zeros = self._position - offset
        rest = self._last if zeros else b""
        if not zeros:
            rest = self.read(_PIECE)
            zeros = len(rest)
        while zeros >= tarfile.BLOCKSIZE and rest:
            if rest.strip(b"\0"):
                raise tarfile.ReadError("what follows its last member is damaged, or belongs to another archive")
            if zeros > _LONGEST_PADDING:
                raise tarfile.ReadError(f"more than {_size(_LONGEST_PADDING)} of zeros follow its last member")
            rest = self.read(_PIECE)
            zeros += len(rest)
        if zeros < 2 * tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it ends early: its last part is missing, or it was cut off")
        if offset == 0 and zeros > tarfile.RECORDSIZE:
            raise tarfile.ReadError("it holds zeros alone")


class JoinedFiles(io.RawIOBase):
    """The parts of a split archive, read as one file.

    Args:
        parts: Paths of the parts, in order.
    """

    def __init__(self, parts: Sequence[Path]):
        self.name = str(parts[0])
        self._parts = list(parts)
        self._index, self._file = -1, None  # one is open at a time: there may be more than a process may open
        self.starts = list(accumulate((part.stat().st_size for part in parts), initial=0))  # ends with the whole size
        self._position = 0
        self._end = bytearray()  # stands for the last bytes

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an offset from the start, from here, or from the end."""
        self._position = offset + (0, self._position, self.starts[-1])[whence]
        if self._position < 0:
            raise OSError("it refers to what lies before its start")  # zipfile expects this kind of error
        return self._position

    def readinto(self, buffer) -> int:
        """Read what one part holds from here on, up to the buffer's length."""
        index = bisect_right(self.starts, self._position) - 1
        if index == len(self._parts):
            return 0
        if index != self._index:
            self._close_part()
            self._index, self._file = index, self._parts[index].open("rb", buffering=0)
        self._file.seek(self._position - self.starts[index])
        count = self._file.readinto(buffer)
        end = self.starts[-1] - len(self._end)
        first = max(end - self._position, 0)
        if first < count:
            offset = self._position + first - end
            buffer[first:count] = self._end[offset : offset + count - first]
        self._position += count
        return count

    def close(self) -> None:
        """Close the parts."""
        self._close_part()
        super().close()

    def _close_part(self) -> None:
        if self._file is not None:
            self._file.close()
        self._index, self._file = -1, None

    def mend_spanned_zip(self) -> bool:
        """Make the end records of a spanned zip (.z01, .z02, ..., .zip) such that zipfile accepts them.

        They name the part ("disk") that each offset counts from (APPNOTE 4.3.14 to 4.3.16). Here they are made to say
        that there is one part, with the central directory at offset 0: zipfile finds it by its size, from the end.

        Returns:
            Whether it is a spanned zip.

        Raises:
            zipfile.BadZipFile: it has another number of parts.
        """
        self.seek(max(0, self.starts[-1] - _LONGEST_ZIP_END))
        end = bytearray(self.readall())
        record = end.rfind(b"PK\5\6")
        if record < 0 or len(end) < record + 22:
            return False
        (last,) = struct.unpack_from("<H", end, record + 4)
        is_spanned = any(map(_SPANNED_ZIP.fullmatch, (part.name for part in self._parts)))
        if last == 0xFFFF or not (last or is_spanned):
            return False
        if last != len(self._parts) - 1:
            raise zipfile.BadZipFile(f"it is the last of {last + 1} parts, but there are {len(self._parts)}")
        (num_members,) = struct.unpack_from("<H", end, record + 10)
        struct.pack_into("<4H", end, record + 4, 0, 0, num_members, num_members)
        struct.pack_into("<L", end, record + 16, 0)
        locator = record - 20
        if end[locator : locator + 4] == b"PK\6\7":
            disk, offset = struct.unpack_from("<LQ", end, locator + 4)
            position = self.starts[disk] + offset
            struct.pack_into("<LQL", end, locator + 4, 0, position, 1)
            record64 = position - (self.starts[-1] - len(end))
            (num_members,) = struct.unpack_from("<Q", end, record64 + 32)
            struct.pack_into("<2L2Q", end, record64 + 16, 0, 0, num_members, num_members)
            struct.pack_into("<Q", end, record64 + 48, 0)
        self._end = end
        return True
