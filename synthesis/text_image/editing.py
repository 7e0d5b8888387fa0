"""More pictures of a person who is there already: the same picture with another place, weather, style or posture.

The editing model follows an instruction. We chose FLUX.1 Kontext (`FluxKontextPipeline` of diffusers): it is trained
to keep who and what a picture shows while one thing changes, needs neither an inversion of every picture nor prompts of
equal length with and without the change, as inversion with prompt-to-prompt does, and one pass makes one picture.
InstructPix2Pix (`StableDiffusionInstructPix2PixPipeline`) follows instructions as well and runs in 8 GB; it keeps faces
and clothes less well, so its pictures want a look before they count as the same person.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from ..components import ImageRequest, Record, seed_of
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
        per_picture: Edits of each picture, each of another group.
        weights: How often a group is drawn, by its name; 1 where it is not named.
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
        drawn = [group for group in self.instructions if self.weights.get(group, 1.0) > 0]
        if self.per_picture > len(drawn):
            raise ValueError(f"per_picture must be at most the number of groups, {len(drawn)}: {self.per_picture}")
        return self


def plan_edits(picture: Record, settings: Editing, seed: int) -> Iterator[Record]:
    """What to make of a picture: records with id, parent, number, group, edit, prompt and seed."""
    name, groups = picture["id"], list(settings.instructions)
    rng = np.random.default_rng(seed_of(seed, "edits", name))
    weights = np.array([settings.weights.get(group, 1.0) for group in groups])
    drawn = rng.choice(len(groups), size=settings.per_picture, replace=False, p=weights / weights.sum())
    for number, index in enumerate(drawn.tolist(), start=1):
        texts = settings.instructions[groups[index]]
        edit = texts[int(rng.integers(len(texts)))]
        item = f"{name}-e{number}"
        yield {
            "id": item,
            "parent": name,
            "number": number,
            "group": groups[index],
            "edit": edit,
            "prompt": fill_template(settings.prompt, {"edit": edit}),
            "seed": seed_of(seed, "edit", item),
        }


def edit_request(edit: Record, picture: Record, folder: Path) -> ImageRequest:
    """What the painter is asked for.

    Args:
        edit: Of `plan_edits`.
        picture: The kept picture that it starts from: `image`, relative to `folder`; for the small world's painter
            also `outfit` and `identity`.
        folder: Of the synthesis.
    """
    return ImageRequest(
        id=edit["id"], prompt=edit["prompt"], seed=edit["seed"], scene=picture, source=folder / picture["image"]
    )
