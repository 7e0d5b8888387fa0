"""From photographs and films to people: who is where in them, and galleries with one entry for each."""

from .crops import people_in
from .detectors import DEFAULT_DETECTOR, Detector, FoundPerson, load_detector
from .scenes import PeopleCount, count_people, index_people

__all__ = [
    "DEFAULT_DETECTOR",
    "Detector",
    "FoundPerson",
    "PeopleCount",
    "count_people",
    "index_people",
    "load_detector",
    "people_in",
]
