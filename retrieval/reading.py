"""Reads images in batches, ahead of the model, in worker processes where there are many."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..image_reading_fafa import InaccessibleImageError, UnreadableImageError
from ..loading import dead_workers_told, worker_options
from ..retriever import RetrieverProcessor
from ..workers import num_cores

logger = logging.getLogger(__name__)

MAX_DEFAULT_WORKERS = 8
KEPT_BLOCKS = 4  # of 16 MiB, in each process that reads: 12 megapixels take 3
IMAGES_WORTH_WORKERS = 256  # fewer are read before workers have started


class PixelBatch(NamedTuple):
    """A few images, read.

    Args:
        rows: the indices of the images that were read.
        skipped: the indices of those that could not be read, ascending.
        pixels: `(len(rows), 3, height, width)`; None without rows.
        inaccessible: those of `skipped` whose files are missing or cannot be read now, which says nothing of the
            images.
    """

    rows: list[int]
    skipped: list[int]
    pixels: Tensor | None
    inaccessible: Sequence[int] = ()


def batches_of(shards: Iterable[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """The rows of each batch; none crosses shards."""
    for shard in shards:
        for start in range(0, len(shard), batch_size):
            yield list(shard[start : start + batch_size])


def read_pixels(
    processor: RetrieverProcessor,
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
        num_workers, on_error: as for `encode_images`.

    Raises:
        FileNotFoundError, InaccessibleImageError, UnreadableImageError: an image is missing, or cannot be read or
            decoded, and is not skipped.
        WorkerDiedError: a worker process was killed.
    """
    if num_workers is None:
        shards = iter(shards)
        first = next(shards, ())  # a short one comes where little is left
        num_workers = min(MAX_DEFAULT_WORKERS, num_cores()) if len(first) >= IMAGES_WORTH_WORKERS else 0
        shards = chain([first], shards)
    loader = DataLoader(
        _Crops(processor.for_images(), images, name),
        batch_sampler=batches_of(shards, batch_size),
        collate_fn=list,
        **worker_options(num_workers),
        worker_init_fn=_keep_memory,
        generator=torch.Generator(),  # seeds the workers: the program's own random state stays as it is
    )
    failed = None
    with dead_workers_told(), _kept_memory():
        for items in loader:
            errors = {row: item for row, item in items if isinstance(item, Exception)}
            if errors and on_error != "skip":
                failed = next(iter(errors.values()))
                break  # it is raised below, once the workers have ended: here it would keep them alive
            for error in errors.values():
                logger.info("left out: %s", error)
            crops = {row: item for row, item in items if row not in errors}
            yield PixelBatch(
                list(crops),
                list(errors),
                processor.to_pixels(list(crops.values())) if crops else None,
                [row for row, error in errors.items() if isinstance(error, OSError)],
            )
    if failed is not None:
        raise failed


def _keep_memory(worker: int = 0) -> None:
    Image.core.set_blocks_max(max(KEPT_BLOCKS, Image.core.get_blocks_max()))


@contextmanager
def _kept_memory() -> Iterator[None]:
    """Has Pillow keep the memory of one image for the next: new pages take up to a third of decoding's time.

    No image stays here that could hold such a block for nothing: what goes on from here are arrays.
    """
    before = Image.core.get_blocks_max()
    _keep_memory()
    try:
        yield
    finally:
        Image.core.set_blocks_max(before)


class _Crops(Dataset):
    """Images opened and resized one by one (in the workers of a DataLoader), or the error that stopped that.

    They are 8-bit values, which take a quarter of the pixels' time to come from a worker.
    """

    def __init__(self, processor: RetrieverProcessor, images: Sequence[Any], name: str):
        self.processor, self.images, self.name = processor, images, name

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[int, Any]:
        try:
            crop = self.processor.open_crop(self.images[row], f"{self.name} {row}")
        except (UnreadableImageError, FileNotFoundError, InaccessibleImageError) as error:
            return row, error
        return row, self.processor.resize_crop(crop)
