"""The page's requests, as somebody may send them who is no browser of ours."""

import logging

import pytest

pytest.importorskip("gradio", reason="the page needs the extra app")

from fafa.app import page as page_module
from fafa.app import page_turns
from fafa.app.questions import MOST_TERMS
from fafa.app.server import create_app


@pytest.fixture
def page(service, client_of):
    page = client_of(create_app(service))
    fire(page, "began")
    return page


def fire(page, name, said=None, *values):
    """Sends an event as the page does; returns the sentence above the results."""
    return fire_whole(page, name, said, *values)[1]


def fire_whole(page, name, said=None, *values, tab="a"):
    """The same; returns all parts of the page, in the order of `PageParts.all`."""
    known = {event["api_name"]: event["id"] for event in page.get("/config").json()["dependencies"]}
    data = {"data": [None, *values], "event_data": said, "fn_index": known[name], "session_hash": tab}
    answer = page.post("/gradio_api/run/predict", json=data)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def test_the_page_names_no_folder(page, photos):
    """Neither the page nor what it is made of says where photographs or programs lie."""
    for place in ("/", "/config", "/page-files/page.js", "/page-files/page.css"):
        answer = page.get(place)
        assert answer.status_code == 200
        assert str(photos.parent) not in answer.text and "site-packages" not in answer.text


def test_nothing_beside_its_files_is_served(page):
    for place in ("page.py", "../page.py", "%2e%2e/page.py", "..%2fpage.py", "/etc/passwd", ""):
        assert page.get(f"/page-files/{place}").status_code in (403, 404)


def test_events_that_no_browser_sends(page, caplog):
    """Whatever an event says, it is answered, by a sentence if it makes no sense, and nothing breaks."""
    events = [
        ("opened", None),
        ("opened", {"id": ["../../etc/passwd"]}),
        ("right", {"id": "9" * 19}),
        ("right", {"id": "<script>"}),
        ("person", {"number": "1e9"}),
        ("uploaded", {"id": "x" * 22, "name": "a.jpg"}),
        ("dropped", {}),
        ("weighed", {"number": "3", "weight": "nan"}),
        ("repeated", {"key": "7"}),
        ("taken_up", {"key": "somebody else's"}),
        ("heated", None),
        ("next", None),
    ]
    with caplog.at_level(logging.ERROR):
        told = [fire(page, name, said) for name, said in events]
    assert not caplog.records
    assert not any("Traceback" in str(one) or "went wrong" in str(one) for one in told)
    assert "out of date" in told[1] and "<script>" not in told[3] and "upload it again" in told[5]


def test_a_fault_of_ours_is_one_sentence(page, service, monkeypatch, caplog):
    """An error that nobody foresaw is told without its words, which go to the log."""

    async def broken(*_):
        raise RuntimeError("secret words")

    monkeypatch.setattr(service, "search", broken)
    values = ["a red coat", None, None, "", 20, -1, 0]
    told = fire(page, "searched", None, *values)
    assert "went wrong here, not on your side" in told and "secret words" not in told
    assert "secret words" in caplog.text


def save(page, **question):
    answer = page.post("/api/saved", json={"name": "mine", "question": question})
    assert answer.status_code == 201, answer.text
    return {"key": answer.json()["id"]}


def test_an_event_that_fails_changes_nothing(page, service):
    """A saved search that cannot be asked leaves no photo behind, unseen, that the next search would be asked by."""
    photo = {"image": f"result:{service.gallery.ids[0]}", "caption": "a blue hat"}
    key = save(page, terms=[photo, {"caption": "a bag"}], where="nothing == 1")
    assert "nothing" in fire(page, "taken_up", key)
    answered = fire_whole(page, "searched", None, "a red coat", "", "", "", 20, -1, 0)
    assert "“a red coat”" in answered[5] and "photo “" not in answered[5] and "a bag" not in answered[3]


def test_what_a_program_asked_for_can_be_asked_again_on_the_page(page):
    """More results, or a rarer false alarm, than the page offers would be refused by its own fields for good."""
    key = save(page, terms=[{"caption": "a red coat"}], top=500)
    fields = fire_whole(page, "taken_up", key)[11:18]
    assert fields[4] == 100
    assert "“a red coat”" in fire_whole(page, "searched", None, *fields)[5]


def test_wishes_are_as_many_as_can_be_asked(page):
    """One more is refused when it is written, not when all are asked."""
    told = [fire(page, "wanted", None, "a red coat") for _ in range(MOST_TERMS)]
    assert not any(told[:-1]) and "take one away first" in told[-1]
    answered = fire_whole(page, "searched", None, "a red coat", "", "", "", 20, -1, 0)
    assert answered[5].count("+ “a red coat”") == MOST_TERMS - 1, answered[1]


def test_an_example_is_the_one_that_was_shown(page, service):
    """By its number in the gallery: its place among the examples changes when the gallery grows."""
    number = int(service.gallery.ids[5])
    service.begin_with = [(number, "a red coat")]
    values = ["", "", "", "", 20, -1, 0]
    shown = fire_whole(page, "example", {"image": f"result:{number}"}, *values)
    assert f"/media/{number}/crop.webp" in shown[2] and shown[11] == "a red coat"


def test_the_page_says_how_large_the_gallery_is_now(page, service, monkeypatch):
    """Not how large it was when the server began."""
    monkeypatch.setattr(type(service.gallery.state), "__len__", lambda self: 1234)
    assert "1,234 images" in fire_whole(page, "began")[-1]


def test_a_tab_that_is_forgotten_says_so(service, client_of, monkeypatch):
    """Of a server that began anew, or has too many open: it shows a photo by which nobody would be asked."""
    monkeypatch.setattr(page_module, "_MOST_TABS", 2)
    monkeypatch.setattr(page_turns, "_OPENS_WITHIN", 0.01)
    page, wish = client_of(create_app(service)), (None, "a red coat")
    assert "load the page again" in fire_whole(page, "wanted", *wish)[1]
    for tab in ("a", "b", "c"):
        fire_whole(page, "began", tab=tab)
    assert "load the page again" in fire_whole(page, "wanted", *wish)[1]
    assert "a red coat" in fire_whole(page, "wanted", *wish, tab="c")[3]
