"""Several entries of one image: its parts, such as the people in a photograph, are cut out of it and encoded."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..checks_fafa import AlikeFeatures
from ..image_reading_fafa import InaccessibleImageError, UnreadableImageError, open_image
from ..names import printable
from ..retriever import Retriever, RetrieverProcessor
from ..workers import num_cores
from .filling import Encode
from .fingerprint import PEOPLE
from .forward import forward
from .reading import MAX_DEFAULT_WORKERS

_IMAGES_AT_ONCE = 8  # looked at together; as many more are read meanwhile: 12 megapixels take 36 MB


class Cut(NamedTuple):
    """A part of an image that is an entry of its own.

    Args:
        box: left, top, right, bottom in whole pixels of the upright image.
        tags: what else is known of it, see `metadata.Entry`.
    """

    box: tuple[int, int, int, int]
    tags: Mapping[str, str | float | bool]


class Cutter(Protocol):
    """What finds the parts of images.

    Attributes:
        settings: what decides them, noted with the gallery, which is one of these settings only.
    """

    settings: Mapping[str, Any]

    def cut(self, images: Sequence[Image.Image]) -> list[list[Cut]]:
        """The parts of each image, upright and RGB; one without any becomes an entry as a whole."""


def cut_encoder(
    model: Retriever,
    processor: RetrieverProcessor,
    images: Sequence[Any],
    cutter: Cutter,
    batch_size: int,
    num_workers: int | None,
    on_error: str,
    passing: set[int],
    facts: dict[int, list[dict[str, Any]]],
) -> Encode:
    """What encodes the parts of images: an image's row comes once for each, and all of them at once.

    Every image is decoded once, in full, in threads, while others are looked at and encoded.

    Args:
        num_workers: threads; None: one a core, up to 8.
        passing: takes the rows of images that cannot be read now, and maybe later.
        facts: takes what is known of each part, `box` and `tags`, by the image's row, in the order of its parts.
        model, processor, images, batch_size, on_error: as for `encode_images`.
    """
    alike, crops_of = AlikeFeatures(), processor.for_images()
    num_threads = min(MAX_DEFAULT_WORKERS, num_cores()) if num_workers is None else max(1, num_workers)

    def read(row: int) -> Image.Image | Exception:
        try:
            return open_image(images[row], f"gallery image {row}")
        except (UnreadableImageError, FileNotFoundError, InaccessibleImageError) as error:
            return error

    def cut_out(image: Image.Image, parts: Sequence[Cut]) -> list[np.ndarray]:
        whole = 0, 0, *image.size
        boxes = [part.box for part in parts] or [whole]
        return [crops_of.resize_crop(crops_of.open_crop(image.crop(box))) for box in boxes]

    def encode_crops(crops: Sequence[np.ndarray]) -> Tensor:
        found = [torch.empty(0, *model.feature_shape)]
        for start in range(0, len(crops), batch_size):
            pixels = processor.to_pixels(list(crops[start : start + batch_size]))
            found.append(forward(model, model.get_target_features, pixel_values=pixels.to(model.device)).cpu())
            alike.check(found[-1], pixels)
        return torch.cat(found)

    def encode(shards: Iterable[Sequence[int]]) -> Iterator[tuple[list[int], list[int], Tensor]]:
        with ThreadPoolExecutor(num_threads) as threads:
            ahead = _read_ahead(threads, read, (row for shard in shards for row in shard))
            try:
                while group := list(islice(ahead, _IMAGES_AT_ONCE)):
                    errors = {row: image for row, image in group if isinstance(image, Exception)}
                    if errors and on_error != "skip":
                        raise next(iter(errors.values()))
                    passing.update(row for row, error in errors.items() if isinstance(error, OSError))
                    sound = {row: image for row, image in group if row not in errors}
                    parts = cutter.cut(list(sound.values())) if sound else []
                    rows, crops = [], []
                    for row, own, cut in zip(sound, parts, threads.map(cut_out, sound.values(), parts), strict=True):
                        facts[row] = [part._asdict() for part in own] or [{}]
                        rows += [row] * len(cut)
                        crops += cut
                    yield rows, list(errors), encode_crops(crops)
            finally:
                threads.shutdown(cancel_futures=True)

    return encode


def _read_ahead(threads: ThreadPoolExecutor, read: Any, rows: Iterator[int]) -> Iterator[tuple[int, Any]]:
    """Each row with what was read of it, in order; a few are read while one is looked at."""
    waiting: deque[tuple[int, Future]] = deque()
    while True:
        for row in islice(rows, _IMAGES_AT_ONCE - len(waiting)):
            waiting.append((row, threads.submit(read, row)))
        if not waiting:
            return
        row, future = waiting.popleft()
        yield row, future.result()


def check_cut(place: Path, stored: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuses to index a gallery's images by other parts than before, naming what differs.

    Args:
        stored, current: see `feature_settings`; with `PEOPLE`, the settings of what cuts images, or without.

    Raises:
        ValueError: they differ.
    """
    before, now = (_told(settings.get(PEOPLE)) for settings in (stored, current))
    if before != now:
        raise ValueError(
            f"{printable(place)} holds {before}, and asked for is {now}: ask for the same, or index the images "
            "into another folder"
        )


def _told(settings: Mapping[str, Any] | None) -> str:
    if settings is None:
        return "one entry for each image as a whole"
    return f"one entry for each person ({', '.join(f'{name} {value}' for name, value in settings.items())})"
