"""Checks whether image files are sound, and whether a verdict still holds. It imports little, for worker processes.

A sound image is noted in a line of JSON: path, bytes, time, hash, width, height, and the rest of the file's stamp. As
long as the stamp is unchanged, the file is not even read. After `cp -r`, for example, its contents decide, without
decoding. Only sound images are noted: what was broken or could not be read may be mended by the next time.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import xxhash

from ..files import hash_file, stamp_of
from ..image_reading_fafa import UnreadableImageError, inspect_image, read_image_file

JUDGE = 2  # raise it whenever `check_image` refuses what it accepted before: then all images are opened again


class ImageCheck(NamedTuple):
    """What opening an image file showed."""

    size: int  # bytes of the file
    content: str  # hash of the file; "" if it cannot be read
    width: int  # pixels of the upright image; 0 if it cannot be decoded
    height: int  # pixels of the upright image; 0 if it cannot be decoded
    error: str  # why it cannot be read or decoded; "" if it is sound


class Found(NamedTuple):
    """What looking at an image file showed."""

    check: ImageCheck  # the verdict
    # the stamp of the file before it was opened, see `files.stamp_of`; None if there was no file
    stamp: tuple[int, ...] | None
    was_opened: bool  # whether it was decoded, and not only recognised
    is_inaccessible: bool = False  # whether the file could not be read now, which says nothing about the image


def check_image(file: str) -> ImageCheck:
    """Check an image file by the reader of training and search. Raises OSError if it cannot be read now."""
    size, content, width, height, error = 0, "", 0, 0, ""
    try:
        data = read_image_file(file)
        size, content = len(data), xxhash.xxh3_128_hexdigest(data)
        _, width, height = inspect_image({"bytes": data})
    except UnreadableImageError as caught:
        error = caught.reason
    return ImageCheck(size, content, width, height, error)


def look_at(task: tuple[str, ImageCheck | None]) -> Found:
    """Recognise or check an image file.

    Args:
        task: The file, and the verdict on what was there at the last check; None if there is none.
    """
    file, known = task
    try:
        stamp = stamp_of(os.stat(file))  # noqa: PTH116 - there are millions, and Path takes far longer
        if known and known.size == stamp[0] and hash_file(file) == known.content:
            return Found(known, stamp, was_opened=False)
        return Found(check_image(file), stamp, was_opened=True)
    except OSError as error:
        reason = getattr(error, "reason", error.strerror) or error
        return Found(ImageCheck(0, "", 0, 0, f"{reason} ({file})"), None, was_opened=True, is_inaccessible=True)


def as_line(path: str, found: Found) -> str:
    """The note about a sound image."""
    size, content, width, height, _ = found.check
    return json.dumps([path, size, found.stamp[1], content, width, height, [JUDGE, *found.stamp[2:]]]) + "\n"


def read_lines(state: Path) -> Iterator[tuple[str, ImageCheck, tuple[int, ...]] | None]:
    """Path, verdict and stamp of the images that earlier checks found sound; None for a useless line.

    Lines that cannot be read, as a killed run leaves them, are useless, and so are those of an earlier judge.
    """
    with state.open("a+", encoding="utf-8", errors="replace") as stream:
        stream.seek(0)
        for line in filter(str.strip, stream):
            try:
                path, size, mtime, content, width, height, (judge, *rest) = json.loads(line)
                verdict = ImageCheck(size, content, width, height, error="")
                is_usable = judge == JUDGE and isinstance(path, str) and int(content, 16) >= 0
                yield (path, verdict, (size, mtime, *rest)) if is_usable else None
            except (ValueError, TypeError, RecursionError):
                yield None
