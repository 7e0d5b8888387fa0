"""What tells one image from another: its contents, wherever it lies; and how they are known without reading it."""

import json
import logging
import os
import stat
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

import xxhash
from tqdm.auto import tqdm

from ..files import contents_of, some, stamp_of
from ..image_reading_fafa import InaccessibleImageError, UnreadableImageError, open_image

logger = logging.getLogger(__name__)

# A file that changed so shortly before might change again without another time of change.
FRESH_NS = 2 * 10**9
# Entries that say where an image lay, not which one it is.
_WHEREABOUTS = ("path", "stamp", "fresh")


def path_of(image: Any) -> Path | None:
    """The file of an image as `open_image` takes it; None where there is none."""
    path = image.get("path") if isinstance(image, Mapping) else image
    return Path(path) if isinstance(path, (str, Path)) else None


def describe_image(
    image: Any,
    name: str,
    folder: Path | None = None,
    contents: bool = True,
    known: Mapping[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Describes what tells an image from others, without decoding it where it is a file.

    Args:
        image: as `open_image` takes it.
        name: how messages call it.
        folder: stores the path relative to it.
        contents: whether to read the contents; otherwise only the stamp of a file is noted.
        known: descriptions by path: a file whose stamp is unchanged is not read.

    Returns:
        `path`: of its file, None without one. `contents`: equal for equal images, see `files.contents_of`; None where
        it is no file that can be read so. `stamp`: see `files.stamp_of`, and `fresh`, where the file changed so
        shortly before that the stamp is not to be relied on.

    Raises:
        FileNotFoundError: there is no such file.
        InaccessibleImageError: it cannot be read now.
    """
    path, data = path_of(image), image.get("bytes") if isinstance(image, Mapping) else None
    if path is None or data is not None:
        return _describe_pixels(image, data, name, folder, contents)
    stored = _stored_path(path, name, folder)
    try:
        status, now = path.stat(), time.time_ns()
        stamp = list(stamp_of(status))
        before = (known or {}).get(stored, {})
        if before.get("stamp") == stamp and not before.get("fresh"):
            return before
        description = {"path": stored, "contents": None, "stamp": stamp}
        if now - max(status.st_mtime_ns, status.st_ctime_ns) < FRESH_NS:
            description["fresh"] = True
        # Opening it tells what is wrong if it is empty or no file; reading it (/proc/kmsg, say) might never end.
        if contents and stat.S_ISREG(status.st_mode) and status.st_size:
            description["contents"] = contents_of(path)
    except (FileNotFoundError, NotADirectoryError):
        open_image(image, name)  # the same error, with the image's name and what to do
        raise
    except OSError as error:
        raise InaccessibleImageError(
            f"{name}: '{path}' cannot be read now ({error.strerror or error}). See to its permissions, or to the disk "
            "or network drive it lies on, and start again.",
            error.errno,
            str(path),
        ) from error
    except ValueError as error:  # its name holds a NUL
        raise UnreadableImageError(f"{name}: {str(path)!r} is no path of a file ({error})", path=str(path)) from error
    return description


def describe_images(
    images: Sequence[Any],
    name: str,
    folder: Path | None = None,
    contents: bool = True,
    pixels: bool = True,
    known: Mapping[str, dict[str, Any]] | None = None,
    skip: bool = False,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Describes every image, see `describe_image`: a file that is missing is found before hours of encoding.

    Args:
        contents: whether to read what tells files from others; `pixels`: what tells images without files from others.
        known: descriptions by path, which stand for files that cannot be read now.
        skip: whether files that cannot be read now, or vanish meanwhile, are described without contents.

    Raises:
        FileNotFoundError, InaccessibleImageError, UnreadableImageError: see `describe_image`.
    """
    known, unknown_now = known or {}, []

    def describe(row: int, contents: bool, passing: tuple[type[Exception], ...]) -> dict[str, Any]:
        image = images[row]
        try:
            return describe_image(image, f"{name} {row}", folder, contents, known)
        except passing as error:
            if not skip:
                raise
            description = describe_absent(image, f"{name} {row}", folder)
            if not isinstance(error, InaccessibleImageError) or description["path"] not in known:
                return description
            unknown_now.append(input_name(description, row, folder))
            return known[description["path"]]

    rows, trouble = range(len(images)), (InaccessibleImageError, UnreadableImageError)
    inputs = [describe(row, False, trouble) for row in rows]  # quickly, whether all are there
    if contents:
        bar = tqdm(rows, "comparing files", unit="image", disable=not progress, delay=2)
        unknown_now.clear()
        inputs = [describe(row, "stamp" in inputs[row] or pixels, (*trouble, FileNotFoundError)) for row in bar]
    if unknown_now:
        logger.warning(
            "%d of %d images cannot be read now (permission, disk, network): their features of the last time serve: %s",
            *(len(unknown_now), len(images), some(unknown_now)),
        )
    return inputs


def _describe_pixels(image: Any, data: bytes | None, name: str, folder: Path | None, contents: bool) -> dict[str, Any]:
    path = path_of(image)
    stored = path and (_stored_path(path, name, folder) if path.is_absolute() else str(path))
    description = {"path": stored, "contents": None}
    if contents and data is not None:
        description["contents"] = f"bytes {len(data)}-{xxhash.xxh3_128_hexdigest(data)}"
    elif contents:
        with suppress(UnreadableImageError):  # whoever encodes it reports or skips it
            pixels = open_image(image, name)
            digest = xxhash.xxh3_128_hexdigest(pixels.tobytes())
            description["contents"] = f"pixels {pixels.width}x{pixels.height}-{digest}"
    return description


def _stored_path(path: Path, name: str, folder: Path | None) -> str:
    absolute = path.absolute()
    if folder is None:
        return str(absolute)
    if not absolute.is_relative_to(folder) or ".." in absolute.relative_to(folder).parts:
        raise ValueError(f"{name}, {absolute}, does not lie in folder={folder}; give one with all images, or none")
    return absolute.relative_to(folder).as_posix()


def describe_absent(image: Any, name: str, folder: Path | None = None) -> dict[str, Any]:
    """Describes an image whose file cannot be read now, or is not there any more."""
    path = path_of(image)
    return {"path": path and _stored_path(path, name, folder), "contents": None}


def identity_of(description: Mapping[str, Any]) -> str:
    """What tells an input from others wherever it lies: its contents (or else its path), and its caption."""
    known = {name: value for name, value in description.items() if name not in _WHEREABOUTS}
    if known.get("contents") is None and description.get("path") is not None:
        known["path"] = description["path"]
    return json.dumps(known, sort_keys=True)


def is_changed(description: Mapping[str, Any], folder: Path | None = None) -> bool:
    """Whether an image's file is another than was described, by its stamp."""
    if description.get("stamp") is None:
        return False
    try:
        return list(stamp_of(input_path(description, folder).stat())) != description["stamp"]
    except OSError:  # it is gone now, but until then it was what was described
        return False


def changes_since(descriptions: Sequence[Mapping[str, Any]], folder: Path | None = None) -> dict[int, str]:
    """Compares files with what was noted of them: their stamps, and the contents where those differ.

    Returns:
        row -> what has become of the file, where it is not what it was: "changed", another image has the name;
        "unknown", nothing tells whether it is the one that was described; "gone"; "inaccessible" now.
    """
    found = {}
    for row, before in enumerate(descriptions):
        path = input_path(before, folder)
        if path is None:
            continue
        if before.get("contents") is None or before.get("stamp") is None:
            if os.path.lexists(path):
                found[row] = "unknown"
            continue
        try:
            same_stamp = list(stamp_of(path.stat())) == before["stamp"] and not before.get("fresh")
            if not same_stamp and contents_of(path) != before["contents"]:
                found[row] = "changed"
        except (FileNotFoundError, NotADirectoryError):
            found[row] = "gone"
        except (OSError, ValueError):  # also a NUL in the name
            found[row] = "inaccessible"
    return found


def input_path(description: Mapping[str, Any], folder: Path | None = None) -> Path | None:
    """The file that `describe_image` described, with the same `folder`; None where there was none."""
    return None if description.get("path") is None else Path(folder or "", description["path"])


def input_name(description: Mapping[str, Any], row: int, folder: Path | None = None) -> str:
    """The path of an image, or its number where it has none."""
    return str(input_path(description, folder) or f"image {row}")


def fault_of(description: Any, has_folder: bool) -> str | None:
    """What is wrong with a description that was read from a file, or None.

    Args:
        has_folder: whether paths are relative to a folder, which they then must not leave.
    """
    if not isinstance(description, dict):
        return "it is no record"
    for field in ("path", "contents", "caption"):
        if not isinstance(description.get(field), (str, type(None))):
            return f"its {field} is no text"
    stamp = description.get("stamp")
    if stamp is not None and not (isinstance(stamp, list) and len(stamp) == 4 and all(type(n) is int for n in stamp)):
        return "its stamp is not four whole numbers"
    path = PurePath(description.get("path") or "")
    if has_folder and (path.anchor or ".." in path.parts):
        return f"its path {str(path)!r} leads out of the images' folder"
    return None
