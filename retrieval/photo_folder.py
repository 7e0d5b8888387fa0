"""Finds the photographs and the films in a folder, and leaves out what programs put beside them."""

import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from fnmatch import translate
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ..files import printable, some
from ..film_reading import is_film
from ..image_reading_fafa import PHOTO_FORMATS
from ..names import counted

logger = logging.getLogger(__name__)

# Image formats that are not searched: Pillow may lack them, so that the gallery lacks their files.
HEIF_SUFFIXES = {".heic", ".heif", ".hif"}
CAMERA_SUFFIXES = {".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw"}
OTHER_SUFFIXES = {*HEIF_SUFFIXES, *CAMERA_SUFFIXES, ".avif", ".jxl", ".psd", ".svg", ".tga"}

# Files so named are films, whatever they hold: one that is damaged is told when it is read, and not passed over.
FILM_SUFFIXES = {
    *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv"),
    *(".vob", ".webm", ".wmv"),
}

# Previews, waste baskets, versions and side files of any program, whatever their case: no photographs of their own.
RUBBISH = (
    *("@eadir", "#recycle", "@recycle", "@tmp", "#snapshot", ".@__thumb", ".@upload_cache", ".recycle"),  # NAS
    *(".thumbnails", ".thumb", ".thumbs", ".trash", ".trash-*", ".trashes", ".trashed-*"),  # Linux, phones
    *("$recycle.bin", "system volume information", ".picasaoriginals", ".dtrash"),  # Windows, albums
    *("._*", ".appledouble", "__macosx", ".spotlight-v100", ".fseventsd", ".documentrevisions-v100"),  # macOS
    *("*.lrdata", "*.lrlibrary/previews", "*.photoslibrary/resources", "*.photoslibrary/database"),  # Lightroom, Photos
    *("*.cocatalog", "*.aplibrary/thumbnails", "*.aplibrary/previews", ".stversions", "lost+found"),
    *(".git", ".hg", ".svn", ".cache", ".dropbox.cache", "node_modules", "__pycache__", ".ipynb_checkpoints"),
)

_HIDDEN = "hidden (.*)"  # how folders whose names begin with a dot are counted; a hidden photograph may be meant


def find_images(
    folder: str | Path, exclude: Sequence[str] = (), rubbish: bool = False, films: Collection[Path] = ()
) -> list[Path]:
    """All image files in a folder and the folders within it, told by their suffix and sorted by name.

    These are photo formats that the installed Pillow opens (HEIC where pillow-heif is installed); a warning counts the
    others. Links to folders are followed, each folder once. A folder that may not be listed is named in a warning.

    Args:
        exclude: patterns (`*`, `?`, `[...]`) of files and folders to leave out: of a name, or, with a slash, of a path
            within `folder`.
        rubbish: whether to take also what programs keep beside photographs: previews, waste baskets and the like, see
            `RUBBISH`, and hidden folders, whose names begin with a dot.
        films: those in it that are read, too, see `find_films`: a folder that holds some may be without images.

    Raises:
        NotADirectoryError: there is no such folder.
        PermissionError: it may not be listed.
        ValueError: it holds no image file.
    """
    folder = Path(folder)
    suffixes = _photo_suffixes()
    found = _walk(folder, exclude, rubbish, suffixes)
    images = [path for path in found.files if path.suffix.lower() in suffixes]
    others = set(found.files).difference(images, films)
    left_aside = Counter(path.suffix.lower() for path in others)
    warnings = []
    if found.unreadable:
        warnings.append(f"images are missing, since these may not be read: {some(found.unreadable)}")
    if left_aside.keys() & OTHER_SUFFIXES:
        told = ", ".join(f"{count:,} {suffix}" for suffix, count in left_aside.items() if suffix in OTHER_SUFFIXES)
        hint = "; HEIC is opened after pip install pillow-heif" if HEIF_SUFFIXES & left_aside.keys() else ""
        warnings.append(f"images left aside, whose formats are not searched here: {told}{hint}")
    excluded = ", ".join(f"{count:,} {printable(pattern)}" for pattern, count in sorted(found.left_out.items()))
    if not images and not films:
        hints = [*warnings, *([f"left out: {excluded}"] if excluded else [])]
        hint = "; ".join(hints) or f"expected {', '.join(sorted(suffixes))}"
        raise ValueError(f"no image among {counted(len(found.files), 'file')} in {printable(folder)}; {hint}")
    for warning in warnings:
        logger.warning("%s: %s", printable(folder), warning)
    num_images = counted(len(images), "image") + (f", {counted(len(films), 'film')}" if films else "")
    logger.info("%s: %s, %s left aside", printable(folder), num_images, counted(left_aside.total(), "other file"))
    if excluded:
        logger.info("%s: folders and images left out as no photographs: %s", printable(folder), excluded)
    return images


def find_films(folder: str | Path, exclude: Sequence[str] = (), rubbish: bool = False) -> list[Path]:
    """All films in a folder and the folders within it, sorted by name; there may be none.

    They are told by their first bytes, or by one of `FILM_SUFFIXES`, so that one that is damaged is among them. Files
    with the suffix of an image are none; all else, and errors, as for `find_images`.
    """
    suffixes = {*_photo_suffixes(), *OTHER_SUFFIXES}
    files = _walk(Path(folder), exclude, rubbish, suffixes | FILM_SUFFIXES).files
    others = [path for path in files if path.suffix.lower() not in suffixes]
    return [path for path in others if path.suffix.lower() in FILM_SUFFIXES or is_film(path)]


class _Found(NamedTuple):
    """What lies in a folder: its files, what could not be read, and how many were left out, by pattern."""

    files: list[Path]
    unreadable: list[Path]
    left_out: Counter


def _photo_suffixes() -> set[str]:
    return {suffix for suffix, name in Image.registered_extensions().items() if name in PHOTO_FORMATS}


def _walk(folder: Path, exclude: Sequence[str], rubbish: bool, counted_suffixes: Collection[str]) -> _Found:
    """Of files that are left out, those with certain suffixes are counted."""
    if not folder.is_dir():
        raise NotADirectoryError(f"{printable(folder)} is not a folder; give the one that holds the gallery's images")
    patterns = _Patterns(exclude, () if rubbish else RUBBISH)
    files, seen, unreadable, left_out = [], set(), [], Counter()

    def is_taken(path: Path, counts: bool, is_folder: bool = False) -> bool:
        pattern = patterns.matching(path.relative_to(folder))
        if pattern is None and is_folder and path.name.startswith(".") and not rubbish:
            pattern = _HIDDEN
        if pattern is not None and counts:
            left_out[pattern] += 1
        return pattern is None

    def note(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise PermissionError(f"{printable(folder)} cannot be listed: {error.strerror}") from error
        unreadable.append(Path(error.filename))

    for place, folders, names in os.walk(folder, onerror=note, followlinks=True):  # rglob leaves linked folders out
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if is_taken(Path(place, name), counts=True, is_folder=True))
        for name in names:
            path = Path(place, name)
            if is_taken(path, counts=path.suffix.lower() in counted_suffixes) and _is_file(path, unreadable):
                files.append(path)
    return _Found(sorted(files), list(dict.fromkeys(unreadable)), left_out)


class _Patterns:
    """Patterns of names, and of paths within the folder, in one expression each: they are tried on every file."""

    def __init__(self, exclude: Sequence[str], rubbish: Sequence[str]):
        given = [(pattern.strip("/"), translate(pattern.strip("/"))) for pattern in exclude]
        known = [(pattern, f"(?i:{'(?:.*/)?' * ('/' in pattern)}{translate(pattern)})") for pattern in rubbish]
        self.of_names = [entry for entry in (*given, *known) if "/" not in entry[0]]
        self.of_paths = [entry for entry in (*given, *known) if "/" in entry[0]]
        self.names, self.paths = (
            re.compile("|".join(f"({expression})" for _, expression in entries) or r"(?!)")
            for entries in (self.of_names, self.of_paths)
        )

    def matching(self, path: Path) -> str | None:
        """The first pattern that a path, relative to the folder, matches."""
        if found := self.names.match(path.name):
            return self.of_names[found.lastindex - 1][0]
        if found := self.paths.match(path.as_posix()):
            return self.of_paths[found.lastindex - 1][0]
        return None


def _is_file(path: Path, unreadable: list[Path]) -> bool:
    """Whether it is a file, or leads to one; notes what cannot be read: a folder not to be entered, a bad disk."""
    try:
        return path.is_file()
    except PermissionError:
        unreadable.append(path.parent)
    except OSError:
        unreadable.append(path)
    return False
