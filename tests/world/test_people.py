"""The vocabularies and the rule that keeps training and test people and clothes apart."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from fafa.world.people import (
    HARBOUR,
    HOME,
    SLOTS,
    TOWNS,
    Garment,
    Identity,
    Outfit,
    changed_slots,
    is_test_identity,
    is_test_outfit,
    is_wearable,
    look_different,
    sample_change,
    sample_identity,
    sample_outfit,
    sample_people,
    sample_scene,
)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize("test", [False, True])
def test_samples_stay_in_their_part_of_the_world(rng, test):
    for _ in range(100):
        assert is_test_identity(sample_identity(rng, test)) == test
        outfit = sample_outfit(rng, test)
        assert is_test_outfit(outfit) == test
        assert is_test_outfit(sample_change(rng, outfit, test)) == test


@pytest.mark.parametrize("town", TOWNS.values(), ids=TOWNS)
def test_every_garment_colour_occurs_in_both_parts(town):
    """Otherwise the test set would ask for words that training never showed, or training would waste some."""
    parts, wardrobe = {False: set(), True: set()}, town.wardrobe
    for (upper, upper_colours), (lower, lower_colours) in product(wardrobe["upper"].items(), wardrobe["lower"].items()):
        for upper_colour, lower_colour in product(upper_colours, lower_colours):
            outfit = Outfit(Garment(upper, upper_colour), Garment(lower, lower_colour), Garment("boots", "black"))
            if is_wearable(outfit):
                parts[is_test_outfit(outfit)] |= {(upper, upper_colour), (lower, lower_colour)}
    assert parts[False] == {
        (kind, colour) for kinds in (wardrobe["upper"], wardrobe["lower"]) for kind in kinds for colour in kinds[kind]
    }
    assert len(parts[True]) > 0.9 * len(parts[False])


def test_nothing_that_is_worn_in_one_town_is_worn_in_the_other():
    """A model of one has then seen no garment, colour or pattern of the other, nor read a word for it."""
    worn = [
        {(slot, kind) for slot in SLOTS for kind in town.wardrobe[slot]}
        | {colour for kinds in town.wardrobe.values() for colours in kinds.values() for colour in colours}
        | set(town.patterns) - {"plain"}
        for town in (HOME, HARBOUR)
    ]
    assert not worn[0] & worn[1] and all(worn)


def test_a_split_by_pattern_shoes_bag_or_hat_does_not_exist(rng):
    """The held-out combination is upper and lower garment: no pattern, shoe, bag or hat leads out of the test set."""
    outfit = sample_outfit(rng, test=True)
    patterned = replace(outfit, upper=replace(outfit.upper, pattern="dotted"), hat=Garment("cap", "red"), bag=None)
    assert is_test_outfit(patterned)


def test_a_change_touches_one_to_three_slots(rng):
    sizes = set()
    for _ in range(200):
        outfit = sample_outfit(rng, test=False)
        slots = changed_slots(outfit, sample_change(rng, outfit, test=False))
        assert set(slots) <= set(SLOTS)
        sizes.add(len(slots))
    assert sizes == {1, 2, 3}


def test_dresses_are_worn_over_leggings_only(rng):
    outfits = [sample_outfit(rng, test=False) for _ in range(300)]
    assert any(outfit.upper.kind == "dress" for outfit in outfits)
    assert all((outfit.upper.kind == "dress") == (outfit.lower.kind == "leggings") for outfit in outfits)


def test_people_of_a_group_look_different(rng):
    people = sample_people(rng, 8, test=True)
    assert all(look_different(a, b) for a, b in product(people, people) if a is not b)


def test_glasses_alone_do_not_make_another_person():
    person = Identity("fair", "black", "bob", "none", "none", "slim", "tall")
    assert not look_different(person, replace(person, glasses="round", skin="dark"))
    assert look_different(person, replace(person, skin="dark", build="stout"))


def test_scenes_follow_the_seed_and_never_repeat():
    scenes = [sample_scene(np.random.default_rng([0, number])) for number in (1, 1, 2)]
    assert scenes[0] == scenes[1] != scenes[2]


def test_most_pictures_show_the_face(rng):
    from_behind = np.mean([sample_scene(rng).from_behind for _ in range(500)])
    assert 0.05 < from_behind < 0.35
