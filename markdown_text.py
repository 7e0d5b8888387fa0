"""Foreign text in pages of Markdown: captions, paths and names of data and models are shown as they are.

A caption may hold a heading, a table, a link or a script, so all that writes a page passes such text through here;
YAML heads are written by a YAML dumper. Pages are read elsewhere, so paths lose the folders of this machine.
"""

import json
import re
from pathlib import PurePath, PureWindowsPath
from typing import Any

from .files import printable

_LONGEST = 500  # characters of a text that a page shows
# What Markdown interprets anywhere. "_" within a word is plain, and so is an "&" that begins no entity.
_ACTIVE = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
_ENTITY = re.compile(r"&(?=#?\w+;)")
# What it interprets at the beginning of a line: headings, rules, quotations and lists.
_BEGINNING = re.compile(r"#{1,6}(?=\s|$)|[-=]+\s*$|[-+](?=\s)|>")
_NUMBER = re.compile(r"(\d{1,9})([.)])(?=\s|$)")


class Markdown(str):
    """Text that is Markdown already, where other text would be escaped."""


def plain(text: object, longest: int = _LONGEST) -> str:
    """Markdown that shows just this text, on one line, wherever a line of text or a cell of a table may be.

    Args:
        longest: characters that are shown; an ellipsis stands for the rest.
    """
    text = _ENTITY.sub("&amp;", _one_line(text, longest).strip())
    text = _ACTIVE.sub(r"\\\g<0>", text.replace("<", "&lt;"))
    if _BEGINNING.match(text):
        return f"\\{text}"
    return re.sub(_NUMBER, r"\1\\\2", text, count=1) if _NUMBER.match(text) else text


def code(text: object, longest: int = _LONGEST) -> str:
    """A text on one line, as code within a line of Markdown; not for tables, where a | would end the cell."""
    text = _one_line(text, longest)
    marks = "`" * (_longest_run(text) + 1)
    blank = " " if text[:1] in ("`", " ", "") or text[-1] in "` " else ""
    return f"{marks}{blank}{text}{blank}{marks}"


def block(text: str, language: str = "") -> str:
    """Lines as a block of code, in a fence longer than any in them; bytes that are not UTF-8 are escaped."""
    text = text.encode("utf-8", "backslashreplace").decode()
    marks = "`" * max(3, _longest_run(text) + 1)
    return f"{marks}{language}\n{text.rstrip()}\n{marks}"


def public(value: Any) -> Any:
    """What a page may say about a path: only the last name if it leads out of the working folder.

    Other texts, such as a repository's name or a path within the working folder, stay as they are, and so does what is
    not a text. Entries of lists and mappings are treated alike.
    """
    if isinstance(value, dict):
        return {key: public(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(entry) for entry in value]
    if not isinstance(value, (str, PurePath)):
        return value
    text = str(value).removeprefix("file://")
    path = PureWindowsPath(text) if PureWindowsPath(text).drive or text.startswith("\\") else PurePath(text)
    if not (path.anchor or text.startswith("~") or ".." in path.parts):
        return text
    return path.name if path.name not in ("", "..", "~") else "a folder"


def loadable(name: str) -> str:
    """What an example loads, quoted: a name or a relative path, or a placeholder for a path of this machine."""
    return json.dumps(name if public(name) == name else f"path/to/{public(name)}")


def _one_line(text: object, longest: int) -> str:
    text = str(text)
    shown = f"{text[:longest]}…" if len(text) > longest else text
    return printable(re.sub(r"[\t\r\n]+", " ", shown))


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
