"""From rows of a SynCPR data set to a batch for a model's `forward`."""

import ctypes
import logging
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.sharedctypes import RawValue
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch.utils.data import get_worker_info

from ..files import printable
from ..image_reading_fafa import UnreadableImageError
from ..names import counted
from ..retriever import RetrieverProcessor
from .augmentation import augment_person_crop

logger = logging.getLogger(__name__)

_CAPTIONS_AT_ONCE = 1_000  # checked before training


@dataclass
class TripletCollator:
    """Opens, augments and tokenises triplets.

    Args:
        processor: the one of the model that is trained.
        augment: change images, and captions where the processor says how, as training does (`augment_crop` and
            `augment_caption` of the processor; the released augmentation where it has none of its own), each by itself;
            False for validation.
        with_captions: add the target captions, see `Retriever.reads_target_captions`.
        on_error: `"raise"` stops at an image that cannot be decoded; `"skip"` leaves its triplet out and names it in
            the log and in the batch's `skipped_images`, which the trainer counts (held-out triplets are left out before
            training). A file that is missing, or cannot be read now (no permission, a drive in trouble), always raises:
            that says nothing about the image, and training would go on with few of them.
        cache_images: keep every decoded and resized crop in memory (13 kB each at 96 x 48), for small data sets that
            are read many times, without worker processes: each would fill a cache of its own.
        group_column: the column that holds a triplet's group.
        seed: decides the augmentation together with epoch and image alone, not the number of worker processes or the
            step at which a run was resumed.
        with_references: False for pairs of caption and image (`caption_pairs`): rows have no reference image, and
            batches no `pixel_values`.
    """

    processor: RetrieverProcessor
    augment: bool = False
    with_captions: bool = False
    on_error: Literal["raise", "skip"] = "raise"
    cache_images: bool = False
    seed: int = 0
    group_column: str = "cpr_id"
    with_references: bool = True
    # In shared memory, so that worker processes that outlive an epoch see the next one.
    _epoch: ctypes.c_long = field(default_factory=lambda: _shared_number(), init=False, repr=False)
    _crops: dict[str, Image.Image] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        if self.on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is {self.on_error!r}, expected 'raise' or 'skip'")

    def set_epoch(self, epoch: int) -> None:
        """Selects the epoch whose augmentation is sampled; `RetrieverTrainer` calls it."""
        self._epoch.value = epoch

    def for_evaluation(self) -> "TripletCollator":
        """The same without augmentation and with the same cache; every image has to be readable (see `unreadable`)."""
        collator = replace(self, augment=False, on_error="raise")
        collator._crops = self._crops
        return collator

    def unreadable(self, rows: Iterable[dict[str, Any]]) -> dict[int, str]:
        """The numbers of rows with an image that cannot be decoded, and that image.

        Raises:
            FileNotFoundError: for a missing image. InaccessibleImageError: for one that cannot be read now.
        """
        found = {}
        for number, row in enumerate(rows):
            try:
                for column in self.image_columns:
                    self._crop(row[column], column)
            except UnreadableImageError as error:
                found[number] = error.source
        return found

    def check_captions(self, *datasets: Any) -> None:
        """Looks before training whether the processor takes every caption, each wording once.

        `load_dataset` has refused captions without a word; others depend on the vocabulary, or come from the user's own
        data sets. Only data sets with the columns of `__call__` are looked at.

        Raises:
            ValueError: a caption is not taken; the message names its triplet.
        """
        for dataset in datasets:
            columns = getattr(dataset, "column_names", None) or ()
            for column in self._caption_columns if hasattr(dataset, "select") else ():
                if column not in columns:
                    continue
                first: dict[Any, int] = {}
                for row, caption in enumerate(dataset[column][:]):
                    first.setdefault(caption, row)
                captions, rows = list(first), list(first.values())
                naming = dataset.select_columns([name for name in (*self._paths, self.group_column) if name in columns])
                for start in range(0, len(captions), _CAPTIONS_AT_ONCE):
                    some = slice(start, start + _CAPTIONS_AT_ONCE)
                    names = [self._name_of(row, column) for row in naming.select(rows[some]).to_list()]
                    self.processor.encode_captions(captions[some], names)

    @property
    def image_columns(self) -> tuple[str, ...]:
        """Which images of a row are read."""
        return ("reference_image", "target_image") if self.with_references else ("target_image",)

    @property
    def _paths(self) -> tuple[str, ...]:
        """The columns by which errors name a triplet or pair."""
        return tuple(f"{column}_path" for column in self.image_columns)

    @property
    def _caption_columns(self) -> dict[str, str]:
        """The columns of captions, and what the names of their tensors begin with."""
        return {"edit_caption": ""} | ({"target_caption": "caption_"} if self.with_captions else {})

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Makes a batch of rows with `reference_image`, `target_image`, their `…_path`s, `edit_caption`, and a group.

        Returns:
            `pixel_values` (of the references) and `target_pixel_values` `(batch_size, 3, height, width)`, `input_ids`
            and `attention_mask` `(batch_size, text_length)`, `group_ids` `(batch_size,)`; with captions
            `caption_input_ids` and `caption_attention_mask`.

        Raises:
            UnreadableImageError: an image cannot be decoded and is not skipped, or the batch has no image left.
            FileNotFoundError: an image is missing. InaccessibleImageError: one cannot be read now.
            ValueError: a caption is not taken by the processor, or a group is no whole number; it names the triplet.
        """
        read, skipped = [], []
        for row in rows:
            try:
                read.append((row, *(self._resized(row, column) for column in self.image_columns)))
            except UnreadableImageError as error:
                if self.on_error == "raise":
                    raise
                logger.warning("triplet left out (on_error='skip'): %s", error)
                skipped.append(error.source)
        if not read:
            count = counted(len(rows), "triplet")
            raise UnreadableImageError(f"none of a batch of {count} has readable images: {skipped[:3]}")

        kept, *crops = zip(*read, strict=True)
        names = ("pixel_values", "target_pixel_values")[-len(crops) :]
        batch = {
            **{name: self._pixel_values(some) for name, some in zip(names, crops, strict=True)},
            "group_ids": torch.tensor([self._group_id(row) for row in kept]),
        }
        for column, prefix in self._caption_columns.items():
            captions = self._caption_inputs(kept, column)
            batch |= {f"{prefix}{name}": captions[name] for name in ("input_ids", "attention_mask")}
        if self.on_error == "skip":
            batch["skipped_images"] = skipped
        return batch

    def _pixel_values(self, crops: Sequence[np.ndarray]) -> "torch.Tensor | _PixelsToBe":
        if get_worker_info() is None:
            return self.processor.to_pixels(crops)
        return _PixelsToBe(crops, self.processor.for_images())

    def _resized(self, row: dict[str, Any], column: str) -> np.ndarray:
        crop = self._crop(row[column], column)
        if self.augment:
            rng = self._random(row, column)
            own = self.processor.augment_crop(crop, rng)
            crop = augment_person_crop(crop, rng) if own is None else own
        return self.processor.resize_crop(crop)

    def _caption_inputs(self, rows: Sequence[dict[str, Any]], column: str) -> Mapping[str, torch.Tensor]:
        captions = [row[column] for row in rows]
        if self.augment:
            captions = [self.processor.augment_caption(row[column], self._random(row, column)) for row in rows]
        return self.processor.encode_captions(captions, [self._name_of(row, column) for row in rows])

    def _random(self, row: dict[str, Any], column: str) -> np.random.Generator:
        """Of a column of a triplet in this epoch; that of an image is told by its path alone."""
        told = row[f"{column}_path"] if column in self.image_columns else [row[name] for name in (*self._paths, column)]
        return np.random.default_rng([self.seed, self._epoch.value, zlib.crc32(f"{column} {told}".encode())])

    def _crop(self, image: Any, column: str) -> Image.Image:
        key = image.get("path") if self.cache_images and isinstance(image, dict) else None
        if key is not None and key in self._crops:
            return self._crops[key]
        crop = self.processor.open_crop(image, name=column)
        if key is not None:
            self._crops[key] = crop
        return crop

    def _group_id(self, row: dict[str, Any]) -> int:
        group = row[self.group_column]
        if isinstance(group, (bool, np.bool_)) or not isinstance(group, (int, np.integer)):
            raise ValueError(f"{self._name_of(row, self.group_column)}: {group!r:.40}, expected a whole number")
        return group

    def _name_of(self, row: dict[str, Any], column: str) -> str:
        """Names a value of the annotation file: the triplet, or pair, by its images and its group."""
        images = " and ".join(printable(str(row.get(name))) for name in self._paths)
        kind = "triplet" if self.with_references else "pair"
        return f"the {column} of the {kind} of {images} ({self.group_column} {row.get(self.group_column)!r:.40})"


def _shared_number() -> ctypes.c_long:
    try:
        return RawValue(ctypes.c_long, 0)
    except OSError:  # no shared memory at all: then there are no workers either, see `worker_options`
        return ctypes.c_long(0)


class _PixelsToBe:
    """Crops of 8-bit values in a worker; what arrives in the main process is `pixel_values`, four times as large."""

    def __init__(self, crops: Sequence[np.ndarray], processor: RetrieverProcessor):
        self.crops, self.processor = crops, processor

    def __reduce__(self) -> tuple:
        return self.processor.to_pixels, (np.stack(self.crops),)


FafaDataCollator = TripletCollator  # its name in earlier versions
