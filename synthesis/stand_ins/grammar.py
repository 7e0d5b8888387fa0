"""Writes texts by the grammar of the painted world, in place of a language model: it rejects nothing.

Outfits come from the training part of the wardrobe. Records hold them beside the texts, under `outfits` of a quadruple
and under `outfit` of a prompt, for the painters and for captions.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...world.captions import describe_outfit, write_quadruple
from ...world.people import Outfit, outfit_from_dict, sample_outfit
from ..components import Record, SynthesisError, seed_of
from ..quadruples.writing import FIELDS, TextWriter
from ..settings import Count, Settings
from ..text_image.captioning import CaptionWriter


class GrammarWriter(Settings):
    """Settings of quadruples about people of the painted world. There is nothing to set."""

    kind: Literal["grammar"] = "grammar"

    def load(self) -> TextWriter:
        """The writer, ready for work."""
        return _Quadruples()

    def preview(self, item: str, seed: int) -> str:
        """An item's texts."""
        (record,) = self.load().write([item], seed)
        return "\n".join(f"{name}: {record[name]}" for name in FIELDS)


class _Quadruples(TextWriter):
    def write(self, ids: Iterable[str], seed: int) -> Iterator[Record]:
        for item in ids:
            *outfits, texts = write_quadruple(np.random.default_rng(seed_of(seed, "quadruple", item)))
            yield {"id": item, **texts, "outfits": [asdict(outfit) for outfit in outfits], "attempts": 1}


class WorldPrompts(Settings):
    """Settings of prompts for images of people of the painted world. There is nothing to set."""

    kind: Literal["world"] = "world"

    def load(self) -> TextWriter:
        """The writer, ready for work."""
        return _Prompts()

    def preview(self, item: str, seed: int) -> str:
        """The prompt of an item."""
        (record,) = self.load().write([item], seed)
        return record["prompt"]


class _Prompts(TextWriter):
    def write(self, ids: Iterable[str], seed: int) -> Iterator[Record]:
        for name in ids:
            rng = np.random.default_rng(seed_of(seed, "prompt", name))
            outfit = sample_outfit(rng, test=False)
            yield {"id": name, "prompt": describe_outfit(outfit, rng), "outfit": asdict(outfit)}


class GrammarCaptions(Settings):
    """Settings of captions of painted people, from the outfit of their prompt.

    Attributes:
        captions: How many per image.
    """

    kind: Literal["grammar"] = "grammar"

    captions: Count = 1

    def load(self) -> CaptionWriter:
        """The writer, ready for work."""
        return _Captions(self.captions)


class _Captions(CaptionWriter):
    def __init__(self, captions: int):
        super().__init__()
        self.captions = captions
        self.about = {"model": "the small world's grammar"}

    def write(self, images: Iterable[Record], folder: Path, seed: int) -> Iterator[Record]:
        for image in images:
            rng = np.random.default_rng(seed_of(seed, "caption", image["id"]))
            (outfit,) = read_outfits(image["id"], image.get("outfit"))
            yield {"id": image["id"], "captions": [describe_outfit(outfit, rng) for _ in range(self.captions)]}


def read_outfits(name: str, *noted: Any) -> list[Outfit]:
    """The outfits that this grammar noted in a record.

    Raises:
        SynthesisError: there are none, or they are not of the painted world.
    """
    if None in noted:
        raise SynthesisError(
            f"{name}: painted people need an outfit, and its text has none: write quadruples with kind: grammar, "
            "prompts with kind: world"
        )
    try:
        return [outfit_from_dict(outfit) for outfit in noted]
    except (TypeError, ValueError) as error:
        raise SynthesisError(f"{name}: its outfit cannot be painted: {error}") from None
