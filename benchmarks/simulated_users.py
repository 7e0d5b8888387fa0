"""Simulated users of a search, who mark results right or wrong.

A searcher who collects has the gallery's first half before them and marks ten further results a round: right is who is
the right person in the clothes asked for, all else is wrong, the right person in other clothes as well. What the marks
are worth is measured on the second half, of which nothing was ever shown; it holds two photographs of the four. A
searcher who seeks one photograph ends when one of the four is among the ten shown; so all their marks are wrong ones.
Either knows what the person looks like and wears, and nothing of scores.
"""

import numpy as np
import torch
from sought_people import Searcher, World, first_hits
from torch import Tensor

from fafa.retrieval.feedback import RIGHT, WRONG, rocchio

ROUNDS, SHOWN = 3, 10
USERS = {  # row of the page -> to_right, from_wrong, late
    "Rocchio": (RIGHT, WRONG, False),
    "late fusion of the same": (RIGHT, WRONG, True),
    "right marks alone": (RIGHT, 0.0, False),
    "wrong marks alone": (0.0, WRONG, False),
}


def collect(searcher: Searcher, start: Tensor, seed: int, to_right: float, from_wrong: float, late: bool) -> np.ndarray:
    """The user who collects: `(num_queries, rounds + 1)`, Rank-1 on the half that was never shown, percent."""
    world, match = searcher.world, searcher.world.images("match")
    shown_half = _halves(world, seed)
    scores, seen = searcher.score(start), np.zeros_like(match)
    hits = []
    for number in range(ROUNDS + 1):
        hidden_half = scores.masked_fill(torch.from_numpy(shown_half), -torch.inf)
        hits.append(first_hits(hidden_half, match))
        if number == ROUNDS:
            break
        _show(scores, seen, ~shown_half)
        scores = marked_scores(searcher, start, seen & match, seen & ~match, to_right, from_wrong, late)
    return np.stack(hits, axis=1)


def seek(searcher: Searcher, start: Tensor, from_wrong: float | None) -> np.ndarray:
    """The user who seeks one photograph: `(num_queries, rounds + 1)`, whether it was shown by then, percent.

    None: nothing is marked, and the next ten are shown.
    """
    match = searcher.world.images("match")
    scores, seen, found = searcher.score(start), np.zeros_like(match), []
    for _ in range(ROUNDS + 1):
        _show(scores, seen, np.zeros(match.shape[1], dtype=bool))
        found.append(100.0 * (seen & match).any(axis=1))
        if from_wrong is not None:
            searching = ~(seen & match).any(axis=1)
            wrong = seen & ~match & searching[:, None]
            scores = marked_scores(searcher, start, np.zeros_like(match), wrong, 0.0, from_wrong, False)
    return np.stack(found, axis=1)


def _show(scores: Tensor, seen: np.ndarray, never: np.ndarray) -> None:
    """Notes the best ten images that were not seen yet."""
    hidden = torch.from_numpy(seen | never)
    top = scores.masked_fill(hidden, -torch.inf).topk(SHOWN, dim=1).indices.numpy()
    np.put_along_axis(seen, top, True, axis=1)


def marked_scores(
    searcher: Searcher,
    start: Tensor,
    right: np.ndarray,
    wrong: np.ndarray,
    to_right: float,
    from_wrong: float,
    late: bool,
) -> Tensor:
    """`(num_queries, num_images)` by Rocchio's formula, or by late fusion of what it adds."""
    features, k = searcher.world.features, searcher.model.num_top_tokens
    rows = []
    for query, of_right, of_wrong in zip(start, right, wrong, strict=True):
        marked = features[of_right], features[of_wrong]
        if not late:
            moved = rocchio(query[None], *marked, k, to_right, from_wrong)
            rows.append(searcher.score(moved)[0])
            continue
        terms, weights = [query[None]], [1.0]
        for of_kind, weight in zip(marked, (to_right, -from_wrong), strict=True):
            if len(of_kind):  # the mean direction of the winning tokens: what Rocchio's formula adds
                moved = rocchio(query[None], of_kind, of_kind[:0], k, 1e4)
                terms, weights = [*terms, moved], [*weights, weight]
        rows.append(searcher.late_fusion(terms, weights)[0])
    return torch.stack(rows)


def _halves(world: World, seed: int) -> np.ndarray:
    """`(num_images,)`, bool: the first half; of each person's images of a kind, it has every second one."""
    first, rng = np.zeros(len(world.kinds), dtype=bool), np.random.default_rng(seed)
    for kind in ("match", "without", "alike"):
        for of_person in world.images(kind):
            first[np.flatnonzero(of_person)[::2]] = True
    others = np.flatnonzero(np.isin(world.kinds, ("before", "other", "stranger")))
    first[rng.permutation(others)[::2]] = True
    return first
