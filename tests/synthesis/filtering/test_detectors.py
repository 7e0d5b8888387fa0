"""Finding and counting people with object detectors of transformers."""

import pytest
import torch
from PIL import Image
from tiny_vision_models import fixed_detector, tiny_detr, tiny_yolos

from fafa.synthesis.components import SynthesisError
from fafa.synthesis.filtering.detectors import PeopleGate, PersonDetector
from fafa.synthesis.settings import RecipeError, read_settings


def picture(seed: int, size: tuple[int, int] = (40, 80)) -> Image.Image:
    pixels = torch.randint(0, 256, (5, 5, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy()).resize(size, Image.Resampling.NEAREST)


@pytest.fixture(scope="module")
def two_people(tmp_path_factory):
    """Finds a large person, a small one, a doubtful one and a dog. Shares are of the square around a picture."""
    return fixed_detector(
        tmp_path_factory.mktemp("detector"),
        [
            ("person", 0.9, (0.1, 0.25, 0.05, 0.1)),
            ("person", 0.8, (0.25, 0.5, 0.2, 0.8)),
            ("person", 0.3, (0.25, 0.5, 0.4, 0.4)),
            ("dog", 0.99, (0.25, 0.5, 0.3, 0.3)),
        ],
    )


def test_boxes_are_in_pixels_of_the_picture_whatever_its_shape(two_people):
    tall, wide = PersonDetector(model=str(two_people)).load().find([picture(0, (40, 80)), picture(0, (300, 200))])
    assert [round(value, 1) for value in tall[0]] == [12.0, 8.0, 28.0, 72.0, 0.8]
    # 0.1 * 300 = 30 below the upper edge, and no lower than the picture reaches.
    assert [round(value, 1) for value in wide[0]] == [45.0, 30.0, 105.0, 200.0, 0.8]


def test_only_people_above_the_threshold_count_and_the_largest_comes_first(two_people):
    sure, unsure = (PersonDetector(model=str(two_people), threshold=value).load() for value in (0.6, 0.2))
    assert [round(box.score, 1) for box in sure.find([picture(0)])[0]] == [0.8, 0.9]
    assert len(unsure.find([picture(0)])[0]) == 3
    dogs = PersonDetector(model=str(two_people), label="dog").load().find([picture(0)])
    assert [round(box.score, 2) for box in dogs[0]] == [0.99]


@pytest.mark.parametrize("make", [tiny_yolos, tiny_detr])
def test_what_is_found_depends_on_the_picture_and_not_on_its_neighbours(make, tmp_path):
    finder = PersonDetector(model=str(make(tmp_path)), threshold=0.05, batch_size=4).load()
    pictures = [picture(0), picture(1, (90, 60)), picture(2, (50, 50)), picture(3, (31, 77)), picture(4)]
    together = finder.find(iter(pictures))
    assert together == [finder.find([image])[0] for image in pictures]
    assert any(together)
    assert together[0] != together[4]


def test_too_little_memory_halves_the_batch(tmp_path, monkeypatch):
    finder = PersonDetector(model=str(tiny_yolos(tmp_path)), threshold=0.05, batch_size=4).load()
    expected, forward, sizes = finder.find(map(picture, range(6))), finder.model.forward, []

    def small(pixel_values, **inputs):
        sizes.append(len(pixel_values))
        if len(pixel_values) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(pixel_values, **inputs)

    monkeypatch.setattr(finder.model, "forward", small)
    found = finder.find(map(picture, range(6)))
    assert sizes == [4, 2, 2, 2]
    assert [len(boxes) for boxes in found] == [len(boxes) for boxes in expected]

    def never(**inputs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(finder.model, "forward", never)
    with pytest.raises(SynthesisError, match="smaller model"):
        finder.find([picture(0)])


def test_the_gate_counts_people_and_measures_the_largest(two_people):
    settings = read_settings(PeopleGate, {"detector": {"model": str(two_people)}}, "recipe.yaml")
    (scores,) = settings.load().score([{"id": "1-1"}], [(picture(0, (40, 80)), picture(1, (40, 70)))])
    assert set(scores) == set(settings.names)
    assert scores["people_left"] == scores["people_right"] == 2
    assert scores["share_left"] == pytest.approx(16 * 64 / (40 * 80))
    # On a square of 70 pixels the person reaches from 7 to 63; on the picture of 70 x 40 nothing is cut off, either.
    assert scores["edges_left"] == scores["edges_right"] == 0


@pytest.mark.parametrize(
    ("box", "edges"),
    [((0.25, 0.5, 0.3, 0.8), 0), ((0.25, 0.45, 0.3, 0.89), 1), ((0.25, 0.5, 0.499, 0.999), 4)],
    ids=["none", "upper", "all"],
)
def test_edges_that_a_person_reaches(box, edges, tmp_path):
    gate = PeopleGate(detector=PersonDetector(model=str(fixed_detector(tmp_path, [("person", 0.9, box)])))).load()
    (scores,) = gate.score([{"id": "1-1"}], [(picture(0, (40, 80)),) * 2])
    assert scores["edges_left"] == edges


def test_where_nobody_is_there_is_nothing_to_measure(tmp_path):
    detector = fixed_detector(tmp_path, [("dog", 0.9, (0.2, 0.5, 0.1, 0.1))])
    gate = PeopleGate(detector=PersonDetector(model=str(detector))).load()
    (scores,) = gate.score([{"id": "1-1"}], [(picture(0), picture(0))])
    assert scores == {"people_left": 0, "people_right": 0}


def test_what_cannot_work_is_one_clear_line(two_people, tmp_path):
    with pytest.raises(SynthesisError, match=r"nowhere: .* Give the folder or the Hub id") as caught:
        PersonDetector(model=str(tmp_path / "nowhere")).load()
    assert "\n" not in str(caught.value)
    with pytest.raises(SynthesisError, match="no label 'human', but dog, person"):
        PersonDetector(model=str(two_people), label="human").load()
    with pytest.raises(RecipeError, match=r"threshold: expected less than 1.0, found 2"):
        read_settings(PersonDetector, {"model": "x", "threshold": 2}, "recipe.yaml")
