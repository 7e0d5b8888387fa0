"""What `verify` found out about image files, and when it still holds. Imports little, for processes that open images.

A sound image is noted in a line of JSON: path, bytes, time, hash, width, height, and what the file was when it was
opened. While that is unchanged, the file is not even read. After `cp -r`, say, its contents decide, without decoding.
Only sound images are noted: what was broken or could not be read may be mended by the next time.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..files import hash_file, stamp_of
from .images import ImageCheck

JUDGE = 2  # raise it whenever `check_image` refuses what it called sound before: all images are opened again then


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


def look_at(task: tuple[str, ImageCheck | None], check: Callable[[str], ImageCheck]) -> Found:
    """Recognise or check an image file.

    Args:
        task: The file, and the verdict on what was there at the last check; None if there is none.
        check: Opens an image file.
    """
    file, known = task
    try:
        stamp = stamp_of(os.stat(file))  # noqa: PTH116 - there are millions, and Path takes far longer
        if known and known.size == stamp[0] and hash_file(file) == known.content:
            return Found(known._replace(mtime=stamp[1]), stamp, was_opened=False)
    except OSError:
        stamp = None  # the check tells why
    found = check(file)
    if found.error and not found.content:  # nothing was read: trouble of the disk, or a file that is not read at all
        try:
            with open(file, "rb") as stream:  # noqa: PTH123 - as above
                stream.read(1)
            found = check(file)  # the trouble may have passed
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
