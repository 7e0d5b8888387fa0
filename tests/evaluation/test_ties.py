"""Equal scores: ranks follow the gallery's order, as published, and what that decided is counted, bounded and told."""

import json
import shutil

import pytest
import torch
from datasets import load_dataset
from tiny import tiny_model

import fafa  # noqa: F401 - registers the builders
from fafa.evaluation import evaluate_itcpr, match_ranks, ranking, read_report, retrieval_metrics, write_report
from fafa.evaluation.compare import compare_reports


def ranking_of_few_scores(num_ids, levels):
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(23, 60, generator=generator)
    scores = scores if levels is None else (scores * levels).round() / levels
    return scores, [index % num_ids for index in range(23)], [index * 7 % num_ids for index in range(60)]


def ranks_in_order(scores, query_ids, gallery_ids, wrong_first: bool):
    """The definition: sort by score, of equal ones the wrong (or the right) first, and note where matches are."""
    ranks = []
    for row, query_id in zip(scores.tolist(), query_ids, strict=True):

        def place(index, row=row, query_id=query_id):
            return -row[index], (gallery_ids[index] == query_id) == wrong_first, index

        order = sorted(range(len(row)), key=place)
        ranks.append([rank for rank, index in enumerate(order, 1) if gallery_ids[index] == query_id])
    return ranks


@pytest.mark.parametrize("levels", [None, 4, 1, 0.2])
@pytest.mark.parametrize("num_ids", [1, 3, 60])
def test_bounds_are_those_of_the_worst_and_the_best_order(monkeypatch, levels, num_ids):
    monkeypatch.setattr(ranking, "BLOCK_ELEMENTS", 200)
    scores, query_ids, gallery_ids = ranking_of_few_scores(num_ids, levels)
    results = match_ranks(scores, query_ids, gallery_ids)
    worst, best = (ranks_in_order(scores, query_ids, gallery_ids, wrong_first) for wrong_first in (True, False))
    assert [ranks.tolist() for ranks in results.pessimistic.ranks_per_query] == worst
    assert [
        ranks.tolist() for ranks in (results.ranks - results.ties_before).split(results.num_matches.tolist())
    ] == best
    assert results.decided_by_ties.tolist() == [one != other for one, other in zip(worst, best, strict=True)]


def test_one_score_for_all_no_longer_passes_for_a_perfect_model_without_a_word(caplog):
    """The match came first in the gallery, so Rank-1 was 100 %."""
    assert retrieval_metrics(torch.zeros(2, 9), [3, 3], [3, *range(10, 18)])["rank-1"] == 100.0
    assert "for 2 of 2 queries" in caplog.text and "in the worst order rank-1 is 0.00 instead of 100.00" in caplog.text


def test_ties_that_decide_nothing_are_not_told(caplog):
    """Among distractors, among the matches of one query, or so deep down that no figure shows it."""
    scores = torch.tensor([[0.9, 0.9, 0.5, 0.5], [0.1, 0.1, 0.7, 0.7]])
    results = match_ranks(scores, [1, 2], [1, 1, 2, 2])
    assert not results.decided_by_ties.any() and results.pessimistic.ranks.tolist() == results.ranks.tolist()
    retrieval_metrics(scores, [1, 2], [1, 1, 2, 2])
    deep, gallery_ids = -torch.arange(3000.0).clamp_max(2998)[None], [*range(2, 3000), 1, 0]
    assert match_ranks(deep, [1], gallery_ids).decided_by_ties.all()
    retrieval_metrics(deep, [1], gallery_ids)
    assert not caplog.records


@pytest.fixture
def test_set(itcpr_root, tmp_path):
    """Distractors are copies of the matches of query 0, one ahead of it and one behind."""
    records = json.loads((itcpr_root / "gallery.json").read_text())
    copy = next(record for record in records if record["instance_id"] == -1)
    shutil.copy(itcpr_root / "LAST/gallery/0.png", itcpr_root / copy["file_path"])
    (itcpr_root / "gallery.json").write_text(json.dumps([copy, *records]))
    options = {"data_dir": str(itcpr_root), "split": "test", "cache_dir": str(tmp_path / "cache")}
    return load_dataset("ITCPR", "query", **options), load_dataset("ITCPR", "gallery", **options)


def test_a_report_counts_ties_and_gives_the_worst_order(model, processor, test_set, tmp_path, caplog):
    report = evaluate_itcpr(model, processor, *test_set, modes=["caption"], ks=(1, 3), progress=False)
    results = report.queries[0]["results"]["caption"]
    assert report.ties["caption"]["num_queries"] == 1
    assert report.ties["caption"]["pessimistic"]["mAP"] < report.metrics["caption"]["overall"]["mAP"]
    assert results["pessimistic_first_rank"] >= results["first_rank"]
    assert "caption: for 1 of 7 queries, images that do not match have the very score" in caplog.text
    assert "**Ties**, caption: for 1 of 7 queries" in report.to_page()
    write_report(report, tmp_path / "report")
    assert read_report(tmp_path / "report") == report
    page = compare_reports(report, report)
    assert "**Ties**, A: for 1 of 7 queries" in page and "**Ties**, B: for 1 of 7 queries" in page


def test_reports_of_earlier_versions_without_ties_are_read(make_report, tmp_path):
    report = make_report(caption=[1, 2, 3])
    record = json.loads(report.to_json())
    del record["ties"]
    (tmp_path / "results.json").write_text(json.dumps(record))
    assert read_report(tmp_path) == report and "Ties" not in report.to_page()
    assert "Ties" not in compare_reports(report, report)


def test_a_model_whose_features_are_all_alike_has_no_results(processor, test_set):
    """Its Rank-1 was what the order of the gallery made of it."""
    alike = tiny_model()
    torch.nn.init.zeros_(alike.vision_projection.weight)
    torch.nn.init.ones_(alike.vision_projection.bias)
    with pytest.raises(ValueError, match=r"alike"):
        evaluate_itcpr(alike, processor, *test_set, progress=False)
