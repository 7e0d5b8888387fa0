"""Reads images in batches, ahead of the model, in worker processes where there are many."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..image_reading_fafa import UnreadableImageError, open_image
from ..processing_fafa import FafaProcessor
from ..workers import num_cores

MAX_DEFAULT_WORKERS = 8
IMAGES_WORTH_WORKERS = 256  # fewer are read before workers have started


class PixelBatch(NamedTuple):
    """A few images, read.

    Args:
        rows: the indices of the images that were read.
        skipped: of those that could not be.
        pixels: `(len(rows), 3, image_size, image_size)`; None without rows.
    """

    rows: list[int]
    skipped: list[int]
    pixels: Tensor | None


def batches_of(shards: Iterable[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """The rows of each batch; none crosses shards."""
    for shard in shards:
        for start in range(0, len(shard), batch_size):
            yield list(shard[start : start + batch_size])


def read_pixels(
    processor: FafaProcessor,
    images: Sequence[Any],
    shards: Iterable[Sequence[int]],
    name: str,
    batch_size: int,
    num_workers: int | None = 0,
    on_error: str = "raise",
) -> Iterator[PixelBatch]:
    """Reads and preprocesses images in batches, see `batches_of`; with workers, some batches ahead.

    Args:
        name: how errors call an image, before its number.
        num_workers, on_error: see `encode_images`.
    """
    if num_workers is None:
        shards = iter(shards)
        first = next(shards, ())  # a short one comes where little is left
        num_workers = min(MAX_DEFAULT_WORKERS, num_cores()) if len(first) >= IMAGES_WORTH_WORKERS else 0
        shards = chain([first], shards)
    loader = DataLoader(
        _Pixels(processor, images, name),
        batch_sampler=batches_of(shards, batch_size),
        collate_fn=partial(_to_batch, skip=on_error == "skip"),
        num_workers=num_workers,
        generator=torch.Generator(),  # of seeds for the workers: the program's own random numbers stay as they are
    )
    for batch in loader:
        if isinstance(batch, Exception):
            break  # raised below, where the workers have ended: in the loop it would keep them until it is forgotten
        yield batch
    else:
        return
    raise batch


class _Pixels(Dataset):
    """Images, opened and preprocessed one by one (in the workers of a DataLoader), or why that failed."""

    def __init__(self, processor: FafaProcessor, images: Sequence[Any], name: str):
        self.processor, self.images, self.name = processor, images, name

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[int, Tensor | Exception]:
        try:
            image = open_image(self.images[row], name=f"{self.name} {row}")
        except (UnreadableImageError, FileNotFoundError) as error:
            return row, error
        return row, self.processor(images=image, return_tensors="pt")["pixel_values"][0]


def _to_batch(items: list[tuple[int, Tensor | Exception]], skip: bool) -> PixelBatch | Exception:
    read = {row: pixels for row, pixels in items if isinstance(pixels, Tensor)}
    failed = {row: error for row, error in items if isinstance(error, Exception)}
    if failed and not skip:
        return next(iter(failed.values()))
    return PixelBatch(list(read), list(failed), torch.stack(list(read.values())) if read else None)
