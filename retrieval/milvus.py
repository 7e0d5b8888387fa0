"""A gallery past one machine: Milvus finds candidates, and the gallery's folder, on a disk that all machines see, has
the tokens by which they are scored.

The folder is what counts. A collection of Milvus holds, for each image of the folder, its id, its mean vector and what
is known of it, and notes which state of the folder that is. It follows the folder: `sync` writes and deletes what has
changed between two states, and nothing is lost with a collection, which `publish_gallery` makes again.

Whatever a collection holds, a search returns what the folder does. What it has too much is dropped, since ids are never
used again; filters are applied by Milvus, and once more to its candidates by the folder. What it lacks cannot be found,
and a warning says so.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from filelock import FileLock
from torch import Tensor
from tqdm.auto import tqdm

from ..names import printable
from ..retriever import Retriever, RetrieverProcessor
from .finding import number_of_candidates, rank_rows
from .fingerprint import differing_settings
from .gallery import Gallery
from .milvus_collection import MOST, MilvusCollection, notes_of
from .milvus_filters import fields_of, to_milvus
from .searching import Allowed
from .segment_list import GalleryFolder
from .segments import Segment, living_rows
from .state import GalleryState

logger = logging.getLogger(__name__)

_BEING_WRITTEN = "being written"
_FLUSHED_FROM = 1_000  # entries: of a few, Milvus makes no index of their own
_ROWS_AT_ONCE = 4_096


def publish_gallery(
    index: str | Path,
    collection: str,
    uri: str | None = None,
    token: str | None = None,
    index_type: str = "FLAT",
    index_options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> int:
    """Puts a gallery's folder into a collection of Milvus, or brings one that is there in step with it.

    No model is needed. What was interrupted goes on where it was.

    Args:
        index: the gallery's folder. `collection`, `uri`, `token`: see `MilvusCollection`.
        index_type: of Milvus' index, when the collection is made. "FLAT" compares all mean vectors, as a gallery
            without Milvus does. "HNSW", "DISKANN", "IVF_FLAT" and others are faster, and miss some.
        index_options: of that index, such as `{"M": 32, "efConstruction": 400}`; see docs/milvus.md.

    Returns:
        how many entries were written or deleted.

    Raises:
        FileNotFoundError: there is no gallery in that folder.
        ValueError: it is damaged; the collection holds another model's gallery, or something else; Milvus knows no such
            index.
        ImportError, ConnectionError: see `MilvusCollection`.
    """
    place, target = GalleryFolder(index), MilvusCollection(collection, uri, token)
    settings = place.settings()
    if not target.exists():
        notes = notes_of(settings, _BEING_WRITTEN, 0)
        target.create(settings["features"]["shape"][1], notes, index_type, index_options or {})
    _check(target, target.notes(), place, settings)
    target.open()
    return _bring_in_step(place, target, None, progress)[1]


class MilvusGallery(Gallery):
    """A gallery that asks Milvus for candidates; all else is as in `Gallery`.

    Whoever opens it needs the gallery's folder, too. `exact=True`, and whatever takes more than 16,384 candidates, is
    answered by the folder alone, for Milvus gives no more; without `exact` even a small gallery goes by candidates.

    `add`, `upsert`, `delete` and `compact` change the folder, and then the collection. If Milvus does not answer then,
    a warning says so, since the change counts and is not to be made twice, and `sync` brings the collection in step.

    Example:
        gallery = Gallery.from_folder(model, processor, "photos/", features_dir="photos.index")
        publish_gallery("photos.index", "photos", uri="http://milvus.example.org:19530")
        gallery = MilvusGallery.load("photos.index", model, processor, collection="photos", uri="http://…")

    Attributes:
        collection: Milvus' collection.
    """

    collection: MilvusCollection
    _synced: GalleryState | None  # the last state that the collection is known to have held

    @classmethod
    def load(
        cls,
        index: str | Path,
        model: Retriever,
        processor: RetrieverProcessor,
        folder: str | Path | None = None,
        check_images: bool = True,
        *,
        collection: str,
        uri: str | None = None,
        token: str | None = None,
        timeout: float = 30.0,
        search_options: Mapping[str, Any] | None = None,
    ) -> "MilvusGallery":
        """Opens a gallery's folder and the collection that `publish_gallery` made of it.

        Args:
            collection, uri, token, timeout, search_options: see `MilvusCollection`; all else as for `Gallery.load`.

        Raises:
            ValueError: the collection is not there, or of another model; and as for `Gallery.load`.
            ImportError, ConnectionError: see `MilvusCollection`.
        """
        gallery = super().load(index, model, processor, folder, check_images)
        if gallery.place is None:
            raise ValueError(
                f"{printable(index)} is a store of an earlier version: convert_store, or fafa index with --convert, "
                "makes a gallery of it"
            )
        gallery.collection, gallery._synced = MilvusCollection(collection, uri, token, timeout, search_options), None
        gallery._look()
        gallery.collection.open()
        return gallery

    @classmethod
    def from_images(cls, *images: Any, **options: Any) -> Gallery:
        """Refused: Gallery encodes images, and `publish_gallery` puts them into Milvus."""
        raise TypeError(
            "a gallery is made by Gallery (features_dir=...), put into Milvus by publish_gallery, and opened by "
            "MilvusGallery.load"
        )

    @property
    def is_in_step(self) -> bool:
        """Whether the collection held all that is searched, when it was last looked at."""
        return self._synced is not None and _digest(self._synced) == _digest(self._stored)

    def sync(self, progress: bool = False) -> int:
        """Brings the collection to the folder's state, by what changed; returns how many entries that were.

        Raises:
            ConnectionError: Milvus does not answer; the next `sync` goes on. ValueError: the folder is damaged.
        """
        state, number = _bring_in_step(self.place, self.collection, self._synced, progress)
        self._synced = state
        if state.generation != self._stored.generation:
            self._hold(state)
        return number

    def refresh(self) -> bool:
        """As of any gallery; and looks whether the collection is in step."""
        is_new = super().refresh()
        self._look()
        return is_new

    def delete(self, *which: Any, **options: Any) -> int:
        """As of any gallery, see there."""
        try:
            return super().delete(*which, **options)
        finally:
            self._follow()

    def compact(self, *wait: Any, **options: Any) -> None:
        """As of any gallery, see there."""
        try:
            super().compact(*wait, **options)
        finally:
            self._follow()

    def _add(self, *images: Any, **options: Any) -> list[int | None]:
        try:
            return super()._add(*images, **options)
        finally:
            self._follow()

    def _follow(self) -> None:
        try:
            self.sync()
        except (ConnectionError, ValueError) as error:
            logger.warning(
                "%s has changed, and Milvus could not follow (%s): new images are not found until sync() brings the "
                "collection in step",
                *(printable(self.place.path), error),
            )

    def _look(self) -> None:
        """Whether the collection is this gallery's, and in step."""
        noted = self.collection.notes()
        _check(self.collection, noted, self.place, self._stored.settings)
        if noted["state"] == _digest(self._stored):
            self._synced = self._stored
            return
        self._synced = None
        logger.warning(
            "%s holds the gallery as of its generation %s%s, and the folder %s is at %d: images that it lacks are not "
            "found until sync() brings it in step",
            *(self.collection, noted["generation"], ", or in part" if noted["state"] == _BEING_WRITTEN else ""),
            *(printable(self.place.path), self._stored.generation),
        )

    def _scores_all(self, exact: bool, candidates: int | None) -> bool:
        return exact

    def find(
        self,
        queries: Tensor,
        top: int,
        allowed: Allowed | None = None,
        exact: bool = False,
        candidates: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `GallerySearching.find`; raises a ConnectionError, too, if Milvus does not answer."""
        if exact:
            return super().find(queries, top, allowed, exact, candidates)
        rows = self.nearest(queries, number_of_candidates(top, candidates), allowed)
        with self._damage_told():
            return rank_rows(queries, self.state.parts, rows, self.model.num_top_tokens, top)

    def nearest(self, queries: Tensor, number: int, allowed: Allowed | None = None) -> Tensor:
        """See `GallerySearching.nearest`; candidates by Milvus."""
        allowed = allowed or Allowed(self.state)
        if number > MOST:
            logger.info("%d candidates are more than the %d that Milvus gives: the folder answers", number, MOST)
            return super().nearest(queries, number, allowed)
        expression = "" if allowed.condition is None else to_milvus(allowed.condition)
        found = torch.full((len(queries), number), -1)
        missing = list(range(len(queries)))
        for limit in dict.fromkeys([min(MOST, number + len(allowed.excluded)), MOST]):
            lacking = []
            answers = self.collection.nearest(queries[missing], limit, expression)
            for query, ids in zip(missing, answers, strict=True):
                rows = _rows_of(ids, allowed)[:number]
                found[query, : len(rows)] = rows.sort().values
                if len(rows) < number and len(ids) == limit:  # there may be more
                    lacking.append(query)
            if not (missing := lacking):
                return found
        logger.warning(
            "%s has so much too much that too few candidates are left of %d: the folder %s answers; sync() brings the "
            "collection in step",
            *(self.collection, MOST, printable(self.place.path)),
        )
        found[missing] = super().nearest(queries[missing], number, allowed)
        return found


def _rows_of(ids: Tensor, allowed: Allowed) -> Tensor:
    """The rows of those ids that a gallery's state has and lets through, in their order."""
    state = allowed.state
    if not len(state):
        return ids[:0]
    places = torch.searchsorted(state.ids, ids).clamp(max=len(state) - 1)
    rows = state.living_rows(places[state.ids[places] == ids]).cpu()
    return rows[allowed.lets_through(rows)]


def _check(
    collection: MilvusCollection, noted: Mapping[str, str], place: GalleryFolder, settings: Mapping[str, Any]
) -> None:
    """Refuses a collection that is of another model's gallery, by a ValueError."""
    if differences := differing_settings(json.loads(noted["settings"]), settings, frozenset({"dtype"})):
        raise ValueError(
            f"{collection} holds a gallery whose features cannot be compared with those in {printable(place.path)}: "
            f"{', '.join(differences)}. Choose another name for the collection, or the folder that it was made of"
        )


def _bring_in_step(
    place: GalleryFolder, collection: MilvusCollection, before: GalleryState | None, progress: bool
) -> tuple[GalleryState, int]:
    """Brings a collection to the state of a folder; one process at a time, and another waits.

    Args:
        before: a state that the collection may hold still. Then what differs from it is written; otherwise the
            collection's entries are listed, and those that are not of a segment which it is noted to hold are compared
            by checksums.

    Returns:
        the folder's state, and how many entries were written or deleted.
    """
    with FileLock(place.path / ".milvus.lock"):
        state, noted = place.read(before), collection.notes()
        if noted["state"] == _digest(state):
            return state, 0
        same = set(json.loads(noted["segments"])) & {*map(_key, state.segments)}
        if before is not None and noted["state"] == _digest(before):
            old_ids, old_sums, _ = _checksums(before, same)
        else:
            old_ids, old_sums = collection.known()
        ids, sums, is_same = _checksums(state, same)
        # Whoever is interrupted leaves it so. Of the same segments no entry is written, though some may be deleted.
        collection.note(state=_BEING_WRITTEN, segments=json.dumps(sorted(same)))
        gone = np.setdiff1d(old_ids, ids, assume_unique=True)
        collection.delete(gone.tolist())
        places = np.searchsorted(old_ids, ids).clip(max=max(0, len(old_ids) - 1))
        is_there = old_ids[places] == ids if len(old_ids) else np.zeros(len(ids), dtype=bool)
        is_there[is_there] = (old_sums[places[is_there]] == sums[is_there]) | is_same[is_there]
        changed = ids[~is_there]
        with tqdm(total=len(changed), desc="writing to Milvus", unit="image", disable=not progress) as bar:
            for segment in state.segments:
                rows = living_rows(segment.part)
                rows = rows[np.isin(segment.part.ids.numpy()[rows], changed, assume_unique=True)]
                for entries in _entries(segment, rows):
                    collection.write(entries)
                    bar.update(len(entries))
        if len(changed) >= _FLUSHED_FROM:
            collection.flush()
        collection.note(**notes_of(state.settings, _digest(state), state.generation, map(_key, state.segments)))
        return state, len(changed) + len(gone)


def _checksums(state: GalleryState, same: Set[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the images of a state that are not deleted: ids, checksums, and whether their segments are the `same` anyway.

    Of the latter no checksum is computed: it is 0.
    """
    ids, sums, is_same = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, bool)]
    for segment in state.segments:
        rows = living_rows(segment.part)
        own = np.zeros(len(rows), np.int64)
        if not (is_known := _key(segment) in same):
            for start, entries in zip(range(0, len(rows), _ROWS_AT_ONCE), _entries(segment, rows), strict=True):
                own[start : start + len(entries)] = [entry["checksum"] for entry in entries]
        ids.append(segment.part.ids.numpy()[rows])
        sums.append(own)
        is_same.append(np.full(len(rows), is_known))
    return np.concatenate(ids), np.concatenate(sums), np.concatenate(is_same)


def _entries(segment: Segment, rows: np.ndarray) -> Iterator[list[dict[str, Any]]]:
    """A collection's entries of some rows of a segment, a few thousand at a time."""
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        chosen = torch.from_numpy(rows[start : start + _ROWS_AT_ONCE])
        ids, means = segment.part.ids[chosen].tolist(), segment.part.means[chosen].numpy()
        entries = []
        for number, mean, entry in zip(ids, means, segment.metadata.read(chosen.tolist()), strict=True):
            known = fields_of(entry)
            digest = xxhash.xxh3_64(mean.tobytes())
            digest.update(json.dumps(known, sort_keys=True).encode())
            checksum = digest.intdigest() - (1 << 63)  # Milvus has signed numbers
            entries.append({"id": number, "mean": mean, "checksum": checksum, **known})
        yield entries


def _key(segment: Segment) -> str:
    """Equal for segments whose features, ids and entries are equal; rows may be deleted in one."""
    record = segment.record
    files = {name: known for name, known in record["files"].items() if name != record["deleted"]}
    return xxhash.xxh3_128(json.dumps([record["name"], record["entries"], files], sort_keys=True).encode()).hexdigest()


def _digest(state: GalleryState) -> str:
    """Equal for states of the same images of which the same is known, wherever they were written."""
    records: Sequence[Mapping[str, Any]] = [segment.record for segment in state.segments]
    return xxhash.xxh3_128(json.dumps(records, sort_keys=True).encode()).hexdigest()
