"""Writes captions for images of people.

The models see the image alone, never the prompt: what the painter left out must not be in the caption.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import model_validator

from ..components import REJECTED, AskingPart, Part, Record, TextRequest, seed_of
from ..models import LanguageModel
from ..models.asking import as_messages, ask_parts, check_words
from ..replies.languages import Language
from ..replies.sentences import read_sentence
from ..settings import Count, Settings, Texts
from ..templates import fill_template, with_fields


class CaptionWriter(Part, ABC):
    """Writes captions."""

    @abstractmethod
    def write(self, pictures: Iterable[Record], folder: Path, seed: int) -> Iterator[Record]:
        """One record per image, in any order: `id` and `captions`, or the reason under `rejected`.

        Args:
            pictures: Records with `id` and `image`, a path relative to `folder`.
            folder: The folder of the synthesis.
            seed: Decides an image's captions, with the settings and the image's id and pixels.

        Raises:
            SynthesisError: nothing can be written at all.
        """


class InstructionCaptions(Settings):
    """Settings of captions by a vision-language model that is always asked the same.

    Attributes:
        model: The model that looks at the images.
        instruction: What it is asked.
        system: How it is told to behave; empty for no such message.
        captions: Captions of each image, each with another seed.
        attempts: How often it is asked until the answer can be used. Needs a `temperature` above 0.
        min_words: Fewest words of a caption.
        max_words: Most words of a caption; CLIP reads about 55.
        language: ISO 639-1 code of the language that captions must be in.
    """

    kind: Literal["instruction"] = "instruction"

    model: LanguageModel
    instruction: Annotated[str, with_fields()]
    system: str = ""
    captions: Count = 1
    attempts: Count = 3
    min_words: Count = 8
    max_words: Count = 60
    language: Language = "en"

    _check_words = model_validator(mode="after")(check_words)

    @property
    def slots(self) -> frozenset[str]:
        """Names of what the model is asked to fill in."""
        return frozenset()

    def question(self, name: str, number: int, seed: int) -> str:
        """What is asked for one of an image's captions, counted from 0."""
        return self.instruction

    def load(self) -> CaptionWriter:
        """The writer; raises SynthesisError if its model cannot be loaded or reached."""
        return _ModelCaptions(self, self.model.load())


class TemplateCaptions(InstructionCaptions):
    """Settings of captions by a vision-language model that fills templates, so that they do not all sound alike.

    A template is an opening, a body and an ending, each chosen at random; the captions of an image have different ones.
    Its [slots] name what to look for; the model writes what it sees and leaves out what it does not. In the
    instruction, {template} stands for it.

    Attributes:
        openings: First parts.
        bodies: Second parts.
        endings: Last parts.
    """

    kind: Literal["templates"] = "templates"

    instruction: Annotated[str, with_fields("template")]
    openings: Texts
    bodies: Texts
    endings: Texts

    @model_validator(mode="after")
    def _check_templates(self) -> "TemplateCaptions":
        if not all("[" in text and "]" in text for text in self.openings):
            raise ValueError("every opening needs a [slot], or a caption might say nothing")
        if self.captions > (count := len(self.templates)):
            raise ValueError(f"captions must be at most the number of templates, {count}: {self.captions}")
        return self

    @cached_property
    def templates(self) -> list[str]:
        """All of them."""
        parts = product(self.openings, self.bodies, self.endings)
        return [" ".join(part.strip() for part in three if part.strip()) for three in parts]

    @property
    def slots(self) -> frozenset[str]:
        """Names of what the model is asked to fill in."""
        return frozenset(re.findall(r"\[([^\]]+)\]", " ".join((*self.openings, *self.bodies, *self.endings))))

    def question(self, name: str, number: int, seed: int) -> str:
        """What is asked for one of an image's captions: to fill a template that none of its others has."""
        rng = np.random.default_rng(seed_of(seed, "template", name))
        template = rng.choice(len(self.templates), size=self.captions, replace=False)[number]
        return fill_template(self.instruction, {"template": self.templates[template]})


class _ModelCaptions(AskingPart, CaptionWriter):
    def write(self, pictures: Iterable[Record], folder: Path, seed: int) -> Iterator[Record]:
        settings = self.settings

        def request(item: tuple[Record, int], attempt: int) -> TextRequest:
            record, number = item
            name, image = record["id"], folder / record["image"]
            messages = as_messages(settings.system, settings.question(name, number, seed))
            return TextRequest(f"{name}/{number}", messages, seed_of(seed, "caption", name, number, attempt), (image,))

        def read(_: tuple[Record, int], text: str) -> str:
            asked = settings.instruction.replace("{template}", "")
            return read_sentence(
                text, settings.min_words, settings.max_words, settings.language, question=asked, slots=settings.slots
            )

        for record, answers in ask_parts(self.model, pictures, settings.captions, request, read, settings.attempts):
            found = [answer.value for answer in answers if answer.value is not None]
            faults = [answer.faults[-1] for answer in answers if answer.value is None]
            # Rejected only if no caption could be used; the faults of some are noted.
            said = {"captions": found, **({"faults": faults} if faults else {})} if found else {REJECTED: faults[0]}
            yield {"id": record["id"], **said}
