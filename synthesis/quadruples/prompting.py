"""Quadruples by a language model, which is asked for each of them with other constraints."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Literal

from pydantic import model_validator

from ..components import REJECTED, AskingPart, Record, TextRequest, seed_of
from ..models import LanguageModel
from ..models.asking import as_messages, ask
from ..replies.answering import UnusableAnswer
from ..settings import Count, Settings
from .checks import CheckSettings, fault_of
from .parsing import parse_quadruple
from .sampling import Template
from .writing import FIELDS, TextWriter

SCHEMA = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in FIELDS},
    "required": list(FIELDS),
    "additionalProperties": False,
}


class LanguageModelWriter(Settings):
    """Settings of the writer that asks a language model.

    Every quadruple is asked for with a prompt whose slots are filled at random. Where the answer cannot be used, the
    next attempt fills them anew.

    Attributes:
        model: The language model.
        prompt: What is asked for, with {slots}: a JSON object with caption_a, caption_b, edit_ab and edit_ba.
        pools: What may stand in a slot; see `Template`.
        weights: How likely phrases of a pool are, if not equally.
        excluded: Phrases of the pools that never come together.
        system: How the model is told to behave; empty for no such message, which some models do not take.
        attempts: How often a quadruple is asked for until it is given up.
        checks: What a quadruple must be like.
    """

    kind: Literal["language-model"] = "language-model"

    model: LanguageModel
    prompt: str
    pools: dict[str, list[str]]
    weights: dict[str, dict[str, float]] = {}
    excluded: list[list[str]] = []
    system: str = ""
    attempts: Count = 3
    checks: CheckSettings = CheckSettings()

    @model_validator(mode="after")
    def _try_template(self) -> "LanguageModelWriter":
        self.template.sample(0)  # refuses excluded combinations that leave nothing
        return self

    @cached_property
    def template(self) -> Template:
        """The prompt with everything that may fill it."""
        return Template(self.prompt, self.pools, self.weights, self.excluded)

    def load(self) -> TextWriter:
        """The writer; raises SynthesisError if its model cannot be loaded or reached."""
        return _LanguageModelWriter(self, self.model.load())

    def preview(self, item: str, seed: int) -> str:
        """What the model is asked at the first attempt of an item."""
        messages, _ = self.ask(item, seed, attempt=0)
        return "\n\n".join(f"[{message['role']}]\n{message['content'].strip()}" for message in messages)

    def ask(self, item: str, seed: int, attempt: int) -> tuple[list[dict[str, str]], dict[str, list[str]]]:
        """The messages of an attempt, counted from 0, and the phrases chosen for it, by pool."""
        text, constraints = self.template.sample(seed_of(seed, "quadruple", item, attempt))
        return as_messages(self.system, text), constraints


class _LanguageModelWriter(AskingPart, TextWriter):
    def write(self, ids: Iterable[str], seed: int) -> Iterator[Record]:
        constraints: dict[str, dict[str, list[str]]] = {}  # of the last attempt

        def request(item: str, attempt: int) -> TextRequest:
            messages, constraints[item] = self.settings.ask(item, seed, attempt)
            return TextRequest(item, messages, seed_of(seed, "quadruple", item, attempt), schema=SCHEMA)

        def read(_: str, text: str) -> dict[str, str]:
            texts = parse_quadruple(text)
            if fault := fault_of(texts, self.settings.checks):
                raise UnusableAnswer(fault)
            return texts

        for answer in ask(self.model, ids, request, read, self.settings.attempts):
            texts = {REJECTED: answer.faults[-1]} if answer.value is None else answer.value
            failed = {"faults": answer.faults, "answers": answer.refused} if answer.faults else {}
            chosen = constraints.pop(answer.item)
            yield {"id": answer.item, **texts, "constraints": chosen, "attempts": answer.attempts, **failed}
