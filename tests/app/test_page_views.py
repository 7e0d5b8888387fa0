"""The page's own markup."""

import pytest

from fafa.app.answers import Answer, Example, Hit
from fafa.app.page_session import PageSession, Photo, Wish
from fafa.app.page_views import (
    details_shown,
    percent,
    photo_shown,
    results_shown,
    searches_shown,
    view,
    wishes_shown,
)
from fafa.app.questions import Question, Term

MARKUP = "<script>alert(1)</script>\"' onload=x ${alert(2)} `"


def answered(**known):
    """A tab with one result."""
    hit = Hit(id=7, rank=1, score=0.5, name="a.jpg", thumbnail="/media/7/crop.webp", photo="/media/7/photo.webp")
    answer = Answer(hits=[hit.model_copy(update=known)], searched=3, milliseconds=4.2, generation=1)
    return PageSession(question=Question(terms=[Term(caption="in red")]), answer=answer, opened=7)


def test_markup_of_others_is_text():
    """Names of files, cameras, tags, sentences and uploads come from elsewhere: none of them becomes markup."""
    session = answered(name=MARKUP, camera=MARKUP, tags={"tag": MARKUP})
    session.question = Question(terms=[Term(caption=MARKUP)])
    session.photo = Photo("abc", "/media/upload/abc.webp", MARKUP)
    session.wishes = [Wish(1.0, MARKUP)]
    session.right = {7: Photo("result:7", "/media/7/crop.webp", MARKUP)}
    example = Example(image="result:1", caption=MARKUP, description=MARKUP, thumbnail="/media/1/crop.webp")
    shown = [
        photo_shown(session, []),
        photo_shown(PageSession(), [example]),
        wishes_shown(session),
        results_shown(session),
        details_shown(session),
        searches_shown(session),
        view("message", sentence=MARKUP, kind="error"),
    ]
    for text in shown:
        assert "<script" not in text and "' onload" not in text and '" onload' not in text
    assert all("&lt;script&gt;" in text for text in shown[:-2])


def test_score_and_probability():
    assert "0.500" in results_shown(answered()) and "likely" not in results_shown(answered())
    assert "73 % likely" in results_shown(answered(probability=0.73))


@pytest.mark.parametrize("share, told", [(0.999, "> 99 %"), (0.73, "73 %"), (0.004, "< 1 %")])
def test_no_probability_is_certain(share, told):
    assert percent(share) == told


def test_a_film_is_shown_at_its_moment():
    """A result of a film opens the film there, and says when that is."""
    session = answered(time=83.4, film="/media/7/film#t=83.4", box=(1, 2, 3, 4), tags={"track": 3})
    details = details_shown(session)
    assert 'src="/media/7/film#t=83.4"' in details and "0:01:23" in details and "<dt>track</dt><dd>3</dd>" in details
    assert "0:01:23" in results_shown(session)


def test_a_photograph_that_is_gone_is_said_to_be():
    """Where it would be, too: no thumbnail is asked for that there is not."""
    assert "gone or has changed" in details_shown(answered(photo=None))
    assert "No picture" in results_shown(answered(photo=None)) and "crop.webp" not in results_shown(
        answered(photo=None)
    )


def test_nobody_found():
    session = answered()
    session.answer = Answer(hits=[], searched=3, milliseconds=1, notes=["Nobody is found."], generation=1)
    assert "Nobody found among 3 images" in results_shown(session) and "sheet.png" not in results_shown(session)
