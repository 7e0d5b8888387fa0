"""Batches of one size: a short one is filled up, and all are halved for good when memory runs out."""

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from ..components import SynthesisError

logger = logging.getLogger(__name__)

Given, Made = TypeVar("Given"), TypeVar("Made")


class Batches:
    """Runs a function on batches of one size, so that a result depends on its own item alone.

    Args:
        size: Items in a batch; the attribute of this name gets smaller when memory runs out.
        too_little_memory: Makes the error for an item that does not fit into memory alone.
        on_halving: Called when memory runs out, before the next attempt.
    """

    def __init__(
        self,
        size: int,
        too_little_memory: Callable[[Any], SynthesisError] = lambda _: SynthesisError(
            "one image is too much for the GPU's memory: use a smaller model or another device"
        ),
        on_halving: Callable[[], Any] = lambda: None,
    ):
        self.size = size
        self._too_little_memory, self._on_halving = too_little_memory, on_halving

    def map(self, function: Callable[[list[Given]], Iterable[Made]], items: Iterable[Given]) -> Iterator[Made]:
        """One result per item, in order; items are taken from the iterable a batch at a time.

        `function` gives one result for each item of a full batch; results of the filling are not taken.

        Raises:
            SynthesisError: not even one item fits into memory.
        """
        items = iter(items)
        while batch := list(islice(items, self.size)):
            while batch:
                made = self._run(function, batch[: self.size])
                yield from made
                batch = batch[len(made) :]

    def _run(self, function: Callable[[list[Given]], Iterable[Made]], batch: list[Given]) -> list[Made]:
        """The results of a batch; none if memory ran out, after which batches are smaller."""
        try:
            return list(islice(function(batch + batch[-1:] * (self.size - len(batch))), len(batch)))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self.size == 1:
                raise self._too_little_memory(batch[0]) from error
        # Only after the error is handled: its traceback keeps the tensors alive.
        from accelerate.utils.memory import clear_device_cache

        self._on_halving()
        clear_device_cache(garbage_collection=True)
        logger.warning("out of memory: going on in batches of %d, not %d", self.size // 2, self.size)
        self.size //= 2
        return []


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU or the CPU ran out of memory; the CPU's allocator raises a plain RuntimeError."""
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or should_reduce_batch_size(error)
