"""Writing what comes out of an archive into its folder: nothing outside of it, nothing over something else."""

import errno
import os
import re
import shutil
import stat
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..records import DataFormatError
from .finding import BY_HAND, FETCH_AGAIN

_RESERVED_ON_WINDOWS = re.compile(r'(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*[<>:"|?*\x01-\x1f].*|.*[. ]', re.IGNORECASE)
_ON_WINDOWS = os.name == "nt"

ARCHIVES_WITHIN = "archives-within.unpacked"  # the folder of what comes out of archives in an archive
PIECE = 1 << 20
_LONGEST_NAME = 255  # bytes: of ext4, XFS and APFS; NTFS counts 255 units
_LONGEST_PATH = 4_000  # bytes; Linux takes 4,095
_MOST_FOLDERS = 100  # in one path; os.walk calls itself for each


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


class Budget:
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
                f"{archive}: more than {self.limits.members:,} files come out of these archives. Remedy: {BY_HAND}."
            )
        if self.bytes > most:
            raise DataFormatError(
                f"{archive}: more than {size_of(most)} come out of archives of {size_of(self.packed)}, which no "
                f"pictures and annotations do: it looks like a bomb. Remedy: {BY_HAND}."
            )


def require_room(place: Path, num_bytes: int, what: str) -> None:
    """Raises OSError where the disk has not so many bytes free."""
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if num_bytes > free:
        raise OSError(
            errno.ENOSPC,
            f"{what} takes {size_of(num_bytes)}, but the disk has {size_of(free)} free. Make room, or set HF_HOME (or "
            "cache_dir=) to a larger disk; what was finished before stays",
            str(place),
        )


class Folder:
    """The folder that one archive is unpacked to.

    Args:
        path: The folder; it exists.
        archive: The archive's first part, for messages.
        budget: Counts what is written.

    Attributes:
        member: Name of the member that is being read, for messages.
        left_out: Names of the members that were not unpacked.
    """

    def __init__(self, path: Path, archive: Path, budget: Budget):
        self.path, self.archive, self.budget = path, archive, budget
        self.member = ""
        self.left_out: list[str] = []
        self._fold = folding(path)
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
        if size > PIECE:
            require_room(self.path, size - self._size_there(path), f"{self.archive}: its member {shown(name)}")
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
            raise file_and_folder(self.archive, parent) from None
        self._made.add(parent)

    def _copy(self, content: BinaryIO, stream: BinaryIO, size: int, name: str) -> None:
        count = 0
        while piece := content.read(PIECE):
            count += len(piece)
            if count > size:
                break
            while piece:  # a system call may write less than it is given
                piece = piece[stream.write(piece) :]
        self._require_size(name, size, count)

    def _mend(self, file: str, name: str, size: int, content: BinaryIO) -> None:
        """See that a file of an earlier attempt holds what it should: a power cut may have left zeros in it."""
        if not stat.S_ISREG(os.lstat(file).st_mode):
            raise file_and_folder(self.archive, name)
        with Path(file).open("rb+", buffering=0) as stream:
            count = 0
            while piece := content.read(PIECE):
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
                while is_equal and (piece := content.read(PIECE)):
                    is_equal = stream.read(len(piece)) == piece
        except FileNotFoundError:  # the other's name is spelt otherwise
            is_equal = False
        if not is_equal:
            raise named_twice(self.archive, name)

    def _require_size(self, name: str, size: int, count: int) -> None:
        if count != size:
            raise DataFormatError(
                f"{self.archive}: its member {shown(name)} holds {'more' if count > size else 'fewer'} bytes than the "
                f"{size:,} that are announced. Remedy: {FETCH_AGAIN}."
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
            f"{archive}: its member {shown(name)} would be written outside of {folder}. "
            "Remedy: do not use this archive."
        )
    if not parts or path.endswith("/"):
        problem = "has no name"
    elif "\0" in name:
        problem = "has a NUL in its name"
    elif len(parts) > _MOST_FOLDERS:
        problem = f"lies in {len(parts) - 1:,} folders within one another; {_MOST_FOLDERS} is the most"
    elif parts[0] == ARCHIVES_WITHIN:
        problem = "would be taken for what comes out of an archive within"
    elif _ON_WINDOWS and any(map(_RESERVED_ON_WINDOWS.fullmatch, parts)):
        problem = "has a name that Windows reserves or changes"
    else:
        problem = _length_problem(parts, folder)
    if problem:
        raise DataFormatError(
            f"{archive}: its member {shown(name)} {problem}. Remedy: have it packed under another name; {BY_HAND}."
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


def folding(folder: Path) -> Callable[[str], str]:
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


def file_and_folder(archive: Path, name: str) -> DataFormatError:
    """The error for a name that stands for both."""
    return DataFormatError(
        f"{archive}: its member {shown(name)} is a file and a folder at once. Remedy: have it packed again; {BY_HAND}."
    )


def named_twice(archive: Path, name: str) -> DataFormatError:
    """The error for two members that would be one file."""
    return DataFormatError(
        f"{archive}: its member {shown(name)} is in it twice with different contents, or another member's name "
        "differs in case or in Unicode form only, which this disk takes for the same. Remedy: have it packed again; "
        f"{BY_HAND}."
    )


def shown(name: str) -> str:
    """A member's name in a message."""
    return repr(name) if len(name) <= 100 else f"{name[:60]!r}... ({len(name):,} characters)"


def size_of(num_bytes: int) -> str:
    """A number of bytes in a message."""
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 2**29 else f"{num_bytes / 2**20:,.1f} MiB"
