"""A gallery in a folder is changed by images: what counts is searched, and nothing counts that should not."""

import errno

import pytest
import torch
from encoding_spy import Spy, paint
from PIL import Image
from tiny import tiny_model

from fafa.image_reading_fafa import UnreadableImageError
from fafa.retrieval import Entry, FeatureStore, Gallery, convert_store, encode_images, verify_store, writing
from fafa.retrieval.segment_list import GalleryFolder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        paint(folder / f"{number}.png", number)
    return sorted(folder.iterdir())


@pytest.fixture
def gallery(model, processor, photos, tmp_path):
    """Three of the five photographs."""
    options = {"folder": photos[0].parent, "features_dir": tmp_path / "f", "dtype": torch.float32, "progress": False}
    return Gallery.from_images(model, processor, photos[:3], **options)


def names(gallery):
    return [path and path.name for path in gallery.paths]


def test_images_are_added_searched_and_seen_by_others_after_refresh(model, processor, photos, gallery):
    other = Gallery.load(gallery.place.path, model, processor)
    assert gallery.add(photos[3:], [Entry(tags={"colour": "red"}), Entry(camera="gate 3")], progress=False) == [3, 4]
    assert names(gallery) == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    expected = Gallery.from_images(model, processor, photos, progress=False)
    for query in ({"caption": "a red coat"}, {"image": photos[4]}):
        torch.testing.assert_close(gallery.scores(**query), expected.scores(**query))
        found = [result.path for result in gallery.search(**query, top=None)]
        assert found == [result.path for result in expected.search(**query, top=None)]
    assert len(other) == 3 and other.refresh() and not other.refresh() and len(other) == 5
    (result,) = other.search(caption="a hat", where='colour == "red"')
    assert result.path == photos[3] and result.id == 3 and result.index == 3 and result.entry.tags == {"colour": "red"}
    assert [result.path for result in other.search(caption="a hat", where='camera == "gate 3"')] == [photos[4]]


def test_what_is_deleted_is_found_no_more(photos, gallery):
    gallery.add(photos[3:], [Entry(tags={"number": number}) for number in (3, 4)], progress=False)
    assert (
        gallery.delete(paths=[photos[1]]) == 1
        and gallery.delete(ids=[0]) == 1
        and gallery.delete(where="number == 4") == 1
    )
    assert names(gallery) == ["2.png", "3.png"] and gallery.ids.tolist() == [2, 3]
    results = gallery.search(caption="a hat", top=None)
    assert sorted(result.path for result in results) == photos[2:4]
    assert all(gallery.paths[result.index] == result.path for result in results)
    assert gallery.features.shape == (2, 8, 64) and gallery.scores(caption="a hat").shape == (2,)
    for wrong, message in [({"ids": [0]}, "no image with id 0"), ({"paths": ["x.png"]}, "no image of the file x.png")]:
        with pytest.raises(ValueError, match=message):
            gallery.delete(**wrong)
    assert gallery.delete(where="number == 77") == 0 and len(gallery) == 2


def test_replaced_images_are_there_once_with_what_is_known_of_them(model, photos, gallery, monkeypatch):
    paint(photos[1], 9)
    spy = Spy(model, monkeypatch)
    assert gallery.upsert([photos[1], photos[3]], [Entry(camera="new")] * 2, progress=False) == [3, 4]
    assert spy.num_images == 2 and names(gallery) == ["0.png", "2.png", "1.png", "3.png"]
    picture = Image.open(photos[4]).convert("RGB")
    for number in (5, 6):
        assert gallery.upsert([picture], progress=False) == [number]
    assert names(gallery) == ["0.png", "2.png", "1.png", "3.png", None]


def test_several_people_of_one_photograph(photos, gallery):
    boxes = [Entry(box=(0, 0, 5, 24)), Entry(box=(5, 0, 12, 24))]
    gallery.upsert([photos[0], photos[0]], boxes, progress=False)
    assert names(gallery) == ["1.png", "2.png", "0.png", "0.png"]
    assert [entry.box for entry in gallery.state.entries([3, 4])] == [(0, 0, 5, 24), (5, 0, 12, 24)]
    assert len(gallery.search(caption="a hat", where="left >= 5")) == 1


def test_an_image_that_cannot_be_read_is_told_or_left_out(photos, gallery):
    photos[3].write_bytes(b"no picture")
    with pytest.raises(UnreadableImageError, match=r"3\.png"):
        gallery.add(photos[3:], progress=False)
    assert len(gallery) == 3
    assert gallery.add(photos[3:], on_error="skip", progress=False) == [None, 3] and len(gallery) == 4


def test_a_gallery_is_compacted(model, processor, photos, gallery):
    gallery.add(photos[3:], progress=False)
    gallery.delete(ids=[1])
    before = gallery.scores(caption="a hat")
    gallery.compact()
    assert len(gallery.state.segments) == 1 and gallery.ids.tolist() == [0, 2, 3, 4]
    assert torch.equal(gallery.scores(caption="a hat"), before)
    assert GalleryFolder(gallery.place.path).faults() == []


def test_calibration_is_kept(model, processor, photos, gallery, tmp_path):
    gallery.keep_calibration({"slope": 2.0})
    gallery.add(photos[3:], progress=False)
    gallery.compact()
    assert Gallery.load(tmp_path / "f", model, processor).state.calibration == {"slope": 2.0}
    in_memory = Gallery.from_images(model, processor, photos[:2], progress=False)
    in_memory.keep_calibration({"slope": 3.0})
    in_memory.save(tmp_path / "g")
    assert Gallery.load(tmp_path / "g", model, processor).state.calibration == {"slope": 3.0}


def test_what_cannot_be_changed_says_so(model, processor, photos, gallery, monkeypatch):
    in_memory = Gallery.from_images(model, processor, photos[:2], progress=False)
    with pytest.raises(ValueError, match="lies in memory: save it"):
        in_memory.add(photos[3:])
    with pytest.raises(ValueError, match="1 entry for 2 images"):
        gallery.add(photos[3:], [Entry()])
    gallery.model = tiny_model(seed=1)
    with pytest.raises(ValueError, match="model fingerprint"):
        gallery.add(photos[3:])
    monkeypatch.setattr(writing, "_WAIT", 0)
    with gallery.place.writing(), pytest.raises(BlockingIOError, match="is being written by another process"):
        gallery.delete(ids=[0], wait=0)
    assert len(gallery) == 3


@pytest.mark.parametrize("exact", [False, True])
def test_filters_apply_before_ranking_and_any_number_may_be_asked_for(photos, gallery, exact):
    """Ten results come where ten exist, however far down they are ranked."""
    gallery.add(photos[3:], [Entry(tags={"number": number}) for number in (3, 4)], progress=False)
    worst = gallery.search(caption="a hat", top=None)[-1]
    gallery.delete(ids=[worst.id])
    gallery.add([worst.path], [Entry(tags={"wanted": True})], progress=False)
    (result,) = gallery.search(caption="a hat", where="wanted", top=10**6, exact=exact)
    assert result.path == worst.path and len(gallery.search(caption="a hat", top=10**6, exact=exact)) == 5
    assert gallery.search(caption="a hat", where="number > 99", exact=exact) == []
    with pytest.raises(ValueError, match="there is no field wantd; did you mean 'wanted'"):
        gallery.search(caption="a hat", where="wantd")
    with pytest.raises(ValueError, match="candidates is 0"):
        gallery.search(caption="a hat", candidates=0)


def test_codes_alone_take_less_space_and_rank_nearly_alike(model, processor, photos, gallery, tmp_path):
    options = {"features_dir": tmp_path / "codes", "dtype": torch.int8, "progress": False}
    codes = Gallery.from_images(model, processor, photos[:3], **options)
    assert codes.state.parts[0].tokens is None and codes.features.dtype == torch.float32
    torch.testing.assert_close(codes.scores(caption="red"), gallery.scores(caption="red"), atol=0.01, rtol=0)
    assert Gallery.load(tmp_path / "codes", model, processor).add(photos[3:], progress=False) == [3, 4]


def test_alike_features_are_refused_when_indexing(model, processor, photos, tmp_path, monkeypatch):
    """A model that gives one vector for every image made galleries in which everything is found."""
    monkeypatch.setattr(model, "get_target_features", lambda pixel_values: torch.ones(len(pixel_values), 8, 64) / 8)
    with pytest.raises(ValueError, match="different images or captions have the same features"):
        Gallery.from_images(model, processor, photos, features_dir=tmp_path / "g", progress=False)
    assert len(GalleryFolder(tmp_path / "g").read()) == 0


def test_damaged_features_are_told_with_the_gallerys_folder(gallery, monkeypatch):
    wrong = gallery.state.parts[0]
    sums = torch.zeros(3, dtype=torch.int64)
    state = gallery.state
    segment = state.segments[0]._replace(part=writing.replace(wrong, row_checksums=sums))
    gallery.state = writing.replace(state, segments=(segment,))
    with pytest.raises(ValueError, match=rf"{gallery.place.path} is damaged .*into another folder"):
        gallery.search(caption="a hat")


# Stores of earlier versions


@pytest.fixture
def store(model, processor, photos, tmp_path):
    """As version 4 kept a gallery; one photograph cannot be read."""
    photos[3].write_bytes(b"no picture")
    options = {"folder": photos[0].parent, "features_dir": tmp_path / "old", "on_error": "skip", "progress": False}
    return tmp_path / "old", encode_images(model, processor, photos, **options).features


def test_a_store_opens_and_is_converted_without_encoding(model, processor, photos, store, monkeypatch):
    folder, features = store
    opened = Gallery.load(folder, model, processor)
    assert torch.equal(opened.features, features) and opened.skipped == [str(photos[3])] and opened.place is None
    spy = Spy(model, monkeypatch)
    convert_store(folder)
    assert not list(folder.glob("*.safetensors")) and verify_store(folder) == []
    converted = Gallery.load(folder, model, processor)
    assert torch.equal(converted.features, features) and converted.paths == opened.paths
    assert converted.skipped == opened.skipped and converted.folder == photos[0].parent
    convert_store(folder)
    options = {"features_dir": folder, "on_error": "skip", "progress": False}
    gallery = Gallery.from_folder(model, processor, photos[0].parent, **options)
    assert spy.num_images == 0 and torch.equal(gallery.features, features) and gallery.skipped == opened.skipped


def test_a_store_is_converted_when_its_folder_is_encoded_again(model, processor, photos, store, monkeypatch):
    folder, features = store
    paint(photos[3], 3)
    spy = Spy(model, monkeypatch)
    gallery = Gallery.from_folder(model, processor, photos[0].parent, features_dir=folder, progress=False)
    assert spy.num_images == 1 and torch.equal(gallery.features[:4], features) and gallery.skipped == []
    with pytest.raises(FileNotFoundError):
        FeatureStore.open(folder)


def test_a_conversion_that_fails_leaves_the_store(model, processor, store, monkeypatch):
    folder, features = store

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("segment_list.write_json", "segment_writer.write_segment"):
        with monkeypatch.context() as patches, pytest.raises(OSError, match="No space"):
            patches.setattr(f"fafa.retrieval.{name}", full)
            convert_store(folder)
        assert torch.equal(Gallery.load(folder, model, processor).features, features)
    convert_store(folder)
    assert torch.equal(Gallery.load(folder, model, processor).features, features)
    with pytest.raises(FileNotFoundError, match="holds no features"):
        convert_store(folder / "nowhere")


def test_a_gallery_saved_over_a_store_replaces_it(model, processor, photos, store):
    folder, _ = store
    Gallery.from_images(model, processor, photos[:1], progress=False).save(folder)
    assert names(Gallery.load(folder, model, processor)) == ["0.png"] and not (folder / "manifest.json").exists()


def test_an_entry_lies_in_the_folder_of_images_or_is_refused(model, processor, photos, tmp_path):
    """One with an absolute path was taken, and every search that found it ended with an error."""
    gallery = Gallery.from_folder(model, processor, photos[0].parent, features_dir=tmp_path / "g", progress=False)
    for outside in ("../elsewhere.png", str(tmp_path / "elsewhere.png")):
        with pytest.raises(ValueError, match=r"entries\[1\] has the path .*elsewhere.png, which does not lie in"):
            gallery.add(photos[:2], [Entry(), Entry(outside)], progress=False)
    assert len(gallery) == len(photos)
    [number] = gallery.add(photos[:1], [Entry(str(photos[1]), box=(0, 0, 9, 9))], progress=False)
    [found] = [result for result in gallery.search(caption="a hat", top=None) if result.id == number]
    assert found.path == photos[1] and found.entry.box == (0, 0, 9, 9)


def test_one_file_where_a_list_is_expected_is_refused(model, processor, photos, tmp_path):
    """Its letters were taken for files."""
    gallery = Gallery.from_folder(model, processor, photos[0].parent, features_dir=tmp_path / "g", progress=False)
    with pytest.raises(TypeError, match="paths is a str, expected a list of files"):
        gallery.delete(paths=str(photos[0]))
    with pytest.raises(TypeError, match="exclude is a PosixPath, expected a list of files"):
        gallery.search(caption="a hat", exclude=photos[0])
