"""What the page knows of one open tab: the photo, the wishes, the marks, the last answer and the searches before it."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from .answers import Answer
from .questions import Question

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the upright picture

_MOST_SEARCHES = 50  # of a session's history


@dataclass(frozen=True)
class Photo:
    """The reference photo.

    Args:
        image: as `Term.image` takes it.
        url: of a picture of it to show.
        name: for people to read.
        width, height: of the upright picture, in which boxes lie; 0 where nobody can be chosen in it.
        people: boxes of those found in it.
        person: the number of the one who is meant; None for the whole photo.
    """

    image: str
    url: str
    name: str
    width: int = 0
    height: int = 0
    people: tuple[Box, ...] = ()
    person: int | None = None

    @property
    def box(self) -> Box | None:
        """Of the person who is meant."""
        return None if self.person is None else self.people[self.person]

    @property
    def largest(self) -> int | None:
        """The person who fills most of it; None where nobody is found."""
        areas = [(right - left) * (bottom - top) for left, top, right, bottom in self.people]
        return areas.index(max(areas)) if areas else None


@dataclass(frozen=True)
class Wish:
    """A chip: one more thing wanted, or with a weight below 0 not wanted.

    Args:
        caption: what it says; None for a photo alone.
        photo: of one more reference photo.
    """

    weight: float
    caption: str | None = None
    photo: Photo | None = None

    @property
    def name(self) -> str:
        """For people to read."""
        return self.caption or (self.photo.name if self.photo else "")


@dataclass(frozen=True)
class Search:
    """One search of the session."""

    question: Question
    found: int
    at: datetime


@dataclass
class PageSession:
    """One open tab.

    Args:
        photos: the uploads that were its reference photo: an earlier search can show its own again.
        right, wrong: the results that are marked: id -> picture.
        question, answer: of the last search; `answers`: how many there have been.
        opened: the id of the result that is to be seen in full.
        heat: a picture of where the model looked in it, as a URL.
        has_begun: set once the page was opened with it: a tab that the server has forgotten comes back as it was made.
        turn: held while an event is answered, so that quick clicks are answered one after the other.
    """

    photo: Photo | None = None
    wishes: list[Wish] = field(default_factory=list)
    photos: dict[str, Photo] = field(default_factory=dict)
    right: dict[int, Photo] = field(default_factory=dict)
    wrong: dict[int, Photo] = field(default_factory=dict)
    question: Question | None = None
    answer: Answer | None = None
    answers: int = 0
    searches: list[Search] = field(default_factory=list)
    opened: int | None = None
    heat: str | None = None
    has_begun: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def forget_marks(self) -> None:
        """Takes all marks back, as a new question does."""
        self.right, self.wrong = {}, {}

    def note(self, search: Search) -> None:
        """Puts a search into the history; one that differs from the last in its marks alone takes its place."""
        others = self.searches
        if others and without_marks(others[0].question) == without_marks(search.question):
            others = others[1:]
        self.searches = [search, *others][:_MOST_SEARCHES]


def without_marks(question: Question) -> Question:
    """The question as it is asked first."""
    return question.model_copy(update={"right": [], "wrong": []})
