"""Reads the parts of a split archive as one file."""

import io
import struct
import zipfile
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from .finding import SPANNED_ZIP

_LONGEST_ZIP_END = (1 << 16) + 100  # bytes of a zip's end records and comment


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
        self._end = bytearray()  # replaces the last bytes

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
        """Change the end records of a spanned zip (.z01, .z02, ..., .zip) so that zipfile accepts them.

        They name the part ("disk") that each offset counts from (APPNOTE 4.3.14 to 4.3.16). Afterwards they say that
        there is one part, with the central directory at offset 0: zipfile finds it by its size, from the end.

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
        is_spanned = any(map(SPANNED_ZIP.fullmatch, (part.name for part in self._parts)))
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
