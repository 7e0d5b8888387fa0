"""What makes a painted world harder, as real data is: images that are blurred or partly hidden, captions of others."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

CAPTIONS = ("edit_caption", "reference_caption", "target_caption")
_BLUR = (0.012, 0.03)  # radius, least and most, as a share of the image's height
_HIDDEN = (0.25, 0.5)  # share of the height that something in front of the person takes


def spoil_image(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blurs an image, or hides a part of the person behind something grey; of the same size."""
    if rng.random() < 0.5:
        return image.filter(ImageFilter.GaussianBlur(image.height * rng.uniform(*_BLUR)))
    height = round(image.height * rng.uniform(*_HIDDEN))
    top = int(rng.integers(image.height - height + 1))
    spoilt = image.copy()
    spoilt.paste(tuple(int(level) for level in rng.integers(60, 190, 3)), (0, top, image.width, top + height))
    return spoilt


def swap_captions(triplets: Sequence[dict], share: float, rng: np.random.Generator) -> list[dict]:
    """Gives a share of the triplets the captions of another group; all else stays as it is.

    Args:
        triplets: records of SynCPR.json.
        share: how many of them, from 0 to 1, rounded to whole triplets.
        rng: of the choice.

    Returns:
        the records in order; those that were changed say so by `"caption_is_wrong": true`, which no builder reads.
    """
    groups = np.array([triplet["cpr_id"] // 2 for triplet in triplets])
    if share and (groups == groups[0]).all():
        raise ValueError("caption_noise: all triplets are of one group, so that no caption is wrong for another")
    swapped = list(triplets)
    for row in rng.permutation(len(triplets))[: round(share * len(triplets))].tolist():
        other = row
        while groups[other] == groups[row]:
            other = int(rng.integers(len(triplets)))
        texts = {name: triplets[other][name] for name in CAPTIONS}
        swapped[row] = triplets[row] | texts | {"caption_is_wrong": True}
    return swapped
