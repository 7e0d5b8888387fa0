"""Models of transformers and diffusers: loaded whole and in the dtype asked for, or refused with one clear error."""

import os
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from ...files import some
from ..components import SynthesisError

if TYPE_CHECKING:
    import torch

# What the libraries raise for folders of something else, and for damaged files.
_LOADING_ERRORS = (
    *(OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError),
    *(SafetensorError, StrictDataclassError),
)


@contextmanager
def loading(model: str, how: str, remedy: str) -> Iterator[None]:
    """Turns what a library raises while loading into a SynthesisError: one line that says what, why, and what to do."""
    try:
        yield
    except SynthesisError:
        raise
    except _LOADING_ERRORS as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise SynthesisError(
                f"{model}: its weights do not fit into memory. Choose a smaller model, or device: auto."
            ) from error
        raise SynthesisError(f"{model}: cannot be loaded {how} ({one_line(error)}). {remedy}.") from error


def one_line(error: BaseException | str) -> str:
    """A library's message on one line; the class of an error without a message."""
    return textwrap.shorten(str(error) or type(error).__name__, 300, placeholder=" ...")


def load_pretrained(loader: Any, model: str, revision: str | None = None, **options: Any) -> Any:
    """`loader.from_pretrained(model, **options)` with an error that says what to do.

    Missing weights are an error: transformers would fill them with random numbers.

    Raises:
        SynthesisError: there is no such model, it is of another kind, or lacks weights.
    """
    options |= {"revision": revision} if revision else {}
    with loading(model, f"by {loader.__name__}", "Give the folder or the Hub id of such a model"):
        if loader.__name__.endswith(("Processor", "Config", "Tokenizer")):
            return loader.from_pretrained(model, **options)
        loaded, info = loader.from_pretrained(model, output_loading_info=True, **options)
    if lacking := sorted({*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}):
        raise SynthesisError(
            f"{model}: lacks weights of {type(loaded).__name__} ({some(lacking, 3)}), which would be random numbers. "
            "Fetch it again, or give another folder or Hub id."
        )
    return loaded


def find_device(device: str | None) -> "torch.device":
    """The device of that name; by default this process's GPU (the first, unless several processes run), or the CPU."""
    import torch

    own = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return torch.device(device or (own if torch.cuda.is_available() else "cpu"))


def check_dtype(module: "torch.nn.Module", dtype: str, model: str) -> None:
    """Refuses a module if most of its numbers, quantised ones aside, have another dtype than asked for; "auto" is any.

    Loaders that do not know the option ignore it silently.

    Raises:
        SynthesisError: the dtype is another one.
    """
    sizes: Counter[str] = Counter()
    for parameter in module.parameters():
        sizes[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
    found = max(sizes, key=lambda name: sizes[name], default="none")
    if found != dtype != "auto" and found in ("float32", "bfloat16", "float16"):
        raise SynthesisError(
            f"{model}: {type(module).__name__} was loaded in {found}, asked for was {dtype}: install the versions of "
            "constraints.txt (diffusers before 0.40 does not know this option)"
        )
