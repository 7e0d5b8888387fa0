"""How people look: the colours of their upper and lower clothes, to tell those apart who pass each other in a film.

Colours are told apart by their tint more than by their light, which changes in the shade. Faces and shapes do not
count: where clothes are alike, so are these looks.
"""

import numpy as np
from PIL import Image

from .crops import MARGIN

# Chosen on films of benchmarks/walking_people.py, of other seeds than those whose figures it publishes.
DIFFERENT, ALIKE = 0.1, 0.03  # difference of looks from which on it is another person, up to which it is the same
SHADE = 2  # steps of light that shade takes: by so much alone, nobody is another person

_CLOTHES = (0.15, 0.5), (0.5, 0.9)  # where the upper and the lower ones are, in shares of the height
_PATCH = 16, 24  # pixels to which each is brought
_TINTS, _LIGHTS = 24, 8  # steps of the shares of red and of green, and of the light
_BLUR = 2.0  # steps: with fewer, and less of it, one in even clothes would jump from step to step as the light changes
_LOW, _HIGH = 0.08, 0.68  # between which most shares are: in grey a third
_DARK = 30  # of red, green and blue together: of less, the tint is chance


def looks_of(image: Image.Image, margin: float = MARGIN) -> np.ndarray:
    """The colours of a person in a crop.

    Args:
        margin: what the crop has on every side, as a share of the height of the person.

    Returns:
        two blurred histograms, (2, tints, lights), each of the sum 1.
    """
    from scipy.ndimage import gaussian_filter

    edge = image.height * margin / (1 + 2 * margin)
    height, side = image.height - 2 * edge, edge + (image.width - 2 * edge) / 4  # beside the middle half is background
    looks = []
    for top, bottom in _CLOTHES:
        box = (side, edge + top * height, image.width - side, edge + bottom * height)
        pixels = np.asarray(image.resize(_PATCH, Image.Resampling.BOX, box=box), np.float64).reshape(-1, 3)
        shares = pixels[:, :2] / (pixels.sum(axis=1, keepdims=True) + _DARK)
        places = np.column_stack([(shares - _LOW) / (_HIGH - _LOW), pixels.mean(axis=1) / 256]).clip(0, 1)
        counts, _ = np.histogramdd(places, (_TINTS, _TINTS, _LIGHTS), range=[(0, 1)] * 3)
        looks.append(gaussian_filter(counts, _BLUR).reshape(-1, _LIGHTS) / len(pixels))
    return np.stack(looks)


def difference_of(looks: np.ndarray, others: np.ndarray, shade: int = 0) -> float:
    """How different two people look, from 0 to 1: one minus the Bhattacharyya coefficient of each of the two clothes.

    Args:
        shade: steps of light by which one of the two may be lighter.
    """
    shaded = (np.roll(others, step, axis=2) for step in range(-shade, shade + 1))
    return 1 - max(float(np.sqrt(looks * one).sum() / len(looks)) for one in shaded)
