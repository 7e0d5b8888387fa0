"""Reference images as cameras and networks spoil them: seven corruptions (ITCPR-C), severities 1 to 5.

Each takes an RGB image, a severity and a random generator, and gives an image of the same size. Noise, brightness and
contrast are in parts of the full range; lengths are pixels of an image 384 high, and scaled to others. An image that is
higher is first reduced to that height, as no model looks at more: otherwise a severity would mean less the larger the
photograph is. The constants are those that users of the released FAFA code measured it with; the box is ours.
"""

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from ...image_reading_fafa import open_image

HEIGHT = 384  # at which lengths are given

NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)  # standard deviation
BLUR = (5, 7, 9, 11, 13)  # length of the movement, pixels
BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)  # added
CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)  # factor of the distance to the mean
PIXELATE = (0.6, 0.5, 0.4, 0.3, 0.25)  # factor of both sides, before the image is enlarged again
JPEG = (25, 18, 15, 10, 7)  # quality
BOX = (0.1, 0.2, 0.3, 0.4, 0.5)  # part of the area that a grey box hides


def add_noise(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """Gaussian noise of every pixel and channel."""
    pixels = _pixels(image)
    return _image(pixels + rng.normal(0, NOISE[severity - 1], pixels.shape))


def blur_motion(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """The mean of the image along a line of a random direction, as of a camera that moves."""
    length, angle, pixels = BLUR[severity - 1] * image.height / HEIGHT, rng.uniform(0, math.pi), _pixels(image)
    edge = math.ceil(length / 2) + 1
    kernel = np.zeros((2 * edge + 1, 2 * edge + 1))
    for step in np.linspace(-length / 2, length / 2, 4 * edge + 1):  # each shared among the four pixels around it
        down, right = edge + step * math.sin(angle), edge + step * math.cos(angle)
        top, left = int(down), int(right)
        kernel[top : top + 2, left : left + 2] += np.outer(
            (top + 1 - down, down - top), (left + 1 - right, right - left)
        )
    padded = np.pad(pixels, ((edge, edge), (edge, edge), (0, 0)), mode="edge")
    height, width = pixels.shape[:2]
    shifts = zip(*kernel.nonzero(), strict=True)
    total = sum(kernel[top, left] * padded[top : top + height, left : left + width] for top, left in shifts)
    return _image(total / kernel.sum())


def brighten(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """Light added everywhere."""
    return _image(_pixels(image) + BRIGHTNESS[severity - 1])


def flatten_contrast(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """Every channel nearer to its mean."""
    pixels = _pixels(image)
    mean = pixels.mean(axis=(0, 1))
    return _image(mean + CONTRAST[severity - 1] * (pixels - mean))


def pixelate(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """Fewer pixels, each drawn as a block."""
    factor = PIXELATE[severity - 1]
    small = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST)


def compress(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """JPEG of low quality."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=JPEG[severity - 1])
    return open_image({"bytes": stream.getvalue()})


def hide(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """A grey box of the image's shape somewhere before the person."""
    side = math.sqrt(BOX[severity - 1])
    width, height = round(side * image.width), round(side * image.height)
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    hidden = image.copy()
    hidden.paste((127, 127, 127), (left, top, left + width, top + height))
    return hidden


CORRUPTIONS: dict[str, Callable[[Image.Image, int, np.random.Generator], Image.Image]] = {
    "noise": add_noise,
    "motion blur": blur_motion,
    "brightness": brighten,
    "contrast": flatten_contrast,
    "pixels": pixelate,
    "JPEG": compress,
    "box": hide,
}


def no_higher(image: Image.Image) -> Image.Image:
    """The image, reduced to `HEIGHT` where it is higher."""
    if image.height <= HEIGHT:
        return image
    return image.resize((max(1, round(image.width * HEIGHT / image.height)), HEIGHT), Image.Resampling.BICUBIC)


def blend(image: Image.Image, other: Image.Image, strength: float) -> Image.Image:
    """Two photographs over one another, the other one with this weight; of the size of the first."""
    return Image.blend(image, other.resize(image.size, Image.Resampling.BICUBIC), strength)


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64) / 255


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))
