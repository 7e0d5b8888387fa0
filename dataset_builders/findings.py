"""What a check finds in one annotation file: problems of its records, and which of them name which image."""

from array import array
from collections import defaultdict
from typing import Any

from .counting import Statistics
from .named_images import NamedImages
from .records import INACCESSIBLE, REMEDIES, BadRecord

CORRUPT, REPEAT, UNREADABLE = "names an image file that is broken", "repeats an earlier record", "cannot be read"
NO_SPLIT = "is the last, and none was of a split that the data set has"
_REMEDIES = REMEDIES | {
    CORRUPT: "fetch, unpack or copy the file again, or take the record out",
    REPEAT: "take the repetition out",
    UNREADABLE: "fetch the file again; records after this one were not seen",
    NO_SPLIT: "fetch the file again; it may have been cut off, or be of another version",
}


class Findings:
    """Problems of an annotation file's records, and who names which image.

    Args:
        images: Gathers the images.
        remedies: Remedies of problems that only this file can have, or that replace the usual ones.
        statistics: Counts the well-formed records; None if there is nothing to count.

    Attributes:
        num_records: How many were read.
        problems: Problem -> number and detail of the records that have it.
        notes: What else is to be told, sentences.
    """

    of = "record"  # what is numbered

    def __init__(
        self, images: NamedImages, remedies: dict[str, str] | None = None, statistics: Statistics | None = None
    ):
        self.images, self.statistics = images, statistics
        self.num_records = 0
        self.problems: dict[str, list[tuple[int, str]]] = defaultdict(list)
        self.notes: list[str] = []
        self._remedies = _REMEDIES | (remedies or {})
        self._named_images, self._naming_records = array("q"), array("q")

    def add(self, number: int, bad: BadRecord) -> None:
        """Note what is wrong with record `number`."""
        self.problems[bad.problem].append((number, bad.detail))

    def see_image(self, number: int, path: str) -> None:
        """Note that record `number` names an image. Raises `BadRecord` if it is not there, or is empty."""
        image = self.images.look_up(path)
        self._named_images.append(image)
        self._naming_records.append(number)
        if image in self.images.absent:
            raise self.images.absent[image]

    @property
    def num_repeated_images(self) -> int:
        """How often a record names an image that was named before."""
        return len(self._named_images) - len(set(self._named_images))

    def note_broken_images(self) -> None:
        """Once the images are checked: add the records that name a broken one to the problems."""
        for image, number in zip(self._named_images, self._naming_records, strict=True):
            if error := self.images.broken.get(image):
                self.add(number, BadRecord(CORRUPT, f"{self.images.paths[image]}: {error}"))
            if error := self.images.inaccessible.get(image):
                self.add(number, BadRecord(INACCESSIBLE, f"{self.images.paths[image]}: {error}"))

    def to_dict(self) -> dict[str, Any]:
        """For report.json."""
        return {
            "of": self.of,
            "records": self.num_records,
            "problems": {
                problem: {
                    "records": len({number for number, _ in found}),
                    "remedy": self._remedies[problem],
                    "found": [{"record": number, "detail": detail} for number, detail in found],
                }
                for problem, found in self.problems.items()
            },
            "notes": self.notes,
            "statistics": self.statistics.to_dict() if self.statistics and self.statistics.records else None,
        }
