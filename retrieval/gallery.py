"""A gallery of images, encoded once and searched by image and caption, by caption alone, or by image alone."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..files import printable
from ..modeling_fafa import FafaModel
from ..processing_fafa import FafaProcessor
from .encoding import EncodedImages, encode_images
from .photo_folder import copies_of, find_images
from .store import FeatureStore, describe_image, feature_settings, input_name, input_path, path_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchResult:
    """One gallery image, as a search ranked it.

    Args:
        rank: from 1, the best.
        score: similarity to the query, in [-1, 1].
        path: the image's file; None for an image that came without one.
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
        features: `(num_images, num_query_tokens, projection_dim)`, unit length; after `save` and `load` a memory map.
        paths: the file of each image, None where there is none.
        skipped: the images left out as unreadable (`on_error="skip"`).
        folder: the folder that was encoded, or None.
    """

    def __init__(
        self,
        model: FafaModel,
        processor: FafaProcessor,
        features: torch.Tensor,
        paths: Sequence[Path | None],
        skipped: Sequence[str] = (),
        folder: Path | None = None,
        encoded: EncodedImages | None = None,
    ):
        if features.ndim != 3 or len(features) != len(paths):
            raise ValueError(
                f"expected features (num_images, num_query_tokens, projection_dim) for {len(paths)} images, got "
                f"{tuple(features.shape)}"
            )
        self.model, self.processor = model.eval(), processor
        self.features, self.paths, self.skipped, self.folder = features, list(paths), list(skipped), folder
        if encoded is None:
            inputs = [_describe(path, folder) for path in self.paths] + [{"path": name} for name in self.skipped]
            settings = feature_settings(model, processor, "target", features.shape[1:], features.dtype)
            encoded = EncodedImages(features, inputs, list(range(len(paths), len(inputs))), settings)
        # What `save` writes. As it is now: the model may be trained on before.
        self._settings, self._inputs, self._skipped_rows = encoded.settings, encoded.inputs, encoded.skipped

    @property
    def fingerprint(self) -> str:
        """Of the model that made the features, see `model_fingerprint`."""
        return self._settings["model"]["fingerprint"]

    def __len__(self) -> int:
        return len(self.features)

    @classmethod
    def from_folder(
        cls,
        model: FafaModel,
        processor: FafaProcessor,
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
        cls, model: FafaModel, processor: FafaProcessor, dataset: Any, column: str = "image", **options
    ) -> "Gallery":
        """Encodes the images of a `datasets.Dataset`, which need not have files; options as for `from_images`."""
        from datasets import Image

        # Undecoded, an image comes with its path, which an error can name.
        images = dataset.cast_column(column, Image(decode=False))[column]
        return cls.from_images(model, processor, images, **options)

    @classmethod
    def from_images(
        cls,
        model: FafaModel,
        processor: FafaProcessor,
        images: Sequence[Any],
        batch_size: int = 64,
        on_error: str = "raise",
        dtype: torch.dtype | None = None,
        progress: bool = True,
        num_workers: int | None = 0,
        features_dir: str | Path | None = None,
        folder: str | Path | None = None,
    ) -> "Gallery":
        """Encodes images, on the device and in the precision of the model.

        Args:
            model: makes the features; it is put into eval mode.
            processor: the model's own.
            images: paths, PIL images, or whatever else `open_image` takes.
            batch_size: images encoded at a time.
            on_error: `"raise"` stops at an image that cannot be decoded; `"skip"` leaves it out, lists it in
                `Gallery.skipped` and warns at the end. A missing file is an error either way.
            dtype: of the stored features; None keeps the model's. float16 halves the space (scores change by ~1e-4).
            progress: whether to show a progress bar.
            num_workers: processes that read images; 0 reads in this one; None is one a core, up to 8, or 0 for few
                images.
            features_dir: a folder that keeps the features while they are encoded, so that an interrupted run goes on
                where it stopped and another finds them there; `load` opens it, too. Where images were added, changed
                or removed since (by path, size and time of change), only the new and changed ones are encoded; that
                and the removed ones are logged. See `encode_images`.
            folder: the folder that the images lie in, if any, which may move later.

        Raises:
            UnreadableImageError: an image cannot be decoded.
            ValueError: there is nothing to encode, the model's features are not finite, or `features_dir` holds those
                of another model, processor or precision, or of none of these images.
        """
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
            ValueError: neither image nor caption is given, or a score is not a finite number.
            UnreadableImageError: the image cannot be decoded.
        """
        if image is None and caption is None:
            raise ValueError("a query needs an image, a caption or both; neither was given")
        inputs = self.processor(images=image, text=caption, return_tensors="pt").to(self.model.device)
        with torch.no_grad():
            query = self.model.get_query_features(**inputs)  # (1, projection_dim)
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
            image: the reference image; see `scores`.
            caption: the relative caption; see `scores`.
            top: how many results; None ranks the whole gallery.
            exclude: files that shall not be among the results, nor copies of them under other names; such as the
                query's own photograph.
        """
        if top is not None and top < 1:
            raise ValueError(f"top is {top}, expected a number from 1, or None for the whole gallery")
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
            logger.info("left out of the results, as excluded: %s", ", ".join(left_out))
        return results

    def save(self, folder: str | Path) -> None:
        """Writes the features and a manifest naming images, model and processor settings, for `load`."""
        dtype = str(self.features.dtype).removeprefix("torch.")
        settings = self._settings | {"features": self._settings["features"] | {"dtype": dtype}}
        FeatureStore.write(folder, settings, self._inputs, self.features, self._skipped_rows, self.folder)

    @classmethod
    def load(
        cls,
        index: str | Path,
        model: FafaModel,
        processor: FafaProcessor,
        folder: str | Path | None = None,
    ) -> "Gallery":
        """Opens what `save` wrote; features stay on disk until they are used.

        Args:
            index: the folder given to `save`, or as `features_dir` to an encoding that was finished.
            model: the model that made the features.
            processor: its processor.
            folder: where the images are now, if the folder that was encoded has moved.

        Raises:
            FileNotFoundError: there is no index in that folder.
            ValueError: the features come from another model, from other image processor settings, are incomplete or do
                not fit the manifest.
        """
        store = FeatureStore.open(index)
        shape = (model.config.num_query_tokens, model.config.projection_dim)
        store.check(feature_settings(model, processor, "target", shape))
        features, skipped = store.read()
        encoded = EncodedImages(features, store.inputs, skipped, store.settings)
        folder = Path(folder).absolute() if folder else store.images_folder
        left_out = set(skipped)
        paths = [input_path(image, folder) for row, image in enumerate(store.inputs) if row not in left_out]
        return cls(model, processor, features, paths, _skipped_names(encoded, folder), folder, encoded)


def _skipped_names(encoded: EncodedImages, folder: Path | None) -> list[str]:
    return [input_name(encoded.inputs[row], row, folder) for row in encoded.skipped]


def _describe(path: Path | None, folder: Path | None) -> dict[str, Any]:
    if path is not None and path.exists():
        return describe_image(path, "gallery image", folder)
    return {"path": None if path is None else str(path.absolute())}
