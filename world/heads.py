"""Faces, hair and hats of the small world's people. Shapes are given in units of the head's half axes."""

from .pen import Pen, Point, contrast, mix, shade
from .people import HAIR_COLOURS, PAINTS, RGB, SKIN_TONES, Garment, Identity

HEAD_WIDTH, HEAD_HEIGHT = 0.062, 0.083  # half axes of the head, fractions of the image's height
INK = (46, 38, 44)
_RIBBON = (230, 74, 84)

_AFRO_CURLS = [(0, -0.7, 1.15), (-0.85, -0.45, 0.95), (0.85, -0.45, 0.95), (-1.05, 0.2, 0.7), (1.05, 0.2, 0.7)]

# Closed curves. Hair that frames the face goes from the left temple over the top and back along the hairline.
# fmt: off
_SHORT = [
    (-1.05, 0.1), (-1.1, -0.5), (-0.65, -1.1), (0.1, -1.22), (0.78, -1.06), (1.1, -0.5), (1.05, 0.1),
    (0.93, 0.0), (0.86, -0.36), (0.35, -0.6), (-0.5, -0.42), (-0.86, -0.34), (-0.93, 0.0),
]
_AFRO = [
    (-1.1, 0.0), (-1.15, -0.7), (0.0, -1.3), (1.15, -0.7), (1.1, 0.0),
    (0.9, -0.2), (0.52, -0.56), (0.0, -0.66), (-0.52, -0.56), (-0.9, -0.2),
]
_BOB = [
    (-1.15, 0.85), (-1.34, 0.0), (-1.05, -0.82), (0.0, -1.2), (1.05, -0.82), (1.34, 0.0), (1.15, 0.85),
    (0.92, 0.7), (0.92, -0.05), (0.78, -0.3), (0.0, -0.24), (-0.78, -0.3), (-0.92, -0.05), (-0.92, 0.7),
]
_TIED_BACK = [
    (-1.04, 0.14), (-1.1, -0.5), (-0.72, -1.04), (0.0, -1.18), (0.72, -1.04), (1.1, -0.5), (1.04, 0.14),
    (0.92, -0.12), (0.66, -0.54), (0.0, -0.8), (-0.66, -0.54), (-0.92, -0.12),
]
_LONG_LOCK = [
    (-0.08, -1.16), (0.82, -1.0), (1.24, -0.2), (1.38, 1.0), (1.46, 2.4), (1.1, 2.45),
    (0.96, 1.0), (0.94, 0.1), (0.72, -0.4), (0.0, -0.86),
]
_PIGTAIL = [(0.9, 0.2), (1.45, 0.15), (1.95, 0.8), (1.95, 1.7), (1.62, 2.35), (1.4, 1.5), (1.05, 0.6)]
_SIDE_PONYTAIL = [
    (0.3, -0.95), (0.8, -1.35), (1.55, -1.1), (1.95, -0.1), (1.9, 1.1), (1.5, 1.9), (1.4, 0.9), (1.2, 0.0)
]
_BACK_PONYTAIL = [(-0.3, -0.75), (0.3, -0.75), (0.66, 0.5), (0.55, 1.8), (0.1, 2.6), (-0.4, 1.8), (-0.55, 0.5)]
_SPIKES = [  # straight
    (-1.05, 0.05), (-1.24, -0.6), (-0.92, -0.76), (-0.9, -1.32), (-0.44, -1.06), (-0.16, -1.6),
    (0.18, -1.1), (0.6, -1.5), (0.74, -0.98), (1.24, -0.96), (1.05, 0.05),
]
_TEMPLES = {  # what sticks out below a hat
    "short": [(0.7, -0.5), (1.14, -0.5), (1.14, -0.1), (1.0, 0.2), (0.9, -0.1)],
    "spiky": [(0.8, -0.55), (1.45, -0.42), (1.16, -0.24), (1.38, 0.0), (1.04, -0.02), (1.0, 0.22), (0.88, -0.1)],
}
_SPIKY_HAIRLINE = [(0.88, -0.3), (0.5, -0.64), (0.12, -0.4), (-0.3, -0.64), (-0.88, -0.3)]
# fmt: on
_FRAMES = {"short": _SHORT, "spiky": _SHORT, "afro": _AFRO, "bob": _BOB}  # all others are tied back

# Symmetric shapes: the right half from top to bottom.
_SKULL = [(0.0, -1.0), (0.3, -0.97), (0.62, -0.84), (0.98, -0.25), (0.93, 0.3), (0.62, 0.78), (0.25, 0.99), (0.0, 1.0)]
_LOOSE_HAIR = {
    "bob": [(0.0, -1.16), (0.4, -1.11), (0.8, -0.95), (1.28, 0.0), (1.44, 0.9), (1.2, 1.1), (0.0, 1.12)],
    "long": [(0.0, -1.16), (0.4, -1.11), (0.9, -0.9), (1.28, 0.0), (1.46, 1.5), (1.55, 2.5), (1.15, 2.85), (0.0, 2.9)],
}


def draw_head(pen: Pen, head: Point, turn: float, identity: Identity) -> None:
    """Head and face from the front; `turn` is how far the face is moved to the right, in image heights."""
    skin, hair = SKIN_TONES[identity.skin], HAIR_COLOURS[identity.hair_colour]
    x, y = head
    for side in (-1, 1):
        pen.ellipse(x + side * 0.97 * HEAD_WIDTH - 0.3 * turn, y + 0.01, 0.013, 0.018, shade(skin, 0.86))
    _fill_half(pen, head, _SKULL, skin)
    face = x + turn
    if identity.beard == "full":
        outer = [(-0.97, 0.0), (-0.97, 0.4), (-0.7, 0.88), (0.0, 1.2), (0.7, 0.88), (0.97, 0.4), (0.97, 0.0)]
        inner = [(0.84, 0.22), (0.6, 0.46), (0.0, 0.42), (-0.6, 0.46), (-0.84, 0.22)]
        _fill(pen, (x + 0.4 * turn, y), [*outer, *inner], hair)
    bare = identity.hair_style == "bald" and identity.beard == "none"
    brow = shade(skin, 0.55) if bare else shade(hair, 0.8)
    for side in (-1, 1):
        eye = face + side * 0.026
        pen.ellipse(eye + side * 0.009, y + 0.033, 0.011, 0.007, mix(skin, (236, 110, 100), 0.2))
        pen.ellipse(eye, y + 0.008, 0.0088, 0.0100, (250, 248, 244))
        pen.ellipse(eye + 0.1 * turn, y + 0.009, 0.0064, 0.0084, INK)
        pen.line([(eye - 0.013, y - 0.013), (eye, y - 0.018), (eye + 0.013, y - 0.013)], 0.006, brow)
    pen.ellipse(face + 0.2 * turn, y + 0.026, 0.0065, 0.0085, shade(skin, 0.8))
    if identity.beard != "none":
        moustache = [(-0.030, 0.047), (-0.012, 0.035), (0.012, 0.035), (0.030, 0.047), (0.0, 0.045)]
        pen.blob([(face + a, y + b) for a, b in moustache], hair)
    smile = [(-0.016, 0.048), (0.0, 0.052), (0.016, 0.048), (0.0, 0.062)]
    pen.blob([(face + a, y + b) for a, b in smile], (178, 66, 70) if sum(skin) > 350 else (214, 112, 108))
    _draw_glasses(pen, face, y + 0.008, identity.glasses)


def _draw_glasses(pen: Pen, x: float, y: float, glasses: str) -> None:
    if glasses == "none":
        return
    for side in (-1, 1):
        if glasses == "dark":
            lens = [(0.005, -0.012), (0.05, -0.014), (0.046, 0.012), (0.03, 0.02), (0.01, 0.014)]
            pen.polygon([(x + side * a, y + b) for a, b in lens], (28, 28, 36))
        else:
            pen.ring(x + side * 0.026, y, 0.022, 0.006, INK)
        pen.line([(x + side * 0.046, y - 0.004), (x + side * 0.060, y - 0.006)], 0.005, INK)
    pen.line([(x - 0.008, y - 0.004), (x + 0.008, y - 0.004)], 0.006, INK)


def draw_hair_behind(pen: Pen, head: Point, turn: float, identity: Identity) -> None:
    """The hair behind face and shoulders, from the front; it is drawn before everything else."""
    hair, style = shade(HAIR_COLOURS[identity.hair_colour], 0.84), identity.hair_style
    if style == "afro":
        _draw_afro(pen, head, hair)
    elif style in _LOOSE_HAIR:
        _fill_half(pen, head, _LOOSE_HAIR[style], hair)
    elif style == "ponytail":
        _fill(pen, head, _SIDE_PONYTAIL, hair, flip=turn > 0)
    elif style == "bun":
        pen.ellipse(head[0], head[1] - 1.34 * HEAD_HEIGHT, 0.6 * HEAD_WIDTH, 0.56 * HEAD_WIDTH, hair)
    elif style == "pigtails":
        _draw_pigtails(pen, head, hair)


def draw_hair(pen: Pen, head: Point, turn: float, identity: Identity, hat: Garment | None) -> None:
    """The hair that frames the face, from the front."""
    hair, style = HAIR_COLOURS[identity.hair_colour], identity.hair_style
    x, y = head
    if style == "bald":
        shine = mix(SKIN_TONES[identity.skin], (255, 255, 255), 0.35)
        pen.ellipse(x + 0.35 * HEAD_WIDTH, y - 0.66 * HEAD_HEIGHT, 0.17 * HEAD_WIDTH, 0.09 * HEAD_HEIGHT, shine)
    elif style == "spiky" and not hat:
        pen.polygon(_scaled(head, [*_SPIKES, *_SPIKY_HAIRLINE]), hair)
    elif style == "long":
        for flip in (False, True):
            _fill(pen, head, _LONG_LOCK, hair, flip)
        parting = [(x + 0.5 * turn, y - 1.12 * HEAD_HEIGHT), (x + turn, y - 0.86 * HEAD_HEIGHT)]
        pen.line(parting, 0.004, shade(hair, 0.75))
    else:
        outline = _FRAMES.get(style, _TIED_BACK)
        lean = 0.4 * turn / HEAD_WIDTH  # the hairline follows the face
        _fill(pen, head, [(a + (lean if abs(a) < 0.7 and b > -0.9 else 0), b) for a, b in outline], hair)
        if style == "pigtails":
            _draw_ribbons(pen, head, hair)


def draw_head_from_behind(pen: Pen, head: Point, identity: Identity, hat: Garment | None) -> None:
    """Head and hair from behind."""
    skin, hair = SKIN_TONES[identity.skin], HAIR_COLOURS[identity.hair_colour]
    (x, y), style = head, identity.hair_style
    for side in (-1, 1):
        pen.ellipse(x + side * 0.99 * HEAD_WIDTH, y + 0.01, 0.013, 0.018, shade(skin, 0.88))
    _fill_half(pen, head, _SKULL, shade(skin, 0.95))
    if style == "bald":
        return
    if style == "afro":
        _draw_afro(pen, head, hair)
    nape = 0.66 if style in ("short", "spiky") else 0.82
    crown = [(0.0, -1.18), (0.42, -1.12), (0.92, -0.76), (1.07, 0.0)]
    _fill_half(pen, head, [*crown, (0.92, nape - 0.12), (0.5, nape), (0.0, nape)], hair)
    if style == "spiky" and not hat:
        pen.polygon(_scaled(head, _SPIKES), hair)
    elif style in _LOOSE_HAIR:
        _fill_half(pen, head, _LOOSE_HAIR[style], hair)
    elif style == "ponytail":
        _fill(pen, head, _BACK_PONYTAIL, shade(hair, 0.8))
        pen.ellipse(x, y - 0.66 * HEAD_HEIGHT, 0.34 * HEAD_WIDTH, 0.11 * HEAD_HEIGHT, _RIBBON)
    elif style == "bun":
        pen.ellipse(x, y - 1.15 * HEAD_HEIGHT, 0.62 * HEAD_WIDTH, 0.56 * HEAD_WIDTH, shade(hair, 0.84))
    elif style == "pigtails":
        _draw_pigtails(pen, head, hair)
        pen.line([(x, y - 1.1 * HEAD_HEIGHT), (x, y + 0.7 * HEAD_HEIGHT)], 0.004, shade(hair, 0.7))
        _draw_ribbons(pen, head, hair)


def draw_hat(pen: Pen, head: Point, turn: float, identity: Identity, hat: Garment | None, from_behind: bool) -> None:
    """A cap, beanie, beret or boater; the hair stays visible below it."""
    if hat is None:
        return
    if identity.hair_style in _TEMPLES:
        for flip in (False, True):
            pen.polygon(_scaled(head, _TEMPLES[identity.hair_style], flip), HAIR_COLOURS[identity.hair_colour])
    colour = PAINTS[hat.colour]
    dark = shade(colour, 0.75)
    x, y = head
    if hat.kind == "beanie":
        _fill_half(pen, head, [(0.0, -1.56), (0.66, -1.42), (1.08, -0.95), (1.16, -0.5)], colour)
        ends = [(x + side * 1.02 * HEAD_WIDTH, y - 0.52 * HEAD_HEIGHT) for side in (-1, 1)]
        pen.capsule(*ends, 0.18 * HEAD_HEIGHT, 0.18 * HEAD_HEIGHT, dark)
        return
    if hat.kind == "beret":
        _fill(pen, head, [(-1.2, -0.6), (-1.5, -0.95), (-0.7, -1.35), (0.5, -1.3), (1.1, -0.85), (1.05, -0.5)], colour)
        pen.line(_scaled(head, [(-0.4, -1.3), (-0.45, -1.5)]), 0.01, dark)
        return
    if hat.kind == "boater":
        _fill_half(pen, head, [(0.0, -1.5), (0.86, -1.46), (0.92, -0.7), (0.0, -0.66)], colour)
        ends = [(x + side * 1.55 * HEAD_WIDTH, y - 0.6 * HEAD_HEIGHT) for side in (-1, 1)]
        pen.capsule(*ends, 0.12 * HEAD_HEIGHT, 0.12 * HEAD_HEIGHT, colour)
        pen.band(y - 0.84 * HEAD_HEIGHT, 0.92 * HEAD_WIDTH, 0.1 * HEAD_HEIGHT, contrast(colour), x)
        return
    _fill_half(pen, head, [(0.0, -1.34), (0.7, -1.2), (1.08, -0.8), (1.12, -0.46)], colour)
    pen.ellipse(x, y - 1.34 * HEAD_HEIGHT, 0.1 * HEAD_WIDTH, 0.05 * HEAD_HEIGHT, dark)
    if from_behind:
        pen.ellipse(x, y - 0.52 * HEAD_HEIGHT, 0.32 * HEAD_WIDTH, 0.16 * HEAD_HEIGHT, dark)
    else:
        visor = [(0.0, -0.66), (0.8, -0.6), (1.24, -0.38), (0.7, -0.36), (0.0, -0.32)]
        _fill_half(pen, (x + 1.5 * turn, y), visor, dark)


def _draw_afro(pen: Pen, head: Point, hair: RGB) -> None:
    for a, b, radius in _AFRO_CURLS:
        r = radius * HEAD_WIDTH
        pen.ellipse(head[0] + a * HEAD_WIDTH, head[1] + b * HEAD_HEIGHT, r, r, hair)


def _draw_pigtails(pen: Pen, head: Point, hair: RGB) -> None:
    for flip in (False, True):
        _fill(pen, head, _PIGTAIL, hair, flip)


def _draw_ribbons(pen: Pen, head: Point, hair: RGB) -> None:
    colour = _RIBBON if hair != HAIR_COLOURS["pink"] else (70, 190, 190)
    for side in (-1, 1):
        x, y = head[0] + side * 1.2 * HEAD_WIDTH, head[1] + 0.3 * HEAD_HEIGHT
        pen.ellipse(x, y, 0.17 * HEAD_WIDTH, 0.15 * HEAD_HEIGHT, colour)


def _scaled(head: Point, points: list[Point], flip: bool = False) -> list[Point]:
    width = -HEAD_WIDTH if flip else HEAD_WIDTH
    return [(head[0] + width * a, head[1] + HEAD_HEIGHT * b) for a, b in points]


def _fill(pen: Pen, head: Point, points: list[Point], colour: RGB, flip: bool = False) -> None:
    pen.blob(_scaled(head, points, flip), colour)


def _fill_half(pen: Pen, head: Point, half: list[Point], colour: RGB) -> None:
    pen.mirrored([(HEAD_WIDTH * a, head[1] + HEAD_HEIGHT * b) for a, b in half], colour, centre=head[0])
