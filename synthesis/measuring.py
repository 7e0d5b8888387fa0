"""What models measure of a finished data set, for its statistics page."""

import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
from pydantic import Field, model_validator

from .components import SynthesisError
from .pictures import list_pictures
from .settings import Settings
from .text_image.measures import ClipMeasures, measure_pictures

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


class StatisticsSettings(Settings):
    """What is measured of the data set by models, beside what is counted; nothing unless a model is named.

    Attributes:
        clip: CLIP, for CLIPScore of captions and pictures and the variance of pictures.
        reference: A folder of photographs, to which CLIP measures a Fréchet distance.
        sentences: A sentence-transformers model, folder or Hub id, for the spread of captions.
        sample: Texts, pairs of picture and caption, and photographs that are measured at most, drawn at random.
    """

    clip: ClipMeasures | None = None
    reference: str | None = None
    sentences: str | None = None
    sample: Annotated[int, Field(ge=2, le=10**9)] = 5_000

    @model_validator(mode="after")
    def _check_reference(self) -> "StatisticsSettings":
        if self.reference and not self.clip:
            raise ValueError("reference: the Fréchet distance needs clip, too")
        return self

    @property
    def needs_models(self) -> bool:
        """Whether there is anything to measure."""
        return bool(self.clip or self.sentences)

    def try_out(self) -> None:
        """Load the models, one after the other, and look for the photographs, before there is anything to measure.

        Raises:
            SynthesisError: as `measure`.
        """
        if self.reference:
            self._photographs()
        if self.sentences:
            from .quadruples.diversity import embedding_spread

            embedding_spread(["a red coat", "a blue hat"], self.sentences)
        if self.clip and not np.isfinite(self.clip.load().encode_captions(["a red coat"])).all():
            raise SynthesisError(f"{self.clip.model}: gives no numbers: its weights are damaged; take another model")

    def measure(self, captions: Sequence[str], pairs: Sequence[tuple[Path, str]], seed: int) -> dict[str, float]:
        """The measures of these captions, and of these pictures and their captions.

        What there is too little of, two texts or two pictures at least, is not measured, and a warning says so.

        Args:
            captions: Of the data set.
            pairs: Files and captions; a file that has several captions is named once for each.
            seed: Of the choice of what is measured.

        Raises:
            SynthesisError: a model cannot be loaded, or there are fewer than two pictures under `reference`.
        """
        found: dict[str, float] = {}
        if self.sentences and _are_enough(captions, "captions"):
            from .quadruples.diversity import embedding_spread

            found |= embedding_spread(captions, self.sentences, max_texts=self.sample, seed=seed)
        chosen = self._draw(pairs, seed)
        if self.clip and _are_enough({picture for picture, _ in chosen}, "pictures"):
            reference = self._draw(self._photographs(), seed) if self.reference else []
            pictures, texts = zip(*chosen, strict=True)
            found |= measure_pictures(self.clip.load(), pictures, texts, reference)
        return found

    def _photographs(self) -> list[Path]:
        found = list_pictures(Path(self.reference))
        if len(found) == 1:
            raise SynthesisError(f"{self.reference}: expected two pictures at least, found one: add more")
        return found

    def _draw(self, items: Sequence[Item], seed: int) -> list[Item]:
        return random.Random(seed).sample(items, min(self.sample, len(items)))


def _are_enough(items: Sequence | set, what: str) -> bool:
    if len(items) < 2:
        logger.warning("%d %s: too few to be measured", len(items), what)
    return len(items) >= 2
