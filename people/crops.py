"""From what a detector found to crops of people: margins, least size, each person once, from left to right."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..image_reading_fafa import open_image
from .detectors import Detector, FoundPerson, found_in

MARGIN = 0.05  # on every side, as a share of the height of the detector's box: hair, shoes, a bag
LEAST_WIDTH, LEAST_HEIGHT = 16, 32  # pixels: in fewer, clothes and colours cannot be told
SAME_PERSON = 0.8  # intersection over union from which on two boxes are one person's; people who hug have less

Box = tuple[int, int, int, int]  # left, top, right, bottom, in whole pixels


class ChosenPeople(NamedTuple):
    """The people in one image.

    Args:
        found: with the boxes to cut out, in whole pixels: margin included, within the image; from left to right.
        too_small: how many more were found that are too small to be told from others.
    """

    found: list[FoundPerson]
    too_small: int


def choose_people(found: Sequence[FoundPerson], size: tuple[int, int], margin: float = MARGIN) -> ChosenPeople:
    """Which people of those whom a detector found to cut out of an image, and where.

    Boxes that overlap are of different people, and both stay, unless they are nearly the same: then the surer stays.

    Args:
        size: width and height of the image.
        margin: around a person, on every side, as a share of the height of the detector's box.

    Raises:
        ValueError: the margin is no number from 0 to 1.
    """
    check_margin(margin)
    each: list[FoundPerson] = []
    for person in sorted(found, key=lambda person: -person.score):
        if all(_overlap(person.box, other.box) < SAME_PERSON for other in each):
            each.append(person)
    large = [person for person in each if _is_large(person.box)]
    cut = [FoundPerson(widened(person.box, size, margin), person.score) for person in large]
    return ChosenPeople(sorted(cut, key=lambda person: (person.box, -person.score)), len(each) - len(large))


def people_in(image: Any, detector: Detector, margin: float = MARGIN) -> list[FoundPerson]:
    """The people in one photograph, from left to right, to choose one of them as whom to search for.

        people = people_in("party.jpg", load_detector())
        gallery.search(image=open_image("party.jpg").crop(people[1].box), caption="in a red coat")

    Args:
        image: as `open_image` takes it. `margin`: see `choose_people`, and so are the boxes.

    Raises:
        UnreadableImageError, FileNotFoundError, InaccessibleImageError: it cannot be read.
    """
    upright = open_image(image)
    [found] = found_in([upright], detector)
    return choose_people(found, upright.size, margin).found


def widened(box: tuple[float, float, float, float], size: tuple[int, int], margin: float) -> Box:
    """A box with a margin on every side, a share of its height, in whole pixels, cut to an image's width and height."""
    left, top, right, bottom = box
    room = margin * (bottom - top)
    return (
        max(0, round(left - room)),
        max(0, round(top - room)),
        min(size[0], round(right + room)),
        min(size[1], round(bottom + room)),
    )


def check_margin(margin: float) -> None:
    """Refuses a margin that is no number from 0 to 1, by a ValueError."""
    if not 0 <= margin <= 1:  # also NaN
        raise ValueError(f"margin is {margin}, expected a share of the person's height, from 0 to 1")


def _is_large(box: tuple[float, float, float, float]) -> bool:
    return box[2] - box[0] >= LEAST_WIDTH and box[3] - box[1] >= LEAST_HEIGHT


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, width) * max(0.0, height)
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return both / (sum(areas) - both)
