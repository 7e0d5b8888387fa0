"""Templates: texts with {fields}, which are checked before any work, and filled in one pass."""

import re
from collections.abc import Collection, Mapping

from pydantic import AfterValidator

from ..names import meant

_FIELD = re.compile(r"\{(\w+)\}")
_BRACES = re.compile(r"\{+[^{}]*\}+|[{}]")


def with_fields(*fields: str, needed: Collection[str] | None = None, other_braces: bool = False) -> AfterValidator:
    """For a setting: its text must pass `check_template`."""
    return AfterValidator(lambda text: check_template(text, fields, needed, other_braces))


def check_template(
    text: str, fields: Collection[str], needed: Collection[str] | None = None, other_braces: bool = False
) -> str:
    """Refuse a template that would be used with an unfilled field, or without a necessary one.

    Args:
        text: The template.
        fields: Names that it may have in braces.
        needed: Names that it must have; None for all of them.
        other_braces: Whether braces that are not fields may occur as text, as in an example of JSON.

    Returns:
        The text.

    Raises:
        ValueError: a field is missing, unknown, has no name, or has a format; or there are other braces.
    """
    found = set(_FIELD.findall(text))
    known = f"it knows {', '.join(f'{{{name}}}' for name in fields)}" if fields else "nothing is filled in there"
    for braces in _BRACES.findall(text):
        inner = braces.strip("{}")
        name = re.match(r"\s*(\w*)", inner)[1]
        plain = _FIELD.fullmatch(braces)
        if plain and name in fields:
            continue
        if name in fields:
            raise ValueError(f"write {{{name}}}, without a format or more braces: {braces!r}")
        if plain or (not inner and len(braces) > 1):
            hint = meant(braces, [f"{{{field}}}" for field in fields]) or f"{known}."
            raise ValueError(f"there is no field {braces}; {hint}")
        if not other_braces:
            raise ValueError(f"braces are for fields, and no other braces may be in it: {braces!r}; {known}")
    if missing := [name for name in (fields if needed is None else needed) if name not in found]:
        names = " and ".join(f"{{{name}}}" for name in missing)
        raise ValueError(f"must hold {names}: {text!r:.80}")
    return text


def fill_template(text: str, values: Mapping[str, str]) -> str:
    """The template with its fields filled; what looks like a field in a value stays text."""
    return _FIELD.sub(lambda field: values.get(field[1], field[0]), text)
