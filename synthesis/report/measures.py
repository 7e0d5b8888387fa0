"""Measures how good the images and captions of a data set are, by the features of one CLIP.

- CLIPScore: 100 times the cosine similarity of an image and its caption, at least 0, averaged over pairs.
- Fréchet distance: how far the features of two sets of images are apart, each treated as a Gaussian. It is the formula
  of FID over another network: CLIP's features say more of people than Inception's, and no second model is needed. Its
  numbers are comparable with each other under one CLIP and at equal sizes of the sets, never with published FIDs.
- Feature variance: the mean over dimensions of the variance of features of length 1. It is near 0 where all images look
  alike, and 1 / dimensions at most.
"""

import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import numpy as np
from pydantic import Field, model_validator

from ..components import SynthesisError
from ..images import list_images
from ..settings import BatchSize, Free, ModelName, Settings
from .diversity import embedding_spread

if TYPE_CHECKING:
    import torch

    from ..models.clip import ClipEncoder


logger = logging.getLogger(__name__)

Item = TypeVar("Item")


class ClipMeasures(Settings):
    """The CLIP of the measures."""

    model: ModelName  # folder or Hub id of a CLIP of transformers
    revision: str | None = None  # revision of a model on the Hub
    batch_size: BatchSize = 64  # images or captions at a time
    device: Free[str | None] = None  # for example "cuda:1"; by default a GPU where there is one

    def load(self) -> "ClipEncoder":
        """The encoder.

        Raises:
            SynthesisError: the model cannot be loaded, or is not a CLIP.
        """
        from ..models.clip import ClipEncoder

        return ClipEncoder(self.model, self.revision, self.batch_size, self.device)


class StatisticsSettings(Settings):
    """What models measure of the data set, beside what is counted; nothing unless a model is named."""

    clip: ClipMeasures | None = None  # CLIP, for CLIPScore of captions and images and the variance of images
    reference: str | None = None  # a folder of photographs, for a Fréchet distance to them
    sentences: str | None = None  # a sentence-transformers model, folder or Hub id, for the spread of captions
    # the most texts, pairs of image and caption, and photographs to measure, sampled at random
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
            embedding_spread(["a red coat", "a blue hat"], self.sentences)
        if self.clip and not np.isfinite(self.clip.load().encode_captions(["a red coat"])).all():
            raise SynthesisError(
                f"{self.clip.model}: gives no finite numbers: its weights are damaged; take another model"
            )

    def measure(self, captions: Sequence[str], pairs: Sequence[tuple[Path, str]], seed: int) -> dict[str, float]:
        """The measures of these captions, and of these images and their captions.

        Fewer than two texts or two images are not measured, and a warning says so.

        Args:
            captions: Those of the data set.
            pairs: Files and captions; a file with several captions is named once for each.
            seed: Seed for the sample that is measured.

        Raises:
            SynthesisError: a model cannot be loaded, or there are fewer than two images under `reference`.
        """
        found: dict[str, float] = {}
        if self.sentences and _are_enough(captions, "captions"):
            found |= embedding_spread(captions, self.sentences, max_texts=self.sample, seed=seed)
        chosen = self._sample(pairs, seed)
        if self.clip and _are_enough({image for image, _ in chosen}, "images"):
            reference = self._sample(self._photographs(), seed) if self.reference else []
            images, texts = zip(*chosen, strict=True)
            found |= measure_images(self.clip.load(), images, texts, reference)
        return found

    def _photographs(self) -> list[Path]:
        found = list_images(Path(self.reference))
        if len(found) == 1:
            raise SynthesisError(f"{self.reference}: expected at least two images, found one: add more")
        return found

    def _sample(self, items: Sequence[Item], seed: int) -> list[Item]:
        return random.Random(seed).sample(items, min(self.sample, len(items)))


def measure_images(
    encoder: "ClipEncoder", images: Sequence[Path], captions: Sequence[str], reference: Sequence[Path] = ()
) -> dict[str, float]:
    """All the measures: `clip_score`, `feature_variance`, and where there are reference images `frechet_distance`.

    Args:
        encoder: Makes the features.
        images: Files; one with several captions is named once for each.
        captions: One per image.
        reference: Files of the images that these should resemble, such as photographs.

    Raises:
        ValueError: there are not as many captions as images, or too few of either set.
    """
    distinct = list(dict.fromkeys(images))
    features = encoder.encode_images(distinct)
    places = {file: place for place, file in enumerate(distinct)}
    of_captions = [places[file] for file, _ in zip(images, captions, strict=True)]
    measures = {
        "clip_score": clip_score(features[of_captions], encoder.encode_captions(captions)),
        "feature_variance": feature_variance(features),
    }
    if reference:
        measures["frechet_distance"] = frechet_distance(features, encoder.encode_images(reference))
    return measures


def clip_score(image_features: np.ndarray, caption_features: np.ndarray) -> float:
    """CLIPScore, from 0 to 100, of features (pairs, dimensions) of length 1."""
    return float(np.maximum(0, 100 * (image_features * caption_features).sum(axis=1)).mean())


def feature_variance(features: np.ndarray) -> float:
    """The mean over dimensions of the variance of features (images, dimensions)."""
    return float(features.var(axis=0).mean())


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """The Fréchet distance of two sets of features (images, dimensions), computed by torchmetrics in float64.

    Raises:
        ValueError: a set has fewer than two images.
    """
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Given(torch.nn.Module):
        """Stands in for the network: takes features as they are."""

        num_features = features.shape[1]

        def forward(self, given: "torch.Tensor") -> "torch.Tensor":
            return given

    if min(len(features), len(reference)) < 2:
        raise ValueError(f"expected at least two images in each set: {len(features)} and {len(reference)}")
    metric = FrechetInceptionDistance(feature=Given()).set_dtype(torch.float64)
    metric.update(torch.from_numpy(reference.astype(np.float64)), real=True)
    metric.update(torch.from_numpy(features.astype(np.float64)), real=False)
    return max(0.0, float(metric.compute()))


def _are_enough(items: Sequence | set, what: str) -> bool:
    if len(items) < 2:
        logger.warning("%d %s: too few to measure", len(items), what)
    return len(items) >= 2
