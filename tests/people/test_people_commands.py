"""`fafa index --people` and what `fafa search` makes of its gallery, with a detector that a folder holds."""

import json

import numpy as np
import pytest
from commands_called import call
from painted_scenes import paint_scene
from PIL import Image, ImageColor
from tiny_vision_models import fixed_detector

from fafa.drawing.palette import VERMILION

LEFT, RIGHT = (48, 20, 72, 80), (168, 20, 192, 80)  # whom the detector finds in a photograph of 240 x 100


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Commands set up logging for the rest of their process."""
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    boxes = [("person", 0.9, (0.75, 0.5, 0.1, 0.6)), ("dog", 0.9, (0.5, 0.5, 0.1, 0.1))]
    return fixed_detector(tmp_path_factory.mktemp("detector"), [*boxes, ("person", 0.8, (0.25, 0.5, 0.1, 0.6))])


@pytest.fixture(scope="module")
def model_folder(model, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        paint_scene(folder / f"{number}.png", (48, (80 * number, 20, 20)), (168, (20, 20, 80 * number)))
    return folder


@pytest.fixture
def indexed(photos, detector, model_folder, tmp_path):
    index = ("index", photos, "--people", "--model", model_folder, "--output", tmp_path / "people.index")
    return index, call(*index, "--detector", detector, "--margin", 0)[0]


def test_people_are_indexed_with_boxes_told_and_followed(photos, detector, indexed, tmp_path):
    index, said = indexed
    assert said == f"{tmp_path / 'people.index'}: 6 people in 3 photographs\n"
    (photos / "1.png").unlink()
    again = json.loads(call(*index, "--json")[0])  # by the gallery's own detector and margin
    assert {name: again[name] for name in ("images", "skipped", "photographs", "people", "whole")} == {
        "images": 4,
        "skipped": [],
        "photographs": 2,
        "people": 4,
        "whole": [],
    }


def test_another_way_of_finding_people_is_refused(photos, detector, indexed):
    index, _ = indexed
    _, told = call(*index, "--margin", 0.2, status=1)
    assert f"detector {detector}, margin 0.0" in told and "margin 0.2" in told
    _, told = call(*index, "--detector", "somebody/else", status=1)  # which need not be there
    assert f"detector {detector}, margin 0.0" in told and "detector somebody/else, margin 0.0" in told
    _, told = call(*(part for part in index if part != "--people"), status=1)
    assert "one entry for each person" in told and "each image as a whole" in told
    assert "--margin: that is about people in photographs" in call("index", photos, "--margin", 0.2, status=2)[1]


def test_results_say_and_show_who_in_the_photograph_is_meant(photos, indexed, tmp_path):
    search = ("search", tmp_path / "people.index", "--caption", "in a red coat", "--top", 4)
    found = json.loads(call(*search, "--json")[0])["results"]
    assert {tuple(result["box"]) for result in found} == {LEFT, RIGHT}
    table, _ = call(*search, "--sheet", tmp_path / "sheet.png")
    assert ".png  (left 48, top 20, right 72, bottom 80)" in table
    sheet = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    assert (np.abs(sheet - ImageColor.getrgb(VERMILION)).max(axis=-1) < 60).sum() > 100
    where = f'left > 100 and path == "{chr(0xDCE9)}.png"'  # as a shell gives a name that is no UTF-8
    assert json.loads(call(*search, "--json", "--where", where)[0])["results"] == []


def test_one_of_several_people_in_the_reference_photo_can_be_chosen(photos, indexed, tmp_path):
    search = ("search", tmp_path / "people.index", "--image", photos / "2.png", "--keep-query-photo", "--json")
    _, told = call(*search)
    assert "searched by the whole photo; --person N takes" in told
    scores = {}
    for number, box in ((1, LEFT), (2, RIGHT)):
        by_number, told = call(*search, "--person", number)
        Image.open(photos / "2.png").crop(box).save(tmp_path / f"{number}.png")
        by_crop, _ = call(*search[:2], "--image", tmp_path / f"{number}.png", "--json")
        scores[number] = [(one["id"], one["score"]) for one in json.loads(by_number)["results"]]
        assert scores[number] == [(one["id"], one["score"]) for one in json.loads(by_crop)["results"]]
        assert "whole photo" not in told
    assert scores[1] != scores[2]
    _, told = call(*search, "--person", 3, status=1)
    assert "--person 3: 2 people found in" in told and "2: left 168, top 20, right 192, bottom 80" in told
    alone = ("search", tmp_path / "people.index", "--caption", "a hat")
    assert "say by --person who" in call(*alone, "--detector", "hog", status=2)[1]
    assert "takes one --image" in call(*search[:2], "--caption", "a hat", "--person", 1, status=2)[1]


def test_in_a_gallery_of_whole_photographs_the_detector_is_named(photos, detector, model_folder, tmp_path):
    """There was no way to say which: the default one was fetched."""
    call("index", photos, "--model", model_folder, "--output", tmp_path / "whole.index")
    search = ("search", tmp_path / "whole.index", "--image", photos / "2.png", "--person", 9)
    assert "2 people found in" in call(*search, "--detector", detector, status=1)[1]
