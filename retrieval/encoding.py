"""The one encoder: images read in batches, encoded, and kept in memory or in a folder of features."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..files import printable
from ..image_reading_fafa import UnreadableImageError
from ..loading import dead_workers_told
from ..modeling_fafa import FafaModel
from ..processing_fafa import FafaProcessor
from .reading import read_pixels
from .store import Encode, FeatureStore, describe_image, feature_settings, input_name

logger = logging.getLogger(__name__)


class EncodedImages(NamedTuple):
    """What `encode_images` gives.

    Args:
        features: `(num_read, num_query_tokens, projection_dim)`.
        inputs: a description of each image, see `describe_image`.
        skipped: the indices of the images that were left out.
        settings: what made the features, see `feature_settings`.
    """

    features: Tensor
    inputs: list[dict[str, Any]]
    skipped: list[int]
    settings: dict[str, Any]


@torch.no_grad()
def encode_images(
    model: FafaModel,
    processor: FafaProcessor,
    images: Sequence[Any],
    batch_size: int = 64,
    num_workers: int | None = 0,
    on_error: str = "raise",
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    features_dir: str | Path | None = None,
    folder: Path | None = None,
    progress: bool = True,
    update: bool = False,
) -> EncodedImages:
    """Encodes target images, on the device and in the precision of the model.

    Args:
        model: it is put into eval mode.
        processor: the model's own.
        images: paths, PIL images, or whatever else `open_image` takes.
        batch_size: images encoded at a time.
        num_workers: processes that read images; 0 reads in this one; None is one a core, up to 8, or 0 for few images.
        on_error: `"raise"` stops at an image that cannot be decoded or was deleted meanwhile; `"skip"` leaves it out,
            lists it and warns at the end. A file missing from the start is an error either way.
        dtype: of the features; None keeps the model's. float16 halves the space (scores change by ~1e-4).
        device: where the features shall be.
        features_dir: a folder that keeps the features. Images whose features are there are not read again; an
            interrupted run goes on where it stopped. Processes that encode into one folder, by `accelerate launch` or
            started one by one, share the work; each returns with all features.
        folder: in `features_dir`, paths are relative to it, so that both may move.
        progress: whether to show a progress bar (of several launched processes, in the first).
        update: where `features_dir` holds features of some of these images (by path, size and time of change) and of
            others, whether to encode only the rest and to drop the others.

    Raises:
        FileNotFoundError, UnreadableImageError: an image is not there, or cannot be decoded.
        ValueError: there is nothing to encode, features are not finite, or `features_dir` holds features of another
            model, processor, precision or list of images (with `update`, of none of these images).
        OSError: the features cannot be written, say on a full disk; what was written stays.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}, expected 'raise' or 'skip'")
    if len(images) == 0:
        raise ValueError("no images to encode; a gallery needs at least one")
    model.eval()
    inputs = describe_images(images, "gallery image", folder, contents=features_dir is not None)
    names = [input_name(description, row, folder) for row, description in enumerate(inputs)]
    shape = (model.config.num_query_tokens, model.config.projection_dim)
    settings = feature_settings(model, processor, "target", shape, dtype)

    def encode(shards: Iterable[Sequence[int]]) -> Iterator[tuple[list[int], list[int], Tensor]]:
        for batch in read_pixels(processor, images, shards, "gallery image", batch_size, num_workers, on_error):
            if batch.pixels is None:
                features = torch.empty(0, *shape)
            else:
                features = model.get_target_features(pixel_values=batch.pixels.to(model.device))
            yield batch.rows, batch.skipped, features

    features, skipped = collect_features(
        encode, settings, inputs, names, "encoding gallery", batch_size, device, features_dir, folder, progress, update
    )
    left_out = [names[row] for row in skipped]
    if skipped and on_error == "raise":
        raise UnreadableImageError(
            f"{features_dir} was encoded without {len(skipped)} of {len(images)} images, which could not be read: "
            f"{_some(left_out)}. Skip them again (on_error='skip'), or mend them and encode into another folder."
        )
    if skipped:
        logger.warning("%d of %d images unreadable and skipped: %s", len(skipped), len(images), _some(left_out))
    if len(features) == 0:
        raise ValueError(f"none of the {len(images)} images can be read: {_some(left_out)}")
    return EncodedImages(features, inputs, skipped, settings)


@dead_workers_told()
def collect_features(
    encode: Encode,
    settings: dict[str, Any],
    inputs: Sequence[dict[str, Any]],
    names: Sequence[str] | None,
    label: str,
    batch_size: int,
    device: str | torch.device,
    features_dir: str | Path | None = None,
    folder: Path | None = None,
    progress: bool = True,
    update: bool = False,
) -> tuple[Tensor, list[int]]:
    """Encodes every input, in memory or into the store in `features_dir`, where those of it are not encoded again.

    Args:
        encode: encodes shards, see `Encode`.
        settings: what decides the features, see `feature_settings`.
        inputs: a description of each input, see `describe_image`.
        names: how an error calls inputs whose features are not finite; None does not look.
        label: of the progress bar.
        device: where the features shall be.
        update: see `encode_images`.

    Returns:
        features `(num_read, ...)`, and the rows that were skipped.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected a number from 1")
    if names is not None:
        encode = _checked(encode, names)
    bar = tqdm(total=len(inputs), desc=label, unit="image", disable=not progress or os.environ.get("RANK", "0") != "0")
    with bar:
        if features_dir is not None:
            store = FeatureStore.open_or_create(features_dir, settings, inputs, batch_size, folder, update)
            store.complete(encode, bar.update)
            return store.read(device)
        # Filled in place: a list of batches would need the memory twice to be joined.
        spec, skipped, num_read = settings["features"], [], 0
        features = torch.empty(len(inputs), *spec["shape"], dtype=getattr(torch, spec["dtype"]), device=device)
        for rows, left_out, encoded in encode([range(len(inputs))]):
            features[num_read : num_read + len(rows)] = encoded
            num_read += len(rows)
            skipped += left_out
            bar.update(len(rows) + len(left_out))
        return features[:num_read], skipped


def describe_images(
    images: Sequence[Any], name: str, folder: Path | None = None, contents: bool = True
) -> list[dict[str, Any]]:
    """Describes every image, see `describe_image`: a file that is missing is found before hours of encoding."""
    return [describe_image(image, f"{name} {row}", folder, contents) for row, image in enumerate(images)]


def _checked(encode: Encode, names: Sequence[str]) -> Encode:
    """The same, but NaN and infinity are an error that names where they are."""

    def encode_and_check(shards: Iterable[Sequence[int]]) -> Iterator[tuple[list[int], list[int], Tensor]]:
        for rows, skipped, features in encode(shards):
            finite = features.isfinite().flatten(1).all(dim=1)
            if not finite.all():
                broken = [names[row] for row, is_finite in zip(rows, finite.tolist(), strict=True) if not is_finite]
                raise ValueError(
                    f"the features of {_some(broken)} hold NaN or infinity: the model's weights are damaged, or its "
                    "precision too low (use bf16 rather than fp16)"
                )
            yield rows, skipped, features

    return encode_and_check


def _some(names: Sequence[str], shown: int = 5) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(map(printable, names[:shown])) + (f" and {len(names) - shown} more" if len(names) > shown else "")
