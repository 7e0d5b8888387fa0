"""A gallery ranks as the model scores, comes back from disk as it was, and refuses what does not fit."""

import errno
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_model

from fafa.image_processing_fafa import FafaImageProcessor
from fafa.image_reading_fafa import UnreadableImageError
from fafa.processing_fafa import FafaProcessor
from fafa.retrieval import Gallery, find_images, segment_list, segments


def in_segment(index, name):
    """A file of the one segment of a saved index."""
    (file,) = index.glob(f"segments/*/{name}")
    return file


@pytest.fixture
def photos(tmp_path):
    """Eight images in nested folders, and files that are none."""
    folder = tmp_path / "photos"
    (folder / "trip" / "day 2").mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = ["a.png", "B.JPG", "c.bmp", "trip/d.png", "trip/e.webp", "trip/day 2/f.gif", "trip/day 2/é.png", "z.tiff"]
    for name in names:
        coarse = rng.integers(0, 255, (6, 3, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((40, 80)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def open_gallery(model, processor, photos, **options):
    return Gallery.from_folder(model, processor, photos, progress=False, **options)


QUERIES = {
    "image and caption": {"image": "a.png", "caption": "in a red coat"},
    "caption alone": {"caption": "with a blue bag"},
    "image alone": {"image": "trip/d.png"},
}


def ask(photos, query):
    return {**query, "image": photos / query["image"]} if "image" in query else query


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_ranking_equals_brute_force(model, processor, photos, query):
    query = ask(photos, query)
    results = open_gallery(model, processor, photos, batch_size=3).search(**query, top=None)

    paths = [path for path in sorted(photos.rglob("*")) if path.is_file() and path.name != "notes.txt"]
    with torch.no_grad():
        targets = model.get_target_features(**processor(images=paths, return_tensors="pt"))
        inputs = processor(images=query.get("image"), text=query.get("caption"), return_tensors="pt")
        queries = model.get_query_features(**inputs)
    k = model.config.num_top_tokens
    similarities = (queries[0] @ targets.mT).sort(dim=-1).values  # (num_images, num_query_tokens)
    expected = dict(zip(paths, similarities[:, -k:].mean(dim=-1).tolist(), strict=True))
    assert [result.path for result in results] == sorted(paths, key=expected.get, reverse=True)
    assert [result.rank for result in results] == list(range(1, 9))
    for result in results:
        assert result.score == pytest.approx(expected[result.path], abs=1e-5)


def test_top_limits_the_results(model, processor, photos):
    gallery = open_gallery(model, processor, photos)
    whole = gallery.search(caption="red coat", top=None)
    assert gallery.search(caption="red coat", top=3) == whole[:3]
    assert gallery.search(caption="red coat", top=100) == whole
    assert len(gallery.search(caption="red coat")) == len(gallery) == 8


def test_equal_scores_keep_the_gallery_order(model, processor):
    one, other = torch.nn.functional.normalize(torch.randn(2, 8, 64), dim=-1)
    gallery = Gallery(model, processor, torch.stack([one, other] * 500), [None] * 1000)
    order = [result.index for result in gallery.search(caption="blue", top=None)]
    first, second = list(range(0, 1000, 2)), list(range(1, 1000, 2))
    assert order in (first + second, second + first)


def test_model_in_training_mode_encodes_and_searches_without_dropout(processor, photos):
    dropping = tiny_model()
    for module in dropping.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    first, second = (open_gallery(dropping.train(), processor, photos).features for _ in range(2))
    assert torch.equal(first, second)
    gallery = Gallery(dropping.train(), processor, first, find_images(photos))
    assert torch.equal(gallery.scores(caption="red coat"), gallery.scores(caption="red coat"))


def test_find_images_goes_by_suffix_in_any_case(photos):
    names = [path.relative_to(photos).as_posix() for path in find_images(photos)]
    assert sorted(names) == sorted(
        ["B.JPG", "a.png", "c.bmp", "trip/d.png", "trip/day 2/f.gif", "trip/day 2/é.png", "trip/e.webp", "z.tiff"]
    )
    assert find_images(photos) == sorted(find_images(photos))


def test_find_images_takes_every_photo_format_that_pillow_opens(photos):
    pictures = {"web.avif": "AVIF", "chat.jfif": "JPEG", "scan.jp2": "JPEG2000", "old.jpe": "JPEG"}
    for name, file_format in pictures.items():
        Image.new("RGB", (8, 16)).save(photos / name, format=file_format)
    assert pictures.keys() < {path.name for path in find_images(photos)}


def test_find_images_tells_of_pictures_that_it_leaves_aside(photos, caplog, monkeypatch):
    monkeypatch.delitem(Image.EXTENSION, ".heic", raising=False)  # as without pillow-heif
    for name in ["IMG_1.HEIC", "IMG_2.heic", "raw.dng"]:
        (photos / name).write_bytes(b"")
    assert len(find_images(photos)) == 8
    (record,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert ".txt" not in record.message
    for part in (str(photos), "2 .heic", "1 .dng", "pip install pillow-heif"):
        assert part in record.message, part

    alone = photos / "phone"
    alone.mkdir()
    (photos / "IMG_1.HEIC").rename(alone / "IMG_1.HEIC")
    with pytest.raises(ValueError, match=r"no image among 1 file .*1 \.heic.*pip install pillow-heif"):
        find_images(alone)

    monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")  # as pillow-heif does
    caplog.clear()
    assert len(find_images(photos)) == 10 and ".heic" not in caplog.text and "pip" not in caplog.text


def test_find_images_follows_links_once(photos, tmp_path):
    num_images = len(find_images(photos))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.new("RGB", (4, 8)).save(elsewhere / "linked.png")
    (photos / "link").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(photos)
    assert photos / "link" / "linked.png" in find_images(photos)
    assert len(find_images(photos)) == num_images + 1


def test_index_round_trip(model, processor, photos, tmp_path):
    gallery = open_gallery(model, processor, photos)
    gallery.save(tmp_path / "index")
    loaded = Gallery.load(tmp_path / "index", model, processor)
    assert torch.equal(loaded.features, gallery.features)
    assert loaded.paths == gallery.paths and loaded.folder == gallery.folder
    query = ask(photos, QUERIES["image and caption"])
    assert [result.path for result in loaded.search(**query)] == [result.path for result in gallery.search(**query)]
    torch.testing.assert_close(loaded.scores(**query), gallery.scores(**query))


def test_manifest_names_model_processor_and_dtype(model, processor, photos, tmp_path):
    open_gallery(model, processor, photos, dtype=torch.float16).save(tmp_path / "index")
    manifest = json.loads((tmp_path / "index" / "gallery.json").read_text(encoding="utf-8"))
    settings = manifest["settings"]
    assert [segment["rows"] for segment in manifest["segments"]] == [8]
    assert settings["features"] == {"kind": "target", "shape": [8, 64], "dtype": "float16"}
    assert {"name", "revision", "fingerprint"} <= settings["model"].keys()
    assert settings["image_processor"]["person_size"] == {"height": 96, "width": 48}
    assert np.load(in_segment(tmp_path / "index", "tokens.npy"), mmap_mode="r").dtype == np.float16


def test_half_precision_features_rank_nearly_alike(model, processor, photos):
    full = open_gallery(model, processor, photos).scores(caption="red coat")
    half = open_gallery(model, processor, photos, dtype=torch.float16).scores(caption="red coat")
    torch.testing.assert_close(half, full, atol=1e-3, rtol=0)


def test_loaded_index_follows_a_folder_that_moved(model, processor, photos, tmp_path):
    open_gallery(model, processor, photos).save(tmp_path / "index")
    moved = photos.rename(tmp_path / "moved")
    loaded = Gallery.load(tmp_path / "index", model, processor, folder=moved)
    assert loaded.paths == find_images(moved)


def test_loaded_index_can_be_saved_over_itself(model, processor, photos, tmp_path):
    """Its features are a memory map of the file that is being replaced."""
    gallery = open_gallery(model, processor, photos)
    gallery.save(tmp_path / "index")
    loaded = Gallery.load(tmp_path / "index", model, processor)
    loaded.save(tmp_path / "index")
    assert torch.equal(Gallery.load(tmp_path / "index", model, processor).features, gallery.features)
    assert torch.equal(loaded.features, gallery.features)


def test_a_save_that_fails_leaves_the_earlier_index(model, processor, photos, tmp_path, monkeypatch):
    gallery = open_gallery(model, processor, photos)
    gallery.save(tmp_path / "index")
    one = Gallery.from_images(model, processor, [photos / "a.png"], progress=False)

    def full_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(segments, "write_entries", full_disk)
    with pytest.raises(OSError, match=r"the disk is full .*what was finished before is kept"):
        one.save(tmp_path / "index")
    assert len(list((tmp_path / "index" / "segments").iterdir())) == 1
    assert torch.equal(Gallery.load(tmp_path / "index", model, processor).features, gallery.features)


def test_a_save_that_is_killed_leaves_the_earlier_index(model, processor, photos, tmp_path, monkeypatch):
    gallery = open_gallery(model, processor, photos)
    gallery.save(tmp_path / "index")
    one = Gallery.from_images(model, processor, [photos / "a.png"], progress=False)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patches, pytest.raises(KeyboardInterrupt):
        patches.setattr(segment_list, "write_json", killed)
        one.save(tmp_path / "index")
    assert torch.equal(Gallery.load(tmp_path / "index", model, processor).features, gallery.features)
    gallery.save(tmp_path / "index")
    assert len(list((tmp_path / "index" / "segments").iterdir())) == 1, "what the killed one left is gone"


def test_index_of_another_model_is_refused(model, processor, photos, tmp_path):
    open_gallery(model, processor, photos).save(tmp_path / "index")
    with pytest.raises(ValueError, match="cannot be compared"):
        Gallery.load(tmp_path / "index", tiny_model(seed=1), processor)


def test_index_of_the_same_model_trained_further_is_refused(model, processor, photos, tmp_path):
    open_gallery(model, processor, photos).save(tmp_path / "index")
    trained = tiny_model()
    with torch.no_grad():
        for weight in trained.qformer.parameters():
            weight += 1e-3 * torch.randn_like(weight)
    with pytest.raises(ValueError, match="cannot be compared"):
        Gallery.load(tmp_path / "index", trained, processor)


def test_index_is_of_the_model_that_encoded_even_if_trained_before_saving(processor, photos, tmp_path):
    model = tiny_model()
    gallery = open_gallery(model, processor, photos)
    with torch.no_grad():
        model.vision_projection.weight += 0.1
    gallery.save(tmp_path / "index")
    with pytest.raises(ValueError, match="cannot be compared"):
        Gallery.load(tmp_path / "index", model, processor)
    assert len(Gallery.load(tmp_path / "index", tiny_model(), processor)) == 8


def test_index_serves_the_same_model_in_another_precision(model, processor, photos, tmp_path):
    open_gallery(tiny_model().to(torch.bfloat16), processor, photos).save(tmp_path / "index")
    loaded = Gallery.load(tmp_path / "index", model, processor)
    expected = open_gallery(model, processor, photos).scores(caption="red coat")
    torch.testing.assert_close(loaded.scores(caption="red coat"), expected, atol=0.02, rtol=0)


def test_index_of_other_processor_settings_is_refused_by_name(model, processor, photos, tmp_path):
    open_gallery(model, processor, photos).save(tmp_path / "index")
    distorting = FafaImageProcessor(**{**processor.image_processor.to_dict(), "do_pad_square": False})
    with pytest.raises(ValueError, match=r"do_pad_square True \(now False\)"):
        Gallery.load(tmp_path / "index", model, FafaProcessor(distorting, processor.tokenizer))


def test_index_that_is_absent_foreign_or_mixed_is_refused(model, processor, photos, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no features \(no gallery\.json\)"):
        Gallery.load(photos, model, processor)

    open_gallery(model, processor, photos).save(tmp_path / "index")
    tokens = in_segment(tmp_path / "index", "tokens.npy")
    whole = tokens.read_bytes()
    for damage in (b"cut off", whole[:-1] + b"\x99"):
        tokens.write_bytes(damage)
        with pytest.raises(ValueError, match=r"tokens\.npy is damaged"):
            Gallery.load(tmp_path / "index", model, processor)
    tokens.unlink()
    with pytest.raises(FileNotFoundError, match=r"tokens\.npy"):
        Gallery.load(tmp_path / "index", model, processor)
    tokens.write_bytes(whole)

    (tmp_path / "index" / "gallery.json").write_text("{")
    with pytest.raises(ValueError, match=r"gallery\.json is damaged"):
        Gallery.load(tmp_path / "index", model, processor)
    (tmp_path / "index" / "gallery.json").write_text('{"format": "something else"}')
    with pytest.raises(ValueError, match="something else"):
        Gallery.load(tmp_path / "index", model, processor)


def break_images(photos):
    (photos / "zero.png").write_bytes(b"")
    (photos / "trip" / "cut.png").write_bytes((photos / "a.png").read_bytes()[:60])


def test_corrupt_image_is_an_error_that_names_the_file(model, processor, photos):
    break_images(photos)
    with pytest.raises(UnreadableImageError, match=r"cut\.png"):
        open_gallery(model, processor, photos)


def test_corrupt_images_are_skipped_counted_and_reported_on_request(model, processor, photos, caplog, tmp_path):
    whole = open_gallery(model, processor, photos)
    break_images(photos)
    with caplog.at_level(logging.WARNING):
        gallery = open_gallery(model, processor, photos, on_error="skip", batch_size=3)
    assert [Path(name).name for name in gallery.skipped] == ["cut.png", "zero.png"]
    assert "2 of 10 images" in caplog.text and "zero.png" in caplog.text and "cut.png" in caplog.text
    assert gallery.paths == whole.paths
    torch.testing.assert_close(gallery.features, whole.features)
    gallery.save(tmp_path / "index")
    loaded = Gallery.load(tmp_path / "index", model, processor)
    assert loaded.skipped == gallery.skipped and torch.equal(loaded.features, gallery.features)


def test_missing_file_is_an_error_even_when_skipping(model, processor, photos):
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        Gallery.from_images(model, processor, [photos / "a.png", photos / "gone.png"], on_error="skip", progress=False)


def test_a_batch_of_none_and_a_folder_elsewhere_are_refused(model, processor, photos, tmp_path):
    with pytest.raises(ValueError, match="batch_size is 0"):
        Gallery.from_images(model, processor, [photos / "a.png"], batch_size=0, progress=False)
    with pytest.raises(ValueError, match=r"gallery image 0, .*a\.png, does not lie in folder="):
        Gallery.from_images(model, processor, [photos / "a.png"], folder=tmp_path / "elsewhere", progress=False)


def test_nothing_to_encode_is_an_error(model, processor, tmp_path):
    with pytest.raises(NotADirectoryError, match="nowhere"):
        open_gallery(model, processor, tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"no image among 1 file .*\.jpg"):
        open_gallery(model, processor, tmp_path)
    with pytest.raises(ValueError, match="at least one"):
        Gallery.from_images(model, processor, [])
    (tmp_path / "zero.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of 1 image .*zero\.png"):
        open_gallery(model, processor, tmp_path, on_error="skip")
    with pytest.raises(ValueError, match="ignore"):
        open_gallery(model, processor, tmp_path, on_error="ignore")


def test_bad_queries(model, processor, photos):
    gallery = open_gallery(model, processor, photos)
    with pytest.raises(ValueError, match="image, a caption or both"):
        gallery.search()
    with pytest.raises(ValueError, match="top is 0"):
        gallery.search(caption="red coat", top=0)
    with pytest.raises(ValueError, match="no word"):
        gallery.search(caption=" . ")
    with pytest.raises(UnreadableImageError, match=r"notes\.txt"):
        gallery.search(image=photos / "notes.txt")
    gallery.features[3] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        gallery.search(caption="red coat")


def test_damaged_weights_are_found_while_encoding(processor, photos):
    model = tiny_model()
    with torch.no_grad():
        model.vision_projection.bias[0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        open_gallery(model, processor, photos)


def test_dataset_column_with_and_without_files(model, processor, photos, tmp_path):
    datasets = pytest.importorskip("datasets")
    paths = find_images(photos)
    images = [Image.open(path).convert("RGB") for path in paths]
    features = datasets.Features({"photo": datasets.Image()})
    from_files = datasets.Dataset.from_dict({"photo": [str(path) for path in paths]}, features=features)
    from_memory = datasets.Dataset.from_dict({"photo": images}, features=features)
    expected = open_gallery(model, processor, photos)

    filed = Gallery.from_dataset(model, processor, from_files, column="photo", progress=False)
    assert filed.paths == expected.paths and torch.equal(filed.features, expected.features)

    gallery = Gallery.from_dataset(model, processor, from_memory, column="photo", progress=False)
    assert gallery.paths == [None] * 8 and torch.equal(gallery.features, expected.features)
    gallery.save(tmp_path / "index")
    first = Gallery.load(tmp_path / "index", model, processor).search(caption="red coat")[0]
    assert first.path is None and paths[first.index] == expected.search(caption="red coat")[0].path


FEATURES = torch.nn.functional.normalize(torch.ones(2, 8, 64), dim=-1)


def with_nan():
    features = FEATURES.clone()
    features[1, 2, 3] = torch.nan
    return features


CONSTRUCTED = {
    "more features than paths": ({"features": torch.zeros(3, 8, 64)}, ValueError, r"got \(3, 8, 64\)"),
    "no image": ({"features": torch.zeros(0, 8, 64), "paths": []}, ValueError, "at least one image"),
    "one vector an image": ({"features": torch.zeros(2, 64)}, ValueError, r"got \(2, 64\)"),
    "another dimension": ({"features": torch.zeros(2, 8, 63)}, ValueError, r"expected \(2, 8, 64\), got \(2, 8, 63\)"),
    "another number of tokens": ({"features": torch.zeros(2, 9, 64)}, ValueError, r"got \(2, 9, 64\)"),
    "NaN": ({"features": with_nan()}, ValueError, "features of image 1 hold NaN"),
    "infinity": ({"features": FEATURES / 0}, ValueError, "features of image 0, image 1 hold NaN or infinity"),
    "zeros": ({"features": FEATURES * 0}, ValueError, "features of image 0, image 1 are zero"),
    "not normalised": ({"features": FEATURES * 3}, ValueError, "image 1 have length 3, expected 1"),
    "integers": ({"features": FEATURES.long()}, TypeError, "are torch.int64, expected"),
    "an array": ({"features": FEATURES.numpy()}, TypeError, "features is a ndarray, expected a tensor"),
    "nothing": ({"features": None}, TypeError, "features is a NoneType"),
    "paths as text": ({"paths": "ab"}, TypeError, "paths is a str"),
    "a model's name": ({"model": "pretrained/fafa"}, TypeError, "str is no Retriever"),
    "no processor": ({"processor": None}, TypeError, "NoneType is no RetrieverProcessor"),
}


@pytest.mark.parametrize(("changed", "kind", "message"), CONSTRUCTED.values(), ids=CONSTRUCTED)
def test_a_gallery_of_anything_else_is_refused_in_one_line(model, processor, changed, kind, message):
    arguments = {"model": model, "processor": processor, "features": FEATURES, "paths": [None, None]} | changed
    with pytest.raises(kind, match=rf"^[^\n]*{message}[^\n]*$"):
        Gallery(**arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_gallery_in_any_precision_is_searched_saved_and_loaded(model, processor, tmp_path, dtype):
    gallery = Gallery(model, processor, FEATURES.to(dtype), ["a.jpg", None])
    gallery.save(tmp_path / "index")
    loaded = Gallery.load(tmp_path / "index", model, processor)
    assert loaded.features.dtype == dtype and torch.equal(loaded.features, gallery.features)
    assert loaded.paths == [Path("a.jpg").absolute(), None] and len(loaded.search(caption="red")) == 2


def test_a_gallery_that_was_put_together_is_saved_with_its_folder(model, processor, photos, tmp_path):
    paths = [photos / "a.png", photos / "gone.png"]
    arguments = {"skipped": [str(photos / "cut.png"), "image 7"], "folder": photos}
    Gallery(model, processor, FEATURES, paths, **arguments).save(tmp_path / "index")
    loaded = Gallery.load(tmp_path / "index", model, processor)
    assert loaded.paths == paths and loaded.folder == photos
    assert loaded.skipped == [str(photos / "cut.png"), "image 7"]


ASKED = {
    "top: a fraction": ({"caption": "red", "top": 2.5}, TypeError, "top is 2.5, expected a whole number"),
    "top: NaN": ({"caption": "red", "top": float("nan")}, TypeError, "top is nan"),
    "top: text": ({"caption": "red", "top": "3"}, TypeError, "top is '3'"),
    "top: yes": ({"caption": "red", "top": True}, TypeError, "top is True"),
    "top: none at all": ({"caption": "red", "top": -1}, ValueError, "top is -1"),
    "caption: a number": ({"caption": 3}, TypeError, "caption is a int, expected one caption"),
    "caption: several in one": ({"caption": [["red", "blue"]]}, TypeError, "caption is a list"),
    "caption: empty": ({"caption": ""}, ValueError, "no word"),
    "image: a number": ({"image": 3}, TypeError, "got int"),
    "image: several in one": ({"image": [["a.png", "trip/d.png"]]}, ValueError, "a query has one image, got a list"),
    "image: none of several": ({"image": []}, ValueError, "image is an empty list"),
    "image: not there": ({"image": "nowhere.png"}, FileNotFoundError, r"nowhere\.png"),
    "image: a folder": ({"image": "trip"}, (OSError, ValueError), "trip"),
    "image: no picture": ({"image": "notes.txt"}, UnreadableImageError, r"notes\.txt"),
    "image: an array of NaN": ({"image": np.full((4, 4, 3), np.nan)}, ValueError, "without NaN"),
}


@pytest.mark.parametrize(("query", "kind", "message"), ASKED.values(), ids=ASKED)
def test_a_query_of_anything_else_is_refused_in_one_line(model, processor, photos, monkeypatch, query, kind, message):
    """Of several images or captions the first one was searched for, and the others forgotten."""
    monkeypatch.chdir(photos)
    gallery = Gallery(model, processor, FEATURES, [None, None])
    with pytest.raises(kind, match=rf"^[^\n]*{message}[^\n]*$"):
        gallery.search(**query)
    assert len(gallery.search(caption="red", top=np.int64(1))) == 1


ENCODED = {
    "images: a path": ({"images": "photos/"}, TypeError, "images is a str, expected a sequence"),
    "images: one picture": ({"images": Image.new("RGB", (4, 8))}, TypeError, "images is a Image"),
    "images: a generator": ({"images": (each for each in "ab")}, TypeError, "images is a generator"),
    "batch_size: a fraction": ({"batch_size": 1.5}, ValueError, "batch_size is 1.5, expected a whole number"),
    "batch_size: text": ({"batch_size": "8"}, ValueError, "batch_size is '8'"),
    "dtype: text": ({"dtype": "float16"}, TypeError, "dtype is 'float16', expected .*torch.float16"),
    "dtype: integers": ({"dtype": torch.int8}, TypeError, "dtype is torch.int8"),
    "on_error: unknown": ({"on_error": "ignore"}, ValueError, "on_error is 'ignore'"),
    "a model's name": ({"model": "pretrained/fafa"}, TypeError, "str is no Retriever"),
}


@pytest.mark.parametrize(("changed", "kind", "message"), ENCODED.values(), ids=ENCODED)
def test_encoding_anything_else_is_refused_in_one_line(model, processor, photos, changed, kind, message):
    arguments = {"model": model, "processor": processor, "images": [photos / "a.png"], "progress": False} | changed
    with pytest.raises(kind, match=rf"^[^\n]*{message}[^\n]*$"):
        Gallery.from_images(**arguments)


def test_places_that_features_cannot_be_kept_in_are_known_before_images_are_read(
    model, processor, photos, tmp_path, monkeypatch
):
    gallery = Gallery(model, processor, FEATURES, [None, None])
    (tmp_path / "file").write_text("not to be lost")
    for place in (tmp_path / "file", tmp_path / "file" / "within"):
        with pytest.raises(OSError, match=rf"^[^\n]*file is no folder: nothing can be written to [^\n]*{place.name}$"):
            gallery.save(place)
        monkeypatch.setattr("fafa.retrieval.identity.contents_of", None)
        with pytest.raises(OSError, match="file is no folder: nothing can be written"):
            open_gallery(model, processor, photos, features_dir=place)
        with pytest.raises(FileNotFoundError, match=rf"{place.name} (is a file|holds no features)"):
            Gallery.load(place, model, processor)
    assert (tmp_path / "file").read_text() == "not to be lost"
    with pytest.raises(TypeError):
        Gallery.load(None, model, processor)


def test_an_unknown_column_is_refused_with_those_that_there_are(model, processor):
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"photo": ["a.png"], "name": ["a"]})
    with pytest.raises(ValueError, match="no column 'image'; it has photo, name"):
        Gallery.from_dataset(model, processor, dataset)


def test_another_models_index_is_refused_before_images_are_read(model, processor, photos, tmp_path, monkeypatch):
    open_gallery(model, processor, photos, features_dir=tmp_path / "index")
    monkeypatch.setattr("fafa.retrieval.identity.contents_of", None)
    with pytest.raises(ValueError, match="model fingerprint"):
        open_gallery(tiny_model(seed=1), processor, photos, features_dir=tmp_path / "index")
