"""FAFA: composed person retrieval on Hugging Face.

Importing `fafa` is light: classes load on first use, and registration with transformers' Auto classes and with
`datasets.load_dataset` happens when those libraries are themselves imported (see registration.py).
"""

import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import TracebackType

from .extras import how_to_install
from .registration import register_with_libraries

__version__ = "0.1.0"

_EXPORTS = {
    "FafaConfig": "configuration_fafa",
    "FafaModel": "modeling_fafa",
    "FafaOutput": "modeling_fafa",
    "FafaPreTrainedModel": "modeling_fafa",
    "FafaProcessor": "processing_fafa",
    "FafaImageProcessor": "image_processing_fafa",
}

# A small model of painted people, with its processor: something to try everything with, without a download.
TINY_CHECKPOINT = Path(__file__).parent / "checkpoints" / "tiny"

__all__ = [*_EXPORTS, "TINY_CHECKPOINT", "__version__"]


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])


def _end_in_a_sentence(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ends a command that is still importing, when `commands.command` cannot answer yet: one sentence, no traceback."""
    if issubclass(kind, KeyboardInterrupt):
        print("\ninterrupted.", file=sys.stderr)
    elif isinstance(error, ModuleNotFoundError) and (remedy := how_to_install(error.name)):
        print(remedy, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _is_own_command() -> bool:
    """Whether this process runs `fafa`, a module or an example of the package; a user's own script does not count."""
    if any(pair[0] == "-m" and pair[1].startswith("fafa.") for pair in pairwise(sys.orig_argv)):
        return True
    if sys.argv and sys.argv[0].endswith("/bin/fafa"):
        return True
    return bool(sys.argv) and Path(sys.argv[0]).resolve().parent == Path(__file__).resolve().parent / "examples"


if _is_own_command():
    sys.excepthook = _end_in_a_sentence
register_with_libraries()
