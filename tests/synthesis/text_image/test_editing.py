from collections import Counter

import pytest
from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS
from PIL import Image
from tiny_pipelines import tiny_flux, tiny_kontext

from fafa.synthesis.images import ImageFormat
from fafa.synthesis.recipes import find_recipe, read_recipe
from fafa.synthesis.stand_ins.portraits import WorldPortrait
from fafa.synthesis.text_image.editing import Editing, plan_edits
from fafa.synthesis.text_image.stages import Edits

GROUPS = {"background": ["to a forest", "to a beach"], "weather": ["snow"], "style": ["grainy"]}


def editing(**options):
    return Editing(painter=WorldPortrait(), instructions=GROUPS, **options)


def test_edits_of_a_picture_are_of_different_groups_and_name_their_parent():
    edits = list(plan_edits({"id": "17-3"}, editing(per_picture=3, prompt="{edit}. Keep the rest."), seed=0))
    assert [edit["id"] for edit in edits] == ["17-3-e1", "17-3-e2", "17-3-e3"]
    assert {edit["group"] for edit in edits} == set(GROUPS)
    for edit in edits:
        assert edit["parent"] == "17-3" and edit["edit"] in GROUPS[edit["group"]]
        assert edit["prompt"] == f"{edit['edit']}. Keep the rest."
    assert len({edit["seed"] for edit in edits}) == 3


def test_weights_say_how_often_a_group_is_drawn():
    settings = editing(weights={"background": 6, "style": 0})
    drawn = Counter(edit["group"] for n in range(500) for edit in plan_edits({"id": str(n)}, settings, seed=0))
    assert 390 <= drawn["background"] <= 460 and drawn["weather"] == 500 - drawn["background"]  # 6 of 7 expected


def test_what_is_planned_depends_on_seed_and_picture_alone():
    first = list(plan_edits({"id": "1"}, editing(per_picture=2), seed=0))
    assert first == list(plan_edits({"id": "1"}, editing(per_picture=2), seed=0))
    assert first[0]["seed"] != next(plan_edits({"id": "1"}, editing(per_picture=2), seed=1))["seed"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_picture": 4}, "per_picture must be at most the number of groups, 3"),
        ({"per_picture": 3, "weights": {"style": 0}}, "number of groups, 2"),
        ({"weights": {"styles": 1}}, "instructions lacks: styles"),
        ({"weights": {"style": -1}}, r"weights.style\n.*equal to 0"),
        ({"prompt": "Keep the rest."}, "must hold {edit}"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        editing(**options)
    with pytest.raises(ValueError, match=r"instructions.style\n.*at least 1 item"):
        Editing(painter=WorldPortrait(), instructions={"style": []})


def test_an_instruction_pipeline_edits_the_picture(tmp_path):
    """FLUX.1 Kontext with random weights, as the recipe sets it up: what it paints depends on what it starts from."""
    model = tiny_kontext(tmp_path / "kontext", tiny_flux(tmp_path / "flux"))
    painter = read_recipe(find_recipe("syntbpr")).edits.painter
    assert (painter.width, painter.height) in PREFERRED_KONTEXT_RESOLUTIONS
    painter = painter.replaced(model=str(model), width=32, height=64, steps=2, dtype="float32", batch_size=2)
    settings = Editing(painter=painter, instructions=GROUPS)
    edits, asked = Edits(settings, ImageFormat(), seed=0), []
    for number, colour in enumerate(("black", "white", "black")):
        Image.new("RGB", (32, 64), colour).save(tmp_path / f"{number}.png")
        picture = {"id": str(number), "image": f"{number}.png"}
        (edit,) = plan_edits(picture, settings, seed=0)
        asked.append(edits.request({**edit, "seed": 1, "prompt": "make it snow", "scene": picture}, tmp_path))
    first, second, third = painter.load().paint(asked)
    assert first.fault is None and first.image.size == (32, 64)
    assert first.image.tobytes() == third.image.tobytes() != second.image.tobytes()
