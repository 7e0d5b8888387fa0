"""Pictures of the small world: same arguments, same pixels; whatever differs between people or clothes is visible."""

from dataclasses import fields, replace
from itertools import pairwise, product

import numpy as np
import pytest

from fafa.world.painter import paint_person
from fafa.world.people import (
    BUILDS,
    HAIR_COLOURS,
    HAIR_STYLES,
    HEIGHTS,
    PAINTS,
    PLACES,
    SKIN_TONES,
    TOWNS,
    Garment,
    Identity,
    Outfit,
    sample_identity,
    sample_outfit,
    sample_scene,
)

PERSON = Identity("tan", "brown", "short", "none", "none", "average", "average")
OUTFIT = Outfit(Garment("t-shirt", "green"), Garment("trousers", "grey"), Garment("sneakers", "red"))
SCENE = replace(
    sample_scene(np.random.default_rng(0)),
    from_behind=False,
    yaw=0.2,
    shift=0.0,
    blur=0.0,
    noise=0.0,
    brightness=1.0,
    arms=("swing", "swing"),
)


def pixels(person=PERSON, outfit=OUTFIT, scene=SCENE, size=(192, 96)):
    return np.asarray(paint_person(person, outfit, scene, size)).astype(int)


def visible_difference(first, second):
    """Share of pixels that differ clearly at 96 x 48 pixels, about what a tiny model sees."""
    small = np.abs(first - second).reshape(96, 2, 48, 2, 3).mean(axis=(1, 3))
    return (small.max(axis=-1) > 20).mean()


def test_same_arguments_give_the_same_pixels():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        arguments = sample_identity(rng, False), sample_outfit(rng, False), sample_scene(rng)
        assert np.array_equal(pixels(*arguments), pixels(*arguments))


@pytest.mark.parametrize("size", [(192, 96), (96, 48), (384, 192), (100, 70)])
def test_image_size_and_mode(size):
    image = paint_person(PERSON, OUTFIT, SCENE, size)
    assert image.mode == "RGB" and image.size == (size[1], size[0])


def test_two_scenes_of_one_person_differ():
    scenes = [sample_scene(np.random.default_rng(seed)) for seed in range(2)]
    assert visible_difference(pixels(scene=scenes[0]), pixels(scene=scenes[1])) > 0.5


VALUES = {
    "skin": SKIN_TONES,
    "hair_colour": HAIR_COLOURS,
    "hair_style": HAIR_STYLES,
    "beard": ("none", "full", "moustache"),
    "glasses": ("none", "round", "dark"),
    "build": BUILDS,
    "height": HEIGHTS,
}


@pytest.mark.parametrize("field", [field.name for field in fields(Identity)])
def test_every_trait_of_an_identity_is_visible(field):
    """A trait that is not painted would make two different people look the same."""
    least = 0.0005 if field in ("beard", "glasses") else 0.006
    images = [pixels(replace(PERSON, **{field: value})) for value in dict.fromkeys(VALUES[field])]
    for i, j in product(range(len(images)), repeat=2):
        assert i == j or visible_difference(images[i], images[j]) > least, (field, i, j)


@pytest.mark.parametrize("field", ["skin", "hair_colour", "hair_style", "build", "height"])
def test_traits_are_visible_from_behind(field):
    scene = replace(SCENE, from_behind=True)
    values = [value for value in VALUES[field] if value != "bald"]
    images = [pixels(replace(PERSON, **{field: value}), scene=scene) for value in values]
    for first, second in pairwise(images):
        assert visible_difference(first, second) > 0.002


@pytest.mark.parametrize("from_behind", [False, True])
@pytest.mark.parametrize(
    "slot, kinds", [(slot, kinds) for town in TOWNS.values() for slot, kinds in town.wardrobe.items()]
)
def test_every_garment_and_its_colours_are_visible(slot, kinds, from_behind):
    scene = replace(SCENE, from_behind=from_behind)
    images = {}
    for kind, colours in kinds.items():
        for colour in (colours[0], colours[-1]):
            images[kind, colour] = pixels(outfit=replace(OUTFIT, **{slot: Garment(kind, colour)}), scene=scene)
    if slot in ("bag", "hat"):
        images[None, None] = pixels(scene=scene)
    for (a, first), (b, second) in product(images.items(), repeat=2):
        assert a == b or visible_difference(first, second) > 0.001, (a, b)


@pytest.mark.parametrize("pattern", ["striped", "checked", "dotted", "wavy"])
@pytest.mark.parametrize("colour", PAINTS)
def test_patterns_are_visible_on_every_colour(pattern, colour):
    plain = pixels(outfit=replace(OUTFIT, upper=Garment("sweater", colour)))
    patterned = pixels(outfit=replace(OUTFIT, upper=Garment("sweater", colour, pattern)))
    assert visible_difference(plain, patterned) > 0.01


def test_the_outfit_does_not_change_the_person():
    """Identity must be readable whatever is worn: the face's pixels stay."""
    other = pixels(outfit=Outfit(Garment("coat", "red"), Garment("skirt", "blue"), Garment("boots", "black")))
    rows, columns = slice(18, 42), slice(40, 56)
    assert np.abs(pixels()[rows, columns] - other[rows, columns]).mean() < 2


@pytest.mark.parametrize("place", PLACES)
def test_places_are_paler_than_clothes(place):
    """Backgrounds must not compete with the clothes."""
    scene = replace(SCENE, place=place)
    border = pixels(scene=scene)[:130, :10]
    saturation = (border.max(axis=-1) - border.min(axis=-1)).mean()
    assert saturation < 90
