"""Tars, compressed or not: read forwards once, each header within bounds."""

import bz2
import io
import lzma
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tqdm.auto import tqdm

from .members import PIECE, Folder, check_name, shown, size_of
from .parts import JoinedFiles

_LARGEST_HEADER = 1 << 20  # bytes of a tar's header: paths, times and attributes have some hundreds
_LONGEST_PADDING = 1 << 26  # bytes of zeros after a tar's end; it is filled up to a record, 10 KiB as a rule
_XZ_MEMORY = 1 << 29  # bytes; `xz -9` needs 65 MiB


def unpack_tar(parts: Sequence[Path], folder: Folder) -> None:
    """Write what a tar holds."""
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


def _unpack_tar_member(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Folder) -> None:
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
                data = self._source.read(PIECE) if self._decompressor.needs_input else b""
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
        data = self._decompressor.unused_data or self._source.read(PIECE)
        while data and not data.strip(b"\0"):
            data = self._source.read(PIECE)
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
        self._stream = io.BufferedReader(source, PIECE // 4)
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
            rest = self.read(PIECE)
            zeros = len(rest)
        while zeros >= tarfile.BLOCKSIZE and rest:
            if rest.strip(b"\0"):
                raise tarfile.ReadError("what follows its last member is damaged, or belongs to another archive")
            if zeros > _LONGEST_PADDING:
                raise tarfile.ReadError(f"more than {size_of(_LONGEST_PADDING)} of zeros follow its last member")
            rest = self.read(PIECE)
            zeros += len(rest)
        if zeros < 2 * tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it ends early: its last part is missing, or it was cut off")
        if offset == 0 and zeros > tarfile.RECORDSIZE:
            raise tarfile.ReadError("it holds zeros alone")
