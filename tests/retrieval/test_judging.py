"""A gallery is calibrated in one call, keeps that, gives probabilities, and finds nobody where nobody matches."""

import logging
from functools import partial

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from fafa.retrieval import Gallery
from fafa.retrieval.calibrating import calibrate

NUM_QUERIES, NUM_IMAGES = 55, 90


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (4, 2, 3), dtype=np.uint8)).resize((12, 24))


@pytest.fixture(scope="module")
def queries():
    rows = range(NUM_QUERIES)
    return Dataset.from_dict(
        {
            "image": [picture(row) for row in rows],
            "image_path": [f"query/{row}.png" for row in rows],
            "caption": [["a red coat", "a blue bag", "in a red hat"][row % 3] for row in rows],
            "instance_id": list(rows),
        }
    )


@pytest.fixture(scope="module")
def images():
    rows = range(NUM_IMAGES)
    return Dataset.from_dict(
        {
            "image": [picture(1000 + row) for row in rows],
            "image_path": [f"gallery/{row}.png" for row in rows],
            "instance_id": [row if row < NUM_QUERIES else -1 for row in rows],
        }
    )


@pytest.fixture(scope="module")
def triplets(queries, images):
    return Dataset.from_dict(
        {
            "reference_image": queries["image"][:],
            "reference_image_path": queries["image_path"][:],
            "edit_caption": queries["caption"][:],
            "target_image": [images[row % 50]["image"] for row in range(NUM_QUERIES)],
            "target_image_path": [images[row % 50]["image_path"] for row in range(NUM_QUERIES)],
        }
    )


@pytest.fixture
def gallery(model, processor, images):
    return Gallery.from_dataset(model, processor, images, progress=False)


@pytest.fixture(scope="module")
def calibrated_record(model, processor, queries, images):
    return calibrate(model, processor, queries, images, progress=False).to_record()


@pytest.fixture(scope="module")
def ask(queries):
    return {"image": queries[0]["image"], "caption": queries[0]["caption"]}


def test_one_call_calibrates_and_results_get_probabilities(gallery, queries, images, ask):
    assert gallery.calibration is None
    before = gallery.search(**ask)
    assert all(result.probability is None for result in before)
    calibration = gallery.calibrate(queries, images, progress=False)

    after = gallery.search(**ask)
    assert [result.index for result in after] == [result.index for result in before]
    scores = torch.tensor([result.score for result in after])
    expected = calibration.kinds["image+caption"].probability(scores, NUM_IMAGES)
    assert [result.probability for result in after] == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_kind_of_which_the_queries_tell_too_little_is_left_out_by_name(gallery, queries, images, caplog):
    """Their captions are few: by default all else is calibrated, and whoever asks for that kind alone is refused."""
    calibration = gallery.calibrate(queries, images, progress=False)
    assert set(calibration.kinds) == {"image+caption", "image"}
    assert "not calibrated for queries of caption: the best scores" in caplog.text
    with pytest.raises(ValueError, match="the best scores of images that do not match are alike"):
        gallery.calibrate(queries, images, modes=["caption"], progress=False)


def test_only_results_above_the_cut_off_are_left(gallery, calibrated_record, ask):
    gallery.keep_calibration(calibrated_record)
    everybody, cut_off = gallery.search(**ask, top=None), gallery.calibration.kinds["image+caption"].cut_off
    for rate in (0.02, 0.5, 0.99):
        found = gallery.search(**ask, top=None, false_alarm_rate=rate)
        assert [result.index for result in found] == [
            result.index for result in everybody if result.score > cut_off(rate, NUM_IMAGES)
        ]


def test_nobody_is_an_answer(gallery, calibrated_record, ask):
    best = gallery.search(**ask)[0].score
    record = {**calibrated_record, "kinds": {"image+caption": dict(calibrated_record["kinds"]["image+caption"])}}
    of = record["kinds"]["image+caption"]
    low, high = best + 0.2 * (1 - best), best + 0.5 * (1 - best)
    of["best"] = [[low + (high - low) * row / NUM_QUERIES for _ in scores] for row, scores in enumerate(of["best"])]
    gallery.keep_calibration(record)
    assert gallery.search(**ask, false_alarm_rate=0.05) == []


def test_the_size_is_that_of_what_is_searched(gallery, calibrated_record, ask):
    gallery.keep_calibration(calibrated_record)
    allowed = gallery.allowed().without(torch.arange(60, NUM_IMAGES))
    results = gallery.search(**ask)
    of_kind = gallery.calibration.kinds["image+caption"]
    for size, given in ((NUM_IMAGES, None), (60, allowed)):
        judged = gallery.judge("image+caption", None, given)(results)
        expected = of_kind.probability(torch.tensor([result.score for result in results]), size).tolist()
        assert [result.probability for result in judged] == pytest.approx(expected)


def test_it_is_kept_with_the_gallery_through_saving_and_adding(gallery, calibrated_record, ask, tmp_path):
    gallery.keep_calibration(calibrated_record)
    expected = gallery.search(**ask)
    gallery.save(tmp_path / "index")
    loaded = Gallery.load(tmp_path / "index", gallery.model, gallery.processor)
    assert [result.probability for result in loaded.search(**ask)] == pytest.approx(
        [result.probability for result in expected]
    )
    loaded.add([picture(5000)], progress=False)
    assert loaded.calibration is not None and len(loaded) == NUM_IMAGES + 1
    loaded.search(**ask, false_alarm_rate=0.1)


def test_triplets_calibrate_alone(gallery, triplets, ask):
    """Targets that occur twice are one image; the query's own photograph is no impostor."""
    calibration = gallery.calibrate(triplets, progress=False, modes=["image"])
    assert calibration.kinds["image"].num_images == 50
    assert calibration.kinds["image"].num_queries == NUM_QUERIES
    assert gallery.search(image=ask["image"])[0].probability is not None
    assert gallery.search(**ask)[0].probability is None
    with pytest.raises(ValueError, match=r"calibrated for queries of image, not of image\+caption"):
        gallery.search(**ask, false_alarm_rate=0.1)


def test_the_own_photograph_is_neither_match_nor_impostor(gallery, calibrated_record, queries, images, ask):
    own = next(result.index for result in gallery.search(**ask) if result.index != 0)  # query 0's best impostor
    paths = [queries[0]["image_path"] if place == own else path for place, path in enumerate(images["image_path"])]
    images = images.remove_columns("image_path").add_column("image_path", paths)
    found = calibrate(gallery.model, gallery.processor, queries, images, progress=False).kinds["image+caption"].best
    before = torch.tensor(calibrated_record["kinds"]["image+caption"]["best"])
    assert found[0] < before[0] - 1e-5
    assert found[1:].flatten().tolist() == pytest.approx(before[1:].flatten().tolist(), abs=2e-6)


def test_a_gallery_unlike_the_calibration_is_told_once(gallery, calibrated_record, ask, caplog):
    record = {**calibrated_record, "kinds": {"image+caption": dict(calibrated_record["kinds"]["image+caption"])}}
    record["kinds"]["image+caption"]["levels"] = [-1.0] * len(record["kinds"]["image+caption"]["parts"])
    gallery.keep_calibration(record)
    with caplog.at_level(logging.WARNING, "fafa"):
        gallery.search(**ask)
        gallery.search(**ask)
    (told,) = [message for message in caplog.messages if "unlike" in message]
    assert "for 100 % of the calibration's queries" in told and "queries of image+caption" in told


def test_what_cannot_be_promised_is_refused_before_anything_is_encoded(gallery, calibrated_record, ask, monkeypatch):
    monkeypatch.setattr(type(gallery), "encode_query", lambda *_, **__: pytest.fail("was encoded"))
    with pytest.raises(ValueError, match="the gallery is not calibrated"):
        gallery.search(**ask, false_alarm_rate=0.1)
    gallery.keep_calibration(calibrated_record)
    with pytest.raises(ValueError, match=r"false_alarm_rate is 1\.5, expected a number between 0 and 1"):
        gallery.search(**ask, false_alarm_rate=1.5)
    with pytest.raises(ValueError, match=r"1 % needs at least 100 queries .* has 55"):
        gallery.search(**ask, false_alarm_rate=0.01)
    record = {**calibrated_record, "settings": {**calibrated_record["settings"], "model": {"fingerprint": "other"}}}
    gallery.keep_calibration(record)
    with pytest.raises(ValueError, match="the calibration is of another model"):
        gallery.search(**ask, false_alarm_rate=0.1)


def test_data_that_cannot_calibrate_are_refused_before_anything_is_encoded(model, processor, queries, images):
    run = partial(calibrate, model, processor, progress=False)
    with pytest.raises(ValueError, match=r"query 50 \(instance_id 50\) has no match among the images, and so have 5"):
        run(queries, images.select(range(50)))
    with pytest.raises(ValueError, match=r"images lack the columns instance_id: pass load_dataset\('ITCPR'"):
        run(queries, images.remove_columns("instance_id"))
    with pytest.raises(ValueError, match="taken for triplets, which lack the columns reference_image"):
        run(queries)
    with pytest.raises(TypeError, match=r"got a list, expected a datasets\.Dataset"):
        run([1, 2], images)
