"""Pictures of the gallery's images: people, photographs, moments of films; all by the image's number alone.

No path comes from a client, and none goes to one. A file is opened only where a search would name it
(`Gallery.load(check_images=…)`), is decoded by the one reader of images, and leaves as a new picture.
"""

import io
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import xxhash
from PIL import Image

from ..drawing.boxes import draw_box
from ..extras import not_installed
from ..files import stamp_of
from ..film_reading import clock_at_beginning, is_film
from ..image_reading_fafa import MAX_PIXELS, InaccessibleImageError, UnreadableImageError, inspect_image, open_image
from ..names import printable
from ..retrieval.gallery import Gallery
from ..retrieval.opening import open_whole
from ..retrieval.searching import SearchResult
from .faults import Refused

logger = logging.getLogger(__name__)

One = TypeVar("One")

GONE = "The photograph of this result is gone, has changed or cannot be read now."
THUMBNAIL, PHOTO = 480, 1_600  # pixels of the longer side


def holds_films(gallery: Gallery) -> bool:
    """Whether moments of films are among a gallery's images.

    Raises:
        ModuleNotFoundError: they are, and PyAV is missing, which reads them; the message says how to install it.
    """
    has_films = len(gallery.state.living_rows_matching("time != None")) > 0
    if has_films and find_spec("av") is None:
        raise not_installed("av", "it shows the films of this gallery")
    return has_films


def name_of(result: SearchResult) -> str:
    """A result's file as users know it: within the gallery's folder, never where that lies."""
    entry, folder = result.entry, result._state.images_folder
    if entry.path is None:
        return f"image {result.id}"
    path = Path(entry.path)
    return printable(path.relative_to(folder) if folder and path.is_relative_to(folder) else path.name)


def thumbnail_url(result: SearchResult) -> str:
    """Of the person; whatever changes it changes the address, so that browsers may keep it."""
    return f"/media/{result.id}/crop.webp?v={_version(result)}"


def photo_url(result: SearchResult) -> str | None:
    """Of the photograph, or the film's frame, with the person's box; None where there is no file to show."""
    return None if result.path is None else f"/media/{result.id}/photo.webp?v={_version(result)}"


def _version(result: SearchResult) -> str:
    entry = result.entry
    return xxhash.xxh3_64_hexdigest(repr((entry.contents, entry.stamp, entry.box, entry.time)).encode())


def film_url(result: SearchResult) -> str | None:
    """Of the film, at the moment; None of a photograph."""
    time = result.entry.time
    if result.path is None or time is None:
        return None
    with suppress(OSError):
        time += _clock_at_beginning(result.path, stamp_of(result.path.stat()))
    return f"/media/{result.id}/film#t={max(0.0, time):.7g}"


@lru_cache(maxsize=1_000)
def _clock_at_beginning(film: Path, _stamp: tuple[int, ...]) -> float:
    """It reads the film's head, once for each state of the file."""
    return clock_at_beginning(film)


def film_of(result: SearchResult) -> Path:
    """The film that a result is of.

    Raises:
        FileNotFoundError: it is of none, or that is gone or has changed.
    """
    if result.path is None or result.entry.time is None or not is_film(result.path):
        raise FileNotFoundError(f"image {result.id} is of no film that can be shown")
    return result.path


def open_photo(result: SearchResult) -> Image.Image:
    """The whole photograph, or the film's frame, upright.

    Raises:
        FileNotFoundError: it is gone, or has other contents than those that were indexed.
        UnreadableImageError, InaccessibleImageError, ValueError, OSError: it cannot be read.
    """
    if result.path is None:
        raise FileNotFoundError(f"image {result.id} has no file, or one with other contents than when it was indexed")
    return open_whole(result.path, result.entry.time)


def open_person(result: SearchResult, longest: int | None = None) -> Image.Image:
    """The person in it; errors as for `open_photo`.

    Args:
        longest: pixels of the longer side that are enough: a large photograph is then decoded at a part of its size.
    """
    box = result.entry.box
    if longest is None or result.path is None or result.entry.time is not None:
        return result.open()
    if box is None:
        return open_image(result.path, at_least=(longest, longest))
    size = inspect_image(result.path, decode=False)
    if size.width * size.height > MAX_PIXELS:  # boxes are of the smaller image that `open_image` makes of it
        return result.open()
    scale = min(1.0, longest / max(box[2] - box[0], box[3] - box[1]))
    photo = open_image(result.path, at_least=(math.ceil(scale * size.width), math.ceil(scale * size.height)))
    across, down = photo.width / size.width, photo.height / size.height
    return photo.crop((round(box[0] * across), round(box[1] * down), round(box[2] * across), round(box[3] * down)))


def cropped(picture: Image.Image, box: Sequence[float]) -> Image.Image:
    """A person of a picture.

    Raises:
        Refused: the box, in pixels, lies outside it.
    """
    left, top, right, bottom = box
    left, top = max(0, round(left)), max(0, round(top))
    right, bottom = min(picture.width, round(right)), min(picture.height, round(bottom))
    if right <= left or bottom <= top:
        raise Refused("The box of the person lies outside the picture: choose the person again.")
    return picture.crop((left, top, right, bottom))


def with_box(result: SearchResult) -> Image.Image:
    """The whole photograph with the person's box; errors as for `open_photo`."""
    photo, box = open_photo(result), result.entry.box
    return photo if box is None else draw_box(photo, box)


def as_webp(picture: Image.Image, longest: int) -> bytes:
    """A picture as WebP, at most so large."""
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=82, method=2)
    return stream.getvalue()


def readable(opened: Callable[[SearchResult], One], result: SearchResult) -> One:
    """What is opened of a result.

    Raises:
        Refused: it cannot be opened.
    """
    try:
        return opened(result)
    except (OSError, UnreadableImageError, InaccessibleImageError, ValueError, ImportError) as error:
        logger.info("image %d of the gallery cannot be opened: %s", result.id, error)
        raise Refused(GONE, 404) from None
