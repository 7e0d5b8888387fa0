"""A gallery of images, encoded once and searched by image and caption, by caption alone, or by image alone."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checks_fafa import check_features
from ..files import some
from ..image_reading_fafa import UnreadableImageError
from ..loading import undecoded
from ..model_folder import check_fit
from ..names import counted
from ..retriever import Retriever, RetrieverProcessor
from ..workers import is_first_process
from .asking import GalleryAsking
from .conversion import convert_store, is_store, open_store, state_of
from .cutting import Cutter, check_cut
from .encoding import EncodedImages, check_encoding, encode_images
from .fingerprint import PEOPLE, dtype_name, feature_settings
from .identity import describe_absent, describe_image, describe_images, path_of
from .indexing import index_images, known_files
from .judging import GalleryJudging
from .manifest import DTYPES
from .metadata import entry_of, exif_of
from .photo_folder import find_images
from .segment_list import GalleryFolder, check_new
from .state import GalleryState, skipped_image
from .store import FeatureStore
from .writing import GalleryWriting, check_settings, in_precision_of

logger = logging.getLogger(__name__)

_IMAGES_AT_ONCE = 1024  # looked at


class Gallery(GalleryAsking, GalleryJudging, GalleryWriting):
    """Target features of many images, with the model that made them.

    A gallery lies in memory, or in a folder (`load`, `save`, or `from_folder` with `features_dir`), where images can be
    added, replaced and deleted while others search. Everybody sees the gallery as it was when it was opened, until
    `refresh`.

    Example:
        gallery = Gallery.from_folder(model, processor, "photos/", features_dir="photos.index")
        gallery = Gallery.load("photos.index", model, processor)
        for result in gallery.search(image="me.jpg", caption="in a red coat", where='taken >= "2024"', top=5):
            print(result.rank, f"{result.score:.3f}", result.path)

    Attributes:
        state: the images as they are searched now, see `GalleryState`.
        place: the gallery's folder, or None.

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
        if encoded is None:
            inputs = [_describe(path, folder) for path in paths]
            left_out = [_skipped(name, folder) for name in skipped]
            settings = feature_settings(model, processor, "target", features.shape[1:], features.dtype)
        else:
            gaps = set(encoded.skipped)
            inputs = [line for row, line in enumerate(encoded.inputs) if row not in gaps]
            left_out = [skipped_image(encoded.inputs[row].get("path"), f"image {row}") for row in encoded.skipped]
            settings = encoded.settings
        entries = [entry_of(line, **(exif_of(path) if path else {})) for line, path in zip(inputs, paths, strict=True)]
        self._open(model, processor, state_of(features, entries, settings, folder, left_out))

    def _open(
        self,
        model: Retriever,
        processor: RetrieverProcessor,
        state: GalleryState,
        place: GalleryFolder | None = None,
        images_folder: Path | None = None,
        check_images: bool = False,
    ) -> "Gallery":
        self.model, self.processor, self.place = model.eval(), processor, place
        self._device = torch.device("cpu")
        self._images_folder, self._check_images = images_folder, check_images
        self._is_trusted = images_folder is not None and state.images_folder is not None  # else paths may be absolute
        self._hold(state)
        return self

    def _hold(self, state: GalleryState) -> None:
        """Searches another state from now on."""
        self._stored = state
        if self._images_folder is not None and state.images_folder is not None:
            state = replace(state, images_folder=self._images_folder)
        self.state = state if self._device.type == "cpu" else state.to(self._device)
        self._paths: list[Path | None] | None = None

    def __len__(self) -> int:
        return len(self.state)

    @property
    def features(self) -> Tensor:
        """`(num_images, num_tokens, dim)`, unit length. Those of one segment are mapped: they cannot be written to."""
        return self.state.features

    @property
    def paths(self) -> list[Path | None]:
        """The file of each image, None where there is none; they are read when they are asked for."""
        if self._paths is None:
            rows = self.state.living_rows(torch.arange(len(self)))
            self._paths = (
                self._named(self.state, self.state.stored_entries(rows)) if self._check_images else self.state.paths
            )
        return self._paths

    @property
    def ids(self) -> Tensor:
        """`(num_images,)`, int64, ascending: numbers that images keep."""
        return self.state.ids

    @property
    def skipped(self) -> list[str]:
        """The images left out, because they could not be read (`on_error="skip"`)."""
        return self.state.skipped_names

    @property
    def folder(self) -> Path | None:
        """The folder that was encoded, or None."""
        return self.state.images_folder

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
        cutter: Cutter | None = None,
    ) -> "Gallery":
        """Encodes images; arguments and errors as those of `encode_images`, but:

        Args:
            on_error: `"skip"` lists what it leaves out in `Gallery.skipped`, too.
            dtype: in which precision features are kept; `torch.int8` keeps codes alone in `features_dir` (a third of
                the space of float16; scores differ by some 0.001). None: in memory as the model makes them, in a new
                `features_dir` float16.
            features_dir: the gallery's folder, which `load` opens, too. Where images were added, changed or removed
                since, only the new and changed ones, and those that could not be read, are encoded; that and the
                removed ones are logged. After renaming, copying or moving images nothing is encoded again. See
                `indexing`.
            folder: the folder that the images lie in, if any; it may move later.
            cutter: what finds the parts of images that are entries of their own, see `cutting`; it takes a
                `features_dir`, and `images` may be empty then. A rerun looks for them in new and changed images only.
        """
        check_fit(model, processor)
        folder = None if folder is None else Path(folder).absolute()
        if features_dir is None and cutter is not None:
            raise ValueError("several entries of an image are kept in a folder only: give features_dir")
        if cutter is None or len(images):
            check_encoding(
                images, batch_size, on_error, None if features_dir is not None and dtype == torch.int8 else dtype
            )
        if features_dir is None:
            options = {"folder": folder, "progress": progress}
            encoded = encode_images(model, processor, images, batch_size, num_workers, on_error, dtype, **options)
            skipped = set(encoded.skipped)
            paths = [path_of(image) for row, image in enumerate(images) if row not in skipped]
            return cls(model, processor, encoded.features, paths, (), folder, encoded)
        model.eval()
        place, state = GalleryFolder(features_dir), None
        settings = feature_settings(model, processor, "target", model.feature_shape, dtype)
        settings |= {} if cutter is None else {PEOPLE: dict(cutter.settings)}
        if place.exists() or is_store(features_dir):
            before = FeatureStore.open(features_dir).settings if is_store(features_dir) else place.settings()
            check_cut(place.path, before, settings)
            check_settings(place, before, settings if dtype is not None else in_precision_of(before, settings))
            if is_store(features_dir):
                convert_store(features_dir)
            state = place.read()
        else:
            check_new(place.path)
        inputs = describe_images(
            images,
            "gallery image",
            folder,
            known=None if state is None else known_files(state),
            skip=on_error == "skip",
            progress=progress and is_first_process(),
        )
        if state is None:
            GalleryFolder.create(place.path, settings, dtype_name(dtype or torch.float16), folder)
        options = (folder, batch_size, num_workers, on_error, progress)
        state = index_images(place, model, processor, images, inputs, *options, cutter)
        return cls.__new__(cls)._open(model, processor, state, place)

    @classmethod
    def load(
        cls,
        index: str | Path,
        model: Retriever,
        processor: RetrieverProcessor,
        folder: str | Path | None = None,
        check_images: bool = True,
    ) -> "Gallery":
        """Opens a gallery's folder, or a store of an earlier version; features stay on disk until they are used.

        Small files are compared with their checksums at once, large ones as they are used. Whoever made an index
        decides which files it names. Therefore a file is compared with what was noted of it when it is to be named, and
        not named where its contents are not those that were encoded, unless `folder` says where the images are: an
        index from elsewhere leads to no other file here. A warning counts those that have changed or are gone. A search
        ranks by their features all the same.

        Args:
            index: the folder given to `save`, or as `features_dir` to an encoding.
            folder: where the images are now, if the folder that was encoded has moved. (If both moved together, it is
                found.)
            check_images: whether to compare the images' files. It takes some 10 microseconds a file, and reads up to
                1 MiB of each whose times differ, as all do after copying. Without it results name whatever file the
                index does: for an index of your own.

        Raises:
            FileNotFoundError: there is no gallery in that folder.
            ValueError: the features come from another model, from other image processor settings, are incomplete or
                damaged, or do not fit the list of segments; or the list is of a newer version.
        """
        check_fit(model, processor)
        settings = feature_settings(model, processor, "target", model.feature_shape)
        place = None if is_store(index) else GalleryFolder(index)
        before = FeatureStore.open(index).settings if place is None else place.settings()
        check_settings(GalleryFolder(index), before, settings, frozenset({"dtype"}))
        try:
            state = open_store(index) if place is None else place.read()
        except FileNotFoundError:
            if place is not None or not GalleryFolder(index).exists():  # another process has just converted the store
                raise
            return cls.load(index, model, processor, folder, check_images)
        if state.skipped:
            logger.warning(
                "not in the index, since they could not be read: %s: %s. They are tried again when the folder is "
                "encoded again.",
                *(counted(len(state.skipped), "image"), some(state.skipped_names)),
            )
        folder = None if folder is None else Path(folder).absolute()
        return cls.__new__(cls)._open(model, processor, state, place, folder, check_images)

    def to(self, device: str | torch.device) -> "Gallery":
        """Moves the features to the device on which to score them, for example a GPU."""
        self._device = torch.device(device)
        self._hold(self._stored)
        return self


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


def _skipped(name: str, folder: Path | None) -> dict[str, str]:
    """An image that was left out, by its absolute path or another name."""
    return skipped_image(_describe(Path(name), folder)["path"] if Path(name).is_absolute() else None, name)


def _describe(path: Path | None, folder: Path | None) -> dict[str, Any]:
    try:
        return describe_image(path, "gallery image", folder, contents=path is not None)
    except (OSError, UnreadableImageError):  # features need no file
        return describe_absent(path, "gallery image", folder)
