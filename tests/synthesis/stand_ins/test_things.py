import json
import re
from dataclasses import replace

import numpy as np
import pytest

from fafa.synthesis.components import ImageRequest, SynthesisError
from fafa.synthesis.stand_ins.things import (
    KINDS,
    LIGHTS,
    PLACES,
    Thing,
    ThingsScene,
    ThingsWriter,
    describe_change,
    describe_scene,
    sample_change,
    sample_scene,
)
from fafa.synthesis.stand_ins.things_painter import ThingsPainter, paint_scene
from fafa.world.people import COLOURS


@pytest.fixture(scope="module")
def quadruples():
    return list(ThingsWriter().load().write(map(str, range(400)), seed=0))


def one_thing(kind, colour, place="field", light="day"):
    return ThingsScene(place, light, (None, Thing(kind, colour), None))


def names_in(text):
    """The kinds of things that a text names."""
    return {kind for kind in KINDS if re.search(rf"\b({'|'.join(KINDS[kind].names)})(e?s)?\b", text.lower())}


def test_a_quadruple_depends_on_seed_and_id_alone(quadruples):
    writer = ThingsWriter().load()
    assert list(writer.write(["7", "3"], seed=0)) == [quadruples[7], quadruples[3]]
    assert next(writer.write(["3"], seed=1)) != quadruples[3]
    assert json.loads(json.dumps(quadruples)) == quadruples


def test_edits_have_about_ten_words(quadruples):
    lengths = [len(record[edit].split()) for record in quadruples for edit in ("edit_ab", "edit_ba")]
    assert 9.5 < np.mean(lengths) < 11
    assert max(lengths) <= 30


def test_wording_is_varied(quadruples):
    assert len({record["caption_a"] for record in quadruples}) > 0.98 * len(quadruples)
    assert len({record["edit_ab"] for record in quadruples}) > 0.9 * len(quadruples)
    assert {scene[key] for record in quadruples for scene in record["scenes"] for key in ("place", "light")} == {
        *PLACES,
        *LIGHTS,
    }


def test_captions_name_all_things_and_edits_only_what_changes():
    rng = np.random.default_rng(1)
    for _ in range(300):
        before = sample_scene(rng)
        after = sample_change(rng, before)
        assert names_in(describe_scene(before, rng)) == {thing.kind for thing in before.things if thing}
        pairs = list(zip(before.things, after.things, strict=True))
        changed = {thing.kind for pair in pairs if pair[0] != pair[1] for thing in pair if thing}
        named = names_in(describe_change(before, after, rng))
        assert named <= changed and {new.kind for old, new in pairs if new and old != new} <= named
        kinds_before, kinds_after = ({thing.kind for thing in scene.things if thing} for scene in (before, after))
        staying = {old.kind for old, new in pairs if old and new and old.kind == new.kind}
        assert staying and staying == kinds_before & kinds_after


def test_an_edit_tells_the_new_value():
    rng = np.random.default_rng(2)
    before = one_thing("car", "red")
    for after, words in (
        (one_thing("car", "blue"), {"blue"}),
        (one_thing("car", "red", place="street"), {"street", "road"}),
        (one_thing("car", "red", light="rain"), {"rain", "rainy", "raining"}),
        (replace(before, things=(None, Thing("car", "red", "big"), None)), {"bigger", "larger"}),
        (replace(before, things=(None, Thing("car", "red", number=2), None)), {"two"}),
        (replace(before, things=(Thing("dog", "black"), Thing("car", "red"), None)), {"black"}),
    ):
        for _ in range(20):
            edit = describe_change(before, after, rng)
            assert words & set(edit.lower().replace(".", "").split()), edit
    with pytest.raises(ValueError, match="nothing to describe"):
        describe_change(before, before, rng)


@pytest.mark.parametrize("kind", KINDS)
def test_a_thing_shows_its_colour_in_all_its_places(kind):
    for place in KINDS[kind].places:
        for colour in KINDS[kind].colours[:2]:
            scene = one_thing(kind, colour, place)
            empty = replace(scene, things=(None, None, None))
            pixels, without = (np.asarray(paint_scene(s.as_dict(), 5, (96, 96)), float) for s in (scene, empty))
            touched = np.abs(pixels - without).max(axis=2) > 24
            near = np.abs(pixels - COLOURS[colour]).max(axis=2) < 40
            assert touched.mean() < 0.35
            assert (touched & near).sum() > 15


def test_things_look_the_same_in_both_halves_but_for_the_edit():
    """Of one seed, only what is edited changes; another seed is another place."""
    a, b = (one_thing("house", colour).as_dict() for colour in ("white", "blue"))
    first, second, other = (
        np.asarray(paint_scene(scene, seed, (96, 96)), float) for scene, seed in ((a, 1), (b, 1), (a, 2))
    )
    changed = np.abs(first - second).max(axis=2) > 24
    assert 0.01 < changed.mean() < 0.2
    assert (np.abs(first - other).max(axis=2) > 24).mean() > changed.mean()
    assert (np.asarray(paint_scene(a, 1, (96, 96), view=1), float) != first).any()


def test_the_same_request_gives_the_same_diptych_whatever_its_neighbours(quadruples):
    requests = [ImageRequest(record["id"], "", seed=int(record["id"]), scene=record) for record in quadruples[:6]]
    painter = ThingsPainter(size=80).load()
    together = {painted.id: painted.image for painted in painter.paint(requests)}
    alone = next(iter(ThingsPainter(size=80).load().paint(requests[4:5])))
    assert alone.image == together["4"]
    assert alone.image.size == (160, 80)


def test_a_quadruple_without_scenes_is_refused():
    with pytest.raises(SynthesisError, match=r"17-3: .*two scenes.*kind: things"):
        next(iter(ThingsPainter().load().paint([ImageRequest("17-3", "a cup", seed=1)])))


def test_a_size_too_small_is_refused():
    with pytest.raises(ValueError, match="at least 64 pixels, found 32"):
        ThingsPainter(size=32)
