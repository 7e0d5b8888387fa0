"""Several people wanted in one photograph: who in it stands for whom, and how well the whole photograph fits."""

import torch
from torch import Tensor

from ..extras import not_installed


def match_people(scores: Tensor) -> tuple[float, list[int | None]]:
    """SetMatch: the one-to-one assignment of the people sought to those in a photograph with the largest sum of scores.

    The photograph's score is that of the weakest match, less 1 for each person sought for whom nobody is left.

    Args:
        scores: `(num_sought, num_persons)`, one of each or more; -infinity for who cannot stand for whom.

    Returns:
        the score, and for each person sought the column of the match, None without one.
    """
    from scipy.optimize import linear_sum_assignment

    # Nobody stands for whom they may not stand for: infinity would make no assignment possible.
    rows, columns = linear_sum_assignment(scores.double().clamp_min(-1e6).numpy(), maximize=True)
    matches: list[int | None] = [None] * len(scores)
    found = []
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if scores[row, column] > -torch.inf:
            matches[row] = column
            found.append(scores[row, column].item())
    return min(found, default=-1.0) - matches.count(None), matches


def check_assignment() -> None:
    """Checks, before long work, that scipy is installed; else raises an ImportError that says how."""
    try:
        import scipy.optimize  # noqa: F401
    except ImportError as error:
        raise not_installed("scipy", "several people in one photograph are matched by it") from error
