"""Asks a language model about many items, and again where an answer cannot be used."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ..components import Record, SynthesisError, TextModel, TextRequest
from ..replies.answering import UnusableAnswer

Item, Value = TypeVar("Item"), TypeVar("Value")


@dataclass
class Answer(Generic[Item, Value]):
    """What came of asking about an item.

    Attributes:
        item: What was asked about.
        value: What was read out of the answer; None if no answer could be used.
        faults: Why the answers before could not be used.
        refused: These answers as they came; where there was none, what the model said instead.
    """

    item: Item
    value: Value | None = None
    faults: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def attempts(self) -> int:
        """How often it was asked."""
        return len(self.faults) + (self.value is not None)


def ask(
    model: TextModel,
    items: Iterable[Item],
    request: Callable[[Item, int], TextRequest],
    read: Callable[[Item, str], Value],
    attempts: int,
) -> Iterator[Answer[Item, Value]]:
    """One answer per item, in any order. What could not be used is asked for anew within the same stream of requests.

    Args:
        model: Answers.
        items: What to ask about; taken as the model needs them.
        request: Of an item, at its n-th attempt from 0, as which it should have another seed. Ids are one per item.
        read: Makes a plain JSON value of the text that an item was answered with, or raises `UnusableAnswer`.
        attempts: At most so many.

    Raises:
        SynthesisError: the model cannot work, or left requests unanswered.
    """
    fresh = (Answer(item) for item in items)
    again: deque[Answer[Item, Value]] = deque()
    asked: dict[str, Answer[Item, Value]] = {}

    def requests() -> Iterator[TextRequest]:
        while (answer := again.popleft() if again else next(fresh, None)) is not None:
            wanted = request(answer.item, len(answer.faults))
            asked[wanted.id] = answer
            yield wanted

    # Requests end when there is nothing to ask for at that moment; what fails later needs another round.
    while True:
        for reply in model.answer(requests()):
            answer = asked.pop(reply.id)
            try:
                if reply.fault is not None:
                    raise UnusableAnswer(reply.fault)
                if reply.finish_reason not in (None, "stop"):  # a model of somebody else's may tell no fault
                    raise UnusableAnswer(f"no whole answer ({reply.finish_reason})")
                answer.value = _storable(read(answer.item, reply.text))
            except UnusableAnswer as error:
                answer.faults.append(str(error).partition(":")[0])  # without a server's own words: it can be counted
                answer.refused.append((reply.text or str(error)).encode("utf-8", "replace").decode())
                if len(answer.faults) < attempts:
                    again.append(answer)
                    continue
            yield answer
        if asked:
            raise SynthesisError(f"the model left {len(asked)} requests unanswered, one of {min(asked)!r}")
        if not again:
            return


def ask_parts(
    model: TextModel,
    records: Iterable[Record],
    num_parts: int,
    request: Callable[[tuple[Record, int], int], TextRequest],
    read: Callable[[tuple[Record, int], str], Value],
    attempts: int,
) -> Iterator[tuple[Record, list[Answer[tuple[Record, int], Value]]]]:
    """Of each record the answers to so many questions, in their order; the items are a record and a number from 0.

    Records come in any order, otherwise it is as `ask`.
    """
    waiting: dict[str, dict[int, Answer[tuple[Record, int], Value]]] = {}
    items = ((record, number) for record in records for number in range(num_parts))
    for answer in ask(model, items, request, read, attempts):
        record, number = answer.item
        answers = waiting.setdefault(record["id"], {})
        answers[number] = answer
        if len(answers) == num_parts:
            del waiting[record["id"]]
            yield record, [answers[number] for number in range(num_parts)]


def _storable(value: Value) -> Value:
    """The value, unless it holds half a character, as the first part of an escaped emoji is: no file can."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UnusableAnswer("broken characters") from None
    return value


def as_messages(system: str, text: str) -> list[dict[str, str]]:
    """A conversation that begins; with a system message unless it is empty, which some models do not take."""
    messages = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": text}]


def check_words(settings: Any) -> Any:
    """Of settings that ask for a text, which they give back: that the fewest words are not more than the most.

    Raises:
        ValueError: they are.
    """
    if settings.min_words > settings.max_words:
        raise ValueError(f"min_words must be at most max_words: {settings.min_words}, {settings.max_words}")
    return settings
