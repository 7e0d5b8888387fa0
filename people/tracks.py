"""Who goes through a film: people found in its frames and followed from one to the next, with the best crops of each.

supervision's ByteTrack (Zhang et al. 2022) does the following: it joins boxes by where a person who goes on as before
would be. It knows places, not looks. So the colours of the clothes are compared afterwards: people whom ByteTrack
exchanged as they passed each other are exchanged back, and a track ends where somebody else goes on with it. A track
also ends where the picture changes at once, since in another shot another person may stand where one stood before;
whoever comes back gets a new track, and `clusters` tell that it is the same person.
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
from .detectors import Detector, FoundPerson, found_in
from .looks import ALIKE, DIFFERENT, SHADE, difference_of, looks_of

CROPS = 3  # of each track
LOST_AFTER = 1.5  # seconds without a sighting after which a track ends

_FRAMES_AT_ONCE, _PIXELS_AT_ONCE = 8, 1 << 25  # that the detector gets
_CUT = 0.5, 25.0  # share of the pixels with colours that the frame before lacked; grey levels that a place changed by
_COLOURS = 8  # steps of red, of green and of blue that are told apart for it
_HIDDEN = 0.25  # share of a box that another covers, from which on a crop shows two people
_SHARPNESS_AT = 128  # pixels: the height at which crops are compared

# Chosen on films of benchmarks/walking_people.py, of other seeds than those whose figures it publishes.
_PACE = 0.8  # heights of a person in a second: how fast one walks
_TURNS = 3.0  # times the change of speed that ByteTrack expects, which knows films of 30 frames a second
_STRANGE = 0.8  # seconds that a track looks different before it ends: its person may be behind a post
_LEARNT = 0.3  # share of the newest looks in those of a track, which so follow slow changes of the light


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
    following = _Following(rate, margin, num_crops, first_number)
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


@dataclass(eq=False)
class _Open:
    """A track that goes on: the step and the box of its last sighting, its looks, and how often it looked different."""

    track: Track
    step: int
    box: Box
    looks: np.ndarray | None = None  # None: nobody was seen whole yet
    strange: int = 0


class _Following:
    """The open tracks of one shot after another."""

    def __init__(self, rate: float, margin: float, num_crops: int, first_number: int):
        self.rate, self.margin, self.num_crops, self.next_number = rate, margin, num_crops, first_number
        self.lost_after = max(1, round(LOST_AFTER * rate))  # frames
        self._begin()

    def _begin(self) -> None:
        import supervision

        with warnings.catch_warnings():  # it says that it will move to another package, which needs a screen's OpenCV
            warnings.simplefilter("ignore")
            self.tracker = supervision.ByteTrack(lost_track_buffer=self.lost_after, frame_rate=30)
        for motion in (self.tracker.kalman_filter, self.tracker.shared_kalman):
            motion._std_weight_velocity *= _TURNS
        self.detections: Any = supervision.Detections
        self.open: list[_Open] = []
        self.of: dict[int, _Open] = {}  # the tracker's number -> track
        self.step = 0

    def see(self, frame: Frame, found: Sequence[FoundPerson]) -> Iterator[Track]:
        """Goes on by one frame; returns the tracks that are over."""
        self.step += 1
        seen = {number: _sighting(frame, found, place) for number, place in self._by_places(found).items()}
        looks = self._by_looks(seen)
        for number, sighting in seen.items():
            if number not in self.of:
                self.of[number] = _Open(Track(self.next_number, frame.time, frame.time), self.step, sighting.box)
                self.open.append(self.of[number])
                self.next_number += 1
            one = self.of[number]
            one.step, one.box = self.step, sighting.box
            if number in looks:
                new = looks[number]
                one.looks = new if one.looks is None else (1 - _LEARNT) * one.looks + _LEARNT * new
            self._add(one.track, Track(0, frame.time, frame.time, 1, [sighting]))
        over = [one for one in self.open if self.step - one.step > self.lost_after]
        self.open = [one for one in self.open if one not in over]
        self.of = {number: one for number, one in self.of.items() if one not in over}
        yield from (self._over(one.track) for one in over)

    def _by_places(self, found: Sequence[FoundPerson]) -> dict[int, int]:
        """What ByteTrack says: its number of each person -> the place among those who are found."""
        boxes = np.array([person.box for person in found], dtype=np.float32).reshape(-1, 4)
        # It asks that boxes of one person overlap; so they are as wide as one walks from a frame to the next.
        step = _PACE / self.rate * (boxes[:, 3] - boxes[:, 1])
        boxes[:, 0] -= step
        boxes[:, 2] += step
        scores = np.array([min(person.score, 1.0) for person in found], dtype=np.float32)
        given = self.detections(xyxy=boxes, confidence=scores, class_id=np.arange(len(found)))
        tracked = self.tracker.update_with_detections(given)
        return dict(zip(tracked.tracker_id.tolist(), np.asarray(tracked.class_id).tolist(), strict=True))

    def _by_looks(self, seen: dict[int, Sighting]) -> dict[int, np.ndarray]:
        """Puts right what ByteTrack says, by the looks of those who are seen whole; returns the looks to learn.

        Who is new, or looks different from the track, goes on with a track that looks alike, whose person is lost,
        covered or looks different, too. Who looks like nobody gets a new track.
        """
        looks = {number: looks_of(one.image, self.margin) for number, one in seen.items() if one.quality[0]}
        unsure, free = set(looks), {one for one in self.open if one.looks is not None}
        for number, new in looks.items():
            one = self.of.get(number)
            if one in free and difference_of(one.looks, new) <= DIFFERENT:
                one.strange = 0
                unsure.discard(number)
                free.discard(one)
        pairs = [(number, one) for number in unsure for one in free if self._is_near(one, seen[number].box)]
        alike = [(difference_of(one.looks, looks[number]), number, one.track.number, one) for number, one in pairs]
        for difference, number, _, one in sorted(alike):
            if difference <= ALIKE and number in unsure and one in free:
                unsure.discard(number)
                free.discard(one)
                self._exchange(number, one)
        for number in sorted(unsure):
            if (one := self.of.get(number)) in free and difference_of(one.looks, looks[number], SHADE) > DIFFERENT:
                one.strange += 1
                if one.strange < _STRANGE * self.rate:
                    seen[number] = seen[number]._replace(quality=(False, seen[number].quality[1]))
                    del looks[number]
                else:
                    del self.of[number]
        return looks

    def _exchange(self, number: int, one: _Open) -> None:
        """Gives a track to a number of the tracker's; whichever number had it gets what this one had."""
        before = self.of.pop(number, None)
        other = next((other for other, its in self.of.items() if its is one), None)
        self.of.pop(other, None)
        self.of[number], one.strange = one, 0
        if before is not None and before.looks is None:  # never seen whole: this is its beginning
            self.open.remove(before)
            self._add(one.track, before.track)
        elif before is not None and other is not None:
            self.of[other] = before

    def _is_near(self, one: _Open, box: Box) -> bool:
        """Whether somebody can have walked from where a track was last seen."""
        far = max(abs(one.box[0] + one.box[2] - box[0] - box[2]), abs(one.box[1] + one.box[3] - box[1] - box[3])) / 2
        return far <= (0.5 + _PACE * (self.step - one.step) / self.rate) * (box[3] - box[1])

    def _add(self, track: Track, other: Track) -> None:
        track.first, track.last = min(track.first, other.first), max(track.last, other.last)
        track.num_sightings += other.num_sightings
        track.crops = _best(sorted([*track.crops, *other.crops], key=lambda seen: seen.time), 2 * self.num_crops)

    def end(self) -> Iterator[Track]:
        """All tracks are over."""
        for one in self.open:
            yield self._over(one.track)
        self._begin()

    def _over(self, track: Track) -> Track:
        track.crops = _best(track.crops, self.num_crops)
        return track


def _best(sightings: Sequence[Sighting], number: int) -> list[Sighting]:
    """A few of a track's sightings; who is not seen alone and whole stands for it only where nobody else does."""
    return thinned([seen for seen in sightings if seen.quality[0]] or sightings, number)


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
        for frame, found in zip(some, found_in([frame.image for frame in some], detector), strict=True):
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
