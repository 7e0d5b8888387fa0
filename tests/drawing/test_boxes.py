"""A person's box is drawn where the person is, and the person above the photograph."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from fafa.drawing.boxes import draw_box, person_and_photograph
from fafa.drawing.palette import PANEL, VERMILION

COLOUR = ImageColor.getrgb(VERMILION)


def scene():
    """A blue person of 40 x 100 pixels on grey."""
    image = Image.new("RGB", (300, 200), (90, 90, 90))
    image.paste((0, 0, 200), (100, 50, 140, 150))
    return image


def drawn(image):
    """Left, top, right, bottom of what has the colour of boxes."""
    rows, columns = np.nonzero((np.asarray(image) == COLOUR).all(axis=-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize(
    ("box", "edges"), [((100, 50, 140, 150), (98, 48, 142, 152)), ((-20, -5, 400, 250), (0, 0, 300, 200))]
)
def test_the_box_is_drawn_within_the_image_and_the_image_stays(box, edges):
    image = scene()
    assert drawn(draw_box(image, box, 3)) == edges
    assert image.tobytes() == scene().tobytes()


def test_the_smallest_box_is_seen_and_one_beyond_the_image_is_no_error():
    """A photograph may have changed since its people were found."""
    left, top, right, bottom = drawn(draw_box(scene(), (10, 10, 11, 11)))
    assert left <= 10 < right and top <= 10 < bottom
    draw_box(scene(), (400, 400, 500, 500))
    person_and_photograph(scene(), (400, 400, 500, 500), 100)


def test_the_line_is_seen_on_any_ground():
    image = np.asarray(draw_box(Image.new("RGB", (300, 200), VERMILION), (100, 50, 140, 150), 3))
    assert (image == ImageColor.getrgb(PANEL)).all(axis=-1).sum() > 200


def test_the_person_stands_above_the_photograph():
    both = person_and_photograph(scene(), (100, 50, 140, 150), 300)
    assert both.width == 300
    blue = (np.asarray(both).astype(int) - (0, 0, 200)).__abs__().max(axis=-1) < 20
    above = both.height - 203
    assert blue[:above].sum() > 30_000 and 3_500 < blue[above:].sum() < 4_500  # large, and as in the photograph
    left, top, right, bottom = drawn(both)
    assert (left, top - above, right, bottom - above) == pytest.approx((100, 50, 140, 150), abs=11)  # a line around it
