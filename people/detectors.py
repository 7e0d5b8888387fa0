"""Detectors of people: those of transformers, by folder or Hub id, and OpenCV's, which needs no download.

    detector = load_detector()  # RT-DETR, which transformers fetches
    [people] = detector.find([open_image("beach.jpg")])

OpenCV's ("hog": histograms of oriented gradients and a linear classifier, Dalal and Triggs 2005) is weak. It knows
people who stand or walk, seen whole, from the front or behind, at least a tenth of the picture's size high. It misses
who sits, lies, is cut by the picture's edge or stands behind something, and takes things of a like outline for people;
benchmarks/results/people_found.md counts both. It is there to try things without a download, no more.
"""

import math
import textwrap
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from ..commands import default_device
from ..names import printable, some
from ..workers import num_cores

if TYPE_CHECKING:
    import torch

DEFAULT_DETECTOR = "PekingU/rtdetr_r50vd"
HOG = "hog"
PERSON = "person"  # how models trained on COCO call one

_SURE = 0.5  # from which score on a detector of transformers has found a person
_IMAGES_AT_ONCE = 8  # that a detector of transformers looks at

_HOG_SURE = 0.75  # distance from the classifier's border; at 0, its own bound, most of what it finds is nobody
_HOG_SIDE = 1024  # pixels: a larger picture is shrunk to it, which costs those who are small in it
_HOG_ENLARGED = 2.0  # at most; it knows nobody of fewer than some 100 pixels
_HOG_STEP, _HOG_SCALE = (8, 8), 1.05  # pixels between windows, and from one size of people to the next
_HOG_OVERLAP = 0.4  # of two boxes of one person, intersection over union
_HOG_ROOM = (0.17, 0.1)  # how much of a window, left and right, above and below, was no person when it learnt


class FoundPerson(NamedTuple):
    """A person whom a detector found.

    Args:
        box: left, top, right, bottom, in pixels of the upright image.
        score: how sure the detector is, from 0 to 1; scores of two detectors cannot be compared.
    """

    box: tuple[float, float, float, float]
    score: float


class Detector(ABC):
    """Finds people in images.

    Attributes:
        name: by which `load_detector` loads it again.
    """

    name: str

    @abstractmethod
    def find(self, images: Sequence[Image.Image]) -> list[list[FoundPerson]]:
        """The people in each image, upright and RGB as `open_image` gives it; what is found in one is up to it alone.

        Boxes lie within their image and have an area; they are in no order, and may overlap.
        """


def found_in(images: Sequence[Image.Image], detector: Detector) -> list[list[FoundPerson]]:
    """What a detector finds in images, looked at: a wrong box would be cut out, and encoded, without a word.

    Raises:
        ValueError: there is not one list for each image, or a box or score is none; the message names the detector.
    """
    found = detector.find(images)
    if len(found) != len(images):
        raise ValueError(
            f"the detector {printable(detector.name)} gave {len(found)} lists of people for {len(images)} images"
        )
    for image, people in zip(images, found, strict=True):
        for person in people:
            (left, top, right, bottom), score = person
            is_box = -1 <= left < right <= image.width + 1 and -1 <= top < bottom <= image.height + 1  # false for NaN
            if not (is_box and 0 <= score <= 1 + 1e-6):
                raise ValueError(
                    f"the detector {printable(detector.name)} found a person in the box {tuple(person.box)}, with the "
                    f"score {score}, in an image of {image.width} x {image.height} pixels: expected left < right and "
                    "top < bottom within the image, and a score from 0 to 1"
                )
    return found


def load_detector(name: str | Path = DEFAULT_DETECTOR, device: str | None = None) -> Detector:
    """A detector, ready for work.

    Args:
        name: "hog", or the folder or Hub id of a model that transformers' AutoModelForObjectDetection loads and that
            has a label "person": RT-DETR, DETR, YOLOS and others trained on COCO.
        device: where a model of transformers runs, such as "cuda:1"; None: a GPU, if there is one. "hog" has none.

    Raises:
        ValueError: there is no such model, it cannot be loaded whole, or it knows no people; the message says which.
        ImportError: OpenCV is missing, or is one without this detector; the message says what to install.
    """
    return _HogDetector() if name == HOG else _TransformersDetector(name, device)


def name_of(detector: str | Path) -> str:
    """How a gallery notes a detector: a folder by its absolute path."""
    return str(Path(detector).absolute()) if Path(detector).is_dir() else str(detector)


class _TransformersDetector(Detector):
    def __init__(self, name: str | Path, device: str | None):
        import torch
        from transformers import AutoImageProcessor, AutoModelForObjectDetection

        self.name = name_of(name)
        try:
            # By Pillow, whatever else is installed: so a photograph has the same people everywhere.
            self.processor = AutoImageProcessor.from_pretrained(self.name, backend="pil")
            model, info = AutoModelForObjectDetection.from_pretrained(self.name, output_loading_info=True)
        except MemoryError:
            raise
        except Exception as error:  # libraries raise nearly anything over files that are no model's
            reason = textwrap.shorten(f"{type(error).__name__}: {error}", 400, placeholder=" ...")
            raise ValueError(
                f"{printable(self.name)}: no detector can be loaded from it ({reason}). Give the folder or Hub id of a "
                f"model of transformers for object detection, or {HOG!r}, which needs no download and is weak"
            ) from error
        if lacking := sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}):
            raise ValueError(
                f"{printable(self.name)}: weights of the detector are missing and would be random numbers: "
                f"{some(lacking, 3)}. Fetch it again, or give another"
            )
        labels = model.config.id2label
        self.person = {number for number, label in labels.items() if str(label).lower() == PERSON}
        if not self.person:
            raise ValueError(
                f"{printable(self.name)}: among its labels there is no {PERSON!r} ({some([*map(str, labels.values())])}"
                "). Give a detector that was trained to find people"
            )
        self.device = torch.device(device or default_device())
        self.model = model.to(self.device).eval()

    def find(self, images: Sequence[Image.Image]) -> list[list[FoundPerson]]:
        found: list[list[FoundPerson]] = []
        for start in range(0, len(images), _IMAGES_AT_ONCE):
            found += self._find(images[start : start + _IMAGES_AT_ONCE])
        return found

    def _find(self, images: Sequence[Image.Image]) -> list[list[FoundPerson]]:
        import torch

        with ThreadPoolExecutor(
            num_cores()
        ) as threads:  # to prepare an image takes longer than a GPU takes to look at it
            prepared = list(threads.map(self._prepare, images))
        # Only images of one shape run together: padding, which some models see, would make neighbours count.
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, inputs in enumerate(prepared):
            alike[tuple(inputs["pixel_values"].shape)].append(number)
        found: list[list[FoundPerson]] = [[] for _ in images]
        for numbers in alike.values():
            batch = {name: torch.cat([prepared[number][name] for number in numbers]) for name in prepared[numbers[0]]}
            sizes = [images[number].size[::-1] for number in numbers]
            with torch.inference_mode():
                outputs = self.model(**{name: tensor.to(self.device) for name, tensor in batch.items()})
                results = self.processor.post_process_object_detection(outputs, _SURE, target_sizes=sizes)
            for number, result in zip(numbers, results, strict=True):
                found[number] = self._people(result, images[number].size)
        return found

    def _prepare(self, image: Image.Image) -> "Mapping[str, torch.Tensor]":
        return self.processor(images=[image], return_tensors="pt")

    def _people(self, result: "Mapping[str, torch.Tensor]", size: tuple[int, int]) -> list[FoundPerson]:
        columns = (result[name].tolist() for name in ("labels", "boxes", "scores"))
        people = [(box, score) for label, box, score in zip(*columns, strict=True) if label in self.person]
        return _within(people, size)


class _HogDetector(Detector):
    name = HOG

    def __init__(self):
        import cv2

        if not hasattr(cv2, "HOGDescriptor"):
            raise ImportError(
                f"OpenCV {cv2.__version__} has no detector {HOG!r}, which left it with version 5: "
                "pip install 'opencv-python-headless<5'"
            )
        self.cv2, self.hog = cv2, cv2.HOGDescriptor()
        self.hog.setSVMDetector(cv2.HOGDescriptor_getDefaultPeopleDetector())

    def find(self, images: Sequence[Image.Image]) -> list[list[FoundPerson]]:
        return [self._find(image) for image in images]

    def _find(self, image: Image.Image) -> list[FoundPerson]:
        width, height = image.size
        scale = min(_HOG_ENLARGED, _HOG_SIDE / max(width, height))
        seen = image.resize((max(1, round(scale * width)), max(1, round(scale * height))), Image.Resampling.BILINEAR)
        if seen.width < self.hog.winSize[0] or seen.height < self.hog.winSize[1]:
            return []  # OpenCV would look at windows that lie beyond the picture
        # Grouping by OpenCV joins neighbours; of two boxes of one person the surer is better.
        windows, scores = self.hog.detectMultiScale(
            np.asarray(seen)[..., ::-1], _HOG_SURE, _HOG_STEP, scale=_HOG_SCALE, groupThreshold=0
        )
        scores = np.asarray(scores, dtype=np.float32).reshape(-1)
        chosen = self.cv2.dnn.NMSBoxes(list(windows), scores.tolist(), 0.0, _HOG_OVERLAP)
        people = []
        for number in np.asarray(chosen, dtype=int).reshape(-1):
            x, y, across, down = (float(length) for length in windows[number])
            beside, above = _HOG_ROOM[0] * across, _HOG_ROOM[1] * down
            box = (x + beside, y + above, x + across - beside, y + down - above)
            people.append(([side / scale for side in box], score_of(scores[number])))
        return _within(people, image.size)


def score_of(distance: float) -> float:
    """A distance from the border of OpenCV's classifier as a score from 0 to 1; no probability."""
    return 1 / (1 + math.exp(-distance))


def _within(people: Sequence[tuple[Sequence[float], float]], size: tuple[int, int]) -> list[FoundPerson]:
    """Boxes and scores as people, cut to an image's size, without boxes that have no area there."""
    width, height = size
    found = []
    for (left, top, right, bottom), score in people:
        box = max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom)
        if box[0] < box[2] and box[1] < box[3]:
            found.append(FoundPerson(box, score))
    return found
