"""Reads zips: all members are known, and their names checked, before the first is unpacked."""

import io
import stat
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm.auto import tqdm

from ..records import DataFormatError
from .finding import BY_HAND
from .members import PIECE, Folder, check_name, shown
from .parts import JoinedFiles

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@contextmanager
def open_zip(parts: Sequence[Path]) -> Iterator[tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]]:
    """A zip and its files, without folders, in the order in which they lie in it."""
    with JoinedFiles(parts) as joined:
        is_spanned = joined.mend_spanned_zip()
        with zipfile.ZipFile(io.BufferedReader(joined, PIECE // 4)) as archive:
            for member in archive.filelist if is_spanned else ():
                # zipfile took the offsets to be relative to the central directory; they are relative to a part.
                if member.volume >= len(parts):
                    raise zipfile.BadZipFile(f"part {member.volume + 1} is missing")
                member.header_offset += joined.starts[member.volume] - archive.start_dir
                if hasattr(member, "_end_offset"):  # newer versions of zipfile check overlaps by it
                    member._end_offset = None
            _check_extent(archive, joined, len(parts) > 1)
            files = [member for member in archive.filelist if not member.is_dir()]
            yield archive, sorted(files, key=lambda member: member.header_offset)


def _check_extent(archive: zipfile.ZipFile, joined: JoinedFiles, is_split: bool) -> None:
    """Refuse members that lie in one another, which is how small archives come to much, and bytes of no member."""
    end = 0
    members = sorted(archive.filelist, key=lambda member: member.header_offset)
    for member in members:
        if member.header_offset < end:
            raise zipfile.BadZipFile(f"its member {shown(member.filename)} lies within another")
        end = member.header_offset + zipfile.sizeFileHeader + member.compress_size
    if end > archive.start_dir:
        raise zipfile.BadZipFile(f"its member {shown(members[-1].filename)} is longer than the file")
    first = members[0].header_offset if members else archive.start_dir
    joined.seek(0)
    if first and not is_split and joined.read(4) == zipfile.stringFileHeader:
        raise zipfile.BadZipFile("another archive lies before it in the file")
    joined.seek(joined.starts[-1] - zipfile.sizeEndCentDir - len(archive.comment))
    if joined.read(4) != zipfile.stringEndArchive:
        raise zipfile.BadZipFile("other bytes follow its end")


def _name_in_zip(member: zipfile.ZipInfo) -> str:
    """The name. zipfile cuts it at a NUL and, unless it is marked as UTF-8, reads it in the code page of an old PC.

    macOS and Info-ZIP write UTF-8 without the mark; a name in that code page is hardly ever valid UTF-8.
    """
    name = member.orig_filename
    if not (name.isascii() or member.flag_bits & 0x800):
        with suppress(UnicodeError):
            return name.encode("cp437").decode("utf-8")
    return name


def check_zip(archive: Path, members: list[zipfile.ZipInfo], folder: Path) -> set[str]:
    """The folders of a zip. Raises `DataFormatError` if a member cannot be unpacked."""
    folders: set[str] = set()
    for member in members:
        path = check_name(_name_in_zip(member), archive, folder)
        problem = ""
        if member.flag_bits & 1:
            problem = "encrypted"
        elif member.compress_type not in _METHODS:
            problem = f"compressed in a way that Python does not know ({member.compress_type})"
        if problem:
            raise DataFormatError(f"{archive}: its member {shown(path)} is {problem}. Remedy: {BY_HAND}.")
        parent = path.rpartition("/")[0]
        while parent and parent not in folders:
            folders.add(parent)
            parent = parent.rpartition("/")[0]
    return folders


def unpack_zip(parts: Sequence[Path], folder: Folder) -> None:
    """Write what a zip holds."""
    with open_zip(parts) as (archive, members):
        folder.make_folders(check_zip(parts[0], members, folder.path))
        for member in tqdm(members, f"Unpacking {parts[0].name}", unit=" files"):
            folder.member = _name_in_zip(member)
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                folder.left_out.append(folder.member)
                continue
            with archive.open(member) as content:
                folder.write(folder.member, member.file_size, content)
