"""Asks a language model about many items, again where an answer cannot be used."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ..components import SynthesisError, TextModel, TextReply, TextRequest
from ..quadruples.parsing import UnusableAnswer, is_refusal

Item = TypeVar("Item")

_THOUGHTS = re.compile(r"<(think|thinking|reasoning)>.*?(</\1>|\Z)|\A.*</(?:think|thinking|reasoning)>", re.S | re.I)
_FENCE = re.compile(r"\A```\w*\s+(.*?)\s*```\Z", re.S)
_LABEL = re.compile(r"\A(?:caption|description|prompt|answer|output|sentence)\s*:\s*", re.I)
_SLOT = re.compile(r"\[[^\]]*\]|\{[^}]*\}|<[^>]*>")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "*": "*"}


@dataclass
class Answer(Generic[Item]):
    """What came of asking about an item.

    Attributes:
        item: What was asked about.
        text: The answer, tidied; None if none could be used.
        attempts: How often it was asked.
        refused: The answers that could not be used, as they came.
        fault: Why the last of these could not.
    """

    item: Item
    text: str | None = None
    attempts: int = 0
    refused: list[str] = field(default_factory=list)
    fault: str | None = None


def ask(
    model: TextModel,
    items: Iterable[Item],
    request: Callable[[Item, int], TextRequest],
    attempts: int,
    words: tuple[int, int],
) -> Iterator[Answer[Item]]:
    """One answer per item, in any order.

    Args:
        model: Answers.
        items: What to ask about; taken as the model needs them.
        request: Of an item, at its n-th attempt from 0, as which it should have another seed. Ids are unique.
        attempts: At most so many.
        words: An answer has at least and at most so many.

    Raises:
        SynthesisError: the model cannot work, or left requests unanswered.
    """
    waiting: Iterable[Answer[Item]] = (Answer(item) for item in items)
    for attempt in range(attempts):
        asked: dict[str, Answer[Item]] = {}
        again: list[Answer[Item]] = []
        for reply in model.answer(_requests(waiting, attempt, request, asked)):
            answer = asked.pop(reply.id)
            answer.attempts += 1
            try:
                answer.text = _read(reply, words)
            except UnusableAnswer as error:
                answer.refused.append(reply.text)
                answer.fault = str(error).partition(":")[0]  # without a server's own words, so that it can be counted
                again.append(answer)
            else:
                yield answer
        if asked:
            raise SynthesisError(f"the model left {len(asked)} requests unanswered, one of {min(asked)!r}")
        waiting = again
    yield from waiting


def _requests(
    waiting: Iterable[Answer[Item]],
    attempt: int,
    request: Callable[[Item, int], TextRequest],
    asked: dict[str, Answer[Item]],
) -> Iterator[TextRequest]:
    for answer in waiting:
        wanted = request(answer.item, attempt)
        asked[wanted.id] = answer
        yield wanted


def _read(reply: TextReply, words: tuple[int, int]) -> str:
    if reply.fault is not None:
        raise UnusableAnswer(reply.fault)
    return plain_sentence(reply.text, words)


def plain_sentence(answer: str, words: tuple[int, int]) -> str:
    """The text of an answer without thoughts, fences, label and quotes, on one line.

    Raises:
        UnusableAnswer: it is empty, a refusal or a list, has a slot that was not filled, or too few or too many words.
    """
    text = _THOUGHTS.sub("", answer).strip()
    if fenced := _FENCE.match(text):
        text = fenced[1]
    text = _LABEL.sub("", text)
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    if not text:
        raise UnusableAnswer("empty answer")
    if is_refusal(text):
        raise UnusableAnswer("refused")
    if re.search(r"^\s*(?:[-*•]|\d+[.)])\s", text, re.M):
        raise UnusableAnswer("a list and not a sentence")
    if _SLOT.search(text):
        raise UnusableAnswer("a slot is not filled")
    text = " ".join(text.split())
    fewest, most = words
    count = len(text.split())
    if not fewest <= count <= most:
        raise UnusableAnswer("too short" if count < fewest else "too long")
    return text


def as_messages(system: str, text: str) -> list[dict[str, str]]:
    """A conversation that begins; with a system message unless it is empty."""
    messages = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": text}]


def check_asking(attempts: int, min_words: int, max_words: int) -> None:
    """Refuse settings by which nothing can be answered.

    Raises:
        ValueError: a number is out of range.
    """
    if attempts < 1:
        raise ValueError(f"attempts must be at least 1: {attempts}")
    if not 1 <= min_words <= max_words:
        raise ValueError(f"min_words must be at least 1 and at most max_words: {min_words}, {max_words}")
