"""The released training augmentation of one person crop."""

import numpy as np
from PIL import Image, ImageOps

RELEASED_PADDING, RELEASED_HEIGHT = 10, 384


def augment_person_crop(crop: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Mirrors a person crop half of the time and shifts it by a few pixels.

    Released code: horizontal flip with probability 0.5, 10 pixels of black on each side of 384 x 192, a random crop of
    the old size. It expects images of that size; here the padding is in proportion where crops are smaller.

    Args:
        crop: RGB, of the processor's `person_size`, which the result has, too.
        rng: three numbers are taken from it.
    """
    padding = round(crop.height * RELEASED_PADDING / RELEASED_HEIGHT)
    left, top = rng.integers(0, 2 * padding + 1, size=2).tolist()
    return apply_augmentation(crop, rng.random() < 0.5, padding, left, top)


def apply_augmentation(crop: Image.Image, mirrored: bool, padding: int, left: int, top: int) -> Image.Image:
    """The augmentation with its random numbers given: mirror, pad, and crop at (left, top) of the padded image."""
    if mirrored:
        crop = ImageOps.mirror(crop)
    shifted = Image.new(crop.mode, crop.size)
    shifted.paste(crop, (padding - left, padding - top))
    return shifted
