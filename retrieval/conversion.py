"""Galleries that earlier versions kept as a store of features: opened as they are, or made into segments."""

from pathlib import Path

import torch
from torch import Tensor

from .fingerprint import dtype_name
from .identity import input_name
from .manifest import MANIFEST
from .metadata import Entry, entry_of
from .parts import Part
from .segment_list import GalleryFolder
from .segments import in_memory
from .state import GalleryState, skipped_image
from .store import FeatureStore

_IMAGES_AT_ONCE = 1024


def is_store(folder: str | Path) -> bool:
    """Whether a folder holds a store that is no gallery yet; one that was only begun counts for nothing."""
    place = GalleryFolder(folder)
    return (place.path / MANIFEST).is_file() and not (place.exists() and place.generation() > 0)


def open_store(folder: str | Path) -> GalleryState:
    """The gallery in a store, all of which is compared with its checksums.

    Raises:
        FileNotFoundError: there is none. ValueError: it is incomplete, damaged, or of another version.
    """
    while True:
        store = FeatureStore.open(folder)
        try:
            features, skipped = store.read()
        except (OSError, ValueError):
            if not store.is_replaced():  # by another process, just now
                raise
            continue
        left_out = set(skipped)
        entries = [entry_of(line) for row, line in enumerate(store.inputs) if row not in left_out]
        names = [skipped_image(store.inputs[row].get("path"), input_name({}, row)) for row in skipped]
        return state_of(features, entries, store.settings, store.images_folder, names)


def state_of(
    features: Tensor,
    entries: list[Entry],
    settings: dict,
    images_folder: Path | None = None,
    skipped: list[dict[str, str]] | tuple = (),
) -> GalleryState:
    """A gallery in memory.

    Args:
        features: `(n, num_tokens, dim)`. `entries`: one of each.
        settings, images_folder, skipped: see `GalleryState`.
    """
    means = torch.cat([block.float().mean(dim=1) for block in features.split(_IMAGES_AT_ONCE)])
    segment = in_memory(Part(torch.arange(len(features)), features, means), entries)
    kept = settings["features"] | {"dtype": dtype_name(features.dtype), "shape": list(features.shape[1:])}
    return GalleryState((segment,), settings | {"features": kept}, images_folder, tuple(skipped))


def convert_store(folder: str | Path) -> None:
    """Makes a store into a gallery of segments, in place: no image is encoded, and a gallery is left as it is.

    Raises:
        FileNotFoundError: there is no store. ValueError: it is incomplete, damaged, or of another version.
        OSError: it cannot be written; the store stays.
    """
    folder = Path(folder)
    if not is_store(folder) and GalleryFolder(folder).exists():
        return
    state = open_store(folder)
    place = GalleryFolder.create(folder, state.settings, state.settings["features"]["dtype"], state.images_folder)
    with place.writing(wait=None) as writer:
        if not len(writer.state):
            writer.replace(state)
    delete_store(folder)


def delete_store(folder: Path) -> None:
    """Deletes the store that a gallery stands in the place of, if there was one."""
    for pattern in (f"{MANIFEST}*", "manifest.next.json*", "features-*.safetensors*", "inputs-*.jsonl*"):
        for file in folder.glob(pattern):
            file.unlink(missing_ok=True)
