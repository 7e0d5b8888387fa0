"""Reads one text out of a reply: a caption, a prompt."""

import html
import json
import re
from collections.abc import Collection, Iterator
from typing import Any

from .answering import UnusableAnswer, answer_part, is_refusal
from .faults import fault_of_text

_FENCE = re.compile(r"```[\w-]*[^\S\n]*\n?(.*?)\s*```", re.DOTALL)
_OPEN_FENCE = re.compile(r"\A```[\w-]*[^\S\n]*\n")
_TAG = re.compile(
    r"</?(?:p|b|i|em|strong|u|br|span|div|h\d|ul|ol|code|mark|small|center|font)(?:\s[^<>]*)?/?>", re.IGNORECASE
)
_NAME = (
    r"(?:(?:final|image|photo|picture|the|a|one|my|short|brief|detailed|concise|filled|completed|revised|generated|suggested|"
    r"possible|english|one-sentence|single-sentence|person|requested)[ -])*"
    r"(?:captions?|descriptions?|prompts?|answers?|outputs?|sentences?|responses?|summary|results?|templates?|texts?|edits?|"
    r"assistant|bildunterschrift|beschreibung|légende|description|leyenda|descripción)"
)
_LABEL = re.compile(
    rf"\A{_NAME}(?: (?:is|for|of|in)\b[^:\n.]{{0,60}})?\s*[:：]\s*|\A{_NAME}\s*(?:-|–|—|\n)\s*", re.IGNORECASE
)
_GREETING = re.compile(
    r"\A(?:(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|alright|yes|understood|got it)(?:[!:,\n]|\.\s)"
    r"|(?:great|gladly|no problem|happy to help|thank you|thanks|hello|hi)(?: there)?(?:[!\n]|\.\s))\s*",
    re.IGNORECASE,
)
_SAID = r"\b(?:captions?|descriptions?|sentences?|prompts?|answers?|texts?|summary|versions?|templates?|edits?)\b"
_LEAD = re.compile(
    rf"\A(?:(?:here(?:'|’)?s|here (?:is|are)|below is|this is|the following is|as requested|let me|a|the|my|i)\b"
    rf"[^:\n]{{0,80}}{_SAID}"
    r"|based on (?:the|this|your) (?:image|picture|photo)|here (?:it is|you go)"
    r"|(?:let me|i (?:would|will|can)) (?:describe|write|say))"
    r"[^:\n.!]{0,80}[:!]\s+",
    re.IGNORECASE,
)
_AFTERWARDS = re.compile(
    r"(?:(?<=[.!?\"”*_)。])\s+|\n\s*)[(\[*_>#-]*\s*(?:(?:please )?notes?\W{0,3}:|(?:please )?note that\b|"
    r"n\.?b\.?:|p\.?s\.?:|let me know|i hope|hope this|feel free|would you like|do you want|shall i|"
    r"if you(?:'|’)?d? (?:need|want|would|have|like|prefer)|is there anything|word count|\(?\d+ words\b|"
    r"(?:explanation|disclaimer|reasoning|confidence|source|remark)s?"
    r"\W{0,3}:|this (?:caption|description|sentence|answer|prompt)|the (?:caption|description|sentence|above)"
    r" (?:above|is|has|contains|focuses|describes|follows|uses|avoids|meets)\b|"
    r"(?:i|we)(?:'|’)?(?:ve| have)? (?:kept|left|avoided|described|followed|focused|used|tried|made|filled|"
    r"omitted|skipped)\b)"
    r".*\Z",
    re.IGNORECASE | re.DOTALL,
)
_ALTERNATIVES = re.compile(
    r"(?:\A|\n)\W*(?:(?:option|alternative|version|variant|caption|description|sentence|prompt|possibility)\s*(?:\d|[A-D]\b)|or)"
    r"\W*(?:[:.)]|\n)|\balternatively\b[,:]|\n\s*(?:\*\*)?or(?:\*\*)?\s*[:,]|\bor, (?:more|in other words|if)\b",
    re.IGNORECASE,
)
_LIST = re.compile(r"^\s*(?:[-*•·‣]|\d+\s*[.)]|\(\d+\)|[a-d]\))\s", re.MULTILINE)
_EMPHASIS = re.compile(r"(\*\*\*|\*\*|__|\*|(?<!\w)_|`)(?=\S)([^\n]*?\S)\1(?!\w)")
_HEADING = re.compile(r"^\s*(?:#{1,6}\s+|>\s+|-{3,}\s*$|\*{3,}\s*$|={3,}\s*$)", re.MULTILINE)
_MARKUP = re.compile(r"!?\[[^\]]*\]\([^)]*\)|https?://|\|.*\||\\\w+\{|\*\*|^#{1,6} |```|&\w+;", re.MULTILINE)
_QUOTES = dict(['""', "''", "“”", "‘’", "„“", "«»", "「」", "『』", "**", "``", "__"])  # opening -> closing
_AROUND = re.compile(
    "\\A[\u2190-\u21ff\u2300-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff\\s]+|[\u2190-\u21ff\u2300-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff\\s]+\\Z"
)
_ECHO = 8  # this many words in a row from the question are no answer


def read_sentence(
    reply: str,
    min_words: int,
    max_words: int,
    language: str = "en",
    question: str = "",
    slots: Collection[str] = (),
) -> str:
    """The one text of a reply, on one line, without what is around it.

    Thoughts, greetings, labels, fences, quotes, Markdown, emoji at its ends, and notes that follow are taken away.

    Args:
        reply: As it came.
        min_words: Fewest words of the text.
        max_words: Most words of the text.
        language: ISO 639-1 code of the language that it should be in.
        question: What the model was asked, without anything that the answer may repeat.
        slots: Names of what the question asks to be filled in.

    Raises:
        UnusableAnswer: it is empty, a refusal, a list or several texts; has markup or any fault of `fault_of_text`;
            repeats the question; or has too few or too many words.
    """
    text = _bare(answer_part(reply))
    line = " ".join(text.split())
    length = len(text.split())
    faults = [*_faults(text, question), line and fault_of_text(line, language, slots)]
    faults += [length < min_words and "too short", length > max_words and "too long"]
    if fault := next(filter(None, faults), None):
        raise UnusableAnswer(fault)
    return line


def _faults(text: str, question: str) -> Iterator[Any]:
    """The result of each check in turn: what is wrong, or something false."""
    yield not text and "empty answer"
    yield is_refusal(text) and "refused"
    yield _ALTERNATIVES.search(text) and "several texts and not one"
    yield _LIST.search(text) and "a list and not a sentence"
    yield re.search(r"\n\s*\n", text) and "several texts and not one"
    yield _MARKUP.search(text) and "markup"
    yield _runs(text) & _runs(question) and "repeats the question"


def _bare(text: str) -> str:
    """The text without whatever is around it."""
    fenced = _FENCE.findall(text)
    if len(fenced) == 1 and fenced[0].strip():
        text = fenced[0]
    text = _sole_string(html.unescape(_OPEN_FENCE.sub("", text)))
    text = _TAG.sub(lambda tag: "\n" if tag[0].lower().startswith(("<br", "<p", "</p", "<div", "</div")) else "", text)
    before = None
    while text != before:
        before, text = text, text.strip()
        text = _AFTERWARDS.sub("", _HEADING.sub("", text))
        text = _EMPHASIS.sub(r"\2", text)
        for around in (_AROUND, _GREETING, _LEAD, _LABEL):
            shorter = around.sub("", text)
            text = shorter if shorter.strip() else text
        text = unquoted(text)
    return text


def unquoted(text: str) -> str:
    """The text without quotation marks around the whole of it; those of a part of it stay."""
    end = len(text.rstrip("."))
    if end > 1 and _QUOTES.get(text[0]) == text[end - 1] and not set(text[1 : end - 1]) & {text[0], text[end - 1]}:
        return text[1 : end - 1]
    return text


def _sole_string(text: str) -> str:
    """The text of JSON that holds nothing else; what is no JSON stays."""
    if not text.lstrip().startswith(("{", "[", '"')):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    while isinstance(value, (dict, list)):
        if len(value) != 1:
            raise UnusableAnswer("several texts and not one" if value else "empty answer")
        (value,) = value.values() if isinstance(value, dict) else value
    if not isinstance(value, str):
        raise UnusableAnswer("no answer" if value is None else "no text in the answer")
    return value


def _runs(text: str) -> set[tuple[str, ...]]:
    """All runs of eight words in a text."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[start : start + _ECHO]) for start in range(len(words) - _ECHO + 1)}
