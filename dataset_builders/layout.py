"""Finds the files of a data set: annotation files and images."""

import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISREG

from .records import INACCESSIBLE, BadRecord


@dataclass(frozen=True)
class Layout:
    """A data set found on disk."""

    root: str  # the folder the user named, or the unpacked repository; absolute
    annotations: dict[str, str]  # name of each annotation file -> its absolute path
    image_folders: tuple[str, ...]  # folders that image paths may be relative to, the likeliest first
    repo_id: str | None = None  # the Hub repository it came from; None for the user's own folder


def local_layout(data_dir: str | os.PathLike, names: Sequence[str]) -> Layout:
    """Find annotation files in `data_dir` or in `data_dir/datasets`; ITCPR comes in both forms.

    Image paths may be relative to the folder of the annotation files or to `data_dir`.

    Raises:
        FileNotFoundError: there is no such folder, or no annotation files in it.
    """
    root = Path(data_dir).expanduser().resolve()
    if root.is_file():
        raise FileNotFoundError(f"{root} is a file. Pass the folder it lies in: data_dir={str(root.parent)!r}.")
    if not root.is_dir():
        raise FileNotFoundError(f"data_dir={str(data_dir)!r}: no such folder ({root}). Pass the data set's folder.")
    if folder := annotated_folder(root, names):
        paths = {name: str(folder / name) for name in names}
        return Layout(str(root), paths, tuple(dict.fromkeys([str(folder), str(root)])))
    with os.scandir(root) as entries:
        nearby = [*root.parents[:3], *sorted(Path(entry) for entry in entries if entry.is_dir())]
    found = next((place for place in nearby if annotated_folder(place, names)), None)
    raise FileNotFoundError(
        f"{root}: expected {' and '.join(names)} in this folder or in its subfolder datasets/. Pass as data_dir= the "
        "folder that holds the annotation files and the image folders"
        + (f": they are in data_dir={str(found)!r}." if found else ".")
    )


def annotated_folder(root: Path, names: Sequence[str]) -> Path | None:
    """The folder itself or its subfolder datasets/, whichever holds all of the annotation files; None if none does."""
    for folder in (root, root / "datasets"):
        if all((folder / name).is_file() for name in names):
            return folder
    return None


def present_annotations(data_dir: str | os.PathLike, choices: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    """The first of several sets of annotation files that is there."""
    root = Path(data_dir).expanduser()
    return next((names for names in choices if annotated_folder(root, names)), None)


def files_in(data_dir: str | os.PathLike) -> set[str]:
    """Names of the files in a folder; none if there is no such folder."""
    root = Path(data_dir).expanduser()
    return {entry.name for entry in root.iterdir() if entry.is_file()} if root.is_dir() else set()


def with_image_folders(layout: Layout) -> Layout:
    """Image paths may also be relative to imgs/ or images/, where data sets of images with captions keep them."""
    inner = (f"{folder}/{name}" for folder in layout.image_folders for name in ("imgs", "images"))
    folders = [folder for folder in inner if Path(folder).is_dir()]
    return replace(layout, image_folders=(*folders, *layout.image_folders))


class SplitImageFinder:
    """Finds images of one split in that split's own image folder, and never in another's.

    An image's path is relative to the folder of its split (train/, val/, test/), where there is one, or to the folder
    that holds these; then it may name no other split. (Code that is released for such files reads training images from
    the test folder.)
    """

    def __init__(self, layout: Layout, splits: Sequence[str]):
        self._finders = {}
        for split in splits:
            own = (f"{folder}/{split}" for folder in layout.image_folders)
            folders = [folder for folder in own if Path(folder).is_dir()]
            self._finders[split] = ImageFinder(replace(layout, image_folders=(*folders, *layout.image_folders)))

    def find(self, path: str) -> str:
        """The absolute path of an image, whose path begins with its split: "train/cam_a/1.png".

        Raises:
            BadRecord: as `ImageFinder.find`, or the image is of another split.
        """
        split, _, path = path.partition("/")
        first = path.partition("/")[0]
        if first in self._finders and first != split:
            raise BadRecord("names an image of another split", f"{path}, in a record of {split}")
        return self._finders[split].find(path)


class ImageFinder:
    """Finds the image files that records name.

    In a user's folder, a path is relative to one of `Layout.image_folders` and nothing else. The layout of an unpacked
    Hub repository is not known beforehand: there, any folder below them fits whose path ends as the image's does;
    failing that, leading folders of the image's path are left off, if then just one folder fits. No folder on disk
    serves two folders of the records, so that images of one part of a data set are not taken for another's.

    Names with the same text are the same: an é of one character and one of two (Unicode's NFC and NFD; macOS and its
    archives change one into the other). Names that differ in case are not the same.
    """

    def __init__(self, layout: Layout):
        self.layout = layout
        self._places: dict[str, list[str]] = {}  # folder as written in the records -> folders on disk
        self._all_folders: list[str] | None = None
        self._serves: dict[str, str] = {}  # in a Hub repository: folder on disk -> folder as written in the records
        self._listed: dict[str, dict[str, list[str]]] = {}  # folder -> text of a name in lower case -> the names

    def find(self, path: str) -> str:
        """The absolute path of an image.

        Raises:
            BadRecord: there is no such file, its name differs in case, it cannot be read now, or it has 0 bytes.
        """
        folder, _, name = path.rpartition("/")
        if folder not in self._places:
            self._places[folder] = self._find_folders(folder)
        places, trouble = self._places[folder], None
        for index, place in enumerate(places):
            file = f"{place}/{name}"
            try:
                status = os.stat(file)  # noqa: PTH116 - there are millions, and Path takes far longer
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:  # a folder that may not be entered, a drive in trouble
                trouble = error
                continue
            if not S_ISREG(status.st_mode):
                continue
            if status.st_size == 0:
                raise BadRecord("names an image file of 0 bytes", path)
            if index:  # its neighbours probably lie there, too
                places.insert(0, places.pop(index))
            return file
        if trouble is not None:
            raise BadRecord(INACCESSIBLE, f"{path}: {trouble.strerror}")
        return self._find_spelt_otherwise(path, [(place, name) for place in places])

    def _find_spelt_otherwise(self, path: str, starts: list[tuple[str, str]]) -> str:
        """Look for a name of the same text in the lists of the folders."""
        for start, rest in (*starts, *((folder, path) for folder in self.layout.image_folders)):
            place = start
            for part in rest.split("/"):
                alike = self._list(place).get(_text(part).casefold(), [])
                same = [name for name in alike if name == part] or [
                    name for name in alike if _text(name) == _text(part)
                ]
                if len(same) != 1:
                    break
                place = f"{place}/{same[0]}"
            else:
                if Path(place).is_file():
                    if Path(place).stat().st_size == 0:
                        raise BadRecord("names an image file of 0 bytes", path)
                    return place
                continue
            if alike:
                detail = f"{path}: the folder {place} holds {alike[0]!r}"
                raise BadRecord("names an image file in another case", detail)
        raise BadRecord("names an image file that is missing", path)

    def _list(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._listed:
            names = self._listed[folder] = {}
            with suppress(FileNotFoundError, NotADirectoryError):
                for name in sorted(os.listdir(folder)):  # noqa: PTH208
                    names.setdefault(_text(name).casefold(), []).append(name)
        return self._listed[folder]

    def _find_folders(self, folder: str) -> list[str]:
        folders = [f"{start}/{folder}" if folder else start for start in self.layout.image_folders]
        found = [place for place in folders if Path(place).is_dir()]
        if self.layout.repo_id is None:
            return found
        if self._all_folders is None:
            self._all_folders = list_folders(self.layout.image_folders)
        ends_alike = [place for place in self._all_folders if place.endswith(f"/{folder}")]
        found = list(dict.fromkeys(found + ends_alike)) or self._match_in_part(folder)
        return [place for place in found if self._serves.setdefault(place, folder) == folder]

    def _match_in_part(self, folder: str) -> list[str]:
        parts = folder.split("/")
        for start in range(1, len(parts)):
            end = "/" + "/".join(parts[start:])
            matches = [place for place in self._all_folders if place.endswith(end)]
            if matches:
                return matches if len(matches) == 1 else []
        return []


def _text(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def list_folders(roots: Sequence[str]) -> list[str]:
    """Every folder below the roots, themselves included, once."""
    return list(dict.fromkeys(folder for root in roots for folder, _, _ in _walk(root)))


def list_files(roots: Sequence[str | os.PathLike], wanted: Callable[[str], object]) -> list[Path]:
    """The files below the roots whose names are wanted, by folder depth and name."""
    found = [Path(folder, name) for root in roots for folder, _, names in _walk(root) for name in filter(wanted, names)]
    return sorted(found, key=lambda file: (len(file.parts), file))


def _walk(root: str | os.PathLike) -> Iterator[tuple[str, list[str], list[str]]]:
    """As os.walk, which by itself leaves out folders that cannot be read; here they are an error."""

    def report(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    return os.walk(root, onerror=report)
