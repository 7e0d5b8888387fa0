"""Pairs of a caption and the image that it describes, for training without reference images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import datasets

COLUMNS = ("target_image", "target_image_path", "edit_caption", "person_id")  # as in a triplet without a reference
_NEEDED = ("image", "image_path", "captions", "person_id")


def caption_pairs(*parts: "datasets.Dataset", repeats: Sequence[int] | None = None) -> "datasets.Dataset":
    """Makes a pair of each caption of each image, for `TripletCollator(..., with_references=False)`.

    The identities of several parts are told apart, also where their numbers are the same: a generated person is nobody
    who was photographed.

    Args:
        parts: data sets of images with captions, as `load_dataset("CUHK-PEDES" | "SynTBPR" | ...)` gives them: columns
            `image`, `image_path`, `captions` and `person_id`. Without images being opened.
        repeats: how often the pairs of each part come in an epoch; None: once. Generated pairs are often many times as
            many as real ones.

    Returns:
        columns `target_image`, `target_image_path`, `edit_caption` (the caption) and `person_id`, the group.

    Raises:
        ValueError: a part lacks a column, which it names, or there is none; `repeats` are not one from 1 a part.
    """
    repeats = [1] * len(parts) if repeats is None else list(repeats)
    if not parts or len(repeats) != len(parts) or any(type(times) is not int or times < 1 for times in repeats):
        raise ValueError(f"repeats is {repeats}, expected a whole number from 1 for each of {len(parts)} data sets")
    made, num_people = [], 0
    for place, (part, times) in enumerate(zip(parts, repeats, strict=True)):
        if missing := [name for name in _NEEDED if name not in part.column_names]:
            raise ValueError(
                f"data set {place} has no column {' and '.join(missing)}, of which pairs are made; it has "
                f"{', '.join(part.column_names)}. load_dataset('CUHK-PEDES', data_dir=...) and its like give them"
            )
        people, numbers = np.unique(part["person_id"][:], return_inverse=True)
        ids = np.asarray(part["person_id"][:]) if len(parts) == 1 else numbers + num_people
        num_people += len(people)
        made += [_pairs(part, ids)] * times
    if len(made) == 1:
        return made[0]
    from datasets import concatenate_datasets

    return concatenate_datasets(made)


def _pairs(part: "datasets.Dataset", ids: np.ndarray) -> "datasets.Dataset":
    captions = part["captions"][:]
    rows = np.repeat(np.arange(len(part)), [len(some) for some in captions])
    pairs = part.select_columns(["image", "image_path"]).select(rows)
    pairs = pairs.rename_columns({"image": COLUMNS[0], "image_path": COLUMNS[1]})
    pairs = pairs.add_column(COLUMNS[2], [caption for some in captions for caption in some])
    return pairs.add_column(COLUMNS[3], ids[rows])
