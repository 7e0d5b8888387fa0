"""Who goes through a film: people found in its frames and followed from one to the next, with the best crops of each.

supervision's ByteTrack (Zhang et al. 2022) does the following: it joins boxes by where a person who goes on as before
would be. It knows places, not looks. So a track ends where the picture changes at once, since in another shot another
person may stand where one stood before; whoever comes back gets a new track, and `clusters` tell that it is the same
person.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..film_reading import Frame
from .crops import MARGIN, Box, choose_people
from .detectors import Detector, FoundPerson

CROPS = 3  # of each track
LOST_AFTER = 1.5  # seconds without a sighting after which a track ends

_FRAMES_AT_ONCE, _PIXELS_AT_ONCE = 8, 1 << 25  # that the detector gets
_CUT = 0.5, 25.0  # share of the pixels with colours that the frame before lacked; grey levels that a place changed by
_COLOURS = 8  # steps of red, of green and of blue that are told apart for it
_HIDDEN = 0.25  # share of a box that another covers, from which on a crop shows two people
_SHARPNESS_AT = 128  # pixels: the height at which crops are compared


class Sighting(NamedTuple):
    """A person at one moment.

    Args:
        time: seconds from the film's beginning.
        box: to crop, see `choose_people`; score: the detector's.
        image: the crop.
        quality: whether the person is seen alone and whole, and how sharp the crop is: the larger the better.
    """

    time: float
    box: Box
    score: float
    image: Image.Image
    quality: tuple[bool, float]


@dataclass
class Track:
    """One person, followed through a film.

    Args:
        number: of the track.
        first, last: when it was seen, in seconds from the film's beginning.
        num_sightings: in how many frames.
        crops: the best sightings, in order of time.
    """

    number: int
    first: float
    last: float
    num_sightings: int = 0
    crops: list[Sighting] = field(default_factory=list)


def follow_people(
    frames: Iterable[Frame],
    detector: Detector,
    rate: float,
    margin: float = MARGIN,
    num_crops: int = CROPS,
    first_number: int = 1,
) -> Iterator[Track]:
    """The tracks of people in frames, as they end; all of the film's length is never in memory.

    Args:
        frames: in order of time, as `Film.frames` gives them, `rate` a second or fewer.
        margin: around each person, see `choose_people`.
        num_crops: how many crops of each track, the sharpest, spread over its time.
        first_number: of the first track.

    Raises:
        ModuleNotFoundError: supervision is missing.
    """
    following = _Following(rate, num_crops, first_number)
    before = None
    for frame, found in _with_people(frames, detector, margin):
        if before is not None and (frame.time - before.time > LOST_AFTER or is_cut(before.image, frame.image)):
            yield from following.end()
        yield from following.see(frame, found)
        before = frame
    yield from following.end()


def is_cut(before: Image.Image, after: Image.Image) -> bool:
    """Whether a frame begins another shot: most of it has colours that were not there, and not just another light."""
    first, second = (np.asarray(image.resize((64, 64), Image.Resampling.BOX), np.int64) for image in (before, after))
    if np.abs(first - second).mean() < _CUT[1]:
        return False
    return bool(np.minimum(_colours(first), _colours(second)).sum() < (1 - _CUT[0]) * first[..., 0].size)


def sharpness_of(image: Image.Image) -> float:
    """How sharp a crop is: the variance of its Laplacian at a common height, so that a small one is not sharp."""
    from scipy.ndimage import laplace

    width = max(1, round(image.width * _SHARPNESS_AT / image.height))
    grey = image.convert("L").resize((width, _SHARPNESS_AT), Image.Resampling.BILINEAR)
    return float(laplace(np.asarray(grey, dtype=np.float32)).var())


class _Following:
    """The open tracks of one shot after another."""

    def __init__(self, rate: float, num_crops: int, first_number: int):
        self.num_crops, self.next_number = num_crops, first_number
        self.lost_after = max(1, round(LOST_AFTER * rate))  # frames
        self._begin()

    def _begin(self) -> None:
        import supervision

        with warnings.catch_warnings():  # it says that it will move to another package, which needs a screen's OpenCV
            warnings.simplefilter("ignore")
            self.tracker = supervision.ByteTrack(lost_track_buffer=self.lost_after, frame_rate=30)
        self.detections: Any = supervision.Detections
        self.open: dict[int, tuple[Track, int]] = {}  # the tracker's number -> track, and the step of its last sighting
        self.step = 0

    def see(self, frame: Frame, found: Sequence[FoundPerson]) -> Iterator[Track]:
        """Goes on by one frame; returns the tracks that are over."""
        self.step += 1
        boxes = np.array([person.box for person in found], dtype=np.float32).reshape(-1, 4)
        scores = np.array([min(person.score, 1.0) for person in found], dtype=np.float32)
        given = self.detections(xyxy=boxes, confidence=scores, class_id=np.arange(len(found)))
        tracked = self.tracker.update_with_detections(given)
        for place, number in zip(np.asarray(tracked.class_id).tolist(), tracked.tracker_id.tolist(), strict=True):
            if number not in self.open:
                self.open[number] = Track(self.next_number, frame.time, frame.time), self.step
                self.next_number += 1
            track, _ = self.open[number]
            self.open[number] = track, self.step
            track.last, track.num_sightings = frame.time, track.num_sightings + 1
            track.crops = thinned([*track.crops, _sighting(frame, found, place)], 2 * self.num_crops)
        for number in [number for number, (_, seen) in self.open.items() if self.step - seen > self.lost_after]:
            yield self._over(self.open.pop(number)[0])

    def end(self) -> Iterator[Track]:
        """All tracks are over."""
        for track, _ in self.open.values():
            yield self._over(track)
        self._begin()

    def _over(self, track: Track) -> Track:
        track.crops = thinned(track.crops, self.num_crops)
        return track


def thinned(sightings: Sequence[Sighting], number: int) -> list[Sighting]:
    """A few of a track's sightings, good ones that are spread over time: of the two nearest, the worse one goes."""
    kept = list(sightings)
    while len(kept) > number:
        place = min(range(len(kept) - 1), key=lambda place: kept[place + 1].time - kept[place].time, default=0)
        is_first_worse = len(kept) > 1 and kept[place].quality < kept[place + 1].quality
        del kept[place if is_first_worse else place + 1]
    return kept


def _with_people(
    frames: Iterable[Frame], detector: Detector, margin: float
) -> Iterator[tuple[Frame, list[FoundPerson]]]:
    """Frames and the people in each; the detector looks at a few at a time."""
    frames = iter(frames)
    while (first := next(frames, None)) is not None:
        more = min(_FRAMES_AT_ONCE, _PIXELS_AT_ONCE // (first.image.width * first.image.height)) - 1
        some = list(chain([first], islice(frames, max(0, more))))
        for frame, found in zip(some, detector.find([frame.image for frame in some]), strict=True):
            yield frame, choose_people(found, frame.image.size, margin).found


def _sighting(frame: Frame, found: Sequence[FoundPerson], place: int) -> Sighting:
    box, score = found[place]
    box = tuple(map(round, box))
    crop = frame.image.crop(box)
    others = (other.box for number, other in enumerate(found) if number != place)
    is_whole = box[0] > 0 and box[2] < frame.image.width and all(_covered(box, other) < _HIDDEN for other in others)
    return Sighting(frame.time, box, score, crop, (is_whole, sharpness_of(crop)))


def _covered(box: Sequence[float], other: Sequence[float]) -> float:
    """Which share of a box another one covers."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(0.0, width) * max(0.0, height) / ((box[2] - box[0]) * (box[3] - box[1]))


def _colours(pixels: np.ndarray) -> np.ndarray:
    """How often each colour occurs, in few steps."""
    steps = pixels * _COLOURS // 256
    return np.bincount((steps @ (_COLOURS**2, _COLOURS, 1)).ravel(), minlength=_COLOURS**3)
