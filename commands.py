"""What commands share: how they end, and the options of those that take a model.

Ctrl-C, a full disk and bad input end them with one sentence that says what to do; faults end them with a traceback.
"""

import os
import signal
import sys
import textwrap
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from traceback import walk_tb
from typing import Any

from .extras import how_to_install
from .files import DISK_FULL, printable
from .workers import WorkerDiedError, check_num_workers, is_first_process

MODEL_OPTIONS = {  # what help says of the options of every command that encodes images
    "model": "folder or Hub name of a model with its processor",
    "import_modules": "Python modules that register its class",
    "device": "where it runs, such as cuda:1 (default: a GPU, if there is one)",
    "dtype": "precision of the model",
    "batch_size": "images encoded at a time",
    "num_workers": "processes that read images",
}
DTYPES = ("float32", "bfloat16")
INTERRUPTED, READER_GONE = 130, 141  # a shell's exit statuses of a process that SIGINT or SIGPIPE ended


@contextmanager
def command(kept: str = "", user_errors: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Runs a command: an error that its user can fix ends it with one sentence on stderr and exit status 1.

    These are any OSError, a killed worker process, too little memory, a library that comes with an extra and is not
    installed, and a ValueError or ImportError that FAFA raised, whose messages are written for people. Anything else is
    a fault, and keeps its traceback. Ctrl-C ends it with status 130, a closed pipe (`... | head`) silently. Characters
    that the terminal lacks are escaped.

    Args:
        kept: a sentence or two on what is kept after an interruption or on a full disk, and how to go on.
        user_errors: further errors whose messages say what to do.

    Raises:
        SystemExit: with the exit status, or the sentence.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()  # so that a closed pipe is noticed here
    except KeyboardInterrupt:
        if is_first_process():
            print(f"\ninterrupted. {kept}".rstrip(), file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - or Python complains again when it ends
        raise SystemExit(READER_GONE) from None
    except Exception as error:
        message = _message(error, kept, user_errors)
        if message is None:
            raise
        raise SystemExit(message) from error


@contextmanager
def termination_told() -> Iterator[None]:
    """Has SIGTERM end a command as Ctrl-C does: launchers send it to all processes when one of them has ended."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _message(error: BaseException, kept: str, user_errors: tuple[type[Exception], ...]) -> str | None:
    """The message for an error; None for a fault of the program."""
    if type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        return _message(error.__cause__, kept, user_errors)  # `datasets` wraps what its builders raise
    if isinstance(error, OSError):
        file = "" if error.filename is None else printable(error.filename)
        if error.errno in DISK_FULL:
            place = f" ({file} could not be written)" if file else ""
            return f"the disk is full{place}. {kept} Make room, and give the same command again.".replace("  ", " ")
        plain = error.strerror and file and type(error).__str__ is OSError.__str__
        return f"{file}: {error.strerror}" if plain else " ".join(str(error).split())
    if isinstance(error, (WorkerDiedError, *user_errors)):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        first_line = str(error).partition("\n")[0]
        return f"there is too little memory ({first_line or 'MemoryError'}); try a smaller batch, or fewer workers"
    remedy = how_to_install(error.name) if isinstance(error, ModuleNotFoundError) else None
    if remedy and str(error).startswith("No module named"):  # Python's own message, wherever the import stands
        return remedy
    return str(error) if isinstance(error, (ValueError, ImportError)) and _is_of_fafa(error) else remedy


def _is_of_fafa(error: BaseException) -> bool:
    """Whether it was raised in this package, or in the script that is running."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return not frames or frames[-1].f_globals.get("__name__", "").partition(".")[0] in ("fafa", "__main__")


@contextmanager
def loading(model: str) -> Iterator[None]:
    """Turns whatever libraries raise over damaged, foreign or absurd files into one error that names the model.

    Raises:
        FileNotFoundError: its name means a folder, which is not here.
        ValueError: it cannot be loaded. Errors of the disk and of memory stay what they are.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if not Path(model).exists() and _means_a_folder(model, error):
            raise FileNotFoundError(
                f"there is no folder {printable(model)} here ({printable(Path.cwd())}). Check the path; folders of "
                "this package's models are made by `fafa train` and `fafa convert`, and with HF_HUB_OFFLINE set "
                "nothing is fetched from the Hub"
            ) from error
        if isinstance(error, OSError) or (isinstance(error, ModuleNotFoundError) and how_to_install(error.name)):
            raise
        if type(error).__name__ in ("OutOfMemoryError", "UnsoundModelError"):  # the latter's message says it all
            raise
        cause: BaseException = error
        while type(cause).__name__.startswith("StrictDataclass") and cause.__cause__ is not None:
            cause = cause.__cause__  # the sentence of a configuration's own, without its wrapping
        if "does not recognize this architecture" in str(cause):
            raise ValueError(
                f"{printable(model)}: no model of its model_type is registered here. If it is your own, name "
                "the module that calls register_model: --import-modules MODULE"
            ) from error
        reason = textwrap.shorten(f"{type(cause).__name__}: {cause}", 500, placeholder=" ...")
        raise ValueError(
            f"{printable(model)}: no model can be loaded from it ({reason}). Its files are damaged, incomplete or not "
            "a model's: fetch or save it again"
        ) from error


def _means_a_folder(name: str, error: Exception) -> bool:
    """Whether the name of a model that was not found is a path, or must be one because nothing is fetched."""
    if not isinstance(error, OSError) and type(error).__name__ != "HFValidationError":  # which is no error of the disk
        return False
    if getattr(error, "errno", None) is not None:
        return False
    parts = Path(name).parts
    is_path = name.startswith((".", "~")) or "\\" in name or Path(name).is_absolute() or len(parts) > 2
    is_offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    return is_path or is_offline or (len(parts) == 2 and Path(parts[0]).is_dir())


def make_parser(program: str | None, description: str) -> ArgumentParser:
    """A parser of a command that takes no part of an option's name for it.

    Args:
        program: the command as it was given, such as "fafa verify"; None for the name of the script.
        description: for its help, in its own lines.
    """
    return ArgumentParser(
        allow_abbrev=False, prog=program, description=description, formatter_class=RawDescriptionHelpFormatter
    )


def add_model_options(parser: ArgumentParser, num_workers: int | None = None) -> None:
    """Adds the options of every command that encodes images (by default with `num_workers`); see `load_given_model`."""
    processes = "one per core, up to 8; 0 for few images" if num_workers is None else num_workers
    parser.add_argument("--model", required=True, help=MODEL_OPTIONS["model"])
    parser.add_argument(
        "--import-modules", nargs="+", default=[], metavar="MODULE", help=MODEL_OPTIONS["import_modules"]
    )
    parser.add_argument("--device", default=default_device(), help=MODEL_OPTIONS["device"])
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help=MODEL_OPTIONS["dtype"])
    parser.add_argument("--batch-size", type=int, default=64, help=MODEL_OPTIONS["batch_size"])
    parser.add_argument(
        "--num-workers", type=int, default=num_workers, help=f"{MODEL_OPTIONS['num_workers']} (default: {processes})"
    )


def default_device() -> str:
    """The GPU of this process (`accelerate launch` and torchrun say which), or the CPU."""
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def load_given_model(arguments: Namespace) -> tuple[Any, Any]:
    """The model and processor that a command's options name, on the device and in the precision that they name."""
    import torch

    from .model_folder import load_model

    import_modules(arguments.import_modules)
    with loading(arguments.model):
        model, processor = load_model(arguments.model, dtype=getattr(torch, arguments.dtype))
    return model.to(arguments.device), processor


def import_modules(names: Sequence[str]) -> None:
    """Imports modules of the user's, also from the folder where the command was started, for what they register.

    Raises:
        ValueError: one is not there.
    """
    if names and (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    for name in names:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name.partition(".")[0] and error.name != name:
                raise
            raise ValueError(
                f"import_modules: there is no module {name} here or among those installed; give its name without .py"
            ) from error


def check_device(parser: ArgumentParser, device: str) -> None:
    """Refuses a device that this machine or this torch lacks, in one line."""
    if fault := fault_of_device(device):
        parser.error(fault)


def fault_of_device(device: str) -> str | None:
    """Why a device cannot be used by this machine or this torch, in one line; None if it can."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        return f"--device {device} cannot be used here: {reason}"
    return None


def check_numbers(parser: ArgumentParser, arguments: Namespace, *names: str) -> None:
    """Refuses impossible numbers, in one line: workers as `check_num_workers` does, others below 1."""
    for name in names:
        number = getattr(arguments, name)
        option = "--" + name.replace("_", "-")
        if number is None:
            continue
        if "workers" in name:
            try:
                check_num_workers(number)
            except ValueError as error:
                parser.error(f"{option}: {error}")
        elif number < 1:
            parser.error(f"{option} is {number}, expected a number from 1")
