"""Crops of people: margins within the picture, a least size, each person once, from left to right."""

import numpy as np
import pytest
from PIL import Image

from fafa.people import FoundPerson, people_in
from fafa.people.crops import LEAST_HEIGHT, LEAST_WIDTH, choose_people, widened
from fafa.people.detectors import Detector

SIZE = 400, 300


def boxes(found, **options):
    chosen = choose_people([FoundPerson(box, 0.9 - 0.1 * number) for number, box in enumerate(found)], SIZE, **options)
    return [person.box for person in chosen.found], chosen.too_small


def test_the_margin_is_a_share_of_the_height_on_every_side():
    assert boxes([(100.0, 50.0, 140.0, 150.0)], margin=0.1) == ([(90, 40, 150, 160)], 0)
    assert boxes([(100.2, 50.8, 139.5, 150.1)], margin=0) == ([(100, 51, 140, 150)], 0)


def test_a_crop_ends_at_the_edges_of_the_picture():
    assert widened((-3.0, 2.0, 395.0, 299.5), SIZE, 0.5) == (0, 0, 400, 300)


def test_people_are_told_from_left_to_right_whoever_is_surest():
    assert boxes([(300, 0, 340, 100), (10, 0, 50, 100), (150, 0, 190, 100)], margin=0)[0] == [
        (10, 0, 50, 100),
        (150, 0, 190, 100),
        (300, 0, 340, 100),
    ]


def test_who_is_too_small_is_left_out_and_counted_before_the_margin_is_added():
    least = (10, 10, 10 + LEAST_WIDTH, 10 + LEAST_HEIGHT)
    thin, flat = (100, 0, 99 + LEAST_WIDTH, 90), (200, 0, 290, LEAST_HEIGHT - 1)
    assert boxes([least, thin, flat], margin=0) == ([least], 2)
    assert boxes([thin], margin=1) == ([], 1)


def test_people_who_overlap_are_two_and_a_person_found_twice_is_one():
    hug, twice = (140, 0, 200, 200), (102, 1, 181, 199)
    found = [FoundPerson((100, 0, 180, 200), 0.7), FoundPerson(twice, 0.9), FoundPerson(hug, 0.5)]
    chosen = choose_people(found, SIZE, margin=0)
    assert [(person.box, person.score) for person in chosen.found] == [(twice, 0.9), (hug, 0.5)]


@pytest.mark.parametrize("margin", [-0.1, 1.5, float("nan")])
def test_an_impossible_margin_is_refused(margin):
    with pytest.raises(ValueError, match=r"margin is .*from 0 to 1"):
        boxes([], margin=margin)


class OnTheLeft(Detector):
    """Finds one person in the left half of any image."""

    name = "on the left"

    def find(self, images):
        return [[FoundPerson((0.0, 0.0, image.width / 2, float(image.height)), 0.9)] for image in images]


def test_people_in_a_photograph_are_those_of_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    file = tmp_path / "sideways.jpg"
    Image.fromarray(np.zeros((100, 200, 3), dtype=np.uint8)).save(file, exif=exif)
    assert [person.box for person in people_in(file, OnTheLeft(), margin=0)] == [(0, 0, 50, 200)]
