"""Reading data: images are left to the one reader, and workers need no shared memory and hang no run.

Torch's workers pass tensors through shared memory, of which a container has 64 MB by default. If it is full, a batch is
lost in a thread of the worker, and the run waits for it forever. Here tensors travel through the workers' pipe.
"""

import logging
import multiprocessing
import os
import queue
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch

from .workers import WorkerDiedError, check_num_workers, start_worker

logger = logging.getLogger(__name__)


def undecoded(dataset):
    """A `datasets.Dataset` whose images come as paths or bytes, for the one reader to judge; anything else as it is.

    An image that `datasets` cannot decode ends a run with an error that names no file, and cannot be skipped.
    """
    for name, feature in (getattr(dataset, "features", None) or {}).items():
        if type(feature).__name__ == "Image" and feature.decode:
            dataset = dataset.cast_column(name, type(feature)(mode=feature.mode, decode=False))
    return dataset


def worker_options(num_workers: int, start_method: str | None = None) -> dict[str, Any]:
    """A `DataLoader`'s arguments about its workers: how many, and how they start (None: Python's default).

    If the system cannot start any, for lack of /dev/shm, there are none, and a warning says so. An impossible number is
    refused.
    """
    check_num_workers(num_workers)
    if num_workers == 0:
        return {"num_workers": 0}
    default = type(multiprocessing.get_context(start_method))
    context = type("WorkerContext", (_WorkerContext, default), {})()
    try:
        context.Event()
    except (OSError, ImportError) as error:  # its semaphores are in shared memory
        logger.warning(
            "no worker processes can be started here (%s), so images are read without them. They need a writable "
            "/dev/shm of a few kB.",
            error,
        )
        return {"num_workers": 0}
    return {"num_workers": num_workers, "multiprocessing_context": context}


@contextmanager
def dead_workers_told() -> Iterator[None]:
    """Turns what torch raises for a killed worker into a `WorkerDiedError`.

    Torch raises it in the main thread, wherever that is: the block must hold all that uses a loader.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(("DataLoader worker (pid", "Pin memory thread exited unexpectedly")):
            raise
        raise WorkerDiedError from None


class _WorkerContext:
    """Mixed into the context that starts processes: makes the queues and processes that a `DataLoader` asks for."""

    def Queue(self, maxsize: int = 0) -> "_Queue":
        return _Queue(maxsize, ctx=self)

    def Process(self, target, args) -> multiprocessing.Process:
        worker = super().Process(target=_work, args=(target, *args))
        for argument in args:
            if isinstance(argument, _Queue):
                argument.workers.append(worker)
        return worker


class _Queue(Queue):
    """A queue whose reader does not wait for a dead worker.

    A worker that is killed while it writes leaves half a batch in the pipe, and keeps the lock on it from all others.
    Then the others are ended as well, which ends the pipe, and reading from it finds nothing.
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
            time.sleep(0.1)  # the caller checks its workers now, and might come back at once
            raise queue.Empty from None

    @staticmethod
    def _on_queue_feeder_error(error: Exception, item: Any) -> None:
        """A batch that cannot be sent would be waited for: ends the worker, which is noticed."""
        traceback.print_exception(error)
        os._exit(1)


def _watch(workers: list[multiprocessing.Process], writer) -> None:
    """Waits for the workers of a queue to end; if one was killed or failed, ends the others and the pipe."""
    running = {worker.sentinel: worker for worker in workers}
    while running:
        for sentinel in wait(list(running)):
            if _ended_well(running.pop(sentinel)):
                continue
            for worker in running.values():
                worker.kill()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            with suppress(OSError):  # the queue is closed already
                os.dup2(nowhere, writer.fileno(), inheritable=False)
            os.close(nowhere)
            return


def _ended_well(worker: multiprocessing.Process) -> bool:
    if hasattr(os, "waitid"):  # leaves the exit status for the main thread
        with suppress(ChildProcessError):  # the main thread has it already
            status = os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
            return status.si_code == os.CLD_EXITED and status.si_status == 0
    for _ in range(100):
        if worker.exitcode is not None:
            break
        time.sleep(0.01)  # the main thread has received the status, but has not noted it yet
    return worker.exitcode == 0


def _work(target, *args) -> None:
    """Runs a worker process."""
    start_worker()
    ForkingPickler.register(torch.Tensor, lambda tensor: (torch.from_numpy, (tensor.numpy(force=True),)))
    target(*args)
