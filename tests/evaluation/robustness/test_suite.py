"""The suite: each figure is what scoring the spoilt queries by hand gives; the seed decides all; errors come first."""

import json
from dataclasses import replace

import pytest
import torch
from datasets import load_dataset
from PIL import Image

import fafa  # noqa: F401 - registers the builders
from fafa import TINY_CHECKPOINT, FafaModel, FafaProcessor
from fafa.evaluation import encode_targets, evaluate_itcpr, retrieval_metrics
from fafa.evaluation.robustness import RobustnessReport, evaluate_robustness, write_robustness_report
from fafa.evaluation.robustness import captions as caption_corruptions
from fafa.evaluation.robustness.suite import CorruptedImages, corrupted_captions
from fafa.world import make_world


@pytest.fixture(scope="module")
def test_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("robustness")
    make_world(folder / "world", num_diptychs=4, num_queries=12, gallery_size=60, num_workers=1)
    options = {"data_dir": str(folder / "world/ITCPR"), "split": "test", "cache_dir": str(folder / "cache")}
    return load_dataset("ITCPR", "query", **options), load_dataset("ITCPR", "gallery", **options)


@pytest.fixture(scope="module")
def model():
    return FafaModel.from_pretrained(TINY_CHECKPOINT).eval()


@pytest.fixture(scope="module")
def processor():
    return FafaProcessor.from_pretrained(TINY_CHECKPOINT)


@pytest.fixture(scope="module")
def report(model, processor, test_set):
    return evaluate_robustness(model, processor, *test_set, severities=(3,), progress=False)


@torch.no_grad()
def metrics_of(model, processor, test_set, images, captions):
    queries, gallery = test_set
    targets = encode_targets(model, processor, gallery, progress=False)
    asked = model.get_query_features(**processor(images=images, text=captions, return_tensors="pt"))
    return retrieval_metrics(model.score(asked, targets), queries["instance_id"][:], gallery["instance_id"][:])


def test_clean_figures_are_those_of_the_evaluation(model, processor, test_set, report):
    expected = evaluate_itcpr(model, processor, *test_set, modes=["image+caption"], progress=False)
    clean = {name: value for name, (value, _, _) in report.clean.items()}
    assert clean == pytest.approx(expected.metrics["image+caption"]["overall"])
    assert clean["rank-1"] > 50


def test_spoilt_figures_are_what_spoilt_queries_give(model, processor, test_set, report):
    queries = test_set[0]
    images, captions = queries["image"][:], queries["caption"][:]
    found = {(of["half"], of["name"]): of for of in report.conditions}
    assert len(found) == len(report.conditions) == 14

    spoilt = CorruptedImages(images, "contrast", 3, seed=0)
    expected = metrics_of(model, processor, test_set, list(spoilt), captions)
    assert found["image", "contrast"]["metrics"] == pytest.approx(expected)
    spoilt = corrupted_captions(captions, [3], seed=0)["letters swapped 3"]
    expected = metrics_of(model, processor, test_set, images, spoilt)
    condition = found["caption", "letters swapped"]
    assert condition["metrics"] == pytest.approx(expected) and condition["num_changed"] == 12
    value, low, high = condition["relative"]["mAP"]
    assert value == pytest.approx(expected["mAP"] / report.clean["mAP"][0]) and low <= value <= high
    assert found["caption", "colours swapped"]["severity"] == 1, "which has no other, and is not left out"


def test_a_wrong_half_loses_to_the_other_query(report):
    wins = {(of["half"], of["strength"]): of["own_wins"][0] for of in report.conflicts}
    assert len(wins) == 8
    for half in ("caption", "image"):
        assert wins[half, 0.25] >= wins[half, 1.0] and wins[half, 0.25] > 50


def test_the_same_seed_gives_the_same_report_in_any_batch_and_process(model, processor, test_set, report):
    options = {"severities": (3,), "progress": False}
    again = evaluate_robustness(model, processor, *test_set, batch_size=5, num_workers=2, **options)
    # Ranks are whole numbers; this is a mean of cosines, whose last digits depend on the batch on some processors.
    cosine = report.negations["same"]
    assert again.negations["same"] == pytest.approx(cosine, abs=1e-5)
    assert replace(again, negations=again.negations | {"same": cosine}) == report
    other = evaluate_robustness(model, processor, *test_set, seed=1, **options)
    assert other.clean["mAP"][0] == report.clean["mAP"][0] and other.conditions != report.conditions


def test_given_paraphrases_are_the_wordings(model, processor, test_set, report):
    queries, gallery = test_set
    assert report.wordings["num_wordings"] == len(caption_corruptions.WORDINGS) and not report.wordings["are_given"]
    same = queries.add_column("paraphrases", [[caption] for caption in queries["caption"]])
    wordings = evaluate_robustness(model, processor, same, gallery, severities=(1,), progress=False).wordings
    assert wordings["num_wordings"] == 2 and wordings["are_given"]
    assert wordings["median_rank_ratio"] == 1, "the same caption twice"
    assert wordings["always_first"] == wordings["ever_first"] == report.clean["rank-1"][0]


def test_the_folder_holds_page_figures_and_pictures(report, test_set, tmp_path):
    (tmp_path / "conflicts.png").write_text("of a report before")
    written = {path.name for path in write_robustness_report(report, tmp_path, test_set[0])}
    assert written == {path.name for path in tmp_path.iterdir()}
    assert RobustnessReport.from_json((tmp_path / "robustness.json").read_text(encoding="utf-8")) == report
    page = (tmp_path / "robustness.md").read_text(encoding="utf-8")
    for name in ("letters swapped", "motion blur", "wrong caption", "wrong image", "wordings", "not (the sentence)"):
        assert name in page
    for name in written - {"robustness.md", "robustness.json"}:
        assert name in page
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 600
    json.dumps(report.settings)


def test_bad_input_is_told_before_anything_is_encoded(model, processor, test_set):
    queries, gallery = test_set
    with pytest.raises(ValueError, match="severities is \\[6\\]"):
        evaluate_robustness(model, processor, queries, gallery, severities=[6])
    with pytest.raises(ValueError, match="queries lack the columns caption"):
        evaluate_robustness(model, processor, queries.remove_columns("caption"), gallery)
    with pytest.raises(ValueError, match="one target"):
        evaluate_robustness(model, processor, queries.select([0]), gallery)


def test_a_spoilt_caption_that_outgrows_the_model_is_cut_and_a_clean_one_refused(model, test_set):
    """A dual encoder's processor refuses long captions: after minutes, a swapped letter ended the whole suite."""
    longest = max(map(len, test_set[0]["caption"][:]))

    class Refusing(FafaProcessor):
        def encode_captions(self, captions, names=None):
            if not self.cut_captions and max(map(len, captions)) > longest:
                raise ValueError("too long")
            return super().encode_captions(captions, names)

    processor = Refusing.from_pretrained(TINY_CHECKPOINT)
    processor.cut_captions = False
    evaluate_robustness(model, processor, *test_set, severities=(5,), progress=False)
    assert processor.cut_captions is False
    longest -= 1
    with pytest.raises(ValueError, match="too long"):
        evaluate_robustness(model, processor, *test_set, severities=(5,), progress=False)


def test_a_model_that_finds_nothing_has_nothing_to_lose(processor, test_set):
    torch.manual_seed(0)
    untrained = FafaModel(FafaModel.from_pretrained(TINY_CHECKPOINT).config)
    queries, gallery = test_set
    wrong = queries.select(range(2))  # of two queries, a model by chance finds none
    with pytest.raises(ValueError, match="ranks no target first"):
        evaluate_robustness(untrained, processor, wrong, gallery, progress=False)
