"""Reads tars, compressed or not: forwards, once, each header within bounds."""

import bz2
import io
import lzma
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from tqdm.auto import tqdm

from .members import PIECE, Folder, check_name, shown, size_of
from .parts import JoinedFiles

_LARGEST_HEADER = 1 << 20  # bytes of a tar's header: paths, times and attributes have some hundreds
_LONGEST_PADDING = 1 << 26  # bytes of zeros after a tar's end; it is filled up to a record, 10 KiB as a rule
_XZ_MEMORY = 1 << 29  # bytes; `xz -9` needs 65 MiB
_ENDS_EARLY = "it ends early: its last part is missing, or it was cut off"
_DECOMPRESSORS = {  # by what such a file begins with
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY),
}


def unpack_tar(parts: Sequence[Path], folder: Folder) -> None:
    """Write what a tar holds."""
    with JoinedFiles(parts) as joined:
        stream = _TarStream(_decompressed(joined))
        bar = tqdm(desc=f"Unpacking {parts[0].name}", unit=" files")
        with bar, tarfile.open(fileobj=stream, mode="r:") as archive:
            while member := archive.next():
                stream.header_left = None
                _unpack_member(archive, member, folder)
                stream.seek(max(stream.tell(), archive.offset))
                stream.header_left = _LARGEST_HEADER
                archive.members.clear()  # or a million members stay in memory
                bar.update()
            folder.member, stream.header_left = "", None
            stream.check_end(archive.offset)


def _unpack_member(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Folder) -> None:
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
            raise tarfile.ReadError(f"it is a link to {shown(member.linkname)}, which does not come before it")
        with file.open("rb") as content:
            folder.write(member.name, file.stat().st_size, content)
    elif not member.isdir():
        folder.left_out.append(member.name)
        folder.budget.spend(folder.archive, 1, max(0, archive.offset - member.offset_data))


def _decompressed(joined: JoinedFiles) -> io.RawIOBase:
    """The contents of a tar, decompressed as its first bytes demand."""
    start = joined.read(6)
    joined.seek(0)
    for magic, make in _DECOMPRESSORS.items():
        if start.startswith(magic):
            return _Pieces(_decompress(joined, make))
    return joined


def _decompress(source: BinaryIO, make: Callable) -> Iterator[bytes]:
    """A compressed file, decompressed piece by piece; the standard library's classes overlook what follows its end.

    Args:
        source: The compressed file: one or more streams, one after the other, and zeros as padding.
        make: Makes a decompressor of a stream.
    """
    rest = source.read(PIECE)
    while rest:
        decompressor = make()
        while not decompressor.eof:
            # zlib's decompressor has no `needs_input`, but `unconsumed_tail`.
            needs_input = not rest and getattr(decompressor, "needs_input", True)
            data = source.read(PIECE) if needs_input else rest
            piece = decompressor.decompress(data, PIECE)
            rest = getattr(decompressor, "unconsumed_tail", b"")
            if piece:
                yield piece
            elif needs_input and not data and not decompressor.eof:
                raise EOFError(_ENDS_EARLY)
        rest = decompressor.unused_data.lstrip(b"\0")
        while len(rest) < 6 and (data := source.read(PIECE)):
            rest = (rest + data).lstrip(b"\0")
        if rest and not rest.startswith(tuple(_DECOMPRESSORS)):
            raise EOFError("other bytes follow its end")


class _Pieces(io.RawIOBase):
    """Pieces, none of them empty, as one file."""

    def __init__(self, pieces: Iterator[bytes]):
        self._pieces, self._left = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        piece = self._left or next(self._pieces, b"")
        count = min(len(piece), len(buffer))
        buffer[:count], self._left = piece[:count], piece[count:]
        return count


class _TarStream:
    """What tarfile reads a tar from: forwards only, with bounded headers.

    tarfile reads headers of any length, and reads on for ever in some that are cut off.

    Attributes:
        header_left: Bytes that may yet be read of a header; None while a member's contents are read.
    """

    def __init__(self, source: io.RawIOBase):
        self.header_left: int | None = _LARGEST_HEADER
        self._stream = io.BufferedReader(source, PIECE // 4)
        self._position = 0
        self._last = b""

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        if size < 0:
            raise tarfile.ReadError("a header of a negative size")
        if self.header_left is not None:
            self.header_left -= max(size, 1)
            if self.header_left < 0:
                raise tarfile.ReadError(f"a header has more than {size_of(_LARGEST_HEADER)}, or does not end")
        self._last = self._stream.read(size)
        self._position += len(self._last)
        return self._last

    def seek(self, offset: int) -> int:
        """Go on to an offset from the start."""
        if offset < self._position:
            raise tarfile.ReadError("a member lies within another")
        while left := offset - self._position:
            if not self.read(min(left, PIECE)):
                raise tarfile.ReadError(_ENDS_EARLY)
        return self._position

    def check_end(self, offset: int) -> None:
        """Refuse a tar unless two blocks of zeros, and zeros alone, follow its last member.

        tarfile takes any header that it cannot read for the end.

        Args:
            offset: Where the last member ends; the header there was read just now.
        """
        zeros, rest = self._position - offset, self._last
        while zeros >= tarfile.BLOCKSIZE and rest:
            if rest.strip(b"\0"):
                raise tarfile.ReadError("what follows its last member is damaged, or belongs to another archive")
            if zeros > _LONGEST_PADDING:
                raise tarfile.ReadError(f"more than {size_of(_LONGEST_PADDING)} of zeros follow its last member")
            rest = self.read(PIECE)
            zeros += len(rest)
        if zeros < 2 * tarfile.BLOCKSIZE:
            raise tarfile.ReadError(_ENDS_EARLY)
        if offset == 0 and zeros > tarfile.RECORDSIZE:
            raise tarfile.ReadError("it holds zeros alone")
