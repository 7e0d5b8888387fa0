"""The page's requests, as somebody may send them who is no browser of ours."""

import logging

import pytest

pytest.importorskip("gradio", reason="the page needs the extra app")

from fafa.app.server import create_app


@pytest.fixture
def page(service, client_of):
    return client_of(create_app(service))


def fire(page, name, said=None, *values):
    """Sends an event as the page does; returns the sentence above the results."""
    known = {event["api_name"]: event["id"] for event in page.get("/config").json()["dependencies"]}
    data = {"data": [None, *values], "event_data": said, "fn_index": known[name], "session_hash": "a"}
    answer = page.post("/gradio_api/run/predict", json=data)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"][1]


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
