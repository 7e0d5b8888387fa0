"""Results as a table and as a contact sheet."""

import csv
from io import BytesIO, StringIO

import pytest
from PIL import Image

from fafa.app import exports, links
from fafa.app.answers import Answer, Hit
from fafa.app.exports import table_of
from fafa.app.questions import Question, Term
from fafa.app.server import create_app


@pytest.fixture
def client(service, client_of):
    return client_of(create_app(service, page=False))


def ask(client, name, **question):
    """Downloads what a question finds."""
    return client.get(f"/export/{name}", params={"q": links.text_of(Question(**question))})


def test_table(client, service):
    """The table has the results of the question in the link, and is a download."""
    answer = ask(client, "results.csv", terms=[Term(caption="a red coat")], top=4)
    assert answer.content.startswith(b"\xef\xbb\xbfrank,")  # a spreadsheet reads it as UTF-8
    rows = list(csv.DictReader(StringIO(answer.content.decode("utf-8-sig"))))
    assert [int(row["rank"]) for row in rows] == [1, 2, 3, 4]
    assert {int(row["id"]) for row in rows} <= set(service.gallery.ids.tolist())
    assert answer.headers["content-disposition"] == 'attachment; filename="results.csv"'


def test_sheet(client, service, photos):
    """Asked by an upload cut to a box, or by a result, with marks and minus terms."""
    upload = client.post("/api/uploads", content=(photos / "0.png").read_bytes()).json()["id"]
    number = int(service.gallery.ids[3])
    for image, box in ((upload, (0, 0, 6, 12)), (f"result:{number}", None)):
        terms = [Term(image=image, box=box, caption="a red coat")]
        answer = ask(client, "sheet.png", terms=terms, minus=[{"caption": "a hat"}], top=3, right=[number])
        assert answer.status_code == 200, answer.text
        assert Image.open(BytesIO(answer.content)).format == "PNG"


def test_a_sheet_says_that_it_shows_the_first_alone(client, monkeypatch):
    """More results than fit on a sheet are not left out in silence."""
    told = []
    draw = exports.draw_contact_sheet
    monkeypatch.setattr(exports, "draw_contact_sheet", lambda *given: (told.append(given[3]), draw(*given))[1])
    monkeypatch.setattr(exports, "_MOST_ON_A_SHEET", 4)
    for top in (4, 5):
        assert ask(client, "sheet.png", terms=[Term(caption="a red coat")], top=top).status_code == 200
    assert told == ["9 images searched", "9 images searched; the first 4 results"]


def test_a_sheet_shows_the_person_asked_by(service, photos):
    """The box of a term that is a result, too; a box beyond the picture is cut to it, as the search does."""
    number = int(service.gallery.ids[3])
    whole = Image.open(photos / "3.png")
    term = Term(image=f"result:{number}", box=(-5, 0, 6, 12))
    picture = exports._picture(service, term, "me")
    assert picture.tobytes() == whole.convert("RGB").crop((0, 0, 6, 12)).tobytes()


def test_refusals_are_sentences(client):
    """A damaged link, an upload that is gone, and a search without results."""
    assert "damaged" in client.get("/export/sheet.png", params={"q": "abc"}).json()["detail"]
    assert "upload it again" in ask(client, "results.csv", terms=[Term(image="x" * 22)]).json()["detail"]
    answer = ask(client, "sheet.png", terms=[Term(caption="a red coat")], least_score=1.0)
    assert answer.status_code == 404 and "nothing to draw" in answer.json()["detail"]


def test_cells_are_no_formulas():
    """A file's name that a spreadsheet would run is text."""
    hit = Hit(id=1, rank=1, score=-0.5, name="=cmd|x", thumbnail="", tags={"a": "@b", "c": 2})
    [row] = csv.DictReader(StringIO(table_of(Answer(hits=[hit], searched=1, milliseconds=1, generation=1))))
    assert (row["name"], row["a"], row["c"], row["score"], row["probability"]) == ("'=cmd|x", "'@b", "2", "-0.5", "")
