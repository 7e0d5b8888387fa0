"""Quadruples by a language model, each asked for with constraints of its own."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from ..components import Record, SynthesisError, TextModel, TextReply, TextRequest, seed_of
from ..models import ChatModel, ServerModel
from .checks import CheckSettings, fault_of, known_languages
from .drawing import Template
from .parsing import UnusableAnswer, parse_quadruple
from .writing import FIELDS, QuadrupleWriter

SCHEMA = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in FIELDS},
    "required": list(FIELDS),
    "additionalProperties": False,
}


@dataclass(frozen=True)
class LanguageModelWriter:
    """Settings of the writer that asks a language model.

    Every quadruple is asked for with a prompt whose slots are filled at random. Where the answer cannot be used, the
    next attempt fills them anew.

    Attributes:
        model: Who answers.
        prompt: What is asked, with {slots}: a JSON object with caption_a, caption_b, edit_ab and edit_ba.
        pools: What may stand in a slot; see `Template`.
        weights: Of a pool's phrases that are not equally likely.
        excluded: Phrases of the pools that never come together.
        system: How the model is told to behave; empty for no such message, which some models do not take.
        attempts: How often a quadruple is asked for until it is given up.
        checks: What a quadruple must be like.
    """

    kind: ClassVar[str] = "language-model"

    model: ChatModel | ServerModel
    prompt: str
    pools: dict[str, list[str]]
    weights: dict[str, dict[str, float]] = field(default_factory=dict)
    excluded: list[list[str]] = field(default_factory=list)
    system: str = ""
    attempts: int = 3
    checks: CheckSettings = field(default_factory=CheckSettings)

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1: {self.attempts}")
        self.template.draw(0)  # refuses excluded combinations that leave nothing

    @cached_property
    def template(self) -> Template:
        """The prompt with all that may fill it."""
        return Template(self.prompt, self.pools, self.weights, self.excluded)

    def load(self) -> QuadrupleWriter:
        """The writer, with its model.

        Raises:
            SynthesisError: the model cannot be loaded or reached, or nobody can tell the language of the texts.
        """
        if self.checks.language not in known_languages():
            raise SynthesisError(f"checks: language {self.checks.language!r} is unknown; use a code such as 'en'")
        return _LanguageModelWriter(self, self.model.load())

    def preview(self, item: str, seed: int) -> str:
        """What the model is asked first for an item."""
        messages, _ = self.ask(item, seed, attempt=0)
        return "\n\n".join(f"[{message['role']}]\n{message['content'].strip()}" for message in messages)

    def ask(self, item: str, seed: int, attempt: int) -> tuple[list[dict[str, str]], dict[str, list[str]]]:
        """The messages of an attempt, counted from 0, and the phrases drawn for it, by pool."""
        text, constraints = self.template.draw(seed_of(seed, "quadruple", item, attempt))
        messages = [{"role": "system", "content": self.system}] if self.system else []
        return [*messages, {"role": "user", "content": text}], constraints


@dataclass
class _Item:
    """A quadruple on its way: what it was asked for with last, and the answers that could not be used."""

    id: str
    constraints: dict[str, list[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)


class _LanguageModelWriter(QuadrupleWriter):
    """Asks anew, within the same stream of requests, for what could not be used."""

    def __init__(self, settings: LanguageModelWriter, model: TextModel) -> None:
        super().__init__()
        self._settings, self._model = settings, model
        self.about, self.usage = model.about, model.usage

    def write(self, ids: Iterable[str], seed: int) -> Iterator[Record]:
        fresh = (_Item(item) for item in ids)
        again: deque[_Item] = deque()
        asked: dict[str, _Item] = {}

        def requests() -> Iterator[TextRequest]:
            while (item := again.popleft() if again else next(fresh, None)) is not None:
                messages, item.constraints = self._settings.ask(item.id, seed, len(item.faults))
                asked[item.id] = item
                request_seed = seed_of(seed, "quadruple", item.id, len(item.faults))
                yield TextRequest(item.id, messages, request_seed, schema=SCHEMA)

        # Requests end when there is nothing to ask for at that moment; what fails later needs another round.
        while True:
            for reply in self._model.answer(requests()):
                item = asked.pop(reply.id)
                record = self._read(item, reply)
                if record is None:
                    again.append(item)
                else:
                    yield record
            if asked:
                raise SynthesisError(f"the language model left {len(asked)} requests unanswered, one of {min(asked)!r}")
            if not again:
                return

    def _read(self, item: _Item, reply: TextReply) -> Record | None:
        """The item's record; None if it should be asked for again."""
        texts: dict[str, str] = {}
        fault = reply.fault
        if fault is None:
            try:
                texts = parse_quadruple(reply.text)
                fault = fault_of(texts, self._settings.checks)
            except UnusableAnswer as error:
                fault = str(error)
        if fault is not None:
            item.faults.append(fault.partition(":")[0])  # without a server's own words, so that it can be counted
            item.answers.append(reply.text or fault)
            if len(item.faults) < self._settings.attempts:
                return None
            texts = {"rejected": item.faults[-1]}
        attempts = len(item.faults) + (fault is None)
        failed = {"faults": item.faults, "answers": item.answers} if item.faults else {}
        return {"id": item.id, **texts, "constraints": item.constraints, "attempts": attempts, **failed}
