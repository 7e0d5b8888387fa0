"""How far a metric can be trusted: bootstrap intervals over queries, and tests of the difference of two runs."""

from collections.abc import Iterator, Sequence
from math import comb

import numpy as np

NUM_RESAMPLES = 10_000
INTERVALS_EXPLAINED = (
    "In brackets the 95 % interval over queries (percentile bootstrap, 10,000 resamples): what other queries of the "
    "same kind could give. It does not cover another training run, and it is too narrow where queries are few, or all "
    "or none of them hits."
)
CHUNK_ELEMENTS = 2**20  # sampled queries held at a time


def bootstrap_means(values: np.ndarray, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> np.ndarray:
    """Means over queries sampled with replacement, the same queries for every column.

    Args:
        values: `(num_queries, num_columns)`: a column is a metric of each query.
        num_resamples: how many times as many queries as there are get sampled.

    Returns:
        `(num_resamples, num_columns)`, fp64.
    """
    return np.concatenate([times @ values / len(values) for times in resamples(len(values), num_resamples, seed)])


def resamples(num_queries: int, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """How many times each query is in a sample with replacement: blocks of `(some resamples, num_queries)`."""
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK_ELEMENTS // num_queries)
    for start in range(0, num_resamples, chunk):
        sampled = rng.integers(num_queries, size=(min(chunk, num_resamples - start), num_queries))
        sampled += num_queries * np.arange(len(sampled))[:, None]
        yield np.bincount(sampled.ravel(), minlength=sampled.size).reshape(sampled.shape)


def bootstrap_intervals(values: np.ndarray, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> np.ndarray:
    """95 % intervals of the columns' means (percentile bootstrap; Efron and Tibshirani 1993, chapter 13).

    They say what other queries of the same kind could give, not what another training run could. They are too narrow
    where queries are few, or all or none are hits; and somewhat where several queries are of one person, since queries
    are taken as independent.

    Args:
        values: `(num_queries, num_columns)`; all arguments as for `bootstrap_means`.

    Returns:
        `(num_columns, 2)`: lower and upper ends.
    """
    return intervals_over_groups([values], num_resamples, seed)


def intervals_over_groups(
    groups: Sequence[np.ndarray], num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> np.ndarray:
    """95 % intervals of the mean over groups of the columns' means, in which every group counts the same.

    Queries are sampled within each group, which keeps its size (a stratified bootstrap), by a seed of its own: one seed
    for all would sample the same places in groups of one size, as if these were the same queries.

    Args:
        groups: `(num_queries of the group, num_columns)` each; other arguments as for `bootstrap_means`.

    Returns:
        `(num_columns, 2)`: lower and upper ends.
    """
    means = sum(bootstrap_means(values, num_resamples, seed + number) for number, values in enumerate(groups))
    return np.percentile(means / len(groups), [2.5, 97.5], axis=0).T


def paired_bootstrap(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intervals of mean differences of two runs on the same queries, and how likely chance alone explains them.

    Args:
        differences: `(num_queries, num_columns)`, query by query.

    Returns:
        intervals, `(num_columns, 2)`, of 95 %; and two-sided p, `(num_columns,)`: twice the share of resamples whose
        difference is zero or on the other side, no smaller than 2 / (NUM_RESAMPLES + 1), nor than 2 / 2^num_queries,
        with which the differences of so few queries are all on one side by chance.
    """
    means = bootstrap_means(differences)
    p = np.maximum(two_sided_p(means), 2.0 ** (1 - len(differences)))
    return np.percentile(means, [2.5, 97.5], axis=0).T, np.minimum(1.0, p)


def two_sided_p(means: np.ndarray) -> np.ndarray:
    """Twice the share of resampled differences, `(num_resamples, ...)`, that are 0 or on the other side; at most 1."""
    opposite = np.minimum((means <= 0).sum(axis=0), (means >= 0).sum(axis=0))
    return np.minimum(1.0, 2 * (opposite + 1) / (len(means) + 1))


def sign_test(num_won: int, num_lost: int) -> float:
    """Exact two-sided p of the sign test; on hits that only one of two runs has, this is McNemar's exact test.

    Args:
        num_won: queries that are hits in the second run alone.
        num_lost: those that are hits in the first alone. Where both agree, a query says nothing.

    Returns:
        the probability that as many fair coins fall at least as unevenly.
    """
    num_changed = num_won + num_lost
    at_least_as_uneven = 2 * sum(comb(num_changed, number) for number in range(min(num_won, num_lost) + 1))
    return min(1.0, at_least_as_uneven / 2**num_changed)
