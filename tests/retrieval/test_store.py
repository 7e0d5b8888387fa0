"""Features on disk equal those in memory, survive what kills a run, are shared by processes, and never mixed."""

import errno
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_model
from torch.testing import assert_close

from fafa.image_processing_fafa import FafaImageProcessor
from fafa.image_reading_fafa import InaccessibleImageError, UnreadableImageError
from fafa.processing_fafa import FafaProcessor
from fafa.retrieval import FeatureStore, Gallery, encode_images, encoding, filling, identity, reading, store
from fafa.retrieval.reading import PixelBatch
from fafa.retrieval.shards import Shard

NUM_IMAGES = 11  # six shards of two, the last one of one


@pytest.fixture(autouse=True)
def two_a_shard(monkeypatch):
    monkeypatch.setattr(filling, "INPUTS_PER_SHARD", 2)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(NUM_IMAGES):
        paint(folder / f"{number:02d}.png", number)
    return sorted(folder.iterdir())


def paint(path, seed):
    """A picture that no other seed gives, in a file of its size."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 3, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((12, 24)).save(path, compress_level=0)


class Spy:
    """Counts the images that a model encodes, and does something to each batch."""

    def __init__(self, model, monkeypatch, then=lambda features: features):
        self.num_images, encode = 0, model.get_target_features

        def spy(pixel_values):
            self.num_images += len(pixel_values)
            return then(encode(pixel_values))

        monkeypatch.setattr(model, "get_target_features", spy)


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture
def spy(model, monkeypatch):
    return Spy(model, monkeypatch)


def encode(model, processor, images, features_dir=None, **options):
    options = {"batch_size": 2, "progress": False} | options
    return encode_images(model, processor, images, features_dir=features_dir, **options).features


def finished(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[2]) for path in folder.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("options", "num_shards"), [({"batch_size": 1}, 6), ({"batch_size": 3}, 4), ({"num_workers": 2}, 6)]
)
def test_equal_to_encoding_in_memory_to_the_bit(model, processor, photos, tmp_path, options, num_shards):
    expected = encode(model, processor, photos, **options)
    assert torch.equal(encode(model, processor, photos, tmp_path / "f", **options), expected)
    assert len(finished(tmp_path / "f")) == num_shards, "of whole batches, or numbers might differ in the last digit"
    assert {path.suffix for path in (tmp_path / "f").iterdir()} == {".json", ".jsonl", ".safetensors"}
    modes = {path.stat().st_mode for path in (tmp_path / "f").iterdir()}
    assert len(modes) == 1, "who may read the manifest may read the features"


def test_features_that_are_there_are_not_encoded_again(model, processor, photos, tmp_path, spy):
    expected = encode(model, processor, photos, tmp_path / "f")
    assert spy.num_images == NUM_IMAGES
    assert torch.equal(encode(model, processor, photos, tmp_path / "f", batch_size=5), expected)
    assert spy.num_images == NUM_IMAGES


def test_an_interrupted_run_goes_on_from_its_last_shard(model, processor, photos, tmp_path, monkeypatch):
    def interrupt(features):
        if first.num_images > 6:
            raise KeyboardInterrupt
        return features

    with monkeypatch.context() as patches:
        first = Spy(model, patches, interrupt)
        with pytest.raises(KeyboardInterrupt):
            encode(model, processor, photos, tmp_path / "f")
    assert finished(tmp_path / "f") == [0, 1, 2]
    with pytest.raises(ValueError, match="shards are missing, 3 of 6"):
        Gallery.load(tmp_path / "f", model, processor)

    second = Spy(model, monkeypatch)
    features = encode(model, processor, photos, tmp_path / "f", batch_size=1)  # in shards of two still
    assert second.num_images == NUM_IMAGES - 6
    assert_close(features, encode(model, processor, photos))


def test_half_written_shards_are_encoded_again(model, processor, photos, tmp_path, spy, caplog):
    expected = encode(model, processor, photos, tmp_path / "f")
    _, cut, _, _, whole, _ = sorted((tmp_path / "f").glob("*.safetensors"))
    cut.write_bytes(cut.read_bytes()[:-100])
    whole.rename(f"{whole}.part")
    assert torch.equal(encode(model, processor, photos, tmp_path / "f"), expected)
    assert spy.num_images == NUM_IMAGES + 4
    assert caplog.text.count("damaged") == 1 and cut.name in caplog.text


def other_processor(processor):
    settings = processor.image_processor.to_dict() | {"do_pad_square": False}
    return FafaProcessor(FafaImageProcessor(**settings), processor.tokenizer)


def other_epsilon():
    model = tiny_model()
    model.config.vision_norm_eps *= 10
    return model


REFUSED = {
    "model": ({"model": lambda _: tiny_model(seed=1)}, r"model fingerprint \w+ of '' \(now \w+ of ''\)"),
    "model in half": ({"model": lambda _: tiny_model().bfloat16()}, r"model dtype float32 \(now bfloat16\)"),
    "model with another epsilon": ({"model": lambda _: other_epsilon()}, "model fingerprint"),
    "processor": ({"processor": other_processor}, r"image_processor do_pad_square True \(now False\)"),
    "precision": ({"dtype": lambda _: torch.float16}, r"features dtype float32 \(now float16\)"),
    "one image less": ({"images": lambda photos: photos[:-1]}, r"number of inputs 11 \(now 10\)"),
    "another order": ({"images": lambda photos: photos[::-1]}, r"input 0 .*00\.png.*\(now .*10\.png"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_features_of_anything_else_are_refused_and_stay(model, processor, photos, tmp_path, change, message):
    arguments = {"model": model, "processor": processor, "images": photos, "features_dir": tmp_path / "f"}
    encode(**arguments)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "f").iterdir()}
    arguments |= {name: new(arguments.get(name)) for name, new in change.items()}
    with pytest.raises(ValueError, match=rf"(?s)/f holds features.*{message}.*into another folder"):
        encode(**arguments)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "f").iterdir()} == before


def test_a_changed_image_is_refused_by_name(model, processor, photos, tmp_path):
    encode(model, processor, photos, tmp_path / "f")
    photos[7].write_bytes(photos[8].read_bytes())
    with pytest.raises(ValueError, match=r"input 7 .*07\.png"):
        encode(model, processor, photos, tmp_path / "f")


def test_shards_of_other_features_are_not_mixed_in(model, processor, photos, tmp_path):
    expected = encode(model, processor, photos, tmp_path / "f")
    encode(tiny_model(seed=1), processor, photos, tmp_path / "other")
    for path in (tmp_path / "other").glob("*.safetensors"):
        path.replace(tmp_path / "f" / path.name)
    assert torch.equal(encode(model, processor, photos, tmp_path / "f"), expected)


def test_images_without_files_are_told_by_their_pixels(model, processor, photos, tmp_path, spy):
    images = [Image.open(path).convert("RGB") for path in photos[:4]]
    images[1] = np.asarray(images[1])
    images[2] = {"bytes": photos[2].read_bytes(), "path": "2.png"}
    expected = encode(model, processor, photos[:4], tmp_path / "f")
    assert torch.equal(encode(model, processor, images, tmp_path / "g"), expected)
    assert torch.equal(encode(model, processor, images, tmp_path / "g"), expected)
    assert spy.num_images == 8
    images[0].putpixel((0, 0), (1, 2, 3))
    with pytest.raises(ValueError, match=r"input 0 .*its contents have changed"):
        encode(model, processor, images, tmp_path / "g")


def test_images_that_cannot_be_read_are_left_out_and_tried_again_each_time(
    model, processor, photos, tmp_path, spy, caplog
):
    """A first verdict lasted for ever: a HEIC stayed unreadable after pillow-heif had been installed."""
    bad = {number: photos[number].read_bytes() for number in (2, 3, 9)}  # the second shard is empty
    for number in bad:
        photos[number].write_bytes(b"no picture")
    expected = Gallery.from_images(model, processor, photos, batch_size=2, on_error="skip", progress=False)
    spy.num_images = 0
    options = {"batch_size": 2, "on_error": "skip", "progress": False, "features_dir": tmp_path / "f"}
    for _ in range(2):
        caplog.clear()
        gallery = Gallery.from_images(model, processor, photos, **options)
        assert torch.equal(gallery.features, expected.features) and gallery.paths == expected.paths
        assert gallery.skipped == [str(photos[number]) for number in bad]
        assert "3 of 11 images unreadable" in caplog.text
    assert spy.num_images == 8
    with pytest.raises(UnreadableImageError, match=r"02\.png"):
        encode(model, processor, photos, tmp_path / "f")
    caplog.clear()
    Gallery.load(tmp_path / "f", model, processor)
    assert "3 of 11 images are not in the index" in caplog.text and str(photos[9]) in caplog.text


def test_what_becomes_readable_without_a_change_of_the_file_is_encoded(
    model, processor, photos, tmp_path, spy, monkeypatch
):
    """As a HEIC does by installing pillow-heif, and any photograph when its network drive answers again."""
    expected = encode(model, processor, photos)
    fail_to_read(monkeypatch, {2, 3, 9}, UnreadableImageError)
    options = {"batch_size": 2, "on_error": "skip", "progress": False, "features_dir": tmp_path / "f"}
    gallery = Gallery.from_images(model, processor, photos, **options)
    assert gallery.skipped == [str(photos[number]) for number in (2, 3, 9)]
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "f").glob("*.safetensors")}
    spy.num_images = 0

    fail_to_read(monkeypatch, {3}, UnreadableImageError)
    gallery = Gallery.from_images(model, processor, photos, **options)
    assert gallery.skipped == [str(photos[3])] and spy.num_images == 2
    rewritten = [path.name.split("-")[2] for path, before in shards.items() if path.stat().st_mtime_ns != before]
    assert sorted(rewritten) == ["00001", "00004"], "shards without anything new stay"

    monkeypatch.undo()
    assert_close(Gallery.from_images(model, processor, photos, **options).features, expected)
    assert_close(Gallery.load(tmp_path / "f", model, processor).features, expected)


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


def test_an_index_that_cannot_be_written_to_serves_as_it_is(model, processor, photos, tmp_path, monkeypatch):
    """On a read-only medium: neither what could be tried again nor where the images lie now is noted."""
    photos[3].write_bytes(b"no picture")
    expected = open_gallery(model, processor, photos, tmp_path / "f")
    photos[4].rename(photos[4].with_name("035.png"))

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(store.os, "access", lambda *_: False)
    for module, name in ((store, "manifest_locked"), (store, "write_whole"), (filling, "check_output_folder")):
        monkeypatch.setattr(module, name, refuse)
    gallery = open_gallery(model, processor, photos, tmp_path / "f")
    assert torch.equal(gallery.features, expected.features) and gallery.skipped == [str(photos[3])]


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
    monkeypatch.setattr(filling, "INPUTS_PER_SHARD", 2)
    expected, results = encode(model, processor, photos), []
    twice_at_once(lambda: results.append(open_gallery(model, processor, photos, tmp_path / "f")))
    assert len(results) == 2 and torch.equal(results[0].features, results[1].features)
    assert_close(results[0].features, expected)


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
            encode(model, processor, photos, tmp_path / "f")
    paint(photos[3], 3)
    with monkeypatch.context() as patches:
        spy = Spy(model, patches, change)
        spy.num_images = 2
        assert open_gallery(model, processor, photos, tmp_path / "g").skipped == [str(photos[3])]
    assert_close(open_gallery(model, processor, photos, tmp_path / "g").features, encode(model, processor, photos))


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_images_deleted_while_encoding(model, processor, photos, tmp_path, monkeypatch, on_error):
    def delete(features):
        photos[6].unlink(missing_ok=True)
        return features

    Spy(model, monkeypatch, delete)
    options = {"on_error": on_error, "progress": False, "batch_size": 2, "features_dir": tmp_path / "f"}
    if on_error == "raise":
        with pytest.raises(FileNotFoundError, match=r"gallery image 6: no file .*06\.png"):
            encode_images(model, processor, photos, **options)
        assert finished(tmp_path / "f") == [0, 1, 2]
    else:
        encoded = encode_images(model, processor, photos, **options)
        assert encoded.skipped == [6] and len(encoded.features) == NUM_IMAGES - 1


def test_features_that_are_not_finite_name_the_image_and_are_not_kept(model, processor, photos, tmp_path, monkeypatch):
    def spoil(features):
        if spy.num_images == 6:
            features[1, 3, 0] = torch.nan
        return features

    spy = Spy(model, monkeypatch, spoil)
    with pytest.raises(ValueError, match=r"features of \S*05\.png hold NaN"):
        encode(model, processor, photos, tmp_path / "f")
    assert finished(tmp_path / "f") == [0, 1]


@contextmanager
def files_no_larger_than(num_bytes):
    """What a full disk looks like to a program that writes, without filling one."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_loses_no_finished_shard(model, processor, photos, tmp_path, monkeypatch):
    def fill_disk(features):
        if spy.num_images == 6:
            context.__enter__()
        return features

    with monkeypatch.context() as patches:
        spy, context = Spy(model, patches, fill_disk), files_no_larger_than(2000)
        try:
            with pytest.raises(OSError, match=r"cannot write \S*features-\w+-00002\S* .*run the same again"):
                encode(model, processor, photos, tmp_path / "f")
        finally:
            context.__exit__(None, None, None)
    assert finished(tmp_path / "f") == [0, 1] and not list((tmp_path / "f").glob("*.part"))
    assert torch.equal(encode(model, processor, photos, tmp_path / "f"), encode(model, processor, photos))


@pytest.mark.parametrize(("dtype", "drift"), [(torch.float16, 2e-4), (torch.bfloat16, 2e-3)])
def test_half_precision_takes_half_the_space_and_scores_nearly_alike(model, processor, photos, tmp_path, dtype, drift):
    full = encode(model, processor, photos, tmp_path / "full")
    half = encode(model, processor, photos, tmp_path / "half", dtype=dtype)
    assert half.dtype == dtype and torch.equal(half, full.to(dtype))
    queries = torch.nn.functional.normalize(torch.randn(20, 64), dim=-1)
    assert_close(model.score(queries, half), model.score(queries, full), atol=drift, rtol=0)
    sizes = [sum(path.stat().st_size for path in (tmp_path / name).glob("*.safetensors")) for name in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]


def test_two_runs_in_one_folder_share_the_work(model, processor, photos, tmp_path, monkeypatch):
    """As threads here, which lock each other out as processes do."""

    def slowly(features):
        time.sleep(0.02)
        return features

    expected = encode(model, processor, photos)
    spy, results = Spy(model, monkeypatch, slowly), []
    threads = [
        threading.Thread(target=lambda: results.append(encode(model, processor, photos, tmp_path / "f")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2 and all(torch.equal(result, expected) for result in results)
    assert spy.num_images == NUM_IMAGES


DOOMED = """
import sys, time
from tiny import tiny_model, tiny_processor
from fafa.retrieval import encode_images, filling

filling.INPUTS_PER_SHARD = 2
model, num_batches = tiny_model(), 0
encode = model.get_target_features

def hang_in_the_second_shard(pixel_values):
    global num_batches
    num_batches += 1
    while num_batches == 2:
        print("hangs", flush=True)
        time.sleep(60)
    return encode(pixel_values)

model.get_target_features = hang_in_the_second_shard
encode_images(model, tiny_processor(), sys.argv[2:], batch_size=2, features_dir=sys.argv[1], progress=False)
"""


def test_another_process_takes_over_from_one_that_is_killed(model, processor, photos, tmp_path, spy, caplog):
    command = [sys.executable, "-c", DOOMED, str(tmp_path / "f"), *map(str, photos)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    doomed = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)

    def kill_when_all_else_is_done():
        while finished(tmp_path / "f") != [0, 2, 3, 4, 5] and time.monotonic() < limit:
            time.sleep(0.01)
        doomed.send_signal(signal.SIGKILL)

    limit = time.monotonic() + 60
    assert doomed.stdout.readline() == "hangs\n"
    assert finished(tmp_path / "f") == [0]
    killer = threading.Thread(target=kill_when_all_else_is_done)
    killer.start()
    features = encode(model, processor, photos, tmp_path / "f")
    killer.join()
    doomed.communicate()
    assert "waiting for other processes to finish 1 of 6 shards" in caplog.text
    assert spy.num_images == NUM_IMAGES - 2, "its first shard serves, its second is encoded here"
    assert torch.equal(features, encode(model, processor, photos))


def test_a_gallery_encoded_into_a_folder_is_one_that_was_saved(model, processor, photos, tmp_path, spy):
    options = {"batch_size": 2, "progress": False}
    gallery = Gallery.from_folder(model, processor, photos[0].parent, features_dir=tmp_path / "f", **options)
    moved = photos[0].parent.rename(tmp_path / "moved")
    loaded = Gallery.load(tmp_path / "f", model, processor, folder=moved)
    assert torch.equal(loaded.features, gallery.features) and loaded.paths == sorted(moved.iterdir())

    loaded.save(tmp_path / "f")  # one shard now, in place of six
    assert len(finished(tmp_path / "f")) == 1
    again = Gallery.from_folder(model, processor, moved, features_dir=tmp_path / "f", **options)
    assert torch.equal(again.features, gallery.features) and again.paths == loaded.paths
    assert spy.num_images == NUM_IMAGES


def open_gallery(model, processor, photos, index=None, **options):
    options = {"batch_size": 2, "progress": False, "on_error": "skip"} | options
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
    assert_close(gallery.features, expected.features)  # in the order of the images, whatever was reused
    assert gallery.paths == expected.paths and gallery.skipped == expected.skipped and len(gallery.skipped) == 3

    loaded = Gallery.load(tmp_path / "f", model, processor)
    assert torch.equal(loaded.features, gallery.features) and loaded.paths == expected.paths
    assert len(list((tmp_path / "f").iterdir())) == 2 + 3 + 4, "nothing is left of the store before"
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
    assert_close(open_gallery(model, processor, photos, tmp_path / "f").features, expected.features)
    assert spy.num_images == NUM_IMAGES - 6 - 2


@pytest.mark.parametrize("killed_at", [(Shard, "write"), (FeatureStore, "write_manifest")], ids=["shard", "manifest"])
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
    assert torch.equal(open_gallery(model, processor, photos, tmp_path / "f").features[1:], before.features)
    assert spy.num_images == 1


def test_a_gallery_of_another_model_or_of_other_images_altogether_is_refused_and_stays(
    model, processor, photos, tmp_path
):
    open_gallery(model, processor, photos, tmp_path / "f")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "f").iterdir()}
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
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "f").iterdir()} == before


def test_a_gallery_that_another_process_is_encoding_is_not_changed_under_it(
    model, processor, photos, tmp_path, monkeypatch
):
    def meanwhile(features):
        if spy.num_images == 6:
            copy = photos[0].parent / "-1.png"
            paint(copy, 20)
            with pytest.raises(ValueError, match="another process is encoding other images into it"):
                open_gallery(model, processor, photos, tmp_path / "f")
            copy.unlink()
        return features

    expected = encode(model, processor, photos)
    spy = Spy(model, monkeypatch, meanwhile)
    assert torch.equal(open_gallery(model, processor, photos, tmp_path / "f").features, expected)
    assert spy.num_images == NUM_IMAGES


def test_two_runs_that_find_a_changed_gallery_share_the_work(model, processor, photos, tmp_path, monkeypatch):
    open_gallery(model, processor, photos, tmp_path / "f")
    for number in range(20, 26):
        paint(photos[0].parent / f"{number}.png", number)
    expected = open_gallery(model, processor, photos).features
    spy, results = Spy(model, monkeypatch), []
    twice_at_once(lambda: results.append(open_gallery(model, processor, photos, tmp_path / "f")))
    assert len(results) == 2 and torch.equal(results[0].features, results[1].features)
    assert_close(results[0].features, expected)
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
    assert_close(gallery.features, expected.features)


def test_the_programs_random_numbers_stay_as_they_are(model, processor, photos):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    encode(model, processor, photos[:2])
    assert torch.equal(torch.rand(1), expected)


def test_a_store_without_a_manifest_is_not_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json"):
        FeatureStore.open(tmp_path)
