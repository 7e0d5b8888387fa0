"""A gallery's folder: a list of segments, which one writer at a time replaces whole, and any number of readers open.

    folder/gallery.json      what made the features, the segments and the sizes and checksums of their files, sealed
    folder/segments/         see `segments`

Whenever the list is replaced, by renaming a file, it counts up its generation: before that moment everybody sees the
old gallery, and afterwards the new one. Files are complete and on the disk before a list names them. So nothing that
was written is lost by a crash or a power cut, and no list names what a killed writer left. Files that no list names any
more are deleted: whoever has them open keeps them, and whoever comes too late to open them reads the new list.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..files import check_output_folder, flush, is_sealed, read_json, sealed, some, write_json
from ..names import printable
from .segment_writer import GalleryWriter
from .segments import KEPT, REMEDY, faults_of_segment, open_segment, reopen
from .state import GalleryState

LIST = "gallery.json"
FORMAT, VERSION = "fafa gallery", 1
_NAMES = {"name": r"\d{6,}-\d+", "entries": r"entries(-\d+)?\.sqlite", "deleted": r"deleted-\d+\.npy"}
_OWN_FILES = (
    ".",
    "segments",
    LIST,
    *("manifest", "features-", "inputs-"),
)  # the latter are a store's, see `conversion`


class GalleryFolder:
    """A folder with a gallery.

    Raises:
        FileNotFoundError: there is none, see `read`.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.segments = self.path / "segments"

    def exists(self) -> bool:
        """Whether there is a gallery."""
        return (self.path / LIST).is_file()

    @classmethod
    def create(
        cls, path: str | Path, settings: Mapping[str, Any], keep: str, images_folder: Path | None = None
    ) -> "GalleryFolder":
        """Begins a gallery without images in an empty or new folder; one that another process has just begun is opened.

        Args:
            settings: what makes the features, see `feature_settings`.
            keep: how tokens are kept, see `segments.KEPT`.
            images_folder: what the images' paths are relative to, if anything.

        Raises:
            ValueError: the folder holds something else.
            OSError: nothing can be written there.
        """
        folder = cls(path)
        if keep not in KEPT:
            raise ValueError(f"keep is {keep!r:.60}, expected {', '.join(KEPT)}")
        check_new(folder.path)
        folder.segments.mkdir(parents=True, exist_ok=True)
        with folder.locked(None):
            if not folder.exists():
                features = settings["features"] | {"dtype": keep}
                manifest = {
                    "format": FORMAT,
                    "version": VERSION,
                    "generation": 0,
                    "settings": {**settings, "features": features},
                    "next_id": 0,
                    "segments": [],
                    "skipped": [],
                    "calibration": None,
                }
                folder.write(manifest | folder.places_of(images_folder))
        return folder

    def read(self, before: GalleryState | None = None) -> GalleryState:
        """The gallery as it is now.

        Args:
            before: an earlier state of this folder, whose open files serve again.

        Raises:
            FileNotFoundError: there is no gallery. ValueError: it is damaged, or of another version.
        """
        while True:
            manifest = self.manifest()
            try:
                return self._open(manifest, before)
            except (OSError, ValueError) as error:
                if self.manifest()["generation"] == manifest["generation"]:
                    if isinstance(error, FileNotFoundError):
                        lacking = printable(error.filename or str(error))
                        raise FileNotFoundError(f"{lacking} is missing, so the gallery is damaged; {REMEDY}") from error
                    raise
            # Another process has just replaced the list, and what it no longer names is gone.

    def settings(self) -> dict[str, Any]:
        """What made the features, see `feature_settings`; only the list is read."""
        return self.manifest()["settings"]

    def generation(self) -> int:
        """How often the gallery was written."""
        return self.manifest()["generation"]

    @contextmanager
    def writing(self, wait: float | None = 0, before: GalleryState | None = None) -> Iterator[GalleryWriter]:
        """The one writer of the gallery, until the block ends; what it has not committed is dropped.

        Args:
            wait: seconds to wait for another writer; None: until it is done.

        Raises:
            BlockingIOError: another process is writing.
        """
        with self.locked(wait):
            writer = GalleryWriter(self, self.read(before))
            writer.clean()  # of what a killed one left
            try:
                yield writer
            finally:
                with suppress(OSError, ValueError):
                    writer.clean()

    def faults(self) -> list[str]:
        """A sentence for each file that is missing or damaged; all of them are read."""
        try:
            manifest = self.manifest()
        except (OSError, ValueError) as error:
            return [str(error)]
        features = manifest["settings"]["features"]
        found = [
            fault
            for record in manifest["segments"]
            for fault in faults_of_segment(self.segments, record, features["dtype"], tuple(features["shape"]))
        ]
        return self.faults() if found and self.manifest()["generation"] != manifest["generation"] else found

    def _open(self, manifest: Mapping[str, Any], before: GalleryState | None) -> GalleryState:
        open_already = {segment.record["name"]: segment for segment in before.segments} if before else {}
        features = manifest["settings"]["features"]
        keep, shape, segments = features["dtype"], tuple(features["shape"]), []
        for record in manifest["segments"]:
            segment = open_already.get(record["name"])
            if segment is None or not _is_same(segment.record, record):
                segment = open_segment(self.segments, record, keep, shape)
            elif segment.record != record:
                segment = reopen(segment, self.segments, record)
            segments.append(segment)
        images_folder = manifest["images_folder"] and Path(manifest["images_folder"])
        if images_folder and not images_folder.is_dir() and manifest["images_folder_from_here"]:
            beside = Path(os.path.normpath(self.path.absolute() / manifest["images_folder_from_here"]))
            images_folder = beside if beside.is_dir() else images_folder  # moved together
        return GalleryState(
            tuple(segments),
            manifest["settings"],
            images_folder,
            tuple(manifest["skipped"]),
            manifest["calibration"],
            manifest["generation"],
            manifest.get("films", {}),  # which galleries of earlier versions lack
        )

    def manifest(self) -> dict[str, Any]:
        """The list, as it is now; errors as for `read`."""
        file = self.path / LIST
        if not file.is_file():
            what = "is a file, no folder of a gallery" if self.path.is_file() else f"holds no features (no {LIST})"
            raise FileNotFoundError(
                f"{printable(self.path)} {what}; give the folder that a gallery was saved in. Of photographs "
                "fafa index makes one"
            )
        try:
            manifest = read_json(file)
        except ValueError as error:
            raise ValueError(f"{file} is damaged ({' '.join(str(error).split())[:300]}); {REMEDY}") from error
        return _checked(file, manifest)

    def write(self, manifest: Mapping[str, Any]) -> None:
        """Replaces the list."""
        write_json(self.path / LIST, sealed(manifest))
        flush(self.path)

    def places_of(self, images_folder: Path | None) -> dict[str, str | None]:
        """How the list says where the images are: by an absolute path, and by one from here."""
        return {
            "images_folder": images_folder and str(images_folder),
            "images_folder_from_here": images_folder and os.path.relpath(images_folder, self.path),
        }

    @contextmanager
    def locked(self, wait: float | None) -> Iterator[None]:
        """Keeps other writers out; see `writing`."""
        lock = FileLock(self.path / ".writer.lock")
        try:
            lock.acquire(timeout=-1 if wait is None else wait)
        except Timeout:
            raise BlockingIOError(
                f"{printable(self.path)} is being written by another process, and only one can write; wait until it is "
                "done, and give the same command again"
            ) from None
        try:
            yield
        finally:
            lock.release()


def check_new(path: Path) -> None:
    """Refuses to begin a gallery among a user's files, such as the photographs themselves.

    Raises:
        ValueError: the folder holds something else. OSError: nothing can be written there.
    """
    check_output_folder(path)
    if (path / LIST).exists() or not path.exists():
        return
    others = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith(_OWN_FILES))
    if others:
        raise ValueError(
            f"{printable(path)} holds something else than features of images ({some(others)}): choose an empty or new "
            "folder for them"
        )


def _is_skipped(image: Any) -> bool:
    return isinstance(image, dict) and len(image) == 1 and isinstance(image.get("path", image.get("name")), str)


def _is_note_of_film(note: Any) -> bool:
    if not (isinstance(note, dict) and type(note.get("entries")) is int):
        return False
    if any(not isinstance(note.get(name, 1), (int, float)) or not note.get(name, 1) > 0 for name in ("rate", "crops")):
        return False
    return note.get("until", 0) is None or isinstance(note.get("until"), (int, float))


def _is_same(record: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the arrays of two segments of one name are the same: a folder may have been written anew."""
    return all(record["files"].get(name) == other["files"].get(name) for name in ("ids.npy", "codes.npy", "rows.npy"))


def _checked(file: Path, manifest: Any) -> dict[str, Any]:
    """The list of segments; it may come from anybody.

    Raises:
        ValueError: it is damaged, or of another kind or version.
    """

    def need(holds: bool, problem: str) -> None:
        if not holds:
            raise ValueError(f"{file} is damaged ({problem}); {REMEDY}")

    def is_count(value: Any, least: int = 0) -> bool:
        return type(value) is int and least <= value < 2**63

    need(isinstance(manifest, dict), f"it is a {type(manifest).__name__}")
    found, version = manifest.get("format"), manifest.get("version")
    if found != FORMAT:
        raise ValueError(f"{file} is no list of a gallery: it says {found!r:.100}, not {FORMAT!r}; {REMEDY}")
    if version != VERSION:
        raise ValueError(
            f"{file} is of version {version!r:.100} of this format, and this program reads version {VERSION}: install "
            f"the program that wrote it, or {REMEDY}"
        )
    need(is_sealed(manifest), "its checksum does not fit")
    for name in ("generation", "next_id"):
        need(is_count(manifest.get(name)), f"{name} is no count")
    for name in ("images_folder", "images_folder_from_here"):
        need(isinstance(manifest.get(name), (str, type(None))), f"{name} is no path")
    need(isinstance(manifest.get("calibration"), (dict, type(None))), "its calibration is no record")
    skipped = manifest.get("skipped")
    need(isinstance(skipped, list) and all(map(_is_skipped, skipped)), "skipped is no list of images")
    films = manifest.get("films", {})
    need(isinstance(films, dict) and all(map(_is_note_of_film, films.values())), "its notes of films are none")
    settings = manifest.get("settings")
    need(isinstance(settings, dict) and all(isinstance(of, dict) for of in settings.values()), "settings are none")
    model, features = settings.get("model", {}), settings.get("features", {})
    need(all(isinstance(model.get(name), str) for name in ("fingerprint", "dtype")), "it names no model")
    need(features.get("dtype") in KEPT, "its features have no dtype")
    shape = features.get("shape")
    need(isinstance(shape, list) and len(shape) == 2 and all(is_count(size, 1) for size in shape), "no shape")
    records, before = manifest.get("segments"), set()
    need(isinstance(records, list) and all(isinstance(record, dict) for record in records), "segments are none")
    for record in records:
        name, files = record.get("name"), record.get("files")
        for field, pattern in _NAMES.items():
            is_name = isinstance(record.get(field), str) and re.fullmatch(pattern, record[field])
            need(is_name or (field == "deleted" and record.get(field) is None), f"{field} of a segment is no name")
        need(name not in before, f"segment {name} is there twice")
        before.add(name)
        need(is_count(record.get("rows"), 1) and is_count(record.get("num_deleted")), f"{name} has no number of images")
        need(record["num_deleted"] < record["rows"], f"{name} has more deleted images than images")
        need(
            (record["num_deleted"] > 0) == (record.get("deleted") is not None),
            f"{name} says two things of deleted ones",
        )
        need(isinstance(files, dict) and all(isinstance(each, dict) for each in files.values()), f"{name} has no files")
        tags = record.get("tags")
        need(isinstance(tags, dict) and all(isinstance(kinds, list) for kinds in tags.values()), f"{name} has no tags")
    return manifest
