"""Rank-k, mAP and mINP of composed person retrieval, counted from scores without sorting the gallery."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import lgamma
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK_ELEMENTS = 2**22  # scores looked at together: 16 MB in fp32
MANY_MATCHES = 32  # from here on sorting a query's row is cheaper than counting once per match


@dataclass(frozen=True)
class QueryResults:
    """Where the matches of each query were ranked.

    Args:
        ranks: `(num_matches_in_all,)`, int64, from 1; query by query, ascending within each.
        num_matches: `(num_queries,)`, int64: how many of the ranks are the first query's, the second's, ...
        images: `(num_matches_in_all,)`, int64: which gallery image has each of the ranks.
    """

    ranks: Tensor
    num_matches: Tensor
    images: Tensor

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

    def per_query(self, ks: Sequence[int] = (1, 5, 10)) -> dict[str, Tensor]:
        """What the metrics are means of: name -> `(num_queries,)`, fp64, from 0 to 1 (hits at k are 0 or 1)."""
        _check_ks(ks)
        hits = {f"rank-{k}": (self.first_rank <= k).double() for k in ks}
        return {**hits, "mAP": self.average_precision, "mINP": self.inverse_negative_penalty}

    def metrics(self, ks: Sequence[int] = (1, 5, 10), queries: Sequence[bool] | Tensor | None = None) -> dict:
        """Means over queries, in percent; see `retrieval_metrics`.

        Args:
            ks: ranks at which to count hits.
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
        ValueError: if there is no query, if ids are of another rank or of two kinds, or if a query has no match.
    """

    def __init__(self, query_ids: Any, gallery_ids: Any):
        query_ids, gallery_ids = _as_ids(query_ids, "query_ids"), _as_ids(gallery_ids, "gallery_ids")
        if len(query_ids) == 0:
            raise ValueError("query_ids is empty: there is no query to evaluate")
        if len(gallery_ids) and query_ids.dtype.kind != gallery_ids.dtype.kind:
            raise ValueError(f"query_ids are {query_ids.dtype}, gallery_ids {gallery_ids.dtype}: they never match")
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
        self._ranks: list[Tensor] = []
        self._images: list[Tensor] = []
        self._num_seen = 0

    def add(self, scores: Any) -> None:
        """Takes the scores of the next queries against the whole gallery.

        Args:
            scores: `(num_rows, num_gallery)`, tensor or array; higher is better.

        Raises:
            ValueError: on another shape, on more rows than queries, on NaN.
        """
        scores = torch.as_tensor(scores).detach()
        if scores.ndim != 2 or scores.shape[1] != self.num_gallery:
            raise ValueError(
                f"expected scores (num_queries, {self.num_gallery} gallery images), got {tuple(scores.shape)}"
                + ("; model.score(queries, targets) makes scores of embeddings" if scores.ndim == 3 else "")
            )
        if self._num_seen + len(scores) > len(self.query_ids):
            raise ValueError(f"{self._num_seen + len(scores)} rows of scores for {len(self.query_ids)} queries")
        for block in scores.split(max(1, BLOCK_ELEMENTS // self.num_gallery)):
            self._rank_block(block)

    def results(self) -> QueryResults:
        """The ranks, once the rows of all queries are in.

        Raises:
            ValueError: if rows are missing.
        """
        if self._num_seen != len(self.query_ids):
            raise ValueError(f"{self._num_seen} rows of scores for {len(self.query_ids)} queries")
        return QueryResults(torch.cat(self._ranks), self.num_matches, torch.cat(self._images))

    def _rank_block(self, scores: Tensor) -> None:
        first = self._num_seen
        self._raise_on_nan(scores, first)
        num_matches = self.num_matches[first : first + len(scores)]
        row = torch.repeat_interleave(num_matches)
        within = torch.arange(len(row)) - (num_matches.cumsum(0) - num_matches)[row]
        column = self._order[self._starts[first + row] + within].to(scores.device)
        row, many = row.to(scores.device), (num_matches > MANY_MATCHES)[row].to(scores.device)

        ranks = torch.empty_like(column)
        ranks[~many] = _ranks_by_counting(scores, row[~many], column[~many])
        ranks[many] = _ranks_by_sorting(scores, row[many], column[many])
        by_rank = ranks.argsort()
        by_query_and_rank = by_rank[row[by_rank].argsort(stable=True)]
        self._ranks.append(ranks[by_query_and_rank].cpu())
        self._images.append(column[by_query_and_rank].cpu())
        self._num_seen += len(scores)

    def _raise_on_nan(self, scores: Tensor, first: int) -> None:
        is_nan = scores.isnan()
        if is_nan.any():
            row, column = is_nan.nonzero()[0].tolist()
            raise ValueError(
                f"the score of query {first + row} (id {self.query_ids[first + row]}) against gallery image {column} "
                "is NaN: check the embeddings of both, and the precision they were computed in"
            )


def match_ranks(scores: Any, query_ids: Any, gallery_ids: Any) -> QueryResults:
    """Ranks every query's matches; arguments and errors as for `retrieval_metrics`."""
    ranker = MatchRanker(query_ids, gallery_ids)
    for block in _row_blocks(scores):
        ranker.add(block)
    return ranker.results()


def retrieval_metrics(
    scores: Any, query_ids: Any, gallery_ids: Any, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Rank-k, mAP and mINP in percent, with the released code's definitions.

    Rank-k is the share of queries with a match among the first k; mAP the mean of average precision; mINP the mean of
    the number of matches over the rank of the last one. Equal scores rank in gallery order, so results are
    deterministic (the released code's sort is not stable).

    Args:
        scores: `(num_queries, num_gallery)`, tensor or array, higher is better; or an iterable of blocks of its rows,
            `(num_rows, num_gallery)` each, so that the whole matrix never exists.
        query_ids: `(num_queries,)`, integers or strings: a tensor, an array or a sequence.
        gallery_ids: `(num_gallery,)`; an image matches a query when their ids are equal.
        ks: the ranks k; they may exceed the gallery.

    Returns:
        `{"rank-1": ..., "rank-5": ..., "rank-10": ..., "mAP": ..., "mINP": ...}`, percentages.

    Raises:
        ValueError: a query without a match, a NaN, shapes that do not fit, a k below 1; the message names which.

    Example:
        >>> import torch
        >>> from fafa.evaluation import retrieval_metrics
        >>> retrieval_metrics(torch.tensor([[0.1, 0.9, 0.5]]), query_ids=[7], gallery_ids=[8, -1, 7], ks=(1, 2))
        {'rank-1': 0.0, 'rank-2': 100.0, 'mAP': 50.0, 'mINP': 50.0}
    """
    _check_ks(ks)
    return match_ranks(scores, query_ids, gallery_ids).metrics(ks)


def top_images(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k images ranked first for each query, equal scores in gallery order as everywhere here.

    Args:
        scores: `(num_queries, num_gallery)`, without NaN.
        k: how many; all, if the gallery is smaller.

    Returns:
        their scores and their indices in the gallery, both `(num_queries, min(k, num_gallery))`, best first.
    """
    k = min(k, scores.shape[1])
    values, indices = scores.topk(k, dim=1)
    # topk may take and order equal scores as it likes. Where it left some out, a stable sort decides.
    last = values[:, -1:]
    cut = ((scores == last).sum(dim=1) > (values == last).sum(dim=1)).nonzero()[:, 0]
    indices[cut] = scores[cut].argsort(dim=1, descending=True, stable=True)[:, :k]
    indices = indices.sort(dim=1).values
    values, order = scores.gather(1, indices).sort(dim=1, descending=True, stable=True)
    return values, indices.gather(1, order)


def chance_metrics(
    num_matches: Sequence[int] | Tensor, num_gallery: int, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """The expected metrics of a ranking drawn at random, exact (no simulation).

    Args:
        num_matches: `(num_queries,)`, how many of the gallery's images match each query.
        num_gallery: images in the gallery.
        ks: the ranks k.

    Returns:
        as `retrieval_metrics`.
    """
    _check_ks(ks)
    counts, queries = np.unique(np.asarray(num_matches), return_counts=True)
    expected = [_expected_metrics(int(count), num_gallery, ks) for count in counts]
    return {name: 100 * float(np.average([row[name] for row in expected], weights=queries)) for name in expected[0]}


def _expected_metrics(m: int, n: int, ks: Sequence[int]) -> dict[str, float]:
    """Of one query with m matches among n images, as fractions."""
    rank = np.arange(1, n + 1)
    result = {}
    for k in ks:
        missed = np.prod([max(0, n - m - i) / (n - i) for i in range(min(k, n))])  # all of the first k are wrong
        result[f"rank-{k}"] = 1.0 - missed
    # At a match's rank r, of the r - 1 images before it a share (m - 1) / (n - 1) are matches too.
    result["mAP"] = float(np.mean((1 + (rank - 1) * (m - 1) / max(1, n - 1)) / rank))
    # The last match is at rank r with probability C(r - 1, m - 1) / C(n, m).
    last = rank[m - 1 :]
    log_probability = [_log_binomial(r - 1, m - 1) - _log_binomial(n, m) for r in last.tolist()]
    result["mINP"] = float(np.sum(np.exp(log_probability) * m / last))
    return result


def _log_binomial(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _ranks_by_counting(scores: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Ranks of scores[row, column], each among its row: 1 + the higher ones + equal ones earlier in the gallery."""
    ranks = [column.new_empty(0)]
    position = torch.arange(scores.shape[1], device=scores.device)
    pairs_at_once = max(1, BLOCK_ELEMENTS // scores.shape[1])
    for row_part, column_part in zip(row.split(pairs_at_once), column.split(pairs_at_once), strict=True):
        rivals = scores[row_part]  # (pairs, num_gallery)
        score = rivals.gather(1, column_part[:, None])
        rank = 1 + (rivals > score).sum(dim=1)
        tied = ((rivals == score).sum(dim=1) > 1).nonzero()[:, 0]
        earlier = position < column_part[tied, None]
        rank[tied] += ((rivals[tied] == score[tied]) & earlier).sum(dim=1)
        ranks.append(rank)
    return torch.cat(ranks)


def _ranks_by_sorting(scores: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """The same ranks by a stable sort of each row: for queries with many matches."""
    ranks = torch.empty_like(column)
    for query in row.unique().tolist():
        order = scores[query].argsort(descending=True, stable=True)
        rank_of_image = torch.empty_like(order)
        rank_of_image[order] = torch.arange(1, len(order) + 1, device=order.device)
        ranks[row == query] = rank_of_image[column[row == query]]
    return ranks


def _row_blocks(scores: Any) -> Iterable[Any]:
    if isinstance(scores, (Tensor, np.ndarray)):
        return [scores]
    if isinstance(scores, Iterable):
        return scores
    raise TypeError(f"scores: expected a tensor, an array or blocks of rows, got {type(scores).__name__}")


def _as_ids(ids: Any, name: str) -> np.ndarray:
    ids = ids.cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    if ids.ndim != 1:
        raise ValueError(f"{name}: expected one id each, (number,), got an array of shape {ids.shape}")
    if len(ids) and ids.dtype.kind not in "iuU":
        raise ValueError(f"{name}: expected integers or strings, got {ids.dtype}")
    return ids.astype(np.int64) if ids.dtype.kind == "u" else ids


def _check_ks(ks: Sequence[int]) -> None:
    if not all(isinstance(k, int) and k >= 1 for k in ks):
        raise ValueError(f"ks is {ks!r}, expected ranks from 1 on, such as (1, 5, 10)")
