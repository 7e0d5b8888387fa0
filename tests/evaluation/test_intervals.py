"""Intervals and tests: what statistics says they should be."""

import numpy as np
import pytest

from fafa.evaluation import intervals as intervals_module
from fafa.evaluation.intervals import (
    bootstrap_intervals,
    bootstrap_means,
    intervals_over_groups,
    paired_bootstrap,
    sign_test,
)


def test_interval_of_a_share_is_that_of_theory():
    hits = np.zeros((400, 1))
    hits[:120] = 1
    half_width = 1.96 * np.sqrt(0.3 * 0.7 / 400)
    assert bootstrap_intervals(hits)[0] == pytest.approx([0.3 - half_width, 0.3 + half_width], abs=0.005)


def test_interval_of_a_mean_over_groups_is_that_of_theory():
    """Groups of 400 and 100 queries count the same: the variance is a quarter of the sum of theirs."""
    large, small = np.zeros((400, 1)), np.zeros((100, 1))
    large[:120] = small[:50] = 1
    half_width = 1.96 * np.sqrt(0.3 * 0.7 / 400 + 0.5 * 0.5 / 100) / 2
    assert intervals_over_groups([large, small])[0] == pytest.approx([0.4 - half_width, 0.4 + half_width], abs=0.005)
    # Groups of one size are other queries, so their errors do not add up as if they were the same.
    half_width = 1.96 * np.sqrt(0.5 * 0.5 / 100 / 2)
    assert intervals_over_groups([small, small])[0] == pytest.approx([0.5 - half_width, 0.5 + half_width], abs=0.01)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    samples = rng.exponential(size=(300, 80, 1))  # mean 1, skewed as average precision is
    ends = np.array(
        [bootstrap_intervals(values, num_resamples=500, seed=seed)[0] for seed, values in enumerate(samples)]
    )
    assert 0.90 < ((ends[:, 0] <= 1) & (ends[:, 1] >= 1)).mean() < 0.98


def test_columns_share_their_draws_and_seeds_repeat(monkeypatch):
    values = np.random.default_rng(0).random((30, 1))
    means = bootstrap_means(np.hstack([values, 1 - values]), num_resamples=100, seed=3)
    assert means[:, 0] + means[:, 1] == pytest.approx(np.ones(100))
    assert (means[:, :1] != bootstrap_means(values, num_resamples=100, seed=4)).any()
    monkeypatch.setattr(intervals_module, "CHUNK_ELEMENTS", 7 * 30)  # the memory at hand does not change the result
    assert bootstrap_means(values, num_resamples=100, seed=3) == pytest.approx(means[:, :1], abs=1e-12)


def test_equal_runs_do_not_differ():
    ends, p = paired_bootstrap(np.zeros((50, 2)))
    assert (ends == 0).all() and (p == 1).all()


def test_a_clear_difference_and_none():
    rng = np.random.default_rng(0)
    differences = rng.normal([0.5, 0.0], 1.0, size=(200, 2))
    differences[:, 1] -= differences[:, 1].mean()
    ends, p = paired_bootstrap(differences)
    assert ends[0, 0] > 0 and p[0] < 0.001
    assert ends[1, 0] < 0 < ends[1, 1] and p[1] > 0.8
    opposite, same_p = paired_bootstrap(-differences)
    assert opposite == pytest.approx(-ends[:, ::-1]) and same_p == pytest.approx(p)


@pytest.mark.parametrize(
    ("num_won", "num_lost", "p"), [(0, 0, 1.0), (3, 3, 1.0), (0, 5, 2 / 32), (9, 1, 22 / 1024), (2, 1, 1.0)]
)
def test_sign_test(num_won, num_lost, p):
    assert sign_test(num_won, num_lost) == sign_test(num_lost, num_won) == p


def test_sign_test_of_thousands():
    assert sign_test(1000, 1110) == pytest.approx(0.0176, abs=1e-4)  # normal: z = 109 / sqrt(2110) = 2.373


@pytest.mark.parametrize(("num_queries", "p"), [(1, 1.0), (2, 0.5), (5, 0.0625), (30, 2 / 10_001)])
def test_one_query_shows_no_difference_however_large_it_is(num_queries, p):
    """All resamples of one query are that query, so p was 2 in 10,001."""
    assert paired_bootstrap(np.full((num_queries, 1), 100.0))[1].tolist() == pytest.approx([p])
