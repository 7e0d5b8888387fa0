"""Threads that share the blocks of a computation on a CPU, each on one core."""

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from .workers import num_cores

Block = TypeVar("Block")

# Whoever has Python's own parser make a tree holds this, as NumPy does of the head of every file: where two threads
# parse at once, CPython 3.11 fails at times ("AST constructor recursion depth mismatch").
PARSING = threading.Lock()


class _Workers(NamedTuple):
    """The threads of one process."""

    pool: ThreadPoolExecutor
    setting: threading.Lock  # held while a thread changes torch's settings
    own: threading.local


_WORKERS: dict[int, _Workers] = {}  # by process id: a forked process has this, but not the threads of its parent


class Buffers(dict):
    """Memory of one thread, which its blocks reuse in turn: touching new pages of memory is slow."""

    def take(
        self, name: str, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """A tensor of this shape in the memory of this name, whose earlier content is lost."""
        size = math.prod(shape)
        if name not in self or len(self[name]) < size:
            self[name] = torch.empty(size, dtype=dtype, device=device)
        return self[name][:size].view(shape)


def taken(blocks: "deque[Block]") -> Iterator[Block]:
    """Takes one block after another until none is left; several threads may take from the same ones at once."""
    while True:
        try:
            block = blocks.popleft()
        except IndexError:
            return
        yield block


def in_threads(work: Callable[[], None], blocks: deque) -> None:
    """Calls `work`, which takes blocks until none is left, in as many threads at once as torch would use.

    With one, or from a thread of this kind, `work` runs in the calling thread.

    Each is a thread of Python that keeps to one core. torch's own threads divide every single operation and wait for
    each other at its end by spinning, some 200 times per block. If one of them shares a core with another process, all
    wait for its turn every time.
    """
    if torch.get_num_threads() == 1:
        return work()
    workers = _WORKERS.get(os.getpid())
    if workers is None:
        # Threads start as they are needed; there is room for several callers at once.
        pool = ThreadPoolExecutor(4 * num_cores(), "fafa-threads")
        workers = _WORKERS.setdefault(os.getpid(), _Workers(pool, threading.Lock(), threading.local()))

    def share() -> None:
        try:
            if _keep_to_one_core(workers):
                with torch.inference_mode():  # whatever the caller's: each thread has its own modes
                    work()
        except BaseException:
            blocks.clear()  # the other threads end after their present block
            raise

    shares: list[Future] = []
    try:
        with suppress(RuntimeError):  # no thread can start: too many on this machine, or Python is about to end
            for _ in range(min(torch.get_num_threads(), num_cores(), len(blocks))):
                shares.append(workers.pool.submit(share))
        while wait(shares, timeout=0.1).not_done:  # Ctrl-C may reach another thread, which does not wake this one
            pass
        for done in shares:
            done.result()
    except BaseException:  # also Ctrl-C
        blocks.clear()
        raise
    finally:
        wait(shares)  # they write into the caller's memory
    work()  # what is left, if threads could not be started


def _keep_to_one_core(workers: _Workers) -> bool:
    """Makes torch use one core in the present thread only, and tells whether that worked.

    `torch.set_num_threads` sets the number for the thread that calls it, and for all threads that have not used torch
    yet. A second thread, which then ends, restores the latter.
    """
    if getattr(workers.own, "keeps_to_one_core", False):
        return True
    with workers.setting:
        usual = torch.get_num_threads()
        is_set = threading.Event()

        def restore() -> None:
            is_set.wait()
            torch.set_num_threads(usual)

        restorer = threading.Thread(target=restore, name="fafa-restoring")
        try:
            restorer.start()
        except RuntimeError:  # too many threads on this machine
            return False
        torch.set_num_threads(1)
        is_set.set()
        restorer.join()
    workers.own.keeps_to_one_core = True
    return True
