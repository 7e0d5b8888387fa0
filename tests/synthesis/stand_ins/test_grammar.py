import json
from dataclasses import asdict

import pytest

from fafa.synthesis.quadruples import FIELDS
from fafa.synthesis.stand_ins.grammar import GrammarWriter
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
