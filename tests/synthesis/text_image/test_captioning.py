from itertools import product

import pytest
from PIL import Image
from scripted_model import Ready, ScriptedModel
from tiny_language_models import save_tiny_llava

from fafa.synthesis.models import ChatModel
from fafa.synthesis.text_image.captioning import InstructionCaptions, TemplateCaptions

OPENINGS = ["A person wears [clothing].", "Someone in [clothing]."]
BODIES = ["The hair is [hair].", "The shoes are [footwear].", ""]
ENDINGS = ["They carry [belongings].", "They have [accessory]."]


def templates(script, **options):
    model = ScriptedModel(script)
    fields = {"instruction": "Fill: {template}", "openings": OPENINGS, "bodies": BODIES, "endings": ENDINGS}
    return model, TemplateCaptions(model=Ready(part=model), **{**fields, **options})


def captions(settings, records, folder, seed=0):
    return {record["id"]: record for record in settings.load().write(records, folder, seed)}


RECORDS = [{"id": f"{number}-1", "image": f"images/{number}.png"} for number in range(6)]


def test_every_composition_is_a_template():
    _, settings = templates(str)
    assert len(settings.templates) == 12
    assert set(settings.templates) == {
        " ".join(part for part in parts if part) for parts in product(OPENINGS, BODIES, ENDINGS)
    }


def test_the_model_sees_the_picture_and_a_template_of_its_own(tmp_path):
    model, settings = templates(
        lambda r: r.messages[-1]["content"].removeprefix("Fill: ").replace("[", "a ").replace("]", ""),
        captions=3,
        min_words=1,
    )
    found = captions(settings, RECORDS, tmp_path)
    for name, record in found.items():
        assert record["id"] == name and len(set(record["captions"])) == 3  # three templates, none twice
        assert not any("[" in caption for caption in record["captions"])
    assert len({tuple(record["captions"]) for record in found.values()}) > 1
    for request in model.asked:
        number = request.id.split("-")[0]
        assert request.images == (tmp_path / f"images/{number}.png",)
    assert found == captions(settings, RECORDS[::-1], tmp_path)


def test_slots_left_over_and_refusals_are_asked_again_and_then_rejected(tmp_path):
    def script(request):
        if request.id.startswith("0-"):
            return "A person wears [clothing] and a hat."
        if request.id.startswith("1-"):
            return "I'm sorry, I can't describe this person." if request.id.endswith("/0") else "a man in red boots"
        return "a man in red boots"

    model, settings = templates(script, captions=2, min_words=3, attempts=2)
    found = captions(settings, RECORDS[:3], tmp_path)
    assert found["0-1"] == {"id": "0-1", "rejected": "a slot is not filled"}
    assert found["1-1"] == {"id": "1-1", "captions": ["a man in red boots"], "faults": ["refused"]}
    assert found["2-1"] == {"id": "2-1", "captions": ["a man in red boots"] * 2}
    assert len(model.asked) == 6 + 3


def test_a_constant_instruction_is_asked_of_every_picture(tmp_path):
    model = ScriptedModel(lambda r: f"a person in colour number {r.seed}")
    settings = InstructionCaptions(
        model=Ready(part=model), instruction="Describe.", system="Be brief.", captions=2, min_words=2
    )
    found = captions(settings, RECORDS, tmp_path)
    assert {request.messages[-1]["content"] for request in model.asked} == {"Describe."}
    assert all(request.messages[0]["role"] == "system" for request in model.asked)
    assert len({caption for record in found.values() for caption in record["captions"]}) == 12  # a seed each


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"instruction": "Fill it."}, "must hold {template}"),
        ({"openings": ["A person."]}, "every opening needs a"),
        ({"endings": []}, "endings\n.*at least 1 item"),
        ({"captions": 13}, "number of templates, 12"),
        ({"captions": 0}, "captions\n.*equal to 1"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        templates(str, **options)


def test_a_saved_vision_language_model_captions_pictures(tmp_path):
    """LLaVA with random weights: what it says is noise, follows from the picture, and is checked like any answer."""
    model = ChatModel(model=str(save_tiny_llava(tmp_path / "llava")), max_new_tokens=12, batch_size=2, dtype="float32")
    for number, colour in enumerate(("red", "blue", "red")):
        Image.new("RGB", (32, 64), colour).save(tmp_path / f"{number}.png")
    records = [{"id": str(number), "image": f"{number}.png"} for number in range(3)]
    settings = InstructionCaptions(model=model, instruction="Describe.", min_words=1, attempts=1)
    found = captions(settings, records, tmp_path)
    assert set(found) == {"0", "1", "2"}
    assert all(("captions" in record) != ("rejected" in record) for record in found.values())
    assert found == captions(settings, records[::-1], tmp_path)
