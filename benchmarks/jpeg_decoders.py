"""Other decoders than Pillow, on the same files. Run by indexing.py, in an environment that has them."""

import io
import statistics
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from indexing_turns import ROUNDS, files_of, in_turns
from PIL import Image


def measure_libraries(folder: Path) -> dict[str, dict[str, float]]:
    """CPU milliseconds of decoders of whole files in memory, and the largest difference from Pillow's pixels."""

    def pillow(data: bytes) -> Image.Image:
        image = Image.open(io.BytesIO(data))
        image.load()
        return image

    def kept(data: bytes) -> Image.Image:
        Image.core.set_blocks_max(4)  # until the next decoder's turn
        return pillow(data)

    def draft(data: bytes) -> Image.Image:
        image = Image.open(io.BytesIO(data))
        image.draft(None, (image.width // 4, image.height // 4))
        image.load()
        return image

    decoders = {"Pillow, new memory": pillow, "Pillow, memory kept": kept, "Pillow, 1/4": draft}
    with suppress(ImportError):
        import simplejpeg

        decoders["simplejpeg"] = simplejpeg.decode_jpeg
        decoders["simplejpeg, 1/4"] = partial(simplejpeg.decode_jpeg, min_height=700, min_width=900, min_factor=1)
        decoders["simplejpeg, to a PIL image"] = lambda data: Image.fromarray(simplejpeg.decode_jpeg(data))
    with suppress(ImportError):
        import cv2

        cv2.setNumThreads(1)
        decoders["OpenCV"] = lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        decoders["OpenCV, 1/4"] = lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_COLOR_4)
    with suppress(ImportError):
        import imageio.v3

        decoders["imageio"] = imageio.v3.imread
    found = {}
    for kind, rounds in ROUNDS.items():
        contents = [file.read_bytes() for file in files_of(folder, kind)]
        for name, decode in decoders.items():
            if kind == "crops" and "1/4" in name:
                continue
            Image.core.set_blocks_max(0)
            took = statistics.median(in_turns({"": partial(decode, data)}, rounds)[""] for data in contents)
            pixels, expected = np.asarray(decode(contents[0])), np.asarray(pillow(contents[0]))
            same = pixels.shape == expected.shape
            found.setdefault(name, {})[kind] = took
            if same:
                levels = int(np.abs(pixels.astype(int) - expected).max())
                found[name]["levels"] = max(levels, found[name].get("levels", 0))
    return found
