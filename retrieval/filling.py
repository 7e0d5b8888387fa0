"""Filling a folder of features: a store is begun, or gone on with, and completed.

Several processes may do so at once; an interruption keeps what was done.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ..files import check_output_folder, printable, some
from .manifest import MANIFEST
from .shards import Shard, manifest_locked, remove_lock
from .store import FeatureStore

logger = logging.getLogger(__name__)

INPUTS_PER_SHARD = 512
_OWN_FILES = (".", "features-", "inputs-", "manifest")

# Encodes shards (rows, ascending) in batches, none of which crosses shards. Gives rows encoded, rows skipped, features.
Encode = Callable[[Iterable[Sequence[int]]], Iterator[tuple[list[int], list[int], Tensor]]]


def known_inputs(folder: str | Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a folder's store knows of files, by path, see `describe_image`; nothing where there is no store yet.

    It refuses early what would only fail after all files were read.

    Raises:
        ValueError: as `FeatureStore.open`, or the features are of another model or processor.
        OSError: nothing can be written there.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).exists():
        check_output_folder(folder)
        _check_nothing_else(folder)
        return {}
    store = FeatureStore.open(folder)
    store.check(settings, store.inputs)
    fields = ("path", "contents", "stamp", "fresh")
    return {
        line["path"]: {field: line[field] for field in fields if field in line}
        for line in store.inputs
        if line.get("contents") is not None and line.get("stamp") is not None
    }


def open_or_create(
    folder: str | Path,
    settings: dict[str, Any],
    inputs: Sequence[dict[str, Any]],
    batch_size: int,
    images_folder: Path | None = None,
) -> FeatureStore:
    """Opens the features of exactly these inputs and settings, or begins them in an empty or new folder.

    Images that only lie elsewhere, or have other names or times, are the same. A damaged shard is deleted, with a
    warning, to be encoded again.

    Args:
        batch_size: a new store's shards hold a multiple of it, so that batches are the same as without a store.

    Raises:
        ValueError: the folder holds features of another model, processor or precision, or of other inputs.
        OSError: it cannot be written to.
    """
    folder, inputs = Path(folder), list(inputs)
    if not (folder / MANIFEST).exists():
        check_output_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _check_nothing_else(folder)
        shard_size = max(1, INPUTS_PER_SHARD // batch_size) * batch_size
        with manifest_locked(folder):  # one process writes the manifest, any other reads it
            if not (folder / MANIFEST).exists():
                FeatureStore(folder, settings, inputs, shard_size, images_folder).write_manifest()
    store = FeatureStore.open(folder)
    store.check(settings, inputs)
    store.note_whereabouts(inputs, images_folder)
    store.heal()
    return store


def _check_nothing_else(folder: Path) -> None:
    """Refuses to begin a store among a user's files, such as the photographs themselves."""
    if (folder / MANIFEST).exists() or not folder.exists():
        return
    others = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(_OWN_FILES))
    if others:
        raise ValueError(
            f"{printable(folder)} holds something else than features of images ({some(others)}): choose an empty or "
            "new folder for them"
        )


def complete(store: FeatureStore, encode: Encode, update: Callable[[int], Any] = lambda count: None) -> None:
    """Encodes what is missing; returns when all shards are there, whichever process encoded them.

    Images that earlier runs could not read are tried again, last.

    Args:
        encode: called with the shards that this process takes; it asks for the next one early.
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
    # All processes wait in one order, so they never wait for one another.
    _encode(store, busy, -1, encode, update)


def _encode(
    store: FeatureStore, shards: Iterable[Shard], timeout: float, encode: Encode, update: Callable[[int], Any]
) -> list[Shard]:
    """Encodes what is missing of these shards; returns those that another process holds."""
    taken: deque[tuple[Shard, FileLock, Sequence[int]]] = deque()
    busy = []

    def lacking(shard: Shard) -> Sequence[int]:
        """All rows of a shard that is not there, or those that earlier runs could not read."""
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
            parts.append(features.cpu())
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
