"""Which triplets share a batch, and which are held out."""

from itertools import chain

import numpy as np
import pytest

from fafa.training import TripletBatches, hold_out_quadruples

GROUPS = np.repeat(np.arange(49), np.arange(49) % 5 + 1)


def epoch(number=0, groups=GROUPS, **settings) -> list[list[int]]:
    batches = TripletBatches(groups, **{"batch_size": 16, **settings})
    batches.set_epoch(number)
    result = list(batches)
    assert len(result) == len(batches)
    return result


@pytest.mark.parametrize("group_size", [0, 1, 3])
def test_every_triplet_comes_once_an_epoch_in_batches_of_equal_size(group_size):
    """Else the last one would be a few triplets with hardly anything to tell apart."""
    batches = epoch(group_size=group_size)
    assert sorted(chain(*batches)) == list(range(len(GROUPS)))
    assert {len(batch) for batch in batches} == {14, 15}


@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_at_most_so_many_of_a_group_share_a_batch(group_size):
    counts = [np.bincount(GROUPS[batch]).max() for batch in epoch(group_size=group_size, seed=1)]
    assert max(counts) == group_size


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize(
    "sizes", [[6, 6, 6, 6], [6, 5, 5, 3, 1, 1], [4, 4, 4, 4, 4, 4], [6, 2, 2, 2, 2, 2, 2, 2, 2, 2]]
)
def test_no_two_of_a_group_share_a_batch_wherever_that_can_be(sizes, num_processes, caplog):
    """Batches without duplicate triplet identities, which random exchanges alone miss where room is tight."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    for number in range(20):
        parts = [
            epoch(number, groups, batch_size=4, num_processes=num_processes, process_index=index)
            for index in range(num_processes)
        ]
        batches = [list(chain(*shares)) for shares in zip(*parts, strict=True)]
        assert sorted(chain(*batches)) == list(range(len(groups)))
        assert all(len(set(groups[batch])) == len(batch) for batch in batches)
    assert "share a batch" not in caplog.text


def test_members_of_a_group_share_a_batch():
    batches = epoch(group_size=5, seed=1)
    in_one_batch = sum(len(set(GROUPS[batch])) for batch in batches)
    assert in_one_batch <= 49 + len(batches)  # a group is torn apart where a batch is full, and nowhere else


def test_a_group_larger_than_there_is_room_for_is_kept_and_reported(caplog):
    groups = np.array([0] * 20 + list(range(1, 13)))
    batches = epoch(groups=groups, batch_size=8, group_size=2)
    assert sorted(chain(*batches)) == list(range(32)) and {len(batch) for batch in batches} == {8}
    assert "epoch 0: 12 triplets share a batch with 2 or more others of their group" in caplog.text


def test_first_epochs_are_random_and_every_epoch_differs():
    settings = {"group_size": 5, "random_epochs": 1, "seed": 1}
    groups_in_batch = [np.mean([len(set(GROUPS[b])) for b in epoch(number, **settings)]) for number in (0, 1)]
    assert groups_in_batch[0] > 10 > groups_in_batch[1]
    assert epoch(0, **settings) == epoch(0, group_size=0, seed=1)
    assert epoch(1, **settings) != epoch(2, **settings)


def test_order_depends_on_seed_and_epoch_alone():
    """What makes resuming in the middle of an epoch exact."""
    used = TripletBatches(GROUPS, 16, 4, seed=7)
    list(used)
    used.set_epoch(3)
    assert list(used) == epoch(3, group_size=4, seed=7) != epoch(3, group_size=4, seed=8)


@pytest.mark.parametrize("group_size", [0, 3])
def test_the_last_batch_is_dropped_where_that_is_asked_for(group_size):
    """All are whole then; which triplets are left out is another draw in every epoch."""
    left_out = []
    for number in range(2):
        batches = epoch(number, group_size=group_size, drop_last=True)
        assert len(batches) == len(GROUPS) // 16 and {len(batch) for batch in batches} == {16}
        left_out.append(set(range(len(GROUPS))) - set(chain(*batches)))
        assert len(left_out[-1]) == len(GROUPS) % 16
    assert left_out[0] != left_out[1]


def test_processes_divide_every_batch():
    whole = epoch(group_size=2)
    shares = [epoch(group_size=2, num_processes=3, process_index=rank) for rank in range(3)]
    assert [[*chain(*parts)] for parts in zip(*shares, strict=True)] == whole
    assert {len(share) for rank in shares for share in rank} == {4, 5}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group_size": 17}, "group_size is 17, expected 0 .random order. to the batch size of 16"),
        (
            {"num_processes": 200},
            "145 triplets in batches of 16 cannot be divided among 200 processes: the smallest batch has 14",
        ),
    ],
)
def test_batches_that_cannot_be_made_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TripletBatches(GROUPS, 16, **settings)


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


@pytest.mark.parametrize("fraction", [float("nan"), 2, -1, float("inf")])
def test_a_share_that_is_none_is_refused_by_name(fraction):
    with pytest.raises(ValueError, match=f"the fraction to hold out is {fraction}, expected a number between 0 and 1"):
        hold_out_quadruples([0, 1], ["a", "b"], ["c", "d"], fraction=fraction)


def test_an_empty_side_is_refused():
    with pytest.raises(ValueError, match="leaves one side empty"):
        hold_out_quadruples([0, 1], ["a", "b"], ["c", "d"], fraction=0.1)
