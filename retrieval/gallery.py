"""A gallery of images, encoded once and searched by image and caption, by caption alone, or by image alone."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from ..image_processing_fafa import UnreadableImageError, open_image
from ..modeling_fafa import FafaModel
from ..processing_fafa import FafaProcessor

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
MANIFEST, FEATURES = "manifest.json", "features.safetensors"
FORMAT_VERSION = 1
SAMPLES_PER_TENSOR = 256


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


def find_images(folder: str | Path) -> list[Path]:
    """All image files in a folder and the folders within it, told by their suffix and sorted by name.

    Raises:
        NotADirectoryError: there is no such folder.
        ValueError: it holds no image file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder; give the one that holds the gallery's images")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise ValueError(
            f"no image among the {len(files)} files in {folder}; expected {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    logger.info("%s: %d images, %d other files left aside", folder, len(images), len(files) - len(images))
    return images


def model_fingerprint(model: FafaModel) -> str:
    """A short name for a model's weights: a hash over names, shapes and 256 values of each tensor.

    Values are rounded to bfloat16, so that a gallery encoded in bf16 on a GPU is searched by the same model in fp32.
    Any training beyond a few steps changes it; it guards against mistakes, not against forgery.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // SAMPLES_PER_TENSOR)][:SAMPLES_PER_TENSOR]
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(sample.to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


class Gallery:
    """Target features of many images, with the model that made them.

    Example:
        gallery = Gallery.from_folder(model, processor, "photos/")
        gallery.save("photos.index")
        gallery = Gallery.load("photos.index", model, processor)
        for result in gallery.search(image="me.jpg", caption="in a red coat", top=5):
            print(result.rank, f"{result.score:.3f}", result.path)

    Attributes:
        fingerprint: of the model, see `model_fingerprint`.
        features: `(num_images, num_query_tokens, projection_dim)`, unit length; a memory map after `load`.
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
    ):
        if features.ndim != 3 or len(features) != len(paths):
            raise ValueError(
                f"expected features (num_images, num_query_tokens, projection_dim) for {len(paths)} images, got "
                f"{tuple(features.shape)}"
            )
        self.model, self.processor = model.eval(), processor
        # Taken now: the model may be trained on before the gallery is saved.
        self.fingerprint = model_fingerprint(model)
        self.features, self.paths, self.skipped, self.folder = features, list(paths), list(skipped), folder

    def __len__(self) -> int:
        return len(self.features)

    @classmethod
    def from_folder(cls, model: FafaModel, processor: FafaProcessor, folder: str | Path, **options) -> "Gallery":
        """Encodes every image in a folder and the folders within it; see `find_images` and `from_images`."""
        folder = Path(folder).absolute()
        gallery = cls.from_images(model, processor, find_images(folder), **options)
        gallery.folder = folder
        return gallery

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

        Raises:
            UnreadableImageError: an image cannot be decoded.
            ValueError: there is nothing to encode, or the model's features are not finite.
        """
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is {on_error!r}, expected 'raise' or 'skip'")
        if len(images) == 0:
            raise ValueError("no images to encode; a gallery needs at least one")
        model.eval()
        features, paths, skipped = None, [], []
        for start in tqdm(range(0, len(images), batch_size), "encoding gallery", unit="batch", disable=not progress):
            batch = []
            for index in range(start, min(start + batch_size, len(images))):
                source = images[index]
                path = _path_of(source)
                try:
                    image = open_image(source, name=f"gallery image {index}")
                except UnreadableImageError:
                    if on_error == "raise":
                        raise
                    skipped.append(str(path or f"image {index}"))
                    continue
                batch.append(processor(images=image, return_tensors="pt")["pixel_values"])
                paths.append(path)
            if batch:
                encoded = _encode(model, torch.cat(batch), first=paths[-len(batch)]).to("cpu", dtype)
                if features is None:
                    features = encoded.new_empty(len(images), *encoded.shape[1:])
                features[len(paths) - len(batch) : len(paths)] = encoded
        if skipped:
            logger.warning("%d of %d images unreadable and skipped: %s", len(skipped), len(images), _some(skipped))
        if features is None:
            raise ValueError(f"none of the {len(images)} images can be read: {_some(skipped)}")
        return cls(model, processor, features[: len(paths)], paths, skipped)

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

    def search(self, image: Any = None, caption: str | None = None, top: int | None = 10) -> list[SearchResult]:
        """The images most similar to a query, best first; equal scores keep the gallery's order.

        Args:
            image: the reference image; see `scores`.
            caption: the relative caption; see `scores`.
            top: how many results; None ranks the whole gallery.
        """
        if top is not None and top < 1:
            raise ValueError(f"top is {top}, expected a number from 1, or None for the whole gallery")
        scores = self.scores(image, caption)
        order = scores.argsort(descending=True, stable=True)[:top].tolist()
        return [
            SearchResult(rank, scores[index].item(), self.paths[index], index) for rank, index in enumerate(order, 1)
        ]

    def save(self, folder: str | Path) -> None:
        """Writes the features and a manifest naming images, model and processor settings, for `load`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # The manifest goes first and comes last: an interrupted save leaves no index that looks whole.
        (folder / MANIFEST).unlink(missing_ok=True)
        # Never written in place: this gallery may itself be a memory map of the old file.
        save_file({"features": self.features.cpu().contiguous()}, folder / f"{FEATURES}.part")
        (folder / f"{FEATURES}.part").replace(folder / FEATURES)
        manifest = {
            "format": "fafa gallery",
            "version": FORMAT_VERSION,
            "model": {
                "name": self.model.config._name_or_path,
                "revision": getattr(self.model.config, "_commit_hash", None),
                "fingerprint": self.fingerprint,
            },
            "image_processor": _settings(self.processor),
            "features": {"shape": list(self.features.shape), "dtype": str(self.features.dtype).removeprefix("torch.")},
            "folder": None if self.folder is None else str(self.folder),
            "paths": [self._stored_path(path) for path in self.paths],
            "skipped": self.skipped,
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False)
        (folder / MANIFEST).write_text(text, encoding="utf-8")

    def _stored_path(self, path: Path | None) -> str | None:
        if path is None:
            return None
        return path.absolute().relative_to(self.folder).as_posix() if self.folder else str(path.absolute())

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
            index: the folder given to `save`.
            model: the model that made the features.
            processor: its processor.
            folder: where the images are now, if the folder that was encoded has moved.

        Raises:
            FileNotFoundError: there is no index in that folder.
            ValueError: the features come from another model, from other image processor settings, or do not fit the
                manifest.
        """
        index = Path(index)
        manifest = _read_manifest(index / MANIFEST)
        fingerprint = model_fingerprint(model)
        if manifest["model"]["fingerprint"] != fingerprint:
            raise ValueError(
                f"{index} was made by {manifest['model']['name']!r} ({manifest['model']['fingerprint']}), this is "
                f"{model.config._name_or_path!r} ({fingerprint}): their features cannot be compared. Load that model, "
                "or encode the gallery again with this one."
            )
        stored, current = manifest["image_processor"], _settings(processor)
        changed = [name for name in sorted({*stored, *current}) if stored.get(name) != current.get(name)]
        if changed:
            differences = ", ".join(f"{name} {stored.get(name)} (now {current.get(name)})" for name in changed)
            raise ValueError(
                f"{index} was made with other image processor settings: {differences}. Use the processor saved with "
                "the model, or encode the gallery again."
            )
        features = _read_features(index / FEATURES)
        if list(features.shape) != manifest["features"]["shape"]:
            raise ValueError(
                f"{index / FEATURES} holds features {tuple(features.shape)}, its {MANIFEST} says "
                f"{tuple(manifest['features']['shape'])}; encode the gallery again"
            )
        folder = folder or manifest["folder"]
        paths = [path and Path(folder or "", path) for path in manifest["paths"]]
        return cls(model, processor, features, paths, manifest["skipped"], folder and Path(folder).absolute())


def _encode(model: FafaModel, pixel_values: torch.Tensor, first: Path | None) -> torch.Tensor:
    with torch.no_grad():
        features = model.get_target_features(pixel_values=pixel_values.to(model.device))
    if not features.isfinite().all():
        raise ValueError(
            f"the features of a batch (from {first or 'an image without a file'} on) hold NaN or infinity: the model's "
            "weights are damaged, or its precision too low (use bf16 rather than fp16)"
        )
    return features


def _path_of(image: Any) -> Path | None:
    path = image.get("path") if isinstance(image, Mapping) else image
    return Path(path) if isinstance(path, (str, Path)) else None


def _some(names: Iterable[str], shown: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _settings(processor: FafaProcessor) -> dict[str, Any]:
    """The image processor's settings as JSON gives them back (no tuples)."""
    return json.loads(processor.image_processor.to_json_string())


def _read_features(path: Path) -> torch.Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("features")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); encode the gallery again") from error


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} holds no gallery index (no {path.name}); make one with Gallery.save")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); encode the gallery again") from error
    if manifest.get("format") != "fafa gallery" or manifest.get("version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} is no gallery index of version {FORMAT_VERSION} (format {manifest.get('format')!r}, version "
            f"{manifest.get('version')!r}); encode the gallery again"
        )
    return manifest
