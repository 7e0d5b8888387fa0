"""Open-set figures: does the model know when nobody in the gallery matches? By leaving the matches out.

Every query is asked twice: once of the whole gallery, once of the gallery without its matches. A search answers with
its best image if that scores above a threshold, and else with "nobody". So there are two ways to be wrong, and one
threshold trades them: the *false-alarm rate* is the share of queries without a match that are answered all the same;
the *detection-and-identification rate* (DIR, at rank 1) the share of queries with a match whose best image is a match
and above the threshold (Phillips, Grother and Micheals 2011: Evaluation Methods in Face Recognition).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..retrieval.calibration import LEAST_QUERIES, HighestScores, fit_probabilities
from .intervals import resamples

FALSE_ALARM_RATES = (0.01, 0.1)
BINS = 10  # of the reliability curve
CURVE_POINTS = 40
NUM_RESAMPLES = 2_000  # each is sorted through


class OpenSetScores:
    """What open-set figures are computed from, out of blocks of scores.

    Args:
        query_ids: `(num_queries,)`, integers or strings; `gallery_ids`: `(num_gallery,)`; equal ones match.

    Raises:
        ValueError: every image of the gallery matches a query, so that nothing is left without its matches.
    """

    def __init__(self, query_ids: Sequence, gallery_ids: Sequence):
        codes = np.unique(np.concatenate([np.asarray(query_ids), np.asarray(gallery_ids)]), return_inverse=True)[1]
        self._query_ids, self._gallery_ids = torch.from_numpy(codes).split([len(query_ids), len(gallery_ids)])
        counts = torch.bincount(self._gallery_ids, minlength=int(codes.max()) + 1)[self._query_ids]
        if (is_whole := counts == len(gallery_ids)).any():
            raise ValueError(
                f"query {int(is_whole.nonzero()[0])} matches all {len(gallery_ids)} images of the gallery: without its "
                "matches nothing is left, so there are no open-set figures; add images of other people"
            )
        self.highest, self._num_seen = HighestScores(len(gallery_ids)), 0

    def add(self, scores: Tensor) -> None:
        """Takes the scores of the next queries, `(num_rows, num_gallery)`."""
        ids = self._query_ids[self._num_seen : self._num_seen + len(scores)]
        self.highest.add(scores, ids[:, None] == self._gallery_ids)
        self._num_seen += len(scores)

    def figures(self, seed: int = 0) -> dict[str, Any]:
        """The figures of a report.

        Returns:
            `auroc`: [value, lower, upper], percent: how often the best score of a query with a match is above that of
            one without; `dir`: false-alarm rate, as text -> the DIR, likewise, for those that the queries are enough to
            tell; `curve`: [false-alarm rate, DIR] of some thresholds, percent; `reliability`: see `reliability_curve`.
        """
        impostor, match = self.highest.impostors[:, 0].numpy(), self.highest.matches[:, 0].numpy()
        return {**open_set_figures(impostor, match, seed), "reliability": self._cross_fitted()}

    def _cross_fitted(self) -> list[dict[str, float]]:
        """The reliability of probabilities fitted to every other query and told of the rest; and the other way."""
        number = len(self.highest.impostors)
        if number < 2 * LEAST_QUERIES:
            return []
        halves = torch.arange(0, number, 2), torch.arange(1, number, 2)
        probabilities, are_matches = [], []
        for fitted, told in (halves, halves[::-1]):
            scores, is_match = self.highest.shown(fitted)
            intercept, slope = fit_probabilities(*(of[~scores.isneginf()] for of in (scores, is_match)))
            scores, is_match = self.highest.shown(told)
            is_there = ~scores.isneginf()
            probabilities.append((intercept + slope * scores[is_there]).sigmoid())
            are_matches.append(is_match[is_there])
        return reliability_curve(torch.cat(probabilities), torch.cat(are_matches))


def open_set_figures(impostor: np.ndarray, match: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """The figures of queries, of any galleries; see `OpenSetScores.figures`.

    Args:
        impostor: `(num_queries,)`: the best score of an image that does not match; `match`: of one that does.
        seed: of the bootstrap over queries.
    """
    once, number = np.ones((1, len(impostor)), dtype=int), len(impostor)
    rates = [rate for rate in FALSE_ALARM_RATES if rate * number >= 1]
    resampled = [_rates_and_auroc(impostor, match, rates, times) for times in resamples(number, NUM_RESAMPLES, seed)]
    ends = np.percentile(np.concatenate(resampled), [2.5, 97.5], axis=0)
    intervals = 100 * np.concatenate([_rates_and_auroc(impostor, match, rates, once), ends]).T
    points = np.unique(np.geomspace(1, max(1, number - 1), CURVE_POINTS).round()) / number
    on_curve = _rates_and_auroc(impostor, match, points.tolist(), once)[0, :-1]
    return {
        "auroc": intervals[-1].round(3).tolist(),
        "dir": {f"{rate:g}": ends.round(3).tolist() for rate, ends in zip(rates, intervals, strict=False)},
        "curve": (100 * np.stack([points, on_curve], axis=1)).round(3).tolist(),
    }


def reliability_curve(probabilities: Tensor, is_match: Tensor) -> list[dict[str, float]]:
    """Whether probabilities come true: of results that have about one, the share that are matches.

    Args:
        probabilities: `(num_results,)`; `is_match`: likewise, bool.

    Returns:
        for each tenth of the way from 0 to 1 that holds results: their mean `probability`, the `share` of matches among
        them, and their `number`.
    """
    bins = (probabilities * BINS).long().clamp(0, BINS - 1)
    return [
        {
            "probability": round(probabilities[chosen].mean().item(), 4),
            "share": round(is_match[chosen].double().mean().item(), 4),
            "number": int(chosen.sum()),
        }
        for chosen in (bins == number for number in range(BINS))
        if chosen.any()
    ]


def _rates_and_auroc(impostor: np.ndarray, match: np.ndarray, rates: Sequence[float], times: np.ndarray) -> np.ndarray:
    """The DIR at each false-alarm rate, and the AUROC, of samples of the queries.

    Args:
        impostor: `(num_queries,)`: the best score of an image that does not match; `match`: of one that does.
        times: `(num_samples, num_queries)`: how many times each query is in each sample.

    Returns:
        `(num_samples, len(rates) + 1)`, fractions.
    """
    number = len(impostor)
    order = np.argsort(-impostor, kind="stable")
    descending, num_above = impostor[order], times[:, order].cumsum(axis=1)
    # The lowest threshold that no larger a share of queries exceeds; ties with it do not.
    place = [np.minimum((num_above <= rate * number + 1e-9).sum(axis=1), number - 1) for rate in rates]
    identified = np.where(match > impostor, match, -np.inf)
    by_score = np.argsort(-identified, kind="stable")
    num_found = np.pad(times[:, by_score].cumsum(axis=1), ((0, 0), (1, 0)))
    columns = []
    for places in place:
        num_hits = np.searchsorted(-identified[by_score], -descending[places], side="left")  # strictly above
        columns.append(num_found[np.arange(len(times)), num_hits] / number)
    best = np.maximum(impostor, match)
    ascending = np.pad(times[:, order[::-1]].cumsum(axis=1), ((0, 0), (1, 0)))
    below, up_to = (np.searchsorted(descending[::-1], best, side=side) for side in ("left", "right"))
    wins = (ascending[:, below] + ascending[:, up_to]) / 2
    columns.append((times * wins).sum(axis=1) / number**2)
    return np.stack(columns, axis=1)
