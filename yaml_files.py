"""The one reader of YAML files of settings: training's configurations and the recipes of synthesis.

It takes only plain values, in a file of bounded size, and refuses what two people would read in two ways: a key that is
given twice, `010` (8 in YAML 1.1, 10 in 1.2), `1:30` (90, or a time of day). Dates are strings. Every error names the
file, the line in it and the remedy, on one line.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

_MOST_BYTES = 1 << 18  # the largest recipe of the package has 17 kB
_MOST_DEPTH = 40
_MOST_VALUES = 50_000  # with all aliases written out
_TAG = "tag:yaml.org,2002:"
_PLAIN = {f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
_AMBIGUOUS = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")


class SettingsFileError(ValueError):
    """A file of settings cannot be used. The message names the file, the line, and what was expected."""


def read_yaml(file: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; all keys, also those of inner mappings, are strings.

    Raises:
        SettingsFileError: there is no such file, or it is not as described in the module's docstring.
    """
    file = Path(file)
    try:
        if file.exists() and not file.is_file():  # a pipe could be waited for forever
            kind = "a folder" if file.is_dir() else "a pipe or device"
            raise SettingsFileError(f"{file}: expected a file of settings, found {kind}")
        with file.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise SettingsFileError(f"{file}: cannot be read ({error.strerror or error})") from None
    if len(data) > _MOST_BYTES:
        raise SettingsFileError(f"{file}: is larger than {_MOST_BYTES:,} bytes, and so no file of settings")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsFileError(f"{file}: cannot be read: it is no text in UTF-8 ({error.reason})") from None
    content = parse_yaml(text, str(file))
    if not isinstance(content, dict):
        kind = {list: "a list", str: "a text", type(None): "nothing"}.get(type(content), type(content).__name__)
        raise SettingsFileError(f"{file}: expected a mapping of settings, found {kind}")
    return content


def line_of(file: str | Path, path: Sequence[str | int]) -> int:
    """The line of the value at a path in a valid YAML file, or of the nearest value above it.

    Args:
        file: see `read_yaml`.
        path: the keys, and the indices in lists, that lead to the value.
    """
    node, line = yaml.compose(Path(file).read_text(encoding="utf-8-sig"), _Loader), 1
    for step in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == step), None)
        else:
            found = (node.value[step],) * 2 if isinstance(step, int) and isinstance(node, yaml.SequenceNode) else None
        if found is None:
            break
        key, node = found
        line = key.start_mark.line + 1
    return line


def parse_yaml(text: str, where: str) -> Any:
    """What a text in YAML holds.

    Args:
        text: see the module's docstring for what is taken.
        where: the file, for messages.

    Raises:
        SettingsFileError: it is not taken.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        what = "" if isinstance(error, _Refused) else "is no YAML: "
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise SettingsFileError(f"{where}{place}: {what}{reason}") from None


class _Refused(yaml.MarkedYAMLError):
    """YAML that is not taken."""


def _refuse(mark: yaml.Mark, reason: str) -> NoReturn:
    raise _Refused(problem=reason, problem_mark=mark)


class _Loader(yaml.SafeLoader):
    """Refuses while it parses, before anything is built."""

    # Dates stay strings: no setting is a date.
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """Bounds the depth, and checks every value once."""
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            _refuse(self.peek_event().start_mark, f"is nested more than {_MOST_DEPTH} levels deep")
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if not is_alias:
            _check_value(node)
        return node


def _check_value(node: yaml.Node) -> None:
    if node.tag not in _PLAIN:
        shown = node.tag.replace(_TAG, "!!")
        _refuse(node.start_mark, f"{shown!r} is not taken: write texts, numbers, true, false, null, lists and mappings")
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
    elif node.tag in (f"{_TAG}int", f"{_TAG}float"):
        _check_number(node)


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if key.tag == f"{_TAG}merge":
            continue
        if key.tag != f"{_TAG}str" or not isinstance(key, yaml.ScalarNode):
            shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
            _refuse(key.start_mark, f'YAML reads the key {shown} as no text: write "{shown}", in quotes, or another')
        if key.value in seen:
            _refuse(key.start_mark, f"the key {key.value!r} is given twice: remove one")
        seen.add(key.value)


def _check_number(node: yaml.ScalarNode) -> None:
    text = node.value
    if _AMBIGUOUS.fullmatch(text):
        _refuse(node.start_mark, f'{text} may be read in two ways: write the number without 0 in front, or "{text}"')
    if node.tag == f"{_TAG}int" and len(text) > 100:
        _refuse(node.start_mark, "a whole number of so many digits is no setting")
    number = yaml.safe_load(text)
    if isinstance(number, float) and not math.isfinite(number):
        _refuse(node.start_mark, f"{text} is no finite number: leave the setting out for its default")
    if isinstance(number, int) and not -(2**63) <= number < 2**63:
        _refuse(node.start_mark, f"{text} is too large: expected a whole number within 64 bits")


def _count_values(node: yaml.Node, counts: dict[int, int | None]) -> int:
    """The number of values in a node, with every alias written out: a few lines may stand for billions."""
    if id(node) in counts:
        if (count := counts[id(node)]) is None:
            _refuse(node.start_mark, "the value holds itself")
        return count
    counts[id(node)] = None
    count = 1
    if isinstance(node, yaml.SequenceNode):
        count += sum(_count_values(child, counts) for child in node.value)
    elif isinstance(node, yaml.MappingNode):
        count += sum(_count_values(child, counts) for pair in node.value for child in pair)
    if count > _MOST_VALUES:
        _refuse(node.start_mark, f"stands for more than {_MOST_VALUES:,} values (aliases repeat values)")
    counts[id(node)] = count
    return count
