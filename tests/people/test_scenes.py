"""A gallery of people: one entry for each person in a photograph, which follows its photographs and survives kills."""

import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from encoding_spy import Spy
from painted_scenes import BOTTOM, SIZE, TOP, WIDTH, BarDetector, paint_scene
from PIL import Image
from second_model import second_model, second_processor
from tiny import tiny_model
from torch.testing import assert_close

from fafa.image_reading_fafa import UnreadableImageError, open_image
from fafa.people import count_people, index_people
from fafa.people.scenes import SCORE
from fafa.retrieval import (
    Entry,
    Gallery,
    Query,
    cutting,
    encode_images,
    heat_map,
    indexing,
    segment_list,
    segment_writer,
    word_drops,
)

RED, BLUE, GREEN = (200, 20, 20), (20, 20, 220), (20, 180, 20)


FEW = ((indexing, "CUT_IMAGES_A_LOCK", 2), (indexing, "IMAGES_A_COMMIT", 1), (cutting, "_IMAGES_AT_ONCE", 2))


@pytest.fixture(autouse=True)
def few_at_a_time(monkeypatch):
    for setting in FEW:
        monkeypatch.setattr(*setting)


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture
def photos(tmp_path):
    """A pair, nobody, one, and three people."""
    folder = tmp_path / "photos"
    folder.mkdir()
    paint_scene(folder / "a_pair.png", (150, BLUE), (20, RED))
    paint_scene(folder / "b_nobody.png")
    paint_scene(folder / "c_one.png", (100, GREEN))
    paint_scene(folder / "d_three.png", (10, BLUE), (80, GREEN), (160, RED))
    return sorted(folder.iterdir())


NUMBERS = [2, 1, 1, 3]  # of entries


def open_people(model, processor, photos, index, detector=None, **options):
    options = {"batch_size": 2, "progress": False, "dtype": torch.float32, "margin": 0.1, **options}
    if photos:
        options = {"folder": photos[0].parent, **options}
    return index_people(model, processor, photos, detector or BarDetector(), index, **options)


def entries_of(gallery):
    """Name and box of each entry, sorted, with its features."""
    entries = gallery.state.entries(gallery.state.living_rows(torch.arange(len(gallery))))
    names = [(Path(entry.path).name, entry.box or ()) for entry in entries]
    order = sorted(range(len(names)), key=names.__getitem__)
    return [names[row] for row in order], gallery.features[order], [entries[row] for row in order]


class Killed(BaseException):
    pass


def test_each_person_is_an_entry_with_its_box_and_who_stands_alone_in_no_photograph_is_the_whole(
    model, processor, photos, tmp_path, caplog
):
    caplog.set_level(logging.INFO, "fafa")
    gallery = open_people(model, processor, photos, tmp_path / "f")
    names, features, entries = entries_of(gallery)
    left, top, right, bottom = -7, TOP - 7, WIDTH + 7, BOTTOM + 7
    boxes = [(x + left, top, x + right, bottom) for x in (20, 150, 100, 10, 80, 160)]
    files = ["a_pair.png", "a_pair.png", "c_one.png", *["d_three.png"] * 3]
    assert names == sorted([*zip(files, boxes, strict=True), ("b_nobody.png", ())])
    assert [entry.tags.get(SCORE) for entry in entries] == [0.9, 0.9, None, 0.9, 0.9, 0.9, 0.9]
    assert (count := count_people(gallery)) == (4, 6, [photos[1]]) and count.people == 6
    assert "6 people found in 4 photographs" in caplog.text
    assert "nobody was found in 1 of them, which are indexed whole: " + str(photos[1]) in caplog.text
    # What is encoded is what the box says.
    crops = [Image.open(entry.path).crop(entry.box or (0, 0, *SIZE)) for entry in entries]
    assert_close(features, encode_images(model, processor, crops, progress=False).features)
    assert gallery.state.settings["people"] == {"detector": "bars", "margin": 0.1}


def test_a_search_finds_the_person_and_where_it_stands(model, processor, photos, tmp_path):
    open_people(model, processor, photos, tmp_path / "f")
    gallery = Gallery.load(tmp_path / "f", model, processor)  # a model's features are what they were without people
    [first, *_] = gallery.search(image=Image.open(photos[3]).crop((73, 13, 111, 97)), where="left > 100")
    assert first.entry.box[0] > 100
    again = gallery.search(image=first)  # "like this result" is asked by the person, not by the photograph
    crop = open_image(first.path).crop(first.entry.box)
    assert [result.id for result in again] == [result.id for result in gallery.search(image=crop)]


def test_why_a_person_was_found_is_shown_on_the_crop(model, processor, photos, tmp_path):
    gallery = open_people(model, processor, photos, tmp_path / "f")
    result = gallery.search(caption="a red coat", where="left > 100")[0]
    crop = open_image(result.path).crop(result.entry.box)
    query = {"caption": "a red coat"}
    shown, expected = (heat_map(model, processor, target, **query) for target in (result, crop))
    assert shown.image.tobytes() == crop.tobytes() and (shown.heat == expected.heat).all()
    assert word_drops(model, processor, result, **query) == word_drops(model, processor, crop, **query)


def test_people_of_one_photograph_are_found_together(model, processor, photos, tmp_path):
    pytest.importorskip("scipy")
    gallery = open_people(model, processor, photos, tmp_path / "f")
    people = [open_image(photos[0]).crop(box) for box in ((13, 13, 51, 97), (143, 13, 181, 97))]
    found = gallery.search_together([Query.of(image=person) for person in people], top=4)
    assert len(found) == 4 and {photo.path for photo in found} == set(photos)
    pair = next(photo for photo in found if photo.path == photos[0])
    assert {person.entry.box for person in pair.people} == {(13, 13, 51, 97), (143, 13, 181, 97)}
    alone = next(photo for photo in found if photo.path == photos[2])
    assert alone.people.count(None) == 1


def test_a_rerun_looks_only_at_new_and_changed_photographs(model, processor, photos, tmp_path, monkeypatch):
    open_people(model, processor, photos, tmp_path / "f")
    spy, detector = Spy(model, monkeypatch), BarDetector()
    before = entries_of(open_people(model, processor, photos, tmp_path / "f", detector))
    assert (detector.seen, spy.num_images) == (0, 0)
    new = paint_scene(photos[0].with_name("e_new.png"), (40, RED), (120, RED))
    paint_scene(photos[0], (60, GREEN))
    photos[2].unlink()
    gallery = open_people(model, processor, [photos[0], photos[1], photos[3], new], tmp_path / "f", detector)
    assert (detector.seen, spy.num_images) == (2, 3)
    names, features, _ = entries_of(gallery)
    assert [name for name, _ in names] == ["a_pair.png", "b_nobody.png", *["d_three.png"] * 3, *["e_new.png"] * 2]
    assert names[0][1] == (53, 13, 91, 97)
    assert_close(features[1:5], before[1][[2, 4, 5, 6]])


def test_renamed_and_copied_photographs_keep_all_of_their_people(model, processor, photos, tmp_path, monkeypatch):
    """Of several entries of one file, the first followed it and the others were dropped."""
    before, features, _ = entries_of(open_people(model, processor, photos, tmp_path / "f"))
    moved = photos[3].rename(photos[3].with_name("z.png"))
    copied = shutil.copy(photos[0], photos[0].with_name("y.png"))
    spy, detector = Spy(model, monkeypatch), BarDetector()
    gallery = open_people(model, processor, [*photos[:3], copied, moved], tmp_path / "f", detector)
    names, now, entries = entries_of(gallery)
    assert (detector.seen, spy.num_images) == (0, 0)
    three, pair = [box for _, box in before[4:]], [box for _, box in before[:2]]
    assert names == [*before[:4], *(("y.png", box) for box in pair), *(("z.png", box) for box in three)]
    assert_close(now, torch.cat([features[:4], features[:2], features[4:]]))
    assert all(entry.tags == {SCORE: 0.9} for entry in entries if entry.box)


def test_a_photograph_given_twice_has_everybody_in_it_once(model, processor, photos, tmp_path):
    assert len(open_people(model, processor, [*photos, photos[3]], tmp_path / "f")) == sum(NUMBERS)
    assert len(open_people(model, processor, [*photos, photos[3]], tmp_path / "f")) == sum(NUMBERS)


def test_unreadable_photographs_are_named_and_tried_again(model, processor, photos, tmp_path, caplog):
    sound = photos[3].read_bytes()
    photos[3].write_bytes(sound[:200])
    with pytest.raises(UnreadableImageError, match=r"gallery image 3.*d_three\.png"):
        open_people(model, processor, photos, tmp_path / "f")
    gallery = open_people(model, processor, photos, tmp_path / "f", on_error="skip")
    assert gallery.skipped == [str(photos[3])] and "1 of 4 images unreadable" in caplog.text
    assert len(gallery) == 4
    photos[3].write_bytes(sound)
    gallery = open_people(model, processor, photos, tmp_path / "f", on_error="skip")
    assert gallery.skipped == [] and len(gallery) == sum(NUMBERS)


def test_who_is_too_small_is_counted_and_no_reason_to_call_a_photograph_empty_of_others(
    model, processor, photos, tmp_path, caplog
):
    class Small(BarDetector):
        def _find(self, pixels):
            return [*super()._find(pixels), super()._find(pixels)[0]._replace(box=(0, 0, 10, 10))]

    gallery = open_people(model, processor, photos[2:], tmp_path / "f", Small())
    assert len(gallery) == 4 and "2 people left out: too small" in caplog.text


@pytest.mark.parametrize("killed_at", [(segment_writer, "write_segment", 1), (segment_list, "write_json", 2)])
def test_a_killed_run_keeps_whole_photographs_and_the_next_goes_on(
    model, processor, photos, tmp_path, monkeypatch, killed_at
):
    """A photograph of which some people counted would never be looked at again."""
    module, name, done = killed_at
    write, calls = getattr(module, name), []

    def killed(*arguments):
        calls.append(1)
        if len(calls) > done:
            raise Killed
        return write(*arguments)

    with monkeypatch.context() as patches:
        patches.setattr(module, name, killed)
        with pytest.raises(Killed):
            open_people(model, processor, photos, tmp_path / "f", batch_size=1)
    detector = BarDetector()
    kept = [name for name, _ in entries_of(Gallery.load(tmp_path / "f", model, processor))[0]]
    gallery = open_people(model, processor, photos, tmp_path / "f", detector)
    assert len(gallery) == sum(NUMBERS)
    assert all(kept.count(photo.name) in (0, number) for photo, number in zip(photos, NUMBERS, strict=True))
    assert detector.seen == len(photos) - len(set(kept))


class Slow(BarDetector):
    """Takes its time, so that a run can be killed in its middle."""

    def find(self, images):
        time.sleep(0.3)
        return super().find(images)


def run_slowly(processor, photos, index):
    for setting in FEW:
        setattr(*setting)
    open_people(tiny_model(), processor, photos, index, Slow(), batch_size=1)


def test_a_run_that_kill_9_ended_is_gone_on_with(model, processor, photos, tmp_path):
    more = [shutil.copy(photos[3], photos[3].with_name(f"f{number}.png")) for number in range(8)]
    for number, file in enumerate(more):
        paint_scene(file, (10 * number, RED), (200, BLUE))
    # Not forked: a process with threads, as other tests leave some, may wait for ever in its child.
    process = multiprocessing.get_context("spawn").Process(target=run_slowly, args=(processor, more, tmp_path / "f"))
    process.start()
    folder = segment_list.GalleryFolder(tmp_path / "f")
    deadline = time.monotonic() + 120
    while process.is_alive() and not (folder.exists() and len(folder.read())) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    done = {entry.path for _, entry in folder.read().whereabouts()}
    assert 0 < len(done) < len(more)
    detector = BarDetector()
    gallery = open_people(model, processor, more, tmp_path / "f", detector)
    assert len(gallery) == 2 * len(more) and detector.seen == len(more) - len(done)


def test_two_runs_share_the_photographs(model, processor, photos, tmp_path):
    """As processes of `accelerate launch` do."""
    expected = entries_of(open_people(model, processor, photos, tmp_path / "f"))
    detector, results = BarDetector(), []
    threads = [
        threading.Thread(target=lambda: results.append(open_people(model, processor, photos, tmp_path / "g", detector)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2 and detector.seen == len(photos)
    for result in results:
        names, features, _ = entries_of(result)
        assert names == expected[0]
        assert_close(features, expected[1])


def test_people_whom_two_runs_found_both_count_once(model, processor, photos, tmp_path, monkeypatch):
    """Of processes that see other photographs, locks cannot keep one from doing what the other does."""

    def meanwhile(features):
        if spy.num_images == 2:
            open_people(model, processor, photos, tmp_path / "f", second)
        return features

    monkeypatch.setattr(indexing, "lock_of", lambda folder, name: segment_list.FileLock(tmp_path / str(os.urandom(8))))
    spy, first, second = Spy(model, monkeypatch, meanwhile), BarDetector(), BarDetector()
    names, _, _ = entries_of(open_people(model, processor, photos, tmp_path / "f", first, batch_size=1))
    assert first.seen + second.seen > len(photos)
    assert len(names) == len(set(names)) == sum(NUMBERS)


def test_another_detector_or_margin_than_the_gallerys_is_refused_by_name(model, processor, photos, tmp_path):
    open_people(model, processor, photos, tmp_path / "f")
    with pytest.raises(ValueError, match=r"f holds .*detector bars, margin 0\.1.*asked for .*detector others, margin"):
        open_people(model, processor, photos, tmp_path / "f", BarDetector("others"))
    with pytest.raises(ValueError, match=r"margin 0\.1\), and asked for .*margin 0\.2"):
        open_people(model, processor, photos, tmp_path / "f", margin=0.2)
    options = {"features_dir": tmp_path / "f", "folder": photos[0].parent, "progress": False}
    with pytest.raises(
        ValueError, match=r"one entry for each person .*asked for is one entry for each image as a whole"
    ):
        Gallery.from_images(model, processor, photos, **options)
    Gallery.from_images(model, processor, photos, **options | {"features_dir": tmp_path / "whole"})
    with pytest.raises(ValueError, match="holds one entry for each image as a whole"):
        open_people(model, processor, photos, tmp_path / "whole")
    with pytest.raises(ValueError, match="margin is 3"):
        open_people(model, processor, photos, tmp_path / "f", margin=3)


def test_entries_of_films_stay_and_an_empty_gallery_can_be_begun(model, processor, photos, tmp_path):
    gallery = open_people(model, processor, [], tmp_path / "f", folder=photos[0].parent)
    assert len(gallery) == 0
    film = photos[0].with_name("film.mp4")
    film.write_bytes(b"a film")
    frame = open_image(photos[3])
    [number] = gallery.upsert([frame], [Entry(path="film.mp4", box=(0, 0, 50, 90), time=3.5)], progress=False)
    for _ in range(2):
        gallery = open_people(model, processor, photos, tmp_path / "f")
        assert len(gallery) == sum(NUMBERS) + 1 and count_people(gallery).photographs == 4
    [entry] = gallery.state.entries(gallery.state.rows_of_ids([number]))
    assert (entry.path, entry.time) == (str(film), 3.5)
    assert len(open_people(model, processor, [], tmp_path / "f", folder=photos[0].parent)) == 1


def test_a_model_that_shares_nothing_with_fafa_has_galleries_of_people(photos, tmp_path):
    model, processor = second_model(), second_processor()
    gallery = open_people(model, processor, photos, tmp_path / "f")
    assert gallery.features.shape == (sum(NUMBERS), 1, 8)
    [first, *_] = Gallery.load(tmp_path / "f", model, processor).search(caption="a red coat", where="left != None")
    assert first.open().size == (38, 84)


def test_photographs_are_decoded_once_whoever_is_in_them(model, processor, photos, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(cutting, "open_image", lambda image, name: (opened.append(image), open_image(image, name))[1])
    open_people(model, processor, photos, tmp_path / "f", num_workers=2)
    assert sorted(opened) == photos
