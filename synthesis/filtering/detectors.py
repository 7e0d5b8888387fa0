"""Finds people in images with an object detector of transformers, and the gate that counts them."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from PIL import Image, ImageOps

from ..components import Gate, Record, SynthesisError
from ..models.batches import Batches
from ..models.pretrained import find_device, load_pretrained
from ..settings import BatchSize, Free, ModelName, Settings, TrueShare
from .thresholds import UNIT, UPWARDS, Scale

if TYPE_CHECKING:
    import torch

_GREY = (114, 114, 114)  # of the canvas around an image: neither dark nor light
_EDGE = 0.01  # a box that comes this near to an edge of the image reaches it; share of the image's side
_SIDES, _MEASURES = ("left", "right"), ("people", "share", "edges")


class Box(NamedTuple):
    """Where a person is, in pixels of the image, and how sure the detector is, from 0 to 1."""

    left: float
    top: float
    right: float
    bottom: float
    score: float

    @property
    def area(self) -> float:
        """The box's area in pixels."""
        return (self.right - self.left) * (self.bottom - self.top)


class PersonDetector(Settings):
    """Settings of a detector that finds people.

    Attributes:
        model: Folder or Hub id of an object-detection model of transformers: RT-DETR, YOLOS, DETR and others.
        threshold: How sure it must be, above 0 and below 1.
        label: What the model calls a person; models trained on COCO say "person".
        revision: Branch, tag or commit of the model on the Hub.
        batch_size: Images at a time.
        device: Such as "cuda:1"; by default a GPU if there is one.
    """

    model: ModelName
    threshold: TrueShare = 0.6
    label: str = "person"
    revision: str | None = None
    batch_size: BatchSize = 16
    device: Free[str | None] = None

    def load(self) -> "PeopleFinder":
        """The detector, ready for work.

        Raises:
            SynthesisError: it cannot be loaded, or knows no such label.
        """
        return PeopleFinder(self)


class PeopleFinder:
    """A detector at work; `about` names the model and its revision, for a manifest."""

    def __init__(self, settings: PersonDetector):
        from transformers import AutoImageProcessor, AutoModelForObjectDetection

        self.device = find_device(settings.device)
        self.threshold = settings.threshold
        self.processor = load_pretrained(AutoImageProcessor, settings.model, settings.revision, backend="pil")
        model = load_pretrained(AutoModelForObjectDetection, settings.model, settings.revision)
        labels = model.config.id2label
        self.person = {number for number, name in labels.items() if name == settings.label}
        if not self.person:
            known = ", ".join(list(labels.values())[:8])
            raise SynthesisError(f"{settings.model}: it knows no label {settings.label!r}, but {known}; set `label`")
        self.model = model.to(self.device).eval()
        self.batches = Batches(settings.batch_size)
        self.about = {"model": settings.model, "revision": getattr(model.config, "_commit_hash", None)}

    def find(self, images: Iterable[Image.Image]) -> list[list[Box]]:
        """The people in each image, largest first. What is found in one does not depend on the others."""
        return list(self.batches.map(self._find, images))

    def _find(self, images: list[Image.Image]) -> list[list[Box]]:
        import torch

        # Preparing an image takes a core longer than looking at it takes a GPU.
        with ThreadPoolExecutor() as threads:
            prepared = list(threads.map(self._prepare, images))
        inputs = {name: torch.cat([one[name] for one in prepared]).to(self.device) for name in prepared[0]}
        sizes = [(max(image.size), max(image.size)) for image in images]
        with torch.inference_mode():
            outputs = self.model(**inputs)
            found = self.processor.post_process_object_detection(outputs, self.threshold, target_sizes=sizes)
        return [self._boxes(entry, image.size) for entry, image in zip(found, images, strict=True)]

    def _prepare(self, image: Image.Image) -> "Mapping[str, torch.Tensor]":
        # On a grey square, in its upper left corner: squares of a batch have one shape once resized.
        square = ImageOps.pad(image, (max(image.size),) * 2, color=_GREY, centering=(0, 0))
        return self.processor(images=[square], return_tensors="pt")

    def _boxes(self, found: "dict[str, torch.Tensor]", size: tuple[int, int]) -> list[Box]:
        boxes = []
        columns = (found[name].tolist() for name in ("labels", "scores", "boxes"))
        for label, score, corners in zip(*columns, strict=True):
            left, right = (min(max(x, 0.0), size[0]) for x in corners[::2])
            top, bottom = (min(max(y, 0.0), size[1]) for y in corners[1::2])
            if label in self.person and left < right and top < bottom:
                boxes.append(Box(left, top, right, bottom, score))
        return sorted(boxes, key=lambda box: -box.area)


class PeopleGate(Settings):
    """Settings of the gate that counts people.

    Its scores for each half (`_left`, `_right`) are `people`, how many there are, and for the largest person, if any:
    `share`, how much of the image the person's box takes; `edges`, how many edges of the image it reaches, since a
    person who reaches the upper edge has probably lost the head.

    Attributes:
        detector: What finds people.
    """

    kind: Literal["people"] = "people"
    names: ClassVar[tuple[str, ...]] = tuple(f"{name}_{side}" for name in _MEASURES for side in _SIDES)
    scales: ClassVar[tuple[Scale, ...]] = (UPWARDS, UPWARDS, UNIT, UNIT, (0.0, 4.0), (0.0, 4.0))

    detector: PersonDetector

    def load(self) -> Gate:
        """The gate; see `PersonDetector.load`."""
        return _PeopleGate(self.detector.load())


class _PeopleGate(Gate):
    names = PeopleGate.names

    def __init__(self, finder: PeopleFinder):
        super().__init__()
        self.finder = finder
        self.about = finder.about

    def score(
        self, records: Sequence[Record], images: Sequence[tuple[Image.Image, Image.Image]]
    ) -> list[dict[str, float]]:
        halves = [half for pair in images for half in pair]
        measured = [_measure(boxes, half.size) for boxes, half in zip(self.finder.find(halves), halves, strict=True)]
        return [
            {f"{name}_{side}": value for side, half in zip(_SIDES, halves, strict=True) for name, value in half.items()}
            for halves in zip(measured[::2], measured[1::2], strict=True)
        ]


def _measure(boxes: list[Box], size: tuple[int, int]) -> dict[str, float]:
    scores: dict[str, float] = {"people": len(boxes)}
    if boxes:
        width, height = size
        left, top, right, bottom, _ = boxes[0]
        near = (left / width, top / height, 1 - right / width, 1 - bottom / height)
        scores["share"] = round(boxes[0].area / (width * height), 4)
        scores["edges"] = sum(distance <= _EDGE for distance in near)
    return scores
