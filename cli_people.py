"""What commands do about people in photographs: the detector that is asked for, one person of several, boxes in words.

What takes long to import is imported within.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .names import counted, printable

if TYPE_CHECKING:
    from PIL import Image

    from .people import Detector


def finder(
    settings: Mapping[str, Any], detector: str | None = None, margin: float | None = None, device: str | None = None
) -> tuple["Detector", float]:
    """A detector of people and the margin around them, by default as `settings` of a gallery name them."""
    from .people import DEFAULT_DETECTOR, load_detector
    from .people.crops import MARGIN

    noted = settings.get("people", {})
    margin = noted.get("margin", MARGIN) if margin is None else margin
    return load_detector(detector or noted.get("detector", DEFAULT_DETECTOR), device), margin


def person_in(photo: Path, number: int, settings: Mapping[str, Any], device: str | None) -> "Image.Image":
    """One of the people in a photo, counted from the left, cut out as those of a gallery with these settings are."""
    from .image_reading_fafa import open_image
    from .people import people_in

    upright = open_image(photo)
    people = people_in(upright, *finder(settings, device=device))
    if number > len(people):
        boxes = "".join(f"; {place}: {box_told(one.box)}" for place, one in enumerate(people, start=1))
        raise ValueError(
            f"--person {number}: {counted(len(people), 'person')} found in {printable(photo)}{boxes}. Without "
            "--person, the whole photo is searched by"
        )
    return upright.crop(people[number - 1].box)


def box_told(box: Sequence[float]) -> str:
    """A box in words."""
    return ", ".join(f"{name} {side:.0f}" for name, side in zip(("left", "top", "right", "bottom"), box, strict=True))
