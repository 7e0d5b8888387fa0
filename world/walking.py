"""Paints films of the small world: people walk through a wide place, and it is known who is where, and when.

Its frames are images; whoever wants a file encodes them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import pi, sin
from typing import NamedTuple

import numpy as np
from PIL import Image

from .painter import paint_over
from .people import Identity, Outfit, Scene, sample_outfit, sample_people
from .places import paint_empty_place

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels

_SHAPE = 0.75  # width over height of the part of the picture in which a walker is painted
_HEADROOM = 0.06
_STEPS = 0.9  # double steps a second
_LASTS = 4.0, 7.0  # seconds of a walk
_LEAST_SEEN = 0.1  # share of a walker that is within the picture, from which on it counts as seen


@dataclass(frozen=True)
class Walk:
    """One time that somebody walks through the picture, from side to side.

    Args:
        person: whose walk it is, among the film's people.
        begins, ends: seconds: just before the first moment and just after the last one within the picture.
        is_rightwards: or leftwards.
        height: pixels of the part of the picture in which the person is painted: how near.
        floor: pixels from the top of the picture to the lower end of that part.
    """

    person: int
    begins: float
    ends: float
    is_rightwards: bool
    height: int
    floor: int


class PaintedFrame(NamedTuple):
    """A frame, and the answer to who is where in it.

    Args:
        boxes: of each walk that is seen, by its number among the film's walks: what is within the picture, though
            somebody nearer may hide some of it.
    """

    time: float
    image: Image.Image
    boxes: dict[int, Box]


@dataclass(frozen=True)
class WalkingFilm:
    """A film of people who walk through a place.

    Args:
        people: who they are, and what they wear in all of the film.
        walks: in order of their beginning.
        place: the empty place, of the film's size.
        seconds: how long it lasts.
    """

    people: list[tuple[Identity, Outfit]]
    walks: list[Walk]
    place: Image.Image
    seconds: float

    def frames(self, rate: float) -> Iterator[PaintedFrame]:
        """Paints the film, `rate` frames a second."""
        for number in range(round(self.seconds * rate)):
            yield self.paint(number / rate)

    def paint(self, time: float) -> PaintedFrame:
        """Paints one moment."""
        room = max(walk.height for walk in self.walks)  # beside the picture, for those who are half in it
        width, height = self.place.size
        canvas = Image.new("RGB", (width + 2 * room, height))
        canvas.paste(self.place, (room, 0))
        boxes = {}
        there = [number for number, walk in enumerate(self.walks) if walk.begins <= time <= walk.ends]
        for number in sorted(there, key=lambda number: self.walks[number].floor):  # the nearest last
            walk = self.walks[number]
            wide, share = round(_SHAPE * walk.height), (time - walk.begins) / (walk.ends - walk.begins)
            middle = (width + wide) * (share if walk.is_rightwards else 1 - share) - wide / 2
            left, top = room + round(middle - wide / 2), walk.floor - walk.height
            around = canvas.crop((left, top, left + wide, walk.floor))
            image, box = paint_over(*self.people[walk.person], _walking(walk, time), around)
            canvas.paste(image, (left, top))
            seen = max(0, left - room + box[0]), top + box[1], min(width, left - room + box[2]), top + box[3]
            if seen[2] - seen[0] >= _LEAST_SEEN * (box[2] - box[0]):
                boxes[number] = seen
        return PaintedFrame(time, canvas.crop((room, 0, room + width, height)), boxes)


def plan_film(
    rng: np.random.Generator,
    num_people: int,
    walks_each: int,
    seconds: float,
    size: tuple[int, int] = (640, 360),
    place: str = "street",
    test: bool = True,
) -> WalkingFilm:
    """Plans a film at random: who walks when, in which direction, how far away, and how fast.

    Args:
        num_people: who look different; `walks_each`: how often each of them walks through the picture.
        size: width and height in pixels.
        test: whether people and clothes come from the test part of the world, or from the training part.

    Raises:
        ValueError: the film is too short for so many walks.
    """
    if seconds < walks_each * _LASTS[1]:
        raise ValueError(f"{walks_each} walks of one person take up to {walks_each * _LASTS[1]:.0f} s, not {seconds} s")
    people = [(identity, sample_outfit(rng, test)) for identity in sample_people(rng, num_people, test)]
    walks, turn = [], seconds / walks_each  # nobody is there twice at the same time
    for person, number in product(range(num_people), range(walks_each)):
        lasts, near = float(rng.uniform(*_LASTS)), float(rng.uniform())
        begins = number * turn + float(rng.uniform(0, turn - lasts))
        height, floor = round(size[1] * (0.5 + 0.3 * near)), round(size[1] * (0.86 + 0.12 * near))
        walks.append(Walk(person, begins, begins + lasts, bool(rng.uniform() < 0.5), height, floor))
    walks.sort(key=lambda walk: walk.begins)
    return WalkingFilm(people, walks, paint_empty_place(place, size[::-1], rng), seconds)


def _walking(walk: Walk, time: float) -> Scene:
    """How a walker looks at a moment, in the plain light that leaves what is behind as it is."""
    stride = sin(2 * pi * _STEPS * (time - walk.begins))
    return Scene(
        place="street",
        from_behind=False,
        yaw=0.7 if walk.is_rightwards else -0.7,
        stride=stride,
        arms=("swing", "swing"),
        arm_swing=stride,
        tilt=0.0,
        zoom=1.0,
        shift=0.0,
        headroom=_HEADROOM,
        light_side=0.0,
        brightness=1.0,
        warmth=0.0,
        blur=0.0,
        noise=0.0,
        seed=0,
    )
