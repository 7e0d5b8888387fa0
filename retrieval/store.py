"""Features in a folder: which model made them of which images, and shards of them that are written once and whole.

    folder/manifest.json                               model, processor settings, precision, shape, key
    folder/inputs-KEY.jsonl                            a line per image: path, size, time of change; or a hash
    folder/features-KEY-00000-of-00041.safetensors     "features" of the first 512 images; and so on

The key is a hash over what decides the features and their order, so that files of two stores cannot be mixed.
A shard has its name only once it is complete and on the disk, so a run that was killed goes on from its last shard.
Several processes may fill one folder: each takes the next shard that is neither there nor locked by another.
A gallery whose images change gets a new key: features that stay become the first shards of the new store, which then is
as any that is not finished. The manifest is replaced last, so that there is a usable store at every moment.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..image_reading_fafa import UnreadableImageError, open_image
from ..modeling_fafa import FafaModel
from ..processing_fafa import FafaProcessor

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT, VERSION = "fafa features", 3
INPUTS_PER_SHARD = 512
SAMPLES_PER_TENSOR = 256
_REMEDY = "encode the images again, into another folder"

# Encodes shards (rows, ascending), in batches of which none crosses shards: rows encoded, rows skipped, features.
Encode = Callable[[Iterable[Sequence[int]]], Iterator[tuple[list[int], list[int], Tensor]]]


def model_fingerprint(model: FafaModel) -> str:
    """A short name for a model's weights: a hash over names, shapes and 256 values of each tensor.

    Values are rounded to bfloat16, so that a gallery encoded in bf16 on a GPU is searched by the same model in fp32.
    Any training beyond a few steps changes it; it guards against mistakes, not against forgery.
    """
    digest = hashlib.sha256(f"{model.config.vision_norm_eps}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // SAMPLES_PER_TENSOR)][:SAMPLES_PER_TENSOR]
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(sample.to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def feature_settings(
    model: FafaModel,
    processor: FafaProcessor,
    kind: str,
    shape: Sequence[int],
    dtype: torch.dtype | None = None,
    images: bool = True,
    captions: bool = False,
) -> dict[str, Any]:
    """What decides the features of an image (or query), as it stands in a manifest.

    Args:
        kind: what they are: "target", or the kind of query.
        shape: of the features of one input.
        dtype: of the stored features; None is the model's.
        images: whether the features come from images; captions: whether from captions.
    """
    settings = {
        "model": {
            "name": model.config._name_or_path,
            "revision": getattr(model.config, "_commit_hash", None),
            "fingerprint": model_fingerprint(model),
            "dtype": ", ".join(sorted({_dtype_name(weight.dtype) for weight in model.parameters()})),
        },
        "features": {
            "kind": kind,
            "dtype": _dtype_name(dtype or model.vision_projection.weight.dtype),
            "shape": list(shape),
        },
    }
    if images:
        # Through JSON, as a manifest gives it back: no tuples.
        settings["image_processor"] = json.loads(processor.image_processor.to_json_string())
    if captions:
        vocabulary = json.dumps(processor.tokenizer.get_vocab(), sort_keys=True)
        settings["captions"] = {
            "vocabulary": hashlib.sha256(vocabulary.encode()).hexdigest()[:16],
            "max_text_length": processor.max_text_length,
            "clean_captions": processor.clean_captions,
        }
    return settings


def path_of(image: Any) -> Path | None:
    """The file of an image as `open_image` takes it; None where there is none."""
    path = image.get("path") if isinstance(image, Mapping) else image
    return Path(path) if isinstance(path, (str, Path)) else None


def describe_image(image: Any, name: str, folder: Path | None = None, contents: bool = True) -> dict[str, Any]:
    """Tells an image from others without decoding it where it is a file: path, size, time of the last change.

    Args:
        image: as `open_image` takes it.
        name: how messages call it.
        folder: stores the path relative to it.
        contents: whether to hash an image that is not a file, which must be read for it.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path, data = path_of(image), image.get("bytes") if isinstance(image, Mapping) else None
    if path is not None and data is None:
        try:
            status = path.stat()
        except FileNotFoundError:
            open_image(image, name)  # the same error, with the image's name and what to do
            raise
        stored = path.absolute()
        if folder is not None and not stored.is_relative_to(folder):
            raise ValueError(
                f"{name}, {stored}, does not lie in folder={folder}; give one that holds all images, or none"
            )
        stored = str(stored) if folder is None else stored.relative_to(folder).as_posix()
        return {"path": stored, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    description = {"path": None if path is None else str(path)}
    if contents:
        digest = hashlib.sha256()
        if data is not None:
            digest.update(data)
        else:
            with suppress(UnreadableImageError):  # is reported, or skipped, by who encodes it
                pixels = open_image(image, name)
                digest.update(f"{pixels.size}".encode() + pixels.tobytes())
        description["sha256"] = digest.hexdigest()
    return description


def input_path(description: dict[str, Any], folder: Path | None = None) -> Path | None:
    """The file that `describe_image` described, with the same `folder`; None where there was none."""
    return None if description["path"] is None else Path(folder or "", description["path"])


def input_name(description: dict[str, Any], row: int, folder: Path | None = None) -> str:
    """The path of an image, or its number where it has none."""
    return str(input_path(description, folder) or f"image {row}")


class FeatureStore:
    """The features in one folder.

    Attributes:
        settings: see `feature_settings`.
        inputs: the description of each image or query, in order.
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
        model = {name: value for name, value in settings.items() if name != "model"}
        model |= {name: settings["model"][name] for name in ("fingerprint", "dtype")}
        identity = json.dumps([model, shard_size, _runs(self.reused)], sort_keys=True) + self._inputs_text()
        self.key = hashlib.sha256(identity.encode()).hexdigest()[:16]  # names every file: none is of another store

    def _inputs_text(self) -> str:
        return "".join(json.dumps(line) + "\n" for line in self.inputs)

    @classmethod
    def open(cls, folder: str | Path) -> "FeatureStore":
        """Opens a folder of features, complete or not.

        Raises:
            FileNotFoundError: there are none. ValueError: its manifest or list of images is damaged.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no features (no {MANIFEST}); save a gallery there first")
        text = path.read_text(encoding="utf-8")
        try:
            manifest = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); {_REMEDY}") from error
        found = (manifest.get("format"), manifest.get("version")) if isinstance(manifest, dict) else manifest
        if found != (FORMAT, VERSION):
            raise ValueError(f"{path} is no manifest of features: it says {found}, not {(FORMAT, VERSION)}; {_REMEDY}")
        inputs_path = folder / f"inputs-{manifest['key']}.jsonl"
        try:
            inputs = [json.loads(line) for line in inputs_path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            if path.read_text(encoding="utf-8") != text:  # another process has just put a new store in its place
                return cls.open(folder)
            raise ValueError(f"{inputs_path} is missing or damaged ({error}); {_REMEDY}") from error
        images_folder = manifest["images_folder"] and Path(manifest["images_folder"])
        reused = chain.from_iterable(range(*run) for run in manifest["reused"])
        store = cls(folder, manifest["settings"], inputs, manifest["shard_size"], images_folder, reused)
        if store.key != manifest["key"]:
            raise ValueError(f"{folder}: {MANIFEST} and {inputs_path.name} do not fit together; {_REMEDY}")
        return store

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

        A damaged shard is deleted, with a warning, to be encoded again.

        Args:
            batch_size: a new store's shards hold a multiple of it, so that batches are the same as without a store.
            update: where the folder holds features of some of these inputs and of others, whether to keep the former,
                drop the latter, and leave the rest to be encoded.

        Raises:
            ValueError: the folder holds features of another model, processor or precision, or of other inputs (with
                `update`, of none of these), or another process is encoding other inputs into it.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        inputs = list(inputs)
        store = cls.open(folder) if (folder / MANIFEST).exists() else None
        if store is None or (update and store.inputs != inputs):
            shard_size = max(1, INPUTS_PER_SHARD // batch_size) * batch_size
            with _lock(folder):  # of two processes, one writes the manifest and the other reads it
                try:
                    if not (folder / MANIFEST).exists():
                        cls(folder, settings, inputs, shard_size, images_folder)._write_manifest()
                    elif update and (store := cls.open(folder)).inputs != inputs:
                        store._update(settings, inputs, shard_size, images_folder)
                finally:
                    _remove_lock(folder)
            store = cls.open(folder)
        store.check(settings, inputs)
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
        store.folder.mkdir(parents=True, exist_ok=True)
        store._write_shard(0, features, skipped)
        store._write_manifest()
        store._delete_other_stores()

    def check(self, settings: dict[str, Any], inputs: Sequence[dict[str, Any]] | None = None) -> None:
        """Refuses a model, processor or images that these features are not of, naming what differs.

        Args:
            settings: of the model and processor at hand.
            inputs: of the images at hand; None asks only whether the features can be compared with the model's: then
                their precision, and the model's, may differ.
        """
        differences = []
        for section in sorted({*self.settings, *settings}):
            stored, current = self.settings.get(section, {}), settings.get(section, {})
            for name in sorted({*stored, *current} - {"name", "revision"}):
                if stored.get(name) != current.get(name) and not (inputs is None and name == "dtype"):
                    old, new = (
                        f"{side.get(name)} of {side['name']!r}" if name == "fingerprint" else side.get(name)
                        for side in (stored, current)
                    )
                    differences.append(f"{section} {name} {old} (now {new})")
        if inputs is not None and self.inputs != list(inputs):
            differences.append(_first_difference(self.inputs, inputs))
        if differences:
            raise ValueError(
                f"{self.folder} holds features that cannot be compared or mixed with those asked for: "
                f"{', '.join(differences)}. Use the model, processor and images that they were made with, or {_REMEDY}."
            )

    def _update(
        self,
        settings: dict[str, Any],
        inputs: Sequence[dict[str, Any]],
        shard_size: int,
        images_folder: Path | None,
    ) -> None:
        """Puts a store of other inputs in this one's place, with the features of those inputs that both have."""
        self.check(settings, self.inputs)
        self._delete_damaged_shards()
        held: dict[str, Tensor | None] = {}  # memory-mapped; None was skipped
        for number, shard in enumerate(self.shards):
            if self._path(number).exists():
                features, skipped = iter(self._read_shard(number)), set(self._read_skipped(number))
                held |= {json.dumps(self.inputs[row]): None if row in skipped else next(features) for row in shard}
            elif self._is_locked(number):
                raise ValueError(
                    f"{self.folder}: another process is encoding other images into it; run this again once it is done"
                )
        texts = [json.dumps(line) for line in inputs]
        reused = [row for row, text in enumerate(texts) if text in held]
        if held and not reused:
            self.check(settings, inputs)  # raises: a mistaken folder shall not cost the features of another

        new = FeatureStore(self.folder, settings, inputs, shard_size, images_folder, reused)
        for number in range(-(-len(reused) // shard_size)):
            rows = new.shards[number]
            features = [held[texts[row]] for row in rows if held[texts[row]] is not None]
            features = torch.stack(features) if features else torch.empty(0, *self._shape, dtype=self._dtype)
            new._write_shard(number, features, [row for row in rows if held[texts[row]] is None])
        new._write_manifest()
        new._delete_other_stores()
        removed = {line.get("path") for line in self.inputs} - {line.get("path") for line in inputs}
        logger.info(
            "%s: features of %d images reused, %d new or changed images to encode, %d removed images left out",
            self.folder, len(reused), len(inputs) - len(reused), len(removed),
        )  # fmt: skip

    def _is_locked(self, number: int) -> bool:
        if not _lock_path(self.folder, number).exists():
            return False
        try:
            with _lock(self.folder, number).acquire(timeout=0):
                return False
        except Timeout:
            return True

    def _delete_damaged_shards(self) -> None:
        for number in range(len(self.shards)):
            try:
                if self._path(number).exists():
                    self._read_skipped(number)
            except SafetensorError as error:
                logger.warning("%s is damaged (%s): encoded again", self._path(number), error)
                self._path(number).unlink()

    def _delete_other_stores(self) -> None:
        for pattern in ("features-*-of-*.safetensors*", "inputs-*.jsonl*"):
            for path in self.folder.glob(pattern):
                if f"-{self.key}" not in path.name:
                    with suppress(OSError):  # on Windows, while it is memory-mapped: goes the next time
                        path.unlink()

    def complete(self, encode: Encode, update: Callable[[int], Any] = lambda count: None) -> None:
        """Encodes the shards that are missing; returns when all are there, whichever process encoded them.

        Args:
            encode: see `Encode`; called with the shards that this process takes, and asks for the next one early.
            update: told how many more rows are done, for a progress bar.

        Raises:
            OSError: features cannot be written; finished shards stay. And whatever `encode` raises.
        """
        busy = self._encode(range(len(self.shards)), 0, encode, update)
        if missing := [number for number in busy if not self._path(number).exists()]:
            logger.warning(
                "%s: waiting for other processes to finish %d of %d shards. If none is running, delete %s.",
                self.folder, len(missing), len(self.shards), _lock_path(self.folder, missing[0]),
            )  # fmt: skip
        # A lock is free once its holder is done, or dead. All processes wait in one order, so none for one another.
        self._encode(busy, -1, encode, update)

    def _encode(
        self, numbers: Iterable[int], timeout: float, encode: Encode, update: Callable[[int], Any]
    ) -> list[int]:
        """Encodes those shards that are missing; returns those that another process holds."""
        taken: dict[int, FileLock] = {}
        busy = []

        def take() -> Iterator[range]:
            for number in numbers:
                if not self._path(number).exists():
                    lock = _lock(self.folder, number)
                    try:
                        lock.acquire(timeout=timeout)
                    except Timeout:
                        busy.append(number)
                        continue
                    if not self._path(number).exists():
                        taken[number] = lock
                        yield self.shards[number]
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
                number = next(iter(taken))  # shards come back in the order in which they were taken
                if num_done == len(self.shards[number]):
                    self._write_shard(number, torch.cat(parts), skipped)
                    _remove_lock(self.folder, number)
                    taken.pop(number).release()
                    parts, skipped, num_done = [], [], 0
        finally:
            for lock in taken.values():
                lock.release()
        return busy

    @property
    def _dtype(self) -> torch.dtype:
        return getattr(torch, self.settings["features"]["dtype"])

    @property
    def _shape(self) -> list[int]:
        return self.settings["features"]["shape"]

    def read(self, device: str | torch.device = "cpu") -> tuple[Tensor, list[int]]:
        """All features, `(num_read, ...)` in the order of inputs, and the rows that were skipped as unreadable.

        One shard on a CPU is memory-mapped: it stays on the disk until it is used. Several are copied one by one.

        Raises:
            ValueError: a shard is missing or damaged.
        """
        skipped = []
        for number in range(len(self.shards)):
            path = self._path(number)
            if not path.exists():
                num_missing = sum(not self._path(other).exists() for other in range(len(self.shards)))
                raise ValueError(
                    f"{self.folder}: {num_missing} of {len(self.shards)} shards are missing ({path.name} is the "
                    "first), for encoding was interrupted; encode the same images into it again to finish it"
                )
            try:
                skipped += self._read_skipped(number)
            except SafetensorError as error:
                raise ValueError(f"{path} is damaged ({error}); encode the same images into it again") from error
        skipped.sort()
        if len(self.shards) == 1 and torch.device(device).type == "cpu":
            return self._read_shard(0), skipped
        left_out = set(skipped)
        places = {row: place for place, row in enumerate(row for row in range(len(self.inputs)) if row not in left_out)}
        features = torch.empty(len(places), *self._shape, dtype=self._dtype, device=device)
        for number, shard in enumerate(self.shards):
            runs = _runs([places[row] for row in shard if row not in left_out])
            parts = self._read_shard(number).split([stop - start for start, stop in runs])
            for (start, stop), part in zip(runs, parts, strict=True):
                features[start:stop].copy_(part)
        return features, skipped

    def _path(self, number: int) -> Path:
        return self.folder / f"features-{self.key}-{number:05d}-of-{len(self.shards):05d}.safetensors"

    def _read_shard(self, number: int) -> Tensor:
        with safe_open(self._path(number), framework="pt") as file:
            return file.get_tensor("features")

    def _read_skipped(self, number: int) -> list[int]:
        """The rows that one shard leaves out."""
        with safe_open(self._path(number), framework="pt") as file:
            return json.loads(file.metadata()["skipped"])

    def _write_shard(self, number: int, features: Tensor, skipped: Sequence[int]) -> None:
        tensors = {"features": features.cpu().contiguous()}
        metadata = {"skipped": json.dumps(list(skipped))}
        self._write_file(self._path(number), lambda part: save_file(tensors, part, metadata))

    def _write_manifest(self) -> None:
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "settings": self.settings,
            "num_inputs": len(self.inputs),
            "shard_size": self.shard_size,
            "images_folder": None if self.images_folder is None else str(self.images_folder),
            "reused": _runs(self.reused),
            "key": self.key,
        }
        texts = {f"inputs-{self.key}.jsonl": self._inputs_text(), MANIFEST: json.dumps(manifest, indent=1) + "\n"}
        for name, text in texts.items():  # in this order: the manifest makes the store the one that the folder holds
            self._write_file(self.folder / name, lambda part, text=text: part.write_text(text, encoding="utf-8"))

    def _write_file(self, path: Path, write: Callable[[Path], Any]) -> None:
        """Under another name first, and to the disk: what has its name is whole, and replaces no file in use."""
        part = path.with_name(f"{path.name}.part")
        try:
            part.touch()
            mode = part.stat().st_mode
            write(part)
            part.chmod(mode)  # safetensors makes a file that its owner alone can read
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                part.unlink()
            free = shutil.disk_usage(self.folder).free
            raise OSError(
                f"cannot write {path} ({error}; {free / 2**20:,.0f} MiB free). What was finished before stays: make "
                "room, or mend what else is the matter, and run the same again."
            ) from error


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


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _first_difference(stored: Sequence[dict[str, Any]], current: Sequence[dict[str, Any]]) -> str:
    for number, (old, new) in enumerate(zip(stored, current, strict=False)):
        if old != new:
            return f"input {number} {old} (now {new}), of {len(stored):,} inputs (now {len(current):,})"
    return f"number of inputs {len(stored):,} (now {len(current):,})"
