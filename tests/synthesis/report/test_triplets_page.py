import json
import re

import numpy as np
import pytest
from pages import unpadded
from PIL import Image, ImageColor

from fafa.drawing.palette import GREEN, RED
from fafa.synthesis.pair_sheet import PairCard, draw_pairs
from fafa.synthesis.report.counting import count_quadruples, count_triplets
from fafa.synthesis.report.triplets import write_statistics

STAGES = {
    "quadruples": {"items": 4, "rejected": {"no answer": 1}},
    "diptychs": {"items": 6, "rejected": {}},
    "filter": {"items": 12, "rejected": {"quality below 0.5": 5, "identity below 0.5": 1, "a | b": 1}},
}


def triplet(number, edit="Now in a blue coat"):
    return {
        "reference_caption": "A man in a red coat.",
        "target_caption": "A man in a well-worn blue coat.",
        "edit_caption": edit,
        "cpr_id": number,
    }


def quadruple(colour):
    return {
        "id": colour,
        "caption_a": "a red coat",
        "caption_b": f"a {colour} coat",
        "edit_ab": f"now {colour}",
        "edit_ba": "now red",
        "outfits": [{"upper": {"kind": "coat", "colour": "red"}}, {"upper": {"kind": "coat", "colour": colour}}],
        "constraints": {"age": "old", "hat": None},
    }


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def pairs(images):
    """Six triplets with pictures, and a diptych that could not be cut."""
    records = []
    for number in range(3):
        for side, shade in (("left", 40), ("right", 200)):
            Image.new("RGB", (32, 64), (shade, 80, 60 * number)).save(images / f"{number}_{side}.png")
        for direction in ("ab", "ba"):
            paths = {side: f"{number}_{side}.png" for side in ("left", "right")}
            records.append(quadruple("blue") | paths | {"id": f"{number}-{direction}", "direction": direction})
    Image.new("RGB", (64, 64), "gold").save(images / "whole.png")
    return records, quadruple("blue") | {"id": "9", "image": "whole.png", "rejected": "no seam found"}


@pytest.fixture(scope="module")
def material(pairs, images):
    records, uncut = pairs
    return {
        "triplets": [triplet(number) for number in (0, 0, 0, 2, 2)],
        "stages": STAGES,
        "quadruples": [quadruple(colour) for colour in ("blue", "green", "blue")],
        "scores": [{"quality": score, "blur": 30 * score} for score in (0.2, 0.6, 0.9)],
        "bounds": {"quality": (0.5, None)},
        "kept": records[:3],
        "rejected": [*(record | {"rejected": "quality below 0.5"} for record in records[3:]), uncut],
        "images": images,
        "measures": {"CLIPScore": 27.125},
    }


@pytest.fixture(scope="module")
def written(material, tmp_path_factory):
    """What is returned, and the folder; everything that may be long comes as an iterator."""
    folder = tmp_path_factory.mktemp("run") / "page"
    streamed = {name: iter(value) if isinstance(value, list) else value for name, value in material.items()}
    return write_statistics(folder, "SynCPR", **streamed), folder


def test_triplets_are_counted():
    found = count_triplets([triplet(0), triplet(0), triplet(7, "In BLUE, now!")], "cpr_id")
    assert (found["triplets"], found["groups"], found["group sizes"]) == (3, 2, {1: 1, 2: 1})
    assert found["triplets per group, mean"] == 1.5
    assert found["caption lengths"] == {6: 3, 7: 3} and found["edit lengths"] == {3: 1, 5: 2}
    assert found["words per edit, mean"] == pytest.approx(13 / 3)
    assert found["distinct words"] == len({"a", "man", "in", "red", "coat", "well-worn", "blue", "now"})
    assert found["distinct words in edits"] == 5


def test_coverage_is_the_share_of_quadruples_with_a_value():
    coverage, diversity = count_quadruples(map(quadruple, ["blue", "green", "blue", "red"]))
    assert coverage == {
        "age": {"old": 1.0},
        "upper colour": {"red": 1.0, "blue": 0.5, "green": 0.25},
        "upper kind": {"coat": 1.0},
    }
    assert diversity["distinct-1 of edits"] == 4 / 16
    assert diversity["distinct-3 of captions"] == 3 / 8
    assert "distinct-3 of edits" not in diversity


def test_the_page_tells_everything_beside_the_published_figures(written):
    found, folder = written
    page = unpadded((folder / "statistics.md").read_text())
    for line in (
        "| triplets | 5 | 1,153,230 |",
        "| triplets per group, mean | 2.5 | 6.5 |",
        "| kept of all possible triplets | 42 % | 41 % |",
        "| quadruples | 4 | 3 | 75.0 % |",
        "| filter | quality below 0.5 | 5 | 41.7 % |",
        r"| filter | a \| b | 1 | 8.3 % |",
        "| upper colour | red 100.0 %, blue 66.7 %, green 33.3 % |",
        "| CLIPScore | 27.12 |",
    ):
        assert line in page
    assert found["kept of all possible triplets"] == 5 / 12
    assert found["scores"]["quality"]["count"] == 3
    assert json.loads((folder / "statistics.json").read_text())["measures"] == found["measures"]


def test_every_picture_of_the_page_is_there(written):
    _, folder = written
    pictures = re.findall(r"!\[.*\]\((.*)\)", (folder / "statistics.md").read_text())
    assert pictures == ["groups.png", "lengths.png", "acceptance.png", "scores.png", "kept.jpg", "rejected.jpg"]
    for picture in pictures:
        assert np.asarray(Image.open(folder / picture)).std() > 5


def test_what_is_not_there_is_not_shown(tmp_path):
    write_statistics(tmp_path, "mine", [triplet(0)])
    page = unpadded((tmp_path / "statistics.md").read_text())
    assert re.findall(r"!\[.*\]\((.*)\)", page) == ["groups.png", "lengths.png"]
    assert "| kept of all possible triplets | not known |" in page


def test_the_pairs_shown_do_not_depend_on_the_order(tmp_path, material):
    many = [record | {"id": f"{number}-{record['id']}"} for number in range(20) for record in material["kept"]]
    for name, kept in (("forwards", many), ("backwards", many[::-1])):
        write_statistics(tmp_path / name, "mine", [triplet(0)], kept=kept, images=material["images"])
    assert (tmp_path / "forwards/kept.jpg").read_bytes() == (tmp_path / "backwards/kept.jpg").read_bytes()


def test_a_sheet_shows_reference_before_target_and_what_became_of_the_pair():
    dark, light = Image.new("RGB", (20, 40), (10, 10, 10)), Image.new("RGB", (20, 40), (220, 40, 220))
    sheet = np.asarray(draw_pairs([PairCard([light, dark], "Darker.", "17-ba", good=True)], "Kept"))
    (columns_light,), (columns_dark,) = (
        np.nonzero((sheet == colour).all(axis=2).sum(axis=0) > 50) for colour in ((220, 40, 220), (10, 10, 10))
    )
    assert columns_light.max() < columns_dark.min()
    green, red = (
        (np.asarray(draw_pairs([PairCard([light], "", "x", good=good)], "")) == ImageColor.getrgb(colour)).all(axis=2)
        for good, colour in ((True, GREEN), (False, RED))
    )
    assert green.sum() > 500 and red.sum() > 500


def test_where_all_was_rejected_the_page_tells_why(tmp_path, material, caplog):
    stages = {"diptychs": {"items": 2, "rejected": {}}, "filter": {"items": 4, "rejected": {"blur_left above 9": 4}}}
    write_statistics(tmp_path, "SynCPR", [], stages=stages, rejected=material["rejected"], images=material["images"])
    page = unpadded((tmp_path / "statistics.md").read_text())
    assert "| triplets | 0 |" in page and "| filter | blur_left above 9 | 4 | 100.0 % |" in page
    assert re.findall(r"!\[.*\]\((.*)\)", page) == ["acceptance.png", "rejected.jpg"]
    assert "no triplet was kept" in caplog.text
