"""What models of transformers have in common here: how they are loaded, and how pictures go through them in batches."""

import logging
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from ..components import SynthesisError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# What transformers raises over folders of something else, and over files that are damaged.
LOADING_ERRORS = (
    *(OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError),
    *(SafetensorError, StrictDataclassError),
)

Given, Made = TypeVar("Given"), TypeVar("Made")


def load_pretrained(loader: Any, model: str, **options: Any) -> Any:
    """`loader.from_pretrained(model, **options)` with an error that says what to do.

    Raises:
        SynthesisError: there is no such model, it is of another kind, or lacks weights.
    """
    try:
        if loader.__name__.endswith(("Processor", "Config")):
            return loader.from_pretrained(model, **options)
        return load_whole(loader, model, **options)
    except SynthesisError:
        raise
    except LOADING_ERRORS as error:
        reason = " ".join((str(error).strip() or type(error).__name__).splitlines()[0].split())
        raise SynthesisError(
            f"{model}: {loader.__name__} cannot load it ({reason}). Give the folder or the Hub id of such a model."
        ) from error


def load_whole(loader: Any, model: str, **options: Any) -> Any:
    """`loader.from_pretrained(model, **options)`, unless weights are missing: transformers would draw them at random.

    Raises:
        SynthesisError: some are missing, or have another shape.
        Exception: what `from_pretrained` raises.
    """
    loaded, info = loader.from_pretrained(model, output_loading_info=True, **options)
    lacking = sorted({*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])})
    if lacking:
        shown = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
        raise SynthesisError(
            f"{model}: lacks weights of {type(loaded).__name__} ({shown}), which would be drawn at random. Fetch it "
            "again, or give another folder or Hub id."
        )
    return loaded


def find_device(device: str | None) -> "torch.device":
    """The device of that name; by default a GPU where there is one."""
    import torch

    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


class Batches:
    """Runs a function on batches of one size, so that a result depends on its own item alone.

    The last batch is filled up. When the GPU's memory is too small, the batch is halved for good.

    Args:
        size: Of a batch.
    """

    def __init__(self, size: int):
        self.size = size

    def map(self, function: Callable[[list[Given]], list[Made]], items: Iterable[Given]) -> list[Made]:
        """One result per item, in order. Items are taken from the iterable a batch at a time.

        Raises:
            SynthesisError: not even one item fits into memory.
        """
        results, items = [], iter(items)
        while batch := list(islice(items, self.size)):
            results += self._run(function, batch)
        return results

    def _run(self, function: Callable[[list[Given]], list[Made]], batch: list[Given]) -> list[Made]:
        import torch

        results: list[Made] = []
        while len(results) < len(batch):
            part = batch[len(results) : len(results) + self.size]
            try:
                results += function(part + part[-1:] * (self.size - len(part)))[: len(part)]
            except torch.OutOfMemoryError as error:
                if self.size == 1:
                    raise SynthesisError(
                        "one picture is too much for the GPU's memory: use a smaller model or another device"
                    ) from error
                self.size //= 2
                logger.warning("Out of memory: going on with batches of %d", self.size)
        return results
