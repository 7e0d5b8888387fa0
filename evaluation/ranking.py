"""Where the matches of queries are ranked, counted from scores without sorting the gallery."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK_ELEMENTS = 2**22  # scores looked at together: 16 MB in fp32
DISTRACTOR = -1  # the id of images that match no query


@dataclass(frozen=True)
class QueryResults:
    """Where the matches of each query were ranked.

    Args:
        ranks: `(num_matches_in_all,)`, int64, from 1; query by query, ascending within each.
        num_matches: `(num_queries,)`, int64: how many of the ranks are the first query's, the second's, ...
        images: `(num_matches_in_all,)`, int64: which gallery image has each of the ranks.
        ties_before: `(num_matches_in_all,)`, int64: how many images that do not match have the same score as this one,
            and were ranked before it only because they come first in the gallery; 0: not counted.
        ties_after: likewise, ranked behind it only because they come later in the gallery.
    """

    ranks: Tensor
    num_matches: Tensor
    images: Tensor
    ties_before: Tensor | int = 0
    ties_after: Tensor | int = 0

    @property
    def ranks_per_query(self) -> tuple[Tensor, ...]:
        """The ranks of each query's matches, ascending."""
        return self.ranks.split(self.num_matches.tolist())

    @property
    def first_rank(self) -> Tensor:
        """`(num_queries,)`: the rank of each query's best match."""
        return self.ranks[self.num_matches.cumsum(0) - self.num_matches]

    @property
    def average_precision(self) -> Tensor:
        """`(num_queries,)`, in (0, 1]: the mean, over a query's matches, of the precision at their ranks."""
        query = torch.repeat_interleave(self.num_matches)
        starts = self.num_matches.cumsum(0) - self.num_matches
        found = torch.arange(1, len(self.ranks) + 1) - starts[query]  # matches at this rank or before
        precision = found.double() / self.ranks
        return torch.zeros(len(self.num_matches), dtype=torch.double).index_add(0, query, precision) / self.num_matches

    @property
    def inverse_negative_penalty(self) -> Tensor:
        """`(num_queries,)`, in (0, 1]: the number of matches over the rank of the last one."""
        return self.num_matches.double() / self.ranks[self.num_matches.cumsum(0) - 1]

    @property
    def decided_by_ties(self) -> Tensor:
        """`(num_queries,)`, bool: whether the order of the gallery decided the rank of one of the query's matches."""
        query = torch.repeat_interleave(self.num_matches)
        ties = torch.zeros_like(self.ranks) + self.ties_before + self.ties_after
        return torch.zeros_like(self.num_matches).index_add(0, query, ties) > 0

    @property
    def pessimistic(self) -> "QueryResults":
        """The ranks in the worst order of equal scores, in which images that do not match come first."""
        return QueryResults(self.ranks + self.ties_after, self.num_matches, self.images)

    def per_query(self, ks: Sequence[int] = (1, 5, 10)) -> dict[str, Tensor]:
        """What the metrics are means of: name -> `(num_queries,)`, fp64, from 0 to 1 (hits at k are 0 or 1)."""
        hits = {f"rank-{k}": (self.first_rank <= k).double() for k in checked_ks(ks)}
        return {**hits, "mAP": self.average_precision, "mINP": self.inverse_negative_penalty}

    def metrics(self, ks: Sequence[int] = (1, 5, 10), queries: Sequence[bool] | Tensor | None = None) -> dict:
        """Means over queries, in percent; see `retrieval_metrics`.

        Args:
            queries: `(num_queries,)`, True for those to average over; None: all.
        """
        chosen = torch.ones(len(self.num_matches), dtype=torch.bool) if queries is None else torch.as_tensor(queries)
        if chosen.shape != self.num_matches.shape or chosen.dtype != torch.bool or not chosen.any():
            raise ValueError(f"queries: expected {len(self.num_matches)} booleans, one or more of them true")
        return {name: 100 * values[chosen].mean().item() for name, values in self.per_query(ks).items()}


class MatchRanker:
    """Ranks the matches of queries whose scores arrive in blocks of rows, so that all scores never exist at once.

    Example:
        >>> import torch
        >>> from fafa.evaluation import MatchRanker
        >>> ranker = MatchRanker(query_ids=[7, 8], gallery_ids=[8, -1, 7])
        >>> ranker.add(torch.tensor([[0.1, 0.9, 0.5]]))
        >>> ranker.add(torch.tensor([[0.8, 0.2, 0.3]]))
        >>> ranker.results().first_rank
        tensor([2, 1])

    Args:
        query_ids: `(num_queries,)`, integers or strings: a tensor, an array or a sequence.
        gallery_ids: `(num_gallery,)`; an image matches a query when their ids are equal. No query has the id of
            distractors, -1 in ITCPR.

    Raises:
        ValueError: there is no query, ids are of another rank or of two kinds, or a query has no match, or the id of
            distractors.
    """

    def __init__(self, query_ids: Any, gallery_ids: Any):
        query_ids, gallery_ids = _as_ids(query_ids, "query_ids"), _as_ids(gallery_ids, "gallery_ids")
        if len(query_ids) == 0:
            raise ValueError("query_ids is empty: there is no query to evaluate")
        if len(gallery_ids) and query_ids.dtype.kind != gallery_ids.dtype.kind:
            raise ValueError(f"query_ids are {query_ids.dtype}, gallery_ids {gallery_ids.dtype}: they never match")
        distractor = DISTRACTOR if query_ids.dtype.kind == "i" else str(DISTRACTOR)
        if (is_distractor := query_ids == distractor).any():
            raise ValueError(
                f"query {int(is_distractor.argmax())} has the id {DISTRACTOR}, which distractors have: every one of "
                f"them would count as its match ({is_distractor.sum()} of {len(query_ids)} queries). Leave these "
                "queries out, or number people from 0"
            )
        self.query_ids, self.num_gallery = query_ids, len(gallery_ids)
        # Gallery images of one id lie side by side in `order`, and within an id in gallery order.
        order = gallery_ids.argsort(kind="stable")
        starts = np.searchsorted(gallery_ids, query_ids, side="left", sorter=order)
        ends = np.searchsorted(gallery_ids, query_ids, side="right", sorter=order)
        if (starts == ends).any():
            query = int((starts == ends).argmax())
            raise ValueError(
                f"query {query} (id {query_ids[query]}) has no match among {len(gallery_ids)} gallery images; "
                f"{(starts == ends).sum()} of {len(query_ids)} queries have none. Leave them out, or add their targets"
            )
        self._order, self._starts = torch.from_numpy(order), torch.from_numpy(starts)
        self.num_matches = torch.from_numpy(ends - starts)
        self._blocks: list[tuple[Tensor, ...]] = []  # as the fields of `QueryResults`, without num_matches
        self._num_seen = 0

    @classmethod
    def of_matches(cls, matches: Sequence[Sequence[int]], num_gallery: int) -> "MatchRanker":
        """One for queries of which several may want the same image, so that no id says who matches whom.

        Args:
            matches: of each query, the gallery images that match it.
            num_gallery: images in the gallery.

        Raises:
            ValueError: there is no query, one without a match, or a match twice or beyond the gallery.
        """
        for query, images in enumerate(matches):
            if not images or len(set(images)) < len(images) or not all(0 <= one < num_gallery for one in images):
                raise ValueError(
                    f"query {query}: its matches are {list(images)[:5]}, expected different ones from 0 to "
                    f"{num_gallery - 1}, one at least"
                )
        ranker = cls(range(len(matches)), range(max(num_gallery, len(matches))))
        ranker.num_gallery = num_gallery
        ranker.num_matches = torch.tensor([len(images) for images in matches])
        ranker._starts = ranker.num_matches.cumsum(0) - ranker.num_matches
        ranker._order = torch.tensor([image for images in matches for image in sorted(images)])
        return ranker

    def add(self, scores: Any) -> None:
        """Takes the scores of the next queries against the whole gallery.

        Args:
            scores: `(num_rows, num_gallery)`, tensor or array; higher is better. Minus infinity leaves an image out.

        Raises:
            ValueError: another shape, more rows than queries, no numbers, infinity, or minus infinity for a match. Then
                none of the rows is taken.
        """
        scores = _as_scores(scores)
        if scores.ndim != 2 or scores.shape[1] != self.num_gallery:
            raise ValueError(
                f"expected scores (num_queries, {self.num_gallery} gallery images), got {tuple(scores.shape)}"
                + ("; model.score(queries, targets) makes scores of embeddings" if scores.ndim == 3 else "")
            )
        if self._num_seen + len(scores) > len(self.query_ids):
            raise ValueError(f"{self._num_seen + len(scores)} rows of scores for {len(self.query_ids)} queries")
        blocks = scores.split(max(1, BLOCK_ELEMENTS // self.num_gallery))
        first = self._num_seen
        for block in blocks:
            self._check_finite(block, first)
            first += len(block)
        for block in blocks:
            self._rank_block(block)

    def results(self) -> QueryResults:
        """The ranks, once the rows of all queries are in.

        Raises:
            ValueError: if rows are missing.
        """
        if self._num_seen != len(self.query_ids):
            raise ValueError(f"{self._num_seen} rows of scores for {len(self.query_ids)} queries")
        ranks, images, before, after = (torch.cat(parts) for parts in zip(*self._blocks, strict=True))
        return QueryResults(ranks, self.num_matches, images, before, after)

    def _rank_block(self, scores: Tensor) -> None:
        row, column = self._matches(self._num_seen, len(scores), scores.device)
        ranks, earlier, equal = _count_ranks(scores, row, column)
        by_rank = ranks.argsort()
        by_query_and_rank = by_rank[row[by_rank].argsort(stable=True)]
        row, column, ranks, earlier, equal = (of[by_query_and_rank] for of in (row, column, ranks, earlier, equal))
        # Matches of the query that have the same score are no rivals.
        same_score = torch.stack([row, ranks - earlier])
        _, group, size = same_score.unique_consecutive(dim=1, return_inverse=True, return_counts=True)
        matches_before = torch.arange(len(row), device=row.device) - (size.cumsum(0) - size)[group]
        before = earlier - matches_before
        after = equal - size[group] - before
        self._blocks.append((ranks.cpu(), column.cpu(), before.cpu(), after.cpu()))
        self._num_seen += len(scores)

    def _matches(self, first: int, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rows and gallery images of all matches of some queries, query by query, within each in gallery order."""
        num_matches = self.num_matches[first : first + number]
        row = torch.repeat_interleave(num_matches)
        within = torch.arange(len(row)) - (num_matches.cumsum(0) - num_matches)[row]
        return row.to(device), self._order[self._starts[first + row] + within].to(device)

    def _check_finite(self, scores: Tensor, first: int) -> None:
        if not scores.is_floating_point() or scores.isfinite().all():
            return
        row, column = self._matches(first, len(scores), scores.device)
        for name, is_wrong in (("NaN", scores.isnan()), ("infinite", scores.isposinf())):
            if is_wrong.any():
                place = is_wrong.nonzero()[0]
                raise ValueError(
                    f"{self._pair(first, *place.tolist())} is {name}: check the embeddings of both, and the precision "
                    "they were computed in"
                )
        if (left_out := scores[row, column].isneginf()).any():
            match = int(left_out.nonzero()[0])
            raise ValueError(
                f"{self._pair(first, int(row[match]), int(column[match]))}, which is its match, is minus infinity, "
                "which leaves an image out: leave the query out as well, or give the image a score"
            )

    def _pair(self, first: int, row: int, column: int) -> str:
        return f"the score of query {first + row} (id {self.query_ids[first + row]}) against gallery image {column}"


def match_ranks(scores: Any, query_ids: Any, gallery_ids: Any) -> QueryResults:
    """Ranks every query's matches; arguments and errors as for `retrieval_metrics`."""
    ranker = MatchRanker(query_ids, gallery_ids)
    for block in _row_blocks(scores):
        ranker.add(block)
    return ranker.results()


def top_images(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k images ranked first for each query (all, if there are fewer), equal scores in gallery order as always here.

    Args:
        scores: `(num_queries, num_gallery)`, without NaN.

    Returns:
        their scores and their indices in the gallery, both `(num_queries, min(k, num_gallery))`, best first.

    Raises:
        ValueError: scores have another rank, or k is below 1.
    """
    if scores.ndim != 2:
        raise ValueError(f"expected scores (num_queries, num_gallery), got {tuple(scores.shape)}")
    k = min(*checked_ks([k]), scores.shape[1])
    values, indices = scores.topk(k, dim=1)
    # topk may take and order equal scores as it likes. Where it left some out, a stable sort decides.
    last = values[:, -1:]
    cut = ((scores == last).sum(dim=1) > (values == last).sum(dim=1)).nonzero()[:, 0]
    indices[cut] = scores[cut].argsort(dim=1, descending=True, stable=True)[:, :k]
    indices = indices.sort(dim=1).values
    values, order = scores.gather(1, indices).sort(dim=1, descending=True, stable=True)
    return values, indices.gather(1, order)


def _count_ranks(scores: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Ranks of scores[row, column], each among its row: 1 + the higher ones + equal ones earlier in the gallery.

    Returns:
        `(3, num_pairs)`: the ranks, how many equal ones are earlier, how many are equal (itself included).
    """
    ranks = [column.new_empty(3, 0)]
    position = torch.arange(scores.shape[1], device=scores.device)
    pairs_at_once = max(1, BLOCK_ELEMENTS // scores.shape[1])
    for row_part, column_part in zip(row.split(pairs_at_once), column.split(pairs_at_once), strict=True):
        rivals = scores[row_part]  # (pairs, num_gallery)
        score = rivals.gather(1, column_part[:, None])
        equal = (rivals == score).sum(dim=1)
        tied = (equal > 1).nonzero()[:, 0]
        earlier = torch.zeros_like(equal)
        is_earlier = position < column_part[tied, None]
        earlier[tied] = ((rivals[tied] == score[tied]) & is_earlier).sum(dim=1)
        ranks.append(torch.stack([1 + (rivals > score).sum(dim=1) + earlier, earlier, equal]))
    return torch.cat(ranks, dim=1)


def _row_blocks(scores: Any) -> Iterable[Any]:
    is_matrix = isinstance(scores, (list, tuple)) and scores and not hasattr(scores[0], "shape")
    if isinstance(scores, (Tensor, np.ndarray)) or is_matrix:
        return [scores]
    if isinstance(scores, Iterable) and not isinstance(scores, (str, bytes)):
        return scores
    raise TypeError(f"scores: expected a tensor, an array or blocks of rows, got {type(scores).__name__}")


def _as_scores(scores: Any) -> Tensor:
    try:
        if isinstance(scores, np.ndarray):
            scores = np.ascontiguousarray(scores)  # torch takes no view that runs backwards
        scores = torch.as_tensor(scores).detach()
    except (TypeError, ValueError, RuntimeError) as error:  # texts, objects, rows of several lengths
        raise ValueError(f"scores: expected numbers, as many for each query as images ({error})") from error
    if scores.layout != torch.strided or scores.dtype == torch.bool or scores.is_complex() or scores.is_meta:
        what = "sparse ones" if scores.layout != torch.strided else str(scores.dtype).removeprefix("torch.")
        raise ValueError(f"scores: expected real numbers, dense, got {'none' if scores.is_meta else what}")
    # torch compares and sorts unsigned ones of these sizes hardly anywhere.
    return scores.double() if scores.dtype in (torch.uint16, torch.uint32, torch.uint64) else scores


def _as_ids(ids: Any, name: str) -> np.ndarray:
    if isinstance(ids, (str, bytes)):
        raise ValueError(f"{name}: expected one id each, (number,), got the text {ids!r}")
    try:
        array = ids.cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    except ValueError as error:  # lists of several lengths
        raise ValueError(f"{name}: expected one id each, (number,) ({error})") from error
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one id each, (number,), got an array of shape {array.shape}")
    if len(array) and array.dtype.kind not in "iuU":
        raise ValueError(f"{name}: expected integers or strings, got {array.dtype}")
    if array.dtype.kind == "U" and (strange := [value for value in ids if not isinstance(value, str)]):
        raise ValueError(f"{name}: expected integers or strings, not both; got {strange[0]!r} among strings")
    if array.dtype.kind == "u" and (array > np.iinfo(np.int64).max).any():
        raise ValueError(f"{name}: {array.max()} is beyond 64-bit integers; use strings")
    return array.astype(np.int64) if array.dtype.kind == "u" else array


def checked_ks(ks: Sequence[int]) -> tuple[int, ...]:
    """The ranks as a tuple of numbers.

    Raises:
        ValueError: one is no whole number from 1 on.
    """
    ks = tuple(ks) if isinstance(ks, Iterable) else ks
    if not isinstance(ks, tuple) or any(isinstance(k, bool) or not isinstance(k, Integral) or k < 1 for k in ks):
        raise ValueError(f"ks is {ks!r}, expected ranks from 1 on, such as (1, 5, 10)")
    return tuple(map(int, ks))
