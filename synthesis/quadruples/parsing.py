"""Reads a quadruple out of what a language model answered.

Answers come with thoughts before them, talk around them, in fences, in JSON that is nearly JSON, under other names and
in other nestings. Whatever can be read in one way only is read; all else is refused, because another attempt costs
little and a wrong quadruple (swapped edits, a text cut off) costs a group of triplets.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ..replies.answering import Pairs, UnusableAnswer, answer_part, is_refusal, json_values, visible
from ..replies.sentences import unquoted
from .writing import FIELDS

# A field's name, after wrappers are off and all but letters and digits is gone: "imageAcaption", "edit_from_a_to_b".
_A = "(?:a|1|one|first|left|source|reference|before)"
_B = "(?:b|2|two|second|right|target|after)"
_SHOWN = "(?:captions?|descriptions?|texts?|of|for|the|image|picture|photo|side|person|scene)*"
_EDIT = "(?:edits?|editing|changes?|modifications?|instructions?|captions?|texts?|from|the|image|picture)*"
_WRAPPER = "(?:quadruples?|results?|data|answer|output|response|json|items?)*"
_NAMES = {
    "caption_a": re.compile(f"{_WRAPPER}{_SHOWN}{_A}{_SHOWN}"),
    "caption_b": re.compile(f"{_WRAPPER}{_SHOWN}{_B}{_SHOWN}"),
    "edit_ab": re.compile(f"{_WRAPPER}{_EDIT}{_A}(?:to|2|into)?(?:image|picture)?{_B}{_EDIT}"),
    "edit_ba": re.compile(f"{_WRAPPER}{_EDIT}{_B}(?:to|2|into)?(?:image|picture)?{_A}{_EDIT}"),
}


def parse_quadruple(answer: str) -> dict[str, str]:
    """The four texts of `FIELDS`, white space and quotes around them tidied.

    Raises:
        UnusableAnswer: there is no quadruple in the answer, or more than one, or one that can be read in several ways.
    """
    text = answer_part(answer)
    reason = "broken JSON" if "{" in text else "no JSON in the answer"
    found: list[dict[str, str]] = []
    for value in _json_values(text):
        try:
            quadruple = _quadruple_of(value)
        except UnusableAnswer as error:
            reason = str(error)
        else:
            if quadruple not in found:  # a model may repeat itself
                found.append(quadruple)
    if len(found) > 1 or reason == "several quadruples in the answer":
        raise UnusableAnswer("several quadruples in the answer")
    if found:
        return found[0]
    raise UnusableAnswer("refused" if is_refusal(text) else reason)


def _json_values(text: str) -> Iterator[Any]:
    """Every outermost object or array in the text; where none is sound, what can be repaired without loss."""
    is_sound = False
    for value in json_values(text, "{["):
        # Brackets in running text, such as "[1]", hold neither objects nor arrays.
        if value and (isinstance(value, Pairs) or any(isinstance(part, list) for part in value)):
            is_sound = True
            yield value
    if not is_sound and (repaired := _repaired(text)) is not None:
        yield repaired


def _repaired(text: str) -> Any | None:
    """What json_repair makes of the text from the first brace to the last, if every word of it is still there.

    Where quotes are missing or doubled it would cut texts short or run them together: words get lost.
    """
    import json_repair

    broken = text[text.find("{") : text.rfind("}") + 1] if "{" in text else ""
    try:
        value = json_repair.loads(broken)
    except RecursionError:
        return None
    kept = [word for path, leaf in _leaves(value) for word in _words(f"{' '.join(path)} {leaf}")]
    return value if isinstance(value, dict) and Counter(kept) == Counter(_words(broken)) else None


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", re.sub(r"\\[nrt\"']", " ", text))


def _quadruple_of(value: Any) -> dict[str, str]:
    """The one text of each field, wherever in the value it is."""
    quadruple: dict[str, str] = {}
    for path, leaf in _leaves(value):
        field = _field_of(path)
        if field is None:
            continue
        if field in quadruple:
            raise UnusableAnswer("several quadruples in the answer")
        if not isinstance(leaf, str):
            raise UnusableAnswer("a field is not text")
        quadruple[field] = unquoted(" ".join(visible(leaf).split()))
    if set(quadruple) != set(FIELDS):
        raise UnusableAnswer("fields are missing")
    if not all(quadruple.values()):
        raise UnusableAnswer("a field is empty")
    return {field: quadruple[field] for field in FIELDS}


def _field_of(path: tuple[str, ...]) -> str | None:
    """The field that a path of keys names; None if it names none or several."""
    joined = "".join(path).lower()
    if "<-" in joined or "←" in joined:  # "B <- A" is an edit from A to B, or is it?
        return None
    name = re.sub(r"[^a-z0-9]", "", joined)
    fields = [field for field, pattern in _NAMES.items() if pattern.fullmatch(name)]
    return fields[0] if len(fields) == 1 else None


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Everything that is neither an object nor an array, with the keys that lead there; arrays have none."""
    if isinstance(value, (dict, Pairs)):
        for key, inner in value.items() if isinstance(value, dict) else value:
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path)
    else:
        yield path, value
