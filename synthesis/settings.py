"""Settings from YAML by pydantic: nested, for every part of a pipeline, each with the values that it takes.

The settings of a part are in the part's file, and `load()` makes the part. A part that needs heavy libraries is in a
file of its own, `x_model.py` beside `x.py`, which `load()` imports and which knows only the base class of the settings:
so a recipe is read without these libraries, and imports do not lead back.

Where a recipe chooses among several parts, `kind` names one. Nothing is converted silently, except a whole number where
a number is expected. An error is one line: file, line, the setting's path, what was expected, what was found.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from .. import yaml_files
from ..names import meant, nearest
from ..yaml_files import SettingsFileError

Value = TypeVar("Value")
_FREE = object()

# A setting that does not decide the results (it says where and how fast, not what): it may change on resuming.
Free = Annotated[Value, _FREE]

# Whole numbers above these are typing errors, which would plan, allocate or wait without end.
Count = Annotated[int, Field(ge=1, le=10**9)]
CountOrZero = Annotated[int, Field(ge=0, le=10**9)]
BatchSize = Annotated[int, Field(ge=1, le=100_000)]
Concurrency = Annotated[int, Field(ge=1, le=100_000)]  # requests under way at once
Pixels = Annotated[int, Field(ge=1, le=8_192)]
Workers = Annotated[int, Field(ge=1, le=1_024)]

Texts = Annotated[list[str], Field(min_length=1)]

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
TrueShare = Annotated[float, Field(gt=0, lt=1)]  # neither nothing nor everything


def _name_of_model(name: str) -> str:
    if not name.strip():
        raise ValueError("expected a folder, or an id on the Hub, found nothing")
    return name


ModelName = Annotated[str, AfterValidator(_name_of_model)]

_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*", re.IGNORECASE)
_MODELS = ("model", "sentences")  # settings that name a model
_EXPECTED = {
    "string_type": "a text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping of settings",
    "model_attributes_type": "a mapping of settings",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le:,}",
    "less_than": "less than {lt}",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "a text that matches {pattern}",
    "too_short": "at least {min_length} of them",
}


class RecipeError(SettingsFileError):
    """A recipe cannot be used. The message names the file, the key, what was expected, and the nearest valid key."""


class Settings(BaseModel):
    """Settings of one part. They cannot be changed, and refuse unknown names.

    Settings made in Python are checked like those from YAML; an error is pydantic's ValidationError, a ValueError.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _know_names(cls, values: Any) -> Any:
        for name in values if isinstance(values, Mapping) else ():
            if name not in cls.model_fields:
                told = {"setting": name, "hint": nearest(name, cls.model_fields)}
                raise PydanticCustomError("unknown_setting", "there is no setting '{setting}'; {hint}", told)
        return values

    def replaced(self, **changes: Any) -> Any:
        """The same settings with these changes, checked anew."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | changes)


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file; see `fafa.yaml_files`.

    Raises:
        RecipeError: there is no such file, or it holds no mapping.
    """
    try:
        return yaml_files.read_yaml(file)
    except SettingsFileError as error:
        raise RecipeError(str(error)) from None


def read_settings(kind: Any, content: Any, where: Path | str) -> Any:
    """Make settings of a mapping.

    Args:
        kind: A class of settings, or a union of them, from which `kind` chooses.
        content: A mapping, as YAML gives it.
        where: The file that it was read from, or words for messages.

    Raises:
        RecipeError: an unknown or missing key, or a value that the class refuses.
    """
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        faults = error.errors(include_url=False)
    fault = next((fault for fault in faults if fault["type"] == "unknown_setting"), faults[0])
    if fault["type"] == "union_tag_not_found":  # pydantic lists the known kinds only if the unknown one is a text
        fault["input"]["kind"] = str(fault["input"].get("kind", "nothing"))
        return read_settings(kind, content, where)
    path = _path_in(content, fault["loc"])
    place = str(where)
    if isinstance(where, Path):
        place += f", line {yaml_files.line_of(where, [*path, fault.get('ctx', {}).get('setting')])}"
    if path:
        place += ": " + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
    raise RecipeError(f"{place}: {_told(fault, faults)}")


def _path_in(content: Any, steps: Sequence[str | int]) -> list[str | int]:
    """The keys to a refused value, without the kinds that pydantic puts between them."""
    path, is_chosen = [], False
    for step in steps:
        is_key = isinstance(content, Mapping) and step in content
        if isinstance(content, Mapping) and step == content.get("kind") and not is_chosen:
            is_chosen = True
        elif is_key or (isinstance(content, list) and isinstance(step, int)):
            path.append(step)
            content, is_chosen = content[step], False
    return path


def _told(fault: Mapping[str, Any], faults: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong, and what to write instead."""
    kind, value, about = fault["type"], fault["input"], fault.get("ctx", {})
    if kind == "missing":
        beside = (other for other in faults if other["type"] == "missing" and other["loc"][:-1] == fault["loc"][:-1])
        return f"add {' and '.join(str(other['loc'][-1]) for other in beside)}"
    if kind == "union_tag_invalid":
        kinds = about["expected_tags"].replace("'", "").split(", ")
        return f"expected kind: {' or '.join(kinds)}; found {about['tag']!r}{meant(about['tag'], kinds, '; ')}"
    if kind in ("value_error", "unknown_setting"):
        return fault["msg"].removeprefix("Value error, ")
    if kind not in _EXPECTED:
        return f"{fault['msg'].replace('Input should be', 'expected')}, found {_short(value)}"
    found = f"{_kind(value)} ({_short(value)})" if kind.endswith("_type") else _short(value)
    hint = ""
    if kind == "float_type" and isinstance(value, str) and _NUMBER.fullmatch(value):
        hint = "; YAML takes 1e-4 for a text: write 1.0e-4"
    elif kind == "literal_error":
        hint = meant(value, re.findall("'([^']+)'", about["expected"]), "; ")
    elif kind == "string_type" and isinstance(value, bool):
        hint = "; YAML takes yes, no, on and off for true or false: write the text in quotes"
    return f"expected {_EXPECTED[kind].format(**about)}, found {found}{hint}"


def deciding(settings: Any) -> Any:
    """The settings that decide the results, as plain JSON values: all that are not `Free`."""
    if isinstance(settings, Settings):
        kind = {"kind": settings.kind} if hasattr(settings, "kind") else {}
        names = [name for name, entry in type(settings).model_fields.items() if _FREE not in entry.metadata]
        return kind | {name: deciding(getattr(settings, name)) for name in names}
    if isinstance(settings, Mapping):
        return {str(key): deciding(value) for key, value in settings.items()}
    return [deciding(value) for value in settings] if isinstance(settings, (list, tuple)) else settings


def uses_models(settings: Any) -> bool:
    """Whether a part's settings name a model or a server: the package's own painters and writers need no trial."""
    if isinstance(settings, (list, tuple)):
        return any(map(uses_models, settings))
    if not isinstance(settings, Settings):
        return False
    return any((name in _MODELS and value is not None) or uses_models(value) for name, value in settings)


def differences(before: Any, after: Any, where: str = "") -> list[str]:
    """What changed between two results of `deciding`, a line per setting: "diptychs.painter.steps: 28 -> 20"."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        names = {key: f"{where}.{key}" if where else key for key in (*before, *after)}
        return [line for key, name in names.items() for line in differences(before.get(key), after.get(key), name)]
    return [] if before == after else [f"{where}: {_short(before)} -> {_short(after)}"]


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "a text", int: "a whole number", float: "a number"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
