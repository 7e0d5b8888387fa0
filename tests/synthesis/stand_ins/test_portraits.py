from collections import Counter

import numpy as np
import pytest

from fafa.synthesis.components import ImageRequest, SynthesisError
from fafa.synthesis.stand_ins.grammar import WorldPrompts
from fafa.synthesis.stand_ins.portraits import FAULTS, WorldPortrait


def requests(count, **scene):
    prompts = WorldPrompts().load().write(map(str, range(count)), seed=0)
    return [ImageRequest(prompt["id"], "", seed=int(prompt["id"]), scene=prompt | scene) for prompt in prompts]


def paint(settings, asked):
    return {painted.id: painted for painted in settings.load().paint(asked)}


def test_a_picture_depends_on_its_request_alone():
    asked = requests(6)
    pictures = paint(WorldPortrait(), asked)
    again = paint(WorldPortrait(), asked[::-1])
    for name, picture in pictures.items():
        assert picture.image.size == (144, 192) and picture.facts["fault"] is None
        assert picture.image.tobytes() == again[name].image.tobytes()
    assert len({picture.image.tobytes() for picture in pictures.values()}) == 6


def test_an_edit_shows_the_same_person_elsewhere():
    """The identity is the given one, whatever the seed; pose and place are not the first picture's."""
    (asked,) = requests(1)
    first = paint(WorldPortrait(), [asked])["0"]
    edit = ImageRequest("0-e1", "", seed=99, scene={**asked.scene, "identity": first.facts["identity"]})
    other = paint(WorldPortrait(width=96), [edit])["0-e1"]
    assert other.facts["identity"] == first.facts["identity"]
    assert other.image.size == (96, 192)
    stranger = paint(WorldPortrait(), [ImageRequest("0", "", seed=99, scene=asked.scene)])["0"]
    assert stranger.facts["identity"] != first.facts["identity"]


def test_faults_come_at_the_asked_for_rate_and_leave_sound_pictures_as_they_are():
    asked = requests(60)
    faulty, sound = paint(WorldPortrait(fault_rate=0.5), asked), paint(WorldPortrait(), asked)
    kinds = Counter(picture.facts["fault"] for picture in faulty.values())
    assert 20 <= kinds.pop(None) <= 40 and set(kinds) == set(FAULTS)
    for name, picture in faulty.items():
        is_same = picture.image.tobytes() == sound[name].image.tobytes()
        assert is_same == (picture.facts["fault"] is None)
        assert picture.image.size == (144, 192)


def test_two_people_stand_in_one_place_without_a_seam():
    asked = requests(8)
    for picture in paint(WorldPortrait(fault_rate=1, faults=["two people"]), asked).values():
        sky = np.asarray(picture.image, dtype=float)[:4].mean(axis=0)
        steps = np.abs(np.diff(sky, axis=0)).max(axis=1)
        assert steps[71] <= steps.max() + 1e-9 and steps[71] < 20


def test_what_cannot_be_painted_is_refused():
    with pytest.raises(SynthesisError, match="7: painted people need an outfit"):
        paint(WorldPortrait(), [ImageRequest("7", "", seed=0)])
    with pytest.raises(ValueError, match="fault_rate"):
        WorldPortrait(fault_rate=2)
    with pytest.raises(ValueError, match=r"faults.0\n.*should be 'nobody'"):
        WorldPortrait(faults=["three legs"])
    with pytest.raises(ValueError, match="width"):
        WorldPortrait(height=192, width=64)
