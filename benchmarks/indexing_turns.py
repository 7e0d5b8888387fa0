"""What the measurements of indexing share: photographs and crops, and calls that take turns under one clock."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PHOTOGRAPH, CROP = (4032, 3024), (128, 256)  # width, height
NUM_PHOTOGRAPHS, NUM_CROPS = 3, 96
ROUNDS = {"photographs": 3, "crops": 9}


def write_images(folder: Path) -> None:
    """Photographs and crops, as files of a kind."""
    import sklearn.datasets

    sources = [Image.fromarray(image) for image in sklearn.datasets.load_sample_images().images]
    for kind, number in (("photographs", NUM_PHOTOGRAPHS), ("crops", NUM_CROPS)):
        (folder / kind).mkdir()
        for row in range(number):
            rng = np.random.default_rng(row)
            image = sources[row % 2]
            width, height = (560, 420) if kind == "photographs" else CROP
            left, top = rng.integers(0, image.width - width), rng.integers(0, image.height - height)
            image = image.crop((left, top, left + width, top + height))
            if kind == "photographs":
                pixels = np.asarray(image.resize(PHOTOGRAPH, Image.Resampling.BICUBIC)).astype(np.float32)
                pixels += 4 * rng.standard_normal(pixels.shape, dtype=np.float32)
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / kind / f"{row}.jpg", quality=90)


def files_of(folder: Path, kind: str) -> list[Path]:
    """The images of a kind, sorted."""
    return sorted((folder / kind).iterdir())


def in_turns(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], Any] = time.process_time,
    of_rounds: Callable[..., Any] = np.min,
) -> dict[str, Any]:
    """Milliseconds of each call, by one clock or an array of several; the calls take turns.

    The least of all rounds is that which other programs disturbed least.
    """
    spent: dict[str, list] = {name: [] for name in calls}
    for turn in range(rounds):
        for name in list(calls)[:: 1 if turn % 2 else -1]:
            start = clock()
            calls[name]()
            spent[name].append(1e3 * (clock() - start))
    return {name: of_rounds(times, axis=0).tolist() for name, times in spent.items()}
