"""The demo's painted people, and a Space's folder."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from PIL import Image

pytest.importorskip("fastapi", reason="the page and its API need the extra app")
pytest.importorskip("gradio", reason="the page and its API need the extra app")

from fafa import TINY_CHECKPOINT
from fafa.app import space as space_module
from fafa.app.demo import demo_service
from fafa.app.space import serve_space, write_space
from fafa.model_folder import load_model
from fafa.retrieval import Entry, Gallery

NUM_IMAGES = 14  # two queries, and a gallery of twelve


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A demo of few people, and its cache."""
    cache = tmp_path_factory.mktemp("cache")
    service = demo_service(cache, num_queries=2, num_images=12)
    yield service, cache
    service.close()


def test_the_demo_has_painted_people_with_sentences_to_begin_with(demo):
    service, _ = demo
    facts, examples = service.facts(), service.examples()
    assert (facts.images, facts.model, facts.gallery) == (NUM_IMAGES, "tiny", "painted people")
    assert "mean nothing" in facts.notes[0]
    assert [example.image for example in examples] == ["result:0", "result:1"]
    assert all(example.caption for example in examples)
    assert [field.name for field in facts.fields] == ["path", "camera", "person"]


def test_people_are_painted_and_encoded_once(demo, monkeypatch):
    _, cache = demo
    monkeypatch.setattr(Gallery, "add", lambda *_: pytest.fail("encoded again"))
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.jpg")}
    service = demo_service(cache, num_queries=2, num_images=12)
    service.close()
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.jpg")} == before


@pytest.fixture(scope="module")
def space(demo, tmp_path_factory):
    """A Space's folder of the demo."""
    service, _ = demo
    folder = tmp_path_factory.mktemp("spaces") / "space"
    write_space(folder, service.gallery, TINY_CHECKPOINT, 'People: "painted"', True, service.begin_with)
    return folder


def test_a_space_is_whole_and_tells_nothing_of_this_machine(space, demo):
    _, cache = demo
    names = {path.name for path in space.iterdir()}
    assert names == {"README.md", "app.py", "examples.json", "fafa", "gallery", "model", "photos", "requirements.txt"}
    head = yaml.safe_load((space / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert (head["title"], head["sdk"], head["app_file"]) == ('People: "painted"', "gradio", "app.py")
    requirements = (space / "requirements.txt").read_text().splitlines()
    assert any(line.startswith("torch==") for line in requirements) and not any("+" in line for line in requirements)
    assert {line.partition("==")[0] for line in requirements} >= {"gradio", "fastapi", "uvicorn", "transformers"}
    for file in space.rglob("*"):
        if file.is_file() and file.suffix in (".json", ".md", ".py", ".txt"):
            text = file.read_text(encoding="utf-8")
            assert str(cache) not in text and str(TINY_CHECKPOINT.parent) not in text, file
    assert len(list((space / "photos").rglob("*.jpg"))) == NUM_IMAGES
    assert not list(space.rglob("setup.py")) and not list(space.rglob("__pycache__"))


def test_its_app_serves(space):
    """In a process of its own, with the package that lies in the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ours = {"GRADIO_SERVER_PORT": str(port), "SPACE_HOST": "me-people.hf.space", "PYTHONPATH": ""}
    process = subprocess.Popen([sys.executable, "app.py"], cwd=space, env=os.environ | ours, stderr=subprocess.PIPE)
    try:
        facts = json.loads(_answer(process, f"http://127.0.0.1:{port}/api/facts"))
        assert (facts["images"], facts["gallery"], facts["model"]) == (NUM_IMAGES, "gallery of this Space", "model")
        question = json.dumps({"terms": [{"image": "result:0", "caption": "now in a red coat"}], "top": 1}).encode()
        own = {"Content-Type": "application/json", "Host": "me-people.hf.space", "Origin": "https://me-people.hf.space"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/search", question, own)
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["hits"] and "Partitioned" in answer.headers["Set-Cookie"]
            assert "https://huggingface.co" in answer.headers["Content-Security-Policy"]
        assert "<html" in _answer(process, f"http://127.0.0.1:{port}/")
    finally:
        process.terminate()
        process.wait(20)
        process.stderr.close()


def _answer(process, address):
    """What an address answers, once the process serves."""
    for _ in range(1_200):
        assert process.poll() is None, process.stderr.read().decode()
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                return answer.read().decode()
        except ConnectionError:
            pass
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionError):
                raise
        time.sleep(0.1)
    raise AssertionError("it does not serve")


def test_photographs_are_not_served_to_everybody(space, monkeypatch):
    monkeypatch.delenv("FAFA_TOKEN", raising=False)
    with pytest.raises(SystemExit, match="set the secret FAFA_TOKEN"):
        serve_space(space, "model")


def test_a_space_of_photographs_asks_for_the_secret(gallery, demo, tmp_path):
    write_space(tmp_path / "space", gallery, "someone/model", "Mine")
    app, readme = ((tmp_path / "space" / name).read_text(encoding="utf-8") for name in ("app.py", "README.md"))
    assert "open_to_all=False" in app and "'someone/model'" in app and "consent" in readme
    assert not (tmp_path / "space" / "model").exists()
    assert Path(shutil.copytree(tmp_path / "space", tmp_path / "moved")).is_dir()
    moved = tmp_path / "moved"
    opened = Gallery.load(moved / "gallery", gallery.model, gallery.processor, moved / "photos")
    assert all(path.is_file() and path.is_relative_to(moved) for path in opened.paths)
    with pytest.raises(FileExistsError):
        write_space(moved, gallery, "someone/model", "Mine")


def test_a_space_of_photographs_and_films_opens_and_brings_what_reads_films(tmp_path, monkeypatch):
    """Its processor decoded otherwise than the gallery's, which refused it; PyAV was missing, and every film "gone"."""
    av = pytest.importorskip("av", reason="films are read by PyAV")
    from films import corners, write_film

    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        Image.fromarray(corners(number)).save(photos / f"{number}.jpg")
    made, processor = load_model(TINY_CHECKPOINT)
    processor.image_processor.draft_photographs = True  # as `fafa index` has it
    gallery = Gallery.from_folder(made, processor, photos, features_dir=tmp_path / "index", progress=False)
    write_space(tmp_path / "plain", gallery, TINY_CHECKPOINT, "Mine")
    write_film(photos / "film.mp4", [corners(0)] * 5)
    gallery.add([Image.fromarray(corners(0))], [Entry("film.mp4", time=0.2)], progress=False)
    write_space(tmp_path / "films", gallery, TINY_CHECKPOINT, "Mine")
    needed = [(tmp_path / name / "requirements.txt").read_text() for name in ("plain", "films")]
    assert ("av==" in needed[0], f"av=={av.__version__}" in needed[1]) == (False, True)
    served = []
    monkeypatch.setenv("FAFA_TOKEN", "a-token-of-many-characters")
    monkeypatch.setattr(space_module, "open_socket", lambda *_: None)
    monkeypatch.setattr(space_module, "create_app", lambda service, **_: served.append(service))
    monkeypatch.setattr(space_module, "server_of", lambda _: SimpleNamespace(run=lambda _: None))
    serve_space(tmp_path / "films", "model")
    assert len(served[0].gallery) == 4
    served[0].close()


def test_a_gallery_without_a_folder_makes_no_space(gallery, tmp_path):
    loose = Gallery(gallery.model, gallery.processor, gallery.features, [None] * len(gallery))
    with pytest.raises(ValueError, match="no one folder"):
        write_space(tmp_path / "space", loose, "someone/model", "Mine")
    assert not (tmp_path / "space").exists()
