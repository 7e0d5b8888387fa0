from collections import Counter

import pytest
from scripted_model import Ready, ScriptedModel

from fafa.synthesis.text_image.prompts import RoughTemplatePrompts, TemplatePrompts

POOLS = {"age": ["a young", "an old"], "lower": ["{jeans} jeans", "a skirt"], "jeans": ["blue", "black"]}
TEMPLATE = "a photo of {age} woman in {lower}"
LOWERS = ("blue jeans", "black jeans", "a skirt")


def prompts(settings, ids, seed=0):
    return {record["id"]: record for record in settings.load().write(ids, seed)}


def test_every_slot_is_filled_and_slots_of_phrases_too():
    records = prompts(TemplatePrompts(template=TEMPLATE, pools=POOLS), map(str, range(400)))
    found = Counter(record["prompt"] for record in records.values())
    expected = {f"a photo of {age} woman in {lower}" for age in POOLS["age"] for lower in LOWERS}
    assert set(found) == expected
    assert found["a photo of an old woman in a skirt"] > 60  # of 100 expected: phrases of a pool are equally likely
    assert all(record["constraints"]["age"][0] in record["prompt"] for record in records.values())


def test_a_prompt_depends_on_seed_and_id_alone():
    settings = TemplatePrompts(template=TEMPLATE, pools=POOLS)
    ids = [str(number) for number in range(40)]
    some = prompts(settings, reversed(ids))
    assert some == prompts(settings, ids)
    assert some != prompts(settings, ids, seed=1)


@pytest.mark.parametrize(
    ("template", "pools", "message"),
    [
        ("{age} man", {}, "slot {age} .* needs a pool"),
        ("{age} man", {"age": []}, "slot {age} .* needs a pool"),
        ("a man", {"age": ["a young"]}, "no slot asks for the pools age"),
        ("{a}", {"a": ["{b}"], "b": ["{a}"]}, "leads back to itself"),
    ],
)
def test_templates_that_cannot_be_filled_are_refused(template, pools, message):
    with pytest.raises(ValueError, match=message):
        TemplatePrompts(template=template, pools=pools)
    with pytest.raises(ValueError, match=message):
        RoughTemplatePrompts(model=Ready(part=None), template=template, pools=pools, request="{outline}")


def test_a_preview_is_what_is_asked_or_written():
    settings = TemplatePrompts(template=TEMPLATE, pools=POOLS)
    assert settings.preview("7", seed=3) == prompts(settings, ["7"], seed=3)["7"]["prompt"]
    model, settings = rough(lambda r: "a woman in a skirt")
    prompts(settings, ["7"], seed=3)
    assert settings.preview("7", seed=3) == model.asked[0].messages[-1]["content"]


def rough(script, **options):
    model = ScriptedModel(script)
    return model, RoughTemplatePrompts(
        model=Ready(part=model), template=TEMPLATE, pools=POOLS, request="Write out: {outline}.", min_words=3, **options
    )


def test_a_language_model_writes_out_the_rough_template():
    model, settings = rough(lambda r: "Sure: " + r.messages[-1]["content"], system="You write prompts.")
    records = prompts(settings, ["3", "4"])
    outline = records["3"]["outline"]
    assert outline.startswith("a photo of") and records["3"]["prompt"] == f"Write out: {outline}."
    (request,) = [request for request in model.asked if request.id == "3"]
    assert [message["role"] for message in request.messages] == ["system", "user"]


def test_prompts_that_never_come_out_are_rejected_with_the_answers():
    model, settings = rough(lambda r: "I cannot help with that." if r.id == "3" else "a woman in a skirt", attempts=2)
    records = prompts(settings, ["3", "4"])
    assert records["3"]["rejected"] == "refused" and records["3"]["answers"] == ["I cannot help with that."] * 2
    assert "prompt" not in records["3"] and records["4"]["prompt"] == "a woman in a skirt"
    first, second = [request.seed for request in model.asked if request.id == "3"]
    assert first != second


@pytest.mark.parametrize(
    ("options", "message"),
    [({"request": "Write."}, "must hold {outline}"), ({"attempts": 0}, "attempts"), ({"min_words": 60}, "min_words")],
)
def test_settings_by_which_nothing_can_be_asked_are_refused(options, message):
    fields = {"template": TEMPLATE, "pools": POOLS, "request": "Write out: {outline}."}
    with pytest.raises(ValueError, match=message):
        RoughTemplatePrompts(model=Ready(part=None), **{**fields, **options})
