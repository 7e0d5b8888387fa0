"""The image of a gallery's entry: a photograph, a person in one, or a person in a film at a moment."""

from pathlib import Path

from PIL import Image

from ..film_reading import frame_at
from ..image_reading_fafa import open_image
from .metadata import Entry


def open_entry(entry: Entry) -> Image.Image:
    """The image that an entry is of: upright, RGB, cut to its box.

    Args:
        entry: with an absolute path, as `SearchResult.entry` has it.

    Raises:
        ValueError: it has no file. UnreadableImageError, UnreadableFilmError: it is damaged; both are ValueErrors.
        FileNotFoundError, OSError: it is gone, or cannot be read.
    """
    if entry.path is None:
        raise ValueError("this image of the gallery has no file, or it has changed since: it cannot be opened")
    whole = open_whole(entry.path, entry.time)
    return whole if entry.box is None else whole.crop(tuple(map(round, entry.box)))


def open_whole(path: str | Path, time: float | None) -> Image.Image:
    """The photograph, or with a time the film's frame at that moment, upright, RGB; errors as for `open_entry`."""
    return open_image(path) if time is None else frame_at(path, time)
