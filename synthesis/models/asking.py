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
    """What came of asking about an item."""

    item: Item
    value: Value | None = None  # read from the answer; None if no answer could be used
    faults: list[str] = field(default_factory=list)  # why earlier answers could not be used
    refused: list[str] = field(default_factory=list)  # those answers as they came, or what the model said instead

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
    """One answer per item, in any order. Unusable answers are asked for again in the same stream of requests.

    Args:
        model: Answers the requests.
        items: What to ask about; taken as the model needs them.
        request: Makes the request for an item at its n-th attempt, from 0; each attempt should have another seed. Ids
            are one per item.
        read: Makes a plain JSON value of the text that an item was answered with, or raises `UnusableAnswer`.
        attempts: Most attempts per item.

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

    # The requests end when there is nothing left to ask at that moment; what fails later needs another round.
    while True:
        for reply in model.answer(requests()):
            answer = asked.pop(reply.id)
            try:
                if reply.fault is not None:
                    raise UnusableAnswer(reply.fault)
                if reply.finish_reason not in (None, "stop"):  # a user's own model may tell no fault
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
    """Each record with the answers to its `num_parts` questions, in order; an item is a record and a number from 0.

    Records come in any order. Otherwise this works like `ask`.
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
    """The value, unless it holds half a character, such as the first part of an escaped emoji: no file can hold it."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UnusableAnswer("broken characters") from None
    return value


def as_messages(system: str, text: str) -> list[dict[str, str]]:
    """The start of a conversation; without a system message if that is empty, since some models take none."""
    messages = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": text}]


def check_words(settings: Any) -> Any:
    """The settings, if `min_words` is at most `max_words`; a ValueError otherwise."""
    if settings.min_words > settings.max_words:
        raise ValueError(f"min_words must be at most max_words: {settings.min_words}, {settings.max_words}")
    return settings
