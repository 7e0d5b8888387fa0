"""What the page's own parts show: Jinja templates in templates/, which write every text as text, never as markup."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..names import clock, counted
from . import links
from .answers import Example
from .page_asking import summary_of
from .page_session import PageSession, Photo
from .questions import Question, Term
from .uploads import MOST_BYTES

HERE = Path(__file__).parent
LAWFUL_USE = (
    "For lawful use alone: search for people only where you have the right to, and never to follow, judge or harass "
    "anybody. A result is a likeness and proves nobody's identity: a person has to look before anything is decided."
)


def view(name: str, **values: Any) -> str:
    """A template of templates/, filled in."""
    return _environment().get_template(f"{name}.html").render(values)


def photo_shown(session: PageSession, examples: Sequence[Example]) -> str:
    """The reference photo, or where to put one."""
    return view("photo", photo=session.photo, examples=examples, most_bytes=MOST_BYTES)


def wishes_shown(session: PageSession) -> str:
    """The chips."""
    return view("wishes", wishes=session.wishes)


def results_shown(session: PageSession) -> str:
    """The last answer."""
    if session.answer is None:
        return view("results", answer=None)
    link = links.text_of(session.question)
    return view(
        "results",
        answer=session.answer,
        summary=summary_of(session.question),
        link=link,
        number=session.answers,
        right=session.right,
        wrong=session.wrong,
    )


def details_shown(session: PageSession) -> str:
    """The result that is to be seen in full, if any."""
    hits = session.answer.hits if session.answer else []
    hit = next((hit for hit in hits if hit.id == session.opened), None)
    return view("details", hit=hit, number=len(hits), heat=session.heat, right=session.right, wrong=session.wrong)


def searches_shown(session: PageSession) -> str:
    """The searches of the session, the last one first."""
    lines = [
        {
            "key": number,
            "name": "",
            "summary": summary_of(search.question),
            "picture": _picture(search.question, session.photos.get),
            "note": f"{search.at:%H:%M}, {counted(search.found, 'result')}",
        }
        for number, search in enumerate(session.searches)
    ]
    nothing = "Nothing has been searched yet. Every search of this session will stand here, to repeat."
    return view("searches", label="Searches of this session", searches=lines, event="repeated", nothing=nothing)


def saved_shown(saved: Sequence[Any], are_kept: bool) -> str:
    """The saved searches of a user.

    Args:
        are_kept: whether they outlive the server.
    """
    lines = [
        {
            "key": one.id,
            "name": one.name,
            "summary": summary_of(one.question),
            "picture": None,
            "note": one.saved_at[:16].replace("T", " ") + " UTC",
        }
        for one in saved
    ]
    nothing = "Nothing is saved yet. Search, give the search a name above, and save it."
    if not are_kept:
        nothing += " Saved searches last as long as this server runs; “fafa serve --keep FOLDER” keeps them longer."
    return view("searches", label="Saved searches", searches=lines, event="taken_up", nothing=nothing)


def _picture(question: Question, photo_of: Callable[[str], Photo | None]) -> str | None:
    images = [term.image for term in question.terms if isinstance(term, Term) and term.image is not None]
    photo = photo_of(images[0]) if images else None
    return photo and photo.url


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"counted": counted, "clock": clock, "percent": percent, "plain": plain}
    return environment


def percent(share: float) -> str:
    """A probability, without a promise of certainty."""
    if share >= 0.995:
        return "> 99 %"
    return "< 1 %" if share < 0.005 else f"{share:.0%}".replace("%", " %")


def plain(value: str | float | bool) -> str:
    """A tag's value: whole numbers without a point."""
    return f"{value:g}" if isinstance(value, float) else str(value)
