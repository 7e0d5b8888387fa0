"""Features in a folder: which model made them of which images, and shards of them that are written once and whole.

    folder/manifest.json                               model, processor settings, precision, shape, key
    folder/inputs-KEY.jsonl                            a line per image: path, hash of contents, stamp
    folder/features-KEY-00000-of-00041.safetensors     "features" of the first 512 images; and so on
    folder/manifest.next.json                          while changes are encoded: of the store that will replace it

The key is a hash over what decides the features and their order: the model, the settings, and the contents of the
images, wherever they lie. It is in every file's name, and every file carries a checksum, so that files of two stores
cannot be mixed, nor damaged, without an error that names them.
A shard has its name only once it is complete and on the disk, so a run that was killed goes on from its last shard.
Several processes may fill one folder: each takes the next shard that is neither there nor locked by another.
A shard names the images that it has no features of, because they could not be read. That is no verdict: whoever opens
the store to encode tries them again.
A gallery whose images change gets a new key: features that stay become the first shards of a new store beside the one
there is, whose place it takes once it is complete, by the renaming of its manifest. Until then, and if encoding is
interrupted, whoever reads sees the whole store before; and who reads while the place changes, the one or the other.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import xxhash
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files import whole_file
from .identity import fault_of, identity_of

logger = logging.getLogger(__name__)

MANIFEST, _NEXT = "manifest.json", "manifest.next.json"
FORMAT, VERSION = "fafa features", 4
INPUTS_PER_SHARD = 512
DTYPES = {"float16", "bfloat16", "float32", "float64"}
_REMEDY = "encode the images again, into another folder"
_CHECKSUM = "xxh3_128"
_LARGEST_MANIFEST = 1 << 20
_LONGEST_LINE = 1 << 20

# Encodes shards (rows, ascending), in batches of which none crosses shards: rows encoded, rows skipped, features.
Encode = Callable[[Iterable[Sequence[int]]], Iterator[tuple[list[int], list[int], Tensor]]]


class DamagedShardError(ValueError):
    """A shard of features is not what was written: cut off, changed, or of another place."""


def verify_store(folder: Path) -> list[str]:
    """Reads all of a folder of features, without a model, and names what is wrong with it.

    Returns:
        A sentence for each fault: a file that is missing, damaged or foreign, or shards that were never encoded.
    """
    try:
        store = FeatureStore.open(folder)
    except (OSError, ValueError) as error:
        return [str(error)]
    faults, missing = [], []
    for number in range(len(store.shards)):
        try:
            store.read_shard(number)
        except FileNotFoundError:
            missing.append(number)
        except (OSError, DamagedShardError) as error:
            faults.append(str(error))
    if missing and store.is_replaced():  # by another process, just now
        return verify_store(folder)
    if missing:
        faults.append(store._missing(missing))
    return faults


def prepare_folder(folder: Path) -> None:
    """Makes a folder for features and sees that files can be written there: before hours of encoding, not after.

    Raises:
        OSError: they cannot; the message names the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        hint = "a file is in the way" if isinstance(error, (FileExistsError, NotADirectoryError)) else error.strerror
        raise OSError(error.errno, f"features cannot be written here ({hint}); give another folder", str(folder)) from (
            error
        )


class FeatureStore:
    """The features in one folder.

    Attributes:
        settings: see `feature_settings`.
        inputs: the description of each image or query, in order; see `describe_image`.
        reused: the rows whose features came from the store before, which are the first shards; see `open_or_create`.
        shards: the rows of each shard, ascending.
        images_folder: what the paths in `inputs` are relative to, or None.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        inputs: Sequence[dict[str, Any]],
        shard_size: int,
        images_folder: Path | None = None,
        reused: Iterable[int] = (),
    ):
        self.folder, self.settings, self.inputs, self.images_folder = folder, settings, list(inputs), images_folder
        self.shard_size, self.reused = shard_size, list(reused)
        known = set(self.reused)
        others = [row for row in range(len(self.inputs)) if row not in known]
        self.shards = [
            rows[start : start + shard_size]
            for rows in (self.reused, others)
            for start in range(0, len(rows), shard_size)
        ]
        self._with_gaps: set[int] = set()  # shards whose images without features shall be tried again
        model = {name: value for name, value in settings.items() if name != "model"}
        model |= {name: settings["model"][name] for name in ("fingerprint", "dtype")}
        self._identities = [identity_of(line) for line in self.inputs]
        identity = json.dumps([model, shard_size, _runs(self.reused), self._identities], sort_keys=True)
        self.key = hashlib.sha256(identity.encode()).hexdigest()[:16]  # names every file: none is of another store

    @classmethod
    def open(cls, folder: str | Path) -> "FeatureStore":
        """Opens a folder of features, complete or not.

        Raises:
            FileNotFoundError: there are none. ValueError: its manifest or list of images is damaged, or of another
            version.
        """
        return cls._open(Path(folder), MANIFEST)

    @classmethod
    def _open(cls, folder: Path, name: str) -> "FeatureStore":
        """The store that a manifest of this name describes."""
        text = _read_manifest(folder, name)
        try:
            manifest = _checked_manifest(folder / name, text)
            path = folder / f"inputs-{manifest['key']}.jsonl"
            images_folder = manifest["images_folder"] and Path(manifest["images_folder"])
            inputs, reused = _read_inputs(path, manifest["num_inputs"], images_folder is not None)
        except (OSError, ValueError):
            if _read_manifest(folder, name) != text:  # another process has just put a new store in its place
                return cls._open(folder, name)
            raise
        if images_folder and not images_folder.is_dir() and manifest["images_folder_from_here"]:
            beside = Path(os.path.normpath(folder.absolute() / manifest["images_folder_from_here"]))
            images_folder = beside if beside.is_dir() else images_folder  # moved together
        store = cls(folder, manifest["settings"], inputs, manifest["shard_size"], images_folder, reused)
        if store.key != manifest["key"]:
            raise ValueError(f"{folder}: {name} and {path.name} do not fit together; {_REMEDY}")
        return store

    @classmethod
    def _open_next(cls, folder: Path) -> "FeatureStore | None":
        """The store that will replace the one there is; None without one that can be gone on with."""
        try:
            return cls._open(folder, _NEXT) if (folder / _NEXT).exists() else None
        except FileNotFoundError:  # it has just become the one there is
            return None
        except ValueError as error:
            logger.warning("%s: what an interrupted run had begun is not used (%s)", folder, error)
            return None

    @classmethod
    def _open_for(
        cls, folder: Path, settings: dict[str, Any], inputs: Sequence[dict[str, Any]]
    ) -> "FeatureStore | None":
        """The store of these settings and inputs: the next one, or the one there is; None if neither is."""
        following = cls._open_next(folder)  # first: in the meantime it may become the one there is
        if following is not None and not following._differences(settings, inputs):
            return following
        store = cls.open(folder) if (folder / MANIFEST).exists() else None
        return None if store is None or store._first_difference(inputs) else store

    def is_replaced(self) -> bool:
        """Whether another process has put another store in this one's place since it was opened."""
        return _key_in(self.folder, MANIFEST) != self.key

    @classmethod
    def known_inputs(cls, folder: str | Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """By path, what a folder's store knows of files, see `describe_image`; nothing where there is no store yet.

        Refuses what would only fail after all files were read: features of another model, a place that cannot be
        written to.

        Raises:
            ValueError: as `open`, or the features are of another model or processor. OSError: see `prepare_folder`.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).exists():
            prepare_folder(folder)
            return {}
        store, following = cls.open(folder), cls._open_next(folder)
        store.check(settings, store.inputs)
        fields = ("path", "contents", "stamp", "fresh")
        return {
            line["path"]: {field: line[field] for field in fields if field in line}
            for line in chain(store.inputs, following.inputs if following else ())
            if line.get("contents") is not None and line.get("stamp") is not None
        }

    @classmethod
    def open_or_create(
        cls,
        folder: str | Path,
        settings: dict[str, Any],
        inputs: Sequence[dict[str, Any]],
        batch_size: int,
        images_folder: Path | None = None,
        update: bool = False,
    ) -> "FeatureStore":
        """Opens the features of exactly these inputs and settings, or begins them in an empty or new folder.

        Images that only lie elsewhere, or have other names or times, are the same. A damaged shard is deleted, with a
        warning, to be encoded again.

        Args:
            batch_size: a new store's shards hold a multiple of it, so that batches are the same as without a store.
            update: where the folder holds features of some of these inputs and of others, whether to begin a store
                that has the former and lacks the latter, with the rest to be encoded; see `complete`.

        Raises:
            ValueError: the folder holds features of another model, processor or precision, or of other inputs (with
                `update`, of another folder's images), or another process is encoding other inputs into it.
            OSError: it cannot be written to.
        """
        folder = Path(folder)
        inputs = list(inputs)
        store = None
        if update or not (folder / MANIFEST).exists():
            store = cls._open_for(folder, settings, inputs)
            if store is None:
                prepare_folder(folder)
                shard_size = max(1, INPUTS_PER_SHARD // batch_size) * batch_size
                with _lock(folder):  # of two processes, one writes the manifest and the other reads it
                    try:
                        if not (folder / MANIFEST).exists():
                            cls(folder, settings, inputs, shard_size, images_folder)._write_manifest(MANIFEST)
                        elif update and cls._open_for(folder, settings, inputs) is None:
                            cls.open(folder)._begin_next(settings, inputs, shard_size, images_folder)
                    finally:
                        _remove_lock(folder)
                store = cls._open_for(folder, settings, inputs)
        store = store or cls.open(folder)
        store.check(settings, inputs)
        store._note_whereabouts(inputs, images_folder)
        store._delete_damaged_shards()
        return store

    @classmethod
    def write(
        cls,
        folder: str | Path,
        settings: dict[str, Any],
        inputs: Sequence[dict[str, Any]],
        features: Tensor,
        skipped: Sequence[int],
        images_folder: Path | None = None,
    ) -> None:
        """Writes features that are complete, as one shard; replaces what the folder held once they are on the disk."""
        store = cls(Path(folder), settings, inputs, max(1, len(inputs)), images_folder)
        prepare_folder(store.folder)
        store._write_shard(0, features, skipped)
        store._write_manifest(MANIFEST)
        (store.folder / _NEXT).unlink(missing_ok=True)
        store._delete_other_stores()

    def check(self, settings: dict[str, Any], inputs: Sequence[dict[str, Any]] | None = None) -> None:
        """Refuses a model, processor or images that these features are not of, naming what differs.

        Args:
            settings: of the model and processor at hand.
            inputs: of the images at hand; None asks only whether the features can be compared with the model's: then
                their precision, and the model's, may differ.
        """
        if differences := self._differences(settings, inputs):
            raise ValueError(
                f"{self.folder} holds features that cannot be compared or mixed with those asked for: "
                f"{', '.join(differences)}. Use the model, processor and images that they were made with, or {_REMEDY}."
            )

    def _differences(self, settings: dict[str, Any], inputs: Sequence[dict[str, Any]] | None) -> list[str]:
        differences = []
        for section in sorted({*self.settings, *settings}):
            stored, current = self.settings.get(section, {}), settings.get(section, {})
            for name in sorted({*stored, *current} - {"name", "revision"}):
                if stored.get(name) != current.get(name) and not (inputs is None and name == "dtype"):
                    old, new = (
                        f"{side.get(name)} of {side.get('name')!r}" if name == "fingerprint" else side.get(name)
                        for side in (stored, current)
                    )
                    differences.append(f"{section} {name} {old} (now {new})")
        if inputs is not None and (difference := self._first_difference(inputs)):
            differences.append(difference)
        return differences

    def _first_difference(self, inputs: Sequence[dict[str, Any]]) -> str | None:
        for number, (old, new) in enumerate(zip(self.inputs, inputs, strict=False)):
            if self._identities[number] == identity_of(new):
                continue
            was, now = (
                ", ".join(repr(side[name]) for name in ("caption", "path") if side.get(name)) for side in (old, new)
            )
            change = f"(now {now})" if was != now else "(its contents have changed)"
            return f"input {number} {was} {change}, of {len(self.inputs):,} inputs (now {len(inputs):,})"
        if len(self.inputs) != len(inputs):
            return f"number of inputs {len(self.inputs):,} (now {len(inputs):,})"
        return None

    def _note_whereabouts(self, inputs: list[dict[str, Any]], images_folder: Path | None) -> None:
        """Of the same images, where they lie now, and their stamps: of use for the next time, so it may fail."""
        moved = images_folder is not None and images_folder != self.images_folder
        renamed = sum(old.get("path") != new.get("path") for old, new in zip(self.inputs, inputs, strict=True))
        if self.inputs == inputs and not moved:
            return
        if moved or renamed:
            logger.info(
                "%s: the images are found again by their contents (%s); their features are used as they are",
                self.folder,
                f"{renamed:,} under other names"
                if renamed
                else f"now in {images_folder}, before in {self.images_folder}",
            )
        self.inputs, self.images_folder = inputs, images_folder
        try:
            with _lock(self.folder).acquire(timeout=0):
                for name in (MANIFEST, _NEXT):
                    if _key_in(self.folder, name) == self.key:
                        self._write_manifest(name)
                _remove_lock(self.folder)
        except OSError as error:  # also that another process is about it
            logger.debug("%s: where the images lie now was not noted (%s)", self.folder, error)

    def _begin_next(
        self,
        settings: dict[str, Any],
        inputs: Sequence[dict[str, Any]],
        shard_size: int,
        images_folder: Path | None,
    ) -> None:
        """Begins a store of other inputs beside this one, with the features that are there of them.

        They are this store's, and those of another one that was begun and given up.
        """
        self.check(settings, self.inputs)
        given_up = FeatureStore._open_next(self.folder)
        if given_up is not None and given_up._differences(settings, given_up.inputs):
            given_up = None  # of another model
        held: dict[str, Tensor] = {}
        for store in filter(None, (given_up, self)):
            held |= store._features_by_identity()
        identities = [identity_of(line) for line in inputs]
        self._refuse_another_gallery(inputs, {*identities}, images_folder)

        reused = [row for row, identity in enumerate(identities) if identity in held]
        new = FeatureStore(self.folder, settings, inputs, shard_size, images_folder, reused)
        for number in range(-(-len(reused) // shard_size)):
            new._write_shard(number, torch.stack([held[identities[row]] for row in new.shards[number]]), [])
        new._write_manifest(_NEXT)
        new._delete_other_stores(but=self.key)
        names, before = ({line.get("path") for line in lines} for lines in (inputs, self.inputs))
        found = set(identities)
        removed = {
            line.get("path")
            for line, identity in zip(self.inputs, self._identities, strict=True)
            if line.get("path") not in names and identity not in found
        }
        renamed = sum(inputs[row].get("path") not in before for row in reused)
        known = {identity for store in filter(None, (given_up, self)) for identity in store._identities} - held.keys()
        again = sum(identity in known for identity in identities)
        logger.info(
            "%s: features of %d images reused%s, %d new or changed images to encode, %d removed images left out%s",
            self.folder,
            len(reused),
            f" ({renamed} of them under other names)" if renamed else "",
            len(inputs) - len(reused) - again,
            len(removed),
            f", {again} that had no features yet to try again" if again else "",
        )

    def _features_by_identity(self) -> dict[str, Tensor]:
        """The features that are there, memory-mapped, of inputs that are told by their contents.

        Raises:
            ValueError: another process is encoding here.
        """
        held: dict[str, Tensor] = {}
        for number, shard in enumerate(self.shards):
            if self._is_locked(number):
                raise ValueError(
                    f"{self.folder}: another process is encoding other images into it; run this again once it is done"
                )
            try:
                features, gaps = self.read_shard(number)
            except FileNotFoundError:
                continue
            except DamagedShardError as error:
                logger.warning("%s", error)
                continue
            rows = (row for row in shard if row not in gaps)
            held |= {
                self._identities[row]: of_row
                for row, of_row in zip(rows, features, strict=True)
                if self.inputs[row].get("contents") is not None
            }
        return held

    def _refuse_another_gallery(
        self, inputs: Sequence[dict[str, Any]], identities: set[str], images_folder: Path | None
    ) -> None:
        """A mistaken folder shall not cost the features of another.

        The same folder may hold what it likes; elsewhere, half of the images must be the same. Images without a folder
        need one in common.
        """
        num_found = sum(identity in identities for identity in self._identities)
        if images_folder is not None and self.images_folder is not None:
            same = images_folder == self.images_folder or 2 * num_found >= len(self.inputs)
        else:
            paths = {line.get("path") for line in self.inputs} - {None}
            same = num_found > 0 or any(line.get("path") in paths for line in inputs)
        if not same and any(self._path(number).exists() for number in range(len(self.shards))):
            where = f" in {self.images_folder}" if self.images_folder else ""
            raise ValueError(
                f"{self.folder} holds features of another gallery: of its {len(self.inputs):,} images{where}, "
                f"{num_found:,} are among the {len(inputs):,} given. Give another folder for these features; or, if "
                f"this is the same gallery with most of its images replaced, delete {self.folder} first."
            )

    def _is_locked(self, number: int) -> bool:
        if not _lock_path(self.folder, number).exists():
            return False
        try:
            with _lock(self.folder, number).acquire(timeout=0):
                return False
        except Timeout:
            return True

    def _delete_damaged_shards(self) -> None:
        """Reads what is there, deletes what is damaged, and notes which shards lack features that may be had now."""
        writable = os.access(self.folder, os.W_OK)
        for number in range(len(self.shards)):
            try:
                if self.read_shard(number)[1] and writable:
                    self._with_gaps.add(number)
            except FileNotFoundError:
                pass
            except DamagedShardError:
                if not writable:
                    raise
                with suppress(Timeout), _lock(self.folder, number).acquire(timeout=0):  # else another is about it
                    try:
                        self.read_shard(number)
                    except FileNotFoundError:
                        pass
                    except DamagedShardError as error:
                        logger.warning("%s", error)
                        self._path(number).unlink()
                    _remove_lock(self.folder, number)

    def _delete_other_stores(self, but: str | None = None) -> None:
        for pattern in ("features-*-of-*.safetensors*", "inputs-*.jsonl*"):
            for path in self.folder.glob(pattern):
                if not any(f"-{key}" in path.name for key in (self.key, but or self.key)):
                    with suppress(OSError):  # on Windows, while it is memory-mapped: goes the next time
                        path.unlink()

    def complete(self, encode: Encode, update: Callable[[int], Any] = lambda count: None) -> None:
        """Encodes what is missing; returns when all shards are there, whichever process encoded them.

        A store that was begun beside another then takes its place. Images that earlier runs could not read are tried
        again, last.

        Args:
            encode: see `Encode`; called with the shards that this process takes, and asks for the next one early.
            update: told how many more rows are done, for a progress bar.

        Raises:
            OSError: features cannot be written; finished shards stay. And whatever `encode` raises.
        """
        numbers = sorted(range(len(self.shards)), key=self._with_gaps.__contains__)
        busy = self._encode(numbers, 0, encode, update)
        if missing := [number for number in busy if not self._path(number).exists()]:
            logger.warning(
                "%s: waiting for other processes to finish %d of %d shards. If none is running, delete %s.",
                self.folder, len(missing), len(self.shards), _lock_path(self.folder, missing[0]),
            )  # fmt: skip
        # A lock is free once its holder is done, or dead. All processes wait in one order, so none for one another.
        self._encode(busy, -1, encode, update)
        self._take_its_place()

    def _take_its_place(self) -> None:
        """Of a store that was begun beside another, and is complete now; of several processes, one does it."""
        if _key_in(self.folder, _NEXT) != self.key:
            return
        with _lock(self.folder):
            try:
                if _key_in(self.folder, _NEXT) == self.key and not self._missing_shards():
                    (self.folder / _NEXT).replace(self.folder / MANIFEST)
                    self._delete_other_stores()
            finally:
                _remove_lock(self.folder)

    def _encode(
        self, numbers: Iterable[int], timeout: float, encode: Encode, update: Callable[[int], Any]
    ) -> list[int]:
        """Encodes what is missing of these shards; returns those that another process holds."""
        taken: dict[int, tuple[FileLock, Sequence[int]]] = {}
        busy = []

        def take() -> Iterator[Sequence[int]]:
            for number in numbers:
                if self._rows_to_encode(number):
                    lock = _lock(self.folder, number)
                    try:
                        lock.acquire(timeout=timeout)
                    except Timeout:
                        busy.append(number)
                        continue
                    if rows := self._rows_to_encode(number):
                        taken[number] = lock, rows
                        update(len(self.shards[number]) - len(rows))
                        yield rows
                        continue
                    _remove_lock(self.folder, number)
                    lock.release()
                update(len(self.shards[number]))

        parts, skipped, num_done = [], [], 0
        shards = take()
        try:
            if (first := next(shards, None)) is None:  # nothing to do: start no workers
                return busy
            for rows, left_out, features in encode(chain([first], shards)):
                parts.append(features.to("cpu", self._dtype))
                skipped += left_out
                num_done += len(rows) + len(left_out)
                update(len(rows) + len(left_out))
                number, (_, wanted) = next(iter(taken.items()))  # they come back in the order in which they were taken
                if num_done == len(wanted):
                    self._finish_shard(number, wanted, torch.cat(parts), sorted(skipped))
                    _remove_lock(self.folder, number)
                    taken.pop(number)[0].release()
                    parts, skipped, num_done = [], [], 0
        finally:
            for lock, _ in taken.values():
                lock.release()
        return busy

    def _rows_to_encode(self, number: int) -> Sequence[int]:
        """All of a shard that is not there, or what one lacks that earlier runs could not read."""
        if not self._path(number).exists():
            return self.shards[number]
        return self._read_gaps(number) if number in self._with_gaps else []

    def _finish_shard(self, number: int, rows: Sequence[int], features: Tensor, skipped: list[int]) -> None:
        """Writes a shard's features of these rows but the skipped, beside those that it has."""
        if self._path(number).exists():
            if len(features) == 0:
                return  # as unreadable as before
            old, gaps = self.read_shard(number)
            by_row = dict(zip((row for row in self.shards[number] if row not in gaps), old, strict=True))
            by_row |= dict(zip((row for row in rows if row not in skipped), features, strict=True))
            features = torch.stack([by_row[row] for row in self.shards[number] if row in by_row])
        self._write_shard(number, features, skipped)

    @property
    def _dtype(self) -> torch.dtype:
        return getattr(torch, self.settings["features"]["dtype"])

    @property
    def _shape(self) -> list[int]:
        return self.settings["features"]["shape"]

    def read(self, device: str | torch.device = "cpu") -> tuple[Tensor, list[int]]:
        """All features, `(num_read, ...)` in the order of inputs, and the rows without, which could not be read.

        One shard on a CPU is memory-mapped: it stays on the disk until it is used. Several are copied one by one. All
        bytes are compared with their checksums, which takes a pass over them (0.15 s a GB).

        Raises:
            ValueError: a shard is missing or damaged.
        """
        if missing := self._missing_shards():
            raise ValueError(self._missing(missing))
        if len(self.shards) == 1 and torch.device(device).type == "cpu":
            return self.read_shard(0)
        gaps = [self._read_gaps(number) for number in range(len(self.shards))]
        skipped = sorted(chain.from_iterable(gaps))
        left_out = set(skipped)
        places = {row: place for place, row in enumerate(row for row in range(len(self.inputs)) if row not in left_out)}
        features = torch.empty(len(places), *self._shape, dtype=self._dtype, device=device)
        for number, shard in enumerate(self.shards):
            part, gaps_now = self.read_shard(number)
            if gaps_now != gaps[number]:  # another process has just read an image that could not be read before
                return self.read(device)
            runs = _runs([places[row] for row in shard if row not in left_out])
            for (start, stop), rows in zip(runs, part.split([stop - start for start, stop in runs]), strict=True):
                features[start:stop].copy_(rows)
        return features, skipped

    def _missing_shards(self) -> list[int]:
        return [number for number in range(len(self.shards)) if not self._path(number).exists()]

    def _missing(self, numbers: Sequence[int]) -> str:
        return (
            f"{self.folder}: {len(numbers)} of {len(self.shards)} shards are missing ({self._path(numbers[0]).name} is "
            "the first), for encoding was interrupted; encode the same images into it again to finish it"
        )

    def _path(self, number: int) -> Path:
        return self.folder / f"features-{self.key}-{number:05d}-of-{len(self.shards):05d}.safetensors"

    def read_shard(self, number: int) -> tuple[Tensor, list[int]]:
        """One shard's features, memory-mapped and compared with their checksum, and the rows that it has none of.

        Raises:
            FileNotFoundError: it is not there. DamagedShardError: it is not what was written, or not of this place.
        """
        return self._undisturbed(number, self._read_shard)

    def _undisturbed(self, number: int, read: Callable[[int], Any]) -> Any:
        """What `read` gives for a shard; once more where another process has meanwhile written it anew.

        For `safe_open` opens a file twice, by its name: the second may be another, or gone.
        """
        opened = self._path(number).stat()
        try:
            return read(number)
        except (DamagedShardError, RuntimeError):
            if os.path.samestat(opened, self._path(number).stat()):
                raise
        return self._undisturbed(number, read)

    def _read_shard(self, number: int) -> tuple[Tensor, list[int]]:
        try:
            with safe_open(self._path(number), framework="pt") as file:
                metadata, gaps = file.metadata() or {}, _gaps_of(file)
                features = file.get_tensor("features")
        except (SafetensorError, ValueError, KeyError, RecursionError) as error:
            raise self._damaged(number, f"{type(error).__name__}: {error}") from error
        known = set(self.shards[number])
        shape = (len(known) - len(gaps), *self._shape)
        if any(row not in known for row in gaps) or sorted(set(gaps)) != gaps:
            raise self._damaged(number, "it lacks images that it should not hold")
        if tuple(features.shape) != shape or features.dtype != self._dtype:
            found = f"{features.dtype} {tuple(features.shape)}"
            raise self._damaged(number, f"expected {self._dtype} {shape}, found {found}")
        if metadata.get(_CHECKSUM) != self._checksum(number, features, gaps):
            raise self._damaged(number, "its checksum does not fit, or it is the shard of another place")
        return features, gaps

    def _damaged(self, number: int, reason: str) -> DamagedShardError:
        return DamagedShardError(f"{self._path(number)} is damaged ({reason}); encode the same images into it again")

    def _read_gaps(self, number: int) -> list[int]:
        """The rows that one shard has no features of."""
        return self._undisturbed(number, self._gaps_in)

    def _gaps_in(self, number: int) -> list[int]:
        try:
            with safe_open(self._path(number), framework="pt") as file:
                return _gaps_of(file)
        except (SafetensorError, ValueError, KeyError, RecursionError) as error:
            raise self._damaged(number, f"{type(error).__name__}: {error}") from error

    def _checksum(self, number: int, features: Tensor, gaps: Sequence[int]) -> str:
        """Over the features, and over whose they are: store, place, rows."""
        digest = xxhash.xxh3_128(json.dumps([self.key, number, list(gaps)]).encode())
        if features.numel():
            digest.update(features.reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def _write_shard(self, number: int, features: Tensor, gaps: Sequence[int]) -> None:
        features = features.cpu().contiguous()
        metadata = {"without": json.dumps(list(gaps)), _CHECKSUM: self._checksum(number, features, gaps)}
        self._write_file(self._path(number), lambda part: save_file({"features": features}, part, metadata))

    def _write_manifest(self, name: str) -> None:
        images_folder = None if self.images_folder is None else str(self.images_folder)
        from_here = None
        if images_folder is not None:
            with suppress(ValueError):  # on Windows, on another drive
                from_here = os.path.relpath(images_folder, self.folder)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "settings": self.settings,
            "num_inputs": len(self.inputs),
            "shard_size": self.shard_size,
            "images_folder": images_folder,
            "images_folder_from_here": from_here,
            "key": self.key,
        }
        manifest[_CHECKSUM] = _hash_json(manifest)
        reused = set(self.reused)
        lines = "".join(
            json.dumps(line | {"reused": True} if row in reused else line) + "\n"
            for row, line in enumerate(self.inputs)
        )
        lines += json.dumps({_CHECKSUM: xxhash.xxh3_128_hexdigest(lines.encode())}) + "\n"
        texts = {f"inputs-{self.key}.jsonl": lines, name: json.dumps(manifest, indent=1) + "\n"}
        for file, text in texts.items():  # in this order: the manifest makes the store the one that the folder holds
            self._write_file(self.folder / file, lambda part, text=text: part.write_text(text, "utf-8", newline="\n"))

    def _write_file(self, path: Path, write: Callable[[Path], Any]) -> None:
        try:
            with whole_file(path) as part:
                part.touch()
                mode = part.stat().st_mode
                write(part)
                part.chmod(mode)  # safetensors makes a file that its owner alone can read
        except (OSError, SafetensorError) as error:
            free = shutil.disk_usage(self.folder).free
            raise OSError(
                f"cannot write {path} ({error.__cause__ or error}; {free / 2**20:,.0f} MiB free). What was finished "
                "before stays: make room, or mend what else is the matter, and run the same again."
            ) from error


def _key_in(folder: Path, name: str) -> str | None:
    """The key in a manifest; None without one that is legible."""
    try:
        return json.loads(_read_manifest(folder, name)).get("key")
    except (FileNotFoundError, ValueError, AttributeError, RecursionError):
        return None


def _read_manifest(folder: Path, name: str) -> bytes:
    path = folder / name
    if not path.is_file():
        what = "is a file, no folder of features" if folder.is_file() else f"holds no features (no {MANIFEST})"
        raise FileNotFoundError(f"{folder} {what}; give the folder that a gallery was saved in")
    with path.open("rb") as stream:
        return stream.read(_LARGEST_MANIFEST + 1)


def _checked_manifest(path: Path, text: bytes) -> dict[str, Any]:
    """What a manifest says, if it is one.

    Raises:
        ValueError: it is damaged, or of another kind or version.
    """

    def need(holds: bool, problem: str) -> None:
        if not holds:
            raise ValueError(f"{path} is damaged ({problem}); {_REMEDY}")

    need(len(text) <= _LARGEST_MANIFEST, f"larger than {_LARGEST_MANIFEST >> 20} MiB")
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        need(False, str(error))
    need(isinstance(manifest, dict), f"it is a {type(manifest).__name__}")
    found = manifest.get("format"), manifest.get("version")
    if found[0] != FORMAT:
        raise ValueError(f"{path} is no manifest of features: it says {found[0]!r:.100}, not {FORMAT!r}; {_REMEDY}")
    if found[1] != VERSION:
        raise ValueError(
            f"{path} is of version {found[1]!r:.100} of this format, which this program, with version {VERSION}, does "
            f"not read; {_REMEDY}, or delete {path.parent} and encode into it"
        )

    def is_count(value: Any, least: int) -> bool:
        return type(value) is int and least <= value < 2**63

    need(re.fullmatch("[0-9a-f]{16}", str(manifest.get("key"))) is not None, "its key is none")
    need(is_count(manifest.get("num_inputs"), 0), "num_inputs is no count")
    need(is_count(manifest.get("shard_size"), 1), "shard_size is no count")
    for name in ("images_folder", "images_folder_from_here"):
        need(isinstance(manifest.get(name), (str, type(None))), f"{name} is no path")
    settings = manifest.get("settings")
    need(isinstance(settings, dict) and all(isinstance(of, dict) for of in settings.values()), "settings are none")
    model, features = settings.get("model", {}), settings.get("features", {})
    need(all(isinstance(model.get(name), str) for name in ("fingerprint", "dtype")), "it names no model")
    need(isinstance(features.get("dtype"), str) and features["dtype"] in DTYPES, "its features have no dtype")
    shape = features.get("shape")
    need(
        isinstance(shape, list) and len(shape) in (1, 2) and all(is_count(size, 1) for size in shape),
        "its features have no shape",
    )
    checksum = manifest.pop(_CHECKSUM, None)
    need(checksum == _hash_json(manifest), "its checksum does not fit")
    return manifest


def _read_inputs(path: Path, count: int, has_folder: bool) -> tuple[list[dict[str, Any]], list[int]]:
    """The descriptions of inputs, and the rows that are marked as reused.

    Raises:
        ValueError: the file is missing, damaged, or holds another number of inputs.
    """
    inputs, reused, digest = [], [], xxhash.xxh3_128()
    try:
        with path.open("rb") as stream:
            for row in range(count):
                line = stream.readline(_LONGEST_LINE)
                digest.update(line)
                description = json.loads(line)
                if fault := fault_of(description, has_folder):
                    raise ValueError(f"line {row + 1}: {fault}")
                if description.pop("reused", False):
                    reused.append(row)
                inputs.append(description)
            if json.loads(stream.readline(_LONGEST_LINE)) != {_CHECKSUM: digest.hexdigest()} or stream.read(1):
                raise ValueError("its checksum does not fit")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}); {_REMEDY}") from error
    return inputs, reused


def _gaps_of(file: Any) -> list[int]:
    gaps = json.loads((file.metadata() or {})["without"])
    if not isinstance(gaps, list) or any(type(row) is not int for row in gaps):
        raise ValueError("the list of images that it lacks is none")
    return gaps


def _hash_json(value: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True).encode())


def _lock_path(folder: Path, name: int | str) -> Path:
    return folder / f".{name}.lock"


def _lock(folder: Path, name: int | str = "manifest") -> FileLock:
    return FileLock(_lock_path(folder, name))


def _remove_lock(folder: Path, name: int | str = "manifest") -> None:
    """Once what it guarded is there: whoever takes the lock later, or waits for it, looks for that first."""
    with suppress(OSError):  # on Windows, while another waits for it
        _lock_path(folder, name).unlink()


def _runs(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers as runs: [0, 1, 2, 5] is [(0, 3), (5, 6)]."""
    known = set(rows)
    starts = [row for row in rows if row - 1 not in known]
    stops = [row + 1 for row in rows if row + 1 not in known]
    return list(zip(starts, stops, strict=True))
