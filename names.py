"""Names that somebody gives and that there are not: refused with the nearest of those that there are."""

from collections.abc import Iterable
from difflib import get_close_matches

from .files import some


def nearest(name: object, known: Iterable[str]) -> str:
    """What to write instead of a name: "did you mean 'seed'?", or what is known if none is near."""
    known = list(known)
    if close := get_close_matches(str(name), known, n=1):
        return f"did you mean {close[0]!r}?"
    return f"known: {some(known, 20) or 'none'}"
