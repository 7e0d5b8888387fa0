"""Writes the members of an archive into its folder: nothing outside of it, and nothing over something else."""

import errno
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..records import DataFormatError
from .finding import ARCHIVES_WITHIN, BY_HAND, FETCH_AGAIN

_RESERVED_ON_WINDOWS = re.compile(r'(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*[<>:"|?*\x01-\x1f].*|.*[. ]', re.IGNORECASE)
_ON_WINDOWS = os.name == "nt"

PIECE = 1 << 20
_LONGEST_NAME = 255  # bytes in ext4, XFS and APFS; NTFS counts 255 units
_LONGEST_PATH = 4_000  # bytes; Linux takes 4,095
_MOST_FOLDERS = 100  # in one path; os.walk calls itself for each

# What the archives of one folder may come to, with those within them.
DEPTH = 4  # archives within archives; published data sets have at most 2: a zip of tars
_MOST_FILES = 20_000_000  # SynCPR has 2.3 million
# Bytes for each byte of the archives. Images are compressed already, so theirs is 1; that of annotation files is 10 to
# 20; one zip can reach 1,032, zips within zips any.
_RATIO = 100
_ALWAYS = 1 << 30  # bytes that are allowed whatever the ratio


@dataclass
class Budget:
    """Counts the files and bytes that come out of archives of `packed` bytes."""

    members: int = 0
    bytes: int = 0
    packed: int = 0

    def spend(self, archive: Path, members: int, num_bytes: int) -> None:
        """Count files. Raises `DataFormatError` beyond the limits."""
        self.members += members
        self.bytes += num_bytes
        most = max(_ALWAYS, _RATIO * self.packed)
        if self.members > _MOST_FILES:
            raise DataFormatError(
                f"{archive}: more than {_MOST_FILES:,} files come out of these archives. Remedy: {BY_HAND}."
            )
        if self.bytes > most:
            raise DataFormatError(
                f"{archive}: more than {size_of(most)} come out of archives of {size_of(self.packed)}, which no "
                f"images and annotations do: it looks like a bomb. Remedy: {BY_HAND}."
            )


def require_room(place: Path, num_bytes: int, what: str) -> None:
    """Raise OSError if the disk has fewer bytes free."""
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
        path: The folder; it exists, and holds no files.
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
        self._made: set[str] = set()

    def make_folders(self, folders: Iterable[str]) -> None:
        """Make folders beforehand.

        ext4 then spreads them over the disk: files are made several times faster than if each folder were filled
        before the next is made.
        """
        for folder in sorted(folders):
            self._make(folder)

    def write(self, name: str, size: int, content: BinaryIO) -> None:
        """Write a member. A second one of the same name must hold the same.

        The file system decides which names are the same: some of them ignore case, or Unicode's forms.

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
            require_room(self.path, size, f"{self.archive}: its member {shown(name)}")
        self._make(path.rpartition("/")[0])
        file = f"{self.path}/{path}"
        try:
            stream = open(file, "xb", buffering=0)  # noqa: PTH123, SIM115 - there are millions, and Path takes longer
        except FileExistsError:
            self._compare(file, path, size, content)
            return
        with stream:
            self._copy(content, stream, size, name)

    def _make(self, folder: str) -> None:
        if folder in self._made:
            return
        try:
            os.makedirs(f"{self.path}/{folder}", exist_ok=True)  # noqa: PTH103
        except (FileExistsError, NotADirectoryError):
            raise self._file_and_folder(folder) from None
        self._made.add(folder)

    def _copy(self, content: BinaryIO, stream: BinaryIO, size: int, name: str) -> None:
        count = 0
        while count <= size and (piece := content.read(PIECE)):
            count += len(piece)
            while piece:  # a system call may write less than it is given
                piece = piece[stream.write(piece) :]
        if count != size:
            raise DataFormatError(
                f"{self.archive}: its member {shown(name)} holds {'more' if count > size else 'fewer'} bytes than the "
                f"{size:,} that are announced. Remedy: {FETCH_AGAIN}."
            )

    def _compare(self, file: str, path: str, size: int, content: BinaryIO) -> None:
        try:
            with open(file, "rb") as stream:  # noqa: PTH123
                is_equal = os.fstat(stream.fileno()).st_size == size
                while is_equal and (piece := content.read(PIECE)):
                    is_equal = stream.read(len(piece)) == piece
        except IsADirectoryError:
            raise self._file_and_folder(path) from None
        if not is_equal:
            raise DataFormatError(
                f"{self.archive}: its member {shown(path)} is in it twice with different contents, or another member's "
                "name differs in case or in Unicode form only, which this disk takes for the same. Remedy: have it "
                f"packed again; {BY_HAND}."
            )

    def _file_and_folder(self, path: str) -> DataFormatError:
        return DataFormatError(
            f"{self.archive}: its member {shown(path)} is a file and a folder at once. Remedy: have it packed again; "
            f"{BY_HAND}."
        )


def check_name(name: str, archive: Path, folder: Path) -> str:
    """The path of a member, relative to the folder it goes to.

    Raises:
        DataFormatError: it leads out of the folder, or no file can have that name.
    """
    path = name.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or re.match("[A-Za-z]:", path):
        raise DataFormatError(
            f"{archive}: its member {shown(name)} would be written outside of {folder}. "
            "Remedy: do not use this archive."
        )
    try:
        sizes = [len(part) if part.isascii() else len(os.fsencode(part)) for part in parts]
    except UnicodeEncodeError:
        sizes = [-1]
    problem = ""
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
    elif sizes == [-1]:
        problem = "has a name that is not text"
    elif max(sizes) > _LONGEST_NAME:
        problem = f"has a name of {max(sizes):,} bytes; file systems take {_LONGEST_NAME}"
    elif (whole := sum(sizes) + len(sizes) + len(os.fsencode(folder))) > _LONGEST_PATH:
        problem = f"would have a path of {whole:,} bytes; {_LONGEST_PATH:,} is the most"
    if problem:
        raise DataFormatError(
            f"{archive}: its member {shown(name)} {problem}. Remedy: have it packed under another name; {BY_HAND}."
        )
    return "/".join(parts)


def shown(name: str) -> str:
    """A member's name in a message."""
    return repr(name) if len(name) <= 100 else f"{name[:60]!r}... ({len(name):,} characters)"


def size_of(num_bytes: int) -> str:
    """A number of bytes in a message."""
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 2**29 else f"{num_bytes / 2**20:,.1f} MiB"
