"""How good the pictures and captions of a data set are, by the features of one CLIP.

- CLIPScore: 100 times the cosine similarity of a picture and its caption, at least 0, averaged over pairs.
- Fréchet distance: how far the features of two sets of pictures are apart, each taken for a Gaussian. It is the formula
  of FID over another network: CLIP's features say more of people than Inception's, and no second model is needed. Its
  numbers are comparable with each other under one CLIP and at equal sizes of the sets, never with published FIDs.
- Feature variance: the mean over dimensions of the variance of features of length 1. It is near 0 where all pictures
  look alike, and 1 / dimensions at most.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..components import SynthesisError, free
from ..pictures import open_picture

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ClipMeasures:
    """Settings of the measures.

    Attributes:
        model: Folder or Hub id of a CLIP of transformers.
        revision: Of a model on the Hub.
        batch_size: Pictures or captions at a time.
        device: Such as "cuda:1"; by default a GPU where there is one.
    """

    model: str
    revision: str | None = None
    batch_size: int = 64
    device: str | None = free(None)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1: {self.batch_size}")

    def load(self) -> "ClipEncoder":
        """The encoder.

        Raises:
            SynthesisError: the model cannot be loaded, or is no CLIP.
        """
        return ClipEncoder(self)


class ClipEncoder:
    """CLIP, ready for work.

    Attributes:
        about: Name and revision of the model.
    """

    def __init__(self, settings: ClipMeasures):
        from transformers import AutoModel, AutoProcessor

        from ..filtering.vision import Batches, find_device, load_pretrained

        options = {"revision": settings.revision} if settings.revision else {}
        self.device = find_device(settings.device)
        self.processor = load_pretrained(AutoProcessor, settings.model, backend="pil", **options)
        self.model = load_pretrained(AutoModel, settings.model, **options).to(self.device).eval()
        if not hasattr(self.model, "get_text_features"):
            raise SynthesisError(f"{settings.model}: expected CLIP, found {type(self.model).__name__}; set `model`")
        self.batches = Batches(settings.batch_size)
        self.about = {"model": settings.model, "revision": getattr(self.model.config, "_commit_hash", None)}

    def encode_images(self, files: Iterable[Path]) -> np.ndarray:
        """Features (pictures, dimensions) of length 1, float32.

        Raises:
            SynthesisError: a file cannot be read.
        """
        return np.stack(self.batches.map(self._encode_images, files))

    def encode_captions(self, captions: Iterable[str]) -> np.ndarray:
        """Features (captions, dimensions) of length 1, float32; what is too long for the model is cut off."""
        return np.stack(self.batches.map(self._encode_captions, captions))

    def _encode_images(self, files: list[Path]) -> list[np.ndarray]:
        return self._encode(self.model.get_image_features, images=[open_picture(file) for file in files])

    def _encode_captions(self, captions: list[str]) -> list[np.ndarray]:
        return self._encode(self.model.get_text_features, text=captions, padding="max_length", truncation=True)

    def _encode(self, features, **inputs) -> list[np.ndarray]:
        import torch

        with torch.inference_mode():
            found: torch.Tensor = features(
                **self.processor(**inputs, return_tensors="pt").to(self.device)
            ).pooler_output
        return list(torch.nn.functional.normalize(found.float(), dim=-1).cpu().numpy())


def measure_pictures(
    encoder: ClipEncoder,
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
