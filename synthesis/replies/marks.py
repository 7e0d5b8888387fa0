"""Reads the marks that a judging model gives, and nothing that only looks like one."""

import math
import re
from collections.abc import Sequence
from typing import Any

from .answering import Pairs, UnusableAnswer, answer_part, json_values, quoted

_WORDS = "zero one two three four five six seven eight nine ten"
_SPELLED = {word: float(value) for value, word in enumerate(_WORDS.split())}
_SCALES = _SPELLED | {"hundred": 100.0}
_OPENING, _CLOSING = r"[\s\"'`*_(\[]*", r"[\"'`*_)\]]*"
# A point or a comma before the decimals, but not "7,8,9", "1.2.3" or "1,000".
_NUMBER = rf"[-+−–]?\d+(?:\.\d+|,\d{{1,2}})?(?![.,]?\d)|(?:{'|'.join(_SPELLED)})"
_VALUE = re.compile(rf"{_OPENING}({_NUMBER})(?!\w){_CLOSING}", re.IGNORECASE)
_SCALE = re.compile(
    rf"\s*\(?\s*(?:/|out\s+of|of|von|sur|de|su)\s*(?:a\s+(?:possible|maximum)\s+)?(\d+(?:\.0+)?|{'|'.join(_SCALES)})"
    rf"(?![\w.,]*\d)\b\)?{_CLOSING}",
    re.IGNORECASE,
)
# A range, a share, a bound, or a number that goes on.
_GOES_ON = re.compile(
    r"[^\S\n]*(?:-|–|—|~|\.\.+|\bto\b|\bor\b|\band\b|\bbis\b)[^\S\n]*\d|[^\S\n]*(?:%|percent)|\+|[.,]?\d|,[^\S\n]+\d|[^\S\n]*/"
)
_IS_ALL = re.compile(r"\s*(?:$|[.;!\n}\]|)])")
_NAMED = (
    r"""(?<![\w.]){name}["'`*_)]*\s*(?:[:=：|]|->|→|\bis\b)[\s"'`*_]*"""
    r"""(?:\{{\s*["']?(?:score|mark|rating|value)["']?\s*:\s*)?"""
)
_LABEL = re.compile(r"\b(?:score|mark|rating|grade)\b[\"'`*_]*\s*(?:[:=：]|\bis\b|\bof\b)[\s\"'`*_]*", re.IGNORECASE)
_INNER = ("score", "mark", "rating", "value", "grade")
_UNSURE = float("nan")


def read_marks(
    answer: str, names: Sequence[str], lowest: float, highest: float, given: Sequence[str] = ()
) -> dict[str, float]:
    """The marks of these names in an answer.

    They are found by their names: in JSON objects, or, where none has any of them, in talk. A single mark may come
    alone. "8/10" and "8 out of 10" are 8 on a scale up to 10 and no mark on another; "7,5" is 7.5; ranges, shares and
    bounds are no marks.

    Args:
        answer: As it came.
        names: The names of the marks, in small letters and underscores.
        lowest: The worst mark.
        highest: The best mark.
        given: Texts that the model was shown: no mark is read where it repeats one.

    Raises:
        UnusableAnswer: a mark is missing, beyond the scale, or given twice with two values.
    """
    text = _without(answer_part(answer), given)
    objects = [found for found in json_values(text, "{") if any(_in_object(found, name) for name in names)]
    marks = {}
    for name in names:
        found = [mark for each in objects for mark in _in_object(each, name)]
        if not objects:
            named = re.compile(_NAMED.format(name=name.replace("_", "[ _-]?")), re.IGNORECASE)
            found = _marks_after(named, text, highest) or (_alone(text, highest) if len(names) == 1 else [])
        values = {_value_of(mark, highest) if objects else mark for mark in found}
        values.discard(None)
        if not values or any(math.isnan(value) for value in values):
            raise UnusableAnswer(f"no mark for {name}")
        if len(values) > 1:
            raise UnusableAnswer(f"several marks for {name}")
        marks[name] = values.pop()
        if not lowest <= marks[name] <= highest:
            raise UnusableAnswer(f"the mark for {name} is not from {lowest} to {highest}")
    return marks


def _without(text: str, given: Sequence[str]) -> str:
    """The text without repetitions of what was given, however its white space and quotes came back."""
    for shown in given:
        for form in (shown, quoted(shown)[1:-1]):
            words = [re.escape(word) for word in form.split()]
            if len(words) > 2:  # shorter ones may be marks
                text = re.sub(r"\s+".join(words), " ", text, flags=re.IGNORECASE)
    return text


def _in_object(value: Any, name: str) -> list[Any]:
    """Everything that stands under the name in a JSON value."""
    found = []
    for part in value if isinstance(value, list) else ():
        key, inner = part if isinstance(value, Pairs) else ("", part)
        is_named = re.sub(r"[\s_-]", "", key.lower()) == name.replace("_", "")
        found += [inner] if is_named else _in_object(inner, name)
    return found


def _value_of(value: Any, highest: float) -> float | None:
    """The mark that a JSON value holds; None if it holds none."""
    if isinstance(value, Pairs):
        inner = [entry for key, entry in value if key.lower() in _INNER]
        return _value_of(inner[0], highest) if len(inner) == 1 else _UNSURE
    if isinstance(value, str):
        mark = _mark(value, highest)
        return _UNSURE if mark is None and _VALUE.match(value) else mark
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return _UNSURE
    return float(value)


def _marks_after(label: re.Pattern[str], text: str, highest: float) -> list[float]:
    """The marks that follow a label; NaN for a number there that cannot be taken for one."""
    marks = [_mark(text[match.end() :], highest) for match in label.finditer(text)]
    return [mark for mark in marks if mark is not None]


def _alone(text: str, highest: float) -> list[float]:
    """The one mark of an answer that is nothing else, or that calls it score, mark, rating or grade."""
    if marks := _marks_after(_LABEL, text, highest):
        return marks
    match = _VALUE.match(text)
    if match is None:
        return []
    rest = text[match.end() :]
    scale = _SCALE.match(rest)
    alone = re.fullmatch(r"[\s.!\"'`*_)\]]*", rest[scale.end() :] if scale else rest)
    mark = _mark(text, highest)
    return [mark if alone and mark is not None else _UNSURE]


def _mark(text: str, highest: float) -> float | None:
    """The mark that a text begins with; None if it begins with no number, NaN if the number is no mark."""
    match = _VALUE.match(text)
    if match is None:
        return _UNSURE if re.match(rf"{_OPENING}(?:[-+−–~≈<>≥≤]|between\b|about\b|around\b)?\s*\d", text) else None
    number, rest = match[1].lower(), text[match.end() :]
    scale = _SCALE.match(rest)
    if scale:
        found = scale[1].lower()
        if (_SCALES[found] if found in _SCALES else float(found)) != highest:
            return _UNSURE
        rest = rest[scale.end() :]
    if number in _SPELLED:  # "one of the images is blurred" is no mark
        return _SPELLED[number] if scale or _IS_ALL.match(rest) else None
    if _GOES_ON.match(rest):
        return _UNSURE
    return float(re.sub("[−–]", "-", number).replace(",", "."))
