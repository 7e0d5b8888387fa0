"""Pictures of the gallery's images: people, photographs, moments of films; all by the image's number alone.

No path comes from a client, and none goes to one. A file is opened only where a search would name it
(`Gallery.load(check_images=…)`), is decoded by the one reader of images, and leaves as a new picture.
"""

import io
from pathlib import Path

import xxhash
from PIL import Image, ImageDraw

from ..drawing.palette import VERMILION
from ..image_reading_fafa import open_image
from ..names import printable
from ..retrieval.searching import SearchResult

THUMBNAIL, PHOTO = 480, 1_600  # pixels of the longer side


def name_of(result: SearchResult) -> str:
    """A result's file as users know it: within the gallery's folder, never where that lies."""
    entry, folder = result.entry, result._state.images_folder
    if entry.path is None:
        return f"image {result.id}"
    path = Path(entry.path)
    return printable(path.relative_to(folder) if folder and path.is_relative_to(folder) else path.name)


def thumbnail_url(result: SearchResult) -> str:
    """Of the person; whatever changes it changes the address, so that browsers may keep it."""
    entry = result.entry
    version = xxhash.xxh3_64_hexdigest(repr((entry.contents, entry.stamp, entry.box, entry.time)).encode())
    return f"/media/{result.id}/crop.webp?v={version}"


def photo_url(result: SearchResult) -> str | None:
    """Of the photograph, or the film's frame, with the person's box; None where there is no file to show."""
    return None if result.path is None else f"/media/{result.id}/photo.webp"


def film_url(result: SearchResult) -> str | None:
    """Of the film, at the moment; None of a photograph."""
    time = result.entry.time
    return None if result.path is None or time is None else f"/media/{result.id}/film#t={max(0.0, time):g}"


def open_photo(result: SearchResult) -> Image.Image:
    """The whole photograph, or the film's frame, upright.

    Raises:
        FileNotFoundError: it is gone, or has other contents than those that were indexed.
        UnreadableImageError, InaccessibleImageError, ValueError, OSError: it cannot be read.
    """
    if result.path is None:
        raise FileNotFoundError(f"image {result.id} has no file, or one with other contents than when it was indexed")
    time = result.entry.time
    if time is None:
        return open_image(result.path)
    from ..people.films import frame_at

    return frame_at(result.path, time)


def open_person(result: SearchResult) -> Image.Image:
    """The person in it; errors as for `open_photo`."""
    photo, box = open_photo(result), result.entry.box
    return photo if box is None else photo.crop(box)


def with_box(result: SearchResult) -> Image.Image:
    """The whole photograph with the person's box; errors as for `open_photo`."""
    photo, box = open_photo(result), result.entry.box
    if box is not None:
        width = max(2, round(max(photo.size) / 250))
        ImageDraw.Draw(photo).rectangle([round(side) for side in box], outline=VERMILION, width=width)
    return photo


def as_webp(picture: Image.Image, longest: int) -> bytes:
    """A picture as WebP, at most so large."""
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=82, method=2)
    return stream.getvalue()
