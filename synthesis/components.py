"""What the stages of a pipeline are put together from, and what these parts say to one another.

A part is chosen in a recipe by its `kind`; its settings are a frozen dataclass with a `load()` that returns the part
ready for work. Language models answer `TextRequest`s, image models `ImageRequest`s. Every request carries the id of the
item it is for and a seed made from that id, so that one result can be made again alone, and results may come back in
any order.
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
CONTROL = "control"  # the field of a record that is of no item, but of a control of the judge


def seed_of(*parts: str | int) -> int:
    """A seed below 2^63 from what it is for: the recipe's seed, a stage, an item's id."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class SynthesisError(RuntimeError):
    """The work cannot go on: one line that names the place, what was expected, and the remedy. What is done stays."""


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
    """A conversation for a language model, which may look at pictures.

    Attributes:
        id: The item's.
        messages: `{"role": "system" | "user" | "assistant", "content": text}`, in order.
        seed: Of this answer.
        images: Shown before the text of the last message, in order.
        schema: JSON schema that the answer must fulfil; None for free text.
    """

    id: str
    messages: Sequence[Mapping[str, str]]
    seed: int
    images: Sequence[Path | Image.Image] = ()
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class TextReply:
    """What a language model answered.

    Attributes:
        id: The request's.
        text: The answer as it came; empty where there is none.
        fault: Why the answer cannot be used ("cut off at 512 tokens", "refused by the server"); None if it can.
        finish_reason: Why the model ended, in the words of OpenAI's protocol: "stop" if it was done, "length" if it was
            cut off, "content_filter", or what else a server says; None if there is no answer, or a server never tells.
    """

    id: str
    text: str
    fault: str | None = None
    finish_reason: str | None = "stop"


class TextModel(Part, ABC):
    """A language model, in process or behind a URL."""

    @abstractmethod
    def answer(self, requests: Iterable[TextRequest]) -> Iterator[TextReply]:
        """One reply per request, in any order; requests are taken from the iterable as they are needed.

        Raises:
            SynthesisError: the model cannot work at all (server gone, memory too small). Replies already given count.
        """


class AskingPart(Part):
    """A part whose work a language model does.

    Attributes:
        settings: Of the part.
        model: Who is asked.
    """

    def __init__(self, settings: Any, model: TextModel):
        super().__init__()
        self.settings, self.model = settings, model
        self.about, self.usage = model.about, model.usage


@dataclass(frozen=True)
class ImageRequest:
    """A picture to paint.

    Attributes:
        id: The item's.
        prompt: What it shows. Requests that follow each other often share it.
        seed: Of this picture.
        strength: Of the adapter, from 0 to 1.
        scene: The record that the picture is for, as the previous stage wrote it; the procedural painter reads it.
        source: A picture to start from, for models that edit.
    """

    id: str
    prompt: str
    seed: int
    strength: float = 1.0
    scene: Mapping[str, Any] = field(default_factory=dict)
    source: Path | Image.Image | None = None


@dataclass(frozen=True)
class PaintedImage:
    """What an image model painted.

    Attributes:
        id: The request's.
        image: RGB; None where there is none.
        fault: Why there is none ("refused as unsafe"); None if there is one.
        facts: Further fields for the item's record.
    """

    id: str
    image: Image.Image | None
    fault: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class ImageModel(Part, ABC):
    """Something that paints: a diffusion pipeline, a server, the procedural painter."""

    @abstractmethod
    def paint(self, requests: Iterable[ImageRequest]) -> Iterator[PaintedImage]:
        """One picture per request, in any order; requests are taken from the iterable as they are needed.

        Raises:
            SynthesisError: nothing can be painted at all.
        """


class Gate(Part, ABC):
    """Cheap measures of pictures, taken of every pair before a judge sees it.

    Attributes:
        names: Of the scores it gives.
    """

    names: tuple[str, ...] = ()

    @abstractmethod
    def score(
        self, records: Sequence[Record], pictures: Sequence[tuple[Image.Image, Image.Image]]
    ) -> list[dict[str, float]]:
        """Scores of each pair. Other gates may look at the same pictures at the same time.

        Args:
            records: What split wrote of each pair, and the texts of its quadruple.
            pictures: The left and the right half of each, RGB.

        Returns:
            By name; a score that cannot be measured is left out.
        """


class Judge(Part, ABC):
    """Says of every pair how good both pictures are, whether they show one person, and whether the texts fit.

    Attributes:
        names: Of the scores it gives.
    """

    names: tuple[str, ...] = ()

    @abstractmethod
    def judge(self, records: Iterable[Record], folder: Path) -> Iterator[Record]:
        """One judgement per record, in any order: `id` and `scores` by name, from 0 (bad) to 1 (good).

        Where there are none, the reason stands under `rejected` ("no JSON in the answer").

        Args:
            records: What split wrote of each pair, and the texts of its quadruple.
            folder: What the paths of their pictures are relative to.

        Raises:
            SynthesisError: nothing can be judged at all.
        """
