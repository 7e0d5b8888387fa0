"""Image files of a synthesis: their format, opened with one clear error, written whole or not at all."""

import os
import shutil
from pathlib import Path
from typing import Annotated, Literal

from PIL import Image
from pydantic import Field

from ..files import whole_file
from ..image_reading_fafa import UnreadableImageError, open_image
from .components import SynthesisError
from .settings import Settings

_ONE_COLOUR = 2  # levels by which one colour may vary in JPEG
_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


class ImageFormat(Settings):
    """Settings for storing images."""

    image_format: Literal["png", "jpg"] = "png"  # "png", or "jpg", which takes a tenth of the space
    image_quality: Annotated[int, Field(ge=1, le=100)] = 95  # JPEG's quality, 1 to 100


def open_rgb(picture: Path | Image.Image) -> Image.Image:
    """An image as RGB; see `open_image`.

    Raises:
        SynthesisError: the file is missing or damaged, or cannot be read now.
    """
    try:
        return open_image(picture)
    except UnreadableImageError as error:
        raise SynthesisError(f"{picture}: {error.reason} Or delete it and give the same command again.") from error
    except OSError as error:
        raise SynthesisError(str(error)) from error


def is_one_colour(image: Image.Image) -> bool:
    """Whether an image shows nothing: black, or any other colour all over."""
    extrema = image.convert("RGB").getextrema()
    return all(highest - lowest <= _ONE_COLOUR for lowest, highest in extrema)


def list_images(folder: Path) -> list[Path]:
    """The images in a folder and below, by name.

    Raises:
        SynthesisError: there are none.
    """
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _PICTURES)
    if not found:
        raise SynthesisError(f"{folder}: there are no images ({', '.join(sorted(_PICTURES))})")
    return found


def save_image(image: Image.Image, file: Path, quality: int) -> None:
    """Save an image by its suffix, whole or not at all.

    Args:
        image: RGB.
        file: Ends in .png or .jpg; missing folders are made.
        quality: JPEG's quality, 1 to 100.
    """
    is_jpeg = file.suffix == ".jpg"
    options = {"format": "JPEG", "quality": quality} if is_jpeg else {"format": "PNG", "compress_level": 1}
    with whole_file(file, is_flushed=False) as part:
        image.save(part, **options)


def link_image(source: Path, destination: Path) -> None:
    """A hard link, or a copy where there cannot be one; nothing if it is there already."""
    if destination.exists():
        return
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, destination)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, destination)
