"""More images of a person who is there already: the same image with another place, weather, style or posture.

The editing model follows an instruction. We chose FLUX.1 Kontext (`FluxKontextPipeline` of diffusers): it is trained to
keep who and what an image shows while one thing changes, and makes an image in one pass. Inversion with
prompt-to-prompt needs an inversion of every image, and prompts of equal length with and without the change.
InstructPix2Pix (`StableDiffusionInstructPix2PixPipeline`) follows instructions as well and runs in 8 GB; it keeps faces
and clothes less well, so look at its images before they count as the same person.
"""

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from ..components import Record, seed_of
from ..painters import DiffusionPainter
from ..settings import CountOrZero, NotNegative, Settings, Texts
from ..stand_ins.portraits import WorldPortrait
from ..templates import fill_template, with_fields


class Editing(Settings):
    """Settings of edits.

    Attributes:
        painter: What edits: an instruction pipeline, or the small world's painter, which paints the same person in the
            same clothes anew.
        instructions: What may change: texts by group, such as background and weather.
        per_picture: Edits of each image, each of another group.
        weights: How likely a group is, by its name; 1 where it is not named.
        prompt: What the painter is told; {edit} stands for the instruction.
    """

    painter: Annotated[DiffusionPainter | WorldPortrait, Field(discriminator="kind")]
    instructions: Annotated[dict[str, Texts], Field(min_length=1)]
    per_picture: CountOrZero = 1
    weights: dict[str, NotNegative] = {}
    prompt: Annotated[str, with_fields("edit")] = "{edit}"

    @model_validator(mode="after")
    def _check_groups(self) -> "Editing":
        if unknown := sorted(set(self.weights) - set(self.instructions)):
            raise ValueError(f"weights names groups that instructions lacks: {', '.join(unknown)}")
        count = sum(self.weights.get(group, 1.0) > 0 for group in self.instructions)
        if self.per_picture > count:
            raise ValueError(f"per_picture must be at most the number of groups, {count}: {self.per_picture}")
        return self


def plan_edits(image: Record, settings: Editing, seed: int) -> Iterator[Record]:
    """The edits to make of an image: records with id, parent, number, group, edit, prompt and seed."""
    name, groups = image["id"], list(settings.instructions)
    rng = np.random.default_rng(seed_of(seed, "edits", name))
    weights = np.array([settings.weights.get(group, 1.0) for group in groups])
    chosen = rng.choice(groups, size=settings.per_picture, replace=False, p=weights / weights.sum())
    for number, group in enumerate(chosen.tolist(), start=1):
        texts = settings.instructions[group]
        edit = texts[int(rng.integers(len(texts)))]
        item = f"{name}-e{number}"
        yield {
            "id": item,
            "parent": name,
            "number": number,
            "group": group,
            "edit": edit,
            "prompt": fill_template(settings.prompt, {"edit": edit}),
            "seed": seed_of(seed, "edit", item),
        }
