"""Reading data: images left to the one reader, and workers that need no shared memory and hang no run.

Torch's workers hand tensors over in shared memory, of which a container has 64 MB by default: where it is full, a batch
is lost in a thread of the worker, and the run waits for it for ever. Here tensors travel through the workers' pipe.
"""

import logging
import multiprocessing
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch

from .workers import WorkerDiedError, check_num_workers, start_worker

logger = logging.getLogger(__name__)


def undecoded(dataset):
    """A `datasets.Dataset` whose images come as paths or bytes, for the one reader to judge; anything else as it is.

    What `datasets` cannot decode ends a run by an error that names no file, and cannot be skipped.
    """
    for name, feature in (getattr(dataset, "features", None) or {}).items():
        if type(feature).__name__ == "Image" and feature.decode:
            dataset = dataset.cast_column(name, type(feature)(mode=feature.mode, decode=False))
    return dataset


def caption_inputs(processor: Any, captions: Sequence[str], name_of: Callable[[int], str]) -> Mapping[str, Any]:
    """Captions as ids and mask; the error for one that the processor does not take says whose it is.

    Args:
        processor: the model's own.
        captions: a batch of them.
        name_of: by its place in the batch, whose a caption is.

    Raises:
        ValueError: the processor does not take a caption.
    """
    try:
        return processor(text=list(captions), return_tensors="pt")
    except (TypeError, ValueError):
        for place, caption in enumerate(captions):
            try:
                processor(text=[caption])
            except (TypeError, ValueError) as error:
                reason = str(error).removeprefix("text[0]: ")  # a caption may have a megabyte
                raise ValueError(f"{name_of(place)}: {reason:.400}") from error
        raise


def worker_options(num_workers: int, start_method: str | None = None) -> dict[str, Any]:
    """What a `DataLoader` is told of its workers: how many, and how they start, None being Python's default here.

    Where the system cannot start any, for want of /dev/shm, there are none, and a warning says so.

    Raises:
        ValueError: the number makes no sense.
    """
    check_num_workers(num_workers)
    if num_workers == 0:
        return {"num_workers": 0}
    default = type(multiprocessing.get_context(start_method))
    context = type("WorkerContext", (_WorkerContext, default), {})()
    try:
        context.Event()
    except (OSError, ImportError) as error:  # its semaphores lie in shared memory
        logger.warning(
            "no worker processes can be started here (%s), so images are read without them. What they need is a "
            "writable /dev/shm of a few kB.",
            error,
        )
        return {"num_workers": 0}
    return {"num_workers": num_workers, "multiprocessing_context": context}


@contextmanager
def dead_workers_told() -> Iterator[None]:
    """Turns what torch raises for a killed worker into one sentence with the remedy.

    Torch raises it in the main thread, wherever that is just then: the block holds all that uses a loader.

    Raises:
        WorkerDiedError: a worker process died.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(("DataLoader worker (pid", "Pin memory thread exited unexpectedly")):
            raise
        raise WorkerDiedError from None


class _WorkerContext:
    """Mixed into the context that starts processes here: queues and processes as a `DataLoader` asks for them."""

    def Queue(self, maxsize: int = 0) -> "_Queue":
        return _Queue(maxsize, ctx=self)

    def Process(self, target, args) -> multiprocessing.Process:
        worker = super().Process(target=_work, args=(target, *args))
        for argument in args:
            if isinstance(argument, _Queue):
                argument.workers.append(worker)
        return worker


class _Queue(Queue):
    """A queue whose reader does not wait for a worker that is dead.

    One that is killed while it writes leaves half a batch in the pipe and the lock to it taken, so that nobody comes
    after it. Then the others are ended as well, which ends the pipe, and reading from it finds nothing.
    """

    def __init__(self, maxsize: int, ctx):
        super().__init__(maxsize, ctx=ctx)
        self.workers, self.process, self.watcher = [], os.getpid(), None

    def __setstate__(self, state) -> None:
        super().__setstate__(state)  # in a spawned worker
        self.workers, self.process, self.watcher = [], None, None

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if self.process != os.getpid():
            return super().get(block, timeout)
        if self.watcher is None:
            self.watcher = threading.Thread(target=_watch, args=(self.workers, self._writer), daemon=True)
            self.watcher.start()
        try:
            return super().get(block, timeout)
        except (EOFError, OSError):
            time.sleep(0.1)  # the caller looks after its workers now, and might come back at once
            raise queue.Empty from None

    @staticmethod
    def _on_queue_feeder_error(error: Exception, item: Any) -> None:
        """A batch that cannot be sent would be waited for: end the worker, which is noticed."""
        traceback.print_exception(error)
        os._exit(1)


def _watch(workers: list[multiprocessing.Process], writer) -> None:
    """Waits for the workers of a queue to end; if one did not end of itself, ends the others and the pipe."""
    running = {worker.sentinel: worker for worker in workers}
    while running:
        for sentinel in wait(list(running)):
            if _ended_well(running.pop(sentinel)):
                continue
            for worker in running.values():
                worker.kill()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, writer.fileno(), inheritable=False)
            os.close(nowhere)
            return


def _ended_well(worker: multiprocessing.Process) -> bool:
    if hasattr(os, "waitid"):  # without taking the news away from the main thread
        try:
            news = os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            pass  # it has got them already
        else:
            return news.si_code == os.CLD_EXITED and news.si_status == 0
    return worker.exitcode == 0


def _work(target, *args) -> None:
    """Runs a worker process."""
    start_worker()
    ForkingPickler.register(torch.Tensor, _by_value)
    target(*args)


def _by_value(tensor: torch.Tensor) -> tuple:
    return torch.from_numpy, (tensor.numpy(force=True),)
