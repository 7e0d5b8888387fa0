"""How a dual encoder's training changes images and captions: two of six operations on an image, words left out.

SynTBPR's released code chooses two of six at random, with replacement. Which six these are here, and how strong, is our
choice.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

_JITTER = 0.1  # of brightness, contrast and saturation: a factor within 1 ± 0.1
_MOST_DEGREES = 15
_LEAST_AREA = 0.9  # of a resized crop
_ERASED = (0.1, 0.2)  # share of the image
_ERASED_ASPECT = (0.3, 3.3)  # height over width


def augment_image(image: Image.Image, rng: np.random.Generator, num_operations: int = 2) -> Image.Image:
    """Applies some of the six operations, chosen at random with replacement.

    Args:
        image: RGB.
        rng: source of all that is random.
        num_operations: how many; 0 leaves the image as it is.

    Returns:
        RGB, of the same size.
    """
    for chosen in rng.integers(len(OPERATIONS), size=num_operations).tolist():
        image = list(OPERATIONS.values())[chosen](image, rng)
    return image


def delete_words(caption: str, rng: np.random.Generator, share: float = 0.05) -> str:
    """Leaves out words at random, each with the same probability; one stays.

    Args:
        caption: words divided by blanks.
        share: probability that a word is left out (released code: 0.05).
    """
    words = caption.split()
    if not words or share == 0.0:
        return caption
    stays = rng.random(len(words)) >= share
    stays[rng.integers(len(words))] |= not stays.any()
    return " ".join(word for word, one in zip(words, stays, strict=True) if one)


def _mirror(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.mirror(image) if rng.random() < 0.5 else image


def _jitter(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(1 - _JITTER, 1 + _JITTER))
    return image


def _rotate(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.rotate(rng.uniform(-_MOST_DEGREES, _MOST_DEGREES), Image.Resampling.BILINEAR)


def _crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Within it a part of nearly its area and of its own shape, made as large as it was."""
    side = math.sqrt(rng.uniform(_LEAST_AREA, 1.0))
    width, height = side * image.width, side * image.height
    left, top = rng.random() * (image.width - width), rng.random() * (image.height - height)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))


def _grey(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.convert("L").convert("RGB") if rng.random() < 0.1 else image


def _erase(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A rectangle in the image's mean colour."""
    area, aspect = rng.uniform(*_ERASED), math.exp(rng.uniform(*map(math.log, _ERASED_ASPECT)))
    area *= image.width * image.height
    height = min(image.height, max(1, round(math.sqrt(area * aspect))))
    width = min(image.width, max(1, round(math.sqrt(area / aspect))))
    left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
    pixels = np.array(image)
    pixels[top : top + height, left : left + width] = pixels.mean(axis=(0, 1))
    return Image.fromarray(pixels)


OPERATIONS: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "mirror": _mirror,
    "jitter": _jitter,
    "rotate": _rotate,
    "crop": _crop,
    "grey": _grey,
    "erase": _erase,
}
