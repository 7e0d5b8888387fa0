"""Searching a gallery: a query is encoded, filters say which images may be found, the best of them are ranked."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..files import contents_of, some
from ..retriever import Retriever, RetrieverProcessor
from .filters import Condition, parse_where
from .finding import DamagedRowsError, candidates, find_best, score_all
from .identity import changes_since
from .metadata import Entry
from .opening import open_entry
from .query_encoding import encode_pairs
from .segment_list import GalleryFolder
from .segments import REMEDY
from .state import GalleryState

logger = logging.getLogger(__name__)

EXACT_UP_TO = 20_000  # images: so many are all scored, which takes little time


@dataclass(frozen=True)
class SearchResult:
    """One gallery image, as a search ranked it.

    Args:
        rank: from 1, the best.
        score: similarity to the query, in [-1, 1].
        path: the image's file; None without one.
        index: its place among `Gallery.paths`.
        id: its number in the gallery, which it keeps, and which no other image gets.
        probability: that it is a match, where the gallery is calibrated.
    """

    rank: int
    score: float
    path: Path | None
    index: int
    id: int | None = None
    probability: float | None = None
    _row: int | None = field(default=None, repr=False, compare=False)
    _state: GalleryState | None = field(default=None, repr=False, compare=False)
    _stored: Entry | None = field(default=None, repr=False, compare=False)  # its path as it is stored

    @cached_property
    def entry(self) -> Entry:
        """What is known of the image: box, time, camera, date, tags; its path is absolute."""
        path = self._state.path_of(self._stored.path)
        return replace(self._stored, path=path and str(path))

    def open(self) -> Image.Image:
        """The image, upright, RGB: of a person in a photograph or a film, the person's crop.

        Raises:
            ValueError: the file is not what was encoded, or there is none; and as `open_entry`.
        """
        return open_entry(replace(self.entry, path=None if self.path is None else str(self.path)))


def entries_of(results: Sequence[SearchResult]) -> list[Entry]:
    """What is known of the results of one search, read at once; `SearchResult.entry` reads it of one."""
    return results[0]._state.entries([result._row for result in results]) if results else []


@dataclass(frozen=True, eq=False)
class Allowed:
    """Which images of a gallery's state a search may find: no deleted ones, and of the others those that are asked for.

    Args:
        condition: what is to be known of them, see `filters`.
        excluded: rows of images that are not to be found.
    """

    state: GalleryState
    condition: Condition | None = None
    excluded: tuple[int, ...] = ()

    @cached_property
    def rows(self) -> Tensor | None:
        """`(num_rows,)`, bool; None: all."""
        alive = self.state.alive
        if self.condition is None and not self.excluded:
            return alive
        rows = torch.ones(self.state.num_rows, dtype=torch.bool) if alive is None else alive.clone()
        if self.condition is not None:
            rows &= self.state.matching(self.condition).to(rows.device)
        rows[list(self.excluded)] = False
        return rows

    def list_rows(self) -> Tensor:
        """The rows of all that may be found, ascending."""
        return torch.arange(self.state.num_rows) if self.rows is None else self.rows.cpu().nonzero()[:, 0]

    def lets_through(self, rows: Tensor) -> Tensor:
        """Whether some images, none of them deleted, may be found: `(m,)`, bool."""
        found = torch.isin(rows, torch.tensor(self.excluded, dtype=torch.int64), invert=True)
        return found if self.condition is None else found & self.state.matching(self.condition, rows)

    def without(self, rows: Tensor) -> "Allowed":
        """The same but for more images."""
        return replace(self, excluded=(*self.excluded, *rows.tolist())) if len(rows) else self

    def count(self) -> int:
        """How many images may be found."""
        return self.state.num_rows if self.rows is None else int(self.rows.sum())


class GallerySearching:
    """The steps of a search: encoding a query, who may be found, the best of them, and what is told of these.

    Attributes:
        state: the images as they are searched now, see `GalleryState`.
    """

    model: Retriever
    processor: RetrieverProcessor
    state: GalleryState
    judge: Callable[..., Callable[[list[SearchResult]], list[SearchResult]]]  # see `judging.GalleryJudging`
    place: GalleryFolder | None
    _check_images: bool  # whether a file is named only if it is what was encoded
    _is_trusted: bool  # whether it is named all the same

    def scores(self, image: Any = None, caption: str | None = None) -> torch.Tensor:
        """Scores of one query against every image.

        Args:
            image: the reference image: a path, a PIL image, or whatever else `open_image` takes.
            caption: what the target looks like, or how it differs from the image.

        Returns:
            `(num_images,)`, fp32, in [-1, 1], in the order of `paths`.

        Raises:
            ValueError: neither image nor caption is given, or several, or a score is not a finite number.
            TypeError: an image or caption of another kind.
            UnreadableImageError: the image cannot be decoded.
            FileNotFoundError, InaccessibleImageError: it is missing, or cannot be read now.
        """
        state, query = self.state, self.encode_query(image, caption)
        scores = score_all(query, state.parts, self.model.num_top_tokens)[0].cpu()
        if state.alive is not None:
            scores = scores[state.alive]
        check_finite(scores)
        return scores

    def encode_query(self, image: Any = None, caption: str | None = None) -> Tensor:
        """The features of a query, `(1, dim)`, unit length, on the gallery's device; errors as for `scores`."""
        if not isinstance(caption, (str, NoneType)):
            raise TypeError(f"caption is a {type(caption).__name__}, expected one caption (str)")
        if isinstance(image, (list, tuple)):
            raise ValueError(f"a query has one image, got a list of {len(image)}; search for each by itself")
        return self.encode_pairs([(image, caption)])

    def encode_pairs(self, pairs: Sequence[tuple[Any, str | None]]) -> Tensor:
        """The features of several queries, in one batch: `(num_pairs, dim)`, see `query_encoding.encode_pairs`."""
        return encode_pairs(self.model, self.processor, pairs).float().to(self.state.device)

    def allowed(self, where: str | None = None, exclude: Sequence[str | Path] = ()) -> Allowed:
        """Which images may be found; arguments and errors as for `Gallery.search`."""
        state = self.state
        if isinstance(exclude, (str, Path)):
            raise TypeError(
                f"exclude is a {type(exclude).__name__}, expected a list of files, such as [{str(exclude)!r:.60}]"
            )
        condition = None if where is None else parse_where(where, state.tags)
        rows = {row for file in exclude for row in state.rows_with("contents", contents_of(file))}
        rows |= {row for file in exclude for row in state.rows_with("path", state.stored_path(file))}
        excluded = tuple(sorted(rows))
        return Allowed(state, condition, excluded)

    def _tell_excluded(self, allowed: Allowed) -> None:
        if rows := allowed.excluded:
            entries = zip(rows, allowed.state.entries(rows), strict=True)
            names = dict.fromkeys(entry.path or f"image {row}" for row, entry in entries)  # a file may have several
            logger.info("left out of the results, as one to exclude or a copy of it: %s", some([*names]))

    def find(
        self,
        queries: Tensor,
        top: int,
        allowed: Allowed | None = None,
        exact: bool = False,
        candidates: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The best images for queries that are encoded.

        Args:
            queries: `(num_queries, dim)`. `allowed`: None for all images; others as for `Gallery.search`.

        Returns:
            scores and rows, `(num_queries, top)`, on the CPU; -infinity and -1 where there are fewer images.

        Raises:
            ValueError: features are damaged, or a score is not a finite number.
        """
        options = {"num_candidates": candidates, "exact": self._scores_all(exact, candidates)}
        rows = allowed and allowed.rows
        with self._damage_told():
            return find_best(queries, self.state.parts, self.model.num_top_tokens, top, rows, **options)

    def nearest(self, queries: Tensor, number: int, allowed: Allowed | None = None) -> Tensor:
        """Rows of the images with the nearest mean vectors, see `finding.candidates`: `(num_queries, number)`."""
        return candidates(queries, self.state.parts, number, allowed and allowed.rows)

    @contextmanager
    def _damage_told(self) -> Iterator[None]:
        """Says where the gallery lies whose features are damaged."""
        try:
            yield
        except DamagedRowsError as error:
            where = "the gallery in memory" if self.place is None else self.place.path
            raise ValueError(f"{where} is damaged ({error}); {REMEDY}") from error

    def _scores_all(self, exact: bool, candidates: int | None) -> bool:
        return exact or (candidates is None and self.state.num_rows <= EXACT_UP_TO)

    def results(self, scores: Tensor, rows: Tensor, state: GalleryState | None = None) -> list[SearchResult]:
        """What `find` found for one query, `(top,)` each, with the images' files.

        Args:
            state: whose rows they are; by default those of now.
        """
        state, found = self.state if state is None else state, rows >= 0
        scores, rows = scores[found], rows[found]
        places, ids = state.places_of(rows).tolist(), state.ids_of(rows).tolist()
        entries = state.stored_entries(rows)
        ranked = zip(scores.tolist(), self._named(state, entries), places, ids, rows.tolist(), entries, strict=True)
        return [
            SearchResult(rank, score, path, place, number, None, row, state, entry)
            for rank, (score, path, place, number, row, entry) in enumerate(ranked, start=1)
        ]

    def by_ids(self, ids: Sequence[int]) -> list[SearchResult]:
        """Images by their numbers, as a search gives them, but without a score (NaN).

        Raises:
            ValueError: there is no image with such an id.
        """
        state = self.state  # one for all: another thread may follow the folder meanwhile
        rows = state.rows_of_ids(ids)
        return self.results(torch.full((len(rows),), torch.nan), rows, state)

    def _named(self, state: GalleryState, entries: Sequence[Entry]) -> list[Path | None]:
        """The files of images. One whose contents are not those that were encoded is named only where it is trusted."""
        paths = [state.path_of(entry.path) for entry in entries]
        if not self._check_images:
            return paths
        changes = changes_since([entry.description() for entry in entries], state.images_folder)
        told = {
            "changed": "have other contents than when they were encoded",
            "unknown": "may have other contents, since nothing is noted of them",
            "gone": "are gone",
            "inaccessible": "cannot be read now",
        }
        others = {row for row, change in changes.items() if change in ("changed", "unknown")}
        parts = []
        for kind, what in told.items():
            names = [str(paths[row]) for row, change in changes.items() if change == kind]
            if names and not (self._is_trusted and kind == "unknown"):
                parts.append(f"{len(names):,} {what}: {some(names, 3)}")
        if parts:
            logger.warning(
                "of %d images found in the index, %s. A search ranks them by the features they had%s; encode the "
                "folder again to follow the changes, or say where the images are now (folder=...).",
                *(len(entries), "; ".join(parts)),
                " and names no file for those with other contents" if others and not self._is_trusted else "",
            )
        return [None if row in others and not self._is_trusted else path for row, path in enumerate(paths)]


def check_finite(scores: Tensor) -> None:
    """Refuses scores of damaged weights or features, by a ValueError."""
    if not scores.isfinite().all():
        raise ValueError("the scores hold NaN or infinity: the model's weights or the stored features are damaged")
