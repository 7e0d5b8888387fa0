"""Images are told by their contents: wherever they lie they are not encoded again, and what changed always is."""

import logging
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_model
from torch.testing import assert_close

from fafa.retrieval import Gallery, identity

HOUR = 3600 * 10**9
STORES = ("fafa.retrieval.indexing",)  # what it says


def paint(path, seed):
    """A picture that no other seed gives, in a file of equal size."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 3, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((12, 24)).save(path, compress_level=0)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    for number, name in enumerate(["a.png", "b.png", "c.png", "trip/d.png", "trip/e.png"]):
        paint(folder / name, number)
    return folder


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture
def encoded(model, monkeypatch):
    """The number of images in each batch that the model encodes."""
    counts, encode = [], model.get_target_features
    monkeypatch.setattr(
        model, "get_target_features", lambda pixel_values: counts.append(len(pixel_values)) or encode(pixel_values)
    )
    return counts


def open_gallery(model, processor, folder, index=None, **options):
    options = {"dtype": torch.float32, "progress": False} | options
    return Gallery.from_folder(model, processor, folder, features_dir=index, **options)


def by_picture(gallery):
    """Features in an order that names and folders do not change."""
    return torch.stack(sorted(gallery.features, key=lambda features: features[0, 0].item()))


def files(folder):
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def copy(photos):
    return Path(shutil.copytree(photos, photos.parent / "copy", copy_function=shutil.copyfile))


def move(photos):
    return photos.rename(photos.parent / "moved")


def turn_names_around(photos):
    for path in files(photos):
        path.rename(path.with_name(f"{9 - ord(path.stem) + ord('a')}.png"))


def shift_by_an_hour(photos):
    for path in files(photos):
        os.utime(path, ns=(0, path.stat().st_mtime_ns + HOUR))


def round_times(photos):
    for path in files(photos):
        os.utime(path, ns=(0, path.stat().st_mtime_ns // (2 * 10**9) * 2 * 10**9))


def put_into_one_folder(photos):
    for path in files(photos / "trip"):
        path.rename(photos / path.name)


WHEREABOUTS = {
    "copied (cp -r)": (copy, "found again by their contents"),
    "moved": (move, "found again by their contents"),
    "renamed": (turn_names_around, "found again by their contents"),
    "an hour later (summer time, another file system)": (shift_by_an_hour, None),
    "times in steps of two seconds (FAT)": (round_times, None),
    "sorted into other folders": (put_into_one_folder, "found again by their contents"),
}


@pytest.mark.parametrize(("change", "message"), WHEREABOUTS.values(), ids=WHEREABOUTS)
def test_nothing_is_encoded_again_wherever_images_lie(
    model, processor, photos, tmp_path, encoded, caplog, change, message
):
    expected = by_picture(open_gallery(model, processor, photos, tmp_path / "f"))
    encoded.clear()
    folder = change(photos) or photos
    with caplog.at_level(logging.INFO, "fafa.retrieval"):
        gallery = open_gallery(model, processor, folder, tmp_path / "f")
    assert encoded == [] and torch.equal(by_picture(gallery), expected)
    assert sorted(gallery.paths) == files(folder)
    said = [record.message for record in caplog.records if record.name in STORES]
    assert [message in text for text in said] == [True] if message else said == []
    assert not any(re.search(r"\d{15}", text) for text in said), "no raw nanoseconds"

    caplog.clear()
    loaded = Gallery.load(tmp_path / "f", model, processor)
    assert sorted(loaded.paths) == files(folder) and caplog.text == "", "where they lie now was noted"


def test_index_and_gallery_that_moved_together_find_each_other(model, processor, photos, tmp_path, encoded, caplog):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    photos = photos.rename(here / "photos")
    open_gallery(model, processor, photos, here / "f")
    encoded.clear()
    here.rename(there)
    loaded = Gallery.load(there / "f", model, processor)
    assert loaded.paths == files(there / "photos") and caplog.text == ""
    open_gallery(model, processor, there / "photos", there / "f")
    assert encoded == []


def test_files_whose_stamps_are_unchanged_are_not_read(model, processor, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "FRESH_NS", -HOUR)
    open_gallery(model, processor, photos, tmp_path / "f")

    def read(path):
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(identity, "contents_of", read)
    assert len(open_gallery(model, processor, photos, tmp_path / "f")) == 5
    assert len(Gallery.load(tmp_path / "f", model, processor).paths) == 5


def keep_times(path, change):
    before = path.stat()
    change(path)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def swap(photos):
    for path in (photos / "a.png", photos / "b.png"):
        os.utime(path, ns=(0, 0))
    (photos / "a.png").rename(photos / "x")
    (photos / "b.png").rename(photos / "a.png")
    (photos / "x").rename(photos / "b.png")


SAME_NAME_SIZE_AND_TIME = {
    "other contents (cp -p, rsync -t, unzip)": (lambda photos: keep_times(photos / "a.png", lambda a: paint(a, 9)), 1),
    "two swapped": (swap, 0),
}


@pytest.mark.parametrize("fresh", [-HOUR, identity.FRESH_NS], ids=["long ago", "just now"])
@pytest.mark.parametrize(("change", "num_new"), SAME_NAME_SIZE_AND_TIME.values(), ids=SAME_NAME_SIZE_AND_TIME)
def test_other_contents_under_a_name_are_seen_whatever_the_time_says(
    model, processor, photos, tmp_path, encoded, monkeypatch, caplog, change, num_new, fresh
):
    monkeypatch.setattr(identity, "FRESH_NS", fresh)
    open_gallery(model, processor, photos, tmp_path / "f")
    encoded.clear()
    change(photos)
    assert None in Gallery.load(tmp_path / "f", model, processor).paths
    assert f"of 5 images found in the index, {2 - num_new} have other contents" in caplog.text
    assert str(photos / "a.png") in caplog.text
    gallery = open_gallery(model, processor, photos, tmp_path / "f")
    assert sum(encoded) == num_new
    assert_close(by_picture(gallery), by_picture(open_gallery(model, processor, photos)))


def test_a_change_that_a_coarse_clock_cannot_show_is_seen(model, processor, photos, tmp_path, monkeypatch):
    """Written twice within one tick: size, times and entry are the same, the contents are not."""
    monkeypatch.setattr(identity, "stamp_of", lambda status: (1, 2, 3, 4))
    open_gallery(model, processor, photos, tmp_path / "f")
    paint(photos / "a.png", 9)
    gallery = open_gallery(model, processor, photos, tmp_path / "f")
    assert_close(by_picture(gallery), by_picture(open_gallery(model, processor, photos)))


def test_the_only_photo_and_all_photos_may_be_replaced(model, processor, photos, tmp_path, encoded):
    for path in files(photos)[1:]:
        path.unlink()
    for seed, name in [(0, "a.png"), (8, "a.png"), (9, "another.png")]:
        (photos / "a.png").unlink(missing_ok=True)
        paint(photos / name, seed)
        gallery = open_gallery(model, processor, photos, tmp_path / "f")
        assert [path.name for path in gallery.paths] == [name]
    assert encoded == [1, 1, 1]


def test_duplicates_share_their_features(model, processor, photos, tmp_path, encoded):
    open_gallery(model, processor, photos, tmp_path / "f")
    shutil.copy(photos / "a.png", photos / "a copy.png")
    gallery = open_gallery(model, processor, photos, tmp_path / "f")
    assert encoded == [5] and torch.equal(gallery.features[0], gallery.features[5])


def test_a_part_of_a_gallery_costs_the_rest_no_features(model, processor, photos, tmp_path):
    open_gallery(model, processor, photos, tmp_path / "f")
    with pytest.raises(ValueError, match=r"of its 5 images in .*photos, 2 are among the 2 given"):
        open_gallery(model, processor, photos / "trip", tmp_path / "f")
    assert len(Gallery.load(tmp_path / "f", model, processor)) == 5


def test_loading_tells_what_has_become_of_the_images(model, processor, photos, tmp_path, caplog):
    gallery = open_gallery(model, processor, photos)
    gallery.save(tmp_path / "f")
    Gallery.load(tmp_path / "f", model, processor)
    assert caplog.text == ""
    (photos / "a.png").unlink()
    paint(photos / "b.png", 9)
    for options, warnings in [({}, 1), ({"check_images": False}, 0)]:
        caplog.clear()
        loaded = Gallery.load(tmp_path / "f", model, processor, **options)
        results = loaded.search(caption="a red coat", top=None)
        assert len(caplog.records) == warnings
        for result, before in zip(results, gallery.search(caption="a red coat", top=None), strict=True):
            is_other = warnings and before.path.name == "b.png"  # where another picture is now
            assert result == replace(before, path=None if is_other else before.path)
    assert photos / "b.png" in Gallery.load(tmp_path / "f", model, processor, folder=photos).paths
    assert None in Gallery.load(tmp_path / "f", model, processor).paths
    for part in ("1 have other contents", "b.png", "1 are gone", "a.png", "encode the folder again"):
        assert part in caplog.text, part


def test_an_in_memory_gallery_that_was_saved_is_followed(model, processor, photos, tmp_path, encoded):
    open_gallery(model, processor, photos).save(tmp_path / "f")
    paint(photos / "z.png", 9)
    folder = copy(photos)
    assert len(open_gallery(model, processor, folder, tmp_path / "f")) == 6 and encoded == [5, 1]


def test_a_path_does_not_lead_out_of_the_folder(model, processor, photos):
    with pytest.raises(ValueError, match=r"gallery image 0, .*does not lie in folder="):
        Gallery.from_images(model, processor, [photos / "trip" / ".." / "a.png"], folder=photos / "trip")


@pytest.mark.parametrize("make", [os.mkfifo, Path.touch], ids=["a pipe", "empty, as /proc/kmsg seems"])
def test_what_might_block_for_ever_is_not_read_to_tell_it_from_others(tmp_path, monkeypatch, make):
    """A link to /proc/kmsg among the photographs hung the search."""
    make(tmp_path / "a.jpg")
    monkeypatch.setattr(identity, "contents_of", None)  # would be called
    assert identity.describe_image(tmp_path / "a.jpg", "image 0")["contents"] is None
