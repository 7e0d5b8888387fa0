"""Films in a gallery: the people of each with box, time and track, found again only where a film is new or changed."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from films import spoil, write_film
from painted_scenes import BarDetector, paint_scene
from PIL import Image
from torch.testing import assert_close

from fafa.film_reading import UnreadableFilmError, frame_at
from fafa.people import film_index as module
from fafa.people import index_people
from fafa.people.film_index import FilmsTold, index_films
from fafa.people.scenes import SCORE
from fafa.retrieval import Gallery, encode_images
from fafa.retrieval.segment_list import GalleryFolder

pytest.importorskip("supervision", reason="people are followed by supervision: pip install '.[people]'")

RED, BLUE, GREEN = (200, 20, 20), (20, 20, 220), (20, 180, 20)


@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    """Two people walk, the red one to the right, the blue one to the left: three seconds, five frames a second."""
    folder = tmp_path_factory.mktemp("scenes")
    frames = [
        Image.open(paint_scene(folder / "frame.png", (10 + 6 * number, RED), (200 - 6 * number, BLUE))).convert("RGB")
        for number in range(8)
    ]
    frames += [
        Image.open(paint_scene(folder / "frame.png", (10 + 6 * number, GREEN))).convert("RGB") for number in range(8)
    ]
    return write_film(folder / "walks.mp4", frames, rate=5)


@pytest.fixture
def films(tmp_path, walks):
    """Two films with two and one people, and one without anybody."""
    folder = tmp_path / "films"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(walks.read_bytes())
    return folder


def opened(model, processor, films, index, photographs=()):
    options = {"dtype": torch.float32, "progress": False, "folder": films, "margin": 0.1}
    return index_people(model, processor, list(photographs), BarDetector(), index, **options)


def read(gallery, films, **options):
    detector = options.pop("detector", None) or BarDetector()
    files = sorted(films.iterdir())
    return index_films(gallery, files, detector, **{"margin": 0.1, "progress": False, **options}), detector


def stop_at_the_second_piece(gallery, films, monkeypatch):
    """An interruption once a piece is noted."""
    read_piece = module._Reading._people

    def stop(self, line, frames):
        if self.state.films:
            raise KeyboardInterrupt
        return read_piece(self, line, frames)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module._Reading, "_people", stop)
        read(gallery, films)


def entries_of(gallery):
    return gallery.state.entries(range(gallery.state.num_rows))


@pytest.fixture
def gallery(model, processor, films, tmp_path):
    gallery = opened(model, processor, films, tmp_path / "index")
    read(gallery, films)
    return gallery


def test_each_crop_is_an_entry_with_box_time_and_track(gallery, films):
    entries = entries_of(gallery)
    assert {entry.path for entry in entries} == {str(films / "a.mp4")}
    assert sorted({entry.tags["track"] for entry in entries}) == [1, 2, 3]
    assert all(entry.tags[SCORE] == 0.9 and 0 <= entry.time < 3.2 for entry in entries)
    colours = {}
    for entry in entries:
        pixels = np.asarray(frame_at(films / "a.mp4", entry.time).crop(entry.box))
        colours.setdefault(entry.tags["track"], []).append(int(pixels[50, pixels.shape[1] // 2].argmax()))
    assert sorted(map(set, colours.values()), key=min) == [{0}, {1}, {2}]  # a track is of one person
    assert len(gallery) == len(entries) == 3 * 3


def test_a_result_opens_the_moment(gallery, model, processor, films):
    """What is kept is what the crop of the frame at that moment gives."""
    result = gallery.search(caption="a man", top=1)[0]
    image = result.open()
    assert image.size == (result.entry.box[2] - result.entry.box[0], result.entry.box[3] - result.entry.box[1])
    features = encode_images(model, processor, [image], progress=False).features[0]
    assert_close(gallery.features[result.index], features, atol=1e-5, rtol=0)
    alike, asked = gallery.search(image=result), gallery.search(image=image)  # "like this one" opens it, too
    assert [(one.id, one.score) for one in alike] == [(one.id, one.score) for one in asked]


def test_filters_know_tracks_and_times(gallery):
    first = gallery.search(caption="a man", where="track == 1 and time < 10")
    assert len(first) == 3 and all(result.entry.tags["track"] == 1 for result in first)


def test_a_film_that_is_known_is_not_read_again(gallery, films, monkeypatch):
    ids = gallery.ids.tolist()
    monkeypatch.setattr(module, "Film", None)
    (films / "a.mp4").rename(films / "renamed.mp4")
    told, detector = read(gallery, films)
    assert (told, detector.seen) == (FilmsTold(known=1), 0)
    assert {entry.path for entry in entries_of(gallery)} == {str(films / "renamed.mp4")}
    assert gallery.ids.tolist() == ids and gallery.search(caption="a man", top=1)[0].open()


def test_a_copy_of_a_known_film_is_not_read(gallery, films, monkeypatch):
    monkeypatch.setattr(module, "Film", None)
    (films / "copy.mp4").write_bytes((films / "a.mp4").read_bytes())
    told, detector = read(gallery, films)
    assert (told, detector.seen) == (FilmsTold(known=2), 0)
    of = {name: [one for one in entries_of(gallery) if Path(one.path).name == name] for name in ("a.mp4", "copy.mp4")}
    assert [(one.time, one.box, one.tags) for one in of["copy.mp4"]] == [
        (one.time, one.box, one.tags) for one in of["a.mp4"]
    ]
    assert len(gallery.ids.unique()) == len(gallery) == 18
    assert_close(gallery.features[:9], gallery.features[9:])
    (films / "a.mp4").unlink()  # the copy is what is left, and is known
    assert read(gallery, films)[0] == FilmsTold(known=1) and len(gallery) == 9


def test_a_copy_of_a_film_that_was_half_read_is_not_read_either(model, processor, films, tmp_path, monkeypatch):
    """The one goes on where the run was stopped; the other was read anew, from its beginning."""
    monkeypatch.setattr(module, "PIECE", 1.0)
    gallery = opened(model, processor, films, tmp_path / "index")
    stop_at_the_second_piece(gallery, films, monkeypatch)
    (films / "copy.mp4").write_bytes((films / "a.mp4").read_bytes())
    (films / "a.mp4").rename(films / "z.mp4")
    gallery = opened(model, processor, films, tmp_path / "index")
    told, detector = read(gallery, films)
    assert (told.read, told.known, detector.seen) == (1, 1, 11)  # frames from one second on, once
    of = {name: [one for one in entries_of(gallery) if Path(one.path).name == name] for name in ("copy.mp4", "z.mp4")}
    assert len(of["copy.mp4"]) == len(of["z.mp4"]) == len(gallery) / 2 > 0


def test_a_new_film_is_added_and_one_that_is_gone_is_dropped(gallery, films, walks):
    ids = gallery.ids.tolist()
    spoil(walks, films / "b.mp4", (9,))
    told, _ = read(gallery, films)
    assert (told.read, told.known) == (1, 1) and set(ids) < set(gallery.ids.tolist())
    (films / "a.mp4").unlink()
    told, _ = read(gallery, films)
    assert {Path(entry.path).name for entry in entries_of(gallery)} == {"b.mp4"}
    assert told == FilmsTold(known=1)


def test_a_changed_film_is_read_anew(gallery, films, walks):
    ids = set(gallery.ids.tolist())
    spoil(walks, films / "a.mp4", (9,))
    told, _ = read(gallery, films)
    assert told.read == 1 and not ids & set(gallery.ids.tolist())
    assert len({entry.contents for entry in entries_of(gallery)}) == 1


def test_another_rate_or_number_of_crops_reads_a_known_film_anew(gallery, films):
    """They were ignored without a word; whoever does not ask for them keeps what the film was read with."""
    assert read(gallery, films, rate=5.0, num_crops=3)[0] == FilmsTold(known=1)
    assert read(gallery, films, num_crops=2)[0].crops == 6 == len(gallery)
    assert read(gallery, films)[0] == FilmsTold(known=1)
    told, detector = read(gallery, films, rate=2.5)
    assert told.read == 1 and detector.seen == 8 and told.crops <= 6
    assert [(note["rate"], note["crops"]) for note in gallery.state.films.values()] == [(2.5, 2)]


def test_a_film_of_which_images_were_deleted_is_read_anew(gallery, films):
    whole = len(gallery)
    gallery.delete(where="track == 2")
    assert len(gallery) < whole
    told, _ = read(gallery, films)
    assert told.read == 1 and len(gallery) == whole


def test_photographs_beside_films_stay(model, processor, films, tmp_path):
    photo = paint_scene(films / "photo.png", (50, RED))
    gallery = opened(model, processor, films, tmp_path / "index", [photo])
    films_alone = [films / "a.mp4"]
    index_films(gallery, films_alone, BarDetector(), margin=0.1, progress=False)
    assert len(gallery) == 1 + 9
    again = opened(model, processor, films, tmp_path / "index", [photo])
    assert again.ids.tolist() == gallery.ids.tolist()  # photographs leave films alone, too
    index_films(gallery, [], BarDetector(), progress=False)
    assert [
        Path(entry.path).name for entry in gallery.state.entries(gallery.state.living_rows_matching("time == None"))
    ]
    assert len(gallery) == 1


def test_of_a_film_without_people_whole_frames_are_there(model, processor, tmp_path, caplog):
    films = tmp_path / "films"
    films.mkdir()
    empty = [Image.open(paint_scene(tmp_path / "frame.png")).convert("RGB")] * 10
    write_film(films / "empty.mp4", empty, rate=5)
    gallery = opened(model, processor, films, tmp_path / "index")
    told, _ = read(gallery, films)
    assert told.without_people == [str(films / "empty.mp4")]
    assert "nobody was found in 1 film" in caplog.text
    entries = entries_of(gallery)
    assert [entry.box for entry in entries] == [None] * 3 and len({entry.time for entry in entries}) == 3
    assert read(gallery, films)[0] == FilmsTold(known=1)
    assert gallery.search(caption="a street", top=1)[0].open().size == empty[0].size


def test_of_a_single_frame_without_people_there_is_one_entry(model, processor, tmp_path):
    films = tmp_path / "films"
    films.mkdir()
    write_film(films / "still.mp4", [Image.open(paint_scene(tmp_path / "frame.png")).convert("RGB")], rate=5)
    gallery = opened(model, processor, films, tmp_path / "index")
    read(gallery, films)
    assert [entry.time for entry in entries_of(gallery)] == [0.0]


def test_a_film_that_vanishes_while_another_is_read_costs_the_others_nothing(gallery, films, walks, monkeypatch):
    for name in ("b.mp4", "c.mp4"):
        spoil(walks, films / name, (9 + (name == "c.mp4"),))
    read_film = module._Reading._read_from

    def taken_away(self, path, *rest):
        if path.name == "b.mp4":
            path.unlink()
        read_film(self, path, *rest)

    monkeypatch.setattr(module._Reading, "_read_from", taken_away)
    told, _ = read(gallery, films, on_error="skip")
    assert told.read == 1 and told.skipped == [str(films / "b.mp4")]
    assert {Path(entry.path).name for entry in entries_of(gallery)} == {"a.mp4", "c.mp4"}


def test_of_a_film_that_ends_in_an_error_nothing_is_kept(model, processor, films, tmp_path, monkeypatch):
    """Its clock begins anew in the second piece: the moments of the first one are not to be relied on either."""
    monkeypatch.setattr(module, "PIECE", 1.0)
    gallery = opened(model, processor, films, tmp_path / "index")
    joined = films / "joined.ts"
    images = [Image.open(paint_scene(tmp_path / "frame.png", (10 + 9 * number, RED))) for number in range(15)]
    part = write_film(tmp_path / "part.ts", images, rate=5).read_bytes()
    joined.write_bytes(part + part)
    told, _ = read(gallery, films, on_error="skip")
    assert told.skipped == [str(joined)] and told.read == 1
    assert {Path(entry.path).name for entry in entries_of(gallery)} == {"a.mp4"}


def test_a_film_longer_than_it_says_is_read_whole(model, processor, films, tmp_path, monkeypatch):
    """The progress bar of a film that went on beyond its end stopped the whole folder."""

    class Short(module.Film):
        def _open(self):
            super()._open()
            self.seconds = 0.5

    monkeypatch.setattr(module, "Film", Short)
    gallery = opened(model, processor, films, tmp_path / "index")
    told, _ = read(gallery, films, progress=True)
    assert (told.read, told.tracks) == (1, 3)


def test_a_film_that_cannot_be_read_is_left_out_and_told(gallery, films, caplog):
    (films / "broken.mp4").write_bytes((films / "a.mp4").read_bytes()[:300])
    with pytest.raises(UnreadableFilmError, match="cannot be read as a film"):
        read(gallery, films)
    told, _ = read(gallery, films, on_error="skip")
    assert told == FilmsTold(known=1, skipped=[str(films / "broken.mp4")])
    assert "left out: " in caplog.text


def content(gallery):
    """All that is searched and told, without ids."""
    entries = [(entry.time, entry.box, tuple(sorted(entry.tags.items()))) for entry in entries_of(gallery)]
    return sorted(zip(entries, map(np.ndarray.tobytes, map(np.asarray, gallery.features)), strict=True))


def test_a_stopped_run_goes_on_and_finds_what_it_would_have_found(
    model, processor, films, tmp_path, monkeypatch, caplog
):
    """Nothing is written on the way out, so that an interruption leaves what a killed process leaves."""
    caplog.set_level(logging.INFO, logger="fafa")
    monkeypatch.setattr(module, "PIECE", 1.0)
    whole = opened(model, processor, films, tmp_path / "whole")
    read(whole, films)
    gallery = opened(model, processor, films, tmp_path / "index")
    stop_at_the_second_piece(gallery, films, monkeypatch)
    half = GalleryFolder(tmp_path / "index").read()
    assert [note["until"] for note in half.films.values()] == [1.0] and 0 < len(half) < len(whole)
    caplog.clear()
    gallery = opened(model, processor, films, tmp_path / "index")
    told, detector = read(gallery, films)
    assert told.read == 1 and detector.seen == 11  # frames from one second on
    assert "going on at 0:00:01" in caplog.text
    assert content(gallery) == content(whole)


def test_another_process_that_notes_its_films_does_not_stop_one_in_the_middle_of_a_film(
    model, processor, films, tmp_path, walks, monkeypatch
):
    """A first piece in which nobody was left no entry, and the other's list of notes leaves such films out."""
    plain = Image.open(paint_scene(tmp_path / "frame.png")).convert("RGB")
    write_film(films / "a.mp4", [plain] * 6 + [Image.open(paint_scene(tmp_path / "frame.png", (50, RED)))] * 6, rate=5)
    monkeypatch.setattr(module, "PIECE", 1.0)
    gallery = opened(model, processor, films, tmp_path / "index")
    read_piece, seen = module._Reading._people, []

    def beside_another(self, line, frames):
        seen.append(len(self.state.films))
        if len(seen) == 2:
            with self.place.writing() as writer:
                writer.note(films={})
                writer.commit()
        return read_piece(self, line, frames)

    with monkeypatch.context() as patch:
        patch.setattr(module._Reading, "_people", beside_another)
        told, _ = read(gallery, films)
    assert told.read == 1 and told.tracks > 0 and not told.without_people
    assert read(gallery, films)[0] == FilmsTold(known=1)


def test_another_folder_does_not_cost_the_films_of_a_gallery(gallery, model, processor, films, tmp_path):
    """Hours of work: a gallery of films alone has no photographs by which to tell a mistake."""
    held = len(gallery)
    (tmp_path / "others").mkdir()
    photo = paint_scene(tmp_path / "others" / "photo.png", (50, RED))
    with pytest.raises(ValueError, match=r"another gallery: of its 1 file in \S*films, 0 are among the 1 given"):
        opened(model, processor, tmp_path / "others", tmp_path / "index", [photo])
    assert len(GalleryFolder(tmp_path / "index").read()) == held
    moved = films.rename(tmp_path / "moved")
    gallery = opened(model, processor, moved, tmp_path / "index")
    assert read(gallery, moved)[0] == FilmsTold(known=1) and len(gallery) == held


def test_notes_of_films_that_are_none_are_damage(gallery):
    """The list may come from anybody."""
    from fafa.files import sealed

    file = gallery.place.path / "gallery.json"
    manifest = json.loads(file.read_text())
    fast = {"x": {"until": None, "entries": 1, "rate": "fast"}}
    for wrong in ([], {"x": 1}, {"x": {"until": "late", "entries": 1}}, {"x": {"entries": 1}}, fast):
        file.write_text(json.dumps(sealed(manifest | {"films": wrong})))
        with pytest.raises(ValueError, match="its notes of films are none"):
            GalleryFolder(gallery.place.path).read()
    del manifest["films"]  # as before there were any
    file.write_text(json.dumps(sealed(manifest)))
    assert GalleryFolder(gallery.place.path).read().films == {}


def test_a_copy_that_is_saved_knows_its_films(gallery, films, tmp_path):
    gallery.save(tmp_path / "copy")
    copy = Gallery.load(tmp_path / "copy", gallery.model, gallery.processor)
    assert index_films(copy, sorted(films.iterdir()), BarDetector(), progress=False) == FilmsTold(known=1)


def test_a_gallery_in_memory_and_impossible_settings_are_refused(gallery, model, processor, films, tmp_path):
    photo = paint_scene(tmp_path / "photo.png", (50, RED))
    in_memory = Gallery.from_images(model, processor, [photo], progress=False)
    with pytest.raises(ValueError, match="lies in memory: save it first"):
        read(in_memory, films)
    for options in ({"num_crops": 0}, {"rate": 0}, {"margin": 2}, {"on_error": "ignore"}, {"batch_size": 0}):
        with pytest.raises(ValueError):
            read(gallery, films, **options)
