"""Which triplets share a batch, and which are held out."""

import numpy as np
import pytest

from fafa.training import GroupSampler, hold_out_quadruples

GROUPS = np.repeat(np.arange(50), np.arange(50) % 5 + 1)


def test_every_triplet_comes_once_an_epoch():
    sampler = GroupSampler(GROUPS, group_size=3)
    assert sorted(sampler) == list(range(len(GROUPS))) and len(sampler) == len(GROUPS)


def test_groups_stay_together_in_pieces_of_the_size_asked_for():
    order = list(GroupSampler(GROUPS, group_size=2, seed=1))
    groups = GROUPS[order]
    runs = np.diff(np.flatnonzero(np.r_[True, groups[1:] != groups[:-1], True]))
    expected_pieces = sum(-(-count // 2) for count in np.bincount(GROUPS))
    assert len(runs) >= 0.9 * expected_pieces and np.bincount(runs)[1:3].sum() >= 0.9 * len(runs)


def test_first_epochs_are_random_and_every_epoch_differs():
    sampler = GroupSampler(GROUPS, group_size=5, random_epochs=1, seed=1)
    first = list(sampler)
    neighbours = np.mean(GROUPS[first][1:] == GROUPS[first][:-1])
    sampler.set_epoch(1)
    second = list(sampler)
    assert neighbours < 0.2 < np.mean(GROUPS[second][1:] == GROUPS[second][:-1])
    sampler.set_epoch(2)
    assert list(sampler) != second


def test_order_depends_on_seed_and_epoch_alone():
    """What makes resuming in the middle of an epoch exact."""
    one, other = GroupSampler(GROUPS, 4, seed=7), GroupSampler(GROUPS, 4, seed=7)
    list(one)
    one.set_epoch(3)
    other.set_epoch(3)
    assert list(one) == list(other) != list(GroupSampler(GROUPS, 4, seed=8))


def test_no_quadruple_is_on_both_sides(triplets):
    columns = [triplets[name][:] for name in ("cpr_id", "reference_image_path", "target_image_path")]
    train, held_out = hold_out_quadruples(*columns, fraction=0.34)
    quadruples = np.array(columns[0]) // 2
    assert sorted([*train, *held_out]) == list(range(12))
    assert len(held_out) == 4 and not set(quadruples[train]) & set(quadruples[held_out])


def test_both_directions_and_shared_images_stay_on_one_side():
    """Two directions have different cpr_ids; only the images tell that they are one quadruple."""
    groups = [0, 1, 2, 3, 4, 5]
    left, right = ["a", "b", "c", "d", "e", "f"], ["b", "a", "d", "c", "f", "e"]
    for seed in range(5):
        train, held_out = hold_out_quadruples(groups, left, right, fraction=0.34, seed=seed)
        assert len(held_out) == 2 and held_out[0] // 2 == held_out[1] // 2 and len(train) == 4


def test_an_empty_side_is_refused():
    with pytest.raises(ValueError, match="leaves one side empty"):
        hold_out_quadruples([0, 1], ["a", "b"], ["c", "d"], fraction=0.1)
