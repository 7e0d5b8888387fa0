"""`fafa index FILM --people`, `fafa search` of what is in it, and `fafa cluster`."""

import json
from pathlib import Path

import pytest
from films import write_film
from painted_scenes import BarDetector, paint_scene
from PIL import Image
from typer.testing import CliRunner

from fafa import people
from fafa.cli import app

pytest.importorskip("supervision", reason="people are followed by supervision: pip install '.[people]'")

RED, BLUE = (200, 20, 20), (20, 20, 220)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Six walks of two people: the red one and the blue one by turns, each gone for a while in between."""
    folder = tmp_path_factory.mktemp("film")
    frames = []
    for colour in (RED, BLUE) * 3:
        for number in range(6):
            frames.append(paint_scene(folder / f"{len(frames)}.png", (20 + 8 * number, colour)))
        frames += [paint_scene(folder / f"{len(frames) + extra}.png") for extra in range(9)]
    images = [Image.open(file).convert("RGB") for file in frames]
    (folder / "films").mkdir()
    return write_film(folder / "films" / "party.mp4", images, rate=5)


@pytest.fixture(scope="module")
def model_folder(model, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def bars(monkeypatch, tmp_path):
    monkeypatch.setattr(people, "load_detector", lambda name=None, device=None: BarDetector())
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output or result.exception
    return result.stdout


def test_a_film_is_indexed_searched_and_clustered(film, model_folder, tmp_path):
    index = ("index", film, "--people", "--model", model_folder, "--num-workers", 0, "--crops", 2)
    assert "party.mp4.index: 6 tracks of people in 1 film" in run(*index)
    told = json.loads(run(*index, "--json"))
    assert (told["films"], told["tracks"], told["crops"], told["images"]) == (1, 6, 12, 12)

    gallery = tmp_path / "party.mp4.index"
    search = ("search", gallery, "--caption", "a person", "--top", 3)
    assert "party.mp4 at 0:00:0" in run(*search)
    [first, *_] = json.loads(run(*search, "--json"))["results"]
    assert first["path"] == str(film) and first["time"] >= 0 and len(first["box"]) == 4 and first["tags"]["track"]
    run(*search, "--sheet", tmp_path / "result.png")
    assert Image.open(tmp_path / "result.png").width >= 960

    printed = run("cluster", gallery, "--sheet", tmp_path / "people.png", "--least", 3)
    assert printed.split()[:4] == ["cluster", "seen", "files", "images"]
    clusters = json.loads(run("cluster", gallery, "--least", 3, "--json"))["clusters"]
    assert [(one["cluster"], one["seen"], len(one["ids"])) for one in clusters] == [(0, 3, 6), (1, 3, 6)]
    assert Image.open(tmp_path / "people.png").height > 400
    found = json.loads(run(*search, "--where", "cluster == 1", "--json"))["results"]
    assert {one["tags"]["cluster"] for one in found} == {1}


def test_photographs_and_films_of_one_folder(film, model_folder, tmp_path):
    folder = tmp_path / "holiday"
    folder.mkdir()
    paint_scene(folder / "photo.png", (50, RED), (150, BLUE))
    (folder / "film.mp4").write_bytes(film.read_bytes())
    told = run("index", folder, "--people", "--model", model_folder, "--num-workers", 0)
    assert "2 people in 1 photograph, 6 tracks of people in 1 film" in told
    (folder / "photo.png").unlink()
    (folder / "broken.avi").write_bytes(b"RIFF\0\0\0\0AVI nothing")
    told = run("index", folder, "--people", "--num-workers", 0)
    assert "6 tracks of people in 1 film, 1 unreadable and left out" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "party.mp4"], "is a file: give a folder of photographs, or, for a film, --people"),
        (["index", ".", "--rate", "2"], "--rate: that is about people"),
        (["cluster", "absent.index"], "absent.index holds no features"),
        (["cluster", "absent.index", "--sheet", "people.txt"], "says no format for a picture"),
        (["cluster", "absent.index", "--least", "1"], "--least"),
    ],
)
def test_what_is_refused(film, tmp_path, arguments, message):
    Path("party.mp4").write_bytes(film.read_bytes()[:600])
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code != 0
    assert message in " ".join(f"{result.output} {result.exception}".replace("│", " ").split())


def test_a_sheet_takes_no_photographs_place(film, tmp_path):
    photo = paint_scene(tmp_path / "photo.png", (50, RED))
    result = CliRunner().invoke(app, ["cluster", "absent.index", "--sheet", str(photo)])
    assert "none of these pictures" in str(result.exception)


def test_a_film_by_itself_does_not_take_the_place_of_a_whole_folder(model_folder, tmp_path):
    """Whoever means to add it would lose all photographs of the gallery."""
    folder = tmp_path / "photos"
    folder.mkdir()
    paint_scene(folder / "one.png", (50, RED))
    film = write_film(folder / "walk.mp4", [Image.open(folder / "one.png").convert("RGB")] * 5, rate=5)
    index = ("--people", "--model", model_folder, "--num-workers", "0", "--output", "all.index", "--json")
    held = json.loads(run("index", folder, *index))["images"]
    refused = CliRunner().invoke(app, list(map(str, ("index", film, *index))))
    assert refused.exit_code == 1 and "all.index holds 1 other file, which walk.mp4 by itself would" in str(
        refused.exception
    )
    assert json.loads(run("index", folder, *index))["images"] == held
    (folder / "one.png").unlink()
    assert json.loads(run("index", film, *index))["films"] == 1
