"""Filling a store: what it lacks is encoded, shared with whoever else fills it; an interruption keeps what was done."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from .manifest import MANIFEST, NEXT_MANIFEST, key_in
from .shards import Shard, manifest_locked, remove_lock
from .store import FeatureStore

logger = logging.getLogger(__name__)

# Encodes shards (rows, ascending), in batches of which none crosses shards: rows encoded, rows skipped, features.
Encode = Callable[[Iterable[Sequence[int]]], Iterator[tuple[list[int], list[int], Tensor]]]


def complete(store: FeatureStore, encode: Encode, update: Callable[[int], Any] = lambda count: None) -> None:
    """Encodes what is missing; returns when all shards are there, whichever process encoded them.

    A store that was begun beside another then takes its place. Images that earlier runs could not read are tried again,
    last.

    Args:
        store: as `open_or_create` opens it.
        encode: see `Encode`; called with the shards that this process takes, and asks for the next one early.
        update: told how many more rows are done, for a progress bar.

    Raises:
        OSError: features cannot be written; finished shards stay. And whatever `encode` raises.
    """
    busy = _encode(store, sorted(store.shards, key=store.to_try_again.__contains__), 0, encode, update)
    if missing := [shard for shard in busy if not shard.exists()]:
        logger.warning(
            "%s: waiting for other processes to finish %d of %d shards. If none is running, delete %s.",
            *(store.folder, len(missing), len(store.shards), missing[0].lock().lock_file),
        )
    # All processes wait in one order, so none for one another.
    _encode(store, busy, -1, encode, update)
    if key_in(store.folder, NEXT_MANIFEST) == store.key:
        with manifest_locked(store.folder):  # of several processes, one does it
            if key_in(store.folder, NEXT_MANIFEST) == store.key and not store.incomplete():
                (store.folder / NEXT_MANIFEST).replace(store.folder / MANIFEST)
                store.delete_other_stores()


def _encode(
    store: FeatureStore, shards: Iterable[Shard], timeout: float, encode: Encode, update: Callable[[int], Any]
) -> list[Shard]:
    """Encodes what is missing of these shards; returns those that another process holds."""
    taken: deque[tuple[Shard, FileLock, Sequence[int]]] = deque()
    busy = []

    def lacking(shard: Shard) -> Sequence[int]:
        """All of a shard that is not there, or what one lacks that earlier runs could not read."""
        if not shard.exists():
            return shard.rows
        return shard.read_gaps() if shard in store.to_try_again else []

    def take() -> Iterator[Sequence[int]]:
        for shard in shards:
            if lacking(shard):
                lock = shard.lock()
                try:
                    lock.acquire(timeout=timeout)
                except Timeout:
                    busy.append(shard)
                    continue
                if rows := lacking(shard):
                    taken.append((shard, lock, rows))
                    update(len(shard.rows) - len(rows))
                    yield rows
                    continue
                remove_lock(lock)
                lock.release()
            update(len(shard.rows))

    parts, skipped, num_done = [], [], 0
    given = take()
    try:
        if (first := next(given, None)) is None:  # nothing to do: start no workers
            return busy
        for rows, left_out, features in encode(chain([first], given)):
            parts.append(features.to("cpu", store.dtype))
            skipped += left_out
            num_done += len(rows) + len(left_out)
            update(len(rows) + len(left_out))
            shard, lock, wanted = taken[0]  # they come back in the order in which they were taken
            if num_done == len(wanted):
                shard.fill(wanted, torch.cat(parts), sorted(skipped))
                remove_lock(lock)
                taken.popleft()
                lock.release()
                parts, skipped, num_done = [], [], 0
    finally:
        for _, lock, _ in taken:
            lock.release()
    return busy
