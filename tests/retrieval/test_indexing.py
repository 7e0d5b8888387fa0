"""A gallery's folder follows its photographs: only what is new or changed is encoded, whatever stops a run."""

import errno
import logging
import os
import shutil
import threading

import pytest
import torch
from encoding_spy import NUM_IMAGES, Spy, paint
from filelock import FileLock
from PIL import Image
from tiny import tiny_model
from torch.testing import assert_close

from fafa.image_reading_fafa import InaccessibleImageError, UnreadableImageError
from fafa.retrieval import Entry, Gallery, encoding, identity, indexing, reading, segment_list, segment_writer
from fafa.retrieval.reading import PixelBatch


@pytest.fixture(autouse=True)
def two_at_a_time(monkeypatch):
    monkeypatch.setattr(indexing, "IMAGES_A_LOCK", 2)
    monkeypatch.setattr(indexing, "IMAGES_A_COMMIT", 2)


def in_order(gallery):
    """Features in the order of paths."""
    order = sorted(range(len(gallery)), key=gallery.paths.__getitem__)
    return gallery.features[order]


@pytest.fixture
def model():
    return tiny_model()


def test_images_that_cannot_be_read_are_left_out_and_tried_again_each_time(
    model, processor, photos, tmp_path, spy, caplog
):
    """A first verdict lasted for ever: a HEIC stayed unreadable after pillow-heif had been installed."""
    bad = {number: photos[number].read_bytes() for number in (2, 3, 9)}  # the second shard is empty
    for number in bad:
        photos[number].write_bytes(b"no picture")
    expected = Gallery.from_images(model, processor, photos, batch_size=2, on_error="skip", progress=False)
    spy.num_images = 0
    options = {"batch_size": 2, "on_error": "skip", "progress": False, "dtype": torch.float32}
    options["features_dir"] = tmp_path / "f"
    for _ in range(2):
        caplog.clear()
        gallery = Gallery.from_images(model, processor, photos, **options)
        assert torch.equal(gallery.features, expected.features) and gallery.paths == expected.paths
        assert gallery.skipped == [str(photos[number]) for number in bad]
        assert "3 of 11 images unreadable" in caplog.text
    assert spy.num_images == 8
    with pytest.raises(UnreadableImageError, match=r"02\.png"):
        Gallery.from_images(model, processor, photos, **options | {"on_error": "raise"})
    caplog.clear()
    Gallery.load(tmp_path / "f", model, processor)
    assert "not in the index, since they could not be read: 3 images: " in caplog.text and str(photos[9]) in caplog.text


def test_what_becomes_readable_without_a_change_of_the_file_is_encoded(
    model, processor, photos, tmp_path, spy, monkeypatch
):
    """As a HEIC does by installing pillow-heif, and any photograph when its network drive answers again."""
    expected = in_order(open_gallery(model, processor, photos))
    fail_to_read(monkeypatch, {2, 3, 9}, UnreadableImageError)
    options = {"batch_size": 2, "on_error": "skip", "progress": False, "dtype": torch.float32}
    options["features_dir"] = tmp_path / "f"
    gallery = Gallery.from_images(model, processor, photos, **options)
    assert gallery.skipped == [str(photos[number]) for number in (2, 3, 9)]
    spy.num_images = 0

    fail_to_read(monkeypatch, {3}, UnreadableImageError)
    gallery = Gallery.from_images(model, processor, photos, **options)
    assert gallery.skipped == [str(photos[3])] and spy.num_images == 2
    monkeypatch.undo()
    assert_close(in_order(Gallery.from_images(model, processor, photos, **options)), expected)
    assert_close(in_order(Gallery.load(tmp_path / "f", model, processor)), expected)


READ_PIXELS = encoding.read_pixels


def fail_to_read(monkeypatch, numbers, kind):
    """From now on these images cannot be read, whatever their files hold."""
    read = READ_PIXELS

    def read_some(processor, images, shards, name, batch_size, num_workers, on_error="raise"):
        for batch in read(processor, images, shards, name, batch_size, num_workers, on_error):
            errors = {row: kind(f"image {row}: trouble") for row in batch.rows if row in numbers}
            if errors and on_error == "raise":
                raise next(iter(errors.values()))
            kept = [row not in errors for row in batch.rows]
            rows = [row for row in batch.rows if row not in errors]
            passing = [row for row, error in errors.items() if isinstance(error, OSError)]
            yield PixelBatch(rows, [*batch.skipped, *errors], batch.pixels[kept] if rows else None, passing)

    monkeypatch.setattr(encoding, "read_pixels", read_some)


def test_passing_troubles_are_counted_named_and_not_stored(model, processor, photos, tmp_path, caplog, monkeypatch):
    """Once ESTALE, EIO or EACCES: the photograph was unreadable in the index for good."""
    fail_to_read(monkeypatch, {4, 7}, InaccessibleImageError)
    options = {"batch_size": 2, "progress": False, "features_dir": tmp_path / "f"}
    with pytest.raises(InaccessibleImageError):
        Gallery.from_images(model, processor, photos, **options)
    gallery = Gallery.from_images(model, processor, photos, on_error="skip", **options)
    assert gallery.skipped == [str(photos[4]), str(photos[7])]
    assert "2 of them may be sound" in caplog.text and str(photos[7]) in caplog.text
    monkeypatch.undo()
    assert Gallery.from_images(model, processor, photos, **options).skipped == []


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EACCES, errno.EIO], ids=errno.errorcode.get)
def test_files_that_cannot_be_opened_now_cost_no_features(model, processor, photos, tmp_path, spy, caplog, number):
    """A network drive that falters during an update: known features serve, unknown images are left out, both named."""
    expected = open_gallery(model, processor, photos, tmp_path / "f")
    paint(photos[0].parent / "12.png", 12)
    trouble = {str(photos[3]), str(photos[0].parent / "12.png")}
    for path in trouble:
        os.utime(path)
    spy.num_images, contents_of = 0, identity.contents_of

    def fail(path):
        if str(path) in trouble:
            raise OSError(number, os.strerror(number))
        return contents_of(path)

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(identity, "contents_of", fail)
        gallery = open_gallery(model, processor, photos, tmp_path / "f")
        assert torch.equal(gallery.features[:NUM_IMAGES], expected.features)
        assert "1 of 12 images cannot be read now" in caplog.text and str(photos[3]) in caplog.text
        with pytest.raises(InaccessibleImageError, match=r"gallery image 3: .*03\.png' cannot be read now"):
            open_gallery(model, processor, photos, tmp_path / "f", on_error="raise")
    assert len(open_gallery(model, processor, photos, tmp_path / "f")) == 12


def test_an_index_that_cannot_be_written_to_serves_as_it_is(model, processor, photos, tmp_path, monkeypatch, caplog):
    """On a read-only medium: neither what could be tried again nor where the images lie now is noted."""
    photos[3].write_bytes(b"no picture")
    expected = open_gallery(model, processor, photos, tmp_path / "f")
    photos[4].rename(photos[4].with_name("035.png"))

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(segment_list.FileLock, "acquire", refuse)
    gallery = open_gallery(model, processor, photos, tmp_path / "f")
    assert torch.equal(gallery.features, expected.features) and gallery.skipped == [str(photos[3])]
    assert "cannot be written to (Read-only file system): it serves as it is" in caplog.text
    assert len(Gallery.load(tmp_path / "f", model, processor).search(caption="red")) == 10


def test_names_outside_utf_8_are_kept(model, processor, photos, tmp_path):
    odd = photos[0].rename(os.fsdecode(os.fsencode(photos[0].parent) + b"/caf\xe9.png"))
    open_gallery(model, processor, photos, tmp_path / "f")
    assert odd in Gallery.load(tmp_path / "f", model, processor).paths
    assert odd in open_gallery(model, processor, photos, tmp_path / "f").paths


def twice_at_once(run):
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_two_runs_try_again_what_could_not_be_read(model, processor, photos, tmp_path, monkeypatch):
    fail_to_read(monkeypatch, set(range(0, NUM_IMAGES, 2)), UnreadableImageError)
    open_gallery(model, processor, photos, tmp_path / "f")
    monkeypatch.undo()
    monkeypatch.setattr(indexing, "IMAGES_A_LOCK", 2)
    expected, results = open_gallery(model, processor, photos), []
    twice_at_once(lambda: results.append(open_gallery(model, processor, photos, tmp_path / "f")))
    assert len(results) == 2 and torch.equal(results[0].features, results[1].features)
    assert_close(in_order(results[0]), in_order(expected))


def test_an_image_that_changes_while_it_is_encoded_is_not_stored_as_what_it_was(
    model, processor, photos, tmp_path, monkeypatch
):
    def change(features):
        if spy.num_images == 4:
            paint(photos[3], 33)
        return features

    with monkeypatch.context() as patches:
        spy = Spy(model, patches, change)
        with pytest.raises(InaccessibleImageError, match=r"03\.png was changed while"):
            open_gallery(model, processor, photos, tmp_path / "f", on_error="raise")
    assert len(Gallery.load(tmp_path / "f", model, processor)) == 2, "those before it"
    paint(photos[3], 3)
    with monkeypatch.context() as patches:
        spy = Spy(model, patches, change)
        spy.num_images = 2
        assert open_gallery(model, processor, photos, tmp_path / "g").skipped == [str(photos[3])]
    expected = in_order(open_gallery(model, processor, photos))
    assert_close(in_order(open_gallery(model, processor, photos, tmp_path / "g")), expected)


def test_a_gallery_encoded_into_a_folder_is_one_that_was_saved(model, processor, photos, tmp_path, spy):
    options = {"batch_size": 2, "progress": False}
    gallery = Gallery.from_folder(model, processor, photos[0].parent, features_dir=tmp_path / "f", **options)
    assert gallery.features.dtype == torch.float16
    moved = photos[0].parent.rename(tmp_path / "moved")
    loaded = Gallery.load(tmp_path / "f", model, processor, folder=moved)
    assert torch.equal(loaded.features, gallery.features) and loaded.paths == sorted(moved.iterdir())

    assert len(gallery.state.segments) > 1
    loaded.save(tmp_path / "f")
    assert len(Gallery.load(tmp_path / "f", model, processor).state.segments) == 1
    again = Gallery.from_folder(model, processor, moved, features_dir=tmp_path / "f", **options)
    assert torch.equal(again.features, gallery.features) and again.paths == loaded.paths
    assert spy.num_images == NUM_IMAGES


def open_gallery(model, processor, photos, index=None, **options):
    options = {"batch_size": 2, "progress": False, "on_error": "skip", "dtype": torch.float32} | options
    return Gallery.from_folder(model, processor, photos[0].parent, features_dir=index, **options)


def change_photos(photos):
    """One new in front, one between and one last, three changed, two removed; three are unreadable, one of them new."""
    for name, content in {
        "-1": 20,
        "055": 21,
        "12": b"no picture either",
        "03": b"",
        "04": 22,
        "06": 23,
    }.items():
        path = photos[0].parent / f"{name}.png"
        path.write_bytes(content) if isinstance(content, bytes) else paint(path, content)
    os.utime(photos[5], ns=(0, 0))
    photos[0].unlink()
    photos[8].unlink()


def test_a_gallery_whose_images_change_encodes_only_new_and_changed_ones(
    model, processor, photos, tmp_path, spy, caplog
):
    photos[7].write_bytes(b"no picture")
    open_gallery(model, processor, photos, tmp_path / "f")
    change_photos(photos)
    expected = open_gallery(model, processor, photos)
    spy.num_images = 0
    with caplog.at_level(logging.INFO):
        gallery = open_gallery(model, processor, photos, tmp_path / "f")
    assert spy.num_images == 4, "two new, two changed; the other two are unreadable"
    assert "features of 5 images reused, 6 new or changed images to encode, 2 removed images left out" in caplog.text
    assert "left out, 1 that had no features yet to try again" in caplog.text
    assert_close(in_order(gallery), in_order(expected))
    assert sorted(gallery.paths) == expected.paths and sorted(gallery.skipped) == expected.skipped
    assert len(gallery.skipped) == 3

    loaded = Gallery.load(tmp_path / "f", model, processor)
    assert torch.equal(loaded.features, gallery.features) and sorted(loaded.paths) == expected.paths
    again = open_gallery(model, processor, photos, tmp_path / "f")
    assert torch.equal(again.features, gallery.features) and spy.num_images == 4


def test_a_gallery_that_changes_while_it_is_encoded_keeps_what_was_finished(
    model, processor, photos, tmp_path, monkeypatch
):
    def interrupt(features):
        if first.num_images > 6:
            raise KeyboardInterrupt
        return features

    with monkeypatch.context() as patches:
        first = Spy(model, patches, interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_gallery(model, processor, photos, tmp_path / "f")
    photos[1].unlink()
    expected = open_gallery(model, processor, photos)
    with monkeypatch.context() as patches:  # stopped again, in the part that is new
        first = Spy(model, patches, interrupt)
        first.num_images = 4
        with pytest.raises(KeyboardInterrupt):
            open_gallery(model, processor, photos, tmp_path / "f")
    spy = Spy(model, monkeypatch)
    assert_close(in_order(open_gallery(model, processor, photos, tmp_path / "f")), in_order(expected))
    assert spy.num_images == NUM_IMAGES - 6 - 2


@pytest.mark.parametrize("killed_at", [(segment_writer, "write_segment"), (segment_list, "write_json")])
def test_a_change_that_is_killed_costs_no_feature(model, processor, photos, tmp_path, monkeypatch, killed_at):
    before = open_gallery(model, processor, photos, tmp_path / "f")
    paint(photos[0].parent / "-1.png", 20)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patches:
        patches.setattr(*killed_at, killed)
        with pytest.raises(KeyboardInterrupt):
            open_gallery(model, processor, photos, tmp_path / "f")
    assert torch.equal(Gallery.load(tmp_path / "f", model, processor).features, before.features)
    spy = Spy(model, monkeypatch)
    assert torch.equal(open_gallery(model, processor, photos, tmp_path / "f").features[:-1], before.features)
    assert spy.num_images == 1


def test_a_gallery_of_another_model_or_of_other_images_altogether_is_refused_and_stays(
    model, processor, photos, tmp_path
):
    open_gallery(model, processor, photos, tmp_path / "f")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "f").rglob("*.*") if "lock" not in path.name}
    photos[3].unlink()
    with pytest.raises(
        ValueError, match=r"mixed with those asked for: model fingerprint \S+ of '' \(now [^,]*\)\. Use"
    ):
        open_gallery(tiny_model(seed=1), processor, photos, tmp_path / "f")
    with pytest.raises(ValueError, match=r"asked for: features dtype float32 \(now float16\)\. Use"):
        open_gallery(model, processor, photos, tmp_path / "f", dtype=torch.float16)
    others = tmp_path / "elsewhere"
    others.mkdir()
    shutil.copy(photos[1], others)
    paint(others / "00.png", 20)  # a name that both have says nothing
    with pytest.raises(
        ValueError,
        match=r"of another gallery: of its 11 images in \S*photos, 1 are among the 2 given.* or, .*delete \S*f ",
    ):
        open_gallery(model, processor, [others / "00.png"], tmp_path / "f")
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "f").rglob("*.*") if "lock" not in path.name}
    assert after == before


def test_two_runs_that_find_a_changed_gallery_share_the_work(model, processor, photos, tmp_path, monkeypatch):
    open_gallery(model, processor, photos, tmp_path / "f")
    for number in range(20, 26):
        paint(photos[0].parent / f"{number}.png", number)
    expected = in_order(open_gallery(model, processor, photos))
    spy, results = Spy(model, monkeypatch), []
    twice_at_once(lambda: results.append(open_gallery(model, processor, photos, tmp_path / "f")))
    assert len(results) == 2 and torch.equal(results[0].features, results[1].features)
    assert_close(in_order(results[0]), expected)
    assert spy.num_images == 6


@pytest.mark.parametrize(("num_new", "num_workers"), [(2, 8), (1, 0)])
def test_workers_by_default_where_enough_is_to_be_read(
    model, processor, photos, tmp_path, monkeypatch, num_new, num_workers
):
    """Of a gallery with an index, what counts is what is not in it yet."""
    started = []

    monkeypatch.setattr(reading, "IMAGES_WORTH_WORKERS", 2)
    monkeypatch.setattr(reading, "num_cores", lambda: 16)
    open_gallery(model, processor, photos, tmp_path / "f")
    for number in range(num_new):
        paint(photos[0].parent / f"{20 + number}.png", 20 + number)
    monkeypatch.setattr(reading, "worker_options", lambda number: started.append(number) or {"num_workers": 0})
    expected = open_gallery(model, processor, photos)
    gallery = open_gallery(model, processor, photos, tmp_path / "f", num_workers=None)
    assert started == [0, num_workers]
    assert_close(in_order(gallery), in_order(expected))


def test_two_runs_that_begin_a_gallery_share_the_work(model, processor, photos, tmp_path, monkeypatch):
    expected = in_order(open_gallery(model, processor, photos))
    spy, results = Spy(model, monkeypatch), []
    twice_at_once(lambda: results.append(open_gallery(model, processor, photos, tmp_path / "f")))
    assert len(results) == 2 and all(len(result) == NUM_IMAGES for result in results)
    assert spy.num_images == NUM_IMAGES
    assert_close(in_order(results[1]), expected)


def test_what_two_runs_encoded_both_counts_once(model, processor, photos, tmp_path, monkeypatch):
    """Of processes that see other images, locks cannot keep one from encoding what the other does."""
    monkeypatch.setattr(indexing, "IMAGES_A_COMMIT", 100)

    def meanwhile(features):
        if spy.num_images == 4:
            open_gallery(model, processor, photos, tmp_path / "f")
        return features

    with monkeypatch.context() as patches:
        patches.setattr(indexing, "lock_of", lambda folder, name: segment_list.FileLock(tmp_path / str(os.urandom(8))))
        spy = Spy(model, patches, meanwhile)
        gallery = open_gallery(model, processor, photos, tmp_path / "f")
    assert spy.num_images > NUM_IMAGES and sorted(gallery.paths) == photos


def test_an_image_given_twice_stays_there_twice(model, processor, photos, tmp_path):
    images = [photos[0], photos[1], photos[0]]
    options = {"features_dir": tmp_path / "f", "progress": False}
    for _ in range(3):
        assert sorted(Gallery.from_images(model, processor, images, **options).paths) == sorted(images)
    pictures = [Image.open(photos[0]).convert("RGB")] * 2
    for _ in range(3):
        gallery = Gallery.from_images(model, processor, [*images, *pictures], **options)
        assert gallery.paths.count(None) == 2 and len(gallery) == 5


def test_what_is_known_of_an_image_follows_it(model, processor, photos, tmp_path):
    gallery = open_gallery(model, processor, photos, tmp_path / "f")
    gallery.upsert([photos[2]], [Entry(camera="gate 3", tags={"colour": "red"})], progress=False)
    photos[2].rename(photos[2].with_name("renamed.png"))
    gallery = open_gallery(model, processor, photos, tmp_path / "f")
    (result,) = gallery.search(caption="a hat", where='colour == "red" and camera == "gate 3"')
    assert result.path.name == "renamed.png" and len(gallery) == NUM_IMAGES


def test_reading_in_a_loop_while_another_updates_in_a_loop_never_fails(model, processor, photos, tmp_path):
    open_gallery(model, processor, photos, tmp_path / "f")
    done, reads, faults = threading.Event(), [], []

    def read():
        while not done.is_set():
            try:
                opened = Gallery.load(tmp_path / "f", model, processor, check_images=False)
                reads.append({path.name for path in opened.paths})
                assert len(opened.features) == len(opened.paths)
            except Exception as error:
                faults.append(repr(error))

    reader = threading.Thread(target=read)
    reader.start()
    kept = {path.name for path in photos}
    try:
        for number in range(5):
            for left in photos[0].parent.glob("x*"):
                left.unlink()
            for part in range(number % 3):
                paint(photos[0].parent / f"x{number}-{part}.png", 100 + 10 * number + part)
            open_gallery(model, processor, photos, tmp_path / "f")
    finally:
        done.set()
        reader.join()
    assert faults == [] and reads and all(kept <= names for names in reads)


def test_locks_of_processes_that_were_killed_do_not_stay(model, processor, photos, tmp_path):
    open_gallery(model, processor, photos[:3], tmp_path / "f")
    (tmp_path / "f" / ".images-0123456789abcdef.lock").touch()
    with FileLock(tmp_path / "f" / ".images-of-another.lock"):
        open_gallery(model, processor, photos, tmp_path / "f")
        assert [file.name for file in (tmp_path / "f").glob(".images-*")] == [".images-of-another.lock"]
