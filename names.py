"""Names and numbers of things in messages: shown safely, an unknown one with the nearest known. Imports little."""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def nearest(name: object, known: Iterable[str]) -> str:
    """What to write instead of a name: "did you mean 'seed'?", or what is known if none is near."""
    known = list(known)
    return meant(name, known) or f"known: {some(known, 20) or 'none'}"


def meant(name: object, known: Iterable[str], before: str = "", likeness: float = 0.6) -> str:
    """ "did you mean 'seed'?" for an unknown name, with the text `before` it; "" if no known name is near.

    Args:
        likeness: what counts as near, from 0 to 1.
    """
    close = get_close_matches(str(name), list(known), n=1, cutoff=likeness)
    return f"{before}did you mean {close[0]!r}?" if close else ""


def counted(number: int, thing: str) -> str:
    """ "1 image", "2,202 queries", "3 people": how many there are of something."""
    if number == 1:
        return f"1 {thing}"
    if thing == "person":
        return f"{number:,} people"
    is_y = thing.endswith("y") and thing[-2:-1] not in ("a", "e", "o", "u")
    return f"{number:,} {thing[:-1]}ies" if is_y else f"{number:,} {thing}s"


def clock(seconds: float) -> str:
    """ "0:01:23": a moment of a film, or its length; of parts of a second, none is shown."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60:,}:{minutes % 60:02d}:{rest:02d}"


def some(names: Sequence[str], shown: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(map(printable, names[:shown])) + more


def printable(text: str | os.PathLike) -> str:
    """A path or another text on one line, with escapes for what a terminal cannot print or would obey.

    A file's name may hold any bytes: some are not UTF-8 (Python keeps those as surrogates, which no stream takes), some
    break lines, and some are orders to a terminal. The result is for people; it does not lead to the file.
    """
    return "".join(
        char if char.isprintable() or unicodedata.category(char) == "Zs" else _escaped(char) for char in os.fspath(text)
    )


def _escaped(char: str) -> str:
    if 0xDC80 <= ord(char) <= 0xDCFF:  # how Python keeps a byte that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
