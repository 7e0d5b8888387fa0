"""Paints everyday scenes: a place in some light, and up to three kinds of things in it.

The seed decides what the place and each kind of thing look like, so that two scenes of one seed show the same things;
`view` decides the rest, as between two photographs: camera, small shifts, grain. Lengths are fractions of the picture's
height, as in `pen`.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import cos, pi, sin
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ...world.pen import Pen, Point, Points, contrast, mix, shade
from ...world.people import COLOURS, RGB, pick
from ..components import ImageModel, ImageRequest, PaintedImage, SynthesisError
from .things import INDOORS, THINGS_VERSION

_SIZES = {"small": 0.7, "medium": 1.0, "big": 1.32}
_ZOOM = {"table": 1.6, "room": 1.2}  # things on a table are near
_SPOTS = (-0.31, 0.0, 0.31)
_CROWD = (1.0, 0.86, 0.74)  # how large one, two and three of a kind are
_EDGE = 0.9  # shapes that shall reach the edge of the picture do in pictures up to this aspect

_INK, _GLASS, _WOOD, _METAL = (46, 42, 50), (196, 222, 236), (150, 104, 66), (120, 124, 134)
_WARM = (255, 214, 130)
_SKIES: dict[str, tuple[RGB, RGB]] = {  # above and at the horizon
    "day": ((122, 186, 240), (222, 240, 252)),
    "sunset": ((126, 112, 176), (255, 186, 112)),
    "night": ((34, 44, 100), (84, 94, 156)),
    "rain": ((120, 130, 146), (178, 186, 196)),
    "snow": ((176, 188, 204), (226, 232, 240)),
    "fog": ((200, 206, 212), (222, 226, 230)),
}
_TINTS = {"sunset": (1.04, 0.9, 0.8), "night": (0.62, 0.64, 0.8), "rain": (0.84, 0.88, 0.94)}
_INDOOR_TINTS = {"sunset": (1.02, 0.93, 0.84), "night": (0.66, 0.62, 0.7)}


@dataclass(frozen=True)
class ThingsPainter:
    """Settings of the painter of everyday scenes; requests need a quadruple of `ThingsWriter`.

    Attributes:
        size: Height of a diptych, and about the width of each of its halves, in pixels.
    """

    kind: ClassVar[str] = "things"
    size: int = 128

    def __post_init__(self):
        if self.size < 64:
            raise ValueError(f"size: expected at least 64 pixels, found {self.size}")

    def load(self) -> ImageModel:
        """The painter, ready for work."""
        return _Painter(self)


class _Painter(ImageModel):
    def __init__(self, settings: ThingsPainter):
        super().__init__()
        self.about = {"model": "things", "version": THINGS_VERSION}
        self._settings = settings

    def paint(self, requests: Iterable[ImageRequest]) -> Iterator[PaintedImage]:
        for request in requests:
            scenes = request.scene.get("scenes")
            if not isinstance(scenes, list) or len(scenes) != 2:
                raise SynthesisError(
                    f"{request.id}: the painter of things needs two scenes, and the quadruple has none; "
                    "write quadruples with kind: things"
                )
            yield PaintedImage(request.id, paint_diptych(scenes, request.seed, self._settings.size))
            self.usage["pictures"] += 1


def paint_diptych(scenes: Sequence[Mapping[str, Any]], seed: int, size: int) -> Image.Image:
    """Two scenes in one picture, with the same things in both and a light or dark line between them.

    Args:
        scenes: See `paint_scene`.
        seed: Of all that the scenes leave open.
        size: Height, and half the width, in pixels.
    """
    rng = np.random.default_rng([seed, 2])
    seam = max(2, round(float(rng.uniform(0.012, 0.03)) * size))
    offset = round(float(rng.uniform(-0.04, 0.04)) * size)
    image = Image.new("RGB", (2 * size, size), pick(rng, ((255, 255, 255), (248, 248, 246), (20, 20, 22))))
    left = size + offset - seam // 2
    for view, (scene, width, x) in enumerate(((scenes[0], left, 0), (scenes[1], 2 * size - left - seam, left + seam))):
        image.paste(paint_scene(scene, seed, (size, width), view), (x, 0))
    return image


def paint_scene(
    scene: Mapping[str, Any], seed: int, image_size: tuple[int, int] = (160, 160), view: int = 0
) -> Image.Image:
    """Paint a scene.

    Args:
        scene: `{"place", "light", "things": [thing or None, ...]}`, a thing being `{"kind", "colour", "size",
            "number"}`; its spot in the picture follows from its place in the list of three.
        seed: What the place and the things look like; the same in two pictures of the same things.
        image_size: Height and width in pixels.
        view: Which photograph of them it is.

    Returns:
        An RGB image of `image_size`. The same arguments give the same pixels.
    """
    rng = np.random.default_rng([seed, view])
    place, light = scene["place"], scene["light"]
    shift = 0.025 * float(rng.uniform(-1, 1))
    backdrop = Pen(image_size, shift)
    edge = _PLACES[place](backdrop, np.random.default_rng([seed, zlib.crc32(place.encode())]), light)
    canvas = _lay_over(_sky(image_size, light, np.random.default_rng([seed, 0])), backdrop.finish())
    canvas = canvas.filter(ImageFilter.BoxBlur(image_size[0] / 320))

    pen, glows, shadows = Pen(image_size, shift), [], []
    for brush, thing in _arrange(scene, pen, image_size, edge, seed, rng):
        thing.draw(brush)
        glows += brush.glows
        if thing.casts_shadow:
            shadows.append((brush.x + shift, brush.ground, thing.half_width * brush.height))
    canvas = _lay_over(_with_shadows(canvas, shadows), pen.finish())
    return _light_up(canvas, place, light, [(x + shift, y, radius) for x, y, radius in glows], rng)


@dataclass
class _Brush:
    """Draws one thing, whose own lengths are u to the right of its middle and v up from the ground; it is 1 high."""

    pen: Pen
    x: float
    ground: float
    height: float
    colour: RGB
    look: float  # from 0 to 1, of this very thing
    glows: list[tuple[float, float, float]] = field(default_factory=list)

    def at(self, u: float, v: float) -> Point:
        return (self.x + u * self.height, self.ground - v * self.height)

    def polygon(self, points: Points, colour: RGB) -> None:
        self.pen.polygon([self.at(*point) for point in points], colour)

    def blob(self, points: Points, colour: RGB) -> None:
        self.pen.blob(np.array([self.at(*point) for point in points]), colour)

    def box(self, left: float, bottom: float, right: float, top: float, colour: RGB) -> None:
        self.polygon([(left, bottom), (right, bottom), (right, top), (left, top)], colour)

    def oval(self, u: float, v: float, half_width: float, half_height: float, colour: RGB) -> None:
        self.pen.ellipse(*self.at(u, v), half_width * self.height, half_height * self.height, colour)

    def ring(self, u: float, v: float, radius: float, thickness: float, colour: RGB) -> None:
        self.pen.ring(*self.at(u, v), radius * self.height, thickness * self.height, colour)

    def line(self, points: Points, thickness: float, colour: RGB) -> None:
        self.pen.line([self.at(*point) for point in points], thickness * self.height, colour)

    def limb(self, start: Point, end: Point, start_radius: float, end_radius: float, colour: RGB) -> None:
        radii = (start_radius * self.height, end_radius * self.height)
        self.pen.capsule(np.array(self.at(*start)), np.array(self.at(*end)), *radii, colour)

    def glow(self, u: float, v: float, radius: float) -> None:
        """Where light comes from after dark."""
        self.glows.append((*self.at(u, v), radius * self.height))


# One function per thing


def _ball(brush: _Brush) -> None:
    colour = brush.colour
    brush.oval(0, 0.5, 0.5, 0.5, shade(colour, 0.86))
    brush.oval(-0.03, 0.53, 0.45, 0.45, colour)
    if brush.look < 0.5:  # a beach ball, or one with a band
        other = contrast(colour)
        brush.blob([(-0.1, 0.97), (0.12, 0.7), (0.12, 0.3), (-0.1, 0.03), (-0.06, 0.5)], other)
        brush.blob([(0.34, 0.82), (0.44, 0.5), (0.34, 0.16), (0.28, 0.5)], other)
    else:
        brush.polygon([(-0.47, 0.6), (0.47, 0.72), (0.49, 0.56), (-0.49, 0.44)], contrast(colour))
    brush.oval(-0.19, 0.74, 0.1, 0.07, shade(colour, 1.6))


def _cup(brush: _Brush) -> None:
    colour = brush.colour
    brush.ring(0.46, 0.5, 0.25, 0.1, shade(colour, 0.8))
    brush.polygon([(-0.46, 0.92), (0.46, 0.92), (0.36, 0.05), (-0.36, 0.05)], colour)
    brush.oval(0, 0.06, 0.36, 0.08, colour)
    brush.polygon([(0.2, 0.92), (0.46, 0.92), (0.36, 0.05), (0.16, 0.02)], shade(colour, 0.86))
    brush.oval(0, 0.92, 0.46, 0.11, shade(colour, 1.25))
    brush.oval(0, 0.91, 0.38, 0.075, (92, 58, 40) if brush.look < 0.6 else (196, 150, 80))


def _book(brush: _Brush) -> None:
    colour = brush.colour
    brush.polygon([(-1.2, 0.0), (1.0, 0.0), (1.25, 0.35), (-0.95, 0.35)], shade(colour, 0.7))
    brush.polygon([(-1.12, 0.12), (1.04, 0.12), (1.24, 0.62), (-0.9, 0.62)], (246, 242, 230))
    brush.polygon([(-1.2, 0.5), (1.0, 0.5), (1.3, 1.0), (-0.9, 1.0)], colour)
    brush.polygon([(-1.2, 0.0), (-1.2, 0.5), (-0.9, 1.0), (-1.02, 0.9), (-1.3, 0.3)], shade(colour, 0.8))
    brush.polygon([(-0.5, 0.66), (0.55, 0.66), (0.67, 0.84), (-0.38, 0.84)], contrast(colour))


def _lamp(brush: _Brush) -> None:
    foot = _METAL if brush.look < 0.5 else _WOOD
    brush.oval(0, 0.03, 0.2, 0.045, foot)
    brush.line([(0, 0.03), (0, 0.66)], 0.045, shade(foot, 0.9))
    shape = 0.13 + 0.1 * brush.look
    brush.polygon([(-shape, 1.0), (shape, 1.0), (0.34, 0.58), (-0.34, 0.58)], brush.colour)
    brush.polygon([(shape * 0.4, 1.0), (shape, 1.0), (0.34, 0.58), (0.16, 0.58)], shade(brush.colour, 0.88))
    brush.oval(0, 0.58, 0.34, 0.04, shade(brush.colour, 1.4))
    brush.glow(0, 0.7, 0.95)


def _vase(brush: _Brush) -> None:
    for number, u in enumerate((-0.2, -0.07, 0.08, 0.21)):
        top = 0.84 + 0.09 * (number % 2)
        brush.line([(0.2 * u, 0.5), (u, top)], 0.02, (70, 130, 74))
        petals = ((250, 206, 80), (248, 246, 240))[brush.look < 0.5]
        for angle in range(5):
            brush.oval(u + 0.05 * cos(angle * 1.26), top + 0.05 * sin(angle * 1.26), 0.036, 0.036, petals)
        brush.oval(u, top, 0.03, 0.03, (190, 120, 40))
    for u in (-0.14, 0.14):
        brush.blob([(0, 0.5), (u, 0.6), (1.6 * u, 0.72), (0.6 * u, 0.64)], (84, 150, 84))
    half = [(-0.1, 0.56), (-0.08, 0.48), (-0.2, 0.28), (-0.15, 0.03), (0.15, 0.03), (0.2, 0.28), (0.08, 0.48)]
    brush.blob([*half, (0.1, 0.56)], brush.colour)
    brush.oval(-0.08, 0.3, 0.035, 0.1, shade(brush.colour, 1.4))


def _apple(brush: _Brush) -> None:
    brush.blob([(0, 0.84), (-0.3, 0.92), (-0.5, 0.6), (-0.36, 0.14), (0, 0.05), (0.36, 0.14), (0.5, 0.6), (0.3, 0.92)],
               brush.colour)  # fmt: skip
    brush.oval(-0.2, 0.66, 0.1, 0.13, shade(brush.colour, 1.45))
    brush.line([(0.0, 0.82), (0.06, 1.06)], 0.06, (96, 66, 44))
    brush.blob([(0.05, 0.95), (0.2, 1.12), (0.42, 1.06), (0.24, 0.94)], (84, 156, 76))


def _candle(brush: _Brush) -> None:
    brush.oval(0, 0.05, 0.32, 0.06, _METAL)
    brush.box(-0.14, 0.06, 0.14, 0.72, brush.colour)
    brush.box(0.05, 0.06, 0.14, 0.72, shade(brush.colour, 0.85))
    brush.oval(0, 0.72, 0.14, 0.035, shade(brush.colour, 1.3))
    brush.line([(0, 0.72), (0, 0.8)], 0.03, _INK)
    brush.blob([(0, 0.77), (0.06, 0.84), (0, 1.0), (-0.06, 0.84)], (255, 190, 70))
    brush.oval(0, 0.83, 0.025, 0.045, (255, 240, 190))
    brush.glow(0, 0.86, 1.1)


def _chair(brush: _Brush) -> None:
    colour, dark = brush.colour, shade(brush.colour, 0.74)
    for u, v in ((-0.17, 0.06), (0.29, 0.06), (-0.28, 0.0), (0.2, 0.0)):
        brush.line([(u, v), (u, 0.46)], 0.045, dark)
    brush.polygon([(-0.31, 0.44), (0.23, 0.44), (0.32, 0.54), (-0.2, 0.54)], colour)
    brush.polygon([(-0.31, 0.44), (0.23, 0.44), (0.23, 0.39), (-0.31, 0.39)], dark)
    for u in (-0.18, 0.3):
        brush.line([(u, 0.5), (u, 0.98)], 0.045, dark)
    if brush.look < 0.5:
        brush.box(-0.2, 0.66, 0.32, 0.98, colour)
    else:
        for v in (0.66, 0.8, 0.93):
            brush.box(-0.18, v - 0.04, 0.3, v + 0.04, colour)


def _dog(brush: _Brush) -> None:
    coat, dark = brush.colour, shade(brush.colour, 0.8)
    brush.limb((-0.5, 0.56), (-0.74, 0.86), 0.05, 0.035, coat)
    for u, tone in ((-0.36, dark), (0.3, dark), (-0.44, coat), (0.22, coat)):
        brush.limb((u, 0.42), (u, 0.05), 0.085, 0.06, tone)
        brush.oval(u + 0.03, 0.035, 0.085, 0.04, tone)
    brush.limb((-0.4, 0.5), (0.26, 0.54), 0.17, 0.18, coat)
    brush.limb((0.28, 0.56), (0.46, 0.8), 0.13, 0.12, coat)
    brush.limb((0.48, 0.82), (0.7, 0.75), 0.145, 0.075, coat)
    brush.oval(0.76, 0.77, 0.045, 0.04, _INK if sum(coat) > 200 else (150, 140, 140))
    brush.oval(0.55, 0.86, 0.03, 0.03, _INK if sum(coat) > 200 else (240, 236, 230))
    if brush.look < 0.5:
        brush.limb((0.38, 0.9), (0.33, 0.68), 0.055, 0.075, dark)
    else:
        brush.polygon([(0.34, 0.88), (0.36, 1.08), (0.5, 0.94)], dark)
    brush.line([(0.27, 0.7), (0.45, 0.62)], 0.05, (206, 60, 56) if brush.look < 0.7 else (60, 110, 200))


def _cat(brush: _Brush) -> None:
    coat, dark = brush.colour, shade(brush.colour, 0.8)
    brush.line([(0.28, 0.06), (0.52, 0.12), (0.58, 0.34), (0.5, 0.46)], 0.09, dark)
    brush.blob([(-0.16, 0.6), (-0.3, 0.2), (-0.28, 0.02), (0.3, 0.02), (0.34, 0.22), (0.16, 0.6)], coat)
    for u in (-0.12, 0.06):
        brush.limb((u, 0.34), (u, 0.06), 0.075, 0.065, shade(coat, 1.12))
    for side in (-1, 1):
        brush.polygon([(side * 0.25, 0.76), (side * 0.23, 1.04), (side * 0.03, 0.9)], dark)
    brush.oval(0, 0.74, 0.27, 0.22, coat)
    light = sum(coat) > 200
    for side in (-1, 1):
        brush.oval(side * 0.11, 0.78, 0.05, 0.055, (226, 206, 90) if brush.look < 0.5 else (130, 200, 120))
        brush.oval(side * 0.11, 0.78, 0.02, 0.05, _INK)
        for v in (0.66, 0.7):
            brush.line([(side * 0.08, 0.68), (side * 0.36, v)], 0.014, _INK if light else (220, 216, 210))
    brush.polygon([(-0.04, 0.71), (0.04, 0.71), (0, 0.66)], (228, 130, 130))


def _car(brush: _Brush) -> None:
    colour, dark = brush.colour, shade(brush.colour, 0.78)
    roof = 0.1 * brush.look
    brush.polygon([(-0.72, 0.58), (-0.46 - roof, 1.0), (0.34 + roof, 1.0), (0.66, 0.58)], colour)
    for points in ([(-0.58, 0.6), (-0.38 - roof, 0.91), (-0.06, 0.91), (-0.06, 0.6)],
                   [(0.02, 0.6), (0.02, 0.91), (0.28 + roof, 0.91), (0.5, 0.6)]):  # fmt: skip
        brush.polygon(points, _GLASS)
    brush.blob([(-1.02, 0.2), (-1.04, 0.5), (-0.7, 0.62), (0, 0.63), (0.6, 0.62), (1.0, 0.5), (1.04, 0.2), (0, 0.16)],
               colour)  # fmt: skip
    brush.box(-1.0, 0.17, 1.0, 0.27, dark)
    brush.line([(-0.02, 0.3), (-0.02, 0.6)], 0.02, dark)
    brush.oval(0.98, 0.42, 0.06, 0.07, (255, 236, 170))
    brush.oval(-1.0, 0.42, 0.04, 0.07, (200, 60, 56))
    for u in (-0.58, 0.58):
        brush.oval(u, 0.19, 0.23, 0.22, _INK)
        brush.oval(u, 0.19, 0.11, 0.1, (190, 194, 200))
    brush.glow(1.1, 0.42, 0.5)


def _bus(brush: _Brush) -> None:
    colour = brush.colour
    brush.blob([(-1.0, 0.2), (-1.02, 0.6), (-0.96, 1.0), (0, 1.02), (0.9, 1.0), (1.0, 0.6), (1.02, 0.2), (0, 0.14)],
               colour)  # fmt: skip
    brush.box(-1.0, 0.12, 1.0, 0.2, shade(colour, 0.72))
    brush.box(-0.98, 0.38, 1.0, 0.46, contrast(colour))
    for u in (-0.78, -0.44, -0.1, 0.24):
        brush.box(u - 0.13, 0.56, u + 0.13, 0.86, _GLASS)
    brush.box(0.48, 0.2, 0.7, 0.86, shade(colour, 0.8))
    brush.box(0.51, 0.26, 0.67, 0.82, _GLASS)
    brush.box(0.8, 0.54, 0.98, 0.88, _GLASS)
    for u in (-0.6, 0.3):
        brush.oval(u, 0.13, 0.16, 0.15, _INK)
        brush.oval(u, 0.13, 0.07, 0.07, (190, 194, 200))


def _bicycle(brush: _Brush) -> None:
    for u in (-0.55, 0.55):
        brush.ring(u, 0.34, 0.34, 0.05, _INK)
        for angle in np.linspace(0, pi, 4, endpoint=False).tolist():
            reach = (0.3 * cos(angle), 0.3 * sin(angle))
            brush.line([(u - reach[0], 0.34 - reach[1]), (u + reach[0], 0.34 + reach[1])], 0.012, (170, 172, 178))
    saddle, crank, steer = (-0.24, 0.8), (-0.06, 0.34), (0.36, 0.82)
    for points in ([(-0.55, 0.34), saddle, crank, (-0.55, 0.34)], [crank, steer, saddle], [steer, (0.55, 0.34)]):
        brush.line(points, 0.065, brush.colour)
    brush.line([steer, (0.32, 0.96), (0.5, 1.0)], 0.05, _INK)
    brush.line([(-0.24, 0.8), (-0.26, 0.88)], 0.04, _INK)
    brush.oval(-0.27, 0.9, 0.13, 0.04, _INK)


def _tree(brush: _Brush) -> None:
    leaves = brush.colour
    brush.polygon([(-0.045, 0.0), (0.045, 0.0), (0.03, 0.5), (-0.03, 0.5)], (112, 78, 54))
    if brush.look < 0.45:  # a fir
        for number, v in enumerate((0.16, 0.38, 0.6)):
            wide = 0.3 - 0.07 * number
            brush.polygon([(-wide, v), (wide, v), (0, v + 0.4)], shade(leaves, 0.9 + 0.08 * number))
        return
    for u, v, radius, tone in ((-0.17, 0.58, 0.19, 0.82), (0.17, 0.56, 0.19, 0.86), (0, 0.68, 0.25, 1.0),
                               (-0.08, 0.8, 0.19, 1.06), (0.1, 0.78, 0.17, 1.0)):  # fmt: skip
        brush.oval(u, v, radius, 0.95 * radius, shade(leaves, tone))
    for u, v in ((-0.1, 0.86), (0.03, 0.7), (0.16, 0.6), (-0.19, 0.62)):
        brush.oval(u, v, 0.05, 0.035, shade(leaves, 1.2))


def _house(brush: _Brush) -> None:
    wall = brush.colour
    brush.box(-0.55, 0.0, 0.55, 0.6, wall)
    brush.box(0.3, 0.0, 0.55, 0.6, shade(wall, 0.92))
    brush.box(0.24, 0.74, 0.38, 1.02, (150, 92, 80))
    roof = (168, 78, 62) if brush.look < 0.5 else (92, 88, 104)
    if sum(abs(a - b) for a, b in zip(roof, wall, strict=True)) < 130:
        roof = (92, 88, 104) if brush.look < 0.5 else (168, 78, 62)
    brush.polygon([(-0.66, 0.58), (0.66, 0.58), (0.4, 0.96), (-0.4, 0.96)], roof)
    brush.polygon([(-0.66, 0.58), (0.66, 0.58), (0.64, 0.62), (-0.64, 0.62)], shade(roof, 0.8))
    brush.box(-0.1, 0.0, 0.1, 0.36, (104, 72, 52))
    brush.oval(0.065, 0.18, 0.016, 0.016, _WARM)
    for u in (-0.34, 0.34):
        brush.box(u - 0.12, 0.2, u + 0.12, 0.46, (246, 244, 238))
        brush.box(u - 0.095, 0.225, u + 0.095, 0.435, _GLASS)
        brush.line([(u, 0.22), (u, 0.44)], 0.02, (246, 244, 238))
        brush.glow(u, 0.33, 0.2)


def _umbrella(brush: _Brush) -> None:
    colour, other = brush.colour, contrast(brush.colour)
    brush.line([(0, 0.0), (0, 0.98)], 0.03, (212, 206, 196))
    arc = [(0.52 * cos(a), 0.64 + 0.34 * sin(a)) for a in np.linspace(pi, 0, 25).tolist()]
    brush.polygon(arc, colour)
    if brush.look < 0.6:
        for start in (4, 16):
            brush.polygon([(0, 0.98), *arc[start : start + 5]], other)
    for u in np.linspace(-0.433, 0.433, 6).tolist():
        brush.oval(u, 0.66, 0.087, 0.035, shade(colour, 0.84))
    brush.oval(0, 0.99, 0.02, 0.02, other)


def _boat(brush: _Brush) -> None:
    brush.line([(0.02, 0.2), (0.02, 1.0)], 0.03, (128, 96, 66))
    brush.polygon([(0.06, 0.28), (0.06, 0.98), (0.5, 0.3)], (250, 248, 240))
    brush.polygon([(-0.02, 0.32), (-0.02, 0.88), (-0.36, 0.34)], (236, 232, 222))
    brush.polygon([(-0.62, 0.24), (0.66, 0.24), (0.46, 0.0), (-0.46, 0.0)], brush.colour)
    brush.polygon([(-0.62, 0.24), (0.66, 0.24), (0.63, 0.19), (-0.59, 0.19)], contrast(brush.colour))
    brush.line([(-0.6, -0.01), (-0.2, 0.015), (0.2, -0.01), (0.6, 0.015)], 0.03, (232, 244, 250))


def _tent(brush: _Brush) -> None:
    colour = brush.colour
    brush.polygon([(-0.12, 1.0), (0.5, 0.92), (0.95, 0.06), (0.3, 0.0)], shade(colour, 0.78))
    brush.polygon([(-0.75, 0.0), (0.45, 0.0), (-0.12, 1.0)], colour)
    brush.polygon([(-0.36, 0.0), (0.08, 0.0), (-0.12, 0.66)], (70, 60, 62))
    brush.polygon([(-0.36, 0.0), (-0.2, 0.0), (-0.12, 0.66)], shade(colour, 1.25))
    for u, v in ((-0.95, 0.0), (1.12, 0.04)):
        brush.line([(-0.12 if u < 0 else 0.5, 0.95), (u, v)], 0.014, (230, 226, 214))
    brush.glow(-0.1, 0.25, 0.35)


def _balloon(brush: _Brush) -> None:
    colour = brush.colour
    brush.line([(0, 0.52), (0.03, 0.36), (-0.03, 0.2), (0.01, 0.0)], 0.014, (120, 120, 126))
    brush.polygon([(-0.04, 0.5), (0.04, 0.5), (0, 0.57)], shade(colour, 0.8))
    brush.blob([(0, 0.54), (-0.2, 0.7), (-0.2, 0.9), (0, 1.0), (0.2, 0.9), (0.2, 0.7)], colour)
    brush.oval(-0.09, 0.86, 0.045, 0.065, shade(colour, 1.5))


def _suitcase(brush: _Brush) -> None:
    colour, dark = brush.colour, shade(brush.colour, 0.72)
    brush.line([(-0.16, 0.78), (-0.16, 0.96), (0.16, 0.96), (0.16, 0.78)], 0.06, _INK)
    brush.box(-0.6, 0.04, 0.6, 0.8, colour)
    brush.box(-0.6, 0.04, 0.6, 0.12, dark)
    for u in (-0.36, 0.36):
        brush.box(u - 0.05, 0.04, u + 0.05, 0.8, dark)
        brush.box(u - 0.06, 0.6, u + 0.06, 0.68, _WARM)
    if brush.look < 0.5:
        brush.oval(0.05, 0.4, 0.14, 0.12, contrast(colour))


def _bench(brush: _Brush) -> None:
    colour = brush.colour
    for u in (-0.8, 0.8):
        brush.line([(u, 0.0), (u, 0.42), (u + 0.05, 1.0)], 0.08, (70, 70, 78))
    for v in (0.66, 0.86):
        brush.box(-0.98, v - 0.07, 1.04, v + 0.08, colour)
    brush.polygon([(-1.06, 0.4), (1.0, 0.4), (1.06, 0.52), (-0.98, 0.52)], colour)
    brush.box(-1.06, 0.33, 1.0, 0.4, shade(colour, 0.75))


@dataclass(frozen=True)
class _Thing:
    """How a kind is drawn: height in the picture, half its width as a share of that, how near it stands (0 to 1)."""

    draw: Callable[[_Brush], None]
    height: float
    half_width: float
    nearness: float
    casts_shadow: bool = True


_THINGS = {
    "ball": _Thing(_ball, 0.12, 0.5, 0.82),
    "cup": _Thing(_cup, 0.12, 0.6, 0.66),
    "book": _Thing(_book, 0.06, 1.3, 0.74),
    "lamp": _Thing(_lamp, 0.34, 0.34, 0.25),
    "vase": _Thing(_vase, 0.3, 0.28, 0.3),
    "apple": _Thing(_apple, 0.09, 0.55, 0.84),
    "candle": _Thing(_candle, 0.17, 0.35, 0.46),
    "chair": _Thing(_chair, 0.3, 0.33, 0.32),
    "dog": _Thing(_dog, 0.19, 0.8, 0.7),
    "cat": _Thing(_cat, 0.18, 0.5, 0.76),
    "car": _Thing(_car, 0.15, 1.05, 0.5),
    "bus": _Thing(_bus, 0.25, 1.02, 0.3),
    "bicycle": _Thing(_bicycle, 0.2, 0.9, 0.6),
    "tree": _Thing(_tree, 0.48, 0.36, 0.1),
    "house": _Thing(_house, 0.4, 0.66, 0.06),
    "umbrella": _Thing(_umbrella, 0.38, 0.52, 0.45),
    "boat": _Thing(_boat, 0.26, 0.66, -0.35, casts_shadow=False),
    "tent": _Thing(_tent, 0.22, 0.95, 0.36),
    "balloon": _Thing(_balloon, 0.42, 0.2, 0.52),
    "suitcase": _Thing(_suitcase, 0.17, 0.6, 0.66),
    "bench": _Thing(_bench, 0.14, 1.05, 0.4),
}


# Places. Each draws what lies behind the things and returns the height at which the ground begins.


def _table(pen: Pen, rng: np.random.Generator, light: str) -> float:
    wall = _pastel(rng)
    _band(pen, -0.1, 1.1, wall)
    _window(pen, float(rng.uniform(-0.34, 0.34)), 0.2, 0.17, light)
    wood = mix((196, 150, 104), (120, 78, 50), float(rng.uniform(0, 0.8)))
    edge = 0.58
    _band(pen, edge, 1.1, wood)
    _band(pen, edge, edge + 0.012, shade(wood, 1.25))
    for y in (0.66, 0.77, 0.9):
        _band(pen, y, y + 0.005, shade(wood, 0.88))
    return edge


def _room(pen: Pen, rng: np.random.Generator, light: str) -> float:
    wall = _pastel(rng)
    floor = mix((206, 166, 122), (140, 100, 72), float(rng.uniform(0, 0.9)))
    edge = 0.62
    _band(pen, -0.1, 1.1, wall)
    _window(pen, float(rng.uniform(-0.3, 0.3)), 0.24, 0.15, light)
    _band(pen, edge - 0.025, edge, shade(wall, 1.3))
    _band(pen, edge, 1.1, floor)
    for x in np.linspace(-1.6, 1.6, 17).tolist():
        pen.line([(0.55 * x, edge), (1.3 * x, 1.1)], 0.004, shade(floor, 0.88))
    pen.ellipse(0, 0.86, 0.44, 0.1, _pastel(rng))
    return edge


def _street(pen: Pen, rng: np.random.Generator, light: str) -> float:
    edge, x = 0.56, -_EDGE
    while x < _EDGE:
        wide, top = float(rng.uniform(0.16, 0.26)), float(rng.uniform(0.14, 0.34))
        wall = shade(_pastel(rng), 0.9)
        pen.polygon([(x, top), (x + wide, top), (x + wide, edge), (x, edge)], wall)
        for y in np.arange(top + 0.035, edge - 0.06, 0.075).tolist():
            for u in np.arange(x + 0.03, x + wide - 0.04, 0.055).tolist():
                is_lit = rng.random() < 0.4 and light == "night"
                pen.polygon([(u, y), (u + 0.03, y), (u + 0.03, y + 0.042), (u, y + 0.042)],
                            (255, 236, 150) if is_lit else shade(wall, 0.76))  # fmt: skip
        x += wide + 0.004
    _band(pen, edge, edge + 0.06, _snowed((196, 192, 186), light))
    road = _snowed((118, 120, 128), light, 0.5)
    _band(pen, edge + 0.06, 1.1, road)
    for x in np.arange(-_EDGE, _EDGE, 0.24).tolist():
        pen.polygon([(x, 0.8), (x + 0.12, 0.8), (x + 0.115, 0.82), (x - 0.008, 0.82)], (236, 234, 226))
    return edge + 0.05


def _beach(pen: Pen, rng: np.random.Generator, light: str) -> float:
    sea = (226, 150, 110) if light == "sunset" else (78, 156, 190)
    _band(pen, 0.44, 1.1, shade(sea, 0.9))
    _band(pen, 0.5, 1.1, sea)
    for y in (0.47, 0.53, 0.56):
        for x in (rng.uniform(-_EDGE, _EDGE, 5)).tolist():
            pen.line([(x, y), (x + 0.05, y - 0.005), (x + 0.1, y)], 0.005, shade(sea, 1.35))
    sand = _snowed(mix((238, 212, 160), (226, 190, 140), float(rng.random())), light)
    shore = [(-_EDGE, 0.63), (-0.3, 0.6 + 0.03 * float(rng.random())), (0.1, 0.64), (0.5, 0.61), (_EDGE, 0.63)]
    pen.polygon([*[(x, y - 0.014) for x, y in shore], (_EDGE, 1.1), (-_EDGE, 1.1)], (240, 248, 250))
    pen.polygon([*shore, (_EDGE, 1.1), (-_EDGE, 1.1)], sand)
    for _ in range(14):
        pen.ellipse(*_somewhere(rng, 0.68, 1.0), 0.006, 0.003, shade(sand, 0.86))
    return 0.64


def _field(pen: Pen, rng: np.random.Generator, light: str) -> float:
    green = _snowed(mix((128, 178, 92), (170, 182, 84), float(rng.random())), light)
    for y, tone in ((0.42, 0.84), (0.48, 0.92)):
        hills = [(x, y + 0.05 * float(rng.uniform(-1, 1))) for x in np.linspace(-_EDGE, _EDGE, 7).tolist()]
        pen.polygon([*hills, (_EDGE, 1.1), (-_EDGE, 1.1)], mix(shade(green, tone), (150, 176, 200), 0.3))
    _band(pen, 0.56, 1.1, green)
    for _ in range(26):
        x, y = _somewhere(rng, 0.6, 1.0)
        flower = ((250, 246, 236), (246, 206, 70), (232, 120, 140))[int(rng.integers(3))]
        pen.line([(x, y), (x + 0.004, y - 0.02)], 0.004, shade(green, 0.8))
        if light != "snow":
            pen.ellipse(x + 0.004, y - 0.022, 0.006, 0.006, flower)
    return 0.56


def _garden(pen: Pen, rng: np.random.Generator, light: str) -> float:
    hedge = _snowed(mix((78, 128, 74), (104, 140, 70), float(rng.random())), light, 0.5)
    for x in np.arange(-_EDGE, _EDGE, 0.1).tolist():
        pen.ellipse(x + 0.03 * float(rng.random()), 0.45, 0.085, 0.1, shade(hedge, float(rng.uniform(0.88, 1.08))))
    fence = mix((244, 240, 230), (170, 122, 84), float(rng.random()))
    for x in np.arange(-_EDGE, _EDGE, 0.062).tolist():
        pen.polygon([(x, 0.6), (x, 0.43), (x + 0.02, 0.4), (x + 0.04, 0.43), (x + 0.04, 0.6)], fence)
    for y in (0.46, 0.54):
        _band(pen, y, y + 0.018, shade(fence, 0.88))
    lawn = _snowed((116, 176, 92), light)
    _band(pen, 0.59, 1.1, lawn)
    for number in range(5):
        _band(pen, 0.62 + 0.08 * number, 0.65 + 0.09 * number, shade(lawn, 0.94))
    return 0.6


_PLACES = {"table": _table, "room": _room, "street": _street, "beach": _beach, "field": _field, "garden": _garden}


def _arrange(
    scene: Mapping[str, Any], pen: Pen, image_size: tuple[int, int], edge: float, seed: int, rng: np.random.Generator
) -> list[tuple[_Brush, _Thing]]:
    """A brush for every single thing, at its place, and how to draw it; the farthest first."""
    placed = []
    for spot, entry in zip(_SPOTS, scene["things"], strict=True):
        jitter = 0.016 * rng.uniform(-1, 1, 2)
        if entry is None:
            continue
        thing = _THINGS[entry["kind"]]
        own = np.random.default_rng([seed, zlib.crc32(entry["kind"].encode())])
        look, where = float(own.random()), own.uniform(-1, 1, 2)
        number = entry["number"]
        height = thing.height * _SIZES[entry["size"]] * _ZOOM.get(scene["place"], 1.0) * _CROWD[number - 1]
        ground = edge + (1 - edge) * (thing.nearness + 0.05 * float(where[1])) + 0.5 * float(jitter[1])
        step = (1.1 if thing.half_width > 0.9 else 1.9) * thing.half_width * height
        room = image_size[1] / image_size[0] / 2 - thing.half_width * height - (number - 1) / 2 * step
        middle = spot + 0.03 * float(where[0]) + float(jitter[0])
        middle = max(-room, min(room, middle)) if room > 0 else 0.0
        for copy in range(number):
            x = middle + (copy - (number - 1) / 2) * step
            # Wide things overlap: each of them stands a little nearer than the one before.
            nearer = ground + copy * (0.42 * height if thing.half_width > 0.9 else 0.03 * height)
            placed.append((_Brush(pen, x, nearer, height, COLOURS[entry["colour"]], look), thing))
    return sorted(placed, key=lambda pair: pair[0].ground)


def _lay_over(canvas: Image.Image, drawn: np.ndarray) -> Image.Image:
    """Lay a drawing (height, width, 4), colours multiplied by the coverage, over a picture."""
    coverage = drawn[:, :, 3:].astype(np.float32) / 255
    return Image.fromarray((drawn[:, :, :3] + np.asarray(canvas) * (1 - coverage)).clip(0, 255).astype(np.uint8))


def _sky(image_size: tuple[int, int], light: str, rng: np.random.Generator) -> Image.Image:
    height, width = image_size
    top, low = (np.array(colour, dtype=np.float32) for colour in _SKIES[light])
    share = np.clip(np.linspace(0, 1.9, height, dtype=np.float32), 0, 1)[:, None, None]
    sky = Image.fromarray(np.broadcast_to(top + share * (low - top), (height, width, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(sky)

    def disc(x: float, y: float, radius: float, colour: RGB) -> None:
        draw.ellipse([height * side for side in (x - radius, y - radius, x + radius, y + radius)], fill=colour)

    moon = (float(rng.uniform(0.1, 0.9)), float(rng.uniform(0.08, 0.2)))
    stars = rng.random((24, 2)).tolist()
    if light == "night":
        for x, y in stars:
            disc(x, 0.4 * y, 0.003, (214, 220, 236))
        disc(*moon, 0.05, (255, 252, 232))
    elif light == "sunset":
        disc(moon[0], 0.4, 0.07, (255, 226, 150))
    return sky


def _with_shadows(canvas: Image.Image, shadows: list[tuple[float, float, float]]) -> Image.Image:
    width, height = canvas.size
    mask = Image.new("L", canvas.size)
    draw = ImageDraw.Draw(mask)
    for x, y, half_width in shadows:
        px, py, rx = width / 2 + x * height, y * height, half_width * height
        draw.ellipse((px - rx, py - 0.16 * rx - 1, px + 1.25 * rx, py + 0.16 * rx + 1), fill=105)
    canvas.paste((40, 36, 52), mask=mask.filter(ImageFilter.BoxBlur(height / 90)))
    return canvas


def _light_up(
    canvas: Image.Image, place: str, light: str, glows: list[tuple[float, float, float]], rng: np.random.Generator
) -> Image.Image:
    """Put all into one light, with lamps lit after dark, the weather in front of it, and a little grain."""
    width, height = canvas.size
    indoors = place in INDOORS
    tint = (_INDOOR_TINTS if indoors else _TINTS).get(light, (1.0, 1.0, 1.0))
    pixels = np.asarray(canvas, dtype=np.float32)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / height
    x -= width / height / 2
    lit = np.ones((height, width, 1), dtype=np.float32) * np.float32(tint)
    if light in ("night", "sunset"):
        for gx, gy, radius in glows:
            halo = np.exp(-((x - gx) ** 2 + (y - gy) ** 2) / (2 * (0.5 * radius) ** 2))[:, :, None]
            lit += (0.75 if light == "night" else 0.25) * halo * np.array((1.0, 0.86, 0.5), dtype=np.float32)
    pixels = pixels * lit * np.float32(rng.uniform(0.96, 1.05))
    if light == "fog":
        veil = np.clip(0.68 - 0.45 * y, 0, 1)[:, :, None]
        pixels += veil * (np.array((216, 220, 224), dtype=np.float32) - pixels)
    pixels += np.float32(rng.uniform(0.5, 4)) * (2 * rng.random((height, width, 1), dtype=np.float32) - 1)
    canvas = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if not indoors and light in ("rain", "snow"):
        _draw_weather(canvas, light, rng)
    return canvas


def _draw_weather(canvas: Image.Image, light: str, rng: np.random.Generator) -> None:
    width, height = canvas.size
    mask = Image.new("L", (2 * width, 2 * height))
    draw = ImageDraw.Draw(mask)
    for x, y, size in rng.random((110, 3)).tolist():
        px, py = 2 * width * x, 2 * height * y
        if light == "snow":
            r = height * (0.008 + 0.012 * size)
            draw.ellipse((px - r, py - r, px + r, py + r), fill=235)
        else:
            draw.line((px, py, px - 0.03 * height, py + (0.1 + 0.1 * size) * height), fill=110, width=height // 80 or 1)
    canvas.paste((246, 249, 255), mask=mask.reduce(2))


def _window(pen: Pen, x: float, y: float, half: float, light: str) -> None:
    """A window with the sky in it."""
    for reach, colour in ((half + 0.018, (248, 246, 240)), (half, _SKIES[light][1])):
        pen.polygon([(x - reach, y - reach), (x + reach, y - reach), (x + reach, y + reach), (x - reach, y + reach)],
                    colour)  # fmt: skip
    if light == "night":
        pen.ellipse(x + 0.4 * half, y - 0.4 * half, 0.25 * half, 0.25 * half, (255, 250, 226))
    elif light == "day":
        for u in (-0.4, 0.0, 0.35):
            pen.ellipse(x + u * half, y + 0.3 * half, 0.3 * half, 0.16 * half, (250, 252, 255))
    pen.line([(x, y - half), (x, y + half)], 0.014, (248, 246, 240))
    pen.line([(x - half, y), (x + half, y)], 0.014, (248, 246, 240))


def _band(pen: Pen, top: float, bottom: float, colour: RGB) -> None:
    pen.polygon([(-_EDGE, top), (_EDGE, top), (_EDGE, bottom), (-_EDGE, bottom)], colour)


def _snowed(colour: RGB, light: str, share: float = 0.85) -> RGB:
    return mix(colour, (244, 247, 252), share) if light == "snow" else colour


def _pastel(rng: np.random.Generator) -> RGB:
    return mix(
        tuple(COLOURS.values())[int(rng.integers(len(COLOURS) - 1))], (244, 238, 228), float(rng.uniform(0.62, 0.85))
    )


def _somewhere(rng: np.random.Generator, top: float, bottom: float) -> Point:
    return float(rng.uniform(-0.6, 0.6)), float(rng.uniform(top, bottom))
