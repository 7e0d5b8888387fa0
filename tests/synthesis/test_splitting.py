"""Seams are found where they are, and where there are none nothing is cut."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fafa.synthesis.filtering.detectors import Box
from fafa.synthesis.splitting import Split, SplitSettings, crop_to, cut_at_seam, seam_coverage

HEIGHT, WIDTH = 256, 260


def background(width, rng):
    """A soft gradient in two directions with some grain and a few shapes, as a photograph's background may be."""
    y, x = np.mgrid[0:HEIGHT, 0:width] / HEIGHT
    base, down, along = rng.uniform(90, 190, 3), rng.uniform(-50, 50, 3), rng.uniform(-40, 40, 3)
    pixels = base + y[..., None] * down + x[..., None] * along + rng.normal(0, 3, (HEIGHT, width, 1))
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        left, top = int(rng.integers(0, width - 30)), int(rng.integers(40, 180))
        colour = tuple(int(c) for c in rng.integers(60, 220, 3))
        draw.rectangle((left, top, left + 25, top + 50), fill=colour)
    return image


def person(image, rng):
    """A figure with straight edges, three quarters of the height."""
    draw, middle = ImageDraw.Draw(image), image.width // 2
    colours = [tuple(int(c) for c in rng.integers(0, 255, 3)) for _ in range(3)]
    draw.ellipse((middle - 16, 24, middle + 16, 60), fill=colours[0])
    draw.rectangle((middle - 28, 60, middle + 28, 140), fill=colours[1])
    draw.rectangle((middle - 22, 140, middle + 22, 230), fill=colours[2])
    return image


def diptych(seed, offset=0.0, border=0, colour=(255, 255, 255), quality=None):
    rng = np.random.default_rng(seed)
    widths = [round(WIDTH * (0.5 + offset)) - border // 2]
    widths.append(WIDTH - border - widths[0])
    halves = [person(background(width, rng), rng) for width in widths]
    image = Image.new("RGB", (WIDTH, HEIGHT), colour)
    image.paste(halves[0], (0, 0))
    image.paste(halves[1], (widths[0] + border, 0))
    if quality:
        file = BytesIO()
        image.save(file, "JPEG", quality=quality)
        image = Image.open(file)
    return image, widths[0], widths[0] + border


@pytest.mark.parametrize("offset", [-0.1, -0.03, 0.0, 0.07, 0.1])
@pytest.mark.parametrize(
    ("border", "colour"), [(0, (0, 0, 0)), (1, (255, 255, 255)), (3, (0, 0, 0)), (10, (255, 255, 255))]
)
@pytest.mark.parametrize("quality", [None, 75])
def test_a_seam_is_found_and_cut_away(offset, border, colour, quality):
    for seed in range(3):
        image, start, stop = diptych(seed, offset, border, colour, quality)
        split = cut_at_seam(image, SplitSettings())
        assert isinstance(split, Split), split
        assert abs(split.seam - (start + stop) / 2) <= 2
        assert start - 6 <= split.left.width <= start
        assert WIDTH - stop - 6 <= split.right.width <= WIDTH - stop
        assert split.border == pytest.approx(WIDTH - split.left.width - split.right.width, abs=1)


def test_nothing_is_cut_where_there_is_no_seam():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert cut_at_seam(person(background(WIDTH, rng), rng), SplitSettings()) == "no seam found"
    for flat in (0, 128, 255):
        assert cut_at_seam(Image.new("RGB", (WIDTH, HEIGHT), (flat,) * 3), SplitSettings()) == "no seam found"
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    assert cut_at_seam(Image.fromarray(noise), SplitSettings()) == "no seam found"


def test_a_seam_far_from_the_middle_is_refused():
    image, _, _ = diptych(0, offset=0.25)
    assert cut_at_seam(image, SplitSettings()) == "halves too uneven"
    assert isinstance(cut_at_seam(image, SplitSettings(window=0.3)), Split)


def test_two_seams_are_refused():
    rng = np.random.default_rng(0)
    image = Image.new("RGB", (WIDTH, HEIGHT))
    for x, width in ((0, 110), (110, 40), (150, 110)):
        image.paste(background(width, rng), (x, 0))
    assert cut_at_seam(image, SplitSettings()) == "more than one seam found"


def test_pictures_too_small_for_a_seam_are_refused_and_not_an_error():
    assert cut_at_seam(Image.new("RGB", (4, 4)), SplitSettings()) == "no seam found"


def test_coverage_is_per_column_and_a_share():
    image, start, _ = diptych(1)
    coverage = seam_coverage(image.convert("RGB"))
    assert coverage.shape == (WIDTH,)
    assert coverage[start] == coverage.max()
    assert coverage[start - 20 : start - 5].max() < 0.5
    assert 0 <= coverage.min() <= coverage.max() <= 1


def test_a_frame_around_the_picture_goes_with_the_seam():
    image, start, stop = diptych(2, border=8)
    framed = Image.new("RGB", (WIDTH + 16, HEIGHT + 16), (255, 255, 255))
    framed.paste(image, (8, 8))
    split = cut_at_seam(framed, SplitSettings())
    assert split.left.height == split.right.height == HEIGHT
    assert abs(split.left.width - start) <= 5
    assert abs(split.right.width - (WIDTH - stop)) <= 5


def test_halves_get_the_wanted_aspect():
    split = SplitSettings(aspect=0.4).load().split([diptych(0, offset=0.05)[0]])[0]
    for half in (split.left, split.right):
        assert half.size == (round(0.4 * HEIGHT), HEIGHT)
    # Narrow halves are filled up at both sides by their outermost columns.
    wide = SplitSettings(aspect=0.8).load().split([diptych(0)[0]])[0].left
    assert wide.width == pytest.approx(0.8 * wide.height, abs=1)
    assert np.array_equal(np.asarray(wide)[:, 0], np.asarray(wide)[:, 10])


@pytest.mark.parametrize("aspect", [None, 0.3, 0.5, 1.0])
def test_a_crop_holds_the_whole_person(aspect):
    image = Image.new("RGB", (100, 200))
    image.paste((255, 0, 0), (5, 20, 45, 190))
    crop = np.asarray(crop_to(image, Box(5, 20, 45, 190, 0.9), 0.05, aspect))
    assert (crop == (255, 0, 0)).all(axis=2).sum() >= 40 * 170
    if aspect:
        assert crop.shape[1] / crop.shape[0] == pytest.approx(aspect, abs=0.02)
    else:
        assert crop.shape[:2] == (187, 54)  # 8.5 pixels of margin, and nothing beyond the picture


class FindsPeople:
    """A detector that finds as many people as each picture in turn is said to have."""

    def __init__(self, counts):
        self.counts = counts
        self.about = {}

    def find(self, images):
        assert len(images) == len(self.counts)
        return [[Box(10, 20, 60, 220, 0.9)] * count for count in self.counts]


def test_halves_without_a_person_are_refused_with_the_side():
    splitter = SplitSettings().load()
    splitter._finder = FindsPeople([1, 1, 0, 1, 2, 0])
    flat = Image.new("RGB", (WIDTH, HEIGHT))
    whole, left, uncut, right = splitter.split([diptych(0)[0], diptych(1)[0], flat, diptych(2)[0]])
    assert whole.left.size == (50 + 10 + 10, 200 + 10 + 10)
    assert (left, uncut, right) == ("no person found on the left", "no seam found", "no person found on the right")


@pytest.mark.parametrize("wrong", [{"window": 0}, {"border": 0.5}, {"coverage": 1.2}, {"aspect": -1}, {"margin": -0.1}])
def test_settings_out_of_range_name_the_setting(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SplitSettings(**wrong)
