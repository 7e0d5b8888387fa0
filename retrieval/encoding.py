"""The one encoder: images read in batches, encoded, and kept in memory or in a folder of features."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..checks_fafa import AlikeFeatures, check_features
from ..files import some
from ..image_reading_fafa import InaccessibleImageError, UnreadableImageError
from ..loading import dead_workers_told
from ..modeling_fafa import FafaModel
from ..processing_fafa import FafaProcessor
from .fingerprint import dtype_name, feature_settings
from .identity import describe_absent, describe_image, input_name, is_changed
from .reading import read_pixels
from .store import DTYPES, Encode, FeatureStore

logger = logging.getLogger(__name__)


class EncodedImages(NamedTuple):
    """What `encode_images` gives.

    Args:
        features: `(num_read, num_query_tokens, projection_dim)`.
        inputs: a description of each image, see `describe_image`.
        skipped: the indices of the images that were left out, because they could not be read.
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
    identify: bool = True,
) -> EncodedImages:
    """Encodes target images, on the device and in the precision of the model.

    Args:
        model: it is put into eval mode.
        processor: the model's own.
        images: paths, PIL images, or whatever else `open_image` takes.
        batch_size: images encoded at a time.
        num_workers: processes that read images; 0 reads in this one; None is one a core, up to 8, or 0 for few images.
        on_error: `"raise"` stops at an image that cannot be decoded, or cannot be read now, or was deleted meanwhile;
            `"skip"` leaves it out, lists it and warns at the end. A file missing from the start is an error either way.
        dtype: of the features; None keeps the model's. float16 halves the space (scores change by ~1e-4).
        device: where the features shall be.
        features_dir: a folder that keeps the features. Images whose features are there are not encoded again; an
            interrupted run goes on where it stopped. Processes that encode into one folder, by `accelerate launch` or
            started one by one, share the work; each returns with all features. What was left out is tried again each
            time.
        folder: in `features_dir`, paths are relative to it, so that both may move.
        progress: whether to show a progress bar (of several launched processes, in the first).
        update: where `features_dir` holds features of some of these images and of others, whether to encode only the
            rest and to drop the others. Images are told by their contents, see `files.contents_of`.
        identify: whether to read from files what tells them from others, without `features_dir`, too: for who saves
            the features.

    Raises:
        FileNotFoundError, UnreadableImageError: an image is not there, or cannot be decoded.
        InaccessibleImageError: it is there, but cannot be read now; an OSError.
        ValueError: there is nothing to encode, features cannot be right (not finite, zero, all alike), or
            `features_dir` holds features of another model, processor, precision or list of images (with `update`, of
            another gallery), or is damaged.
        TypeError: `images` is no sequence, or `dtype` not one of floating-point numbers.
        OSError: the features cannot be written, which is known before images are read, or the disk is full; what was
            written stays.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}, expected 'raise' or 'skip'")
    if isinstance(images, (str, bytes)) or not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
        raise TypeError(f"images is a {type(images).__name__}, expected a sequence of images, such as a list of paths")
    if len(images) == 0:
        raise ValueError("no images to encode; a gallery needs at least one")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype_name(dtype) in DTYPES):
        raise TypeError(f"dtype is {dtype!r}, expected {', '.join(f'torch.{name}' for name in sorted(DTYPES))} or None")
    _check_batch_size(batch_size)
    model.eval()
    shape = (model.config.num_query_tokens, model.config.projection_dim)
    settings = feature_settings(model, processor, "target", shape, dtype)
    known = FeatureStore.known_inputs(features_dir, settings) if features_dir is not None else {}
    inputs = describe_images(
        images,
        "gallery image",
        folder,
        identify or features_dir is not None,
        pixels=features_dir is not None,
        known=known,
        skip=on_error == "skip",
        progress=progress,
    )
    names = [input_name(description, row, folder) for row, description in enumerate(inputs)]
    passing = set()  # rows that may well be read the next time
    alike = AlikeFeatures()

    def encode(shards: Iterable[Sequence[int]]) -> Iterator[tuple[list[int], list[int], Tensor]]:
        for batch in read_pixels(processor, images, shards, "gallery image", batch_size, num_workers, on_error):
            passing.update(batch.inaccessible)
            features = torch.empty(0, *shape)
            if batch.pixels is not None:
                features = model.get_target_features(pixel_values=batch.pixels.to(model.device))
                alike.check(features, batch.pixels)
            yield batch.rows, batch.skipped, features

    features, skipped = collect_features(
        unchanged(encode, inputs, folder, passing if on_error == "skip" else None),
        settings,
        inputs,
        names,
        "encoding gallery",
        batch_size,
        device,
        features_dir,
        folder,
        progress,
        update,
    )
    left_out = [names[row] for row in skipped]
    if skipped and on_error == "raise":
        raise UnreadableImageError(
            f"{features_dir} was just encoded by another process without {len(skipped)} of {len(images)} images, which "
            f"could not be read: {some(left_out)}. Skip them, too (on_error='skip'), or mend them and start again."
        )
    if skipped:
        logger.warning("%d of %d images unreadable and skipped: %s", len(skipped), len(images), some(left_out))
    if passing.intersection(skipped):
        logger.warning(
            "%d of them may be sound, but cannot be read now (permission, disk, network, or changed meanwhile): %s. "
            "They are tried again the next time.",
            len(passing.intersection(skipped)),
            some([names[row] for row in sorted(passing.intersection(skipped))]),
        )
    if len(features) == 0:
        raise ValueError(f"none of the {len(images)} images can be read: {some(left_out)}")
    return EncodedImages(features, inputs, skipped, settings)


@dead_workers_told()
def collect_features(
    encode: Encode,
    settings: dict[str, Any],
    inputs: Sequence[dict[str, Any]],
    names: Sequence[str],
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
        names: how an error calls inputs whose features cannot be right.
        label: of the progress bar.
        device: where the features shall be.
        update: see `encode_images`.

    Returns:
        features `(num_read, ...)`, and the rows that were skipped.
    """
    _check_batch_size(batch_size)
    encode = _checked(encode, names)
    bar = tqdm(total=len(inputs), desc=label, unit="image", disable=not progress or not _is_first())
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
    images: Sequence[Any],
    name: str,
    folder: Path | None = None,
    contents: bool = True,
    pixels: bool = True,
    known: Mapping[str, dict[str, Any]] | None = None,
    skip: bool = False,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Describes every image, see `describe_image`: a file that is missing is found before hours of encoding.

    Args:
        contents: whether to read what tells files from others.
        pixels: whether to read what tells images without files from others.
        known: descriptions by path; of files that have them, and cannot be read now, they stand.
        skip: whether files that cannot be read now, or vanish meanwhile, are described without contents.

    Raises:
        FileNotFoundError, InaccessibleImageError, UnreadableImageError: see `describe_image`.
    """
    known, unknown_now = known or {}, []

    def describe(row: int, contents: bool, passing: tuple[type[Exception], ...]) -> dict[str, Any]:
        image = images[row]
        try:
            return describe_image(image, f"{name} {row}", folder, contents, known)
        except passing as error:
            if not skip:
                raise
            description = describe_absent(image, f"{name} {row}", folder)
            if not isinstance(error, InaccessibleImageError) or description["path"] not in known:
                return description
            unknown_now.append(input_name(description, row, folder))
            return known[description["path"]]

    rows, trouble = range(len(images)), (InaccessibleImageError, UnreadableImageError)
    inputs = [describe(row, False, trouble) for row in rows]  # quickly, whether all are there
    if contents:
        bar = tqdm(rows, "comparing files", unit="image", disable=not progress or not _is_first(), delay=2)
        unknown_now.clear()
        inputs = [describe(row, "stamp" in inputs[row] or pixels, (*trouble, FileNotFoundError)) for row in bar]
    if unknown_now:
        logger.warning(
            "%d of %d images cannot be read now (permission, disk, network): their features of the last time serve: %s",
            len(unknown_now), len(images), some(unknown_now),
        )  # fmt: skip
    return inputs


def _is_first() -> bool:
    """Of several launched processes, the one that shows progress."""
    return os.environ.get("RANK", "0") == "0"


def _check_batch_size(batch_size: int) -> None:
    if not isinstance(batch_size, Integral) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}, expected a whole number from 1")


def unchanged(
    encode: Encode, inputs: Sequence[dict[str, Any]], folder: Path | None = None, passing: set[int] | None = None
) -> Encode:
    """The same without images that are no longer what was described: their features must not go by that description.

    Args:
        passing: takes the rows that are left out; None makes such an image an error.
    """

    def encode_and_compare(shards: Iterable[Sequence[int]]) -> Iterator[tuple[list[int], list[int], Tensor]]:
        for rows, skipped, features in encode(shards):
            changed = [row for row in rows if inputs[row].get("contents") and is_changed(inputs[row], folder)]
            if changed:
                if passing is None:
                    name = input_name(inputs[changed[0]], changed[0], folder)
                    raise InaccessibleImageError(f"{name} was changed while it was encoded; start again", path=name)
                passing.update(changed)
                features = features[[row not in changed for row in rows]]
                rows, skipped = [row for row in rows if row not in changed], sorted({*skipped, *changed})
            yield rows, skipped, features

    return encode_and_compare


def _checked(encode: Encode, names: Sequence[str]) -> Encode:
    """The same, but features that cannot be right are an error that names them, see `check_features`."""

    def encode_and_check(shards: Iterable[Sequence[int]]) -> Iterator[tuple[list[int], list[int], Tensor]]:
        for rows, skipped, features in encode(shards):
            check_features(features, "", [names[row] for row in rows])
            yield rows, skipped, features

    return encode_and_check
