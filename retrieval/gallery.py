"""A gallery of images, encoded once and searched by image and caption, by caption alone, or by image alone."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from types import NoneType
from typing import Any

import torch

from ..checks_fafa import check_features
from ..files import printable, some
from ..image_reading_fafa import UnreadableImageError
from ..loading import undecoded
from ..model_folder import check_fit
from ..retriever import QUERY_MODES, Retriever, RetrieverProcessor
from .encoding import EncodedImages, encode_images
from .fingerprint import dtype_name, feature_settings
from .forward import forward
from .identity import changes_since, describe_absent, describe_image, input_name, input_path, path_of
from .manifest import DTYPES
from .photo_folder import copies_of, find_images
from .store import FeatureStore

logger = logging.getLogger(__name__)

_IMAGES_AT_ONCE = 1024  # looked at


@dataclass(frozen=True)
class SearchResult:
    """One gallery image, as a search ranked it.

    Args:
        rank: from 1, the best.
        score: similarity to the query, in [-1, 1].
        path: the image's file; None without one.
        index: its place among `Gallery.paths`.
    """

    rank: int
    score: float
    path: Path | None
    index: int


class Gallery:
    """Target features of many images, with the model that made them.

    Example:
        gallery = Gallery.from_folder(model, processor, "photos/")
        gallery.save("photos.index")
        gallery = Gallery.load("photos.index", model, processor)
        for result in gallery.search(image="me.jpg", caption="in a red coat", top=5):
            print(result.rank, f"{result.score:.3f}", result.path)

    Attributes:
        features: `(num_images, num_tokens, dim)`, unit length; after `save` and `load` a memory map.
        paths: the file of each image, None where there is none.
        skipped: the images left out, because they could not be read (`on_error="skip"`).
        folder: the folder that was encoded, or None.

    Raises:
        TypeError: features are no tensor of floating-point numbers, or model or processor of another kind.
        ValueError: there is no image, features cannot be right or have another shape than the model's, or there is
            another number of paths.
    """

    def __init__(
        self,
        model: Retriever,
        processor: RetrieverProcessor,
        features: torch.Tensor,
        paths: Sequence[Path | None],
        skipped: Sequence[str] = (),
        folder: Path | None = None,
        encoded: EncodedImages | None = None,
    ):
        check_fit(model, processor)
        if isinstance(paths, (str, Path)):
            raise TypeError(f"paths is a {type(paths).__name__}, expected one path, or None, for each image")
        paths = [path if path is None else Path(path) for path in paths]
        _check_features(features, len(paths), model.feature_shape)
        self.model, self.processor = model.eval(), processor
        self.features, self.paths, self.skipped, self.folder = features, paths, list(skipped), folder
        if encoded is None:
            left_out = [Path(name) if Path(name).is_absolute() else None for name in self.skipped]
            inputs = [_describe(path, folder) for path in (*self.paths, *left_out)]
            settings = feature_settings(model, processor, "target", features.shape[1:], features.dtype)
            encoded = EncodedImages(features, inputs, list(range(len(paths), len(inputs))), settings)
        # What `save` writes, noted now, since the model may be trained on before.
        self._settings, self._inputs, self._skipped_rows = encoded.settings, encoded.inputs, encoded.skipped

    def __len__(self) -> int:
        return len(self.features)

    @classmethod
    def from_folder(
        cls,
        model: Retriever,
        processor: RetrieverProcessor,
        folder: str | Path,
        exclude: Sequence[str] = (),
        rubbish: bool = False,
        **options,
    ) -> "Gallery":
        """Encodes every image in a folder and the folders within it; see `find_images` and `from_images`."""
        images = find_images(Path(folder).absolute(), exclude, rubbish)
        return cls.from_images(model, processor, images, folder=folder, **options)

    @classmethod
    def from_dataset(
        cls, model: Retriever, processor: RetrieverProcessor, dataset: Any, column: str = "image", **options
    ) -> "Gallery":
        """Encodes the images of a `datasets.Dataset`, which need not have files; options as for `from_images`."""
        if column not in dataset.column_names:
            raise ValueError(f"the data set has no column {column!r}; it has {', '.join(dataset.column_names)}")
        # An image that is not decoded comes with its path, which an error can name.
        images = undecoded(dataset)[column]
        return cls.from_images(model, processor, images, **options)

    @classmethod
    def from_images(
        cls,
        model: Retriever,
        processor: RetrieverProcessor,
        images: Sequence[Any],
        batch_size: int = 64,
        on_error: str = "raise",
        dtype: torch.dtype | None = None,
        progress: bool = True,
        num_workers: int | None = 0,
        features_dir: str | Path | None = None,
        folder: str | Path | None = None,
    ) -> "Gallery":
        """Encodes images; arguments and errors as those of `encode_images`, but:

        Args:
            on_error: `"skip"` lists what it leaves out in `Gallery.skipped`, too.
            features_dir: `load` opens it, too. Where images were added, changed or removed since, only the new and
                changed ones, and those that could not be read, are encoded; that and the removed ones are logged.
                After renaming, copying or moving images nothing is encoded again.
            folder: the folder that the images lie in, if any; it may move later.
        """
        check_fit(model, processor)
        folder = None if folder is None else Path(folder).absolute()
        options = {"features_dir": features_dir, "folder": folder, "progress": progress, "update": True}
        encoded = encode_images(model, processor, images, batch_size, num_workers, on_error, dtype, **options)
        skipped = set(encoded.skipped)
        paths = [path_of(image) for row, image in enumerate(images) if row not in skipped]
        return cls(model, processor, encoded.features, paths, _skipped_names(encoded, folder), folder, encoded)

    def to(self, device: str | torch.device) -> "Gallery":
        """Moves the features to the device on which to score them, for example a GPU."""
        self.features = self.features.to(device)
        return self

    def scores(self, image: Any = None, caption: str | None = None) -> torch.Tensor:
        """Scores of one query against every image.

        Args:
            image: the reference image: a path, a PIL image, or whatever else `open_image` takes.
            caption: what the target looks like, or how it differs from the image.

        Returns:
            `(num_images,)`, fp32, in [-1, 1], in the order of `paths`.

        Raises:
            ValueError: neither image nor caption is given, or several, or a score is not a finite number.
            TypeError: an image or caption of another kind.
            UnreadableImageError: the image cannot be decoded.
            FileNotFoundError, InaccessibleImageError: it is missing, or cannot be read now.
        """
        if image is None and caption is None:
            raise ValueError("a query needs an image, a caption or both; neither was given")
        if not isinstance(caption, (str, NoneType)):
            raise TypeError(f"caption is a {type(caption).__name__}, expected one caption (str)")
        if isinstance(image, (list, tuple)):
            raise ValueError(f"a query has one image, got a list of {len(image)}; search for each by itself")
        inputs = {}
        if image is not None:
            crop = self.processor.resize_crop(self.processor.open_crop(image))
            inputs["pixel_values"] = self.processor.to_pixels([crop])
        if caption is not None:
            inputs |= self.processor.encode_captions([caption], ["caption"])
        given = {name: inputs[name].to(self.model.device) for name in QUERY_MODES["image+caption"] if name in inputs}
        query = forward(self.model, self.model.get_query_features, **given)  # (1, dim)
        with torch.no_grad():
            scores = self.model.score(query.to(self.features.device), self.features)[0].cpu()
        if not scores.isfinite().all():
            raise ValueError("the scores hold NaN or infinity: the model's weights or the stored features are damaged")
        return scores

    def search(
        self,
        image: Any = None,
        caption: str | None = None,
        top: int | None = 10,
        exclude: Sequence[str | Path] = (),
    ) -> list[SearchResult]:
        """The images most similar to a query, best first; equal scores keep the gallery's order.

        Args:
            image: as for `scores`, and so is `caption`.
            top: how many results; None ranks the whole gallery.
            exclude: files that must not be among the results, nor copies of them under other names; such as the
                query's own photograph.

        Raises:
            ValueError, TypeError: `top` is no whole number from 1; and as for `scores`.
        """
        is_number = top is None or (isinstance(top, Integral) and not isinstance(top, bool))
        if not is_number or (top is not None and top < 1):
            kind = ValueError if is_number else TypeError
            raise kind(f"top is {top!r}, expected a whole number from 1, or None for the whole gallery")
        scores = self.scores(image, caption)
        order = scores.argsort(descending=True, stable=True).tolist()
        is_excluded, left_out = copies_of(exclude), []
        results: list[SearchResult] = []
        for index in order:
            if len(results) == top:
                break
            path = self.paths[index]
            if exclude and is_excluded(path):
                left_out.append(printable(path))
            else:
                results.append(SearchResult(len(results) + 1, scores[index].item(), path, index))
        if left_out:
            logger.info("left out of the results, as one to exclude or a copy of it: %s", ", ".join(left_out))
        return results

    def save(self, folder: str | Path) -> None:
        """Writes the features and a manifest naming images, model and processor settings, for `load`.

        Raises:
            OSError: they cannot be written there; an index that was there stays.
        """
        features = self._settings["features"] | {"dtype": dtype_name(self.features.dtype)}
        settings = self._settings | {"features": features}
        FeatureStore.write(folder, settings, self._inputs, self.features, self._skipped_rows, self.folder)

    @classmethod
    def load(
        cls,
        index: str | Path,
        model: Retriever,
        processor: RetrieverProcessor,
        folder: str | Path | None = None,
        check_images: bool = True,
    ) -> "Gallery":
        """Opens what `save` wrote; features stay on disk until they are used.

        All features are compared with their checksums, and the images' files with what was noted of them; a warning
        counts those that have changed or are gone since. A search ranks by their features all the same. Whoever made an
        index decides which files it names. Therefore results name no file whose contents are not those that were
        encoded, unless `folder` says where the images are: an index from elsewhere leads to no other file here.

        Args:
            index: the folder given to `save`, or as `features_dir` to an encoding that was finished.
            folder: where the images are now, if the folder that was encoded has moved. (If both moved together, it is
                found.)
            check_images: whether to compare the images' files. It takes some 10 microseconds a file, and reads up to
                1 MiB of each whose times differ, as all do after copying. Without it results name whatever file the
                index does: for an index of your own.

        Raises:
            FileNotFoundError: there is no index in that folder.
            ValueError: the features come from another model, from other image processor settings, are incomplete or
                damaged, or do not fit the manifest.
        """
        check_fit(model, processor)
        settings = feature_settings(model, processor, "target", model.feature_shape)
        while True:
            store = FeatureStore.open(index)
            store.check(settings)
            try:
                features, skipped = store.read()
                break
            except (OSError, ValueError):
                if not store.is_replaced():  # by another process, just now
                    raise
        encoded = EncodedImages(features, store.inputs, skipped, store.settings)
        trusted = folder is not None and store.images_folder is not None  # else its paths may be absolute
        folder = Path(folder).absolute() if folder else store.images_folder
        left_out = set(skipped)
        paths = [input_path(image, folder) for row, image in enumerate(store.inputs) if row not in left_out]
        if check_images:
            others = _warn_of_changes(encoded, folder, is_named=trusted)
            paths = [None if row in others and not trusted else path for row, path in enumerate(paths)]
        return cls(model, processor, features, paths, _skipped_names(encoded, folder), folder, encoded)


def _warn_of_changes(encoded: EncodedImages, folder: Path | None, is_named: bool) -> set[int]:
    """Warns of files that are not what was encoded; returns the numbers of those that exist all the same."""
    left_out, total = set(encoded.skipped), len(encoded.inputs)
    inputs = [line for row, line in enumerate(encoded.inputs) if row not in left_out]
    changes = changes_since(inputs, folder)
    told = {
        "changed": "have other contents than when they were encoded",
        "unknown": "may have other contents, since nothing is noted of them",
        "gone": "are gone",
        "inaccessible": "cannot be read now",
    }
    parts = []
    for kind, what in told.items():
        names = [input_name(inputs[row], row, folder) for row, change in changes.items() if change == kind]
        if names and not (is_named and kind == "unknown"):
            parts.append(f"{len(names):,} {what}: {some(names, 3)}")
    others = {row for row, change in changes.items() if change in ("changed", "unknown")}
    if parts:
        logger.warning(
            "of %d images in the index, %s. A search ranks them by the features they had%s; encode the folder again to "
            "follow the changes, or say where the images are now (folder=...).",
            *(total, "; ".join(parts)),
            " and names no file for those with other contents" if others and not is_named else "",
        )
    if left_out:
        logger.warning(
            "%d of %d images are not in the index, since they could not be read: %s. They are tried again when the "
            "folder is encoded again.",
            *(len(left_out), total, some(_skipped_names(encoded, folder))),
        )
    return others


def _check_features(features: torch.Tensor, num_images: int, shape: tuple[int, int]) -> None:
    if not isinstance(features, torch.Tensor):
        raise TypeError(f"features is a {type(features).__name__}, expected a tensor")
    if dtype_name(features.dtype) not in DTYPES:
        raise TypeError(f"the features are {features.dtype}, expected {', '.join(sorted(DTYPES))}")
    if features.shape != (expected := (num_images, *shape)):
        raise ValueError(f"features (num_images, num_tokens, dim): expected {expected}, got {tuple(features.shape)}")
    if num_images == 0:
        raise ValueError("a gallery needs at least one image")
    for start in range(0, num_images, _IMAGES_AT_ONCE):
        block = features[start : start + _IMAGES_AT_ONCE]
        check_features(block, "image", range(start, start + len(block)))


def _skipped_names(encoded: EncodedImages, folder: Path | None) -> list[str]:
    return [input_name(encoded.inputs[row], row, folder) for row in encoded.skipped]


def _describe(path: Path | None, folder: Path | None) -> dict[str, Any]:
    try:
        return describe_image(path, "gallery image", folder, contents=path is not None)
    except (OSError, UnreadableImageError):  # features need no file
        return describe_absent(path, "gallery image", folder)
