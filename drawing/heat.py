"""Heat over an image: cold places fade to white, hot ones glow, and what is there can still be seen."""

import numpy as np
from PIL import Image, ImageColor

from .palette import GREY, NEUTRAL, PANEL, VERMILION
from .sheet import SMALL_SIZE, Sheet

HOTTEST = 4.0  # times the average, at which the colour is full
_FADED, _GLOWING = 0.75, 0.6  # how much of the coldest place is white, and of the hottest one is colour


def heated(image: Image.Image, heat: np.ndarray) -> Image.Image:
    """An image under its heat, in its own size.

    Args:
        image: RGB.
        heat: `(height, width)`, 1 where it is average; such places are as they were.
    """
    cold = np.clip(1.0 - heat, 0.0, 1.0) * _FADED
    hot = np.clip((heat - 1.0) / (HOTTEST - 1.0), 0.0, 1.0) * _GLOWING
    for colour, share in ((PANEL, cold), (VERMILION, hot)):
        image = Image.composite(
            Image.new("RGB", image.size, ImageColor.getrgb(colour)), image, Image.fromarray(np.uint8(255 * share))
        )
    return image


def draw_scale(sheet: Sheet, corner: tuple[int, int], width: int) -> None:
    """What the colours mean: a bar from no heat to the hottest, over grey with numbers below it."""
    left, top = corner
    heat = np.tile(np.linspace(0.0, HOTTEST, width, dtype=np.float32), (12, 1))
    sheet.rounded((left, top, left + width, top + 12), heated(Image.new("RGB", (width, 12), NEUTRAL), heat), radius=5)
    for times in (0, 1, round(HOTTEST)):
        name = {0: "0", 1: "average"}.get(times, f"x{times}+")
        anchor = {0: "la", 1: "ma"}.get(times, "ra")
        sheet.text((left + width * times / HOTTEST, top + 16), name, SMALL_SIZE - 2, GREY, anchor=anchor)
