import json
from pathlib import Path

import pytest

from fafa.synthesis.quadruples import FIELDS
from fafa.synthesis.quadruples.checks import CheckSettings, fault_of, points_backwards, restates

HERE = Path(__file__).parent
# What a bad quadruple was written as -> what is found.
REASONS = {
    "too short": "too short",
    "too long": "too long",
    "language": "another language",
    "restates": "an edit restates what stays",
    "wrong way": "an edit leads the wrong way",
    "misses the change": "an edit misses the change",
    "same captions": "captions are the same",
    "same edits": "edits are the same",
    "name": "names a person, brand or place",
    "slur": "slur",
    "pictures": "speaks of the pictures",
    "identity": "an edit changes the person",
    "two persons": "two different people",
    "placeholder": "placeholder or markup",
    "refusal": "refused",
    "repeats a caption": "an edit repeats a caption",
}


def read(name: str) -> list[list[str]]:
    return [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]


def fault(texts: list[str], **settings) -> str | None:
    return fault_of(dict(zip(FIELDS, texts, strict=True)), CheckSettings(**settings))


def test_good_quadruples_pass():
    found = {texts[0]: fault(texts) for texts in read("good.jsonl")}
    refused = {caption: reason for caption, reason in found.items() if reason}
    # One edit of a single word, and one that hangs a blazer over an arm: known losses.
    assert len(found) == 70
    assert len(refused) <= 2, refused


def test_bad_quadruples_are_refused_for_what_is_wrong_with_them():
    wrong = [(why, texts, found) for why, *texts in read("bad.jsonl") if (found := fault(texts)) != REASONS[why]]
    assert not wrong


def test_good_scenes_pass():
    assert [fault(texts, person=False) for texts in read("good_scenes.jsonl")] == [None] * 8


@pytest.mark.parametrize(
    ("edit", "backwards"),
    [
        ("Swap the red coat for a blue one.", False),
        ("Swap the blue coat for a red one.", True),
        ("A blue coat instead of the red one.", False),
        ("The red coat is replaced by a blue one.", False),
        ("A blue coat, without the hat.", False),
        ("Remove the hat and make the coat blue.", False),
        ("Add a hat.", True),
        ("Take off the hat, the coat now blue.", False),
        ("From a blue coat to a red one.", True),
        ("Put on something warmer.", False),  # who knows
    ],
)
def test_direction_of_an_edit(edit, backwards):
    before, after = "A woman in a red coat and a hat.", "A woman in a blue coat."
    assert points_backwards(edit, before, after) is backwards


def test_swapped_colours_are_a_change_and_no_restatement():
    before, after = "A man in a red coat and blue jeans.", "A man in a blue coat and red jeans."
    assert not restates("A blue coat and red jeans.", before, after)
    assert restates("A blue coat.", "A man in a blue coat and a cap.", "A man in a blue coat and a beret.")


def test_words_of_the_recipe():
    texts = ["A man in a Sokol jersey runs.", "A man in a white jersey runs.", "A white jersey.", "A Sokol jersey."]
    assert fault(texts) == "names a person, brand or place"
    assert fault(texts, capitalised=["Sokol"]) is None
    assert fault(texts, capitalised=["Sokol"], banned=["jersey"]) == "banned word"


def test_other_languages_are_checked_for_what_does_not_need_english():
    german = ["Eine Frau in einem roten Mantel wartet.", "Eine Frau in einem blauen Mantel wartet."]
    assert fault([*german, "Mach den Mantel blau.", "Mach den Mantel rot."], language="de") is None
    assert fault([*german, "Make the coat blue.", "Mach den Mantel rot."], language="de") == "another language"


@pytest.mark.parametrize("bounds", [[3], [0, 9], [9, 3]])
def test_impossible_bounds_are_refused(bounds):
    with pytest.raises(ValueError, match=r"caption_words must be the fewest and the most words"):
        CheckSettings(caption_words=bounds)
