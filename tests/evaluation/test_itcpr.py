"""The runner: what it reports is what scoring every query by hand gives; nothing is dropped; the report reads well."""

import copy
import json

import pytest
import torch
from datasets import load_dataset
from tiny import tiny_model

import fafa  # noqa: F401 - registers the builders
from fafa.evaluation import EvaluationReport, chance_metrics, encode_queries, evaluate_itcpr, retrieval_metrics
from fafa.image_processing_fafa import UnreadableImageError


@pytest.fixture
def test_set(itcpr_root, tmp_path):
    options = {"data_dir": str(itcpr_root), "split": "test", "cache_dir": str(tmp_path / "cache")}
    return load_dataset("ITCPR", "query", **options), load_dataset("ITCPR", "gallery", **options)


@torch.no_grad()
def scores_one_by_one(model, processor, queries, gallery, mode):
    """(num_queries, num_gallery), each image and caption on its own."""
    images = [processor(images=row["image"], return_tensors="pt") for row in gallery]
    targets = torch.cat([model.get_target_features(**inputs) for inputs in images])
    rows = []
    for query in queries:
        image = query["image"] if "image" in mode else None
        caption = query["caption"] if "caption" in mode else None
        inputs = processor(images=image, text=caption, return_tensors="pt")
        rows.append(model.score(model.get_query_features(**inputs), targets))
    return torch.cat(rows)


@pytest.mark.parametrize("mode", ["image+caption", "caption", "image"])
def test_reports_what_scoring_one_by_one_gives(model, processor, test_set, mode):
    queries, gallery = test_set
    report = evaluate_itcpr(model, processor, queries, gallery, modes=[mode], batch_size=3, progress=False)

    scores = scores_one_by_one(model, processor, queries, gallery, mode)
    query_ids, gallery_ids = queries["instance_id"][:], gallery["instance_id"][:]
    expected = {"overall": retrieval_metrics(scores, query_ids, gallery_ids)}
    for source in ("LAST", "PRCC"):  # a source's queries search the gallery of all sources
        rows = [index for index, name in enumerate(queries["source"]) if name == source]
        expected[source] = retrieval_metrics(scores[rows], [query_ids[row] for row in rows], gallery_ids)
    assert report.metrics == {mode: expected}
    assert report.num_queries == {"overall": 7, "LAST": 4, "PRCC": 3}
    assert report.num_gallery == 14
    assert report.chance["overall"] == chance_metrics([2, 1, 1, 1, 1, 1, 1], 14)
    assert report.chance["PRCC"] == chance_metrics([1, 1, 1], 14)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 64, "num_workers": 2}])
def test_batches_and_workers_change_nothing(model, processor, test_set, options):
    expected = evaluate_itcpr(model, processor, *test_set, batch_size=4, progress=False)
    assert evaluate_itcpr(model, processor, *test_set, progress=False, **options) == expected


def test_a_model_in_training_mode_is_evaluated_in_eval_mode(model, processor, test_set):
    expected = evaluate_itcpr(model, processor, *test_set, progress=False)
    assert evaluate_itcpr(copy.deepcopy(model).train(), processor, *test_set, progress=False) == expected


def test_bfloat16(processor, test_set):
    report = evaluate_itcpr(tiny_model().to(torch.bfloat16), processor, *test_set, progress=False)
    assert list(report.metrics) == ["image+caption", "caption", "image"]


def test_captions_alone_open_no_reference_image(model, processor, test_set, itcpr_root):
    for file in itcpr_root.glob("*/query/*.png"):
        file.write_bytes(b"")
    report = evaluate_itcpr(model, processor, *test_set, modes=["caption"], progress=False)
    assert list(report.metrics) == ["caption"]


@pytest.mark.parametrize(
    ("file", "name"),
    [("LAST/query/2.png", "reference image of query 2"), ("PRCC/gallery/103.png", "gallery image 11")],
)
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_corrupt_image_is_an_error_that_names_it(model, processor, test_set, itcpr_root, file, name, num_workers):
    (itcpr_root / file).write_bytes((itcpr_root / file).read_bytes()[:60])
    with pytest.raises(UnreadableImageError, match=rf"(?s){name}.*{file}"):
        evaluate_itcpr(model, processor, *test_set, num_workers=num_workers, progress=False)


def test_a_query_without_a_match_stops_before_encoding(processor, test_set):
    queries, gallery = test_set
    without_three = gallery.filter(lambda row: row["instance_id"] != 3, load_from_cache_file=False)
    with pytest.raises(ValueError, match=r"query 3 \(id 3\) has no match"):
        evaluate_itcpr(None, processor, queries, without_three, progress=False)


def test_damaged_weights_are_an_error_that_names_a_query(processor, test_set):
    broken = tiny_model()
    broken.text_projection.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"query 0 \(id 0\) against gallery image 0 is NaN"):
        evaluate_itcpr(broken, processor, *test_set, progress=False)


def test_unknown_modes_are_named(model, processor, test_set):
    with pytest.raises(ValueError, match=r"text unknown; expected some of image\+caption"):
        encode_queries(model, processor, test_set[0], ["caption", "text"])


@pytest.fixture
def report():
    composed = {"overall": {"rank-1": 50.0, "mAP": 61.239}, "A": {"rank-1": 100.0, "mAP": 100.0}}
    composed["B"] = {"rank-1": 0.0, "mAP": 2.5}
    chance = {name: {"rank-1": 0.1, "mAP": 0.234} for name in composed}
    return EvaluationReport({"image+caption": composed}, chance, {"overall": 1234, "A": 1000, "B": 234}, 20510)


def test_markdown_table(report):
    assert (
        report.to_markdown()
        == """\
1,234 queries, gallery of 20,510 images, percent:

| query         | rank-1 |   mAP |
| ------------- | -----: | ----: |
| image+caption |  50.00 | 61.24 |
| chance        |   0.10 |  0.23 |

A, 1,000 queries:

| query         | rank-1 |    mAP |
| ------------- | -----: | -----: |
| image+caption | 100.00 | 100.00 |
| chance        |   0.10 |   0.23 |

B, 234 queries:

| query         | rank-1 |  mAP |
| ------------- | -----: | ---: |
| image+caption |   0.00 | 2.50 |
| chance        |   0.10 | 0.23 |
"""
    )


def test_one_source_is_not_repeated(report):
    for groups in (*report.metrics.values(), report.chance, report.num_queries):
        del groups["B"]
    assert report.to_markdown().count("| query") == 1


def test_json_round_trip(report):
    assert EvaluationReport(**json.loads(report.to_json())) == report
