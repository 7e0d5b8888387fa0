"""Features of a test set's gallery and queries, read and encoded in batches."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.feature_extraction_utils import BatchFeature

from ..checks_fafa import AlikeFeatures
from ..loading import undecoded
from ..model_folder import check_fit
from ..modeling_fafa import FafaModel
from ..processing_fafa import FafaProcessor
from ..retrieval.encoding import collect_features, describe_images, encode_images, unchanged
from ..retrieval.fingerprint import feature_settings, model_fingerprint
from ..retrieval.reading import PixelBatch, batches_of, read_pixels
from ..retrieval.store import FeatureStore

if TYPE_CHECKING:
    import datasets

# What each kind of query gives the model.
QUERY_MODES = {
    "image+caption": ("pixel_values", "input_ids", "attention_mask"),
    "caption": ("input_ids", "attention_mask"),
    "image": ("pixel_values",),
}
_REFERENCE = "reference image of query"
_CAPTIONS_AT_ONCE = 1_000  # looked at before anything is encoded


def encode_targets(
    model: FafaModel,
    processor: FafaProcessor,
    gallery: "datasets.Dataset",
    batch_size: int = 64,
    num_workers: int = 0,
    progress: bool = True,
    features_dir: str | Path | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Encodes the gallery once, on the device and in the precision of the model.

    Args:
        model: it is put into eval mode.
        gallery: with a column `image`.
        batch_size: images encoded at a time.
        num_workers: processes that read images; 0 reads in this one.
        features_dir: a folder that keeps the features, to resume from and to use again; see `encode_images`.
        dtype: of the features; None keeps the model's. Scores are computed in fp32 either way.

    Returns:
        `(num_gallery, num_query_tokens, projection_dim)`, on the model's device.

    Raises:
        ValueError: the gallery is empty, features are not finite, or `features_dir` holds other features.
        UnreadableImageError: an image cannot be decoded. FileNotFoundError: it is not there. Both name the file.
    """
    check_fit(model, processor)
    if len(gallery) == 0:
        raise ValueError("the gallery holds no image to encode")
    return encode_images(
        model,
        processor,
        undecoded(gallery)["image"],
        batch_size,
        num_workers,
        dtype=dtype,
        device=model.device,
        features_dir=features_dir,
        progress=progress,
        identify=False,
    ).features


@torch.no_grad()
def encode_queries(
    model: FafaModel,
    processor: FafaProcessor,
    queries: "datasets.Dataset",
    modes: Sequence[str] = tuple(QUERY_MODES),
    batch_size: int = 64,
    num_workers: int = 0,
    progress: bool = True,
    features_dir: str | Path | None = None,
) -> dict[str, Tensor]:
    """Encodes queries in each mode; every reference image is read once, and none if no mode needs it.

    Args:
        model: it is put into eval mode.
        queries: with the columns `image` and `caption`.
        modes: of "image+caption", "caption", "image".
        features_dir: keeps the features of each mode in a folder of its own within this one, to resume from and to use
            again; then reference images are read once a mode.

    Returns:
        mode -> `(num_queries, projection_dim)`, on the model's device.

    Raises:
        ValueError: an unknown mode, a caption without a word. For images and `features_dir` see `encode_targets`.
    """
    if len(modes) == 0:
        raise ValueError(f"no modes; expected some of {', '.join(QUERY_MODES)}")
    if unknown := [mode for mode in modes if mode not in QUERY_MODES]:
        raise ValueError(f"modes: {', '.join(unknown)} unknown; expected some of {', '.join(QUERY_MODES)}")
    check_fit(model, processor)
    model.eval()
    needed = _arguments(modes)
    captions = queries["caption"][:] if "input_ids" in needed else None
    for start in range(0, len(captions or ()), _CAPTIONS_AT_ONCE):  # before hours of encoding
        _caption_inputs(processor, captions, range(start, min(start + _CAPTIONS_AT_ONCE, len(captions))))
    images = undecoded(queries)["image"] if "pixel_values" in needed else None
    fingerprint = model_fingerprint(model)
    groups = [list(modes)] if features_dir is None else [[mode] for mode in modes]
    settings, known = [], {}
    for group in groups:
        needed = _arguments(group)
        settings.append(
            feature_settings(
                model,
                processor,
                kind=f"query of {', '.join(group)}",
                shape=(len(group), model.config.projection_dim),
                images="pixel_values" in needed,
                captions="input_ids" in needed,
                fingerprint=fingerprint,
            )
        )
        if features_dir is not None:  # a store of another model is better known before all images are read
            known |= FeatureStore.known_inputs(Path(features_dir, group[0]), settings[-1])
    identify = features_dir is not None
    files = None
    if images is not None:
        files = describe_images(images, _REFERENCE, None, identify, identify, known, progress=progress)

    features = {}
    for group, of_group in zip(groups, settings, strict=True):
        needed = _arguments(group)
        inputs = [
            ({"caption": captions[row]} if "input_ids" in needed else {})
            | (files[row] if "pixel_values" in needed else {})
            for row in range(len(queries))
        ]
        encoded, _ = collect_features(
            unchanged(
                partial(_encode_queries, model, processor, captions, images, group, batch_size, num_workers), inputs
            ),
            of_group,
            inputs,
            [f"query {row} ({', '.join(group)})" for row in range(len(queries))],
            "encoding queries" if features_dir is None else f"encoding queries ({group[0]})",
            batch_size,
            model.device,
            None if features_dir is None else Path(features_dir, group[0]),
            progress=progress,
        )  # (num_queries, len(group), projection_dim)
        features |= {mode: encoded[:, number].contiguous() for number, mode in enumerate(group)}
    return features


def score_blocks(model: FafaModel, queries: Tensor, targets: Tensor, rows: int = 512) -> Iterator[Tensor]:
    """Scores `rows` queries at a time against the whole gallery: blocks of `(rows, num_gallery)`, fp32."""
    for block in queries.split(rows):
        yield model.score(block, targets)


def _encode_queries(
    model: FafaModel,
    processor: FafaProcessor,
    captions: Sequence[str] | None,
    images: Sequence[Any] | None,
    modes: Sequence[str],
    batch_size: int,
    num_workers: int,
    shards: Iterable[Sequence[int]],
) -> Iterator[tuple[list[int], list[int], Tensor]]:
    """Batches of queries in some modes: rows, none skipped, `(len(rows), len(modes), projection_dim)`."""
    needed = _arguments(modes)
    if "pixel_values" in needed:
        batches = read_pixels(processor, images, shards, _REFERENCE, batch_size, num_workers)
    else:
        batches = (PixelBatch(rows, [], None) for rows in batches_of(shards, batch_size))
    alike = {mode: AlikeFeatures() for mode in modes}
    for rows, _, pixels, *_ in batches:
        inputs = {} if pixels is None else {"pixel_values": pixels.to(model.device)}
        if "input_ids" in needed:
            inputs |= _caption_inputs(processor, captions, rows).to(model.device)
        encoded = []
        for mode in modes:
            given = {name: inputs[name] for name in QUERY_MODES[mode]}
            encoded.append(model.get_query_features(**given))
            alike[mode].check(encoded[-1], *(tensor for name, tensor in given.items() if name != "attention_mask"))
        yield rows, [], torch.stack(encoded, dim=1)


def _caption_inputs(processor: FafaProcessor, captions: Sequence[str], rows: Sequence[int]) -> BatchFeature:
    names = [f"the caption of query {row}" for row in rows]
    return processor(text=[captions[row] for row in rows], names=names, return_tensors="pt")


def _arguments(modes: Sequence[str]) -> set[str]:
    return {argument for mode in modes for argument in QUERY_MODES[mode]}
