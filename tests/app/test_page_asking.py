"""From the page's fields to a question and back."""

import pytest

from fafa.app.answers import FilterField
from fafa.app.faults import Refused
from fafa.app.page_asking import Fields, fields_of, filter_lists, question_of, summary_of, take_up, where_of
from fafa.app.page_session import PageSession, Photo, Search, Wish
from fafa.app.questions import Minus, Question, Term
from fafa.retrieval.filters import parse_where

PHOTO = Photo("abc", "/media/upload/abc.webp", "me.jpg", 100, 50, ((0, 0, 40, 50), (50, 0, 90, 50)), 1)


def test_photo_sentence_and_wishes_become_terms():
    """The photo, cut to the person chosen, and the sentence are one term; wishes are terms of their own."""
    session = PageSession(photo=PHOTO, wishes=[Wish(2.0, "a hat"), Wish(-0.3, "a bag"), Wish(1.0, photo=PHOTO)])
    question = question_of(session, Fields(sentence=" in red ", top=7, least_score=0.2))
    assert question.terms == [
        Term(image="abc", box=PHOTO.people[1], caption="in red"),
        Term(caption="a hat", weight=2.0),
        Term(image="abc", box=PHOTO.people[1]),
    ]
    assert question.minus == [Minus(caption="a bag", weight=0.3)]
    assert (question.top, question.least_score) == (7, 0.2)


@pytest.mark.parametrize("wishes, part", [([], "reference photo or write"), ([Wish(-1.0, "a hat")], "not only whom")])
def test_nothing_asked_is_refused(wishes, part):
    with pytest.raises(Refused, match=part):
        question_of(PageSession(wishes=wishes), Fields(sentence="  "))


def test_filters_join():
    """Lists, days and words hold together; the last day is meant whole; what comes out is a filter that is read."""
    fields = Fields(
        chosen={"camera": ["gate 3", 'a "b"'], "cluster": [3], "other": []},
        taken_from="2024-05-01",
        taken_to="2024-02-29",
        where="a == 1 or b == 2",
    )
    where = where_of(fields)
    assert where == (
        "camera in ('gate 3', 'a \"b\"') and cluster == 3 and taken >= '2024-05-01' and taken < '2024-03-01'"
        " and (a == 1 or b == 2)"
    )
    parse_where(where, {"cluster": ["number"], "a": ["number"], "b": ["number"]})
    assert where_of(Fields()) is None


CAMERAS = FilterField(name="camera", kind="text", values=["gate 3", 'a "b"', "a and b"])
CLUSTERS = FilterField(name="cluster", kind="number", values=[-1, 3])


@pytest.mark.parametrize(
    "fields",
    [
        Fields(),
        Fields(chosen={"camera": ["gate 3", 'a "b"'], "cluster": [-1]}, taken_from="2024-05-01", where="a == 1 or b"),
        Fields(chosen={"camera": ["a and b"]}, taken_to="2024-02-29", where="a == 1 and b == 2"),
        Fields(taken_from="2024-05-01", taken_to="2024-05-01"),
        Fields(where="'x' in path and not a"),
        Fields(where="(a == 1) and (b == 2)"),
    ],
)
def test_a_repeated_search_stands_in_the_filters_it_came_from(fields):
    question = Question(terms=[Term(caption="in red")], where=where_of(fields))
    again = fields_of(question, [CAMERAS, CLUSTERS])
    assert (again.taken_from, again.taken_to, again.where) == (fields.taken_from, fields.taken_to, fields.where)
    assert dict(again.chosen) == dict(fields.chosen)


@pytest.mark.parametrize(
    "where",
    ["camera == 'gone'", "cluster in (3,)", "taken >= '2024'", "camera == x", "a ==", "a == 1 and camera == 'gate 3'"],
)
def test_a_filter_that_the_page_cannot_have_made_stays_as_it_is_written(where):
    question = Question(terms=[Term(caption="in red")], where=where)
    assert fields_of(question, [CAMERAS, CLUSTERS]) == Fields(sentence="in red", where=where)


def test_a_day_that_is_none_is_refused():
    with pytest.raises(Refused, match="is no date: write it as 2024-05-31"):
        where_of(Fields(taken_from="31.12.2024"))


@pytest.mark.parametrize(
    "question",
    [
        Question(terms=[Term(caption="in red")], where="camera == 'a'", top=3, least_score=0.1, false_alarm_rate=0.05),
        Question(terms=[Term(image="abc", box=PHOTO.people[0], caption="in red")], minus=[Minus(caption="a hat")]),
        Question(terms=[Term(image="abc"), Term(image="abc", weight=0.5), Term(caption="a hat", weight=-0.2)]),
        Question(terms=[Term(image="abc", box=(1, 2, 3, 4), weight=2.0), Term(caption="a hat")]),
    ],
)
def test_a_question_survives_the_page(question):
    """A link or a saved search, shown in the fields and asked from there, is the same question."""
    session = PageSession()
    take_up(session, question, {"abc": PHOTO})
    again = question_of(session, fields_of(question))
    assert _meaning(again) == _meaning(question)


def _meaning(question):
    """All that is asked, whether what is not wanted is a minus or a term with a weight below 0."""
    terms = [(term.image, term.box, term.caption, term.weight) for term in question.terms]
    terms += [(None, None, unwanted.caption, -unwanted.weight) for unwanted in question.minus]
    rest = question.model_dump(exclude={"terms", "minus"})
    return sorted(terms, key=repr), rest


def test_lists_are_offered_for_few_names_and_whole_numbers():
    """Not for paths, dates, measurements, or what all images share."""
    fields = [
        FilterField(name="path", kind="text", values=["a", "b"]),
        FilterField(name="taken", kind="text", values=["2024", "2025"]),
        FilterField(name="camera", kind="text", values=["a", "b"]),
        FilterField(name="cluster", kind="number", values=[-1, 0, 1]),
        FilterField(name="detector_score", kind="number", values=[0.25, 0.5]),
        FilterField(name="site", kind="text", values=["a"]),
        FilterField(name="many", kind="text"),
    ]
    assert [one.name for one in filter_lists(fields)] == ["camera", "cluster"]


def test_summary():
    question = Question(
        terms=[Term(image="abc", caption="in red"), Term(caption="a hat", weight=2)],
        minus=[Minus(caption="a bag"), Minus(caption="a cap", weight=0.5)],
        where="camera == 'a'",
        least_score=0.5,
        right=[3, 4],
        wrong=[5],
    )
    assert summary_of(question) == (
        "photo “in red” + “a hat” ×2 − “a bag” − “a cap” ×0.5 · where camera == 'a' · score from 0.5"
        " · marked 2 right, 1 wrong"
    )


def test_history_keeps_the_last_of_searches_that_differ_in_marks():
    session, question = PageSession(), Question(terms=[Term(caption="in red")])
    for asked in (question, question.model_copy(update={"right": [3]}), Question(terms=[Term(caption="a hat")])):
        session.note(Search(asked, 1, None))
    assert [search.question.right for search in session.searches] == [[], [3]]
