"""Finds people in pictures with an object detector of transformers, and the gate that counts them."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from PIL import Image

from ..components import Gate, Record, SynthesisError
from ..models.batches import Batches
from ..models.pretrained import find_device, load_pretrained
from ..settings import BatchSize, Free, ModelName, Settings, TrueShare
from .thresholds import UNIT, UPWARDS, Scale

if TYPE_CHECKING:
    import torch

_GREY = (114, 114, 114)  # of the canvas around a picture: neither dark nor light
_EDGE = 0.01  # a box that comes this near to an edge of the picture reaches it; share of the picture's side
SIDES = ("left", "right")


class Box(NamedTuple):
    """Where a person is, in pixels of the picture, and how sure the detector is, from 0 to 1."""

    left: float
    top: float
    right: float
    bottom: float
    score: float

    @property
    def area(self) -> float:
        """Pixels."""
        return (self.right - self.left) * (self.bottom - self.top)


class PersonDetector(Settings):
    """Settings of a detector that finds people.

    Attributes:
        model: Folder or Hub id of an object-detection model of transformers: RT-DETR, YOLOS, DETR and others.
        threshold: How sure it must be, above 0 and below 1.
        label: What the model calls a person; models trained on COCO say "person".
        revision: Of a model on the Hub.
        batch_size: Pictures at a time.
        device: Such as "cuda:1"; by default a GPU where there is one.
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
    """A detector at work.

    Attributes:
        about: Name and revision of the model, for a manifest.
    """

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
        """The people in each picture, largest first. What is found in one does not depend on the others."""
        return list(self.batches.map(self._find, images))

    def _find(self, images: list[Image.Image]) -> list[list[Box]]:
        import torch

        # Preparing a picture takes a core longer than looking at it takes a GPU.
        with ThreadPoolExecutor() as threads:
            prepared = list(threads.map(self._prepare, images))
        inputs = {name: torch.cat([one[name] for one in prepared]).to(self.device) for name in prepared[0]}
        sizes = [(max(image.size), max(image.size)) for image in images]
        with torch.inference_mode():
            outputs = self.model(**inputs)
            found = self.processor.post_process_object_detection(outputs, self.threshold, target_sizes=sizes)
        return [self._boxes(entry, image.size) for entry, image in zip(found, images, strict=True)]

    def _prepare(self, image: Image.Image) -> "Mapping[str, torch.Tensor]":
        return self.processor(images=[_on_square(image)], return_tensors="pt")

    def _boxes(self, found: "dict[str, torch.Tensor]", size: tuple[int, int]) -> list[Box]:
        boxes = []
        for label, score, corners in zip(
            found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist(), strict=True
        ):
            left, right = (min(max(x, 0.0), size[0]) for x in corners[::2])
            top, bottom = (min(max(y, 0.0), size[1]) for y in corners[1::2])
            if label in self.person and left < right and top < bottom:
                boxes.append(Box(left, top, right, bottom, score))
        return sorted(boxes, key=lambda box: -box.area)


def _on_square(image: Image.Image) -> Image.Image:
    """The picture in the upper left corner of a grey square: squares of a batch have one shape once resized."""
    square = Image.new("RGB", (max(image.size), max(image.size)), _GREY)
    square.paste(image, (0, 0))
    return square


class PeopleGate(Settings):
    """Settings of the gate that counts people.

    Its scores, of each half (`_left`, `_right`): `people`, how many there are; and where there are any, of the largest:
    `share`, how much of the picture the person's box takes; `edges`, how many edges of the picture it reaches, since a
    person who reaches the upper edge has probably lost the head.

    Attributes:
        detector: What finds people.
    """

    kind: Literal["people"] = "people"
    names: ClassVar[tuple[str, ...]] = tuple(
        f"{score}_{side}" for score in ("people", "share", "edges") for side in SIDES
    )
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
        self, records: Sequence[Record], pictures: Sequence[tuple[Image.Image, Image.Image]]
    ) -> list[dict[str, float]]:
        halves = [half for pair in pictures for half in pair]
        measured = [_measure(boxes, half.size) for boxes, half in zip(self.finder.find(halves), halves, strict=True)]
        return [
            {f"{name}_{side}": value for side, half in zip(SIDES, halves, strict=True) for name, value in half.items()}
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
