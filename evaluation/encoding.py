"""Features of a test set's gallery and queries, read and encoded in batches."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..image_processing_fafa import open_image
from ..modeling_fafa import FafaModel
from ..processing_fafa import FafaProcessor

if TYPE_CHECKING:
    import datasets

# What each kind of query gives the model.
QUERY_MODES = {
    "image+caption": ("pixel_values", "input_ids", "attention_mask"),
    "caption": ("input_ids", "attention_mask"),
    "image": ("pixel_values",),
}


@torch.no_grad()
def encode_targets(
    model: FafaModel,
    processor: FafaProcessor,
    gallery: "datasets.Dataset",
    batch_size: int = 64,
    num_workers: int = 0,
    progress: bool = True,
) -> Tensor:
    """Encodes the gallery once, on the device and in the precision of the model.

    Args:
        gallery: with a column `image`.
        batch_size: images encoded at a time.
        num_workers: processes that read images; 0 reads in this one.

    Returns:
        `(num_gallery, num_query_tokens, projection_dim)`, on the model's device.

    Raises:
        ValueError: the gallery is empty.
        UnreadableImageError: an image cannot be decoded. FileNotFoundError: it is not there. Both name the file.
    """
    if len(gallery) == 0:
        raise ValueError("the gallery holds no image to encode")
    features = None
    batches = _read_pixels(processor, gallery, "gallery image", batch_size, num_workers)
    for number, pixels in enumerate(tqdm(batches, "encoding gallery", unit="batch", disable=not progress)):
        encoded = model.get_target_features(pixel_values=pixels.to(model.device))
        if features is None:  # filled in place: a list of batches would need the memory twice to be joined
            features = encoded.new_empty(len(gallery), *encoded.shape[1:])
        features[number * batch_size :][: len(encoded)] = encoded
    return features


@torch.no_grad()
def encode_queries(
    model: FafaModel,
    processor: FafaProcessor,
    queries: "datasets.Dataset",
    modes: Sequence[str] = tuple(QUERY_MODES),
    batch_size: int = 64,
    num_workers: int = 0,
    progress: bool = True,
) -> dict[str, Tensor]:
    """Encodes queries in each mode; every reference image is read once, and none if no mode needs it.

    Args:
        queries: with the columns `image` and `caption`.
        modes: of "image+caption", "caption", "image".

    Returns:
        mode -> `(num_queries, projection_dim)`, on the model's device.

    Raises:
        ValueError: an unknown mode, a caption without a word. For images see `encode_targets`.
    """
    if unknown := [mode for mode in modes if mode not in QUERY_MODES]:
        raise ValueError(f"modes: {', '.join(unknown)} unknown; expected some of {', '.join(QUERY_MODES)}")
    needed = {name for mode in modes for name in QUERY_MODES[mode]}
    captions = queries["caption"] if "input_ids" in needed else None
    batches = None
    if "pixel_values" in needed:
        batches = iter(_read_pixels(processor, queries, "reference image of query", batch_size, num_workers))

    features = {mode: [] for mode in modes}
    for start in tqdm(range(0, len(queries), batch_size), "encoding queries", unit="batch", disable=not progress):
        inputs = {}
        if captions is not None:
            inputs |= processor(text=captions[start : start + batch_size], return_tensors="pt").to(model.device)
        if batches is not None:
            inputs["pixel_values"] = next(batches).to(model.device)
        for mode in modes:
            features[mode].append(model.get_query_features(**{name: inputs[name] for name in QUERY_MODES[mode]}))
    return {mode: torch.cat(parts) for mode, parts in features.items()}


def score_blocks(model: FafaModel, queries: Tensor, targets: Tensor, rows: int = 512) -> Iterator[Tensor]:
    """Scores `rows` queries at a time against the whole gallery: blocks of `(rows, num_gallery)`, fp32."""
    for block in queries.split(rows):
        yield model.score(block, targets)


def _read_pixels(
    processor: FafaProcessor, dataset: "datasets.Dataset", name: str, batch_size: int, num_workers: int
) -> DataLoader:
    """Batches of `(batch_size, 3, image_size, image_size)`, in the data set's order."""
    return DataLoader(_Pixels(processor, dataset, name), batch_size=batch_size, num_workers=num_workers)


class _Pixels(Dataset):
    """The images of a data set, opened and preprocessed one by one (in the workers of a DataLoader)."""

    def __init__(self, processor: FafaProcessor, dataset: "datasets.Dataset", name: str):
        from datasets import Image

        # Undecoded, an image comes with its path, which an error can name.
        self.images = dataset.cast_column("image", Image(decode=False))["image"]
        self.processor, self.name = processor, name

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        image = open_image(self.images[index], name=f"{self.name} {index}")
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]
