import json
from pathlib import Path

import pytest
from recipe_vocabulary import of_people, of_scenes, refused, settings_of

from fafa.synthesis.quadruples.checks import CheckSettings, fault_of, has_slur, points_backwards, restates
from fafa.synthesis.quadruples.writing import FIELDS
from fafa.synthesis.replies.faults import fault_of_text

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


def test_compounds_are_words_of_their_own_and_lead_nowhere():
    """ "Off-white", "drop earrings" and "untied boots" were taken for things that are taken away."""
    assert [(texts[2:], reason) for texts in read("good_compounds.jsonl") if (reason := fault(texts))] == []


@pytest.mark.parametrize(("recipe", "quadruples"), [("syncpr", of_people), ("cirhs", of_scenes)])
def test_no_good_edit_with_the_recipes_own_words_is_refused_and_every_one_that_leads_the_wrong_way_is(
    recipe, quadruples
):
    """Of 3,236 about people 134 were refused, of those that name off-white every second; recipe_vocabulary tells."""
    texts, settings = list(quadruples())[::3], settings_of(recipe)  # of every item some, and all kinds of edits
    assert len(texts) > 200
    assert refused(texts, settings) == []
    swapped = [[*each[:2], *reversed(each[2:])] for each in texts[::5]]
    assert len(refused(swapped, settings)) > 0.97 * len(swapped)


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("A woman in a red 外套 waits for the bus.", "another language"),
        ("A woman in a red coat waits 🚌 for the bus.", "emoji or strange characters"),
        ("A woman in a red coat waits at a cafÃ©.", "broken characters"),
        ("A woman in a red co\u200bat waits for the bus.", "emoji or strange characters"),
        ("A woman in a coat of unknown colour waits.", "a slot is not filled"),
        ("A woman in a red coat and", "stops in mid-sentence"),
    ],
)
def test_one_strange_character_or_word_spoils_a_caption(caption, reason):
    assert fault([caption, "A woman in a blue coat waits for the bus.", "Make the coat blue.", "A red coat."]) == reason


@pytest.mark.parametrize(
    "edit", ["No beret.", "No visor.", "No bandana.", "No headscarf.", "A poncho.", "Khaki chinos."]
)
def test_a_short_edit_is_of_no_other_language(edit):
    assert fault_of_text(edit) is None


def test_a_cat_is_no_slur():
    assert has_slur("An old coon in a coat.") and not has_slur("A Maine Coon on her arm.")
    texts = ["A woman with a Maine Coon sits on a sofa.", "A woman with a parrot sits on a sofa."]
    assert fault([*texts, "A parrot instead of the Maine Coon.", "A Maine Coon instead of the parrot."]) is None


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
    with pytest.raises(ValueError, match=r"caption_words"):
        CheckSettings(caption_words=bounds)
