"""Features in a folder: which model made them of which images, and shards of them that are written once and whole.

    folder/manifest.json                               model, processor settings, precision, shape, key
    folder/inputs-KEY.jsonl                            a line per image: path, hash of contents, stamp
    folder/features-KEY-00000-of-00041.safetensors     "features" of the first 512 images; and so on

The key is a hash over what decides the features and their order: the model, the settings, and the contents of the
images, wherever they lie. It is in every file's name, and every file carries a checksum, so that files of two stores
cannot be mixed, nor damaged, without an error that names them.
A shard has its name only once it is complete and on the disk, so a run that was killed goes on from its last shard.
Several processes may fill one folder: each takes the next shard that is neither there nor locked by another.
A shard names the images that could not be read, so that it has no features of them. Whoever opens the store to encode
tries them again.
Features of test sets, whose images do not change, are kept so. Galleries are kept in segments, see `segment_list`;
those that earlier versions kept so can be opened, and converted, see `conversion`.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import xxhash
from filelock import Timeout
from torch import Tensor

from ..files import write_whole
from .fingerprint import differing_settings
from .identity import identity_of
from .manifest import (
    FORMAT,
    MANIFEST,
    REMEDY,
    VERSION,
    checked_manifest,
    hash_json,
    inputs_file,
    key_in,
    read_inputs,
    read_manifest,
)
from .segment_list import GalleryFolder
from .shards import CHECKSUM, DamagedShardError, Shard, manifest_locked, remove_lock

logger = logging.getLogger(__name__)


def verify_store(folder: str | Path) -> list[str]:
    """Reads all of a folder of features, or a gallery's, without a model; a sentence for each faulty file.

    Faults are files that are missing or damaged, or that belong elsewhere.
    """
    place = GalleryFolder(folder)
    if place.exists() and not (place.path / MANIFEST).is_file():
        return place.faults()
    try:
        store = FeatureStore.open(folder)
    except (OSError, ValueError) as error:
        return [str(error)]
    faults = []
    for shard in store.shards:
        try:
            shard.read()
        except FileNotFoundError:
            if store.is_replaced():  # by another process, just now
                return verify_store(folder)
        except (OSError, DamagedShardError) as error:
            faults.append(str(error))
    return [*faults, *filter(None, [store.incomplete()])]


class FeatureStore:
    """The features in one folder.

    Attributes:
        settings: see `feature_settings`.
        inputs: the description of each image or query, in order; see `describe_image`.
        identities: what tells the inputs from others, see `identity_of`.
        images_folder: what the paths in `inputs` are relative to, or None.
        reused: the rows in the first shards, which a gallery of an earlier version had when its images changed.
        shards: the files of features, there or not.
        to_try_again: the shards that lacked features of some inputs when they were last looked at, see `heal`.
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
        self.identities = [identity_of(line) for line in self.inputs]
        model = {name: value for name, value in settings.items() if name != "model"}
        model |= {name: settings["model"][name] for name in ("fingerprint", "dtype")}
        whole = json.dumps([model, shard_size, _runs(self.reused), self.identities], sort_keys=True)
        self.key = hashlib.sha256(whole.encode()).hexdigest()[:16]  # names every file: none is of another store

        known = set(self.reused)
        others = [row for row in range(len(self.inputs)) if row not in known]
        parts = [
            rows[start : start + shard_size]
            for rows in (self.reused, others)
            for start in range(0, len(rows), shard_size)
        ]
        shape = settings["features"]
        self.shards = [Shard(folder, self.key, number, len(parts), rows, shape) for number, rows in enumerate(parts)]
        self.to_try_again: set[Shard] = set()

    @classmethod
    def open(cls, folder: str | Path) -> "FeatureStore":
        """Opens a folder of features, complete or not.

        Raises:
            FileNotFoundError: there are none.
            ValueError: its manifest or list of images is damaged, or of another version.
        """
        folder = Path(folder)
        text = read_manifest(folder)
        try:
            said = checked_manifest(folder / MANIFEST, text)
            path = inputs_file(folder, said["key"])
            images_folder = said["images_folder"] and Path(said["images_folder"])
            inputs, reused = read_inputs(path, said["num_inputs"], images_folder is not None)
        except (OSError, ValueError):
            if read_manifest(folder) != text:  # another process has just put a new store in its place
                return cls.open(folder)
            raise
        if images_folder and not images_folder.is_dir() and said["images_folder_from_here"]:
            beside = Path(os.path.normpath(folder.absolute() / said["images_folder_from_here"]))
            images_folder = beside if beside.is_dir() else images_folder  # moved together
        store = cls(folder, said["settings"], inputs, said["shard_size"], images_folder, reused)
        if store.key != said["key"]:
            raise ValueError(f"{folder}: {MANIFEST} and {path.name} do not fit together; {REMEDY}")
        return store

    def is_replaced(self) -> bool:
        """Whether another process has put another store in this one's place since it was opened."""
        return key_in(self.folder) != self.key

    def incomplete(self) -> str | None:
        """A sentence on shards that are missing; None if all are there."""
        missing = [shard for shard in self.shards if not shard.exists()]
        if not missing:
            return None
        return (
            f"{self.folder}: shards are missing, {len(missing)} of {len(self.shards)} ({missing[0].path.name} is the "
            "first), for encoding was interrupted; encode the same images into it again to finish it"
        )

    def read(self, device: str | torch.device = "cpu") -> tuple[Tensor, list[int]]:
        """All features, `(num_read, ...)` in the order of inputs, and the rows without, which could not be read.

        One shard on a CPU is memory-mapped: it stays on the disk until it is used. Several are copied one by one. All
        bytes are compared with their checksums, which takes a pass over them (0.15 s a GB).

        Raises:
            ValueError: a shard is missing or damaged.
        """
        if incomplete := self.incomplete():
            raise ValueError(incomplete)
        if len(self.shards) == 1 and torch.device(device).type == "cpu":
            return self.shards[0].read()
        gaps = [shard.read_gaps() for shard in self.shards]
        skipped = sorted(chain.from_iterable(gaps))
        left_out = set(skipped)
        is_there = torch.tensor([row not in left_out for row in range(len(self.inputs))])
        places = is_there.cumsum(0) - 1
        spec = self.settings["features"]
        size = int(is_there.sum()), *spec["shape"]
        features = torch.empty(size, dtype=getattr(torch, spec["dtype"]), device=device)
        for shard, gaps_before in zip(self.shards, gaps, strict=True):
            part, gaps_now = shard.read()
            if gaps_now != gaps_before:  # another process has just read an image that could not be read before
                return self.read(device)
            rows = torch.tensor(shard.rows)
            features[places[rows[is_there[rows]]].to(device)] = part.to(device)
        return features, skipped

    def check(self, settings: dict[str, Any], inputs: Sequence[dict[str, Any]] | None = None) -> None:
        """Refuses a model, processor or images that these features are not of, naming what differs.

        Args:
            settings: settings of the given model and processor.
            inputs: the given images; None asks only whether the features can be compared with the model's, whose
                precision may differ.
        """
        if differences := self.differences(settings, inputs):
            raise ValueError(
                f"{self.folder} holds features that cannot be compared or mixed with those asked for: "
                f"{', '.join(differences)}. Use the model, processor and images that they were made with, or {REMEDY}."
            )

    def differences(self, settings: dict[str, Any], inputs: Sequence[dict[str, Any]] | None) -> list[str]:
        """The differences that `check` names."""
        differences = differing_settings(self.settings, settings, {"dtype"} if inputs is None else set())
        if inputs is not None and (difference := self.first_difference(inputs)):
            differences.append(difference)
        return differences

    def first_difference(self, inputs: Sequence[dict[str, Any]]) -> str | None:
        """The first input that differs here; None if all are the same, wherever they lie."""
        for number, (old, new) in enumerate(zip(self.inputs, inputs, strict=False)):
            if self.identities[number] == identity_of(new):
                continue
            was, now = (
                ", ".join(repr(side[name]) for name in ("caption", "path") if side.get(name)) for side in (old, new)
            )
            change = f"(now {now})" if was != now else "(its contents have changed)"
            return f"input {number} {was} {change}, of {len(self.inputs):,} inputs (now {len(inputs):,})"
        if len(self.inputs) != len(inputs):
            return f"number of inputs {len(self.inputs):,} (now {len(inputs):,})"
        return None

    def write_manifest(self) -> None:
        """Makes this store the one that the folder holds."""
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "settings": self.settings,
            "num_inputs": len(self.inputs),
            "shard_size": self.shard_size,
            "images_folder": self.images_folder and str(self.images_folder),
            "images_folder_from_here": self.images_folder and os.path.relpath(self.images_folder, self.folder),
            "key": self.key,
        }
        manifest[CHECKSUM] = hash_json(manifest)
        marks = {row: {"reused": True} for row in self.reused}
        lines = "".join(json.dumps({**line, **marks.get(row, {})}) + "\n" for row, line in enumerate(self.inputs))
        lines += json.dumps({CHECKSUM: xxhash.xxh3_128_hexdigest(lines.encode())}) + "\n"
        write_whole(inputs_file(self.folder, self.key), lines)
        write_whole(self.folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")  # last: it makes the store count

    def note_whereabouts(self, inputs: list[dict[str, Any]], images_folder: Path | None) -> None:
        """Notes where the same images lie now, and their stamps, for the next time; it may fail."""
        moved = images_folder is not None and images_folder != self.images_folder
        if self.inputs == inputs and not moved:
            return
        if moved or any(old.get("path") != new.get("path") for old, new in zip(self.inputs, inputs, strict=True)):
            logger.info("%s: the images were found again by their contents; their features are used", self.folder)
        self.inputs, self.images_folder = inputs, images_folder
        try:
            with manifest_locked(self.folder, timeout=0):
                if not self.is_replaced():
                    self.write_manifest()
        except OSError as error:  # also a Timeout, since another process is writing
            logger.debug("%s: where the images lie now was not noted (%s)", self.folder, error)

    def heal(self) -> None:
        """Deletes damaged shards before encoding, with a warning, and notes which shards lack features.

        Raises:
            DamagedShardError: one is damaged, and nothing can be written here.
        """
        writable = os.access(self.folder, os.W_OK)
        for shard in self.shards:
            try:
                if shard.read()[1] and writable:
                    self.to_try_again.add(shard)
            except FileNotFoundError:
                pass
            except DamagedShardError:
                if not writable:
                    raise
                with suppress(Timeout), shard.lock().acquire(timeout=0) as lock:  # unless another process mends it
                    try:
                        shard.read()
                    except FileNotFoundError:
                        pass
                    except DamagedShardError as error:
                        logger.warning("%s", error)
                        shard.path.unlink()
                    remove_lock(lock)


def _runs(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers as runs: [0, 1, 2, 5] is [(0, 3), (5, 6)]."""
    known = set(rows)
    starts = [row for row in rows if row - 1 not in known]
    stops = [row + 1 for row in rows if row + 1 not in known]
    return list(zip(starts, stops, strict=True))
