"""Saved searches are their users' alone; links repeat a question."""

import pytest

pytest.importorskip("fastapi", reason="the page and its API need the extra app")

from fafa.app import saved as saved_module
from fafa.app.faults import Refused
from fafa.app.links import question_of, text_of
from fafa.app.questions import MOST_CHARACTERS, MOST_MARKS, MOST_TERMS, Minus, Question, Term
from fafa.app.saved import SavedSearches

QUESTION = Question(terms=[Term(caption="Ein Mantel, <b>grün</b>")], right=[3])
LONGEST = Question(
    terms=[Term(image="a" * 100, box=(0.123, 1.5, 2.5, 3.5), caption="é" * MOST_CHARACTERS)] * MOST_TERMS,
    minus=[Minus(caption="\n" * MOST_CHARACTERS)] * MOST_TERMS,
    where="x" * 4_000,
    right=[2**62] * MOST_MARKS,
    wrong=[2**62] * MOST_MARKS,
)


def test_a_search_is_its_users_alone():
    saved = SavedSearches()
    one = saved.keep("me", "coats", QUESTION)
    assert saved.of("me") == [one] and saved.get("me", one.id).question == QUESTION
    assert saved.of("you") == []
    for do in (saved.get, saved.drop):
        with pytest.raises(Refused) as refused:
            do("you", one.id)
        assert refused.value.status == 404
    saved.drop("me", one.id)
    assert saved.of("me") == []


def test_all_users_together_have_so_much_room(monkeypatch):
    """Who sends no cookie is a new user with each request, so that a limit for each user bounds nothing."""
    monkeypatch.setattr(saved_module, "_MOST_BYTES", 2**18)
    saved = SavedSearches()
    with pytest.raises(Refused, match="full"):
        for user in range(100):
            saved.keep(str(user), "coats", LONGEST)
    assert user > 1 and saved.of("0")


def test_searches_outlive_the_server_only_where_that_is_asked_for(tmp_path):
    first = SavedSearches(tmp_path / "kept")
    one = first.keep("me", "coats", QUESTION)
    again = SavedSearches(tmp_path / "kept")
    assert again.is_kept and again.of("me") == [one]
    [file] = (tmp_path / "kept").iterdir()
    assert file.stat().st_mode & 0o77 == 0
    assert not SavedSearches().is_kept


def test_there_are_a_number_of_them(monkeypatch):
    monkeypatch.setattr(saved_module, "_MOST", 1)
    saved = SavedSearches()
    saved.keep("me", "coats", QUESTION)
    with pytest.raises(Refused, match="delete some"):
        saved.keep("me", "coats", QUESTION)


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "saved_searches.sqlite").write_text("no database " * 100)
    with pytest.raises(OSError, match="choose another folder"):
        SavedSearches(tmp_path)


@pytest.mark.parametrize("question", [QUESTION, LONGEST], ids=["one", "longest"])
def test_a_link_repeats_its_question(question):
    text = text_of(question)
    assert text.replace("-", "").replace("_", "").isalnum() and text.isascii()
    assert question_of(text) == question


@pytest.mark.parametrize("damage", ["", "x", "é", "AAAA", "../../etc", text_of(QUESTION)[:-9]])
def test_a_damaged_link_is_refused(damage):
    with pytest.raises(Refused, match="link is damaged"):
        question_of(damage)


def test_a_link_that_unpacks_to_much_is_refused():
    """A short text can unpack to gigabytes."""
    import base64
    import zlib

    with pytest.raises(Refused):
        question_of(base64.urlsafe_b64encode(zlib.compress(b" " * 2**26, 9)).decode().rstrip("="))
