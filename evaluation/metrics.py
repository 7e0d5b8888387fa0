"""Rank-k, mAP and mINP of composed person retrieval, and what chance gives."""

import logging
from collections.abc import Sequence
from math import lgamma
from typing import Any

import numpy as np
from torch import Tensor

from ..names import counted
from .ranking import QueryResults, checked_ks, match_ranks

SHOWS = 0.005  # percentage points: a table shows no less

logger = logging.getLogger(__name__)


def retrieval_metrics(
    scores: Any, query_ids: Any, gallery_ids: Any, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Rank-k, mAP and mINP in percent, with the released code's definitions.

    Rank-k is the share of queries with a match among the first k; mAP the mean of average precision; mINP the mean of
    the number of matches over the rank of the last one. Equal scores rank in gallery order, so results are
    deterministic (the released code's sort is not stable). Where a figure hangs on that, a warning tells of how many
    queries, and what the worst order would give; see `QueryResults.pessimistic`.

    Args:
        scores: `(num_queries, num_gallery)`, tensor, array or list of rows, higher is better, minus infinity for images
            to leave out; or an iterable of blocks of its rows, so that the whole matrix never exists.
        query_ids: `(num_queries,)`, integers or strings: a tensor, an array or a sequence.
        gallery_ids: `(num_gallery,)`; an image matches a query when their ids are equal.
        ks: the ranks k; they may exceed the gallery.

    Returns:
        `{"rank-1": ..., "rank-5": ..., "rank-10": ..., "mAP": ..., "mINP": ...}`, percentages.

    Raises:
        ValueError: a query without a match or with the id of distractors, -1; scores that are NaN or infinite; shapes
            that do not fit; a k below 1. The message names which.

    Example:
        >>> import torch
        >>> from fafa.evaluation import retrieval_metrics
        >>> retrieval_metrics(torch.tensor([[0.1, 0.9, 0.5]]), query_ids=[7], gallery_ids=[8, -1, 7], ks=(1, 2))
        {'rank-1': 0.0, 'rank-2': 100.0, 'mAP': 50.0, 'mINP': 50.0}
    """
    ks = checked_ks(ks)
    results = match_ranks(scores, query_ids, gallery_ids)
    found = results.metrics(ks)
    if (remark := tell_ties(ties_of(results, ks), found, len(results.num_matches))) is not None:
        logger.warning("%s", remark)
    return found


def ties_of(results: QueryResults, ks: Sequence[int] = (1, 5, 10)) -> dict[str, Any]:
    """For how many queries the order of the gallery decided, and the metrics in the worst order, for a report."""
    return {"num_queries": int(results.decided_by_ties.sum()), "pessimistic": results.pessimistic.metrics(ks)}


def tell_ties(ties: dict[str, Any], found: dict[str, float], num_queries: int) -> str | None:
    """A sentence on what `ties_of` found; None where no metric shows it as printed, with two decimals.

    By chance alone some of 20,000 scores in float32 are equal, deep down in the ranking.
    """
    worst = ties["pessimistic"]
    name = max(found, key=lambda name: found[name] - worst[name])
    if found[name] - worst[name] < SHOWS:
        return None
    queries = f"{ties['num_queries']:,} of {counted(num_queries, 'query')}"
    return (
        f"for {queries}, images that do not match have the very score of one "
        f"that does, so that the order of the gallery decided; in the worst order {name} is {worst[name]:.2f} instead "
        f"of {found[name]:.2f}. Are images in the gallery twice, scores of low precision, or features all alike?"
    )


def chance_metrics(
    num_matches: Sequence[int] | Tensor, num_gallery: int, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """The expected metrics of a random ranking, exact (no simulation); as `retrieval_metrics` gives them.

    Args:
        num_matches: `(num_queries,)`, how many of the gallery's images match each query.
        num_gallery: images in the gallery.

    Raises:
        ValueError: there is no query, one has less than one match or more than images, or a k is below 1.
    """
    ks, of_queries = checked_ks(ks), np.asarray(num_matches)
    if of_queries.ndim != 1 or not of_queries.size or of_queries.dtype.kind not in "iu":
        raise ValueError(f"num_matches: expected integers (num_queries,), got {of_queries.dtype} {of_queries.shape}")
    if wrong := [int(number) for number in of_queries if not 1 <= number <= num_gallery]:
        raise ValueError(f"num_matches: {wrong[0]} matches of a query, expected 1 to {num_gallery} (num_gallery)")
    counts, queries = np.unique(of_queries, return_counts=True)
    expected = [_expected_metrics(int(count), num_gallery, ks) for count in counts]
    return {name: 100 * float(np.average([row[name] for row in expected], weights=queries)) for name in expected[0]}


def _expected_metrics(m: int, n: int, ks: Sequence[int]) -> dict[str, float]:
    """The metrics of one query with m matches among n images, as fractions."""
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
