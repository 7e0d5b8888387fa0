"""The parts of a pipeline, and the requests and replies that they exchange.

A recipe chooses a part by its `kind`; the part's settings have a `load()` that returns it ready for work. Language
models answer `TextRequest`s, image models `ImageRequest`s. Every request carries an item's id and a seed made from it,
so that one result can be made again alone, and results may come back in any order.
"""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

Record = dict[str, Any]
REJECTED = "rejected"  # the field of a record that says why it is not used
CONTROL = "control"  # the field that marks a record as a control of the judge, not of an item


def seed_of(*parts: str | int) -> int:
    """A seed below 2^63, made from its purpose: the recipe's seed, a stage, an item's id."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class SynthesisError(RuntimeError):
    """The work cannot go on. The message names the place, what was expected, and the remedy. What is done stays."""


class Part:
    """A loaded part of a pipeline.

    Attributes:
        about: What made the results, for the manifest: names and revisions of models. Known after loading.
        usage: What was spent so far: "requests", "retries", "input tokens", "output tokens", "cost" and so on.
    """

    def __init__(self) -> None:
        self.about: dict[str, Any] = {}
        self.usage: Counter[str] = Counter()


@dataclass(frozen=True)
class TextRequest:
    """A conversation for a language model, which may look at images."""

    id: str  # the item's id
    messages: Sequence[Mapping[str, str]]  # `{"role": "system" | "user" | "assistant", "content": text}`, in order
    seed: int  # seed of this answer
    images: Sequence[Path | Image.Image] = ()  # shown before the text of the last message, in order
    schema: Mapping[str, Any] | None = None  # JSON schema that the answer must fulfil; None for free text


@dataclass(frozen=True)
class TextReply:
    """What a language model answered."""

    id: str  # the request's id
    text: str  # the answer as it came; empty if there is none
    # why the answer cannot be used ("cut off at 512 tokens", "refused by the server"); None if it can
    fault: str | None = None
    # why the model stopped, in the words of OpenAI's protocol: "stop" if it was done, "length" if it was cut off,
    # "content_filter", or whatever a server says; None if there is no answer, or no reason given
    finish_reason: str | None = "stop"


class TextModel(Part, ABC):
    """A language model, in process or behind a URL."""

    @abstractmethod
    def answer(self, requests: Iterable[TextRequest]) -> Iterator[TextReply]:
        """One reply per request, in any order; requests are taken from the iterable as they are needed.

        Raises:
            SynthesisError: the model cannot work at all (server gone, memory too small). Earlier replies stay valid.
        """


class AskingPart(Part):
    """A part whose work a language model does.

    Attributes:
        settings: Settings of the part.
        model: The language model.
    """

    def __init__(self, settings: Any, model: TextModel):
        super().__init__()
        self.settings, self.model = settings, model
        self.about, self.usage = model.about, model.usage


@dataclass(frozen=True)
class ImageRequest:
    """An image to paint."""

    id: str  # the item's id
    prompt: str  # what it shows; requests that follow each other often share it
    seed: int  # seed of this image
    strength: float = 1.0  # how strongly the adapter acts, 0 to 1
    # the record that the image is for, as the previous stage wrote it; painters of the painted world read it
    scene: Mapping[str, Any] = field(default_factory=dict)
    source: Path | Image.Image | None = None  # an image to start from, for models that edit


@dataclass(frozen=True)
class PaintedImage:
    """What an image model painted."""

    id: str  # the request's id
    image: Image.Image | None  # RGB; None if there is none
    fault: str | None = None  # why there is none ("refused as unsafe"); None if there is one
    facts: Mapping[str, Any] = field(default_factory=dict)  # further fields for the item's record


class ImageModel(Part, ABC):
    """Something that paints: a diffusion pipeline, a server, a painter of the painted world."""

    @abstractmethod
    def paint(self, requests: Iterable[ImageRequest]) -> Iterator[PaintedImage]:
        """One image per request, in any order; requests are taken from the iterable as they are needed.

        Raises:
            SynthesisError: nothing can be painted at all.
        """


class Gate(Part, ABC):
    """Cheap measures of images, taken of every pair before a judge sees it.

    Attributes:
        names: Names of the scores it gives.
    """

    names: tuple[str, ...] = ()

    @abstractmethod
    def score(
        self, records: Sequence[Record], pictures: Sequence[tuple[Image.Image, Image.Image]]
    ) -> list[dict[str, float]]:
        """Scores of each pair. Other gates may look at the same images at the same time.

        Args:
            records: The record of each pair by the stage `split`, with the texts of its quadruple.
            pictures: The left and the right half of each, RGB.

        Returns:
            The scores by name; one that cannot be measured is left out.
        """


class Judge(Part, ABC):
    """Judges for every pair how good both images are, whether they show one person, and whether the texts fit.

    Attributes:
        names: Names of the scores it gives.
    """

    names: tuple[str, ...] = ()

    @abstractmethod
    def judge(self, records: Iterable[Record], folder: Path) -> Iterator[Record]:
        """One judgement per record, in any order: `id` and `scores` by name, from 0 (bad) to 1 (good).

        A record without scores has the reason under `rejected` ("no JSON in the answer").

        Args:
            records: The record of each pair by the stage `split`, with the texts of its quadruple.
            folder: What the paths of their images are relative to.

        Raises:
            SynthesisError: nothing can be judged at all.
        """
