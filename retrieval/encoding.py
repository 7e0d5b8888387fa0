"""The one encoder: targets and queries read in batches, encoded, and kept in memory or in a folder of features."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..checks_fafa import AlikeFeatures, check_features
from ..files import some
from ..image_reading_fafa import InaccessibleImageError, UnreadableImageError
from ..loading import dead_workers_told, undecoded
from ..model_folder import check_fit
from ..names import counted
from ..retriever import QUERY_MODES, Retriever, RetrieverProcessor
from ..workers import is_first_process
from .filling import Encode, complete, known_inputs, open_or_create
from .fingerprint import dtype_name, feature_settings, model_fingerprint
from .forward import forward
from .identity import describe_images, input_name, is_changed
from .manifest import DTYPES
from .reading import PixelBatch, batches_of, read_pixels

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

_REFERENCE = "reference image of query"
_CAPTIONS_AT_ONCE = 1_000  # checked before anything is encoded


class EncodedImages(NamedTuple):
    """Features of images, and what they are of.

    Args:
        features: `(num_read, num_tokens, dim)`.
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
    model: Retriever,
    processor: RetrieverProcessor,
    images: Sequence[Any],
    batch_size: int = 64,
    num_workers: int | None = 0,
    on_error: str = "raise",
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    features_dir: str | Path | None = None,
    folder: Path | None = None,
    progress: bool = True,
    identify: bool = True,
) -> EncodedImages:
    """Encodes target images, on the device and in the precision of the model, which is put into eval mode.

    Args:
        images: paths, PIL images, or whatever else `open_image` takes.
        batch_size: images encoded at a time.
        num_workers: processes that read images; 0 reads in this one; None is one a core, up to 8, or 0 for few images.
        on_error: `"raise"` stops at an image that cannot be decoded, or cannot be read now, or was deleted meanwhile;
            `"skip"` leaves it out, lists it and warns at the end. A file missing from the start is an error either way.
        dtype: precision of the features; None keeps the model's. float16 halves the space (scores change by ~1e-4).
        device: where the features are put.
        features_dir: a folder that keeps the features. Images whose features are there are not encoded again; an
            interrupted run goes on where it stopped. Processes that encode into one folder, by `accelerate launch` or
            started one by one, share the work; each returns with all features. What was left out is tried again each
            time.
        folder: in `features_dir`, paths are relative to it, so that both may move.
        identify: whether to read what tells files from others also without `features_dir`, since the features will be
            saved.

    Raises:
        FileNotFoundError, UnreadableImageError: an image is missing, or cannot be decoded.
        InaccessibleImageError: it is there, but cannot be read now; an OSError.
        ValueError: there is nothing to encode, features cannot be right (not finite, zero, all alike), or
            `features_dir` holds features of another model, processor, precision or list of images, or is damaged.
        TypeError: `images` is no sequence, or `dtype` not one of floating-point numbers.
        OSError: the features cannot be written, which is known before images are read, or the disk is full; what was
            written stays.
    """
    check_encoding(images, batch_size, on_error, dtype)
    model.eval()
    settings = feature_settings(model, processor, "target", model.feature_shape, dtype)
    inputs = describe_images(
        images,
        "gallery image",
        folder,
        contents=identify or features_dir is not None,
        pixels=features_dir is not None,
        known=None if features_dir is None else known_inputs(features_dir, settings),
        skip=on_error == "skip",
        progress=progress and is_first_process(),
    )
    names = [input_name(description, row, folder) for row, description in enumerate(inputs)]
    passing: set[int] = set()  # rows that may well be readable the next time
    encode = target_encoder(model, processor, images, batch_size, num_workers, on_error, passing)
    features, skipped = _collect(
        *(encode, settings, inputs, names, "encoding gallery", batch_size, device, features_dir, progress),
        folder=folder,
        passing=passing if on_error == "skip" else None,
    )
    left_out = [names[row] for row in skipped]
    if skipped and on_error == "raise":
        raise UnreadableImageError(
            f"{features_dir} was just encoded by another process without {len(skipped)} of "
            f"{counted(len(images), 'image')}, which could not be read: {some(left_out)}. Skip them, too "
            "(on_error='skip'), or mend them and start again."
        )
    warn_of_skipped(left_out, [names[row] for row in sorted(passing.intersection(skipped))], len(images))
    if len(features) == 0:
        raise ValueError(f"none of {counted(len(images), 'image')} can be read: {some(left_out)}")
    return EncodedImages(features, inputs, skipped, settings)


def check_encoding(images: Sequence[Any], batch_size: int, on_error: str, dtype: torch.dtype | None) -> None:
    """Refuses what cannot be encoded; errors as for `encode_images`."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}, expected 'raise' or 'skip'")
    if isinstance(images, (str, bytes)) or not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
        raise TypeError(f"images is a {type(images).__name__}, expected a sequence of images, such as a list of paths")
    if len(images) == 0:
        raise ValueError("no images to encode; a gallery needs at least one")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype_name(dtype) in DTYPES):
        raise TypeError(f"dtype is {dtype!r}, expected {', '.join(f'torch.{name}' for name in sorted(DTYPES))} or None")
    _check_batch_size(batch_size)


def target_encoder(
    model: Retriever,
    processor: RetrieverProcessor,
    images: Sequence[Any],
    batch_size: int,
    num_workers: int | None,
    on_error: str,
    passing: set[int],
) -> Encode:
    """What encodes target images; it takes in `passing` the rows of images that cannot be read now, and maybe later."""
    alike = AlikeFeatures()

    def encode(shards: Iterable[Sequence[int]]) -> Iterator[tuple[list[int], list[int], Tensor]]:
        for batch in read_pixels(processor, images, shards, "gallery image", batch_size, num_workers, on_error):
            passing.update(batch.inaccessible)
            features = torch.empty(0, *model.feature_shape)
            if batch.pixels is not None:
                features = forward(model, model.get_target_features, pixel_values=batch.pixels.to(model.device))
                alike.check(features, batch.pixels)
            yield batch.rows, batch.skipped, features

    return encode


def warn_of_skipped(names: Sequence[str], passing: Sequence[str], total: int) -> None:
    """Tells of images that were left out, and of those among them that may be sound."""
    if names:
        logger.warning("%d of %s unreadable and skipped: %s", len(names), counted(total, "image"), some(names))
    if passing:
        logger.warning(
            "%d of them may be sound, but cannot be read now (permission, disk, network, or changed meanwhile): %s. "
            "They are tried again the next time.",
            *(len(passing), some(passing)),
        )


def encode_targets(
    model: Retriever,
    processor: RetrieverProcessor,
    gallery: "datasets.Dataset",
    batch_size: int = 64,
    num_workers: int = 0,
    progress: bool = True,
    features_dir: str | Path | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Encodes the column `image` of a test set's gallery, of which no image may be missing; see `encode_images`.

    Returns:
        `(num_gallery, num_tokens, dim)`, on the model's device.
    """
    check_fit(model, processor)
    images, options = undecoded(gallery)["image"], {"features_dir": features_dir, "progress": progress}
    return encode_images(
        model, processor, images, batch_size, num_workers, dtype=dtype, device=model.device, identify=False, **options
    ).features


@torch.no_grad()
def encode_queries(
    model: Retriever,
    processor: RetrieverProcessor,
    queries: "datasets.Dataset",
    modes: Sequence[str] = tuple(QUERY_MODES),
    batch_size: int = 64,
    num_workers: int = 0,
    progress: bool = True,
    features_dir: str | Path | None = None,
) -> dict[str, Tensor]:
    """Encodes queries in each mode; every reference image is read once, and none if no mode needs it.

    Args:
        queries: with the columns `image` and `caption`.
        modes: some of "image+caption", "caption", "image".
        features_dir: keeps the features of each mode in a folder of its own within this one, to resume from and to use
            again; then reference images are read once a mode.

    Returns:
        mode -> `(num_queries, dim)`, on the model's device.

    Raises:
        ValueError: an unknown mode, a caption without a word. And errors as for `encode_images`.
    """
    if len(modes) == 0:
        raise ValueError(f"no modes; expected some of {', '.join(QUERY_MODES)}")
    if unknown := [mode for mode in modes if mode not in QUERY_MODES]:
        raise ValueError(f"modes: {', '.join(unknown)} unknown; expected some of {', '.join(QUERY_MODES)}")
    _check_batch_size(batch_size)
    check_fit(model, processor)
    model.eval()
    needed = _arguments(modes)
    captions = queries["caption"][:] if "input_ids" in needed else []

    def encode_captions(rows: Sequence[int]) -> Mapping[str, Tensor]:
        return processor.encode_captions(
            [captions[row] for row in rows], [f"the caption of query {row}" for row in rows]
        )

    for rows in batches_of([range(len(captions))], _CAPTIONS_AT_ONCE):  # before hours of encoding
        encode_captions(rows)
    images = undecoded(queries)["image"] if "pixel_values" in needed else None

    fingerprint, known = model_fingerprint(model), {}
    tasks = []  # modes that are encoded together, settings, folder
    for group in [list(modes)] if features_dir is None else [[mode] for mode in modes]:
        settings = feature_settings(
            model,
            processor,
            kind=f"query of {', '.join(group)}",
            shape=(len(group), model.feature_shape[1]),
            images="pixel_values" in _arguments(group),
            captions="input_ids" in _arguments(group),
            fingerprint=fingerprint,
        )
        place = None if features_dir is None else Path(features_dir, group[0])
        if place is not None:  # a store of another model is better known before all images are read
            known |= known_inputs(place, settings)
        tasks.append((group, settings, place))
    files = None
    if images is not None:
        identify = features_dir is not None
        shown = progress and is_first_process()
        files = describe_images(images, _REFERENCE, None, identify, identify, known, progress=shown)

    def encode(group: Sequence[str], shards: Iterable[Sequence[int]]) -> Iterator[tuple[list[int], list[int], Tensor]]:
        """Batches of queries in some modes: rows, none skipped, `(len(rows), len(group), dim)`."""
        needed = _arguments(group)
        if "pixel_values" in needed:
            batches = read_pixels(processor, images, shards, _REFERENCE, batch_size, num_workers)
        else:
            batches = (PixelBatch(rows, [], None) for rows in batches_of(shards, batch_size))
        alike = {mode: AlikeFeatures() for mode in group}
        for rows, _, pixels, *_ in batches:
            inputs = {} if pixels is None else {"pixel_values": pixels}
            if "input_ids" in needed:
                inputs |= encode_captions(rows)
            inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
            encoded = []
            for mode in group:
                given = {name: inputs[name] for name in QUERY_MODES[mode]}
                encoded.append(forward(model, model.get_query_features, **given))
                alike[mode].check(encoded[-1], *(tensor for name, tensor in given.items() if name != "attention_mask"))
            yield rows, [], torch.stack(encoded, dim=1)

    features = {}
    for group, settings, place in tasks:
        needed = _arguments(group)
        inputs = [
            ({"caption": captions[row]} if "input_ids" in needed else {})
            | (files[row] if "pixel_values" in needed else {})
            for row in range(len(queries))
        ]
        names = [f"query {row} ({', '.join(group)})" for row in range(len(queries))]
        label = "encoding queries" if place is None else f"encoding queries ({group[0]})"
        encoded, _ = _collect(
            *(partial(encode, group), settings, inputs, names, label, batch_size, model.device, place, progress)
        )
        features |= {mode: encoded[:, number].contiguous() for number, mode in enumerate(group)}
    return features


def _arguments(modes: Sequence[str]) -> set[str]:
    return {argument for mode in modes for argument in QUERY_MODES[mode]}


def watched(
    encode: Encode,
    inputs: Sequence[dict[str, Any]],
    names: Sequence[str],
    folder: Path | None,
    passing: set[int] | None,
) -> Encode:
    """The same encoder, but features that cannot be right are an error, and images that changed meanwhile are left out.

    Otherwise the features of a changed image would stand for the image that was described.
    """

    def encode_and_look(shards: Iterable[Sequence[int]]) -> Iterator[tuple[list[int], list[int], Tensor]]:
        for rows, skipped, features in encode(shards):
            changed = [row for row in rows if inputs[row].get("contents") and is_changed(inputs[row], folder)]
            if changed:
                if passing is None:
                    name = input_name(inputs[changed[0]], changed[0], folder)
                    raise InaccessibleImageError(f"{name} was changed while it was encoded; start again", path=name)
                passing.update(changed)
                features = features[[row not in changed for row in rows]]
                rows, skipped = [row for row in rows if row not in changed], sorted({*skipped, *changed})
            check_features(features, "", [names[row] for row in rows])
            yield rows, skipped, features

    return encode_and_look


@dead_workers_told()
def _collect(
    encode: Encode,
    settings: dict[str, Any],
    inputs: Sequence[dict[str, Any]],
    names: Sequence[str],
    label: str,
    batch_size: int,
    device: str | torch.device,
    features_dir: str | Path | None,
    progress: bool,
    folder: Path | None = None,
    passing: set[int] | None = None,
) -> tuple[Tensor, list[int]]:
    """Encodes every input, in memory or into the store in `features_dir`, where what it holds is not encoded again.

    Args:
        settings: what decides the features, see `feature_settings`.
        inputs: a description of each input, see `describe_image`; `names`: how errors call them.
        passing: takes the rows of images that changed meanwhile; None makes such an image an error.

    Returns:
        features `(num_read, ...)`, and the rows that were skipped.
    """
    encode = watched(encode, inputs, names, folder, passing)
    with tqdm(total=len(inputs), desc=label, unit="image", disable=not progress or not is_first_process()) as bar:
        if features_dir is not None:
            store = open_or_create(features_dir, settings, inputs, batch_size, folder)
            complete(store, encode, bar.update)
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


def _check_batch_size(batch_size: int) -> None:
    if not isinstance(batch_size, Integral) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}, expected a whole number from 1")
