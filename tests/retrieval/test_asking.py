"""Galleries answer queries of several terms, marks, results as references, and several people in one photograph."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image
from second_model import second_model, second_processor
from torch.nn import functional as F

from fafa.retrieval import Entry, Gallery, Query, Term, searching
from fafa.retrieval.feedback import rocchio
from fafa.retrieval.fusing import fuse
from fafa.retrieval.queries import MINUS_WEIGHT

NUM = 30


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(NUM):
        coarse = rng.integers(0, 255, (6, 3, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((20, 40)).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def gallery(model, processor, photos):
    return Gallery.from_folder(model, processor, photos, progress=False)


@pytest.fixture
def kept(gallery, tmp_path):
    """The same in a folder, where images can be deleted."""
    gallery.save(tmp_path / "index")
    return Gallery.load(tmp_path / "index", gallery.model, gallery.processor, folder=gallery.folder)


def scores_of(results, number=NUM):
    found = torch.full((number,), -torch.inf)
    for result in results:
        found[result.index] = result.score
    return found


def test_terms_are_fused_as_their_scores_by_themselves(gallery, photos):
    """Plain, one query after the other, against the gallery's own way."""
    pairs = [(photos / "00.png", "in a red coat"), (photos / "01.png", "in a red coat"), (None, "a backpack")]
    scores = torch.stack([gallery.scores(*pair) for pair in pairs])
    vectors = torch.cat([gallery.encode_query(*pair) for pair in pairs])
    fused = fuse(vectors, torch.tensor([1.0, 0.5, -MINUS_WEIGHT]), scores)
    images = [pairs[0][0], (pairs[1][0], 0.5)]
    results = gallery.search(images, "in a red coat", top=None, minus="a backpack")
    torch.testing.assert_close(scores_of(results), fused.scores(scores))
    assert [result.rank for result in results] == list(range(1, NUM + 1))


def test_the_prefilter_finds_what_the_whole_scan_does(gallery, photos, monkeypatch):
    monkeypatch.setattr(searching, "EXACT_UP_TO", 0)
    asked = {"image": photos / "03.png", "caption": "in a red coat", "minus": "a hat", "top": 5}
    some, whole = (gallery.search(**asked, **options) for options in ({"candidates": NUM - 1}, {"exact": True}))
    assert [result.id for result in some] == [result.id for result in whole]


def test_many_queries_are_answered_as_one_by_one(gallery, photos):
    queries = [
        Query.of(photos / "00.png"),
        Query.of(photos / "01.png", "in a red coat", minus="a hat"),
        Query.of(caption="in a red coat").marked(right=[4], wrong=[5]),
        Query.of(caption="in a red coat"),
    ]
    together = gallery.search_many(queries, top=7)
    for query, results in zip(queries, together, strict=True):
        (alone,) = gallery.search_many([query], top=7)
        assert [result.id for result in results] == [result.id for result in alone]
        torch.testing.assert_close(scores_of(results), scores_of(alone))


def test_marks_move_the_query_and_wrong_images_are_not_found_again(gallery):
    query = Query.of(caption="in a red coat")
    (before,) = gallery.search_many([query])
    (after,) = gallery.search_many([query.marked(right=[before[5]], wrong=before[:2])], top=None)
    assert not {before[0].id, before[1].id} & {result.id for result in after} and len(after) == NUM - 2
    tokens = gallery.state.tokens([result.id for result in (before[5], *before[:2])])
    moved = rocchio(gallery.encode_query(caption="in a red coat"), tokens[:1], tokens[1:], gallery.model.num_top_tokens)
    expected = gallery.model.score(moved, gallery.features)[0]
    found = [result.index for result in after]
    torch.testing.assert_close(scores_of(after)[found], expected[found])


def test_a_mark_on_an_image_that_was_deleted_is_refused(kept):
    query = Query.of(caption="in a red coat").marked(right=[7])
    kept.delete(ids=[7])
    with pytest.raises(ValueError, match="holds no image with id 7"):
        kept.search_many([query])
    with pytest.raises(ValueError, match="holds no image with id 99"):
        kept.search_many([Query.of(caption="red").marked(wrong=[99])])


def test_terms_and_marks_after_deletions(kept):
    """Rows, places and ids differ then."""
    kept.delete(ids=[0, 3, 11])
    query = Query.of(caption=["in a red coat", "a hat"]).marked(right=[12], wrong=[4])
    (results,) = kept.search_many([query], top=None)
    assert len(results) == NUM - 4 and not {0, 3, 4, 11} & {result.id for result in results}
    for result in results:
        assert result.path.name == f"{result.id:02d}.png"


def test_like_a_result_is_asked_by_its_file(gallery, photos):
    result = gallery.search(caption="in a red coat")[3]
    like, expected = (gallery.search(image, "in a blue coat") for image in (result, result.path))
    assert [(one.id, one.score) for one in like] == [(one.id, one.score) for one in expected]


@pytest.mark.parametrize("harm", ["gone", "changed"])
def test_like_a_result_without_its_file_is_asked_by_its_kept_features(model, processor, tmp_path, caplog, harm):
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    gallery = Gallery.from_folder(model, processor, tmp_path, progress=False)
    result = gallery.search(caption="in a red coat")[0]
    if harm == "gone":
        result.path.unlink()
    else:
        Image.new("RGB", (30, 60), "green").save(result.path)
    with caplog.at_level(logging.WARNING):
        results = gallery.search(result, "in a blue coat", top=None)
    assert "its kept features stand for it, and the caption is a term of its own" in caplog.text
    kept = F.normalize(gallery.features[result.index].mean(dim=0, keepdim=True), dim=1)
    vectors = torch.cat([kept, gallery.encode_query(caption="in a blue coat")])
    scores = model.score(vectors, gallery.features)
    torch.testing.assert_close(scores_of(results, 6), fuse(vectors, torch.ones(2), scores).scores(scores))


def test_a_result_with_a_box_is_a_reference_by_its_box(model, processor, photos, tmp_path):
    """The whole photograph would show other people, too."""
    file = photos / "00.png"
    gallery = Gallery.from_folder(model, processor, photos, progress=False, features_dir=tmp_path / "index")
    with Image.open(file) as image:
        box, crop = (2, 4, 12, 30), image.convert("RGB").crop((2, 4, 12, 30))
    (number,) = gallery.add([crop], [Entry(path="00.png", box=box)], progress=False)
    (result,) = [one for one in gallery.search(crop, top=None) if one.id == number]
    found, expected = (gallery.search(image, "in a red coat", top=None) for image in (result, crop))
    assert result.path == file
    assert [one.score for one in found] == [one.score for one in expected]


@pytest.fixture
def crowd(model, processor):
    """Three photographs: two persons, three persons, one person; and an image without a file."""
    torch.manual_seed(0)
    features = F.normalize(torch.randn(7, *model.feature_shape), dim=-1)
    return Gallery(model, processor, features, ["/a.png", "/b.png", "/a.png", "/b.png", "/b.png", "/c.png", None])


@pytest.mark.parametrize("up_to", [0, 10], ids=["candidates", "all"])
def test_several_people_in_one_photograph(crowd, monkeypatch, up_to):
    """Against all assignments, tried one by one."""
    pytest.importorskip("scipy")
    from itertools import permutations

    monkeypatch.setattr(searching, "EXACT_UP_TO", up_to)
    queries = [Query.of(caption="in a red coat"), Query.of(caption="in a blue coat", minus="a hat")]
    scores = [scores_of(results, 7) for results in crowd.search_many(queries, top=None)]
    expected = {}
    for name, persons in {"/a.png": (0, 2), "/b.png": (1, 3, 4), "/c.png": (5,), None: (6,)}.items():
        if len(persons) == 1:
            expected[name] = max(scores[0][persons[0]], scores[1][persons[0]]).item() - 1
            continue
        pairs = [(scores[0][one], scores[1][two]) for one, two in permutations(persons, 2)]
        expected[name] = min(max(pairs, key=sum)).item()
    photos = crowd.search_together(queries, top=None)
    assert [None if one.path is None else str(one.path) for one in photos] == sorted(expected, key=expected.get)[::-1]
    for rank, photo in enumerate(photos, start=1):
        assert photo.rank == rank
        assert photo.score == pytest.approx(expected[photo.path and str(photo.path)], abs=1e-5)
        for number, person in enumerate(photo.people):
            assert person is None or (person.path, person.rank) == (photo.path, rank)
            assert person is None or person.score == pytest.approx(scores[number][person.index].item(), abs=1e-5)
    assert crowd.search_together(queries, top=2) == photos[:2]


def test_photographs_obey_filters_and_marks(crowd):
    pytest.importorskip("scipy")
    queries = [Query.of(caption="in a red coat").marked(wrong=[1, 3, 4, 6]), Query.of(caption="in a blue coat")]
    for photo in crowd.search_together(queries, top=None, where='path == "/b.png" or path == None'):
        assert photo.path is None or str(photo.path) == "/b.png"
        assert photo.people[0] is None and photo.score <= 0


def test_a_model_that_shares_nothing_with_fafa(photos):
    gallery = Gallery.from_folder(second_model(), second_processor(), photos, progress=False)
    query = Query((Term(photos / "00.png", "in a red coat"), Term(caption="bag", weight=-0.3))).marked(wrong=[0])
    (results,) = gallery.search_many([query], top=5)
    assert len(results) == 5 and 0 not in {result.id for result in results}


@pytest.mark.parametrize(
    ("queries", "error", "message"),
    [
        (Query.of(caption="red"), TypeError, "queries is a Query, expected a list"),
        ([], ValueError, "queries is empty"),
        (["red"], TypeError, "a query is a str"),
        ([Query.of(caption="red", image=["/nowhere.png"])], FileNotFoundError, "nowhere"),
    ],
    ids=["one", "none", "a text", "a missing file"],
)
@pytest.mark.parametrize("ask", ["search_many", "search_together"])
def test_what_cannot_be_asked_is_refused(crowd, ask, queries, error, message):
    with pytest.raises(error, match=message):
        getattr(crowd, ask)(queries)


def test_without_scipy_it_says_how_to_install_it(crowd, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ModuleNotFoundError, match=r"scipy is not installed: pip install .*'\.\[search\]'"):
        crowd.search_together([Query.of(caption="red")])


def test_damaged_features_are_told_by_queries_of_several_terms(crowd):
    asking_for = Query.of(caption=["in red", "in blue"])
    crowd.state.parts[0].tokens[2] = float("nan")
    with pytest.raises(ValueError, match="damaged"):
        crowd.search_many([asking_for])


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        (Query.of("a.jpg"), "image"),
        (Query.of(caption="in red"), "caption"),
        (Query.of("a.jpg", ("in red", 2)), "image+caption"),
        (Query.of("a.jpg", minus="a hat"), "several terms"),
        (Query.of("a.jpg").marked(wrong=[1]), "marks"),
    ],
)
def test_only_queries_of_the_models_own_kinds_are_judged_as_calibrated(query, kind):
    """Fused and moved scores are of another distribution."""
    assert query.kind == kind


def test_a_false_alarm_rate_is_refused_without_calibration(crowd):
    with pytest.raises(ValueError, match="not calibrated"):
        crowd.search(caption=["in red", "in blue"], false_alarm_rate=0.01)
