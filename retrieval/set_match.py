"""Several people wanted in one photograph: who in it stands for whom, and how well the whole photograph fits."""

import torch
from torch import Tensor


def match_people(scores: Tensor) -> tuple[float, list[int | None]]:
    """SetMatch: the one-to-one assignment of the people sought to those in a photograph with the largest sum of scores.

    The photograph's score is that of the weakest match, less 1 for each person sought for whom nobody is left.

    Args:
        scores: `(num_sought, num_persons)`, one of each or more.

    Returns:
        the score, and for each person sought the column of the match, None without one.

    Raises:
        ImportError: scipy is missing, with how to install it.
    """
    linear_sum_assignment = _assignment()
    rows, columns = linear_sum_assignment(scores.double().numpy(), maximize=True)
    matches: list[int | None] = [None] * len(scores)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        matches[row] = column
    weakest = scores[torch.from_numpy(rows), torch.from_numpy(columns)].min().item()
    return weakest - matches.count(None), matches


def _assignment():
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ModuleNotFoundError(
            'several people in one photograph are matched by scipy: pip install "fafa[search]"', name="scipy"
        ) from error
    return linear_sum_assignment
