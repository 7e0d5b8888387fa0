"""Filters on what is known of images: Python expressions, read by Python's own parser and turned into SQL.

    camera == "gate 3" and taken >= "2024-05-01" and not colour in ("red", "blue")

There are `and`, `or`, `not`; comparisons and chains of them (`3 < age < 7`); `in` several values; a text `in` a field
(`"trip/" in path`); `field == None`, where it is not known; and a field by itself: known, and neither 0 nor False nor
empty. What is not known equals nothing: of such images `==`, `<` and `in` are false, `!=` and `not in` are true. So
`not` always gives exactly the other images.
"""

import ast
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from os import fsencode
from typing import Any

from ..names import nearest
from ..threads import PARSING
from .metadata import FIELDS, NUMBER, TEXT

_HOURS, _MINUTES = "([01]\\d|2[0-3])", "[0-5]\\d"
_DATE = re.compile(
    rf"\d{{4}}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01])([T ]{_HOURS}(:{_MINUTES}(:{_MINUTES}(\.\d+)?)?)?)?)?)?"
)
_EXAMPLE = 'camera == "gate 3" and taken >= "2024-05-01"'
_OPERATORS = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.In: "in"}
_TURNED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*["]""")
_FOREIGN = {  # what other languages write, and Python for it
    r"(?<![=!<>])=(?!=)": ("=", "=="),
    r"<>": ("<>", "!="),
    r"!(?!=)": ("!", "not"),
    r"&&?": ("&", "and"),
    r"\|\|?": ("|", "or"),
    r"\b(AND|OR|NOT|IN|IS)\b": ("AND, OR, NOT, IN, IS", "and, or, not, in, is"),
    r"\b(?i:null|nil)\b": ("null", "None"),
    r"\b(?i:like|contains)\b": ("like", '"part" in path'),
    r"\b(?i:between)\b": ("between", "3 <= time <= 7"),
}
_LONGEST = 100_000  # characters of an expression
# How Python keeps the bytes of a path that are no UTF-8, which its parser refuses; and what stands for them meanwhile,
# from a range that no text uses.
_ODD = "CAST(? AS TEXT)"  # of a parameter of SQL
_SURROGATES = range(0xDC80, 0xDD00)
_HIDDEN = {code: code + 0x10F700 - 0xDC80 for code in _SURROGATES}
_SHOWN = {hidden: code for code, hidden in _HIDDEN.items()}


@dataclass(frozen=True)
class Compare:
    """A field compared with a value.

    Args:
        operator: `==`, `<`, `<=`, `>`, `>=`; `in`, of a tuple; `contains`, part of a text; `known` and `true`, of no
            value.
    """

    field: str
    operator: str
    value: Any = None


@dataclass(frozen=True)
class Not:
    """The other images."""

    condition: "Condition"


@dataclass(frozen=True)
class And:
    """All conditions hold."""

    conditions: tuple["Condition", ...]


@dataclass(frozen=True)
class Or:
    """One of the conditions holds."""

    conditions: tuple["Condition", ...]


Condition = Compare | Not | And | Or


def parse_where(where: str, tags: Mapping[str, Collection[str]]) -> Condition:
    """Reads a filter; see the module's docstring.

    Args:
        tags: the kinds of values of each tag there is: name -> "text", "number".

    Raises:
        TypeError: it is no text.
        ValueError: it is no such expression, a field is unknown, or compared with what it cannot be; one line.
    """
    if not isinstance(where, str):
        raise TypeError(f"where is a {type(where).__name__}, expected text such as 'camera == \"gate 3\"'")
    if len(where) > _LONGEST:
        raise ValueError(f"where has {len(where):,} characters, expected {_LONGEST:,} at most")
    fields = {name: {kind} for name, kind in FIELDS.items()} | {name: set(kinds) for name, kinds in tags.items()}
    try:
        with PARSING:
            tree = ast.parse(where.replace("\n", " ").strip().translate(_HIDDEN), mode="eval").body
        return _Reader(fields).read(tree)
    except (SyntaxError, UnicodeEncodeError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "it is nested too deep"
        if isinstance(error, UnicodeEncodeError):
            reason = "it holds half of a character"
        remedy = _remedy(where) or f"; write it as Python does, such as {_EXAMPLE}"
        raise ValueError(f"where={where!r:.200} cannot be read: {reason}{remedy}") from error
    except _Wrong as error:
        raise ValueError(f"where={where!r:.200}: {error}{_remedy(where)}") from None


def _remedy(where: str) -> str:
    """What to write instead of what other languages have: "; write == instead of ="."""
    plain = _QUOTED.sub("''", where)
    found = [f"{python} instead of {other}" for sign, (other, python) in _FOREIGN.items() if re.search(sign, plain)]
    return f"; write {', '.join(found)}" if found else ""


class _Wrong(Exception):
    """What is wrong with an expression."""


class _Reader:
    def __init__(self, fields: Mapping[str, set[str]]):
        self.fields = fields

    def read(self, node: ast.expr) -> Condition:
        if isinstance(node, ast.BoolOp):
            kind = And if isinstance(node.op, ast.And) else Or
            return kind(tuple(self.read(value) for value in node.values))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return Not(self.read(node.operand))
        if isinstance(node, ast.Name):
            return Compare(self.field(node), "true")
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            parts = [self.compare(*pair) for pair in zip(sides, node.ops, sides[1:], strict=False)]
            return parts[0] if len(parts) == 1 else And(tuple(parts))
        raise _Wrong(f"{self.text(node)} is no condition; expected and, or, not, comparisons, in")

    def compare(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Condition:
        if isinstance(operator, (ast.Is, ast.IsNot)):
            operator = ast.Eq() if isinstance(operator, ast.Is) else ast.NotEq()
        if isinstance(operator, ast.NotIn):
            return Not(self.compare(left, ast.In(), right))
        sign = _OPERATORS[type(operator)]
        if sign == "in":
            return self.within(left, right)
        if not isinstance(left, ast.Name):
            left, right, sign = right, left, _TURNED[sign]
        name, value = self.field(left), self.value(right)
        if value is None:
            if sign not in ("==", "!="):
                raise _Wrong(f"{name} cannot be {sign} None; == None asks for images of which it is not known")
            return Not(Compare(name, "known")) if sign == "==" else Compare(name, "known")
        value = self.fitting(name, value)
        return Not(Compare(name, "==", value)) if sign == "!=" else Compare(name, sign, value)

    def within(self, left: ast.expr, right: ast.expr) -> Condition:
        if isinstance(right, ast.Name):  # "trip/" in path
            name, value = self.field(right), self.value(left)
            if not isinstance(value, str) or TEXT not in self.fields[name]:
                raise _Wrong(
                    f"{self.text(left)} in {name}: only a text can be part of a field, and only of one of text"
                )
            return Compare(name, "contains", value)
        name = self.field(left)
        if not isinstance(right, (ast.Tuple, ast.List, ast.Set)):
            raise _Wrong(f"{name} in {self.text(right)}: expected several values in brackets: {name} in (…, …)")
        return Compare(name, "in", tuple(self.fitting(name, self.value(each)) for each in right.elts))

    def field(self, node: ast.expr) -> str:
        if not isinstance(node, ast.Name):
            raise _Wrong(f"{self.text(node)} is no field; each comparison needs one, such as camera == …")
        if node.id not in self.fields:
            raise _Wrong(f"there is no field {node.id}; {nearest(node.id, self.fields)}")
        return node.id

    def value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and _is_number(node.operand):
            return -node.operand.value
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return self.shown(node.value)
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, type(None))):
            return node.value
        hint = f"; write text in quotes: {node.id!r}" if isinstance(node, ast.Name) else ""
        raise _Wrong(f"{self.text(node)} is no text, number, True, False or None{hint}")

    def shown(self, text: str) -> str:
        shown = text.translate(_SHOWN)
        try:
            fsencode(shown)
        except UnicodeEncodeError:  # by an escape, "\\ud800"
            raise _Wrong(f"{shown!r:.60} holds half of a character") from None
        return shown

    def fitting(self, name: str, value: Any) -> Any:
        kinds, kind = self.fields[name], TEXT if isinstance(value, str) else NUMBER
        if value is None or kind not in kinds:
            raise _Wrong(f"{name} is {' or '.join(sorted(kinds))}, which {value!r:.60} is not")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise _Wrong(f"{value} is too large a number")
        if name == "taken":
            if not _DATE.fullmatch(value):
                raise _Wrong(
                    f"taken is compared with a date or the beginning of one, '2024-05-01T10:30', not {value!r:.60}"
                )
            return value.replace(" ", "T")
        return value

    def text(self, node: ast.expr) -> str:
        return ast.unparse(node)[:60]


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, (int, float))


def fields_in(condition: Condition) -> set[str]:
    """The fields and tags that a condition asks about."""
    if isinstance(condition, Compare):
        return {condition.field}
    parts = (condition.condition,) if isinstance(condition, Not) else condition.conditions
    return set().union(*map(fields_in, parts))


def to_sql(condition: Condition) -> tuple[str, list[Any]]:
    """A condition on rows of the tables of `metadata`, and its parameters; it is never NULL."""
    if isinstance(condition, Not):
        inner, parameters = to_sql(condition.condition)
        return f"NOT ({inner})", parameters
    if isinstance(condition, (And, Or)):
        word = "AND" if isinstance(condition, And) else "OR"
        parts = [to_sql(part) for part in condition.conditions]
        return _joined(word, [part for part, _ in parts]), [each for _, values in parts for each in values]
    is_field = condition.field in FIELDS
    column = f'"{condition.field}"' if is_field else "value"
    test, parameters = _test(column, condition)
    if is_field:
        return f"{column} IS NOT NULL AND {test}", parameters
    return f"row IN (SELECT row FROM tags WHERE name = ? AND {test})", [condition.field, *parameters]


def _joined(word: str, parts: Sequence[str]) -> str:
    """Conditions joined as a balanced tree, since SQLite takes none that is deep."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return f"({_joined(word, parts[:half])}) {word} ({_joined(word, parts[half:])})"


def _test(column: str, condition: Compare) -> tuple[str, list[Any]]:
    value = condition.value
    match condition.operator:
        case "known":
            return "TRUE", []
        case "true":
            return f"{column} NOT IN ('', 0)", []
        case "contains":
            return f"instr({column}, {_sign(value)}) > 0", [_bound(value)]
        case "in":
            odd = [each for each in value if _sign(each) != "?"]  # which JSON cannot say
            test = f"{column} IN (SELECT value FROM json_each(?){f' UNION ALL SELECT {_ODD}' * len(odd)})"
            return test, [json.dumps([each for each in value if each not in odd]), *map(_bound, odd)]
        case "==":
            return f"{column} = {_sign(value)}", [_bound(value)]
    # SQLite calls any text larger than any number.
    kind = " AND typeof({}) {} 'text'".format(column, "=" if isinstance(value, str) else "!=")
    return f"{column} {condition.operator} {_sign(value)}{kind}", [_bound(value)]


def _sign(value: Any) -> str:
    """How SQL takes a value: a text with bytes that are no UTF-8 as these."""
    return _ODD if isinstance(value, str) and any(ord(char) in _SURROGATES for char in value) else "?"


def _bound(value: Any) -> Any:
    return fsencode(value) if _sign(value) == _ODD else value
