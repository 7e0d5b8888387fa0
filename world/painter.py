"""Paints one person of the small world: a flat illustration in soft light.

The figure is posed (`posing`), drawn piece by piece from the back to the front (`_draw_figure`), laid over the place
behind it, and lit (`_develop`). All lengths are fractions of the image's height, see `pen`.
"""

from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from .heads import INK, draw_hair, draw_hair_behind, draw_hat, draw_head, draw_head_from_behind
from .pen import Pen, Print, between, contrast, shade
from .people import COLOURS, RGB, SKIN_TONES, Garment, Identity, Outfit, Scene
from .places import paint_place
from .posing import Build, Figure, Limb, pose_figure

_OFF_WHITE = (242, 239, 232)
_BARE_ARM = {"t-shirt": 1.0, "dress": 0.8}  # share of the upper arm that the sleeve covers; others reach the wrist
_BULK = {"coat": 1.22, "jacket": 1.18, "hoodie": 1.2, "sweater": 1.12}  # of sleeves; others 1
_HEMS = {"t-shirt": 0.07, "shirt": 0.09, "sweater": 0.07, "hoodie": 0.08, "jacket": 0.06, "coat": 0.46}  # share of leg
_LEG_WIDTHS = {"jeans": 1.12, "trousers": 1.36, "leggings": 0.94}


def paint_person(
    identity: Identity, outfit: Outfit, scene: Scene, image_size: tuple[int, int] = (192, 96)
) -> Image.Image:
    """Paints a person.

    Args:
        scene: How the image is taken; its `seed` decides all remaining details.
        image_size: Height and width in pixels; the figure needs about half its height in width.

    Returns:
        An RGB image; the same arguments give the same pixels.
    """
    scene, rng = _with_a_free_hand(outfit, scene), np.random.default_rng(scene.seed)
    figure = pose_figure(identity, scene)
    person = _draw_figure(figure, identity, outfit, scene, image_size)
    background = paint_place(scene, figure.ground, image_size, rng)
    return _develop(person, background, scene, rng)


def paint_over(
    identity: Identity, outfit: Outfit, scene: Scene, background: Image.Image
) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Paints a person over an image, whatever the scene's place is.

    Returns:
        the image, and the box (left, top, right, bottom) of what was painted.
    """
    scene, rng = _with_a_free_hand(outfit, scene), np.random.default_rng(scene.seed)
    person = _draw_figure(pose_figure(identity, scene), identity, outfit, scene, background.size[::-1])
    return _develop(person, background, scene, rng), Image.fromarray(person[:, :, 3]).getbbox()


def _with_a_free_hand(outfit: Outfit, scene: Scene) -> Scene:
    """A handbag hangs from a hanging arm."""
    return replace(scene, arms=("swing", "swing")) if outfit.bag and outfit.bag.kind == "handbag" else scene


def _develop(person: np.ndarray, background: Image.Image, scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Lays the person (height, width, 4) over the background and puts both into one light."""
    height, width = person.shape[:2]
    *colours, coverage = np.moveaxis(person, 2, 0).astype(np.float32, order="C")
    coverage /= 255

    # A blurred silhouette falls off towards its edges: a cheap stand-in for the roundness of a body.
    silhouette = Image.fromarray(person[:, :, 3]).filter(ImageFilter.BoxBlur(height / 48))
    roundness = np.asarray(silhouette, dtype=np.float32) / 255
    reach = max(1, height // 64)
    light = 0.1 * roundness - 0.1
    slope = roundness[:, : -2 * reach] - roundness[:, 2 * reach :]
    light[:, reach:-reach] += 0.42 * scene.light_side * slope
    light *= coverage
    light += 1 + 0.07 * scene.light_side * np.linspace(-1, 1, width, dtype=np.float32)
    light *= scene.brightness

    grain = np.float32(scene.noise) * (2 * rng.random((height, width), dtype=np.float32) - 1)
    tint = (1 + 0.05 * scene.warmth, 1.0, 1 - 0.07 * scene.warmth)
    bands = []
    for colour, behind, strength in zip(colours, background.split(), tint, strict=True):
        pixels = (colour + np.asarray(behind) * (1 - coverage)) * light * np.float32(strength) + grain
        bands.append(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)))
    image = Image.merge("RGB", bands)
    return image.filter(ImageFilter.BoxBlur(scene.blur)) if scene.blur else image


# The figure, from the back to the front


def _draw_figure(
    figure: Figure, identity: Identity, outfit: Outfit, scene: Scene, image_size: tuple[int, int]
) -> np.ndarray:
    """The person alone: (height, width, 4) uint8, colours times coverage, and the coverage."""
    pen = Pen(image_size, scene.shift)
    if scene.from_behind:
        for arm in figure.arms:
            _draw_arm(pen, figure, arm, identity, outfit.upper)
        _draw_legs(pen, figure, identity, outfit, scene.yaw)
        _draw_torso(pen, figure, identity, outfit.upper)
        _draw_back_details(pen, figure, outfit.upper)
        _draw_straps(pen, figure, outfit.bag)
        _draw_hand_or_hip_bag(pen, figure, outfit.bag)
        draw_head_from_behind(pen, figure.head, identity, outfit.hat)
        _draw_backpack(pen, figure, outfit.bag, scene.from_behind)
    else:
        draw_hair_behind(pen, figure.head, figure.turn, identity)
        _draw_backpack(pen, figure, outfit.bag, scene.from_behind)
        _draw_arm(pen, figure, figure.arms[0], identity, outfit.upper)
        _draw_legs(pen, figure, identity, outfit, scene.yaw)
        _draw_torso(pen, figure, identity, outfit.upper)
        _draw_front_details(pen, figure, identity, outfit.upper)
        _draw_straps(pen, figure, outfit.bag)
        _draw_arm(pen, figure, figure.arms[1], identity, outfit.upper)
        _draw_hand_or_hip_bag(pen, figure, outfit.bag)
        draw_head(pen, figure.head, figure.turn, identity)
        draw_hair(pen, figure.head, figure.turn, identity, outfit.hat)
    draw_hat(pen, figure.head, figure.turn, identity, outfit.hat, scene.from_behind)
    return pen.finish()


def _draw_arm(pen: Pen, figure: Figure, arm: Limb, identity: Identity, upper: Garment) -> None:
    is_far = arm is figure.arms[0]
    tone = 0.85 if is_far else 1.0
    skin, cloth = shade(SKIN_TONES[identity.skin], tone), shade(COLOURS[upper.colour], tone)
    thick, bulk, printed = figure.build.limb, _BULK.get(upper.kind, 1.0), _print_of(upper)
    shoulder, elbow, wrist = 0.0255 * thick, 0.020 * thick, 0.0155 * thick
    if not is_far:  # first a shadow on the body, from which the arm stands out
        inwards, dark = -0.006 * arm.side, shade(cloth, 0.7)
        root, bend = (arm.root[0] + inwards, arm.root[1] + 0.014), (arm.bend[0] + inwards, arm.bend[1])
        pen.capsule(root, bend, 0.85 * shoulder * bulk, elbow * bulk, dark)
    pen.ellipse(*arm.end, 0.019 * thick**0.5, 0.022 * thick**0.5, skin)
    pen.capsule(arm.bend, arm.end, elbow, wrist, skin)
    if upper.kind in _BARE_ARM:
        pen.capsule(arm.root, arm.bend, elbow, elbow, skin)
        cuff = between(arm.root, arm.bend, _BARE_ARM[upper.kind])
        pen.capsule(arm.root, cuff, shoulder, 1.22 * elbow, cloth, printed, flat_end=True)
        return
    cuff = between(arm.bend, arm.end, 0.84)
    pen.capsule(arm.bend, cuff, elbow * bulk, 1.16 * wrist * bulk, cloth, printed, flat_end=True)
    if upper.kind in ("sweater", "hoodie"):
        rim = between(arm.bend, arm.end, 0.74)
        pen.capsule(rim, cuff, 1.17 * wrist * bulk, 1.16 * wrist * bulk, shade(cloth, 0.78), flat_end=True)
    pen.capsule(arm.root, arm.bend, shoulder * bulk**0.5, elbow * bulk, cloth, printed)


def _draw_legs(pen: Pen, figure: Figure, identity: Identity, outfit: Outfit, yaw: float) -> None:
    """Legs, what covers them, and shoes."""
    kind, cloth, skin = outfit.lower.kind, COLOURS[outfit.lower.colour], SKIN_TONES[identity.skin]
    thick, wide = figure.build.limb, _LEG_WIDTHS.get(kind, 0.92)
    thigh, knee, ankle = 0.038 * thick, 0.0265 * thick * wide, 0.0195 * thick * wide
    bare = kind in ("shorts", "skirt")
    for leg, tone in zip(figure.legs, (0.84, 1.0), strict=True):
        colour = shade(skin if bare else cloth, tone)
        pen.capsule(leg.bend, (leg.end[0], leg.end[1] + 0.004), knee, ankle, colour, flat_end=True)
        pen.capsule(leg.root, leg.bend, thigh, knee, colour)
        if kind == "shorts":
            hem = between(leg.root, leg.bend, 0.86)
            pen.capsule(leg.root, hem, 1.02 * thigh, 1.12 * thigh, shade(cloth, tone), flat_end=True)
        elif kind == "jeans":
            pen.line([(leg.root[0], figure.hip + 0.03), leg.bend, leg.end], 0.004, shade(cloth, 0.78 * tone))
            pen.band(leg.end[1] - 0.002, 1.14 * ankle, 0.011, shade(cloth, 1.38 if tone == 1 else 1.2), leg.end[0])
        _draw_shoe(pen, leg, outfit.shoes, thick, tone, yaw)
    if kind == "skirt":
        flare = 1.25 if outfit.upper.kind == "coat" else 1.5  # coats press skirts together
        _draw_skirt(pen, figure, cloth, None, share=0.42, flare=flare)
    elif kind != "leggings":  # the seat; leggings have it under a dress
        half = [(0.9 * figure.build.waist, figure.waist), (1.06 * figure.build.hip, figure.hip - 0.012)]
        half += [(0.98 * figure.build.hip, figure.hip + 0.02), (0.12 * figure.build.hip, figure.hip + 0.036)]
        pen.mirrored(half, cloth)
        pen.line([(0, figure.hip), (0, figure.hip + 0.036)], 0.004, shade(cloth, 0.78))


def _draw_skirt(pen: Pen, figure: Figure, colour: RGB, printed: Print | None, share: float, flare: float) -> None:
    """A skirt from the waist over a share of the leg, at its hem `flare` times as wide as the hips."""
    hem = figure.hip + share * (figure.ground - figure.hip)
    width = max(figure.build.hip, figure.build.waist)
    half = [(0.95 * figure.build.waist, figure.waist), (1.1 * width, figure.hip - 0.01), (flare * width, hem)]
    pen.mirrored(half, colour, printed)
    for x in (-0.6, 0.0, 0.6):
        pen.line([(x * width, figure.hip), (0.9 * flare * x * width, hem + 0.006)], 0.004, shade(colour, 0.82))


def _draw_shoe(pen: Pen, leg: Limb, shoes: Garment, thick: float, tone: float, yaw: float) -> None:
    colour, (x, y) = shade(COLOURS[shoes.colour], tone), leg.end
    toe = 0.5 * yaw + 0.25 * leg.side  # where the shoe points
    size = 0.85 + 0.15 * thick
    if shoes.kind == "boots":
        pen.capsule((x, y - 0.036), (x, y), 0.026 * thick, 0.025 * size, colour)
        pen.band(y - 0.052, 0.029 * thick, 0.006, shade(colour, 0.75), x)
    length, middle = (0.027 + 0.008 * abs(toe)) * size, x + 0.018 * toe
    pen.ellipse(middle, y + 0.010, length, 0.018, colour)
    pen.ellipse(middle, y + 0.023, length + 0.001, 0.006, shade(_OFF_WHITE if shoes.kind == "sneakers" else INK, tone))
    if shoes.kind == "sneakers":
        pen.line([(middle - 0.012, y + 0.004), (middle + 0.012, y + 0.004)], 0.005, contrast(colour))


def _draw_torso(pen: Pen, figure: Figure, identity: Identity, upper: Garment) -> None:
    build, top, cloth, printed = figure.build, figure.shoulder, COLOURS[upper.colour], _print_of(upper)
    neck = _neck_width(build)
    pen.capsule((0, figure.chin - 0.02), (0, top + 0.004), neck, neck, shade(SKIN_TONES[identity.skin], 0.82))
    half = [
        (1.05 * neck, top - 0.012),
        (0.60 * build.shoulder, top - 0.004),
        (0.90 * build.shoulder, top + 0.010),
        (0.94 * build.shoulder, top + 0.045),
        (0.86 * build.shoulder + 0.1 * build.waist, top + 0.09),
        (1.08 * build.waist, figure.waist),
    ]
    if upper.kind == "dress":
        _draw_skirt(pen, figure, cloth, printed, share=0.5, flare=1.5)
        pen.mirrored(half, cloth, printed)
        return
    width = max(build.hip, build.waist)
    flare = 1.34 if upper.kind == "coat" else 1.14
    half += [(1.14 * width, figure.hip), (flare * width, _hem(figure, upper))]
    pen.mirrored(half, cloth, printed)


def _print_of(garment: Garment) -> Print | None:
    return None if garment.pattern == "plain" else (garment.pattern, contrast(COLOURS[garment.colour]))


def _neck_width(build: Build) -> float:
    return 0.026 * (0.6 + 0.4 * build.limb)


def _hem(figure: Figure, upper: Garment) -> float:
    """Where an upper garment ends; a dress has its belt there."""
    if upper.kind == "dress":
        return figure.waist
    return figure.hip + _HEMS[upper.kind] * (figure.ground - figure.hip)


def _draw_front_details(pen: Pen, figure: Figure, identity: Identity, upper: Garment) -> None:
    """Collars, buttons, zips and pockets; they follow the turn of the body."""
    build, kind, cloth = figure.build, upper.kind, COLOURS[upper.colour]
    skin, dark, neck = shade(SKIN_TONES[identity.skin], 0.9), shade(cloth, 0.7), _neck_width(build)
    x, top, bottom = 0.8 * figure.turn, figure.shoulder, _hem(figure, upper)  # x: the middle line of the chest
    if kind in ("t-shirt", "dress"):
        pen.ellipse(0.5 * x, top - 0.008, 1.2 * neck, 0.022, shade(cloth, 0.75))
        pen.ellipse(0.5 * x, top - 0.014, 0.95 * neck, 0.019, skin)
        if kind == "dress":
            pen.band(bottom, 1.1 * build.waist, 0.009, shade(cloth, 0.66))
    elif kind == "shirt":
        pen.polygon([(x - 0.016, top - 0.016), (x, top + 0.034), (x + 0.016, top - 0.016)], skin)
        pen.band((top + 0.03 + bottom) / 2, 0.010, (bottom - top - 0.03) / 2, shade(cloth, 0.84), x)
        for side in (-1, 1):
            collar = [(0.040, -0.020), (0.030, 0.022), (0.0, 0.030), (0.012, -0.020)]
            pen.polygon([(x + side * a, top + b) for a, b in collar], shade(cloth, 1.3))
        for button in np.linspace(top + 0.05, bottom - 0.02, 4).tolist():
            pen.ellipse(x, button, 0.006, 0.006, contrast(cloth))
    elif kind == "sweater":
        left, right = ((0.5 * x + side * 0.6 * neck, top - 0.012) for side in (-1, 1))
        pen.capsule(left, right, 0.016, 0.016, shade(cloth, 0.78))
        pen.band(bottom - 0.006, 1.15 * max(build.hip, build.waist), 0.011, shade(cloth, 0.78))
    elif kind == "hoodie":
        for side in (-1, 1):
            pen.capsule((x + side * 0.048, top - 0.014), (x, top + 0.030), 0.017, 0.013, shade(cloth, 0.82))
            pen.line([(x + side * 0.013, top + 0.03), (x + side * 0.015, top + 0.085)], 0.006, _OFF_WHITE)
        pocket = figure.waist + 0.004
        corners = [(-0.032, pocket), (0.032, pocket), (0.056, bottom - 0.018), (-0.056, bottom - 0.018)]
        pen.polygon([(x + a, b) for a, b in corners], shade(cloth, 0.82))
        pen.band(bottom - 0.004, 1.15 * max(build.hip, build.waist), 0.009, shade(cloth, 0.78))
    elif kind == "jacket":
        inside = [(-0.020, top - 0.016), (0.020, top - 0.016), (0.030, bottom + 0.004), (-0.030, bottom + 0.004)]
        pen.polygon([(x + a, b) for a, b in inside], _OFF_WHITE)
        for side in (-1, 1):
            collar = [(0.042, -0.018), (0.040, 0.035), (0.016, -0.016)]
            pen.polygon([(x + side * a, top + b) for a, b in collar], dark)
            pen.line([(x + side * 0.022, top), (x + side * 0.031, bottom)], 0.007, dark)
            pen.line([(x + side * 0.05, figure.waist + 0.01), (x + side * 0.06, figure.waist + 0.04)], 0.007, dark)
    elif kind == "coat":
        pen.line([(x, top + 0.05), (x, bottom)], 0.006, dark)
        pen.polygon([(x - 0.018, top - 0.016), (x, top + 0.055), (x + 0.018, top - 0.016)], _OFF_WHITE)
        for side in (-1, 1):
            lapel = [(0.042, -0.016), (0.052, 0.030), (0.0, 0.080), (0.012, -0.016)]
            pen.polygon([(x + side * a, top + b) for a, b in lapel], shade(cloth, 0.8))
            pen.line([(x + side * 0.045, figure.hip - 0.012), (x + side * 0.078, figure.hip - 0.016)], 0.009, dark)
        for button in np.linspace(top + 0.1, figure.hip + 0.04, 3).tolist():
            pen.ellipse(x + 0.016, button, 0.008, 0.008, contrast(cloth))


def _draw_back_details(pen: Pen, figure: Figure, upper: Garment) -> None:
    """What tells garments apart from behind."""
    dark, top, bottom = shade(COLOURS[upper.colour], 0.76), figure.shoulder, _hem(figure, upper)
    build = figure.build
    if upper.kind == "hoodie":
        pen.mirrored([(0.05, top - 0.012), (0.062, top + 0.03), (0.0, top + 0.07)], dark)
    elif upper.kind == "coat":
        pen.line([(0, figure.hip), (0, bottom)], 0.006, dark)
        pen.band(figure.waist, 1.05 * build.waist, 0.009, dark)
    elif upper.kind == "jacket":
        pen.line([(-0.8 * build.shoulder, top + 0.06), (0.8 * build.shoulder, top + 0.06)], 0.006, dark)
    elif upper.kind == "dress":
        pen.band(bottom, 1.1 * build.waist, 0.009, dark)
    if upper.kind in ("sweater", "hoodie"):
        pen.band(bottom - 0.006, 1.15 * max(build.hip, build.waist), 0.011, dark)


# Bags


def _draw_backpack(pen: Pen, figure: Figure, bag: Garment | None, from_behind: bool) -> None:
    """A backpack from behind; from the front, its flanks beside the chest."""
    if bag is None or bag.kind != "backpack":
        return
    colour, top = COLOURS[bag.colour], figure.shoulder
    if not from_behind:
        wide = figure.build.shoulder + 0.034
        half = [(0.5 * wide, top - 0.02), (0.96 * wide, top + 0.02), (1.04 * wide, figure.waist)]
        pen.mirrored([*half, (0.8 * wide, figure.hip)], shade(colour, 0.85), centre=-1.2 * figure.turn)
        return
    wide, top, low = 0.92 * figure.build.shoulder, top + 0.006, figure.hip + 0.005
    half = [(0.0, top), (0.7 * wide, top + 0.004), (0.98 * wide, top + 0.04), (wide, low - 0.03), (0.85 * wide, low)]
    pen.mirrored([*half, (0.0, low + 0.004)], colour)
    pocket = [(0.0, low - 0.090), (0.62 * wide, low - 0.084), (0.70 * wide, low - 0.045), (0.6 * wide, low - 0.012)]
    pen.mirrored([*pocket, (0.0, low - 0.010)], shade(colour, 0.8))
    pen.line([(-0.7 * wide, top + 0.05), (0.7 * wide, top + 0.05)], 0.006, shade(colour, 0.65))


def _draw_straps(pen: Pen, figure: Figure, bag: Garment | None) -> None:
    """Straps over the chest or the back."""
    if bag is None or bag.kind == "handbag":
        return
    colour, top, build = COLOURS[bag.colour], figure.shoulder, figure.build
    if bag.kind == "backpack":
        for side in (-1, 1):
            x = side * 0.6 * build.shoulder
            pen.line([(0.9 * x, top - 0.008), (x, top + 0.03), (1.05 * x, figure.waist - 0.01)], 0.019, colour)
    else:
        side = figure.arms[1].side
        pen.line([(-side * 0.6 * build.shoulder, top - 0.004), (side * 1.05 * build.hip, figure.hip)], 0.013, colour)


def _draw_hand_or_hip_bag(pen: Pen, figure: Figure, bag: Garment | None) -> None:
    """A handbag in the near hand, or a shoulder bag at the near hip."""
    if bag is None or bag.kind == "backpack":
        return
    colour, near = COLOURS[bag.colour], figure.arms[1]
    if bag.kind == "handbag":
        x, y = near.end
        pen.ring(x, y + 0.016, 0.026, 0.009, shade(colour, 0.7))
        pen.mirrored([(0.036, y + 0.03), (0.044, y + 0.05), (0.052, y + 0.108)], colour, centre=x)
        pen.line([(x - 0.040, y + 0.054), (x + 0.040, y + 0.054)], 0.006, shade(colour, 0.65))
        pen.ellipse(x, y + 0.058, 0.008, 0.008, (240, 214, 120))
        return
    x, y = near.side * 1.15 * figure.build.hip, figure.hip + 0.03
    pen.mirrored([(0.050, y - 0.036), (0.053, y + 0.030), (0.042, y + 0.046)], colour, centre=x)
    pen.mirrored([(0.050, y - 0.038), (0.050, y - 0.01), (0.036, y + 0.010)], shade(colour, 0.74), centre=x)
    pen.ellipse(x, y + 0.008, 0.007, 0.007, (240, 214, 120))
