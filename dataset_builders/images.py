"""Opening image files to see whether they are sound. Imports little, for processes that do just this."""

import os
from typing import NamedTuple

import xxhash

from ..image_reading_fafa import InaccessibleImageError, UnreadableImageError, inspect_image, read_image_file


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
