"""Settings from YAML: frozen dataclasses, nested, with the kind of each part named in the file.

A field annotated with one settings class holds a mapping of its fields. A field annotated with several
(`GrammarWriter | LanguageModelWriter`) holds a mapping whose `kind:` names one of them, as the class attribute `kind`
does. Nothing is converted silently, but for an integer where a number is expected.
"""

import difflib
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from .. import yaml_files
from ..yaml_files import SettingsFileError

Settings = TypeVar("Settings")

# Whole numbers above these are slips of the keyboard, which would plan, allocate or wait without end.
_MOST = {"count": 100_000_000, "chunk_size": 1_000_000, "realistic": 1_000, "diverse": 1_000, "per_prompt": 1_000}
_MOST |= {"width": 8_192, "height": 8_192, "size": 8_192, "num_workers": 1_024, "concurrency": 100_000}
_MOST |= {"practice": 1_000_000, "batch_size": 100_000, "device_batch_size": 100_000, "rank": 65_536}
_MODELS = ("model", "sentences")  # settings that name a model
_MOST_OF_OTHERS = 10**9  # except for seeds


class RecipeError(SettingsFileError):
    """A recipe cannot be used. The message names the file, the key, what was expected, and the nearest valid key."""


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file; see `fafa.yaml_files`.

    Raises:
        RecipeError: there is no such file, or it holds no mapping.
    """
    try:
        return yaml_files.read_yaml(file)
    except SettingsFileError as error:
        raise RecipeError(str(error)) from None


def read_settings(cls: type[Settings], mapping: Mapping[str, Any], where: str) -> Settings:
    """Make settings of a mapping.

    Args:
        cls: A dataclass.
        mapping: Its fields, as YAML gives them.
        where: The file and key, for messages.

    Raises:
        RecipeError: an unknown or missing key, or a value that is not as annotated or that the class refuses.
    """
    if not isinstance(mapping, Mapping):
        raise RecipeError(f"{where}: expected a mapping of settings, found {_kind(mapping)}")
    hints = get_type_hints(cls)
    known = {entry.name: entry for entry in fields(cls) if entry.init}
    for key in mapping:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"it knows {', '.join(known)}."
            raise RecipeError(f"{where}: there is no setting {key!r}; {hint}")
    missing = [name for name, entry in known.items() if name not in mapping and _is_required(entry)]
    if missing:
        raise RecipeError(f"{where}: add {' and '.join(missing)}")
    values = {name: _read(hints[name], value, f"{where}: {name}") for name, value in mapping.items()}
    for name, value in values.items():
        most = _MOST.get(name, _MOST_OF_OTHERS)
        if type(value) is int and not name.startswith("seed") and abs(value) > most:
            raise RecipeError(f"{where}: {name}: expected a whole number up to {most:,}, found {value:,}")
    try:
        return cls(**values)
    except ValueError as error:
        raise error if isinstance(error, RecipeError) else RecipeError(f"{where}: {error}") from None


def deciding(settings: Any) -> Any:
    """What of settings decides the results, as plain JSON values: all but the fields made by `components.free`."""
    if is_dataclass(settings):
        found = {"kind": settings.kind} if hasattr(settings, "kind") else {}
        kept = (entry for entry in fields(settings) if not entry.metadata.get("free"))
        return found | {entry.name: deciding(getattr(settings, entry.name)) for entry in kept}
    if isinstance(settings, Mapping):
        return {str(key): deciding(value) for key, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [deciding(value) for value in settings]
    return str(settings) if isinstance(settings, Path) else settings


def uses_models(settings: Any) -> bool:
    """Whether a part's settings name a model or a server: what the package paints and writes itself needs no trial."""
    if isinstance(settings, (list, tuple)):
        return any(map(uses_models, settings))
    if not is_dataclass(settings):
        return False
    values = {entry.name: getattr(settings, entry.name) for entry in fields(settings)}
    return any((name in _MODELS and value is not None) or uses_models(value) for name, value in values.items())


def differences(before: Any, after: Any, where: str = "") -> list[str]:
    """What changed between two results of `deciding`, a line per setting: "diptychs.painter.steps: 28 -> 20"."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = [*before, *(key for key in after if key not in before)]
        return [
            line
            for key in keys
            for line in differences(before.get(key), after.get(key), f"{where}.{key}" if where else key)
        ]
    return [] if before == after else [f"{where}: {_short(before)} -> {_short(after)}"]


def _read(hint: Any, value: Any, where: str) -> Any:
    """A value as annotated; a RecipeError if it is not."""
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _read_one_of(get_args(hint), value, where)
    if is_dataclass(hint):
        if isinstance(value, Mapping) and value.get("kind") == getattr(hint, "kind", MISSING):
            value = {key: entry for key, entry in value.items() if key != "kind"}
        return read_settings(hint, value, where)
    if origin in (list, tuple) and isinstance(value, list):
        inner = get_args(hint)
        if origin is tuple and (len(inner) != 2 or inner[1] is not Ellipsis):
            if len(inner) != len(value):
                raise RecipeError(f"{where}: expected {len(inner)} values, found {len(value)}")
            return tuple(_read(kind, entry, where) for kind, entry in zip(inner, value, strict=True))
        kind = inner[0] if inner else Any
        return origin(_read(kind, entry, f"{where}[{number}]") for number, entry in enumerate(value))
    if origin is dict and isinstance(value, dict):
        key_hint, value_hint = get_args(hint)
        return {
            _read(key_hint, key, where): _read(value_hint, entry, f"{where}: {key}") for key, entry in value.items()
        }
    if hint is float and type(value) is int:
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    dot = "; YAML takes 1e-4 for a text: write 1.0e-4" if hint is float and _is_number(value) else ""
    raise RecipeError(f"{where}: expected {_name(hint)}, found {_kind(value)} ({_short(value)}){dot}")


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _read_one_of(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    kinds = {hint.kind: hint for hint in hints if is_dataclass(hint) and hasattr(hint, "kind")}
    if kinds and isinstance(value, Mapping):
        kind = value.get("kind")
        if not isinstance(kind, str) or kind not in kinds:
            nearest = difflib.get_close_matches(str(kind), kinds, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise RecipeError(f"{where}: expected kind: {' or '.join(kinds)}; found {_short(kind)}{hint}")
        return read_settings(kinds[kind], {key: entry for key, entry in value.items() if key != "kind"}, where)
    settings = [hint for hint in hints if is_dataclass(hint)]
    if len(settings) == 1 and isinstance(value, Mapping):
        return _read(settings[0], value, where)
    for hint in hints:
        if hint is type(None):
            if value is None:
                return None
            continue
        try:
            return _read(hint, value, where)
        except RecipeError:
            continue
    raise RecipeError(f"{where}: expected {' or '.join(map(_name, hints))}, found {_kind(value)} ({_short(value)})")


def _is_required(entry: Field) -> bool:
    return entry.default is MISSING and entry.default_factory is MISSING


def _name(hint: Any) -> str:
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "nothing"}
    return names.get(hint) or ("settings" if is_dataclass(hint) else str(getattr(hint, "__name__", hint)))


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "a text", int: "a whole number", float: "a number"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
