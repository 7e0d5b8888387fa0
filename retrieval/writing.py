"""Changing a gallery that lies in a folder, while others search it: adding, replacing, deleting, compacting, saving."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..names import counted, printable
from ..retriever import Retriever, RetrieverProcessor
from .conversion import delete_store
from .encoding import encode_images
from .fingerprint import differing_settings, feature_settings
from .identity import describe_image, input_path, path_of
from .indexing import IMAGES_A_COMMIT
from .metadata import Entry, entry_of, exif_of
from .segment_list import GalleryFolder
from .segments import REMEDY
from .state import GalleryState

_WAIT = 60.0  # seconds for another writer, who needs few


class GalleryWriting:
    """The half of `Gallery` that writes.

    Each change counts as soon as the method returns, and all of it or nothing. Other processes see it after `refresh`.

    Attributes:
        place: the gallery's folder; None of one in memory.
    """

    model: Retriever
    processor: RetrieverProcessor
    state: GalleryState
    place: GalleryFolder | None

    def add(
        self,
        images: Sequence[Any],
        entries: Sequence[Entry] | None = None,
        batch_size: int = 64,
        on_error: str = "raise",
        progress: bool = True,
        num_workers: int | None = 0,
        wait: float | None = _WAIT,
    ) -> list[int | None]:
        """Encodes images and adds them; they count a few thousand at a time.

        Args:
            images, batch_size, on_error, progress, num_workers: as for `encode_images`.
            entries: what is known of each; path, contents, and, from EXIF, camera and date are noted where they are not
                given. A path is absolute, or relative to the gallery's folder of images, if it has one.
            wait: seconds to wait while another process writes; None: until it is done.

        Returns:
            The images' ids; None for one that was left out.

        Raises:
            ValueError: the gallery lies in memory, was made by another model, or there are other numbers of entries, or
                one names a file outside the gallery's folder of images;
                and as for `encode_images`.
            BlockingIOError: another process writes all the time.
            OSError: the gallery cannot be written; what counted before still counts.
        """
        return self._add(images, entries, False, wait, batch_size, num_workers, on_error, progress=progress)

    def upsert(
        self,
        images: Sequence[Any],
        entries: Sequence[Entry] | None = None,
        batch_size: int = 64,
        on_error: str = "raise",
        progress: bool = True,
        num_workers: int | None = 0,
        wait: float | None = _WAIT,
    ) -> list[int | None]:
        """As `add`, but what is there with the path of one of them goes; without a path, what has the same contents."""
        return self._add(images, entries, True, wait, batch_size, num_workers, on_error, progress=progress)

    def delete(
        self,
        ids: Sequence[int] = (),
        paths: Sequence[str | Path] = (),
        where: str | None = None,
        wait: float | None = _WAIT,
    ) -> int:
        """Deletes images by ids, by files, or by a filter; returns how many.

        Raises:
            ValueError: the gallery lies in memory; it holds no such image; `where` is no filter.
            OSError: it cannot be written, and stays as it was; a BlockingIOError: another process writes all the time.
        """
        if isinstance(paths, (str, Path)):
            raise TypeError(
                f"paths is a {type(paths).__name__}, expected a list of files, such as [{str(paths)!r:.60}]"
            )
        with self._own_place().writing(wait, self._stored) as writer:
            state = writer.state
            rows = set(state.rows_of_ids(ids).tolist())
            for path in paths:
                if not (found := state.rows_with("path", self.state.stored_path(path))):
                    raise ValueError(f"the gallery holds no image of the file {printable(path)}")
                rows.update(found)
            if where is not None:
                rows.update(state.living_rows_matching(where).tolist())
            writer.delete(sorted(rows))
            self._hold(writer.commit())
        return len(rows)

    def compact(self, wait: float | None = _WAIT) -> None:
        """Copies what is not deleted into one segment, which frees the space of what is; errors as for `delete`."""
        with self._own_place().writing(wait, self._stored) as writer:
            self._hold(writer.compact())

    def keep_calibration(self, record: dict[str, Any] | None, wait: float | None = _WAIT) -> None:
        """Keeps what makes probabilities of scores with the gallery; in memory, until it is saved."""
        if self.place is None:
            self._hold(replace(self._stored, calibration=record))
            return
        with self.place.writing(wait, self._stored) as writer:
            writer.note(calibration=record)
            self._hold(writer.commit())

    def refresh(self) -> bool:
        """Searches the gallery as it is now; returns whether it was written since.

        Raises:
            FileNotFoundError: it is gone. ValueError: it is damaged.
        """
        if self.place is None or self.place.generation() == self._stored.generation:
            return False
        self._hold(self.place.read(self._stored))
        return True

    def save(self, folder: str | Path, wait: float | None = _WAIT) -> None:
        """Writes the gallery for `load`, in the precision it has; one that was there is replaced, whole or not at all.

        Raises:
            ValueError: the folder holds something else.
            OSError: it cannot be written there; a gallery that was there stays.
        """
        state = replace(self._stored, images_folder=self.state.images_folder)
        place = GalleryFolder.create(folder, state.settings, state.settings["features"]["dtype"], state.images_folder)
        with place.writing(wait) as writer:
            writer.replace(state)
        delete_store(place.path)

    def _own_place(self) -> GalleryFolder:
        if self.place is None:
            raise ValueError("this gallery lies in memory: save it, and change what Gallery.load opens")
        return self.place

    def _add(
        self,
        images: Sequence[Any],
        entries: Sequence[Entry] | None,
        replaces: bool,
        wait: float | None,
        *how: Any,
        **options: Any,
    ) -> list[int | None]:
        place = self._own_place()
        entries = [Entry()] * len(images) if entries is None else list(entries)
        if len(entries) != len(images):
            raise ValueError(f"{counted(len(entries), 'entry')} for {counted(len(images), 'image')}: one of each")
        if self.state.images_folder is not None:
            entries = [_inside(self.state.images_folder, entry, number) for number, entry in enumerate(entries)]
        settings = feature_settings(self.model, self.processor, "target", self.model.feature_shape)
        check_settings(place, self.state.settings, in_precision_of(self.state.settings, settings))
        ids: list[int | None] = []
        for start in range(0, len(images), IMAGES_A_COMMIT):
            chunk = images[start : start + IMAGES_A_COMMIT]
            encoded = encode_images(self.model, self.processor, chunk, *how, folder=self.state.images_folder, **options)
            gaps = set(encoded.skipped)
            kept = [row for row in range(len(chunk)) if row not in gaps]
            described = [self._described(chunk[row], encoded.inputs[row], entries[start + row]) for row in kept]
            with place.writing(wait, self._stored) as writer:
                if replaces:
                    writer.delete(_replaced(writer.state, described, {*ids}))
                new = iter(writer.append(encoded.features, described).tolist())
                self._hold(writer.commit())
            ids += [None if row in gaps else next(new) for row in range(len(chunk))]
        return ids

    def _described(self, image: Any, line: dict[str, Any], entry: Entry) -> Entry:
        """What is known of an image, and what its file tells."""
        if line.get("contents") is None and path_of(image) is None:
            line = describe_image(image, "gallery image")
        path = input_path(line, self.state.images_folder)
        found = entry_of(line, **({} if path is None or line.get("stamp") is None else exif_of(path)))
        given = {name: value for name, value in vars(entry).items() if value is not None}
        return replace(found, **given)


def _inside(folder: Path, entry: Entry, number: int) -> Entry:
    """An entry whose path is relative to the images' folder; elsewhere there is no file of the gallery's."""
    if entry.path is None:
        return entry
    path = Path(os.path.normpath(folder / entry.path))
    if not path.is_relative_to(folder):
        raise ValueError(
            f"entries[{number}] has the path {printable(entry.path)}, which does not lie in the gallery's folder of "
            f"images, {printable(folder)}: name a file within it, or none"
        )
    return replace(entry, path=path.relative_to(folder).as_posix())


def check_settings(
    place: GalleryFolder, stored: dict[str, Any], current: dict[str, Any], but: frozenset[str] = frozenset()
) -> None:
    """Refuses a model or processor that a gallery's features are not of, naming what differs.

    Args:
        stored, current: see `feature_settings`. `but`: what may differ.

    Raises:
        ValueError: they differ.
    """
    if differences := differing_settings(stored, current, but):
        of_images, now = stored.get("image_processor", {}), current.get("image_processor", {})
        changes = [
            f"processor.image_processor.{name} = {of!r}" for name, of in of_images.items() if now.get(name) != of
        ]
        how = f" ({'; '.join(changes)})" if changes else ""
        raise ValueError(
            f"{printable(place.path)} holds features that cannot be compared or mixed with those asked for: "
            f"{', '.join(differences)}. Use the model, processor{how} and images that they were made with, or {REMEDY}."
        )


def in_precision_of(stored: dict[str, Any], current: dict[str, Any]) -> dict[str, Any]:
    """Settings of a model whose features are to be kept in the precision of those that are there."""
    return current | {"features": current["features"] | {"dtype": stored["features"]["dtype"]}}


def _replaced(state: GalleryState, entries: Sequence[Entry], new: set[int | None]) -> list[int]:
    """The rows of what has the same path as an entry, or, without one, the same contents, apart from new ids."""
    rows: set[int] = set()
    for entry in entries:
        field, value = ("path", entry.path) if entry.path is not None else ("contents", entry.contents)
        rows.update(state.rows_with(field, value) if value is not None else ())
    ordered = sorted(rows)
    ids = state.ids_of(torch.tensor(ordered, dtype=torch.int64)).tolist()
    return [row for row, number in zip(ordered, ids, strict=True) if number not in new]
