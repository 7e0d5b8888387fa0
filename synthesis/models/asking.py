"""Asks a language model about many items, and again where an answer cannot be used."""

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ..components import SynthesisError, TextModel, TextRequest

Item, Value = TypeVar("Item"), TypeVar("Value")

_TAG = "(?:think|thinking|reasoning)"
# Whole thoughts; then an end whose beginning the chat template wrote; then a beginning without an end.
_THOUGHTS = [
    re.compile(pattern, re.DOTALL | re.IGNORECASE)
    for pattern in (r"<(think|thinking|reasoning)>.*?</\1>", rf"\A.*</{_TAG}>", f"<{_TAG}>.*")
]
_REFUSAL = re.compile(
    r"\b(?:I(?:'|’)?m sorry|I am sorry|I apologi[sz]e|I (?:can(?:'|’)?t|cannot|can not|won(?:'|’)?t|am unable|"
    r"(?:'|’)m unable|must decline)|I(?:'|’)m (?:not able|unable)|as an AI|as a language model)\b",
    re.IGNORECASE,
)


class UnusableAnswer(ValueError):
    """Why a language model's answer cannot be used, as a short fixed phrase that can be counted."""


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


def _storable(value: Value) -> Value:
    """The value, unless it holds half a character, as the first part of an escaped emoji is: no file can."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UnusableAnswer("broken characters") from None
    return value


def check_attempts(attempts: int) -> None:
    """Refuse a number of attempts by which nothing is asked.

    Raises:
        ValueError: it is below 1.
    """
    if attempts < 1:
        raise ValueError(f"attempts must be at least 1: {attempts}")


def as_messages(system: str, text: str) -> list[dict[str, str]]:
    """A conversation that begins; with a system message unless it is empty, which some models do not take."""
    messages = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": text}]


def without_thoughts(answer: str) -> str:
    """An answer without what a reasoning model thought before it, and without white space around it.

    Raises:
        UnusableAnswer: nothing is left.
    """
    for thought in _THOUGHTS:
        answer = thought.sub("", answer)
    if not (answer := answer.strip()):
        raise UnusableAnswer("empty answer")
    return answer


def is_refusal(text: str) -> bool:
    """Whether a model says here that it will not or cannot answer."""
    return bool(_REFUSAL.search(text))
