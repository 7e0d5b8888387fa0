import json
import re
from collections import Counter
from itertools import pairwise
from statistics import mean

import numpy as np
import pytest
import yaml
from pages import unpadded
from PIL import Image, ImageColor
from tiny_vision_models import tiny_clip

from fafa.drawing.palette import INK
from fafa.synthesis.__main__ import main
from fafa.synthesis.components import SynthesisError
from fafa.synthesis.pair_sheet import PairPanel, draw_people
from fafa.synthesis.report.counting import Coverage
from fafa.synthesis.report.measures import ClipMeasures, StatisticsSettings

RECIPE = {
    "kind": "text-image",
    "prompts": {"count": 7, "writer": {"kind": "world"}},
    "pictures": {"per_prompt": 2, "painter": {"kind": "world-portrait", "fault_rate": 0.4}},
    "poses": {"kind": "figure"},
    "edits": {
        "per_picture": 2,
        "painter": {"kind": "world-portrait", "width": 96, "fault_rate": 0.3},
        "instructions": {"weather": ["in the rain"], "place": ["at the sea"], "style": ["as a drawing"]},
        "weights": {"style": 0.2},
    },
    "captions": {"kind": "grammar", "captions": 2},
    "chunk_size": 4,
}
GROUPS = {"in the rain": "weather", "at the sea": "place", "as a drawing": "style"}


def run(recipe, folder):
    """Returns the folder of the page."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main([str(folder / "recipe.yaml"), "--output", str(folder / "out"), "--quiet"]) == 0
    return folder / "out/statistics"


def records(folder, stage):
    files = sorted((folder.parent / stage).glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def cells(page, first):
    """The cells of the page's lines that begin with this one."""
    lines = unpadded((page / "statistics.md").read_text()).splitlines()
    return [line.strip("| ").split(" | ")[1:] for line in lines if line.startswith(f"| {first} |")]


def pictures_of(page):
    return re.findall(r"!\[.*\]\((.*)\)", (page / "statistics.md").read_text())


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A CLIP, and photographs."""
    folder = tmp_path_factory.mktemp("models")
    tiny_clip(folder / "clip")
    (folder / "photographs").mkdir()
    for number in range(3):
        Image.new("RGB", (24, 48), (80 * number, 40, 90)).save(folder / f"photographs/{number}.png")
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory, models):
    measured = {"clip": {"model": str(models / "clip")}, "reference": str(models / "photographs"), "sample": 8}
    return run(RECIPE | {"statistics": measured}, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def dataset(page):
    return json.loads((page.parent / "SynTBPR/SynTBPR.json").read_text())


def test_the_page_counts_what_is_in_the_data_set(page, dataset):
    captions = [caption for entry in dataset for caption in entry["captions"]]
    words = [re.findall(r"[a-z-]+", caption.lower()) for caption in captions]
    sources = Counter(entry["provenance"]["source"] for entry in dataset)
    people = Counter(entry["person_id"] for entry in dataset)
    assert len(set(people.values())) > 1  # or the numbers below would say little
    found = json.loads((page / "statistics.json").read_text())
    assert (found["images"], found["people"], found["captions"]) == (len(dataset), len(people), 2 * len(dataset))
    assert (found["generated"], found["edited"]) == (sources["generated"], sources["edited"])
    assert found["people by images"] == {str(size): count for size, count in Counter(people.values()).items()}
    assert found["images per person, mean"] == pytest.approx(mean(people.values()))
    assert found["captions per image, mean"] == 2
    assert found["words per caption, mean"] == pytest.approx(mean(map(len, words)))
    assert found["distinct words"] == len({word for caption in words for word in caption})
    assert cells(page, "images") == [[str(len(dataset))]]
    share = 100 * sources["edited"] / len(dataset)
    assert cells(page, "edited") == [[f"{sources['edited']} ({share:.1f} %)"]]


def test_edits_are_counted_by_group(page, dataset):
    asked = Counter(record["group"] for record in records(page, "edits"))
    used = Counter(GROUPS[edit] for entry in dataset if (edit := entry["provenance"]["edit"]))
    assert 0 < used.total() < asked.total()
    for group, count in asked.items():
        assert cells(page, group) == [[str(count), str(used[group]), f"{100 * used[group] / count:.1f} %"]]


def test_acceptance_of_every_stage_and_its_reasons(page):
    for stage in ("prompts", "pictures", "poses", "edits", "edit_poses", "captions"):
        found = records(page, stage)
        reasons = Counter(record["rejected"] for record in found if "rejected" in record)
        kept, *listed = [line for line in cells(page, stage) if len(line) == 3]
        num_kept = len(found) - reasons.total()
        assert kept == [str(len(found)), str(num_kept), f"{100 * num_kept / len(found):.1f} %"]
        assert {reason: int(count) for reason, count, _ in listed} == reasons
    assert cells(page, "poses")[1:] and cells(page, "edit_poses")[1:]


def test_coverage_is_that_of_the_people_who_were_kept(page, dataset):
    """People are numbered in the order of the pictures that the pose filter kept."""
    outfits = {record["id"]: record["outfit"] for record in records(page, "prompts")}
    kept = [record["id"].split("-")[0] for record in records(page, "poses") if "rejected" not in record]
    kinds = Counter(outfits[kept[number]]["upper"]["kind"] for number in {entry["person_id"] for entry in dataset})
    found = json.loads((page / "statistics.json").read_text())["coverage"]["upper kind"]
    assert found == {kind: pytest.approx(count / kinds.total()) for kind, count in kinds.items()}


def test_values_as_frequent_as_others_are_in_a_set_order():
    """They come out of a set, whose order differs from process to process."""
    coverage = Coverage()
    for colours in (["red", "blue"], ["red", "green"], ["yellow"]):
        coverage.add({"constraints": {"colour": colours}})
    assert list(coverage.shares()["colour"].items()) == [
        ("red", 2 / 3),
        ("blue", 1 / 3),
        ("green", 1 / 3),
        ("yellow", 1 / 3),
    ]


def test_measures_of_the_named_clip_are_on_the_page(page):
    measures = json.loads((page / "statistics.json").read_text())["measures"]
    assert {"distinct-2 of captions", "clip_score", "feature_variance", "frechet_distance"} <= measures.keys()
    assert cells(page, "clip_score") == [[f"{measures['clip_score']:.4g}"]]


def test_every_picture_of_the_page_is_there(page):
    shown = pictures_of(page)
    assert shown == ["people.png", "lengths.png", "acceptance.png", "kept.jpg", "rejected.jpg"]
    for picture in shown:
        assert np.asarray(Image.open(page / picture)).std() > 5


def test_where_nothing_was_kept_the_page_tells_why(tmp_path, models, caplog):
    painter = {"kind": "world-portrait", "fault_rate": 1, "faults": ["nobody"]}
    recipe = RECIPE | {"prompts": RECIPE["prompts"] | {"count": 2}, "pictures": {"per_prompt": 1, "painter": painter}}
    with pytest.raises(SystemExit, match="nothing was kept"):
        run(recipe | {"statistics": {"clip": {"model": str(models / "clip")}}}, tmp_path)
    page = tmp_path / "out/statistics"
    assert cells(page, "images") == [["0"]] and cells(page, "poses")[1:] == [["no person", "2", "100.0 %"]]
    assert pictures_of(page) == ["acceptance.png", "rejected.jpg"]
    assert "no image was kept; statistics.md tells why" in caplog.text
    assert "0 images: too few to measure" in caplog.text


def test_without_edits_the_page_has_none(tmp_path):
    recipe = {name: value for name, value in RECIPE.items() if name != "edits"}
    page = run(recipe | {"prompts": RECIPE["prompts"] | {"count": 2}}, tmp_path)
    assert "## Edits\n\nNone." in (page / "statistics.md").read_text()
    assert cells(page, "edited") == [["0 (0.0 %)"]] and not cells(page, "edit_poses")


def test_one_photograph_is_no_reference(tmp_path, models):
    Image.new("RGB", (8, 8)).save(tmp_path / "only.png")
    settings = StatisticsSettings(clip=ClipMeasures(model=str(models / "clip")), reference=str(tmp_path))
    pairs = [(models / f"photographs/{number}.png", "a person") for number in range(3)]
    with pytest.raises(SynthesisError, match="expected at least two images, found one"):
        settings.measure([], pairs, seed=0)


def test_a_sheet_shows_the_pictures_of_a_person_side_by_side():
    colours = [(200, 30, 200), (30, 200, 200), (200, 200, 30), (90, 60, 30)]
    *person, alone = [Image.new("RGB", (20, 40), colour) for colour in colours]
    sheet = np.asarray(draw_people([PairPanel(person, "A person.", "17"), PairPanel([alone], "A person.", "18")], ""))
    columns = [np.flatnonzero((sheet == colour).all(axis=2).sum(axis=0) > 50) for colour in colours]
    for before, after in pairwise(columns):
        assert before.max() < after.min()
    assert len({np.ptp(each) for each in columns}) == 1  # no wider where there are fewer
    between = sheet[112:300, columns[0].max() : columns[1].min()]
    assert not (between == ImageColor.getrgb(INK)).all(axis=2).any()  # no arrow
