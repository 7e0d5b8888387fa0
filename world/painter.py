"""Paints one person of the small world: a flat illustration in soft light.

The figure is posed (`posing`), drawn piece by piece from the back to the front (`_draw_figure`), laid over the place
behind it, and lit (`_develop`). All lengths are fractions of the image's height, see `pen`.
"""

from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from .bags import IN_HAND, draw_backpack, draw_hand_or_hip_bag, draw_straps
from .heads import INK, draw_hair, draw_hair_behind, draw_hat, draw_head, draw_head_from_behind
from .pen import OFF_WHITE, WOOD, Pen, Print, between, contrast, shade
from .people import PAINTS, RGB, SKIN_TONES, Garment, Identity, Outfit, Scene
from .places import paint_place
from .posing import Build, Figure, Limb, pose_figure

# Share of the upper arm that the sleeve covers; other sleeves reach the wrist.
_BARE_ARM = {"t-shirt": 1.0, "dress": 0.8, "tunic": 0.7, "vest": 0.1}
_BULK = {"coat": 1.22, "jacket": 1.18, "hoodie": 1.2, "sweater": 1.12, "robe": 1.6}  # of sleeves; others 1
_HEMS = {  # share of the leg
    **{"t-shirt": 0.07, "shirt": 0.09, "sweater": 0.07, "hoodie": 0.08, "jacket": 0.06, "coat": 0.46},
    **{"poncho": 0.06, "robe": 0.36, "tunic": 0.22, "vest": 0.05},
}
_FLARES = {"coat": 1.34, "robe": 1.4, "tunic": 1.42}  # width of the hem over that of the hips; others 1.14
_LEG_WIDTHS = {"jeans": 1.12, "trousers": 1.36, "leggings": 0.94, "flares": 1.1}
_SKIRTS = {"skirt": (0.42, 1.5), "kilt": (0.4, 1.3), "wrap": (0.86, 1.12)}  # share of the leg, width of the hem


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
    """A handbag or basket hangs from a hanging arm."""
    return replace(scene, arms=("swing", "swing")) if outfit.bag and outfit.bag.kind in IN_HAND else scene


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
        _draw_poncho(pen, figure, outfit.upper)
        draw_straps(pen, figure, outfit.bag)
        draw_hand_or_hip_bag(pen, figure, outfit.bag)
        draw_head_from_behind(pen, figure.head, identity, outfit.hat)
        draw_backpack(pen, figure, outfit.bag, scene.from_behind)
    else:
        draw_hair_behind(pen, figure.head, figure.turn, identity)
        draw_backpack(pen, figure, outfit.bag, scene.from_behind)
        _draw_arm(pen, figure, figure.arms[0], identity, outfit.upper)
        _draw_legs(pen, figure, identity, outfit, scene.yaw)
        _draw_torso(pen, figure, identity, outfit.upper)
        _draw_front_details(pen, figure, identity, outfit.upper)
        draw_straps(pen, figure, outfit.bag)
        _draw_arm(pen, figure, figure.arms[1], identity, outfit.upper)
        _draw_poncho(pen, figure, outfit.upper)
        draw_hand_or_hip_bag(pen, figure, outfit.bag)
        draw_head(pen, figure.head, figure.turn, identity)
        draw_hair(pen, figure.head, figure.turn, identity, outfit.hat)
    draw_hat(pen, figure.head, figure.turn, identity, outfit.hat, scene.from_behind)
    return pen.finish()


def _draw_arm(pen: Pen, figure: Figure, arm: Limb, identity: Identity, upper: Garment) -> None:
    is_far = arm is figure.arms[0]
    tone = 0.85 if is_far else 1.0
    skin, cloth = shade(SKIN_TONES[identity.skin], tone), shade(PAINTS[upper.colour], tone)
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
    kind, cloth, skin = outfit.lower.kind, PAINTS[outfit.lower.colour], SKIN_TONES[identity.skin]
    thick, wide = figure.build.limb, _LEG_WIDTHS.get(kind, 0.92)
    thigh, knee, ankle = 0.038 * thick, 0.0265 * thick * wide, 0.0195 * thick * wide
    bare = kind == "shorts" or kind in _SKIRTS
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
        elif kind == "flares":
            pen.capsule(leg.bend, (leg.end[0], leg.end[1] + 0.012), 0.9 * knee, 2.5 * ankle, colour, flat_end=True)
        elif kind == "kilt":  # with stockings
            pen.capsule(between(leg.bend, leg.end, 0.3), leg.end, knee, ankle, shade(cloth, tone), flat_end=True)
        _draw_shoe(pen, leg, outfit.shoes, SKIN_TONES[identity.skin], thick, tone, yaw)
    if kind in _SKIRTS:
        share, flare = _SKIRTS[kind]
        if outfit.upper.kind == "coat":  # coats press skirts together
            flare = 1.25
        _draw_skirt(pen, figure, cloth, ("checked", contrast(cloth)) if kind == "kilt" else None, share, flare)
        if kind == "wrap":  # one edge lies over the other
            hem = figure.hip + share * (figure.ground - figure.hip)
            pen.line([(-0.03, figure.waist), (0.05, hem)], 0.011, contrast(cloth))
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


def _draw_shoe(pen: Pen, leg: Limb, shoes: Garment, skin: RGB, thick: float, tone: float, yaw: float) -> None:
    colour, (x, y) = shade(PAINTS[shoes.colour], tone), leg.end
    toe = 0.5 * yaw + 0.25 * leg.side  # where the shoe points
    size = 0.85 + 0.15 * thick
    if shoes.kind == "boots":
        pen.capsule((x, y - 0.036), (x, y), 0.026 * thick, 0.025 * size, colour)
        pen.band(y - 0.052, 0.029 * thick, 0.006, shade(colour, 0.75), x)
    length, middle = (0.027 + 0.008 * abs(toe)) * size, x + 0.018 * toe
    if shoes.kind == "clogs":
        length += 0.009
    pen.ellipse(middle, y + 0.010, length, 0.018, shade(skin, tone) if shoes.kind == "sandals" else colour)
    sole = {"sneakers": OFF_WHITE, "clogs": WOOD, "sandals": PAINTS[shoes.colour]}.get(shoes.kind, INK)
    thickness = {"clogs": 0.011, "sandals": 0.008}.get(shoes.kind, 0.006)
    pen.ellipse(middle, y + 0.023, length + 0.001, thickness, shade(sole, tone))
    if shoes.kind == "sandals":
        for strap in (-0.004, 0.012):
            pen.line([(middle - length, y + strap + 0.004), (middle + length, y + strap)], 0.008, colour)
    if shoes.kind == "sneakers":
        pen.line([(middle - 0.012, y + 0.004), (middle + 0.012, y + 0.004)], 0.005, contrast(colour))


def _draw_torso(pen: Pen, figure: Figure, identity: Identity, upper: Garment) -> None:
    build, top, cloth, printed = figure.build, figure.shoulder, PAINTS[upper.colour], _print_of(upper)
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
    half += [(1.14 * width, figure.hip), (_FLARES.get(upper.kind, 1.14) * width, _hem(figure, upper))]
    pen.mirrored(half, cloth, printed)


def _print_of(garment: Garment) -> Print | None:
    return None if garment.pattern == "plain" else (garment.pattern, contrast(PAINTS[garment.colour]))


def _neck_width(build: Build) -> float:
    return 0.026 * (0.6 + 0.4 * build.limb)


def _hem(figure: Figure, upper: Garment) -> float:
    """Where an upper garment ends; a dress has its belt there."""
    if upper.kind == "dress":
        return figure.waist
    return figure.hip + _HEMS[upper.kind] * (figure.ground - figure.hip)


def _draw_front_details(pen: Pen, figure: Figure, identity: Identity, upper: Garment) -> None:
    """Collars, buttons, zips and pockets; they follow the turn of the body."""
    build, kind, cloth = figure.build, upper.kind, PAINTS[upper.colour]
    skin, dark, neck = shade(SKIN_TONES[identity.skin], 0.9), shade(cloth, 0.7), _neck_width(build)
    x, top, bottom = 0.8 * figure.turn, figure.shoulder, _hem(figure, upper)  # x: the middle line of the chest
    if kind in ("t-shirt", "dress", "tunic"):
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
            pen.line([(x + side * 0.013, top + 0.03), (x + side * 0.015, top + 0.085)], 0.006, OFF_WHITE)
        pocket = figure.waist + 0.004
        corners = [(-0.032, pocket), (0.032, pocket), (0.056, bottom - 0.018), (-0.056, bottom - 0.018)]
        pen.polygon([(x + a, b) for a, b in corners], shade(cloth, 0.82))
        pen.band(bottom - 0.004, 1.15 * max(build.hip, build.waist), 0.009, shade(cloth, 0.78))
    elif kind == "jacket":
        inside = [(-0.020, top - 0.016), (0.020, top - 0.016), (0.030, bottom + 0.004), (-0.030, bottom + 0.004)]
        pen.polygon([(x + a, b) for a, b in inside], OFF_WHITE)
        for side in (-1, 1):
            collar = [(0.042, -0.018), (0.040, 0.035), (0.016, -0.016)]
            pen.polygon([(x + side * a, top + b) for a, b in collar], dark)
            pen.line([(x + side * 0.022, top), (x + side * 0.031, bottom)], 0.007, dark)
            pen.line([(x + side * 0.05, figure.waist + 0.01), (x + side * 0.06, figure.waist + 0.04)], 0.007, dark)
    elif kind == "coat":
        pen.line([(x, top + 0.05), (x, bottom)], 0.006, dark)
        pen.polygon([(x - 0.018, top - 0.016), (x, top + 0.055), (x + 0.018, top - 0.016)], OFF_WHITE)
        for side in (-1, 1):
            lapel = [(0.042, -0.016), (0.052, 0.030), (0.0, 0.080), (0.012, -0.016)]
            pen.polygon([(x + side * a, top + b) for a, b in lapel], shade(cloth, 0.8))
            pen.line([(x + side * 0.045, figure.hip - 0.012), (x + side * 0.078, figure.hip - 0.016)], 0.009, dark)
        for button in np.linspace(top + 0.1, figure.hip + 0.04, 3).tolist():
            pen.ellipse(x + 0.016, button, 0.008, 0.008, contrast(cloth))
    elif kind == "vest":
        pen.polygon([(x - 0.034, top - 0.016), (x, top + 0.075), (x + 0.034, top - 0.016)], skin)
        pen.line([(x - 0.034, top - 0.016), (x, top + 0.075), (x + 0.034, top - 0.016)], 0.009, contrast(cloth))
        pen.line([(x, top + 0.075), (x, bottom)], 0.008, dark)
    elif kind == "robe":
        pen.polygon([(x - 0.02, top - 0.016), (x, top + 0.05), (x + 0.02, top - 0.016)], skin)
        pen.line([(x + 0.022, top - 0.016), (x - 0.012, figure.waist)], 0.014, dark)
        pen.line([(x - 0.022, top - 0.016), (x, top + 0.05), (x - 0.02, bottom)], 0.014, dark)
    if kind in ("robe", "tunic"):
        _draw_sash(pen, figure, cloth)


def _draw_sash(pen: Pen, figure: Figure, cloth: RGB) -> None:
    pen.band(figure.waist, 1.12 * figure.build.waist, 0.013, contrast(cloth))


def _draw_poncho(pen: Pen, figure: Figure, upper: Garment) -> None:
    """A poncho falls over the arms."""
    if upper.kind != "poncho":
        return
    cloth, top, wide, low = PAINTS[upper.colour], figure.shoulder, figure.build.shoulder, figure.hip
    half = [(0.022, top - 0.014), (0.9 * wide, top + 0.012), (1.5 * wide, figure.waist), (1.45 * wide, low - 0.035)]
    pen.mirrored([*half, (0.7 * wide, low + 0.03), (0.0, low + 0.06)], cloth, _print_of(upper))
    edge = [(-1.45 * wide, low - 0.035), (-0.7 * wide, low + 0.03), (0, low + 0.06), (0.7 * wide, low + 0.03)]
    pen.line([*edge, (1.45 * wide, low - 0.035)], 0.014, contrast(cloth))


def _draw_back_details(pen: Pen, figure: Figure, upper: Garment) -> None:
    """What tells garments apart from behind."""
    dark, top, bottom = shade(PAINTS[upper.colour], 0.76), figure.shoulder, _hem(figure, upper)
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
    elif upper.kind in ("robe", "tunic"):
        _draw_sash(pen, figure, PAINTS[upper.colour])
    elif upper.kind == "vest":
        pen.line([(-0.8 * build.shoulder, top), (0, top + 0.05), (0.8 * build.shoulder, top)], 0.008, dark)
    if upper.kind in ("sweater", "hoodie"):
        pen.band(bottom - 0.006, 1.15 * max(build.hip, build.waist), 0.011, dark)
