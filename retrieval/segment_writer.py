"""The one writer of a gallery's folder: appends, deletes, replaces, merges and compacts segments, in whole steps.

Appending writes one segment; deleting, a list of rows a segment; both together replace images. Segments that become
many are merged, small ones first: so their number stays small, and an image is copied a few times, not every time.
"""

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..names import counted, printable
from .metadata import Entry
from .parts import Part
from .segments import (
    Segment,
    blocks_of,
    living_blocks,
    living_rows,
    write_changed,
    write_deleted,
    write_segment,
)
from .state import GalleryState

logger = logging.getLogger(__name__)

TIER = 8  # segments of like size are merged once there are so many
LARGEST_MERGED = 1 << 16  # images of a segment that appending merges; `compact` knows no limit


class GalleryWriter:
    """Changes a gallery: what `append`, `delete` and the others say counts, all together, once `commit` returns.

    Attributes:
        folder: the `segment_list.GalleryFolder` that opened it, and holds the lock.
        state: the gallery as it was last committed.
    """

    def __init__(self, folder: Any, state: GalleryState):
        self.folder, self.state = folder, state
        self._begin()

    def _begin(self) -> None:
        self._manifest = self.folder.manifest()
        self._deleted: dict[int, set[int]] = {}  # number of a segment -> its rows
        self._changed: dict[int, dict[int, Entry]] = {}
        self._appended: list[dict[str, Any]] = []
        self._notes: dict[str, Any] = {}

    @property
    def _features(self) -> tuple[str, tuple[int, int]]:
        features = self.state.settings["features"]
        return features["dtype"], tuple(features["shape"])

    def append(self, tokens: Tensor, entries: Sequence[Entry]) -> Tensor:
        """Adds images; returns their ids.

        Args:
            tokens: `(n, num_tokens, dim)`, floating-point. `entries`: one of each.

        Raises:
            ValueError: the shape is another, or there is another number of entries.
            OSError: they cannot be written.
        """
        keep, shape = self._features
        if tuple(tokens.shape[1:]) != shape or len(entries) != len(tokens):
            raise ValueError(
                f"expected tokens (n, {shape[0]}, {shape[1]}) and as many entries, got {tuple(tokens.shape)} and "
                f"{counted(len(entries), 'entry')}"
            )
        first = self._manifest["next_id"]
        ids = torch.arange(first, first + len(tokens))
        if len(ids):
            self._add(blocks_of(ids, tokens, keep), len(ids), entries, keep, shape)
            self._manifest["next_id"] = first + len(ids)
        return ids

    def copy(self, rows: Sequence[int], entries: Sequence[Entry]) -> None:
        """Adds images whose features are those of other images, by their rows in `state`."""
        self.append(self.state.tokens(rows), entries)

    def delete(self, rows: Tensor | Sequence[int]) -> None:
        """Deletes images by their rows in `state`."""
        for number, _, own in self.state.by_segment(np.asarray(rows, dtype=np.int64)):
            self._deleted.setdefault(number, set()).update(own.tolist())

    def change(self, entries: Mapping[int, Entry]) -> None:
        """Replaces what is known of images, by their rows in `state`."""
        for number, _, own in self.state.by_segment(np.fromiter(entries, dtype=np.int64)):
            start = int(self.state.starts[number])
            self._changed.setdefault(number, {}).update({row: entries[start + row] for row in own.tolist()})

    def note(self, **notes: Any) -> None:
        """Notes `skipped`, `calibration`, `films`, or the `images_folder`."""
        if "images_folder" in notes:
            notes |= self.folder.places_of(notes.pop("images_folder"))
        self._notes |= notes

    def replace(self, state: GalleryState) -> GalleryState:
        """Makes the gallery what another one is, which may be in memory, in one step; ids stay.

        Raises:
            OSError: it cannot be written; the gallery stays as it was.
        """
        features = state.settings["features"]
        keep, shape = features["dtype"], tuple(features["shape"])
        self._manifest["next_id"] = max(self._manifest["next_id"], int(state.ids[-1]) + 1 if len(state) else 0)
        self._copy(state.segments, keep, shape)
        notes = {"settings": state.settings, "skipped": list(state.skipped), "calibration": state.calibration}
        notes["films"] = dict(state.films)
        self._switch(self._appended, notes | self.folder.places_of(state.images_folder))
        return self.state

    def commit(self) -> GalleryState:
        """Makes all of it count; then merges small segments if there are many.

        Raises:
            OSError: it cannot be written; the gallery stays as it was.
        """
        if not (self._deleted or self._changed or self._appended or self._notes):
            return self.state
        generation, records = self.state.generation + 1, []
        for number, segment in enumerate(self.state.segments):
            record = segment.record
            if rows := self._deleted.get(number):
                dead = np.union1d(np.setdiff1d(np.arange(len(segment.part)), living_rows(segment.part)), list(rows))
                if len(dead) == record["rows"]:
                    continue
                record = write_deleted(self.folder.segments, record, dead, generation)
            if changed := self._changed.get(number):
                record = write_changed(self.folder.segments, record, changed, generation)
            records.append(record)
        self._switch([*records, *self._appended], self._notes)
        try:
            while (run := segments_to_merge([segment.num_living for segment in self.state.segments])) is not None:
                self._merge(run)
        except OSError as error:  # what was to be written is written
            logger.warning("%s: small segments were not merged (%s)", printable(self.folder.path), error)
        return self.state

    def compact(self) -> GalleryState:
        """Copies all that is not deleted into one segment.

        Raises:
            OSError: it cannot be written; the gallery stays as it was.
        """
        if len(self.state.segments) > 1 or any(segment.record["num_deleted"] for segment in self.state.segments):
            self._merge(0)
        return self.state

    def clean(self) -> None:
        """Deletes the files that the list does not name."""
        # As it is on the disk: whatever has just gone wrong, no file of it is deleted.
        named = {record["name"]: record["files"] for record in self.folder.manifest()["segments"]}
        for entry in self.folder.segments.iterdir():
            if entry.name not in named:
                shutil.rmtree(entry, ignore_errors=True)
                continue
            for file in entry.iterdir():
                if file.name not in named[entry.name]:
                    file.unlink(missing_ok=True)

    def _add(
        self, blocks: Iterable[Part], count: int, entries: Iterable[Entry], keep: str, shape: tuple[int, int]
    ) -> None:
        name = f"{self.state.generation + 1:06d}-{len(self._appended)}"
        self._appended.append(write_segment(self.folder.segments, name, blocks, count, entries, keep, shape))

    def _copy(self, segments: Sequence[Segment], keep: str, shape: tuple[int, int]) -> None:
        """Adds what is not deleted of segments, as one."""
        if count := sum(segment.num_living for segment in segments):
            blocks = chain.from_iterable(living_blocks(segment, keep) for segment in segments)
            entries = chain.from_iterable(segment.metadata.read_all(living_rows(segment.part)) for segment in segments)
            self._add(blocks, count, entries, keep, shape)

    def _merge(self, first: int) -> None:
        """Merges the segments from the first one on."""
        self._copy(self.state.segments[first:], *self._features)
        self._switch([*(segment.record for segment in self.state.segments[:first]), *self._appended], {})

    def _switch(self, records: Sequence[Mapping[str, Any]], notes: Mapping[str, Any]) -> None:
        manifest = self._manifest | {"generation": self.state.generation + 1, "segments": list(records), **notes}
        self.folder.write(manifest)
        self.state = self.folder.read(self.state)
        self._begin()
        self.clean()


def segments_to_merge(sizes: Sequence[int]) -> int | None:
    """The first of the last segments that are to be merged, by the numbers of their images; None: they are few.

    A segment's tier is the number of digits of its size to the base `TIER`. Where there are `TIER` of one tier, and
    none of a higher tier after them, they become one, with what comes after them.
    """
    tier, count, total = -1, 0, 0
    for start in reversed(range(len(sizes))):
        own, total = _tier(sizes[start]), total + sizes[start]
        if total > LARGEST_MERGED:
            break
        count = 1 if own > tier else count + (own == tier)
        tier = max(tier, own)
        if count == TIER:
            return start
    return None


def _tier(size: int) -> int:
    tier = 0
    while size >= TIER:
        size, tier = size // TIER, tier + 1
    return tier
