"""Paints the places people of the small world stand in: soft, pale, and slightly out of focus."""

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .pen import shade
from .people import RGB, Scene

_DETAIL = 96  # places are drawn 96 pixels high and enlarged: out of focus for free


def paint_place(scene: Scene, ground: float, image_size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """The scene without the person, as an RGB image; the shadow at height `ground` is there already."""
    canvas = _draw_place(scene.place, image_size, rng)
    _draw_shadow(canvas, scene, ground)
    return _out_of_focus(canvas, image_size, rng)


def paint_empty_place(place: str, image_size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A place where nobody is, as an RGB image."""
    return _out_of_focus(_draw_place(place, image_size, rng), image_size, rng)


def _draw_place(place: str, image_size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    height, width = image_size
    canvas = Image.new("RGB", (max(2, round(_DETAIL * width / height)), _DETAIL))
    _PAINTERS[place](ImageDraw.Draw(canvas), canvas.width, rng)
    return canvas


def _out_of_focus(canvas: Image.Image, image_size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    canvas = canvas.filter(ImageFilter.BoxBlur(float(rng.uniform(0.4, 1.0))))
    return canvas.resize(image_size[::-1], Image.Resampling.BILINEAR)


def _draw_shadow(canvas: Image.Image, scene: Scene, ground: float) -> None:
    """A soft shadow under the feet that falls away from the light."""
    mask = Image.new("L", canvas.size)
    x, y = canvas.width / 2 + scene.shift * _DETAIL, ground * _DETAIL
    reach = -9 * scene.light_side
    draw = ImageDraw.Draw(mask)
    draw.ellipse((x - 14 + min(0, 2 * reach), y - 3, x + 14 + max(0, 2 * reach), y + 3), fill=70)
    draw.ellipse((x - 11, y - 2, x + 11, y + 2), fill=120)
    canvas.paste((38, 34, 48), mask=mask.filter(ImageFilter.BoxBlur(1.5)))


def _pale(rng: np.random.Generator, hues: tuple[float, float], lightness: tuple[float, float], strength=0.22) -> RGB:
    """A colour of little saturation; hue and lightness between 0 and 1."""
    colour = colorsys.hls_to_rgb(rng.uniform(*hues) % 1, rng.uniform(*lightness), strength * rng.uniform(0.5, 1.0))
    return tuple(int(255 * c) for c in colour)


def _gradient(draw: ImageDraw.ImageDraw, width: int, top: int, bottom: int, start: RGB, end: RGB) -> None:
    for y in range(top, bottom, 3):
        share = (y - top) / max(1, bottom - top)
        colour = tuple(int(a + share * (b - a)) for a, b in zip(start, end, strict=True))
        draw.rectangle((0, y, width, min(y + 2, bottom - 1)), fill=colour)


def _street(draw: ImageDraw.ImageDraw, width: int, rng: np.random.Generator) -> None:
    horizon = int(rng.integers(58, 72))
    sky = _pale(rng, (0.5, 0.65), (0.78, 0.9), 0.4)
    _gradient(draw, width, 0, horizon, sky, shade(sky, 1.08))
    x = -int(rng.integers(0, 8))
    while x < width:
        wide, top = int(rng.integers(12, 26)), int(rng.integers(4, 40))
        wall = _pale(rng, (0.0, 0.16), (0.62, 0.82))
        draw.rectangle((x, top, x + wide, horizon), fill=wall)
        glass = shade(wall, float(rng.uniform(0.72, 0.9)))
        for row in range(top + 4, horizon - 6, 9):
            for column in range(x + 3, x + wide - 3, 7):
                draw.rectangle((column, row, column + 3, row + 5), fill=glass)
        x += wide + 1
    pavement = _pale(rng, (0.05, 0.7), (0.62, 0.76), 0.08)
    _gradient(draw, width, horizon, _DETAIL, shade(pavement, 0.92), pavement)
    draw.line((0, horizon, width, horizon), fill=shade(pavement, 0.8))


def _park(draw: ImageDraw.ImageDraw, width: int, rng: np.random.Generator) -> None:
    horizon = int(rng.integers(54, 68))
    sky = _pale(rng, (0.5, 0.62), (0.8, 0.92), 0.4)
    _gradient(draw, width, 0, horizon, sky, shade(sky, 1.06))
    for _ in range(int(rng.integers(4, 8))):
        x, y, r = int(rng.integers(-6, width + 6)), int(rng.integers(14, horizon - 4)), int(rng.integers(7, 17))
        leaves = _pale(rng, (0.2, 0.36), (0.5, 0.72), 0.3)
        draw.rectangle((x - 1, y, x + 1, horizon), fill=_pale(rng, (0.06, 0.1), (0.45, 0.55)))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=leaves)
        draw.ellipse((x - r // 2, y - r, x + r, y + r // 2), fill=shade(leaves, 1.06))
    grass = _pale(rng, (0.22, 0.34), (0.58, 0.74), 0.3)
    _gradient(draw, width, horizon, _DETAIL, grass, shade(grass, 0.9))
    path = _pale(rng, (0.08, 0.13), (0.72, 0.82))
    middle = int(rng.integers(14, width - 14))
    draw.polygon(
        [(middle - 2, horizon), (middle + 2, horizon), (middle + 26, _DETAIL), (middle - 26, _DETAIL)], fill=path
    )


def _room(draw: ImageDraw.ImageDraw, width: int, rng: np.random.Generator) -> None:
    floor = int(rng.integers(64, 75))
    wall = _pale(rng, (0.0, 1.0), (0.74, 0.9), 0.3)
    _gradient(draw, width, 0, floor, wall, shade(wall, 0.93))
    x, y = int(rng.integers(0, width - 12)), int(rng.integers(4, 24))
    wide, high = int(rng.integers(10, 20)), int(rng.integers(12, 24))
    draw.rectangle((x, y, x + wide, y + high), fill=shade(wall, 0.75))
    draw.rectangle((x + 1, y + 1, x + wide - 1, y + high - 1), fill=_pale(rng, (0.0, 1.0), (0.75, 0.92), 0.35))
    boards = _pale(rng, (0.05, 0.11), (0.5, 0.72), 0.3)
    _gradient(draw, width, floor, _DETAIL, boards, shade(boards, 0.88))
    draw.rectangle((0, floor - 2, width, floor), fill=shade(wall, 1.12))
    if rng.random() < 0.6:  # a plant
        x = int(rng.uniform(2, 9)) if rng.random() < 0.5 else width - int(rng.uniform(2, 9))
        for _ in range(5):
            a, b = x + int(rng.integers(-6, 7)), floor - int(rng.integers(10, 24))
            draw.ellipse((a - 4, b - 5, a + 4, b + 5), fill=_pale(rng, (0.25, 0.4), (0.42, 0.6), 0.3))
        draw.rectangle((x - 4, floor - 8, x + 4, floor + 3), fill=_pale(rng, (0.02, 0.08), (0.5, 0.65), 0.35))


def _shop(draw: ImageDraw.ImageDraw, width: int, rng: np.random.Generator) -> None:
    floor = int(rng.integers(66, 75))
    wall = _pale(rng, (0.05, 0.18), (0.72, 0.86))
    draw.rectangle((0, 0, width, floor), fill=wall)
    for y in range(int(rng.integers(8, 16)), floor - 4, 15):
        x = 0
        while x < width:
            wide, high = int(rng.integers(3, 8)), int(rng.integers(5, 12))
            draw.rectangle((x, y - high, x + wide, y), fill=_pale(rng, (0.0, 1.0), (0.6, 0.85), 0.4))
            x += wide + int(rng.integers(1, 4))
        draw.rectangle((0, y, width, y + 1), fill=shade(wall, 0.7))
    tiles = _pale(rng, (0.0, 1.0), (0.74, 0.86), 0.1)
    _gradient(draw, width, floor, _DETAIL, shade(tiles, 0.9), tiles)


def _square(draw: ImageDraw.ImageDraw, width: int, rng: np.random.Generator) -> None:
    horizon = int(rng.integers(58, 74))
    sky = _pale(rng, (0.55, 0.75), (0.5, 0.75), 0.3)
    _gradient(draw, width, 0, horizon, sky, _pale(rng, (0.02, 0.12), (0.72, 0.86), 0.4))
    for _ in range(int(rng.integers(8, 16))):  # lights out of focus
        x, y, r = int(rng.integers(0, width)), int(rng.integers(0, horizon)), int(rng.integers(2, 6))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=_pale(rng, (0.05, 0.2), (0.72, 0.92), 0.5))
    paving = _pale(rng, (0.0, 1.0), (0.5, 0.68), 0.12)
    _gradient(draw, width, horizon, _DETAIL, shade(paving, 0.88), paving)


_PAINTERS = {"street": _street, "park": _park, "room": _room, "shop": _shop, "square": _square}
