"""What a gallery can be asked: one query or many, of several terms; and photographs that show several people sought."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..film_reading import UnreadableFilmError
from ..image_reading_fafa import UnreadableImageError
from .feedback import rocchio
from .finding import number_of_candidates, score_all, score_rows
from .fusing import SAMPLE, FusedTerms, fuse
from .identity import changes_since
from .opening import open_entry
from .queries import Query, Term, check_queries
from .searching import Allowed, GallerySearching, SearchResult, check_finite
from .set_match import check_assignment, match_people

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PhotoResult:
    """One photograph, as a search for several people ranked it.

    Args:
        rank: from 1, the best.
        score: of the weakest match, less 1 for each person whom nobody in it stands for.
        path: the photograph's file; None without one.
        people: who stands for each person sought, in the order of the queries; None for nobody.
    """

    rank: int
    score: float
    path: Path | None
    people: list[SearchResult | None]


class GalleryAsking(GallerySearching):
    """The part of `Gallery` that answers queries of several terms."""

    judge: Callable[..., Callable[[list[SearchResult]], list[SearchResult]]]  # see `judging.GalleryJudging`

    def search(
        self,
        image: Any = None,
        caption: Any = None,
        top: int | None = 10,
        exclude: Sequence[str | Path] = (),
        where: str | None = None,
        exact: bool = False,
        candidates: int | None = None,
        minus: Any = None,
        false_alarm_rate: float | None = None,
    ) -> list[SearchResult]:
        """The images most similar to a query, best first; equal scores keep the gallery's order.

        Of a gallery of more than `searching.EXACT_UP_TO` images, those whose mean vectors are nearest to the query are
        scored, see `finding.find_best`. Scores are exact either way, but an image may be missed.

        Args:
            image: the reference image: a path, a PIL image, whatever else `open_image` takes, or a result of an earlier
                search. Or a list of them, each by itself or as a pair `(image, weight)`.
            caption: what the target looks like, or how it differs from the image; or a list, likewise. Every image is
                asked together with every caption.
            top: how many results; None ranks the whole gallery.
            exclude: files that must not be among the results, nor copies of them under other names; such as the
                query's own photograph.
            where: which images may be found, by what is known of them, see `filters`:
                `'camera == "gate 3" and taken >= "2024-05-01"'`.
            exact: whether to score every image.
            candidates: how many are scored otherwise; None: a number that grows with `top`.
            minus: what is not wanted, in words: `"a backpack"`, or a list, likewise. Where the caption can say it
                ("without the backpack"), say it there, too: see benchmarks/results/query_terms.md.
            false_alarm_rate: of queries that nobody in the gallery matches, the share that may have results all the
                same, such as 0.01; the others have none. It takes a gallery calibrated for queries of that kind, see
                `calibrate`.

        Raises:
            ValueError: neither image nor caption, a caption without a word, a weight of 0 or NaN, minus terms alone or
                outweighing the rest; `top` below 1; `where` is no filter, or names an unknown field; a false-alarm
                rate cannot be promised; a score is not a finite number.
            TypeError: an image, caption, weight or number of another kind.
            UnreadableImageError: an image cannot be decoded.
            FileNotFoundError, InaccessibleImageError: it is missing, or cannot be read now.
        """
        query = Query.of(image, caption, minus)
        return self.search_many([query], top, exclude, where, exact, candidates, false_alarm_rate)[0]

    def search_many(
        self,
        queries: Sequence[Query],
        top: int | None = 10,
        exclude: Sequence[str | Path] = (),
        where: str | None = None,
        exact: bool = False,
        candidates: int | None = None,
        false_alarm_rate: float | None = None,
        resolved: Sequence[FusedTerms] | None = None,
    ) -> list[list[SearchResult]]:
        """The results of several queries, which is faster than one search after the other; see `search`.

        The score of a query with several terms is what `fusing.fuse` says, and lies about where that of its plus terms
        does. Images that a query's searcher has marked wrong are not among its results.

        Args:
            queries: see `Query`; all else as for `search`, and so are errors.
            resolved: what `resolve` made of them, if that is done.

        Returns:
            the results of each query.
        """
        check_queries(queries)
        top = self._checked_top(top, candidates)
        allowed = self.allowed(where, exclude)
        self._tell_excluded(allowed)
        if not len(self.state):
            return [[] for _ in queries]
        hidden = [(*query.wrong, *query.left_out) for query in queries]
        open_rows = [allowed.without(self.state.rows_of_ids(ids)) for ids in hidden]
        judged = [
            self.judge(query.kind, false_alarm_rate, rows) for query, rows in zip(queries, open_rows, strict=True)
        ]
        asked = self.resolve(queries) if resolved is None else resolved
        for place, terms in enumerate(asked):  # a result whose file is gone became two terms
            if not terms.is_single and queries[place].kind != "marks":
                judged[place] = self.judge("several terms", false_alarm_rate, open_rows[place])
        found = {}
        if single := [place for place, terms in enumerate(asked) if terms.is_single and not hidden[place]]:
            vectors = torch.cat([asked[place].vectors for place in single])
            pairs = zip(*self.find(vectors, top, allowed, exact, candidates), strict=True)
            found = dict(zip(single, pairs, strict=True))
        for place, (terms, rows) in enumerate(zip(asked, open_rows, strict=True)):
            if place not in found:
                found[place] = self.find_fused(terms, top, rows, exact, candidates)
        return [judged[place](self.results(*found[place])) for place in range(len(queries))]

    def search_together(
        self,
        queries: Sequence[Query],
        top: int | None = 10,
        exclude: Sequence[str | Path] = (),
        where: str | None = None,
        exact: bool = False,
        candidates: int | None = None,
    ) -> list[PhotoResult]:
        """The photographs that show all of several people best: SetMatch, see `set_match.match_people`.

        The people in a photograph are the gallery's images of the same file: one for each box in it.

        Args:
            queries: one for each person sought.
            top: how many photographs; None: all that were looked at.
            candidates: images looked at for each person sought, with all others of the photographs that they are in;
                all else as for `search`, and so are errors.

        Raises:
            ImportError: scipy is missing, with how to install it.
        """
        check_queries(queries)
        check_assignment()
        top = self._checked_top(top, candidates)
        allowed, state = self.allowed(where, exclude), self.state
        self._tell_excluded(allowed)
        if not len(state):
            return []
        asked = self.resolve(queries)
        banned = torch.zeros(len(queries), state.num_rows, dtype=torch.bool)
        for place, query in enumerate(queries):
            banned[place, state.rows_of_ids((*query.wrong, *query.left_out))] = True
        if self._scores_all(exact, candidates):
            rows = allowed.list_rows()
        else:
            directions = torch.cat([terms.direction for terms in asked])
            rows = self.nearest(directions, candidates or number_of_candidates(top), allowed).unique()
            rows = self._rows_beside(rows[rows >= 0])
            rows = rows[allowed.lets_through(rows)]
        scores = torch.stack([self._fused_scores(terms, rows) for terms in asked])  # (p, r)
        scores = scores.masked_fill(banned[:, rows], -torch.inf)
        photos: dict[Any, list[int]] = {}  # path, or row where there is none -> places among `rows`
        for place, entry in enumerate(state.stored_entries(rows)):
            photos.setdefault(place if entry.path is None else entry.path, []).append(place)
        matched = [(*match_people(scores[:, places]), places) for places in photos.values()]
        matched = [photo for photo in matched if any(column is not None for column in photo[1])]
        matched.sort(key=lambda photo: (-photo[0], photo[2][0]))
        found = []
        for rank, (score, columns, places) in enumerate(matched[:top], start=1):
            own = [None if column is None else places[column] for column in columns]
            shown = [(number, place) for number, place in enumerate(own) if place is not None]
            numbers, chosen = (torch.tensor(of) for of in zip(*shown, strict=True))
            people: list[SearchResult | None] = [None] * len(queries)
            for number, result in zip(numbers, self.results(scores[numbers, chosen], rows[chosen]), strict=True):
                people[number] = replace(result, rank=rank)
            found.append(PhotoResult(rank, score, next(one.path for one in people if one), people))
        return found

    def find_fused(
        self,
        terms: FusedTerms,
        top: int,
        allowed: Allowed | None = None,
        exact: bool = False,
        candidates: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The best images for a query of several terms; `find` is that for single vectors.

        Returns:
            scores and rows, `(top,)`, on the CPU; -infinity and -1 where there are fewer images.
        """
        if self._scores_all(exact, candidates):
            rows = (allowed or Allowed(self.state)).list_rows()
        else:
            rows = self.nearest(terms.direction, number_of_candidates(top, candidates), allowed)[0]
            rows = rows[rows >= 0]
        scores = self._fused_scores(terms, rows)
        order = scores.argsort(descending=True, stable=True)[:top]
        missing = 0, top - len(order)
        return F.pad(scores[order], missing, value=-torch.inf), F.pad(rows[order], missing, value=-1)

    def _fused_scores(self, terms: FusedTerms, rows: Tensor) -> Tensor:
        """`(m,)`, on the CPU: scores of these rows, none of them -1."""
        return terms.scores(self._term_scores(terms.vectors, rows).cpu())

    def _term_scores(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """`(num_terms, m)`: exact scores of these rows, none of them -1."""
        state, k = self.state, self.model.num_top_tokens
        with self._damage_told():
            if len(rows) == state.num_rows:
                scores = score_all(vectors, state.parts, k)
            else:
                scores = score_rows(vectors, state.parts, rows, k)
        check_finite(scores)
        return scores

    def resolve(self, queries: Sequence[Query]) -> list[FusedTerms]:
        """The terms of each query as vectors, moved by the marks, and how to fuse their scores.

        What all the queries ask is encoded in one batch. Errors as for `search`.
        """
        state, k = self.state, self.model.num_top_tokens
        number = min(SAMPLE, len(state))
        sample = state.living_rows(torch.arange(number) * len(state) // number)
        parts = [[part for term in query.terms for part in self._parts_of(term)] for query in queries]
        pairs = [what for of_query in parts for what, _ in of_query if not isinstance(what, Tensor)]
        encoded = iter(self.encode_pairs(pairs).split(1) if pairs else ())
        resolved = []
        for query, of_query in zip(queries, parts, strict=True):
            vectors = torch.cat([what if isinstance(what, Tensor) else next(encoded) for what, _ in of_query])
            weights = torch.tensor([weight for _, weight in of_query], dtype=torch.float64)
            if query.right or query.wrong:
                marked = (state.tokens(state.rows_of_ids(ids)) for ids in (query.right, query.wrong))
                vectors[weights > 0] = rocchio(vectors[weights > 0], *marked, k)
            if len(weights) == 1:
                resolved.append(FusedTerms(vectors, torch.ones(1), 0.0))
            else:
                resolved.append(fuse(vectors, weights, self._term_scores(vectors, sample)))
        return resolved

    def _parts_of(self, term: Term) -> list[tuple[tuple[Any, str | None] | Tensor, float]]:
        """What to encode for a term, an image and a caption or one of them, or kept features, `(1, dim)`; and weights.

        "Like this result" is asked by the result's image, as by any other: queries and targets are encoded differently.
        Where its file is gone, or another image has its name, its kept features stand for it, and a caption becomes a
        term of its own of the same weight: the model composes image and caption only out of pixels.
        """
        result = term.image
        if not isinstance(result, SearchResult):
            return [((term.image, term.caption), term.weight)]
        state, entry = result._state, result.entry
        is_changed = changes_since([result._stored.description()], state.images_folder).get(0) == "changed"
        if entry.path is not None and result.path is not None and not is_changed:
            try:
                is_whole_photo = entry.box is None and entry.time is None
                image = self.processor.open_crop(result.path) if is_whole_photo else open_entry(entry)
                return [((image, term.caption), term.weight)]
            except (OSError, UnreadableImageError, UnreadableFilmError):
                pass
        if state.settings["model"] != self.state.settings["model"]:
            raise ValueError(f"{entry.path or 'a result'} is gone, and it was found in the gallery of another model")
        logger.warning(
            "the file of result %s (image %d of the gallery) is gone or has changed: its kept features stand for it%s",
            *(entry.path or "", result.id, "" if term.caption is None else ", and the caption is a term of its own"),
        )
        kept = F.normalize(state.tokens([result._row]).mean(dim=1), dim=1).to(self.state.device)
        words = [] if term.caption is None else [((None, term.caption), term.weight)]
        return [(kept, term.weight), *words]

    def _rows_beside(self, rows: Tensor) -> Tensor:
        """These rows, and all others of the same photographs; ascending."""
        paths = {entry.path for entry in self.state.stored_entries(rows)} - {None}
        beside = [row for path in paths for row in self.state.rows_with("path", path)]
        return torch.cat([rows, torch.tensor(beside, dtype=torch.int64)]).unique()

    def _checked_top(self, top: int | None, candidates: int | None) -> int:
        for name, number in (("top", top), ("candidates", candidates)):
            is_number = number is None or (isinstance(number, Integral) and not isinstance(number, bool))
            if not is_number or (number is not None and number < 1):
                kind = ValueError if is_number else TypeError
                unset = "for the whole gallery" if name == "top" else "for a number that grows with top"
                raise kind(f"{name} is {number!r}, expected a whole number from 1, or None {unset}")
        return len(self.state) if top is None else min(int(top), len(self.state))
