"""Opening image files to see whether they are sound. Imports little, for processes that do just this."""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import xxhash
from PIL import Image, UnidentifiedImageError

UNREADABLE = (  # what Pillow raises over broken files
    EOFError,
    Image.DecompressionBombError,
    IndexError,
    KeyError,
    OSError,
    OverflowError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


class ImageCheck(NamedTuple):
    """What opening an image file showed.

    Attributes:
        size: Of the file, in bytes.
        mtime: When the file was written, in nanoseconds.
        content: Hash of the file; "" if it cannot be read.
        width: Of the image, in pixels; 0 if it cannot be decoded.
        height: Of the image, in pixels; 0 if it cannot be decoded.
        error: Why it cannot be read or decoded; "" if it is sound.
    """

    size: int
    mtime: int
    content: str
    width: int
    height: int
    error: str


def check_image(file: str) -> ImageCheck:
    """Read and fully decode an image file."""
    size = mtime = 0
    content = ""
    try:
        status = os.stat(file)  # noqa: PTH116 - there are millions, and Path takes far longer
        size, mtime = status.st_size, status.st_mtime_ns
        data = Path(file).read_bytes()
        content = xxhash.xxh3_128_hexdigest(data)
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return ImageCheck(size, mtime, content, image.width, image.height, "")
    except UnidentifiedImageError:
        error = "no image that Pillow knows"
    except UNREADABLE as caught:
        error = f"{type(caught).__name__}: {caught}"
    return ImageCheck(size, mtime, content, 0, 0, error)
