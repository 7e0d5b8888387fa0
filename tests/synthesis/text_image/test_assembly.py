"""All parts of the painter's recipe, one after the other, up to what `load_dataset` reads."""

import json
from collections import Counter
from pathlib import Path

import datasets
import pytest
import yaml

import fafa.synthesis.recipes
from fafa.dataset_builders import BUILDERS
from fafa.synthesis.components import ImageRequest, seed_of
from fafa.synthesis.images import ImageFormat
from fafa.synthesis.settings import read_settings
from fafa.synthesis.stand_ins.figures import FigureFilter
from fafa.synthesis.stand_ins.grammar import GrammarCaptions, WorldPrompts
from fafa.synthesis.stand_ins.portraits import WorldPortrait
from fafa.synthesis.text_image.assembly import image_entries
from fafa.synthesis.text_image.captioning import InstructionCaptions, TemplateCaptions
from fafa.synthesis.text_image.editing import Editing, plan_edits
from fafa.synthesis.text_image.poses import KeypointFilter
from fafa.synthesis.text_image.prompts import RoughTemplatePrompts, TemplatePrompts
from fafa.synthesis.text_image.stages import Edits

RECIPES = Path(fafa.synthesis.recipes.__file__).parent


def part(recipe, hint, *keys):
    for key in keys:
        recipe = recipe[key]
    kind = {name: value for name, value in recipe.items() if name != "kind"}
    return read_settings(hint, kind, ".".join(keys))


def test_the_real_recipe_holds_the_published_sizes():
    recipe = yaml.safe_load((RECIPES / "syntbpr.yaml").read_text(encoding="utf-8"))
    prompts = part(recipe, TemplatePrompts, "prompts", "writer")
    sizes = {name: len(pool) for name, pool in prompts.pools.items()}
    assert sizes["age"] == 3 and sizes["gender"] == sizes["hair"] == sizes["sleeves"] == 2
    assert sizes["pattern"] == sizes["shoes"] == 5 and sizes["upper"] == 11 and sizes["extra"] == sizes["view"] == 6
    assert sizes["lower"] == 7
    assert {sizes[name] for name in ("jeans", "trousers", "shorts", "skirt", "leggings", "joggers", "cargo")} == {5, 6}
    captions = part(recipe, TemplateCaptions, "captions")
    assert len(captions.templates) == 150
    for template in captions.templates:
        slots = ("[clothing]", "[hair]", "[belongings]", "[footwear]", "[accessory]")
        assert all(template.count(slot) == 1 for slot in slots), template
    edits = part(recipe, Editing, "edits")
    groups = {group: len(texts) for group, texts in edits.instructions.items()}
    assert groups == {"background": 6, "weather": 3, "style": 5, "posture": 5}
    assert isinstance(part(recipe, KeypointFilter, "poses"), KeypointFilter)
    assert recipe["prompts"]["count"] == 100_000 and recipe["pictures"]["per_prompt"] == 5


def test_what_the_real_recipe_says_in_comments_can_be_used():
    text = (RECIPES / "syntbpr.yaml").read_text(encoding="utf-8")
    writer = yaml.safe_load(_uncommented(text, "#   writer:\n#     kind: rough-template"))["writer"]
    prompts = part({"writer": writer}, RoughTemplatePrompts, "writer")
    assert len(prompts.pools["profession"]) == len(set(prompts.pools["profession"])) == 70
    captions = yaml.safe_load(_uncommented(text, "  #   kind: instruction"))
    part({"captions": captions | {"model": writer["model"]}}, InstructionCaptions, "captions")


def _uncommented(text, start):
    """The block of comment lines from `start` on."""
    lines = []
    for line in text[text.index(start) :].splitlines():
        if not line.strip().startswith("#"):
            break
        lines.append(line.strip()[1:])
    return "\n".join(lines)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The painter's recipe on 12 prompts: the folder, the records of every stage."""
    work = tmp_path_factory.mktemp("synthesis")
    recipe = yaml.safe_load((RECIPES / "syntbpr_painter.yaml").read_text(encoding="utf-8"))
    painter = part(recipe, WorldPortrait, "pictures", "painter").load()
    editing = part(recipe, Editing, "edits")
    prompts = part(recipe, WorldPrompts, "prompts", "writer").load().write(map(str, range(12)), seed=0)
    pictures = {}
    for prompt in prompts:
        for number in range(1, recipe["pictures"]["per_prompt"] + 1):
            name = f"{prompt['id']}-{number}"
            seed = seed_of(0, "pictures", name)
            pictures[name] = prompt | {"id": name, "seed": seed, "image": f"{name}.png"}
    asked = [ImageRequest(name, one["prompt"], one["seed"], scene=one) for name, one in pictures.items()]
    for painted in painter.paint(asked):
        pictures[painted.id] |= painted.facts
        painted.image.save(work / f"{painted.id}.png")
    kept, faults = [], Counter()
    poses = part(recipe, FigureFilter, "poses").load()
    for found in poses.find((name, work / f"{name}.png") for name in pictures):
        faults[found.fault] += 1
        if found.image is not None:
            found.image.save(work / f"{found.id}_cut.png")
            kept.append(pictures[found.id] | {"image": f"{found.id}_cut.png"} | found.facts)
    parents = {record["id"]: record for record in kept}
    edits = {edit["id"]: edit for record in kept for edit in plan_edits(record, editing, seed=0)}
    stage = Edits(editing, ImageFormat(), seed=0)
    asked = [stage.request(edit | {"scene": parents[edit["parent"]]}, work) for edit in edits.values()]
    for painted in editing.painter.load().paint(asked):
        painted.image.save(work / f"{painted.id}.png")
        edit = edits[painted.id]
        edits[painted.id] = parents[edit["parent"]] | edit | painted.facts | {"image": f"{painted.id}.png"}
    writer = part(recipe, GrammarCaptions, "captions").load()
    captions = {record["id"]: record for record in writer.write([*kept, *edits.values()], work, seed=0)}
    for record in (*kept, *edits.values()):
        record |= captions[record["id"]]
    return work, kept, list(edits.values()), faults


def test_the_parts_make_a_data_set_that_loads(made, tmp_path, monkeypatch):
    work, kept, edits, faults = made
    assert sum(faults.values()) == 24 and len(kept) == faults[None] == len(edits) and set(faults) - {None}
    entries = []
    for entry, source in image_entries(zip(kept, edits, strict=True), {"generated": "painter", "edited": "painter"}):
        file = tmp_path / "root" / entry["image_path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((work / source).read_bytes())
        entries.append(entry)
    (tmp_path / "root/SynTBPR.json").write_text(json.dumps(entries))

    monkeypatch.setitem(BUILDERS, "SynTBPR", ("fafa.dataset_builders.syntbpr", "1"))
    rows = datasets.load_dataset(
        "SynTBPR", data_dir=str(tmp_path / "root"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(rows) == 2 * len(kept)
    people = Counter(rows["person_id"])
    assert set(people) == set(range(len(kept))) and set(people.values()) == {2}
    first, second = rows[0], rows[1]
    assert first["source"] == "generated" and second["source"] == "edited"
    assert json.loads(second["provenance"])["parent"] == first["image_path"]
    assert first["image"].height <= 192 and len(first["captions"]) == 2


def test_pictures_without_captions_are_left_out_and_people_keep_their_numbers(made):
    _, kept, edits, _ = made
    first, second, *_ = kept
    bare = {name: value for name, value in first.items() if name != "captions"}
    models = {"generated": "a", "edited": "b"}
    entries = [entry for entry, _ in image_entries([(bare, edits[0]), (second, edits[1])], models)]
    assert [entry["person_id"] for entry in entries] == [0, 1, 1]
    provenance = entries[0]["provenance"]
    assert provenance["source"] == "edited" and provenance["model"] == "b" and provenance["edit"]
    assert entries[1]["provenance"] == {
        "source": "generated",
        "model": "a",
        "prompt": second["prompt"],
        "seed": second["seed"],
        "edit": None,
        "parent": None,
    }
