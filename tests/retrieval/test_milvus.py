"""A gallery over Milvus finds what the folder alone finds, whatever the collection lacks or has too much."""

import logging
import os
import sys
from types import ModuleType
from uuid import uuid4

import pytest
import torch
from encoding_spy import paint
from tiny import tiny_model
from torch.nn import functional as F

from fafa.retrieval import Entry, Gallery, MilvusGallery, Query, milvus_collection, publish_gallery
from fafa.retrieval import milvus as milvus_module
from fafa.retrieval.fingerprint import feature_settings
from fafa.retrieval.milvus_collection import MilvusCollection
from fafa.retrieval.segment_list import GalleryFolder

CANDIDATES = 30  # of 300 images, so that they decide what is found
ALL = {"top": 10, "candidates": CANDIDATES}


def tokens(number, shape, seed=0):
    """Random features whose means are of very different lengths."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(number, 1, shape[1], generator=generator) * 3 * torch.rand(number, 1, 1, generator=generator)
    return F.normalize(centre + torch.randn(number, *shape, generator=generator), dim=-1)


def entries(numbers):
    return [
        Entry(
            f"trip_{number % 3}/{number}.jpg",
            contents=f"contents {number}",
            camera=f"gate {number % 4}" if number % 5 else None,
            taken=f"2024-05-{1 + number % 30:02}T10:00:00",
            time=float(number),
            tags={"colour": ("red", "blue")[number % 2], **({"age": number % 50} if number % 3 else {})},
        )
        for number in numbers
    ]


def make_folder(path, model, processor, number=300):
    settings = feature_settings(model, processor, "target", model.feature_shape)
    place = GalleryFolder.create(path, settings, "float16")
    with place.writing() as writer:
        writer.append(tokens(number, model.feature_shape), entries(range(number)))
        writer.commit()
    return place


@pytest.fixture(scope="session")
def models(model, processor):
    return model, processor


@pytest.fixture
def name():
    return f"people_{uuid4().hex}"


@pytest.fixture(scope="module")
def published(model, processor, milvus, tmp_path_factory):
    """A folder of 300 images and its collection, which no test changes."""
    place = make_folder(tmp_path_factory.mktemp("gallery") / "f", model, processor)
    assert publish_gallery(place.path, "published", milvus, progress=False) == 300
    return place


@pytest.fixture
def small(model, processor, tmp_path, milvus, name):
    """A folder of 40 images and its collection, to be changed."""
    place = make_folder(tmp_path / "f", model, processor, 40)
    publish_gallery(place.path, name, milvus, progress=False)
    return place


@pytest.fixture
def over(model, processor, small, milvus, name):
    return MilvusGallery.load(small.path, model, processor, check_images=False, collection=name, uri=milvus)


@pytest.fixture
def written(monkeypatch):
    """The ids of the entries that are written to Milvus."""
    ids = []

    def write(self, entries):
        ids.extend(entry["id"] for entry in entries)
        return plainly(self, entries)

    plainly = MilvusCollection.write
    monkeypatch.setattr(MilvusCollection, "write", write)
    return ids


def both(model, processor, place, milvus, collection="published"):
    local = Gallery.load(place.path, model, processor, check_images=False)
    over = MilvusGallery.load(place.path, model, processor, None, False, collection=collection, uri=milvus)
    return local, over


def agree(local, over, **asked):
    """Searches both: they find the same images with the same scores in the same order."""
    found = over.search(**ALL, **asked)
    assert found == local.search(**ALL, **asked)
    return found


WHERE = [
    None,
    'camera == "gate 1"',
    'not camera == "gate 1"',
    'camera == None or colour == "blue" and age > 20',
    'taken >= "2024-05-10" and not colour in ("red", "green") and 3 < time <= 250',
    '"trip_1/" in path',
    'not (age > 3 and "10:00" in taken)',
    'colour == "green"',
    "age",
    "time < 5",
]


@pytest.mark.parametrize("where", WHERE)
def test_it_finds_what_the_folder_finds_from_as_many_candidates(model, processor, published, milvus, where):
    local, over = both(model, processor, published, milvus)
    assert over.is_in_step
    for caption in ("a red coat", "with a blue bag"):
        found = agree(local, over, caption=caption, where=where)
        assert len(found) == min(10, int(local.state.matching(where).sum()) if where else 300)
        assert [result.entry for result in found] == [over.state.entries([result._row])[0] for result in found]


def test_candidates_have_the_largest_products_with_means_that_are_no_unit_vectors(model, processor, published, milvus):
    local, over = both(model, processor, published, milvus)
    means = local.state.parts[0].means
    assert means.norm(dim=1).min() < 0.4 and means.norm(dim=1).max() > 0.9
    queries = F.normalize(torch.randn(70, means.shape[1], generator=torch.Generator().manual_seed(3)), dim=1)
    assert torch.equal(over.nearest(queries, CANDIDATES), local.nearest(queries, CANDIDATES))
    best = (queries @ F.normalize(means, dim=1).T).topk(CANDIDATES).indices.sort(dim=1).values
    assert not torch.equal(best, local.nearest(queries, CANDIDATES))  # as cosines would have it


def test_all_that_a_gallery_can_be_asked_goes_over_milvus(model, processor, published, milvus):
    local, over = both(model, processor, published, milvus)
    marked = Query.of(caption="a red coat").marked(wrong=local.search(caption="a red coat", top=2))
    queries = [Query.of(caption="a red coat"), Query.of(caption=["a red coat", "a blue bag"], minus="a hat"), marked]
    assert over.search_many(queries, **ALL) == local.search_many(queries, **ALL)
    together = over.search_together(queries[:2], top=5, candidates=CANDIDATES, where='colour == "red"')
    assert together == local.search_together(queries[:2], top=5, candidates=CANDIDATES, where='colour == "red"')


def test_exact_searches_and_very_many_results_are_answered_by_the_folder(
    model, processor, published, milvus, monkeypatch
):
    local, over = both(model, processor, published, milvus)
    monkeypatch.setattr(milvus_collection.MilvusCollection, "nearest", None)
    assert over.search(caption="a hat", exact=True) == local.search(caption="a hat", exact=True)
    asked = {"caption": "a hat", "exact": True, "where": 'not ("_1" in path)'}  # Milvus cannot tell
    assert over.search(**asked) == local.search(**asked)
    assert len(over.search(caption="a hat", top=None, candidates=20_000)) == 300


def test_excluded_images_leave_their_places_to_others(model, processor, published, milvus, tmp_path):
    local, over = both(model, processor, published, milvus)
    rows = local.nearest(local.encode_query(caption="a hat"), CANDIDATES)[0]
    for gallery in (local, over):
        allowed = gallery.allowed().without(rows)
        _, found = gallery.find(gallery.encode_query(caption="a hat"), 10, allowed, candidates=CANDIDATES)
        assert (found >= 0).all() and not torch.isin(found, rows).any()


def test_changes_reach_milvus_by_what_they_change(model, processor, small, over, milvus, name, written, tmp_path):
    for number in range(3):
        paint(tmp_path / f"{number}.png", number)
    photos = [tmp_path / f"{number}.png" for number in range(3)]
    assert over.add(photos[:2], [Entry(camera="new")] * 2, progress=False) == [40, 41] and written == [40, 41]
    assert over.delete(where="time < 3") == 3 and written == [40, 41]
    assert over.upsert([photos[0], photos[2]], progress=False) == [42, 43] and written == [40, 41, 42, 43]
    over.compact()
    assert written == [40, 41, 42, 43] and over.is_in_step
    assert over.collection.known()[0].tolist() == over.ids.tolist() == [*range(3, 40), 41, 42, 43]
    local, other = both(model, processor, small, milvus, name)
    assert other.is_in_step
    for where in (None, 'camera == "new"', "camera == None"):
        found = agree(local, other, caption="a red coat", where=where)
        assert found == over.search(**ALL, caption="a red coat", where=where) and found


def test_what_is_known_anew_of_an_image_is_written_anew(small, over, written):
    with small.writing() as writer:
        [entry] = writer.state.stored_entries([7])
        writer.change({7: Entry(entry.path, camera="moved")})
        writer.commit()
    assert over.refresh() and not over.is_in_step
    assert over.sync() == 1 and written == [7] and over.is_in_step and over.sync() == 0
    assert [result.id for result in over.search(caption="a hat", where='camera == "moved"')] == [7]


def test_what_the_folder_has_deleted_is_not_found_though_milvus_has_it(models, small, over, caplog):
    before = over.search(caption="a hat", top=15, candidates=15)
    local = Gallery.load(small.path, *models, check_images=False)
    local.delete(ids=[result.id for result in before])
    with caplog.at_level(logging.WARNING):
        assert over.refresh()
    assert "holds the gallery as of its generation 1, and the folder" in caplog.text and not over.is_in_step
    after = over.search(caption="a hat", top=15, candidates=15)
    assert after == local.search(caption="a hat", top=15, candidates=15) and len(after) == 15
    assert not {result.id for result in after} & {result.id for result in before}
    assert over.sync() == 15 and over.is_in_step


def test_what_milvus_lacks_is_told_and_found_after_sync(model, processor, small, over, caplog, written):
    with small.writing() as writer:
        writer.append(tokens(3, model.feature_shape, seed=5), entries(range(100, 103)))
        writer.commit()
    with caplog.at_level(logging.WARNING):
        over.refresh()
    assert "images that it lacks are not found until sync()" in caplog.text
    assert over.search(caption="a hat", where="time >= 100") == []
    assert over.sync() == 3 and written == [40, 41, 42]
    assert len(over.search(caption="a hat", where="time >= 100")) == 3


def test_far_too_much_in_milvus_hides_nothing(models, small, over, monkeypatch, caplog):
    monkeypatch.setattr("fafa.retrieval.milvus.MOST", 20)
    local = Gallery.load(small.path, *models, check_images=False)
    local.delete(ids=[result.id for result in over.search(caption="a hat", top=20, candidates=20)])
    over.refresh()
    assert over.search(caption="a hat", top=10, candidates=10) == local.search(caption="a hat", top=10, candidates=10)
    assert "too few candidates are left of 20: the folder" in caplog.text


def test_an_interrupted_sync_goes_on(model, processor, small, over, milvus, name, monkeypatch, written):
    with small.writing() as writer:
        writer.delete([0, 1])
        writer.append(tokens(5, model.feature_shape, seed=5), entries(range(100, 105)))
        writer.commit()
    monkeypatch.setattr("fafa.retrieval.milvus._ROWS_AT_ONCE", 2)
    calls = iter([None, None])
    spied = MilvusCollection.write

    def fail(self, batch):
        if next(calls, "gone") == "gone":
            raise KeyboardInterrupt
        return spied(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(MilvusCollection, "write", fail)
        with pytest.raises(KeyboardInterrupt):
            over.sync()
    assert over.collection.notes()["state"] == "being written" and written == [40, 41, 42, 43]
    with small.writing() as writer:
        writer.delete(writer.state.rows_of_ids([40]))  # added by the one that was interrupted
        writer.commit()
    assert publish_gallery(small.path, name, milvus, progress=False) == 2  # 44 to write, 40 to delete
    assert written == [40, 41, 42, 43, 44] and over.refresh() and over.is_in_step
    assert over.collection.known()[0].tolist() == [*range(2, 40), 41, 42, 43, 44]


def test_another_process_reads_the_entries_of_new_segments_alone(model, processor, small, milvus, name, monkeypatch):
    """Also after an interruption, and where entries of an old segment were deleted: none is read for its checksum."""
    read, plainly = [], milvus_module._entries

    def entries_of(segment, rows):
        read.extend(segment.part.ids.numpy()[rows].tolist())
        return plainly(segment, rows)

    monkeypatch.setattr(milvus_module, "_entries", entries_of)
    with small.writing() as writer:
        writer.delete([3])
        writer.append(tokens(2, model.feature_shape, seed=5), entries(range(100, 102)))
        writer.commit()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MilvusCollection, "write", stopped)
        publish_gallery(small.path, name, milvus, progress=False)
    assert publish_gallery(small.path, name, milvus, progress=False) == 2 and set(read) == {40, 41}
    local, over = both(model, processor, small, milvus, name)
    assert over.is_in_step and over.collection.known()[0].tolist() == [0, 1, 2, *range(4, 42)]
    agree(local, over, caption="a hat")


def stopped(self, entries):
    raise KeyboardInterrupt


def test_a_folder_with_other_images_under_the_same_ids_is_told_from_the_one_before(
    model, processor, milvus, name, tmp_path
):
    publish_gallery(make_folder(tmp_path / "f", model, processor, 3).path, name, milvus, progress=False)
    settings = feature_settings(model, processor, "target", model.feature_shape)
    place = GalleryFolder.create(tmp_path / "g", settings, "float16")
    with place.writing() as writer:
        writer.append(tokens(3, model.feature_shape, seed=9), entries(range(3)))
        writer.commit()
    assert publish_gallery(place.path, name, milvus, progress=False) == 3
    agree(*both(model, processor, place, milvus, name), caption="a hat")


@pytest.fixture
def own_milvus(tmp_path, milvus):
    """The URI of another Milvus, and what stops it."""
    from milvus_lite.server_manager import server_manager_instance

    uri = str(tmp_path / "own.db")
    yield uri, lambda: server_manager_instance.release_server(uri)
    server_manager_instance.release_server(uri)


def test_milvus_gone_is_told_in_one_line_and_nothing_is_lost(model, processor, own_milvus, tmp_path, caplog, capfd):
    uri, stop = own_milvus
    place = make_folder(tmp_path / "f", model, processor, 40)
    publish_gallery(place.path, "people", uri, progress=False)
    local, over = both(model, processor, place, uri, "people")
    over.collection.timeout = 1.0
    stop()
    paint(tmp_path / "new.png", 0)
    with pytest.raises(
        ConnectionError, match=r"collection 'people' of Milvus at .* cannot be reached: .* try again"
    ) as told:
        over.search(caption="a hat")
    assert "\n" not in str(told.value)
    with pytest.raises(ConnectionError, match="cannot be reached"):
        over.sync()
    assert over.add([tmp_path / "new.png"], progress=False) == [40]  # it counts: another try would double it
    assert "Milvus could not follow (collection 'people'" in caplog.text and not over.is_in_step
    assert "Traceback" not in capfd.readouterr().err
    assert local.refresh() and len(local) == 41
    assert len(over.search(caption="a hat", exact=True, top=None)) == 41
    over = both(model, processor, place, uri, "people")[1]  # Milvus is there again
    assert over.sync() == 1 and over.is_in_step
    agree(local, over, caption="a hat")


def test_what_is_no_collection_of_this_gallery_is_refused_by_name(model, processor, published, milvus, name, tmp_path):
    def load(collection="published", place=published, with_model=model, **options):
        options = {"uri": milvus} | options
        return MilvusGallery.load(place.path, with_model, processor, None, False, collection=collection, **options)

    with pytest.raises(ValueError, match=rf"no collection '{name}' of Milvus at .*\((known: .*published|did you mean)"):
        load(name)
    other_model = tiny_model(seed=1)
    other = make_folder(tmp_path / "other", other_model, processor, 3)
    with pytest.raises(ValueError, match=r"cannot be compared with those in .*: model fingerprint"):
        load(place=other, with_model=other_model)
    with pytest.raises(ValueError, match=r"cannot be compared with those in .*: model fingerprint"):
        publish_gallery(other.path, "published", milvus)
    wide = feature_settings(model, processor, "target", (4, 12))
    wide = GalleryFolder.create(tmp_path / "wide", wide, "float16")
    with pytest.raises(ValueError, match=r"features shape \[.*\] \(now \[4, 12\]\)"):
        publish_gallery(wide.path, "published", milvus)
    load().collection._client.create_collection(name, dimension=8)
    with pytest.raises(ValueError, match=f"'{name}' of Milvus at .* holds no gallery: choose another name"):
        load(name)
    with pytest.raises(TypeError, match="a gallery is made by Gallery"):
        MilvusGallery.from_images(model, processor, [])


def test_milvus_that_is_not_there_is_told_in_one_line_without_the_password(milvus, tmp_path, monkeypatch):
    for uri, error, told in (
        ("http://me:secret@127.0.0.1:1", ConnectionError, "at http://127.0.0.1:1 cannot be reached"),
        ("people", ValueError, "refuses this: uri: people is illegal"),
        (str(tmp_path / "no" / "folder.db"), ConnectionError, "Open local milvus failed, dir: .* not exists"),
        (None, ValueError, "no URI of Milvus is given: uri=..., or the environment variable MILVUS_URI"),
    ):
        monkeypatch.delenv("MILVUS_URI", raising=False)
        with pytest.raises(error, match=told) as raised:
            MilvusCollection("people", uri, timeout=0.5)
        assert "secret" not in str(raised.value) and "\n" not in str(raised.value)


def test_uri_and_token_come_from_the_environment(monkeypatch):
    pymilvus = pytest.importorskip("pymilvus", reason="pymilvus is asked")
    given = []
    monkeypatch.setattr(pymilvus, "MilvusClient", lambda uri, token, timeout: given.append((uri, token)))
    monkeypatch.setenv("MILVUS_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MILVUS_TOKEN", "root:secret")
    MilvusCollection("people")
    MilvusCollection("people", "http://127.0.0.1:2", "key")
    assert given == [("http://127.0.0.1:1", "root:secret"), ("http://127.0.0.1:2", "key")]


def test_pymilvus_does_not_see_the_variable_when_it_is_imported(monkeypatch):
    """It reads MILVUS_URI by itself, and ended with a traceback of its own where that is a local file."""
    pytest.importorskip("pymilvus", reason="pymilvus is imported")
    seen = []

    class Imported(ModuleType):
        def __getattr__(self, name):
            seen.append(os.environ.get("MILVUS_URI"))
            return lambda *_, **options: None

    monkeypatch.setitem(sys.modules, "pymilvus", Imported("pymilvus"))
    monkeypatch.setattr(milvus_collection, "find_spec", lambda name: True)
    monkeypatch.setenv("MILVUS_URI", "people.db")
    MilvusCollection("people")
    assert seen and set(seen) == {None} and os.environ["MILVUS_URI"] == "people.db"


def test_a_gallery_of_which_all_is_deleted_finds_nobody(small, over):
    over.delete(where="path")
    assert len(over) == 0 and over.search(caption="a hat") == [] and over.search(caption=["a hat", "a coat"]) == []


@pytest.mark.parametrize(("library", "uri"), [("pymilvus", "http://127.0.0.1:1"), ("milvus_lite", "people.db")])
def test_without_pymilvus_it_says_how_to_install_it(library, uri, monkeypatch):
    monkeypatch.setattr(milvus_collection, "find_spec", lambda name: None if name == library else True)
    with pytest.raises(ImportError, match=f"{library.replace('_', '.')} is not installed"):
        MilvusCollection("people", uri)
