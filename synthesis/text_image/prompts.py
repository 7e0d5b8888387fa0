"""Writes the prompts that images of people are painted from."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import model_validator

from ..components import REJECTED, AskingPart, Record, TextRequest, seed_of
from ..models import LanguageModel
from ..models.asking import as_messages, ask, check_words
from ..quadruples.sampling import Template
from ..quadruples.writing import TextWriter
from ..replies.languages import Language
from ..replies.sentences import read_sentence
from ..settings import Count, Settings
from ..templates import fill_template, with_fields


class _FromTemplate(Settings):
    """What settings with a `template` and `pools` have in common."""

    @model_validator(mode="after")
    def _try_template(self) -> Any:
        self.sampler.sample(0)  # refuses templates that cannot be filled
        return self

    @cached_property
    def sampler(self) -> Template:
        """The template with everything that may fill it."""
        return Template(self.template, self.pools)


class TemplatePrompts(_FromTemplate):
    """Settings of prompts sampled from one template.

    A prompt may come twice; the template should allow far more of them than are wanted.

    Attributes:
        template: The prompt, with {slots}.
        pools: What may stand in a slot, all equally likely. A phrase may have slots of its own.
    """

    kind: Literal["template"] = "template"

    template: str
    pools: dict[str, list[str]]

    def load(self) -> TextWriter:
        """The writer."""
        return _TemplateWriter(self)

    def preview(self, item: str, seed: int) -> str:
        """The prompt of an item."""
        return self.sampler.sample(seed_of(seed, "prompt", item))[0]


class _TemplateWriter(TextWriter):
    """Notes the chosen phrases under `constraints`, by pool."""

    def __init__(self, settings: TemplatePrompts):
        super().__init__()
        self.settings = settings

    def write(self, ids: Iterable[str], seed: int) -> Iterator[Record]:
        for name in ids:
            prompt, constraints = self.settings.sampler.sample(seed_of(seed, "prompt", name))
            yield {"id": name, "prompt": prompt, "constraints": constraints}


class RoughTemplatePrompts(_FromTemplate):
    """Settings of prompts that a language model writes out from a rough template.

    Attributes:
        model: The language model.
        template: What to write about, with {slots}.
        pools: What may stand in a slot; see `TemplatePrompts`.
        request: What the model is asked; {outline} stands for the filled template.
        system: How it is told to behave; empty for no such message.
        attempts: How often it is asked until the answer can be used. Needs a `temperature` above 0.
        min_words: Fewest words of a prompt.
        max_words: Most words of a prompt; CLIP, which many painters read with, sees about 55.
        language: ISO 639-1 code of the language that prompts must be in.
    """

    kind: Literal["rough-template"] = "rough-template"

    model: LanguageModel
    template: str
    pools: dict[str, list[str]]
    request: Annotated[str, with_fields("outline")]
    system: str = ""
    attempts: Count = 3
    min_words: Count = 8
    max_words: Count = 55
    language: Language = "en"

    _check_words = model_validator(mode="after")(check_words)

    def load(self) -> TextWriter:
        """The writer; raises SynthesisError if its model cannot be loaded or reached."""
        return _RoughTemplateWriter(self, self.model.load())

    def preview(self, item: str, seed: int) -> str:
        """What the model is asked for an item."""
        outline, _ = self.sampler.sample(seed_of(seed, "prompt", item))
        return fill_template(self.request, {"outline": outline})


class _RoughTemplateWriter(AskingPart, TextWriter):
    """Notes the filled template under `outline`, and the chosen phrases under `constraints`, by pool."""

    def write(self, ids: Iterable[str], seed: int) -> Iterator[Record]:
        settings = self.settings

        def request(name: str, attempt: int) -> TextRequest:
            messages = as_messages(settings.system, settings.preview(name, seed))
            return TextRequest(name, messages, seed_of(seed, "prompt", name, attempt))

        def read(_: str, text: str) -> str:
            asked = settings.request.replace("{outline}", "")
            return read_sentence(text, settings.min_words, settings.max_words, settings.language, question=asked)

        for answer in ask(self.model, ids, request, read, settings.attempts):
            outline, constraints = settings.sampler.sample(seed_of(seed, "prompt", answer.item))
            made = {REJECTED: answer.faults[-1]} if answer.value is None else {"prompt": answer.value}
            refused = {"answers": answer.refused} if answer.refused else {}
            yield {"id": answer.item, **made, "outline": outline, "constraints": constraints, **refused}
