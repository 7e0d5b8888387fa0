"""Cheap gates: what pixels alone say of a pair, before a detector, CLIP or a judge looks at it.

Measures of a single image are taken of both halves, and the worse one counts. They do not depend on the resolution:
images are first brought to one height.
"""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from PIL import Image

from ..components import Gate, Record
from ..images import open_rgb
from ..settings import Settings
from ..splitting import seam_coverage
from .thresholds import UNIT, UPWARDS, Scale

_HEIGHT = 128  # images are measured at this height; smaller ones look blurred then, and are
_TINY = (16, 32)  # width and height at which two images are compared


class _PixelGate(Settings):
    """Settings of a gate that looks at the pixels of both halves and at nothing else."""

    names: ClassVar[tuple[str, ...]]
    scales: ClassVar[tuple[Scale, ...]]

    def load(self) -> Gate:
        """The gate, ready for work."""
        return _Pixels(self)

    @staticmethod
    @abstractmethod
    def _measure(left: Image.Image, right: Image.Image) -> tuple[float, ...]:
        """The scores of a pair of RGB images, in the order of their names."""


class _Pixels(Gate):
    def __init__(self, settings: _PixelGate):
        super().__init__()
        self.names, self._measure = settings.names, settings._measure

    def score(
        self, records: Sequence[Record], images: Sequence[tuple[Image.Image, Image.Image]]
    ) -> list[dict[str, float]]:
        return [
            {name: round(score, 4) for name, score in zip(self.names, self._measure(*pair), strict=True)}
            for pair in images
        ]


def open_halves(record: Record, folder: Path) -> tuple[Image.Image, Image.Image]:
    """Both images of a pair as RGB.

    Raises:
        SynthesisError: one is missing or damaged.
    """
    return open_rgb(folder / record["left"]), open_rgb(folder / record["right"])


class BlankGate(_PixelGate):
    """Settings of the gate that finds images with little in them.

    Its scores: `contrast`, the standard deviation of the grey levels (0 to 128), and their `entropy` in bits (0 to 6),
    both without what whole rows or columns share, so that a smooth gradient is as blank as one colour.
    """

    kind: Literal["blank"] = "blank"
    names: ClassVar[tuple[str, ...]] = ("contrast", "entropy")
    scales: ClassVar[tuple[Scale, ...]] = ((0.0, 128.0), (0.0, 7.0))

    @staticmethod
    def _measure(left: Image.Image, right: Image.Image) -> tuple[float, ...]:
        halves = _reduced(left), _reduced(right)
        return min(map(contrast, halves)), min(map(entropy, halves))


class BlurGate(_PixelGate):
    """Settings of the gate that finds blurred and noisy images.

    Its scores: `sharpness`, how much steepness an image loses when it is blurred a little (0 to 1; below about 0.2
    it is blurred); `noise`, the strength of the grain in grey levels (0 upwards).
    """

    kind: Literal["blur"] = "blur"
    names: ClassVar[tuple[str, ...]] = ("sharpness", "noise")
    scales: ClassVar[tuple[Scale, ...]] = (UNIT, (0.0, 255.0))

    @staticmethod
    def _measure(left: Image.Image, right: Image.Image) -> tuple[float, ...]:
        halves = _reduced(left), _reduced(right)
        return min(map(sharpness, halves)), max(map(noise, halves))


class AspectGate(_PixelGate):
    """Settings of the gate that measures sizes.

    Its scores: `height` in pixels of the lower half; `aspect`, width divided by height of the wider one; `evenness`,
    the smaller area divided by the larger one.
    """

    kind: Literal["aspect"] = "aspect"
    names: ClassVar[tuple[str, ...]] = ("height", "aspect", "evenness")
    scales: ClassVar[tuple[Scale, ...]] = (UPWARDS, UPWARDS, UNIT)

    @staticmethod
    def _measure(left: Image.Image, right: Image.Image) -> tuple[float, ...]:
        areas = sorted(half.width * half.height for half in (left, right))
        aspect = max(half.width / half.height for half in (left, right))
        return min(left.height, right.height), aspect, areas[0] / areas[1]


class TwinGate(_PixelGate):
    """Settings of the gate that finds pairs in which nothing changed at all.

    Its score: `difference`, the mean difference of both images reduced to 16 x 32 pixels, in grey levels. The right
    one is also compared mirrored, and the smaller difference counts.
    """

    kind: Literal["twin"] = "twin"
    names: ClassVar[tuple[str, ...]] = ("difference",)
    scales: ClassVar[tuple[Scale, ...]] = ((0.0, 255.0),)

    @staticmethod
    def _measure(left: Image.Image, right: Image.Image) -> tuple[float, ...]:
        first, second = (
            np.asarray(half.resize(_TINY, Image.Resampling.BOX), dtype=np.float32) for half in (left, right)
        )
        return (float(min(np.abs(first - other).mean() for other in (second, second[:, ::-1]))),)


class SeamGate(_PixelGate):
    """Settings of the gate that finds what is left of a seam, or a further one.

    Its score: `seam`, the share of the height over which a half still shows a seam (0 to 1).
    """

    kind: Literal["seam"] = "seam"
    names: ClassVar[tuple[str, ...]] = ("seam",)
    scales: ClassVar[tuple[Scale, ...]] = (UNIT,)

    @staticmethod
    def _measure(left: Image.Image, right: Image.Image) -> tuple[float, ...]:
        return (float(max(seam_coverage(half).max() for half in (left, right))),)


# Measures of one image, RGB or grey


def contrast(image: Image.Image) -> float:
    """Standard deviation of the grey levels, without what rows and columns share."""
    return float(_levelled(image).std())


def entropy(image: Image.Image) -> float:
    """Entropy of the same levels in bits, in steps of 4 levels so that a little noise adds little."""
    counts = np.histogram(_levelled(image), bins=128, range=(-256, 256))[0]
    shares = counts[counts > 0] / counts.sum()
    return abs(float((shares * np.log2(shares)).sum()))


def sharpness(image: Image.Image) -> float:
    """Share of the steps between neighbouring pixels that goes when the image is blurred; 0 for a flat image."""
    grey = _grey(image)
    total = lost = 0.0
    for axis in (0, 1):
        # Blurring along an axis takes away what is sharp along it, and little of what is blurred already.
        blurred = np.mean([np.roll(grey, shift, axis) for shift in (-2, -1, 0, 1, 2)], axis=0)
        before, after = (np.abs(np.diff(pixels, axis=axis))[4:-4, 4:-4] for pixels in (grey, blurred))
        total += float(before.sum())
        lost += float(np.maximum(before - after, 0).sum())
    return lost / total if total else 0.0


def noise(image: Image.Image) -> float:
    """Standard deviation of the grain, from the differences of neighbouring pixels where there is little else."""
    grey = _grey(image)
    # The second difference both ways is zero on slopes and straight edges; for noise its deviation is 6 times as large.
    across = grey[:, :-2] - 2 * grey[:, 1:-1] + grey[:, 2:]
    both = across[:-2] - 2 * across[1:-1] + across[2:]
    return float(np.median(np.abs(both)) / 0.6745 / 6)


def _levelled(image: Image.Image) -> np.ndarray:
    """Grey levels less the means of their rows and columns."""
    grey = _grey(image)
    return grey - grey.mean(axis=0, keepdims=True) - grey.mean(axis=1, keepdims=True) + grey.mean()


def _grey(image: Image.Image) -> np.ndarray:
    """Grey levels (height, width) float32 at the common height."""
    return np.asarray(_reduced(image), dtype=np.float32)


def _reduced(image: Image.Image) -> Image.Image:
    """The image in grey at the common height, reduced or enlarged; unchanged if it is so already."""
    size = (max(8, round(image.width * _HEIGHT / image.height)), _HEIGHT)
    return image.convert("L").resize(size, Image.Resampling.BOX)
