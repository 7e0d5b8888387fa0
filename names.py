"""Names that somebody gives and that there are not: refused with the nearest of those that there are."""

from collections.abc import Iterable
from difflib import get_close_matches

from .files import some


def nearest(name: object, known: Iterable[str]) -> str:
    """What to write instead of a name: "did you mean 'seed'?", or what is known if none is near."""
    known = list(known)
    return meant(name, known) or f"known: {some(known, 20) or 'none'}"


def meant(name: object, known: Iterable[str], before: str = "", likeness: float = 0.6) -> str:
    """ "did you mean 'seed'?" with what shall stand before it; nothing if no name is near.

    Args:
        name: that is not known.
        known: those that are.
        before: "; " for example.
        likeness: from 0 to 1, of what counts as near.
    """
    close = get_close_matches(str(name), list(known), n=1, cutoff=likeness)
    return f"{before}did you mean {close[0]!r}?" if close else ""
