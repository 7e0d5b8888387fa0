"""Images painted while an adapter is trained, always of the same prompts and seeds, on a sheet each time."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers import FluxPipeline
from PIL import Image
from pydantic import Field

from ...drawing.palette import GREY, INK
from ...drawing.sheet import GAP, SMALL_SIZE, Sheet
from ...drawing.typeface import Typeface
from ..settings import Count, Settings, Texts

_CELL, _LABEL, _NARROWEST, _LINE = 320, 80, 480, 24  # pixels: of an image, a column, a sheet, a line of text
_TITLE_SIZE, _MOST_LINES = 22, 8


class Validation(Settings):
    """Settings of the images painted while training goes on, always of the same prompts and seeds.

    Attributes:
        prompts: What they show; each is a row of the sheet.
        seeds: Each is a column of the sheet.
        every: Steps between two sheets; there is also one before the first step and one after the last.
        steps: Steps of the scheduler.
        guidance: Guidance scale of the painting.
    """

    prompts: Texts
    seeds: Annotated[list[int], Field(min_length=1)] = [0, 1, 2, 3]
    every: Count = 250
    steps: Count = 28
    guidance: float = 3.5


@torch.no_grad()
def paint_sheet(
    pipeline: FluxPipeline,
    validation: Validation,
    texts: Mapping[str, Mapping[str, torch.Tensor]],
    size: tuple[int, int],
    title: str,
    accelerator: Accelerator,
) -> Image.Image | None:
    """The sheet of images that a pipeline paints as it is now; None in all processes but the main one.

    Every process paints a part: if the others waited for one, their time limit could end the run.

    Args:
        pipeline: A pipeline without text encoders.
        validation: What to paint.
        texts: The embeddings of its prompts, by prompt.
        size: Width and height of an image, in pixels.
        title: Title of the sheet.
        accelerator: These processes.
    """
    cells = list(enumerate(product(validation.prompts, validation.seeds)))
    painted = []
    for place, (prompt, seed) in cells[accelerator.process_index :: accelerator.num_processes]:
        image = pipeline(
            **{name: tensor[None].to(accelerator.device) for name, tensor in texts[prompt].items()},
            width=size[0],
            height=size[1],
            num_inference_steps=validation.steps,
            guidance_scale=validation.guidance,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
        painted.append((place, image))
    images = dict(gather_object(painted))
    if not accelerator.is_main_process:
        return None
    for image in images.values():
        image.thumbnail((_CELL, _CELL), Image.Resampling.LANCZOS)
    return _draw_sheet([images[place] for place, _ in cells], validation, title)


def _draw_sheet(images: Sequence[Image.Image], validation: Validation, title: str) -> Image.Image:
    """Images of one size in rows, each row under its prompt."""
    columns, (width, height) = len(validation.seeds), images[0].size
    pitch = max(width, _LABEL) + GAP
    page_width = max(columns * pitch + GAP, _NARROWEST)
    texts = [Typeface().wrap(prompt, SMALL_SIZE, page_width - 2 * GAP, _MOST_LINES) for prompt in validation.prompts]
    tops = [3 * _LINE + 2 * GAP]
    for text in texts:
        tops.append(tops[-1] + len(text) * _LINE + height + 2 * GAP)
    sheet = Sheet(page_width, tops[-1])
    sheet.text((GAP, GAP), title, _TITLE_SIZE, INK)
    for column, seed in enumerate(validation.seeds):
        sheet.text((GAP + column * pitch, GAP + 1.5 * _LINE), f"seed {seed}", SMALL_SIZE, GREY)
    for row, (text, top) in enumerate(zip(texts, tops, strict=False)):
        sheet.lines((GAP, top), text, SMALL_SIZE, _LINE)
        for column in range(columns):
            place = (GAP + column * pitch, top + len(text) * _LINE)
            sheet.image.paste(images[row * columns + column], place)
    return sheet.image
