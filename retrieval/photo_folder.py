"""Finds the photographs in a folder."""

import logging
import os
from collections import Counter
from pathlib import Path

from PIL import Image

logger = logging.getLogger(__name__)

# As Pillow calls them; HEIF is there with pillow-heif, JXL with pillow-jxl-plugin, AVIF depends on Pillow's build.
PHOTO_FORMATS = {"AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "JXL", "MPO", "PNG", "PPM", "TIFF", "WEBP"}
# Pictures that Pillow may not open as photos, so that a gallery lacks them.
HEIF_SUFFIXES = {".heic", ".heif", ".hif"}
CAMERA_SUFFIXES = {".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw"}
PICTURE_SUFFIXES = {*HEIF_SUFFIXES, *CAMERA_SUFFIXES, ".avif", ".jxl", ".psd", ".svg", ".tga"}


def find_images(folder: str | Path) -> list[Path]:
    """All image files in a folder and the folders within it, told by their suffix and sorted by name.

    Photo formats that the installed Pillow opens; a warning tells how many others were left aside. An iPhone's HEIC is
    opened where pillow-heif is installed. Links to folders are followed, each folder once.

    Raises:
        NotADirectoryError: there is no such folder.
        ValueError: it holds no image file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder; give the one that holds the gallery's images")
    files, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):  # rglob leaves linked folders out
        folders.sort()
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        files += [path for name in names if (path := Path(place, name)).is_file()]
    files.sort()
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in PHOTO_FORMATS}
    images = [path for path in files if path.suffix.lower() in suffixes]
    left_aside = Counter(path.suffix.lower() for path in files if path.suffix.lower() not in suffixes)
    pictures = ", ".join(f"{count:,} {suffix}" for suffix, count in left_aside.items() if suffix in PICTURE_SUFFIXES)
    warning = f"pictures left aside, which Pillow does not open as photos: {pictures}" if pictures else ""
    if HEIF_SUFFIXES & left_aside.keys():
        warning += " (pip install pillow-heif, and HEIC is opened)"
    if not images:
        hint = warning or f"expected {', '.join(sorted(suffixes))}"
        raise ValueError(f"no image among the {len(files)} files in {folder}; {hint}")
    if warning:
        logger.warning("%s: %s", folder, warning)
    logger.info("%s: %d images, %d other files left aside", folder, len(images), left_aside.total())
    return images
