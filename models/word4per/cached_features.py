"""Features that stay as they are while TINets train: encoded once, kept in a folder, read in place of images.

In the second stage CLIP is frozen, so that an epoch need not encode a single image: a step is TINets and the text tower
over "a photo of *".
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ...files import whole_file
from ...loading import undecoded
from ...names import printable
from ...training.collator import TripletCollator
from .modeling import Word4PerModel
from .towers import clip_fingerprint

_IN_A_FILE = 8_192  # features of a file: an interrupted run loses at most those of one


@dataclass
class FeatureCache:
    """Features of images by their paths in the annotation file, and of whole captions by their text.

    Args:
        images: `(num_images, dim)`, of `Word4PerModel.image_features`; `image_rows` tells whose each is.
        captions: `(num_captions, dim)`, of `Word4PerModel.caption_features`; likewise `caption_rows`.
    """

    images: Tensor
    image_rows: dict[str, int]
    captions: Tensor
    caption_rows: dict[str, int]

    def of_images(self, paths: Sequence[str]) -> Tensor:
        """`(num_paths, dim)`"""
        return self.images[[self.image_rows[path] for path in paths]]

    def of_captions(self, captions: Sequence[str]) -> Tensor:
        """`(num_captions, dim)`"""
        return self.captions[[self.caption_rows[caption] for caption in captions]]


def cache_features(
    model: Word4PerModel,
    collator: TripletCollator,
    *datasets: Any,
    folder: str | Path | None = None,
    batch_size: int = 128,
    progress: bool = True,
) -> FeatureCache:
    """Encodes every image and every whole caption of data sets once.

    Args:
        model: of stage 2.
        collator: whose processor reads images and captions; it must not augment.
        datasets: of triplets or pairs, as the collator takes them, with paths of images.
        folder: where features are kept, for a run that goes on and for further ones of the same CLIP and data; None:
            in memory alone.
        batch_size: inputs encoded at a time.
        progress: show bars.

    Raises:
        ValueError: CLIP trains, or images are augmented, so that their features change.
        UnreadableImageError, FileNotFoundError: an image cannot be had.
    """
    if model.config.stage != 2 or any(weight.requires_grad for weight in model.clip.parameters()):
        raise ValueError("features are kept where CLIP is frozen: stage 2, without adapters. Train stage 1 on images")
    if collator.augment:
        raise ValueError("features are those of images as they are: TripletCollator(..., augment=False)")
    images, captions = {}, {}
    caption_column = "target_caption" if collator.with_references else "edit_caption"
    for dataset in datasets:
        for column in collator.image_columns:
            sources = undecoded(dataset).select_columns([column])
            for row, path in enumerate(dataset[f"{column}_path"][:]):
                images.setdefault(path, (sources, row, column))
        if model.reads_target_captions:
            captions |= dict.fromkeys(dataset[caption_column][:])
    was_training, device = model.training, model.device
    model.eval()
    of = f"{clip_fingerprint(model.clip)} {collator.processor.image_settings()} {collator.processor.caption_settings()}"

    def encode_images(paths: list[str]) -> Tensor:
        crops = []
        for path in paths:
            sources, row, column = images[path]
            crop = collator.processor.open_crop(sources[row][column], name=path)
            crops.append(collator.processor.resize_crop(crop))
        return model.image_features(collator.processor.to_pixels(crops).to(device))

    def encode_captions(texts: list[str]) -> Tensor:
        inputs = collator.processor.encode_captions(texts)
        return model.caption_features(**{name: tensor.to(device) for name, tensor in inputs.items()})

    try:
        with torch.no_grad():
            parts = [
                _encoded(kind, list(names), encode, model.feature_shape[1], folder, of, batch_size, progress)
                for kind, names, encode in (("images", images, encode_images), ("captions", captions, encode_captions))
            ]
    finally:
        model.train(was_training)
    return FeatureCache(
        parts[0],
        {path: row for row, path in enumerate(images)},
        parts[1],
        {text: row for row, text in enumerate(captions)},
    )


def _encoded(
    kind: str,
    names: list[str],
    encode: Callable[[list[str]], Tensor],
    dim: int,
    folder: str | Path | None,
    of: str,
    batch_size: int,
    progress: bool,
) -> Tensor:
    """(num_names, dim); from the folder where it holds them already."""
    parts = [torch.empty(0, dim)]
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(names), desc=f"Encoding {kind}", unit="", disable=not progress) as bar:
        for number, start in enumerate(range(0, len(names), _IN_A_FILE)):
            some = names[start : start + _IN_A_FILE]
            told = hashlib.sha256("\n".join([of, *some]).encode("utf-8", "surrogatepass")).hexdigest()
            file = None if folder is None else Path(folder, f"{kind}-{number:05d}.safetensors")
            kept = None if file is None else _read(file, told, (len(some), dim))
            if kept is None:
                kept = torch.cat(
                    [encode(some[at : at + batch_size]).float().cpu() for at in _bar(some, batch_size, bar)]
                )
                if file is not None:
                    with whole_file(file) as partial:
                        save_file({"features": kept}, partial, metadata={"of": told})
            else:
                bar.update(len(some))
            parts.append(kept)
    return torch.cat(parts)


def _bar(some: list[str], batch_size: int, bar: tqdm) -> Iterable[int]:
    for start in range(0, len(some), batch_size):
        yield start
        bar.update(min(batch_size, len(some) - start))


def _read(file: Path, told: str, shape: tuple[int, int]) -> Tensor | None:
    """Features of a file, if they are of these inputs and of this CLIP; another's are encoded anew, and replaced."""
    if not file.exists():
        return None
    try:
        with safe_open(file, "pt") as opened:
            if (opened.metadata() or {}).get("of") != told:
                return None
            features = opened.get_tensor("features")
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{printable(file)} cannot be read ({error}): delete it, and its features are made anew"
        ) from None
    return features if features.shape == shape else None


@dataclass
class CachedCollator(TripletCollator):
    """Makes batches of kept features: no image is opened.

    Args:
        features: of `cache_features`, over the data sets that are read.
    """

    features: FeatureCache | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.augment:
            raise ValueError("features are those of images as they are: CachedCollator(..., augment=False)")

    def unreadable(self, rows: Iterable[dict[str, Any]]) -> dict[int, str]:
        """None: all were read when their features were made."""
        return {}

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """As `TripletCollator`, with features in the place of images and of whole captions.

        Returns:
            `target_features`, `caption_features` and, of triplets, `reference_features` `(batch_size, dim)`;
            `input_ids` and `attention_mask` `(batch_size, text_length)` of relative captions; `group_ids`.
        """
        batch: dict[str, Any] = {}
        if self.with_references:
            batch |= self._caption_inputs(rows, "edit_caption")
        for column in self.image_columns:
            batch[column.replace("image", "features")] = self.features.of_images(
                [row[f"{column}_path"] for row in rows]
            )
        if len(self.features.captions):
            column = "target_caption" if self.with_references else "edit_caption"
            batch["caption_features"] = self.features.of_captions([row[column] for row in rows])
        batch["group_ids"] = torch.tensor([self._group_id(row) for row in rows])
        return batch
