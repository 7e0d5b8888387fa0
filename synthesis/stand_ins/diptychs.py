"""Paints diptychs of people of the painted world, as an image model does; on request some of them are wrong.

A diptych is what large models are asked for: one person twice, side by side, in two places and poses, wearing first the
one and then the other outfit of a quadruple. The seam is a thin line, a gap, or nothing but the change of background,
and seldom in the middle.

Faults of five kinds are mixed in at a known rate, so that precision and recall of a filter can be measured:

    other person      one side shows somebody who looks different
    wrong garment     one garment of one side is not as the caption says
    bad picture       one side is blurred, noisy or blank
    no seam           one person only, both sides run together, or a third person
    nothing changed   one side wears what the other does

The facts `fault`, `fault_detail` and `faulty_side` hold the truth. They are for calibration; no gate and no judge may
read them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image, ImageFilter
from pydantic import Field, model_validator

from ...world.painter import paint_person
from ...world.people import (
    Identity,
    Outfit,
    Scene,
    is_wearable,
    pick,
    sample_garment,
    sample_identity,
    sample_people,
    sample_scene,
)
from ..components import ImageModel, ImageRequest, PaintedImage
from ..settings import Settings, Share
from .grammar import read_outfits

FAULTS = ("other person", "wrong garment", "bad picture", "no seam", "nothing changed")
WORLD_PAINTER_VERSION = 1  # raise it whenever the same request gives other pixels

_SEAMS = ("line", "gap", "plain")
_SEAM_COLOURS = ((255, 255, 255), (250, 250, 250), (0, 0, 0), (20, 20, 20), (128, 128, 128))
_MAX_OFFSET = 0.06  # distance of the seam from the middle, as a share of the width
_Pixels = Annotated[int, Field(ge=64, le=8_192)]
_SIDES = ("left", "right")


class WorldPainter(Settings):
    """Settings of the painter of diptychs; requests need a quadruple of the grammar, see `GrammarWriter`."""

    kind: Literal["world"] = "world"
    height: _Pixels = 192  # height of a diptych in pixels
    # width of a diptych in pixels; a figure is half as wide as high, so a little more than the height is good
    width: _Pixels = 204
    fault_rate: Share = 0.0  # share of the diptychs that are painted wrongly on purpose
    faults: list[Literal[FAULTS]] = list(FAULTS)  # kinds of fault to mix in, all equally often

    @model_validator(mode="after")
    def _check_faults(self) -> "WorldPainter":
        if self.fault_rate and not self.faults:
            raise ValueError("faults must name at least one kind where fault_rate is above 0")
        return self

    def load(self) -> "PaintedWorld":
        """The painter, ready for work."""
        return PaintedWorld({"model": "world", "version": WORLD_PAINTER_VERSION}, paint_diptych, self)


class PaintedWorld(ImageModel):
    """Paints images of the painted world, in the order of the requests, by a function of a request and settings."""

    def __init__(self, about: dict[str, Any], paint: Callable[[ImageRequest, Any], PaintedImage], settings: Settings):
        super().__init__()
        self.about = about
        self._paint, self._settings = paint, settings

    def paint(self, requests: Iterable[ImageRequest]) -> Iterator[PaintedImage]:
        """See `ImageModel.paint`."""
        for request in requests:
            yield self._paint(request, self._settings)
            self.usage["pictures"] += 1


@dataclass(frozen=True)
class _Side:
    """One half of a diptych: who, in what, and how it is photographed."""

    identity: Identity
    outfit: Outfit
    scene: Scene

    def paint(self, height: int, width: int) -> Image.Image:
        return paint_person(self.identity, self.outfit, self.scene, (height, width))


def paint_diptych(request: ImageRequest, settings: WorldPainter) -> PaintedImage:
    """Paint the diptych of one request.

    Args:
        request: Its `scene["outfits"]` holds two outfits as mappings; its seed decides the person, both scenes, the
            seam, and whether and how the diptych is wrong.
        settings: Those of the painter.

    Returns:
        The image, with the truth about its fault in its facts.

    Raises:
        SynthesisError: the request names no outfits of the painted world.
    """
    noted = request.scene.get("outfits")
    outfits = read_outfits(request.id, *(noted if isinstance(noted, list) and len(noted) == 2 else [None]))
    rng = np.random.default_rng(request.seed)
    person = sample_identity(rng, test=False)
    sides = [_Side(person, outfit, sample_scene(rng)) for outfit in outfits]
    style, colour = pick(rng, _SEAMS), pick(rng, _SEAM_COLOURS)
    share = {"line": rng.uniform(0.005, 0.015), "gap": rng.uniform(0.02, 0.04), "plain": 0.0}[style]
    thickness = round(share * settings.height)
    offset = round(settings.width * rng.uniform(-_MAX_OFFSET, _MAX_OFFSET))

    # A separate generator, so that a faulty diptych differs from the sound one in nothing but its fault.
    fault_rng = np.random.default_rng([request.seed, 1])
    fault = pick(fault_rng, settings.faults) if fault_rng.random() < settings.fault_rate else None
    faulty, detail = int(fault_rng.integers(2)), None
    if fault == "other person":
        stranger = sample_people(fault_rng, 1, test=False, unlike=[person])[0]
        sides[faulty] = replace(sides[faulty], identity=stranger)
    elif fault == "wrong garment":
        outfit, detail = _misdress(*(sides[i].outfit for i in (faulty, 1 - faulty)), fault_rng)
        sides[faulty] = replace(sides[faulty], outfit=outfit)
    elif fault == "nothing changed":
        sides[faulty] = replace(sides[faulty], outfit=sides[1 - faulty].outfit)

    if fault == "no seam":
        image, detail = _paint_without_seam(sides, thickness, colour, settings, fault_rng)
    else:
        room = settings.width - thickness
        widths = [room // 2 + offset, room - room // 2 - offset]
        panels = [side.paint(settings.height, width) for side, width in zip(sides, widths, strict=True)]
        if fault == "bad picture":
            panels[faulty], detail = _spoil(panels[faulty], fault_rng)
        image = _join(panels, thickness, colour)
    side = _SIDES[faulty] if fault not in (None, "no seam") else None
    return PaintedImage(request.id, image, facts={"fault": fault, "fault_detail": detail, "faulty_side": side})


def _join(panels: list[Image.Image], thickness: int, colour: tuple[int, int, int]) -> Image.Image:
    """Panels of one height side by side, with seams between them."""
    width = sum(panel.width for panel in panels) + thickness * (len(panels) - 1)
    image = Image.new("RGB", (width, panels[0].height), colour)
    x = 0
    for panel in panels:
        image.paste(panel, (x, 0))
        x += panel.width + thickness
    return image


def _misdress(outfit: Outfit, other: Outfit, rng: np.random.Generator) -> tuple[Outfit, str]:
    """The outfit with one garment wrong, and that garment's slot.

    Shoes stay, since captions often leave them out. The result differs from the `other` side's outfit, too.
    """
    slots = ["upper", "lower", *(slot for slot in ("bag", "hat") if getattr(outfit, slot))]
    slot = pick(rng, slots)
    while True:
        wrong = replace(outfit, **{slot: sample_garment(rng, slot)})
        if wrong not in (outfit, other) and is_wearable(wrong):
            return wrong, slot


def _spoil(panel: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, str]:
    detail = pick(rng, ("blurred", "noisy", "blank"))
    if detail == "blurred":
        return panel.filter(ImageFilter.GaussianBlur(panel.height * rng.uniform(0.012, 0.03))), detail
    if detail == "noisy":
        noise = rng.normal(0, rng.uniform(30, 60), (panel.height, panel.width, 3))
        return Image.fromarray(np.clip(np.asarray(panel) + noise, 0, 255).astype(np.uint8)), detail
    shades = np.linspace(*rng.uniform(60, 250, 2), panel.height)[:, None, None] + rng.uniform(-8, 8, 3)
    return Image.fromarray(np.broadcast_to(shades, (panel.height, panel.width, 3)).astype(np.uint8)), detail


def _paint_without_seam(
    sides: list[_Side],
    thickness: int,
    colour: tuple[int, int, int],
    settings: WorldPainter,
    rng: np.random.Generator,
) -> tuple[Image.Image, str]:
    height, width = settings.height, settings.width
    detail = pick(rng, ("one person", "run together", "third person"))
    if detail == "one person":
        return pick(rng, sides).paint(height, width), detail
    if detail == "run together":
        # One place and one light; the right half is mirrored, so that the backgrounds meet without a break.
        shared = ("place", "seed", "zoom", "headroom", "light_side", "brightness", "warmth", "blur", "noise")
        scene = replace(sides[1].scene, **{name: getattr(sides[0].scene, name) for name in shared})
        panels = [side.paint(height, width // 2) for side in (sides[0], replace(sides[1], scene=scene))]
        panels[1] = panels[1].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return _join(panels, 0, colour), detail
    third = replace(sides[0], scene=sample_scene(rng))
    panels = [side.paint(height, (width - 2 * thickness) // 3) for side in (*sides, third)]
    return _join(panels, thickness, colour), detail
