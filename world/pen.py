"""Drawing tools of the painter: smooth shapes and printed patterns on a canvas that is three times too large.

All lengths are fractions of the image's height; x runs from the middle of the figure to the right, y from the top of
the image down.
"""

from functools import lru_cache
from math import cos, hypot, pi, sin

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from .people import RGB

Point = tuple[float, float]
Points = list[Point] | np.ndarray  # (number of points, 2)
Print = tuple[str, RGB]  # a pattern's name and its second colour

OFF_WHITE, WOOD = (242, 239, 232), (206, 164, 108)

_SUPERSAMPLING = 3
# Half a circle around a direction: (points, 2, 2), to be multiplied with a unit vector of shape (2,).
_ARC = np.array([[(cos(a), -sin(a)), (sin(a), cos(a))] for a in np.linspace(-pi / 2, pi / 2, 8).tolist()])
_DRAWN = 255  # in the fourth band
_CURVE_STEPS = 4  # straight pieces between two points of a smooth outline


class Pen:
    """Draws on an empty canvas.

    The canvas has four bands: the colour, and a fourth that is 255 wherever something was drawn. Its mode is RGBX, not
    RGBA, so that Pillow averages the bands one by one and the reduced colours come out multiplied by the coverage.
    """

    def __init__(self, image_size: tuple[int, int], shift: float):
        height, width = (_SUPERSAMPLING * side for side in image_size)
        self._canvas = Image.new("RGBX", (width, height))
        self._draw = ImageDraw.Draw(self._canvas)
        self._scale = height
        self._middle = width / 2 + shift * height

    def finish(self) -> np.ndarray:
        """The image at its final size: (height, width, 4) uint8, the last channel being the coverage."""
        return np.asarray(self._canvas.reduce(_SUPERSAMPLING))

    def polygon(self, points: Points, colour: RGB, printed: Print | None = None) -> None:
        """Fills a polygon, and prints a pattern on it."""
        pixels = self._to_pixels(points)
        self._draw.polygon(pixels.ravel().tolist(), fill=(*colour, _DRAWN))
        if printed:
            self._print_pattern(pixels, *printed)

    def blob(self, points: Points, colour: RGB, printed: Print | None = None) -> None:
        """Fills a smooth closed curve through the points."""
        self.polygon(_spline(len(points), closed=True) @ points, colour, printed)

    def mirrored(self, half: Points, colour: RGB, printed: Print | None = None, centre: float = 0.0) -> None:
        """Fills a symmetric shape. Its right side is a smooth curve through (distance from the centre line, y)."""
        right = _spline(len(half), closed=False) @ half
        outline = np.concatenate([right, right[::-1] * (-1, 1)])
        outline[:, 0] += centre
        self.polygon(outline, colour, printed)

    def ellipse(self, x: float, y: float, half_width: float, half_height: float, colour: RGB) -> None:
        """Fills an upright ellipse."""
        px, py = self._middle + x * self._scale, y * self._scale
        rx, ry = half_width * self._scale, half_height * self._scale
        self._draw.ellipse((px - rx, py - ry, px + rx, py + ry), fill=(*colour, _DRAWN))

    def ring(self, x: float, y: float, radius: float, thickness: float, colour: RGB) -> None:
        """Draws a circle's outline."""
        px, py, r = self._middle + x * self._scale, y * self._scale, radius * self._scale
        width = max(1, round(thickness * self._scale))
        self._draw.ellipse((px - r, py - r, px + r, py + r), outline=(*colour, _DRAWN), width=width)

    def line(self, points: list[Point], thickness: float, colour: RGB) -> None:
        """Draws a line through the points."""
        pixels = self._to_pixels(points).ravel().tolist()
        self._draw.line(pixels, fill=(*colour, _DRAWN), width=max(1, round(thickness * self._scale)), joint="curve")

    def band(self, y: float, half_width: float, half_height: float, colour: RGB, centre: float = 0.0) -> None:
        """Fills a horizontal bar."""
        left, right, top, bottom = centre - half_width, centre + half_width, y - half_height, y + half_height
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def capsule(
        self,
        start: Point,
        end: Point,
        start_radius: float,
        end_radius: float,
        colour: RGB,
        printed: Print | None = None,
        flat_end: bool = False,
    ) -> None:
        """Fills the hull of two discs, a piece of a limb; with a flat end, a sleeve or a trouser leg."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        along = np.array((dx, dy)) / (hypot(dx, dy) or 1.0)
        end_arc = _ARC[[0, -1]] if flat_end else _ARC
        outline = [start - start_radius * (_ARC @ along), end + end_radius * (end_arc @ along)]
        self.polygon(np.concatenate(outline), colour, printed)

    def _to_pixels(self, points: Points) -> np.ndarray:
        return np.asarray(points) * self._scale + (self._middle, 0.0)

    def _print_pattern(self, pixels: np.ndarray, pattern: str, colour: RGB) -> None:
        left, top = np.maximum(pixels.min(axis=0), 0).astype(int).tolist()
        right, bottom = np.minimum(pixels.max(axis=0) + 2, self._canvas.size).astype(int).tolist()
        if right <= left or bottom <= top:  # outside the image
            return
        shape = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(shape).polygon((pixels - (left, top)).ravel().tolist(), fill=255)
        ink = _pattern_mask(pattern, self._canvas.size).crop((left, top, right, bottom))
        self._canvas.paste((*colour, _DRAWN), (left, top, right, bottom), ImageChops.multiply(shape, ink))


def shade(colour: RGB, factor: float) -> RGB:
    """The colour in shadow (factor below 1) or nearer to white (above 1)."""
    if factor > 1:
        return mix(colour, (255, 255, 255), factor - 1)
    return tuple(int(c * factor) for c in colour)


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """`share` of the second colour in the first."""
    return tuple(int(a + share * (b - a)) for a, b in zip(first, second, strict=True))


def contrast(colour: RGB) -> RGB:
    """A second colour for patterns and buttons: off-white on strong colours, a dark tone of its own on light ones."""
    return (250, 248, 240) if sum(colour) < 500 else mix(colour, (48, 42, 84), 0.62)


def between(start: Point, end: Point, share: float) -> Point:
    """The point at `share` of the way from start to end."""
    return (start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1]))


def _catmull_rom(steps: int) -> np.ndarray:
    """Weights (steps, 4) of four successive points on the curve between the middle two."""
    t = np.arange(steps) / steps
    weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3)
    return 0.5 * np.stack(weights, axis=1)


@lru_cache
def _spline(num_points: int, closed: bool) -> np.ndarray:
    """Weights (curve points, num_points) of a smooth curve through points, closed or from the first to the last."""
    num_pieces = num_points if closed else num_points - 1
    weights = np.zeros((num_pieces, _CURVE_STEPS, num_points))
    for i in range(num_pieces):
        for k, column in enumerate(_catmull_rom(_CURVE_STEPS).T, start=i - 1):
            weights[i, :, k % num_points if closed else min(max(k, 0), num_points - 1)] += column
    weights = weights.reshape(-1, num_points)
    return weights if closed else np.concatenate([weights, np.eye(num_points)[-1:]])


@lru_cache
def _pattern_mask(pattern: str, size: tuple[int, int]) -> Image.Image:
    """Where a pattern puts its second colour, as an L image of the canvas's size."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width] / height
    if pattern == "striped":
        mask = 255 * (y / 0.036 % 1 < 0.42)
    elif pattern == "checked":
        mask = 128 * (y / 0.046 % 1 < 0.5) + 127 * (x / 0.046 % 1 < 0.5)
    elif pattern == "wavy":
        mask = 255 * ((x + 0.014 * np.sin(y / 0.012)) / 0.052 % 1 < 0.45)
    else:
        row = np.floor(y / 0.026)
        dx, dy = 0.036 * ((x / 0.036 + row / 2) % 1 - 0.5), 0.026 * (y / 0.026 % 1 - 0.5)
        mask = 255 * (dx**2 + dy**2 < 0.0082**2)
    return Image.fromarray(mask.astype(np.uint8))
