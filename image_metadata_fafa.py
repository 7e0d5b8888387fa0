"""What lies beside the pixels in a photograph's file: found, cut off before decoding, and read without a library.

Metadata may be damaged or hostile: nothing here follows a chain of entries, or makes room for what a count promises.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from datetime import datetime
from itertools import count

import numpy as np

MAX_SEGMENTS = 2**18  # of a file: a PNG of `MAX_BYTES` has one a kB; each takes a microsecond, and is no pixels' time
_JPEG_EMPTY = {0x00, 0x01, *range(0xD0, 0xDA)}  # markers without contents
_JPEG_METADATA = {*range(0xE1, 0xF0), 0xFE} - {0xEE}  # not JFIF's and Adobe's, which describe colours
_FIRST_SCAN, _END_OF_IMAGE = 0xDA, 0xD9

_CAMERA, _ORIENTATION, _CHANGED, _MORE, _TAKEN, _DIGITIZED = 0x0110, 0x0112, 0x0132, 0x8769, 0x9003, 0x9004  # of EXIF
_TAGS = {_CAMERA, _ORIENTATION, _CHANGED, _MORE, _TAKEN, _DIGITIZED}
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # type of an entry -> struct's
_TEXTS = (2, 129)  # types: ASCII, UTF-8
_LONGEST_TEXT = 200  # bytes of a text that are read
_DATE = re.compile(r"([0-9]{4})[:/.-]([0-9]{2})[:/.-]([0-9]{2})(?:[ T]([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?)?")


def bare_jpeg(data: bytes) -> tuple[bytes, bytes | None, bytes | None, int]:
    """A JPEG without metadata, its EXIF and XMP, and the number of scans of its first image.

    The number is 1 where no scan is found.

    Raises:
        ValueError: there are more than `MAX_SEGMENTS` segments.
    """
    view, exif, xmp = memoryview(data), None, None
    parts = [view[:2]]
    for marker, start, end in _segments(data):
        if marker == _FIRST_SCAN:
            return b"".join([*parts, view[start:]]), exif, xmp, _num_scans(data, end)
        if marker == 0xE1 and data[start + 4 : start + 10] == b"Exif\0\0":
            exif = exif or data[start + 4 : end]
        elif marker == 0xE1:
            xmp = xmp or data[start + 4 : end]
        if marker not in _JPEG_METADATA:
            parts.append(view[start:end])
    return data, exif, xmp, 1


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment of a JPEG, up to the first scan."""
    start = 2
    for number in count():
        start = data.find(b"\xff", start)
        if start < 0 or start + 4 > len(data):
            return
        _check_number(number)
        marker = data[start + 1]
        if marker in _JPEG_EMPTY:
            start += 2
        elif marker == 0xFF:  # a filler
            start += 1
        else:
            end = start + 2 + max(2, int.from_bytes(data[start + 2 : start + 4], "big"))
            yield marker, start, end
            if marker == _FIRST_SCAN:
                return
            start = end


def _num_scans(data: bytes, start: int) -> int:
    """The scan before `start`, and those that begin between it and the end of the image, of which a file may lack."""
    pixels = np.frombuffer(data, dtype=np.uint8, offset=min(start, len(data)))
    markers = pixels[1:][pixels[:-1] == 0xFF]  # five times as fast as bytes.find and bytes.count of two bytes
    ends = np.flatnonzero(markers == _END_OF_IMAGE)
    return 1 + int(np.count_nonzero(markers[: ends[0] if len(ends) else None] == _FIRST_SCAN))


def bare_png(data: bytes) -> tuple[bytes, bytes | None, bytes | None]:
    """A PNG with only the chunks that its first image needs, its EXIF and XMP; errors as for `bare_jpeg`."""
    parts, exif, xmp, start = [data[:8]], None, None, 8
    for number in count():
        if start + 8 > len(data):
            break
        _check_number(number)
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        kind = data[start + 4 : start + 8]
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            parts.append(data[start:end])
        elif kind == b"eXIf" and zlib.crc32(data[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big"):
            exif = exif or data[start + 8 : end - 4]
        elif kind == b"iTXt" and data.startswith(b"XML:com.adobe.xmp", start + 8):
            xmp = xmp or data[start + 8 : end - 4]
        start = end
    return b"".join(parts), exif, xmp


def _check_number(number: int) -> None:
    if number == MAX_SEGMENTS:
        raise ValueError(f"it consists of more than {MAX_SEGMENTS:,} segments")


def orientation_of(exif: bytes | None, xmp: bytes | None) -> int:
    """How an image is stored, by its EXIF, or else its XMP; 1, upright, if neither tells.

    Pillow would read all tags, and warn or raise nearly anything over damaged ones; only this tag counts.
    """
    value = _read_exif(exif).get(_ORIENTATION) if isinstance(exif, bytes) else None
    if value is None and isinstance(xmp, bytes) and (match := re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp)):
        return int(match[1])
    return value if value in range(1, 9) else 1


def taken_and_camera(exif: bytes | None) -> tuple[str | None, str | None]:
    """When and with what a photograph was taken: "2024-05-01T10:30:00" (or a date alone), and the camera's model.

    The date is that of taking, else of digitising, else of the last change. What is no date, or no text that can be
    printed, is left out.
    """
    tags = _read_exif(exif) if isinstance(exif, bytes) else {}
    dates = (_as_date(tags.get(tag)) for tag in (_TAKEN, _DIGITIZED, _CHANGED))
    camera = tags.get(_CAMERA)
    camera = " ".join(camera.split()) if isinstance(camera, str) else ""
    return next(filter(None, dates), None), camera if camera.isprintable() and camera else None


def _as_date(text: int | str | None) -> str | None:
    match = _DATE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        return None
    try:
        moment = datetime(*(int(number or 0) for number in match.groups()))
    except ValueError:  # as cameras write that were never set: 0000:00:00 00:00:00
        return None
    return moment.isoformat() if match[4] else moment.date().isoformat()


def _read_exif(exif: bytes) -> dict[int, int | str]:
    """Those of `_TAGS` that hold one whole number or a text, from the first list of entries, and from EXIF's own."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 10:
        return {}
    tags = _read_entries(exif, order, struct.unpack_from(f"{order}I", exif, 4)[0])
    if isinstance(more := tags.get(_MORE), int) and more > 0:
        tags |= {tag: value for tag, value in _read_entries(exif, order, more).items() if tag in (_TAKEN, _DIGITIZED)}
    return tags


def _read_entries(exif: bytes, order: str, start: int) -> dict[int, int | str]:
    (num_entries,) = struct.unpack(f"{order}H", exif[start : start + 2].ljust(2, b"\0"))
    entries, tags = exif[start + 2 : start + 2 + 12 * num_entries], {}
    for tag, kind, length, content in struct.iter_unpack(f"{order}HHI4s", entries[: len(entries) // 12 * 12]):
        if tag not in _TAGS or tag in tags:
            continue
        if kind in _INTEGERS and length == 1:
            tags[tag] = struct.unpack_from(f"{order}{_INTEGERS[kind]}", content)[0]
        elif kind in _TEXTS:
            place = 0 if length <= 4 else struct.unpack(f"{order}I", content)[0]
            text = (content if length <= 4 else exif)[place : place + min(length, _LONGEST_TEXT)]
            tags[tag] = text.split(b"\0")[0].decode(errors="replace")
    return tags


__all__ = ["MAX_SEGMENTS", "bare_jpeg", "bare_png", "orientation_of", "taken_and_camera"]
