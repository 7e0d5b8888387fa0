"""From what stands in the page's fields to a question, and from a question back to the fields."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any

from ..threads import PARSING
from .answers import FilterField
from .faults import Refused
from .page_session import PageSession, Photo, Wish
from .questions import MINUS_WEIGHT, Minus, Question, Term

_MOST_CHOICES = 50  # of a filter that is a list of values


@dataclass(frozen=True)
class Fields:
    """What stands in the page's fields.

    Args:
        chosen: values of the filters that are lists: field's name -> values; none of them lets all images through.
        least_score: None for no cut-off; `false_alarm_rate` likewise.
    """

    sentence: str = ""
    chosen: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    taken_from: str = ""
    taken_to: str = ""
    where: str = ""
    top: int = 20
    least_score: float | None = None
    false_alarm_rate: float | None = None


def filter_lists(fields: Sequence[FilterField]) -> list[FilterField]:
    """The filters that the page offers as lists of values to choose from: names and whole numbers, if they are few."""
    return [
        one
        for one in fields
        if one.name not in ("path", "taken", "time")
        and 1 < len(one.values) <= _MOST_CHOICES
        and all(isinstance(value, str) or float(value).is_integer() for value in one.values)
    ]


def question_of(session: PageSession, fields: Fields) -> Question:
    """The question that a tab asks.

    Raises:
        Refused: nothing is asked, or a date is none.
    """
    sentence, photo = fields.sentence.strip() or None, session.photo
    terms = []
    if photo or sentence:
        image, box = (photo.image, photo.box) if photo else (None, None)
        terms.append(Term(image=image, box=box, caption=sentence))
    minus = []
    for wish in session.wishes:
        if wish.weight < 0 and wish.photo is None:
            minus.append(Minus(caption=wish.caption, weight=-wish.weight))
        else:
            image, box = (wish.photo.image, wish.photo.box) if wish.photo else (None, None)
            terms.append(Term(image=image, box=box, caption=wish.caption, weight=wish.weight))
    if not terms:
        raise Refused(
            "Say also whom to find, not only whom not to find."
            if minus
            else "Choose a reference photo or write a sentence: one of the two is needed."
        )
    return Question(
        terms=terms,
        minus=minus,
        where=where_of(fields),
        top=fields.top,
        false_alarm_rate=fields.false_alarm_rate,
        least_score=fields.least_score,
        right=list(session.right),
        wrong=list(session.wrong),
    )


def where_of(fields: Fields) -> str | None:
    """All filters as one, see `retrieval.filters`.

    Raises:
        Refused: a date is none.
    """
    parts = [
        f"{name} == {values[0]!r}" if len(values) == 1 else f"{name} in {tuple(values)!r}"
        for name, values in fields.chosen.items()
        if values
    ]
    if fields.taken_from.strip():
        parts.append(f"taken >= '{_day(fields.taken_from)}'")
    if fields.taken_to.strip():
        parts.append(f"taken < '{_day(fields.taken_to) + timedelta(days=1)}'")  # that day is meant, too
    if own := fields.where.strip():
        parts.append(f"({own})" if parts else own)
    return " and ".join(parts) or None


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text.strip())
    except ValueError as error:
        raise Refused(f"“{text.strip():.40}” is no date: write it as 2024-05-31.") from error


def fields_of(question: Question, listed: Sequence[FilterField] = ()) -> Fields:
    """The fields that ask a question.

    Args:
        listed: the filters that are lists of values.
    """
    first = question.terms[0]
    return replace(
        _filters_of(question.where or "", listed),
        sentence=(first.caption or "") if first.weight == 1 else "",
        top=question.top,
        least_score=question.least_score,
        false_alarm_rate=question.false_alarm_rate,
    )


def _filters_of(where: str, listed: Sequence[FilterField]) -> Fields:
    """The fields from which `where_of` makes this filter; it stands in `where` as it is if no others give it."""
    whole, offered = Fields(where=where), {one.name: one.values for one in listed}
    try:
        with PARSING:
            tree = ast.parse(where, mode="eval").body
        parts = tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
        chosen: dict[str, list[Any]] = {}
        others = {}
        for part in parts:
            match part:
                case ast.Compare(left=ast.Name(id=name), ops=[ast.Eq() | ast.In() as sign], comparators=[value]) if (
                    name in offered
                ):
                    values = ast.literal_eval(value)
                    chosen[name] = [values] if isinstance(sign, ast.Eq) else list(values)
                case ast.Compare(left=ast.Name(id="taken"), ops=[ast.GtE()], comparators=[value]):
                    others["taken_from"] = ast.literal_eval(value)
                case ast.Compare(left=ast.Name(id="taken"), ops=[ast.Lt()], comparators=[value]):
                    others["taken_to"] = str(date.fromisoformat(ast.literal_eval(value)) - timedelta(days=1))
                case _:
                    others["where"] = ast.get_source_segment(where, part)
        fields = Fields(chosen=chosen, **others)
        is_offered = all(value in offered[name] for name, values in chosen.items() for value in values)
        return fields if is_offered and where_of(fields) == where else whole
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError, Refused):
        return whole  # somebody has written it, in other words


def take_up(session: PageSession, question: Question, photo_of: Mapping[str, Photo]) -> None:
    """Makes a tab ask a question: its photo and wishes; its marks are looked up once it is answered.

    Args:
        photo_of: of all images in the question.
    """
    first, *others = question.terms
    session.photo, session.wishes = None, []
    if first.weight != 1:
        others = question.terms
    elif first.image is not None:
        session.photo = _with_box(photo_of[first.image], first.box)
    for term in others:
        photo = None if term.image is None else _with_box(photo_of[term.image], term.box)
        session.wishes.append(Wish(term.weight, term.caption, photo))
    session.wishes += [Wish(-unwanted.weight, unwanted.caption) for unwanted in question.minus]


def _with_box(photo: Photo, box: Any) -> Photo:
    """A photo of which a person is meant, who is none of those found in it if somebody else has chosen the box."""
    people = photo.people if box is None or box in photo.people else (*photo.people, box)
    person = None if box is None else people.index(box)
    return Photo(photo.image, photo.url, photo.name, photo.width, photo.height, people, person)


def summary_of(question: Question) -> str:
    """A question in a line."""
    parts = []
    for number, term in enumerate(question.terms):
        words = " ".join(part for part in (term.image and "photo", term.caption and f"“{term.caption}”") if part)
        signed = words if number == 0 and term.weight == 1 else f"{'+' if term.weight > 0 else '−'} {words}"
        parts.append(signed if abs(term.weight) == 1 else f"{signed} ×{abs(term.weight):g}")
    parts += [
        f"− “{unwanted.caption}”" + (f" ×{unwanted.weight:g}" if unwanted.weight != MINUS_WEIGHT else "")
        for unwanted in question.minus
    ]
    limits = [f"where {question.where}"] if question.where else []
    if question.least_score is not None:
        limits.append(f"score from {question.least_score:g}")
    if question.false_alarm_rate is not None:
        limits.append(f"false alarms {question.false_alarm_rate:.0%}")
    marks = [f"{len(ids)} {name}" for ids, name in ((question.right, "right"), (question.wrong, "wrong")) if ids]
    return " · ".join([" ".join(parts), *limits, *([f"marked {', '.join(marks)}"] if marks else [])])
