"""`fafa serve`: what it opens and to whom, and one line for what it cannot."""

import re
import shutil
import socket

import pytest
from tiny import tiny_model, tiny_processor
from typer.testing import CliRunner

pytest.importorskip("fastapi", reason="the page and its API need the extra app")
pytest.importorskip("gradio", reason="the page and its API need the extra app")

from fafa.app import server
from fafa.cli import app as fafa
from fafa.cli_app import _people_finder
from fafa.model_folder import load_model
from fafa.retrieval import Gallery

TOKEN = "a-token-of-many-characters"


@pytest.fixture(scope="module")
def index(photos, tmp_path_factory):
    """A gallery's folder, and beside it the model that made it."""
    place = tmp_path_factory.mktemp("cli")
    tiny_model().save_pretrained(place / "model")
    tiny_processor().save_pretrained(place / "model")
    Gallery.from_folder(*load_model(place / "model"), photos, features_dir=place / "photos.index", progress=False)
    return place / "photos.index"


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def served(monkeypatch, client_of):
    """Runs the command up to where it would serve: what it printed, and a client of what it would serve."""
    apps = []

    class Server:
        def run(self, sockets):
            for one in sockets:
                one.close()

    monkeypatch.setattr(server, "server_of", lambda app: (apps.append(app), Server())[1])
    monkeypatch.delenv("FAFA_TOKEN", raising=False)

    def serve(*arguments, **environment):
        result = CliRunner(env=environment).invoke(fafa, ["serve", *map(str, arguments)])
        return result, client_of(apps.pop()) if apps else None

    return serve


def test_a_gallery_is_served_to_this_machine(served, index, port, tmp_path):
    result, client = served(index, "--port", port, "--keep", tmp_path / "kept", "--audit", tmp_path / "audit.jsonl")
    assert result.exit_code == 0, result.output
    assert f"http://127.0.0.1:{port}/" in result.output and "Token" not in result.output
    facts = client.get("/api/facts")
    assert facts.json()["gallery"] == "photos.index" and "Max-Age" in facts.headers["set-cookie"]
    assert "text/html" in client.get("/").headers["content-type"]
    answer = client.post("/api/search", json={"terms": [{"caption": "a red coat"}], "top": 1})
    assert answer.status_code == 200 and (tmp_path / "audit.jsonl").read_text().count("\n") == 1
    assert (tmp_path / "kept" / "saved_searches.sqlite").is_file()


def test_others_need_a_token_which_is_made_where_none_is_given(served, index, port):
    result, client = served(index, "--host", "0.0.0.0", "--port", port)
    [token] = re.findall(r"Token, for those who may search: (\S+)", result.output)
    assert len(token) >= 32 and "TLS" in result.output
    assert client.get("/api/facts").status_code == 401
    assert client.get("/api/facts", headers={"authorization": f"Bearer {token}"}).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_given_token_is_needed_and_not_printed(served, index, port, tmp_path, host):
    (tmp_path / "token").write_text(TOKEN + "\n")
    for given in ({"FAFA_TOKEN": TOKEN}, {}):
        file = [] if given else ["--token-file", tmp_path / "token"]
        result, client = served(index, "--host", host, "--port", port, *file, **given)
        assert result.exit_code == 0 and TOKEN not in result.output
        assert client.get("/api/facts").status_code == 401
        assert client.get("/api/facts", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_what_cannot_be_served_is_one_line(served, index, port, tmp_path):
    def said(*arguments, **environment):
        result, client = served(*arguments, **environment)
        assert client is None and result.exit_code != 0
        return result.output.strip()

    assert "give a GALLERY or --demo" in said()
    assert "--demo has a gallery of its own" in said(index, "--demo")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        line = said(index, "--port", number).splitlines()[-1]
    assert line == f"port {number} of 127.0.0.1 is in use: end what uses it, or give another, --port {number + 1}"
    assert "the token has 5 characters" in said(index, "--port", port, FAFA_TOKEN="short")
    assert "holds no features" in said(tmp_path, "--port", port)
    (tmp_path / "moved").mkdir()
    model = shutil.copytree(index.parent / "model", tmp_path / "model")
    (model / "processor_config.json").unlink()
    line = said(index, "--port", port, "--model", model).splitlines()[-1]
    assert "model" in line and "Traceback" not in line, line
    print(line)


def test_people_in_uploads_are_found_as_the_gallerys_were(caplog):
    assert _people_finder({}, None, "cpu") is None
    noted = {"people": {"detector": "hog", "margin": 0.2}}
    for settings, named in ((noted, None), ({}, "hog")):
        finder = _people_finder(settings, named, "cpu")
        assert finder.keywords["detector"].name == "hog"
    assert _people_finder(noted, None, "cpu").keywords["margin"] == 0.2


def test_a_gallerys_detector_that_is_not_here_is_told_and_its_gallery_served(caplog):
    noted = {"people": {"detector": "./nowhere/detector", "margin": 0.05}}
    assert _people_finder(noted, None, "cpu") is None
    assert "as a whole" in caplog.text
    with pytest.raises((OSError, ValueError)):
        _people_finder({}, "./nowhere/detector", "cpu")
