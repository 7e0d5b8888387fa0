"""Worker processes: how many, how they start, and how they end with their run. It imports little, like they do."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


class WorkerDiedError(RuntimeError):
    """A worker process was killed; the message says what to do."""

    def __init__(self):
        super().__init__(
            "a worker process died, perhaps for lack of memory. What was finished before is kept: give the same "
            "command again, with fewer workers if need be."
        )


def check_num_workers(num_workers: int) -> None:
    """Refuses a number of worker processes below 0, or far above the number of cores, by a ValueError."""
    most = max(64, 8 * num_cores())
    if not 0 <= num_workers <= most:
        raise ValueError(
            f"{num_workers:,} worker processes: expected 0 (none) to {most}. One for each of the {num_cores()} cores "
            "is usually best."
        )


def num_cores() -> int:
    """The cores that this process may use: in a container, or under taskset, fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_first_process() -> bool:
    """Whether this is the one of the processes of `accelerate launch` that reports; all of them work."""
    return os.environ.get("RANK", "0") == "0"


def in_processes(
    function: Callable[[Given], Made], items: Sequence[Given], num_workers: int, per_task: int = 32
) -> Iterator[Made]:
    """`map(function, items)` over worker processes, in order; in this process where one worker is enough.

    With more than one, call it under `if __name__ == "__main__":`, as with any multiprocessing.

    Args:
        function: a module's function, or a partial of one: it must be picklable.
        num_workers: processes; each starts in about a second.
        per_task: items that travel together.

    Raises:
        WorkerDiedError: a worker process died. Otherwise, whatever `function` raises.
    """
    num_workers = min(num_workers, -(-len(items) // per_task))
    if num_workers <= 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=start_worker) as pool:
        # Processes started now never see Ctrl-C, not even while they start: only their parent reacts to it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            results = pool.map(function, items, chunksize=per_task)  # starts the processes
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            with closing(results):  # so that an interruption does not wait for all of them
                yield from results
        except BrokenProcessPool:
            raise WorkerDiedError from None


def start_worker() -> None:
    """Prepares a worker process: it leaves Ctrl-C to its parent, and ends with its parent, even a killed one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
