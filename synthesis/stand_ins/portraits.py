"""Paints single people of the painted world, and mixes in wrong images at a known rate."""

from dataclasses import asdict, replace
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from ...world.painter import paint_person
from ...world.people import Identity, Outfit, Scene, sample_identity, sample_scene
from ...world.places import paint_place
from ..components import ImageRequest, PaintedImage
from ..settings import Pixels, Settings, Share
from .diptychs import PaintedWorld
from .grammar import read_outfits

NOBODY, TWO_PEOPLE, NO_HEAD, NO_LEGS = FAULTS = ("nobody", "two people", "no head", "no legs")

_REACH = 0.21  # half the width that a figure needs, in heights of the image
_BELOW_CHIN, _ABOVE_KNEES = 0.28, 0.6  # where to cut off the head, or the legs; fractions of the height


class WorldPortrait(Settings):
    """Settings of the painter of one person, who wears the scene's `outfit`.

    If the scene has an `identity` (that of an edited image), it paints that person somewhere else and in another pose.
    Otherwise the seed decides who it is, and `identity` becomes a fact of the image.
    """

    kind: Literal["world-portrait"] = "world-portrait"
    height: Annotated[int, Field(ge=32, le=8_192)] = 192  # height of the images in pixels
    width: Pixels = 144  # width of the images in pixels; at least half the height, so that a figure fits
    # share of the images that are wrong; the fact `fault` says how, to measure filters, and no filter may read it
    fault_rate: Share = 0.0
    # what may be wrong, among "nobody", "two people", "no head" and "no legs"
    faults: Annotated[list[Literal[FAULTS]], Field(min_length=1)] = list(FAULTS)

    @model_validator(mode="after")
    def _check_shape(self) -> "WorldPortrait":
        if not self.height / 2 <= self.width <= 4 * self.height:
            raise ValueError(f"width must be from half the height to four times it: {self.height} x {self.width}")
        return self

    def load(self) -> PaintedWorld:
        """The painter."""
        return PaintedWorld({"model": "the small world's painter"}, _paint, self)


def _paint(request: ImageRequest, settings: WorldPortrait) -> PaintedImage:
    given = request.scene
    rng, fate = np.random.default_rng(request.seed), np.random.default_rng([request.seed, 1])
    (outfit,) = read_outfits(request.id, given.get("outfit"))
    somebody = sample_identity(rng, test=False)
    identity = Identity(**given["identity"]) if "identity" in given else somebody
    size = (settings.height, settings.width)
    room = max(0.0, size[1] / size[0] / 2 - _REACH)  # the figure may stand anywhere between left and right
    scene = replace(sample_scene(rng), shift=float(rng.uniform(-room, room)))
    if fate.random() >= settings.fault_rate:
        fault, image = None, paint_person(identity, outfit, scene, size)
    else:
        fault = settings.faults[int(fate.integers(len(settings.faults)))]
        image = _paint_wrongly(fault, identity, outfit, scene, size, fate)
    return PaintedImage(request.id, image, facts={"identity": asdict(identity), "fault": fault})


def _paint_wrongly(
    fault: str, identity: Identity, outfit: Outfit, scene: Scene, size: tuple[int, int], rng: np.random.Generator
) -> Image.Image:
    height, width = size
    if fault == NOBODY:
        return paint_place(scene, 2.0, size, np.random.default_rng(scene.seed))  # the shadow lies out of sight
    if fault == TWO_PEOPLE:  # the left half of one image and the right half of another, in one scene
        shift = width / height / 4
        left = paint_person(identity, outfit, replace(scene, shift=-shift), size)
        other = sample_identity(rng, test=False)
        image = paint_person(other, outfit, replace(scene, shift=shift), size)
        image.paste(left.crop((0, 0, width // 2, height)))
        return image
    top, bottom = (_BELOW_CHIN, 1.0) if fault == NO_HEAD else (0.0, _ABOVE_KNEES)
    scale = 1 / (bottom - top)
    large = paint_person(identity, outfit, replace(scene, shift=0.0), (round(scale * height), round(scale * width)))
    left, upper = (large.width - width) // 2, round(top * large.height)
    return large.crop((left, upper, left + width, upper + height))
