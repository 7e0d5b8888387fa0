"""Filters as Milvus' expressions, and what is known of an image as the fields of a collection that they ask.

The fields of `metadata.FIELDS` are fields of the collection, null where nothing is known; tags lie in two of JSON,
`texts` and `numbers`, so that values of one tag that are not of one kind are never compared.

An expression has `not` right before a comparison alone, beside a test for what is not known: so it gives the images
that the filter does, whatever an engine makes of null.
"""

import math
from typing import Any

from .filters import And, Compare, Condition, Not
from .metadata import FIELDS, NUMBER, TEXT, Entry

TAGS = {TEXT: "texts", NUMBER: "numbers"}  # fields of the collection
NOBODY = "id < 0"
_WILDCARDS = "%_\\"
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def fields_of(entry: Entry) -> dict[str, Any]:
    """The fields of an entry whose path is as it is stored."""
    sides = entry.box or (None,) * 4
    tags: dict[str, dict[str, Any]] = {name: {} for name in TAGS.values()}
    for name, value in entry.tags.items():
        if isinstance(value, str):
            tags["texts"][name] = _utf8(value)
        elif math.isfinite(value):
            tags["numbers"][name] = +value  # True is 1, as in SQLite
        else:
            raise ValueError(f"the tag {name} is {value}, and Milvus has no infinite numbers: change it in the gallery")
    known = {"path": entry.path, "time": entry.time, "camera": entry.camera, "taken": entry.taken}
    known |= dict(zip(("left", "top", "right", "bottom"), sides, strict=True))
    return {name: _utf8(value) if isinstance(value, str) else value for name, value in known.items()} | tags


def to_milvus(condition: Condition) -> str:
    """An expression that is true of the images of which a condition holds, and, of some texts, of a few others.

    `"50%" in path` becomes a pattern, in which no sign can be taken literally by all versions of Milvus: there it
    stands for any sign.

    Raises:
        ValueError: Milvus cannot express it.
    """
    return _expression(condition, True)


def _expression(condition: Condition, holds: bool) -> str:
    if isinstance(condition, Not):
        return _expression(condition.condition, not holds)
    if isinstance(condition, Compare):
        return _leaf(condition, holds)
    word = " and " if isinstance(condition, And) == holds else " or "
    return word.join(f"({_expression(part, holds)})" for part in condition.conditions)


def _leaf(condition: Compare, holds: bool) -> str:
    value = condition.value
    if condition.operator == "contains" and not holds and any(sign in value for sign in _WILDCARDS):
        raise ValueError(
            f"where: Milvus cannot tell in which {condition.field} there is no {value!r:.60}, since {', '.join('%_')} "
            "and the backslash stand for any sign there; ask otherwise, or with exact=True: the folder answers"
        )
    values = value if condition.operator == "in" else (value,)
    kinds = [NUMBER, TEXT] if value is None else sorted({_kind(each) for each in values})
    if condition.field in FIELDS:
        kinds = [FIELDS[condition.field]]
    parts = []
    for kind in kinds:
        place, is_known = _place(condition.field, kind)
        test = _test(condition.operator, place, [each for each in values if each is None or _kind(each) == kind])
        if holds:
            parts.append(test if value is not None else f"{is_known} and {test}" if test else is_known)
        else:
            parts.append(f"not ({is_known}) or not ({test})" if test else f"not ({is_known})")
    if not parts:
        return NOBODY if holds else f"not ({NOBODY})"
    return (" or " if holds else " and ").join(f"({part})" for part in parts)


def _place(field: str, kind: str) -> tuple[str, str]:
    """Where a collection has a field, and how it says that it is known."""
    if field in FIELDS:
        return field, f"{field} is not null"
    place = f"{TAGS[kind]}[{_literal(field)}]"
    return place, f"exists {place}"


def _test(operator: str, place: str, values: list[Any]) -> str:
    """What is to be true of a value that is known; "" where that is enough."""
    [value, *_] = values or [None]
    match operator:
        case "known":
            return ""
        case "true":
            is_text = place.startswith(TAGS[TEXT]) or FIELDS.get(place) == TEXT
            return f'{place} != ""' if is_text else f"{place} != 0"
        case "contains":
            return f"{place} like {_literal('%' + ''.join('_' if c in _WILDCARDS else c for c in value) + '%')}"
        case "in":
            return " or ".join(f"{place} == {_literal(each)}" for each in values) or NOBODY
    return f"{place} {operator} {_literal(value)}"


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return f'"{_utf8(value).translate(_ESCAPES)}"'
    if not math.isfinite(value):
        raise ValueError(
            f"where: Milvus has no number {value}; ask otherwise, or with exact=True, which asks the folder"
        )
    return repr(+value)


def _kind(value: Any) -> str:
    return TEXT if isinstance(value, str) else NUMBER


def _utf8(text: str) -> str:
    """A text that Milvus takes: bytes of a path that are no UTF-8 are written out."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
