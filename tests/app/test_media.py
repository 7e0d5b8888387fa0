"""Pictures of people in photographs and in films, by the images' numbers alone."""

import io
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from encoding_spy import paint
from films import CORNERS, av, corners, corners_of, write_film
from painted_scenes import SIZE, BarDetector, paint_scene
from PIL import Image
from tiny import tiny_model, tiny_processor

pytest.importorskip("fastapi", reason="the page and its API need the extra app")

from fafa.app import exports
from fafa.app.media import film_url, open_person
from fafa.app.server import create_app
from fafa.app.service import SearchService
from fafa.people import people_in
from fafa.retrieval import Gallery, RankedImage
from fafa.retrieval.contact_sheet import open_ranked
from fafa.retrieval.identity import describe_image
from fafa.retrieval.metadata import Entry, entry_of
from fafa.retrieval.opening import open_entry

RED_BAR, FILM = (10, (220, 30, 30)), (48, 0, 96, 32)  # the upper right of the film: green


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A service over a photograph, a person in a photograph, and a person in a film; and the folder of them."""
    folder = tmp_path_factory.mktemp("seen") / "pictures"
    folder.mkdir()
    paint(folder / "plain.png", 1)
    made, place = (tiny_model(), tiny_processor()), folder.parent / "index"
    Gallery.from_folder(*made, folder, features_dir=place, progress=False)
    gallery = Gallery.load(place, *made)
    scene = paint_scene(folder / "scene.png", RED_BAR, (150, (30, 30, 220)))
    film = write_film(folder / "film.mp4", [corners(number) for number in range(12)])
    cut = Image.open(scene).crop((10, 20, 34, 90))
    known = [{"box": (10.0, 20.0, 34.0, 90.0)}, {"box": FILM, "time": 0.5, "tags": {"track": 3}}]
    described = [describe_image(file, "image", folder) for file in (scene, film)]
    entries = [entry_of(file, **of_it) for file, of_it in zip(described, known, strict=True)]
    gallery.add([cut, Image.fromarray(corners()[:32, 48:])], entries, progress=False)
    service = SearchService(gallery, find_people=partial(people_in, detector=BarDetector(), margin=0.0))
    yield service, folder
    service.close()


@pytest.fixture
def watcher(seen, client_of):
    return client_of(create_app(seen[0], page=False))


def picture(answer):
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/webp"
    return Image.open(io.BytesIO(answer.content)).convert("RGB")


def test_a_person_in_a_photograph_and_the_photograph_with_the_box(watcher):
    person, photo = (picture(watcher.get(f"/media/1/{name}.webp")) for name in ("crop", "photo"))
    assert person.size == (24, 70) and photo.size == SIZE
    assert np.abs(np.asarray(person)[60, 12].astype(int) - RED_BAR[1]).max() < 40
    assert np.asarray(photo)[50, 10].tolist() != np.asarray(photo)[50, 60].tolist()  # the box's line


def test_a_person_in_a_photograph_that_is_always_decoded_smaller(tmp_path, monkeypatch):
    """Of a photograph of 108 million pixels the box is of the smaller image, and was taken for one of the whole."""
    scene, file = Image.open(paint_scene(tmp_path / "scene.png", RED_BAR)), tmp_path / "scene.jpg"
    scene.resize((2 * scene.width, 2 * scene.height), Image.Resampling.NEAREST).save(file, quality=95)
    monkeypatch.setattr("fafa.image_reading_fafa.MAX_PIXELS", scene.width * scene.height)
    monkeypatch.setattr("fafa.app.media.MAX_PIXELS", scene.width * scene.height)
    entry = Entry(path=str(file), box=(10.0, 20.0, 34.0, 90.0))
    person = open_person(SimpleNamespace(path=file, entry=entry, open=partial(open_entry, entry)), longest=48)
    assert person.size == (24, 70)
    assert np.abs(np.asarray(person)[60, 12].astype(int) - RED_BAR[1]).max() < 40


def test_a_moment_of_a_film(watcher):
    person, frame = (picture(watcher.get(f"/media/2/{name}.webp")) for name in ("crop", "photo"))
    assert person.size == (48, 32) and frame.size == (96, 64)
    assert np.abs(np.asarray(person)[3, -4].astype(int) - CORNERS["green"]).max() < 60
    assert corners_of(frame)[2:] == ["blue", "grey"]


@pytest.mark.parametrize("form", ["mkv", "mp4"])
def test_a_film_whose_clock_begins_late_is_played_at_the_moment(seen, tmp_path, form):
    """A browser seeks by the file's own clock: it showed another moment than the one that was found."""
    late = [100 + number / 5 for number in range(10)]
    film = write_film(tmp_path / f"late.{form}", [corners(number) for number in range(10)], times=late, rate=5)
    with av.open(str(film)) as container:
        begins = container.start_time / av.time_base
    result = SimpleNamespace(id=7, path=film, entry=Entry(path=str(film), time=1.5))
    assert film_url(result) == f"/media/7/film#t={begins + 1.5:g}"


def test_a_film_is_sent_in_parts(watcher, seen):
    data = (seen[1] / "film.mp4").read_bytes()
    whole, part = watcher.get("/media/2/film"), watcher.get("/media/2/film", headers={"range": "bytes=10-19"})
    assert whole.content == data and whole.headers["content-type"] == "video/mp4"
    assert (part.status_code, part.content) == (206, data[10:20])
    assert watcher.get("/media/1/film").status_code == 404  # a photograph is never sent as it lies there


def test_results_name_them_and_the_moment(watcher):
    hits = watcher.post("/api/search", json={"terms": [{"caption": "a red coat"}]}).json()["hits"]
    film, scene, plain = (
        next(hit for hit in hits if hit["name"] == name) for name in ("film.mp4", "scene.png", "plain.png")
    )
    assert (film["film"], film["time"], film["tags"]) == ("/media/2/film#t=0.5", 0.5, {"track": 3})
    assert (scene["film"], scene["box"], plain["box"]) == (None, [10, 20, 34, 90], None)
    assert watcher.get("/api/facts").json()["has_films"] is True
    for hit in hits:
        assert watcher.get(hit["thumbnail"]).status_code == watcher.get(hit["photo"]).status_code == 200


def test_the_contact_sheet_shows_what_that_of_the_command_does(seen):
    """The person, and below the photograph or the frame with the box, the moment and the rank."""
    service, folder = seen
    for number, name in ((1, "scene.png"), (2, "film.mp4")):
        entry = service.result(number).entry
        hit = SimpleNamespace(id=number, score=0.5, rank=4, box=entry.box, time=entry.time)
        shown = exports._ranked(service, hit, True)
        asked = RankedImage(folder / name, 0.5, box=entry.box, time=entry.time)
        assert shown.image.tobytes() == open_ranked(asked, exports._SHARPNESS).tobytes()
        assert (shown.rank, shown.correct, shown.time, shown.box) == (4, True, entry.time, None)


def test_like_this_result_works_for_a_person_in_a_film(watcher):
    question = {"terms": [{"image": "result:2", "caption": "a red coat"}]}
    hits = watcher.post("/api/search", json=question).json()["hits"]
    assert sorted(hit["id"] for hit in hits) == [0, 1]
    assert watcher.post("/api/heat-map", json={"question": question, "id": 2}).status_code == 200


def test_people_are_found_in_uploads_and_in_results(watcher, seen):
    upload = watcher.post("/api/uploads", content=(seen[1] / "scene.png").read_bytes()).json()
    boxes = [[10, 20, 34, 90], [150, 20, 174, 90]]
    assert watcher.get(f"/api/people/{upload['id']}").json() == boxes
    assert watcher.get("/api/people/result:1").json() == boxes
    one = {"terms": [{"image": upload["id"], "box": boxes[0]}], "exclude_query": False}
    other = {"terms": [{"image": upload["id"], "box": boxes[1]}], "exclude_query": False}
    scores = [watcher.post("/api/search", json=question).json()["hits"][0]["score"] for question in (one, other)]
    assert scores[0] != scores[1]


def test_browsers_keep_pictures_of_the_gallery_alone(watcher, seen):
    """Under addresses that change with them; an upload is kept nowhere, not by the browser either."""
    hit = watcher.post("/api/search", json={"terms": [{"caption": "a red coat"}]}).json()["hits"][0]
    assert hit["photo"].partition("?")[2] == hit["thumbnail"].partition("?")[2] != ""
    assert "max-age" in watcher.get(hit["photo"]).headers["cache-control"]
    upload = watcher.post("/api/uploads", content=(seen[1] / "scene.png").read_bytes()).json()
    assert watcher.get(upload["url"]).headers["cache-control"] == "no-store"


def test_a_file_with_other_contents_is_not_shown(watcher, seen):
    """An index decides which files it names, so they are compared with what was indexed."""
    (seen[1] / "plain.png").write_bytes((seen[1] / "scene.png").read_bytes())
    assert watcher.get("/media/0/photo.webp").status_code == 404
