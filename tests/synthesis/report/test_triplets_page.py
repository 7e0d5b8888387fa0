import json
import re
from typing import ClassVar

import numpy as np
import pytest
from pages import unpadded
from PIL import Image, ImageColor

from fafa.drawing.palette import GREEN, RED
from fafa.synthesis.filtering.thresholds import Bound, Thresholds
from fafa.synthesis.pair_sheet import PairPanel, draw_pairs
from fafa.synthesis.report.counting import choose_records, count_quadruples, count_triplets
from fafa.synthesis.report.measures import StatisticsSettings
from fafa.synthesis.report.triplets import TripletStatistics
from fafa.synthesis.stages import Workspace

SOURCES = ["quadruples", "distinct", "diptychs", "split", "gates", "filter"]
BOUNDS = Thresholds(bounds={"quality": Bound(at_least=0.5)})


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


def write(root, decisions, colours=("blue", "green", "blue")):
    """The records of every stage: two diptychs of each quadruple, of which the last could not be cut apart.

    Args:
        root: Of the synthesis.
        decisions: Of the filter: why it rejected the triplets of the pairs, None for those that it kept.
        colours: Of the quadruples.
    """
    work = Workspace(root, num_chunks=1)
    texts = [quadruple(colour) | {"id": str(number)} for number, colour in enumerate(colours)]
    pairs = [
        {"id": f"{text['id']}-{number}", "quadruple": text["id"], "number": number}
        for text in texts
        for number in (1, 2)
    ]
    for number, pair in enumerate(pairs):
        for side, shade in (("left", 40), ("right", 200)):
            pair[side] = f"{pair['id']}_{side}.png"
            Image.new("RGB", (32, 64), (shade, 80, 40 * number)).save(root / pair[side])
    Image.new("RGB", (64, 64), "gold").save(root / "whole.png")
    uncut = {"id": pairs[-1]["id"], "quadruple": pairs[-1]["quadruple"], "number": 2, "rejected": "no seam found"}
    triplets = [(pair["id"], direction) for pair in pairs[:-1] for direction in ("ab", "ba")]
    work.write("quadruples", 0, [*texts, {"id": "9", "rejected": "no answer"}])
    work.write("distinct", 0, texts)
    work.write("diptychs", 0, [pair | {"image": "whole.png"} for pair in pairs])
    work.write("split", 0, [*pairs[:-1], uncut])
    scores = zip(pairs, (0.2, 0.6, 0.9, 0.7, 0.8), strict=False)
    work.write(
        "gates", 0, [{"id": pair["id"], "scores": {"quality": score, "blur": 30 * score}} for pair, score in scores]
    )
    work.write(
        "filter",
        0,
        [
            {"id": f"{pair}-{direction}", "pair": pair, "direction": direction}
            | ({"rejected": reason} if reason else {})
            for (pair, direction), reason in zip(triplets, decisions, strict=True)
        ],
    )
    return work


class Measured(StatisticsSettings):
    """Stands in for CLIP."""

    needs_models: ClassVar = True

    def measure(self, captions, pairs, seed):
        return {"CLIPScore": 27.125}


def make(work, seed=0, bounds=BOUNDS):
    """Returns the counts for the manifest, and the folder of the page."""
    stage = TripletStatistics(Measured(), seed, SOURCES, "SynCPR", bounds)
    work.folder(stage.name).mkdir()
    return stage.make(work), work.folder(stage.name)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What is returned, and the folder."""
    decisions = [None, None, None, "quality below 0.5", None, None, "a | b", "quality below 0.5"]
    decisions += ["identity below 0.5"] * 2
    return make(write(tmp_path_factory.mktemp("run"), decisions))


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
    counts, folder = written
    found = json.loads((folder / "statistics.json").read_text())
    page = unpadded((folder / "statistics.md").read_text())
    for line in (
        "| triplets | 5 | 1,153,230 |",
        "| groups | 4 | 177,530 |",
        "| triplets per group, mean | 1.2 | 6.5 |",
        "| kept of all possible triplets | 42 % | 41 % |",
        "| quadruples | 4 | 3 | 75.0 % |",
        "| filter | quality below 0.5 | 2 | 20.0 % |",
        r"| filter | a \| b | 1 | 10.0 % |",
        "| upper colour | red 100.0 %, blue 66.7 %, green 33.3 % |",
        "| CLIPScore | 27.12 |",
    ):
        assert line in page
    assert counts == {"triplets": 5, "groups": 4} and found["kept of all possible triplets"] == 5 / 12
    assert found["scores"]["quality"]["count"] == 5 and found["measures"]["CLIPScore"] == 27.125


def test_every_picture_of_the_page_is_there(written):
    _, folder = written
    pictures = re.findall(r"!\[.*\]\((.*)\)", (folder / "statistics.md").read_text())
    assert pictures == ["groups.png", "lengths.png", "acceptance.png", "scores.png", "kept.jpg", "rejected.jpg"]
    for picture in pictures:
        assert np.asarray(Image.open(folder / picture)).std() > 5


def test_the_pairs_shown_do_not_depend_on_the_order(tmp_path):
    chosen = []
    records = [{"id": str(number), "rejected": f"reason {number % 3}"} for number in range(60)]
    for given in (records, records[::-1]):
        chosen.append(sorted(record["id"] for record in choose_records(given, 12, seed=0)))
    assert chosen[0] == chosen[1] and len(chosen[0]) == 12


def test_a_sheet_shows_reference_before_target_and_what_became_of_the_pair():
    dark, light = Image.new("RGB", (20, 40), (10, 10, 10)), Image.new("RGB", (20, 40), (220, 40, 220))
    sheet = np.asarray(draw_pairs([PairPanel([light, dark], "Darker.", "17-ba", good=True)], "Kept"))
    (columns_light,), (columns_dark,) = (
        np.nonzero((sheet == colour).all(axis=2).sum(axis=0) > 50) for colour in ((220, 40, 220), (10, 10, 10))
    )
    assert columns_light.max() < columns_dark.min()
    green, red = (
        (np.asarray(draw_pairs([PairPanel([light], "", "x", good=good)], "")) == ImageColor.getrgb(colour)).all(axis=2)
        for good, colour in ((True, GREEN), (False, RED))
    )
    assert green.sum() > 500 and red.sum() > 500


def test_where_all_was_rejected_the_page_tells_why(tmp_path, caplog):
    _, folder = make(write(tmp_path, ["blur_left above 9"] * 2, colours=["blue"]))
    page = unpadded((folder / "statistics.md").read_text())
    assert "| triplets | 0 |" in page and "| filter | blur_left above 9 | 2 | 100.0 % |" in page
    assert re.findall(r"!\[.*\]\((.*)\)", page) == ["acceptance.png", "scores.png", "rejected.jpg"]
    assert "no triplet was kept" in caplog.text
