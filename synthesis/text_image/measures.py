"""How good the pictures and captions of a data set are, by the features of one CLIP.

- CLIPScore: 100 times the cosine similarity of a picture and its caption, at least 0, averaged over pairs.
- Fréchet distance: how far the features of two sets of pictures are apart, each taken for a Gaussian. It is the formula
  of FID over another network: CLIP's features say more of people than Inception's, and no second model is needed. Its
  numbers are comparable with each other under one CLIP and at equal sizes of the sets, never with published FIDs.
- Feature variance: the mean over dimensions of the variance of features of length 1. It is near 0 where all pictures
  look alike, and 1 / dimensions at most.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..settings import BatchSize, Free, ModelName, Settings

if TYPE_CHECKING:
    import torch

    from ..models.clip import ClipEncoder


class ClipMeasures(Settings):
    """Settings of the measures.

    Attributes:
        model: Folder or Hub id of a CLIP of transformers.
        revision: Of a model on the Hub.
        batch_size: Pictures or captions at a time.
        device: Such as "cuda:1"; by default a GPU where there is one.
    """

    model: ModelName
    revision: str | None = None
    batch_size: BatchSize = 64
    device: Free[str | None] = None

    def load(self) -> "ClipEncoder":
        """The encoder.

        Raises:
            SynthesisError: the model cannot be loaded, or is no CLIP.
        """
        from ..models.clip import ClipEncoder

        return ClipEncoder(self.model, self.revision, self.batch_size, self.device)


def measure_pictures(
    encoder: "ClipEncoder",
    pictures: Sequence[Path],
    captions: Sequence[str],
    reference: Sequence[Path] = (),
) -> dict[str, float]:
    """All the measures: `clip_score`, `feature_variance`, and where there are reference pictures `frechet_distance`.

    Args:
        encoder: Makes the features.
        pictures: Files; one that has several captions is named once for each.
        captions: One per picture.
        reference: Files of the pictures that these should be like, such as photographs.

    Raises:
        ValueError: there are not as many captions as pictures, or too few of either set.
    """
    if len(pictures) != len(captions):
        raise ValueError(f"expected a caption for each picture: {len(pictures)} pictures, {len(captions)} captions")
    distinct = list(dict.fromkeys(pictures))
    features = dict(zip(distinct, encoder.encode_images(distinct), strict=True))
    images = np.stack([features[file] for file in distinct])
    paired = np.stack([features[file] for file in pictures])
    measures = {
        "clip_score": clip_score(paired, encoder.encode_captions(captions)),
        "feature_variance": feature_variance(images),
    }
    if reference:
        measures["frechet_distance"] = frechet_distance(images, encoder.encode_images(reference))
    return measures


def clip_score(image_features: np.ndarray, caption_features: np.ndarray) -> float:
    """CLIPScore, from 0 to 100, of features (pairs, dimensions) of length 1."""
    return float(np.maximum(0, 100 * (image_features * caption_features).sum(axis=1)).mean())


def feature_variance(features: np.ndarray) -> float:
    """The mean over dimensions of the variance of features (pictures, dimensions)."""
    return float(features.var(axis=0).mean())


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """The Fréchet distance of two sets of features (pictures, dimensions), computed by torchmetrics in float64.

    Raises:
        ValueError: a set has fewer than two pictures.
    """
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Given(torch.nn.Module):
        """Takes features for pictures: they are there already."""

        num_features = features.shape[1]

        def forward(self, given: "torch.Tensor") -> "torch.Tensor":
            return given

    if min(len(features), len(reference)) < 2:
        raise ValueError(f"expected at least two pictures in each set: {len(features)} and {len(reference)}")
    metric = FrechetInceptionDistance(feature=Given()).set_dtype(torch.float64)
    metric.update(torch.from_numpy(reference.astype(np.float64)), real=True)
    metric.update(torch.from_numpy(features.astype(np.float64)), real=False)
    return max(0.0, float(metric.compute()))
