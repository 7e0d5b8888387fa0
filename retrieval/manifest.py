"""Reads the files beside features: a manifest, and a list of the inputs. Both carry checksums of themselves.

They may come from anybody, so every entry is checked before it is used.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from .identity import fault_of
from .shards import CHECKSUM

MANIFEST = "manifest.json"
FORMAT, VERSION = "fafa features", 4
DTYPES = {"float16", "bfloat16", "float32", "float64"}
REMEDY = "encode the images again, into another folder"
_LARGEST_MANIFEST = 1 << 20
_LONGEST_LINE = 1 << 20


def inputs_file(folder: Path, key: str) -> Path:
    """Where the list of a store's inputs is."""
    return folder / f"inputs-{key}.jsonl"


def key_in(folder: Path) -> str | None:
    """The key in a folder's manifest; None without one that is legible."""
    try:
        return json.loads(read_manifest(folder)).get("key")
    except (FileNotFoundError, ValueError, AttributeError, RecursionError):
        return None


def read_manifest(folder: Path) -> bytes:
    """The contents of a manifest, for `checked_manifest`; of one that is too large only the beginning.

    Raises:
        FileNotFoundError: there is none.
    """
    path = folder / MANIFEST
    if not path.is_file():
        what = "is a file, no folder of features" if folder.is_file() else f"holds no features (no {MANIFEST})"
        raise FileNotFoundError(f"{folder} {what}; give the folder that a gallery was saved in")
    with path.open("rb") as stream:
        return stream.read(_LARGEST_MANIFEST + 1)


def checked_manifest(path: Path, text: bytes) -> dict[str, Any]:
    """The entries of a manifest.

    Raises:
        ValueError: it is damaged, or of another kind or version.
    """

    def need(holds: bool, problem: str) -> None:
        if not holds:
            raise ValueError(f"{path} is damaged ({problem}); {REMEDY}")

    need(len(text) <= _LARGEST_MANIFEST, f"larger than {_LARGEST_MANIFEST >> 20} MiB")
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        need(False, str(error))
    need(isinstance(manifest, dict), f"it is a {type(manifest).__name__}")
    found = manifest.get("format"), manifest.get("version")
    if found[0] != FORMAT:
        raise ValueError(f"{path} is no manifest of features: it says {found[0]!r:.100}, not {FORMAT!r}; {REMEDY}")
    if found[1] != VERSION:
        raise ValueError(
            f"{path} is of version {found[1]!r:.100} of this format, which this program, with version {VERSION}, does "
            f"not read; {REMEDY}, or delete {path.parent} and encode into it"
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
    is_shape = isinstance(shape, list) and len(shape) in (1, 2) and all(is_count(size, 1) for size in shape)
    need(is_shape, "its features have no shape")
    need(manifest.pop(CHECKSUM, None) == hash_json(manifest), "its checksum does not fit")
    return manifest


def read_inputs(path: Path, count: int, has_folder: bool) -> tuple[list[dict[str, Any]], list[int]]:
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
            if json.loads(stream.readline(_LONGEST_LINE)) != {CHECKSUM: digest.hexdigest()} or stream.read(1):
                raise ValueError("its checksum does not fit")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}); {REMEDY}") from error
    return inputs, reused


def hash_json(value: Mapping[str, Any]) -> str:
    """The checksum that a manifest holds of its other entries."""
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True).encode())
