"""Shards: files of features, written once and whole, with checksums, and locked while a process encodes them."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import xxhash
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files import whole_file

CHECKSUM = "xxh3_128"
Read = TypeVar("Read")


class DamagedShardError(ValueError):
    """A shard of features is not what was written: cut off, changed, or of another place."""


class Shard:
    """A file with the features of some inputs, or the place for it.

    It names its gaps: the inputs that it has no features of, because they could not be read.

    Args:
        number: among the `count` shards of the store, from 0.
        rows: its inputs, ascending.
        features: `shape`, of the features of one input, and `dtype`, see `feature_settings`.
    """

    def __init__(
        self, folder: Path, key: str, number: int, count: int, rows: Sequence[int], features: Mapping[str, Any]
    ):
        self.path = folder / f"features-{key}-{number:05d}-of-{count:05d}.safetensors"
        self.rows, self._key, self._number = rows, key, number
        self._shape, self._dtype = tuple(features["shape"]), getattr(torch, features["dtype"])

    def exists(self) -> bool:
        """Whether it was written."""
        return self.path.exists()

    def lock(self) -> FileLock:
        """Keeps other processes from encoding it; they remove it when the shard is written, see `remove_lock`."""
        return lock_of(self.path.parent, self._number)

    def read(self) -> tuple[Tensor, list[int]]:
        """Its features, memory-mapped and compared with their checksum, and its gaps.

        Raises:
            FileNotFoundError: it is not there.
            DamagedShardError: it is not what was written, or not of this place.
        """
        return self._undisturbed(self._read_checked)

    def read_gaps(self) -> list[int]:
        """The rows that it has no features of; errors as for `read`."""
        return self._undisturbed(lambda: self._read_unchecked(features=False)[1])

    def write(self, features: Tensor, gaps: Sequence[int]) -> None:
        """Writes the features of all rows but the gaps.

        Raises:
            OSError: it cannot be written.
        """
        features = features.to("cpu", self._dtype).contiguous()
        metadata = {"without": json.dumps(list(gaps)), CHECKSUM: self._checksum(features, gaps)}
        try:
            with whole_file(self.path) as part:
                part.touch()
                mode = part.stat().st_mode
                save_file({"features": features}, part, metadata)
                part.chmod(mode)  # safetensors makes a file that its owner alone can read
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"cannot write {self.path} ({error.__cause__ or error}). What was finished before stays: make room, or "
                "mend what else is wrong, and run the same again."
            ) from error

    def fill(self, rows: Sequence[int], features: Tensor, skipped: Sequence[int]) -> None:
        """Writes the features of these rows but the skipped ones, beside those that it has."""
        features = features.to("cpu", self._dtype)
        if self.exists():
            if len(features) == 0:
                return  # as unreadable as before
            old, gaps = self.read()
            by_row = dict(zip((row for row in self.rows if row not in gaps), old, strict=True))
            by_row |= dict(zip((row for row in rows if row not in skipped), features, strict=True))
            features = torch.stack([by_row[row] for row in self.rows if row in by_row])
        self.write(features, skipped)

    def _undisturbed(self, read: Callable[[], Read]) -> Read:
        """What `read` gives; it is called again where another process has meanwhile written the file anew.

        `safe_open` opens a file twice by its name, and the second may be another one, or gone.
        """
        opened = self.path.stat()
        try:
            return read()
        except (DamagedShardError, RuntimeError):
            if os.path.samestat(opened, self.path.stat()):
                raise
        return self._undisturbed(read)

    def _read_unchecked(self, features: bool = True) -> tuple[Tensor | None, list[int], str | None]:
        """Features, gaps, checksum."""
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                gaps = json.loads(metadata["without"])
                if not isinstance(gaps, list) or any(type(row) is not int for row in gaps):
                    raise ValueError("its list of missing images is not one of rows")
                return file.get_tensor("features") if features else None, gaps, metadata.get(CHECKSUM)
        except (SafetensorError, ValueError, KeyError, RecursionError) as error:
            raise self._damaged(f"{type(error).__name__}: {error}") from error

    def _read_checked(self) -> tuple[Tensor, list[int]]:
        features, gaps, checksum = self._read_unchecked()
        known = set(self.rows)
        shape = (len(known) - len(gaps), *self._shape)
        if any(row not in known for row in gaps) or sorted(set(gaps)) != gaps:
            raise self._damaged("its list of missing images is not of this shard")
        if tuple(features.shape) != shape or features.dtype != self._dtype:
            found = f"{features.dtype} {tuple(features.shape)}"
            raise self._damaged(f"expected {self._dtype} {shape}, found {found}")
        if checksum != self._checksum(features, gaps):
            raise self._damaged("its checksum does not fit, or it is the shard of another place")
        return features, gaps

    def _damaged(self, reason: str) -> DamagedShardError:
        return DamagedShardError(f"{self.path} is damaged ({reason}); encode the same images into it again")

    def _checksum(self, features: Tensor, gaps: Sequence[int]) -> str:
        """A checksum over the features, and over whose they are: store, place, rows."""
        digest = xxhash.xxh3_128(json.dumps([self._key, self._number, list(gaps)]).encode())
        if features.numel():
            digest.update(features.reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def lock_of(folder: Path, name: int | str) -> FileLock:
    """A lock on a shard, by its number, or on the manifest. It is free once its holder is done, or dead."""
    return FileLock(folder / f".{name}.lock")


def remove_lock(lock: FileLock) -> None:
    """Removes a lock once what it guarded is there; whoever takes it later, or waits for it, looks for that first."""
    Path(lock.lock_file).unlink(missing_ok=True)


@contextmanager
def manifest_locked(folder: Path, timeout: float = -1) -> Iterator[None]:
    """While one process changes a store's manifest, others wait.

    Raises:
        OSError: another process holds it, after `timeout` seconds; or no lock can be written.
    """
    lock = lock_of(folder, "manifest")
    with lock.acquire(timeout=timeout):
        try:
            yield
        finally:
            remove_lock(lock)
