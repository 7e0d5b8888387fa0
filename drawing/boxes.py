"""Where somebody is in a photograph: the box drawn, and the person and the whole photograph in one picture."""

import math

from PIL import Image, ImageDraw, ImageOps

from .palette import PAGE, PANEL, VERMILION

_PERSON_SHAPE = 1.3  # height over width of the person's part
_TALLEST = 0.67  # height over width of the photograph's part below it

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the image


def draw_box(image: Image.Image, box: Box, line: int | None = None) -> Image.Image:
    """A copy of an RGB image with a line around a box, in a colour and white, to be seen on any ground.

    Args:
        line: its width in pixels; None: as it suits the image's size.
    """
    line = max(2, round(max(image.size) / 200)) if line is None else line
    shown = image.copy()
    draw = ImageDraw.Draw(shown)
    for width, colour in ((line, PANEL), (line - 1, VERMILION)):  # around the person, but within the image
        left, top = (max(0, math.floor(side) - width) for side in box[:2])
        right, bottom = (min(end, math.ceil(side) + width) - 1 for end, side in zip(image.size, box[2:], strict=True))
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=width)
    return shown


def person_and_photograph(photograph: Image.Image, box: Box, width: int) -> Image.Image:
    """The person in a box, and below it the whole photograph with the box, `width` pixels wide."""
    person = photograph.crop(tuple(map(round, box)))
    above = ImageOps.pad(person, (width, round(_PERSON_SHAPE * width)), Image.Resampling.LANCZOS, color=PAGE)
    scale = min(width / photograph.width, _TALLEST * width / photograph.height)
    small = photograph.resize(
        (max(1, round(scale * photograph.width)), max(1, round(scale * photograph.height))), Image.Resampling.LANCZOS
    )
    small = draw_box(small, tuple(scale * side for side in box), math.ceil(width / 40))
    gap = math.ceil(width / 30)
    both = Image.new("RGB", (width, above.height + gap + small.height), PAGE)
    both.paste(above, (0, 0))
    both.paste(small, ((width - small.width) // 2, above.height + gap))
    return both
