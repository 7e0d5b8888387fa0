"""Filling a folder of features: a store is begun, gone on with, or renewed for images that changed, and completed.

Several processes may do so at once; an interruption keeps what was done.
"""

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ..files import check_output_folder, printable, some
from ..names import counted
from .identity import identity_of
from .manifest import MANIFEST, NEXT_MANIFEST, key_in
from .shards import DamagedShardError, Shard, manifest_locked, remove_lock
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
    store, following = FeatureStore.open(folder), FeatureStore.open_next(folder)
    store.check(settings, store.inputs)
    fields = ("path", "contents", "stamp", "fresh")
    return {
        line["path"]: {field: line[field] for field in fields if field in line}
        for line in chain(store.inputs, following.inputs if following else ())
        if line.get("contents") is not None and line.get("stamp") is not None
    }


def open_or_create(
    folder: str | Path,
    settings: dict[str, Any],
    inputs: Sequence[dict[str, Any]],
    batch_size: int,
    images_folder: Path | None = None,
    update: bool = False,
) -> FeatureStore:
    """Opens the features of exactly these inputs and settings, or begins them in an empty or new folder.

    Images that only lie elsewhere, or have other names or times, are the same. A damaged shard is deleted, with a
    warning, to be encoded again.

    Args:
        batch_size: a new store's shards hold a multiple of it, so that batches are the same as without a store.
        update: where the folder holds features of some of these inputs and of others, whether to begin a store that
            keeps the former and drops the latter; the rest is to be encoded, see `complete`.

    Raises:
        ValueError: the folder holds features of another model, processor or precision, or of other inputs (with
            `update`, of another folder's images), or another process is encoding other inputs into it.
        OSError: it cannot be written to.
    """
    folder, inputs = Path(folder), list(inputs)
    store = _open_for(folder, settings, inputs)
    if store is None and (update or not (folder / MANIFEST).exists()):
        check_output_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _check_nothing_else(folder)
        shard_size = max(1, INPUTS_PER_SHARD // batch_size) * batch_size
        with manifest_locked(folder):  # one process writes the manifest, any other reads it
            if not (folder / MANIFEST).exists():
                FeatureStore(folder, settings, inputs, shard_size, images_folder).write_manifest()
            elif update and _open_for(folder, settings, inputs) is None:
                _begin_next(FeatureStore.open(folder), settings, inputs, shard_size, images_folder)
        store = _open_for(folder, settings, inputs)
    store = store or FeatureStore.open(folder)
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

    A store that was begun beside another then takes its place. Images that earlier runs could not read are tried again,
    last.

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
    if key_in(store.folder, NEXT_MANIFEST) == store.key:
        with manifest_locked(store.folder):  # one of several processes does it
            if key_in(store.folder, NEXT_MANIFEST) == store.key and not store.incomplete():
                (store.folder / NEXT_MANIFEST).replace(store.folder / MANIFEST)
                store.delete_other_stores()


def _open_for(folder: Path, settings: dict[str, Any], inputs: Sequence[dict[str, Any]]) -> FeatureStore | None:
    """The store of these settings and inputs: the next one, or the present one; None if neither is."""
    following = FeatureStore.open_next(folder)  # first: in the meantime it may become the one there is
    if following is not None and not following.differences(settings, inputs):
        return following
    store = FeatureStore.open(folder) if (folder / MANIFEST).exists() else None
    return None if store is None or store.first_difference(inputs) else store


def _begin_next(
    store: FeatureStore,
    settings: dict[str, Any],
    inputs: Sequence[dict[str, Any]],
    shard_size: int,
    images_folder: Path | None,
) -> None:
    """Begins a store of other inputs beside a store, with their features that are there already.

    These are features of that store, and of another one that was begun and given up.
    """
    store.check(settings, store.inputs)
    given_up = FeatureStore.open_next(store.folder)
    is_usable = given_up is not None and not given_up.differences(settings, given_up.inputs)  # not of another model
    stores = [given_up, store] if is_usable else [store]
    held: dict[str, Tensor] = {}
    for one in stores:
        held |= _features_by_identity(one)
    identities = [identity_of(line) for line in inputs]
    _refuse_another_gallery(store, inputs, {*identities}, images_folder)

    reused = [row for row, identity in enumerate(identities) if identity in held]
    new = FeatureStore(store.folder, settings, inputs, shard_size, images_folder, reused)
    for shard in new.shards[: -(-len(reused) // shard_size)]:
        shard.write(torch.stack([held[identities[row]] for row in shard.rows]), [])
    new.write_manifest(NEXT_MANIFEST)
    new.delete_other_stores(but=store.key)

    paths, found = {line.get("path") for line in inputs}, {*identities}
    held_before = zip(store.inputs, store.identities, strict=True)
    removed = {line.get("path") for line, identity in held_before if identity not in found} - paths
    known = {identity for one in stores for identity in one.identities} - held.keys()
    again = sum(identity in known for identity in identities)
    logger.info(
        "%s: features of %d images reused, %d new or changed images to encode, %d removed images left out%s",
        *(store.folder, len(reused), len(inputs) - len(reused) - again, len(removed)),
        f", {again} that had no features yet to try again" if again else "",
    )


def _features_by_identity(store: FeatureStore) -> dict[str, Tensor]:
    """The features that are there, memory-mapped, of inputs that are told by their contents.

    Raises:
        ValueError: another process is encoding here.
    """
    held: dict[str, Tensor] = {}
    for shard in store.shards:
        if shard.is_locked():
            raise ValueError(f"{store.folder}: another process is encoding other images into it; wait until it is done")
        try:
            features, gaps = shard.read()
        except FileNotFoundError:
            continue
        except DamagedShardError as error:
            logger.warning("%s", error)
            continue
        rows = (row for row in shard.rows if row not in gaps)
        held |= {
            store.identities[row]: of_row
            for row, of_row in zip(rows, features, strict=True)
            if store.inputs[row].get("contents") is not None
        }
    return held


def _refuse_another_gallery(
    store: FeatureStore, inputs: Sequence[dict[str, Any]], identities: Collection[str], images_folder: Path | None
) -> None:
    """Keeps a mistaken folder from costing the features of another.

    In the same folder, all images may change; elsewhere, half of them must be the same. Images without a folder need
    one in common.
    """
    num_found = sum(identity in identities for identity in store.identities)
    if images_folder is not None and store.images_folder is not None:
        same = images_folder == store.images_folder or 2 * num_found >= len(store.inputs)
    else:
        paths = {line.get("path") for line in store.inputs} - {None}
        same = num_found > 0 or any(line.get("path") in paths for line in inputs)
    if not same and any(shard.exists() for shard in store.shards):
        where = f" in {store.images_folder}" if store.images_folder else ""
        raise ValueError(
            f"{store.folder} holds features of another gallery: of its {counted(len(store.inputs), 'image')}{where}, "
            f"{num_found:,} are among the {len(inputs):,} given. Give another folder for these features; or, if this "
            f"is the same gallery with most of its images replaced, delete {store.folder} first."
        )


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
