"""Quadruples by the grammar of the painted world: no model, and nothing to reject."""

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np

from ...world.captions import describe_change, describe_outfit
from ...world.people import outfit_as_dict, sample_change, sample_outfit
from ..components import Record, seed_of
from ..quadruples.writing import FIELDS, QuadrupleWriter
from ..settings import Settings


class GrammarWriter(Settings):
    """Settings of the writer that knows the small world's wardrobe and speaks its grammar. There is nothing to set."""

    kind: Literal["grammar"] = "grammar"

    def load(self) -> QuadrupleWriter:
        """The writer, ready for work."""
        return _Grammar()

    def preview(self, item: str, seed: int) -> str:
        """An item's texts; nobody is asked for them."""
        (record,) = self.load().write([item], seed)
        return "\n".join(f"{name}: {record[name]}" for name in FIELDS)


class _Grammar(QuadrupleWriter):
    """Outfits come from the training part of the wardrobe, and go along for the painter under `outfits`."""

    def write(self, ids: Iterable[str], seed: int) -> Iterator[Record]:
        for item in ids:
            rng = np.random.default_rng(seed_of(seed, "quadruple", item))
            outfit_a = sample_outfit(rng, test=False)
            outfit_b = sample_change(rng, outfit_a, test=False)
            yield {
                "id": item,
                "caption_a": describe_outfit(outfit_a, rng),
                "caption_b": describe_outfit(outfit_b, rng),
                "edit_ab": describe_change(outfit_a, outfit_b, rng),
                "edit_ba": describe_change(outfit_b, outfit_a, rng),
                "outfits": [outfit_as_dict(outfit_a), outfit_as_dict(outfit_b)],
                "attempts": 1,
            }
