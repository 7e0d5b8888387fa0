"""Bags of the small world's people, and what they carry by a strap."""

from .pen import OFF_WHITE, WOOD, Pen, shade
from .people import PAINTS, Garment
from .posing import Figure

IN_HAND = ("handbag", "basket")


def draw_backpack(pen: Pen, figure: Figure, bag: Garment | None, from_behind: bool) -> None:
    """A backpack from behind; from the front, its flanks beside the chest."""
    if bag is None or bag.kind != "backpack":
        return
    colour, top = PAINTS[bag.colour], figure.shoulder
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


def draw_straps(pen: Pen, figure: Figure, bag: Garment | None) -> None:
    """Straps over the chest or the back."""
    if bag is None or bag.kind in IN_HAND:
        return
    colour, top, build = PAINTS[bag.colour], figure.shoulder, figure.build
    if bag.kind == "backpack":
        for side in (-1, 1):
            x = side * 0.6 * build.shoulder
            pen.line([(0.9 * x, top - 0.008), (x, top + 0.03), (1.05 * x, figure.waist - 0.01)], 0.019, colour)
    else:
        side = figure.arms[1].side
        pen.line([(-side * 0.6 * build.shoulder, top - 0.004), (side * 1.05 * build.hip, figure.hip)], 0.013, colour)


def draw_hand_or_hip_bag(pen: Pen, figure: Figure, bag: Garment | None) -> None:
    """A handbag or basket in the near hand, or a shoulder bag or drum at the near hip."""
    if bag is None or bag.kind == "backpack":
        return
    colour, near = PAINTS[bag.colour], figure.arms[1]
    if bag.kind == "handbag":
        x, y = near.end
        pen.ring(x, y + 0.016, 0.026, 0.009, shade(colour, 0.7))
        pen.mirrored([(0.036, y + 0.03), (0.044, y + 0.05), (0.052, y + 0.108)], colour, centre=x)
        pen.line([(x - 0.040, y + 0.054), (x + 0.040, y + 0.054)], 0.006, shade(colour, 0.65))
        pen.ellipse(x, y + 0.058, 0.008, 0.008, (240, 214, 120))
        return
    if bag.kind == "basket":
        x, y = near.end
        pen.ring(x, y + 0.040, 0.044, 0.009, shade(colour, 0.7))
        pen.mirrored([(0.064, y + 0.042), (0.058, y + 0.07), (0.044, y + 0.108)], colour, ("checked", WOOD), centre=x)
        pen.band(y + 0.044, 0.066, 0.008, WOOD, x)
        return
    x, y = near.side * 1.15 * figure.build.hip, figure.hip + 0.03
    if bag.kind == "drum":
        pen.mirrored([(0.056, y - 0.03), (0.056, y + 0.05), (0.050, y + 0.058)], colour, centre=x)
        pen.ellipse(x, y - 0.03, 0.056, 0.016, OFF_WHITE)
        pen.line([(x - 0.05, y - 0.01), (x, y + 0.05), (x + 0.05, y - 0.01)], 0.006, OFF_WHITE)
        return
    pen.mirrored([(0.050, y - 0.036), (0.053, y + 0.030), (0.042, y + 0.046)], colour, centre=x)
    pen.mirrored([(0.050, y - 0.038), (0.050, y - 0.01), (0.036, y + 0.010)], shade(colour, 0.74), centre=x)
    pen.ellipse(x, y + 0.008, 0.007, 0.007, (240, 214, 120))
