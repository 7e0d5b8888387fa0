import json
from dataclasses import asdict

import pytest

from fafa.synthesis.components import SynthesisError
from fafa.synthesis.quadruples.writing import FIELDS
from fafa.synthesis.stand_ins.grammar import GrammarCaptions, GrammarWriter, WorldPrompts
from fafa.world.people import changed_slots, is_test_outfit, outfit_from_dict


def test_quadruples_of_the_painted_world():
    writer = GrammarWriter().load()
    records = list(writer.write(map(str, range(50)), seed=1))
    assert [record["id"] for record in records] == [str(number) for number in range(50)]
    for record in json.loads(json.dumps(records)):
        before, after = map(outfit_from_dict, record["outfits"])
        assert changed_slots(before, after)
        assert not is_test_outfit(before)
        assert not is_test_outfit(after)
        assert all(record[name].endswith(".") for name in FIELDS)
    assert list(writer.write(["7"], seed=1)) == [records[7]]
    assert list(writer.write(["7"], seed=2)) != [records[7]]


def test_preview_shows_the_texts():
    (record,) = GrammarWriter().load().write(["3"], seed=1)
    assert all(record[name] in GrammarWriter().preview("3", 1) for name in FIELDS)
    (record,) = WorldPrompts().load().write(["7"], seed=3)
    assert WorldPrompts().preview("7", seed=3) == record["prompt"]


def test_outfits_survive_json():
    (record,) = GrammarWriter().load().write(["3"], seed=1)
    for worn in record["outfits"]:
        assert asdict(outfit_from_dict(worn)) == worn


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ({"upper": {"kind": "coat", "colour": "mauve"}}, "nothing in this world is worn as upper"),
        ({"upper": {"kind": "jeans", "colour": "blue"}}, "nothing in this world is worn as upper"),
        ({"upper": None}, "upper must be a dict"),
        ({"cape": None}, "has the slots upper, lower, shoes, bag, hat and not cape"),
        ({"upper": {"type": "coat"}}, "upper must be a dict with kind, colour and pattern"),
    ],
)
def test_clothes_of_another_world_are_refused(slots, message):
    with pytest.raises(ValueError, match=message):
        outfit_from_dict(slots)


def test_the_worlds_prompts_bring_an_outfit_of_the_training_part():
    for record in WorldPrompts().load().write(map(str, range(50)), seed=0):
        outfit = outfit_from_dict(record["outfit"])
        assert not is_test_outfit(outfit)
        assert record["prompt"][0].isupper()


def test_the_grammar_describes_the_outfit(tmp_path):
    prompts = list(WorldPrompts().load().write(map(str, range(20)), seed=0))
    writer = GrammarCaptions(captions=2).load()
    found, again = (
        {record["id"]: record for record in writer.write(asked, tmp_path, seed=0)} for asked in (prompts, prompts[::-1])
    )
    assert found == again
    differing = 0
    for prompt in prompts:
        first, second = found[prompt["id"]]["captions"]
        differing += first != second
        colour = prompt["outfit"]["upper"]["colour"]
        synonyms = {"turquoise": "teal", "purple": "violet", "grey": "gray"}
        assert colour in first or synonyms.get(colour, colour) in first
    assert differing >= 15


def test_captions_of_people_without_an_outfit_are_refused_by_name(tmp_path):
    with pytest.raises(SynthesisError, match="7-1: painted people need an outfit, and its text has none"):
        list(GrammarCaptions().load().write([{"id": "7-1", "image": "7-1.png"}], tmp_path, seed=0))
