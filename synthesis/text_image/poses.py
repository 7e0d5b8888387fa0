"""Keeps the images that show one person from head to knees, and cuts that person out."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from ..components import Part
from ..filtering.detectors import PersonDetector
from ..images import open_rgb
from ..settings import BatchSize, Free, ModelName, Settings, Share, TrueShare

# Reasons, in the order in which they are looked for.
NO_PERSON = "no person"
SEVERAL_PEOPLE = "several people"
NO_HEAD = "head not visible"
NO_UPPER_BODY = "upper body not visible"
NO_KNEES = "knees and ankles not visible"

# Keypoints of COCO's 17: nose, eyes, ears; shoulders, elbows, wrists; knees, ankles. Hips (11, 12) decide nothing.
_PARTS = {NO_HEAD: range(5), NO_UPPER_BODY: range(5, 11), NO_KNEES: range(13, 17)}
NUM_KEYPOINTS = 17


class FoundPerson(NamedTuple):
    """What a pose filter found in an image.

    Attributes:
        id: The id of the image.
        image: The person, cut out; None where the image is not kept.
        fault: Why it is not kept; None if it is.
        facts: Further fields for the item's record: `box` of the cut (left, top, right, bottom in pixels of the image),
            and what else the filter measured.
    """

    id: str
    image: Image.Image | None
    fault: str | None = None
    facts: Mapping[str, Any] = {}


class PoseFilter(Part, ABC):
    """Finds the one person in an image."""

    @abstractmethod
    def find(self, pictures: Iterable[tuple[str, Path]]) -> Iterator[FoundPerson]:
        """What is in each image, given as its id and file; in order. A result depends on its own image alone.

        Raises:
            SynthesisError: a file cannot be read, or nothing can be found at all.
        """


def judge_pose(keypoints: np.ndarray, scores: np.ndarray, size: tuple[int, int], threshold: float = 0.3) -> str | None:
    """Why a person is not seen well enough: head, upper body, or knees and ankles without one visible keypoint.

    Args:
        keypoints: (17, 2) x and y in pixels, in COCO's order.
        scores: (17,) how sure the pose model is of each.
        size: Width and height of the image; a keypoint outside is not visible.
        threshold: A keypoint counts as visible from this score on.

    Returns:
        The first reason that holds; None if the person is seen from head to knees.
    """
    inside = ((keypoints >= 0) & (keypoints < np.asarray(size))).all(axis=1)
    visible = inside & (scores >= threshold)
    return next((reason for reason, part in _PARTS.items() if not visible[list(part)].any()), None)


def widen_box(
    box: tuple[float, float, float, float], margin: float, size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """A box (left, top, right, bottom) with a margin on every side, a share of its height, cut to an image's size."""
    left, top, right, bottom = box
    room = margin * (bottom - top)
    width, height = size
    return (
        max(0, int(left - room)),
        max(0, int(top - room)),
        min(width, int(np.ceil(right + room))),
        min(height, int(np.ceil(bottom + room))),
    )


class KeypointFilter(Settings):
    """Settings of the pose filter for photographs: a detector finds people, a pose model their keypoints.

    An image is kept if the detector finds exactly one person, and the pose model at least one keypoint of the head, one
    of the upper body, and one of knees and ankles.

    Attributes:
        detector: What finds people.
        model: Folder or Hub id of a ViTPose of transformers, which knows COCO's 17 keypoints.
        revision: Revision of the model on the Hub.
        threshold: A keypoint counts as visible from this score on.
        margin: Margin around the person who is cut out, as a share of the height of the detector's box.
        batch_size: People at a time.
        device: Such as "cuda:1"; by default a GPU where there is one.
    """

    kind: Literal["keypoints"] = "keypoints"

    detector: PersonDetector
    model: ModelName = "usyd-community/vitpose-base-simple"
    revision: str | None = None
    threshold: TrueShare = 0.3
    margin: Share = 0.05
    batch_size: BatchSize = 16
    device: Free[str | None] = None

    def load(self) -> PoseFilter:
        """The filter; raises SynthesisError if a model cannot be loaded, ValueError if it has other keypoints."""
        return _KeypointFilter(self)


class _KeypointFilter(PoseFilter):
    def __init__(self, settings: KeypointFilter):
        from transformers import AutoImageProcessor, VitPoseForPoseEstimation

        from ..models.batches import Batches
        from ..models.pretrained import find_device, load_pretrained

        super().__init__()
        self.settings = settings
        self.finder, self.device = settings.detector.load(), find_device(settings.device)
        self.processor = load_pretrained(AutoImageProcessor, settings.model, settings.revision, backend="pil")
        self.model = load_pretrained(VitPoseForPoseEstimation, settings.model, settings.revision).to(self.device).eval()
        if self.model.config.num_labels != NUM_KEYPOINTS:
            raise ValueError(
                f"{settings.model}: expected COCO's {NUM_KEYPOINTS} keypoints, found {self.model.config.num_labels}"
            )
        self.batches = Batches(settings.batch_size)
        commit = getattr(self.model.config, "_commit_hash", None)
        self.about = {"model": settings.model, "revision": commit, "detector": self.finder.about}

    def find(self, pictures: Iterable[tuple[str, Path]]) -> Iterator[FoundPerson]:
        pictures = iter(pictures)
        while batch := list(islice(pictures, self.settings.batch_size)):
            images = [open_rgb(file) for _, file in batch]
            people = self.finder.find(images)
            alone = [(image, boxes[0][:4]) for image, boxes in zip(images, people, strict=True) if len(boxes) == 1]
            poses = self.batches.map(self._estimate, alone)
            for (name, _), image, boxes in zip(batch, images, people, strict=True):
                facts: dict[str, Any] = {"people": len(boxes)}
                if len(boxes) != 1:
                    yield FoundPerson(name, None, SEVERAL_PEOPLE if boxes else NO_PERSON, facts)
                    continue
                keypoints, scores = next(poses)
                facts["keypoints"] = np.column_stack([keypoints, scores]).astype(float).round(2).tolist()
                if fault := judge_pose(keypoints, scores, image.size, self.settings.threshold):
                    yield FoundPerson(name, None, fault, facts)
                else:
                    box = widen_box(boxes[0][:4], self.settings.margin, image.size)
                    yield FoundPerson(name, image.crop(box), facts={"box": list(box), **facts})

    def _estimate(self, people: list[tuple[Image.Image, tuple[float, ...]]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Keypoints (17, 2) and their scores (17,) of the person in the box of each image."""
        import torch
        from transformers.models.vitpose.modeling_vitpose import VitPoseEstimatorOutput

        images = [image for image, _ in people]
        boxes = [[[left, top, right - left, bottom - top]] for _, (left, top, right, bottom) in people]
        inputs = self.processor(images, boxes=boxes, return_tensors="pt").to(self.device)
        if self.model.config.backbone_config.num_experts > 1:  # ViTPose++ knows several data sets; COCO is the first
            inputs["dataset_index"] = torch.zeros(len(people), dtype=torch.long, device=self.device)
        with torch.inference_mode():
            heatmaps = self.model(**inputs).heatmaps
        found = []
        for row, box in zip(heatmaps, boxes, strict=True):
            # One at a time: where no keypoint shows, transformers (5.23) takes one from the neighbour's heatmap.
            ((pose,),) = self.processor.post_process_pose_estimation(VitPoseEstimatorOutput(heatmaps=row[None]), [box])
            found.append((pose["keypoints"].numpy(), pose["scores"].numpy()))
        return found
