"""Reads one sentence out of what a language model answered."""

import re

from ..models.asking import UnusableAnswer, check_attempts, is_refusal, without_thoughts

_FENCE = re.compile(r"\A```\w*\s+(.*?)\s*```\Z", re.S)
_LABEL = re.compile(r"\A(?:caption|description|prompt|answer|output|sentence)\s*:\s*", re.I)
_LIST = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.M)
_SLOT = re.compile(r"\[[^\]]*\]|\{[^}]*\}|<[^>]*>")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "*": "*"}


def plain_sentence(answer: str, min_words: int, max_words: int) -> str:
    """The text of an answer without thoughts, fences, label and quotes, on one line.

    Raises:
        UnusableAnswer: it is empty, a refusal or a list, has a slot that was not filled, or too few or too many words.
    """
    text = without_thoughts(answer)
    if fenced := _FENCE.match(text):
        text = fenced[1]
    text = _LABEL.sub("", text)
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    if not text:
        raise UnusableAnswer("empty answer")
    if is_refusal(text):
        raise UnusableAnswer("refused")
    if _LIST.search(text):
        raise UnusableAnswer("a list and not a sentence")
    if _SLOT.search(text):
        raise UnusableAnswer("a slot is not filled")
    words = text.split()
    if not min_words <= len(words) <= max_words:
        raise UnusableAnswer("too short" if len(words) < min_words else "too long")
    return " ".join(words)


def check_asking(attempts: int, min_words: int, max_words: int) -> None:
    """Refuse settings by which no sentence can be had.

    Raises:
        ValueError: a number is out of range.
    """
    check_attempts(attempts)
    if not 1 <= min_words <= max_words:
        raise ValueError(f"min_words must be at least 1 and at most max_words: {min_words}, {max_words}")
