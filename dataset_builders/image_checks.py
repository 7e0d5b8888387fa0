"""Whether image files are sound, and when a verdict still holds. Imports little, for processes that do just this.

A sound image is noted in a line of JSON: path, bytes, time, hash, width, height, and what the file was when it was
opened. While that is unchanged, the file is not even read. After `cp -r`, say, its contents decide, without decoding.
Only sound images are noted: what was broken or could not be read may be mended by the next time.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import xxhash

from ..files import hash_file, stamp_of
from ..image_reading_fafa import InaccessibleImageError, UnreadableImageError, inspect_image, read_image_file

JUDGE = 2  # raise it whenever `check_image` refuses what it called sound before: all images are opened again then


class ImageCheck(NamedTuple):
    """What opening an image file showed.

    Attributes:
        size: Of the file, in bytes.
        mtime: When the file was written, in nanoseconds.
        content: Hash of the file; "" if it cannot be read.
        width: Of the upright image, in pixels; 0 if it cannot be decoded.
        height: Of the upright image, in pixels; 0 if it cannot be decoded.
        error: Why it cannot be read or decoded; "" if it is sound.
    """

    size: int
    mtime: int
    content: str
    width: int
    height: int
    error: str


class Found(NamedTuple):
    """What looking at an image file showed.

    Attributes:
        check: The verdict.
        stamp: Of the file before it was opened; see `files.stamp_of`. None if there was none.
        was_opened: Whether it was decoded, and not only recognised.
        is_inaccessible: Whether the file could not be read now, which says nothing about the image.
    """

    check: ImageCheck
    stamp: tuple[int, ...] | None
    was_opened: bool
    is_inaccessible: bool = False


def check_image(file: str) -> ImageCheck:
    """Read an image file and see whether it is sound, by the reader that training and search use."""
    size = mtime = 0
    content = ""
    try:
        status = os.stat(file)  # noqa: PTH116 - there are millions, and Path takes far longer
        size, mtime = status.st_size, status.st_mtime_ns
        data = read_image_file(file)
        content = xxhash.xxh3_128_hexdigest(data)
        _, width, height = inspect_image({"bytes": data})
    except (InaccessibleImageError, UnreadableImageError) as caught:
        return ImageCheck(size, mtime, content, 0, 0, caught.reason)
    except OSError as caught:
        return ImageCheck(size, mtime, content, 0, 0, f"{type(caught).__name__}: {caught}")
    return ImageCheck(size, mtime, content, width, height, "")


def look_at(task: tuple[str, ImageCheck | None]) -> Found:
    """Recognise or check an image file.

    Args:
        task: The file, and the verdict on what was there at the last check; None if there is none.
    """
    file, known = task
    try:
        stamp = stamp_of(os.stat(file))  # noqa: PTH116 - there are millions, and Path takes far longer
        if known and known.size == stamp[0] and hash_file(file) == known.content:
            return Found(known._replace(mtime=stamp[1]), stamp, was_opened=False)
    except OSError:
        stamp = None  # the check tells why
    found = check_image(file)
    if found.error and not found.content:  # nothing was read: trouble of the disk, or a file that is not read at all
        try:
            with open(file, "rb") as stream:  # noqa: PTH123 - as above
                stream.read(1)
            found = check_image(file)  # the trouble may have passed
        except OSError as error:
            why = f"{error.strerror or error} ({file})"
            return Found(found._replace(error=why), None, was_opened=True, is_inaccessible=True)
    return Found(found, stamp, was_opened=True)


def as_line(path: str, found: Found) -> str:
    """What is noted of a sound image."""
    return json.dumps([path, *found.check[:-1], [JUDGE, *found.stamp[2:]]]) + "\n"


def read_lines(state: Path) -> Iterator[tuple[str, ImageCheck, tuple[int, ...]] | None]:
    """Path, verdict and stamp of the images that earlier checks found sound; None for a line of no use.

    Of no use are lines that cannot be read, as a killed run leaves them, and those of an earlier judge.
    """
    with state.open("a+", encoding="utf-8", errors="replace") as stream:
        stream.seek(0)
        for line in filter(str.strip, stream):
            try:
                path, size, mtime, content, width, height, (judge, *rest) = json.loads(line)
                verdict = ImageCheck(size, mtime, content, width, height, error="")
                is_usable = judge == JUDGE and isinstance(path, str) and int(content, 16) >= 0
                yield (path, verdict, (size, mtime, *rest)) if is_usable else None
            except (ValueError, TypeError, RecursionError):
                yield None
