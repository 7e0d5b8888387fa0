"""Corrupted images: size and kind are kept, severities grow, the seed decides."""

import numpy as np
import pytest
from PIL import Image

from fafa.evaluation.robustness.images import CORRUPTIONS, HEIGHT, blend, no_higher


@pytest.fixture(scope="module")
def image():
    rows, columns = np.mgrid[0:96, 0:48]
    pixels = np.stack([40 + rows, 40 + 3 * columns, 128 + 60 * np.sin(rows / 5) * np.cos(columns / 4)], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


def distance(image, other):
    return np.abs(np.asarray(image, dtype=float) - np.asarray(other, dtype=float)).mean()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_grows_with_its_severity(name, image):
    spoilt = [CORRUPTIONS[name](image, severity, np.random.default_rng(0)) for severity in (1, 2, 3, 4, 5)]
    assert all(one.size == image.size and one.mode == "RGB" for one in spoilt)
    distances = [distance(image, one) for one in spoilt]
    assert distances[0] > 0 and distances == sorted(distances) and distances[4] > distances[0]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_seed_decides(name, image):
    first, again, other = (CORRUPTIONS[name](image, 3, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first.tobytes() == again.tobytes()
    assert (first.tobytes() != other.tobytes()) == (name in ("noise", "motion blur", "box"))


@pytest.mark.parametrize(("name", "expected"), [("noise", 0.18), ("brightness", 0.3)])
def test_strengths_are_parts_of_the_full_range(name, expected):
    grey = Image.new("RGB", (64, 128), (100, 100, 100))
    change = np.asarray(CORRUPTIONS[name](grey, 3, np.random.default_rng(0)), dtype=float) / 255 - 100 / 255
    assert (change.std() if name == "noise" else change.mean()) == pytest.approx(expected, abs=0.01)


def test_a_box_hides_its_part_of_the_area(image):
    black = Image.new("RGB", (100, 200))
    hidden = np.asarray(CORRUPTIONS["box"](black, 5, np.random.default_rng(0))) > 0
    assert hidden[:, :, 0].mean() == pytest.approx(0.5, abs=0.01)


def test_a_large_photograph_is_reduced_first_so_that_a_severity_means_the_same():
    assert no_higher(Image.new("RGB", (1000, 3000))).size == (128, HEIGHT)
    assert no_higher(Image.new("RGB", (50, 100))).size == (50, 100)


def test_blended_images_have_the_size_of_the_first(image):
    other = Image.new("RGB", (10, 10), (255, 255, 255))
    assert blend(image, other, 0.5).size == image.size
    assert distance(blend(image, other, 0.25), image) < distance(blend(image, other, 0.75), image)
