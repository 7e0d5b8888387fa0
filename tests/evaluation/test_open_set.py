"""Open-set figures are what counting by hand gives; a report holds them when asked for, and older ones still read."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset

import fafa  # noqa: F401 - registers the builders
from fafa.drawing.curves import chart
from fafa.evaluation import evaluate_features, evaluate_itcpr, read_report, write_report
from fafa.evaluation.embedders import Cosine
from fafa.evaluation.open_set import OpenSetScores, _rates_and_auroc, open_set_figures, reliability_curve
from fafa.evaluation.pictures import _open_set, _probabilities


def made_up(num_queries, num_gallery, seed=0):
    """Scores, rounded so that some are equal, of queries that match one or two images."""
    rng = torch.Generator().manual_seed(seed)
    scores = torch.rand(num_queries, num_gallery, generator=rng)
    gallery_ids = [*range(num_queries), *range(num_queries // 3)] + [-1] * (num_gallery - num_queries * 4 // 3)
    gallery_ids = gallery_ids[:num_gallery]
    is_match = torch.arange(num_queries)[:, None] == torch.tensor(gallery_ids)
    return ((scores + 0.4 * is_match) * 50).round() / 50, list(range(num_queries)), gallery_ids, is_match


def counted_by_hand(impostor, match, rate):
    """DIR at a false-alarm rate: over every threshold that keeps it, the most right answers."""
    thresholds = [t for t in np.unique(impostor) if (impostor > t).mean() <= rate + 1e-12]
    return max(((match > t) & (match > impostor)).mean() for t in thresholds)


def test_figures_are_what_counting_by_hand_gives():
    scores, query_ids, gallery_ids, is_match = made_up(120, 200)
    of = OpenSetScores(query_ids, gallery_ids)
    for block in scores.split(50):
        of.add(block)
    figures = of.figures()

    impostor = scores.masked_fill(is_match, -1).amax(dim=1).numpy()
    match = scores.masked_fill(~is_match, -1).amax(dim=1).numpy()
    assert list(figures["dir"]) == ["0.01", "0.1"]
    for rate, (value, low, high) in figures["dir"].items():
        assert value == pytest.approx(100 * counted_by_hand(impostor, match, float(rate)), abs=1e-3)
        assert low <= value <= high
    best = np.maximum(impostor, match)
    wins = (best[:, None] > impostor) + 0.5 * (best[:, None] == impostor)
    value, low, high = figures["auroc"]
    assert value == pytest.approx(100 * wins.mean(), abs=1e-3) and low < value < high
    for rate, share in figures["curve"]:
        assert share == pytest.approx(100 * counted_by_hand(impostor, match, rate / 100), abs=0.01)
    assert sum(of_bin["number"] for of_bin in figures["reliability"]) == 2 * 120 * 10


def test_a_resampled_query_counts_as_often_as_it_was_drawn():
    """Figures of weighted queries are those of the queries written out."""
    scores, *_, is_match = made_up(60, 90, seed=1)
    impostor = scores.masked_fill(is_match, -1).amax(dim=1).numpy()
    match = scores.masked_fill(~is_match, -1).amax(dim=1).numpy()
    times = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), size=3)
    for row, found in zip(times, _rates_and_auroc(impostor, match, [0.05, 0.1], times), strict=True):
        drawn = np.repeat(np.arange(60), row)
        once = np.ones((1, 60), dtype=int)
        np.testing.assert_allclose(found, _rates_and_auroc(impostor[drawn], match[drawn], [0.05, 0.1], once)[0])


def test_a_rate_that_so_few_queries_cannot_tell_is_left_out():
    scores, *_, is_match = made_up(60, 90)
    figures = open_set_figures(*(scores.masked_fill(of, -1).amax(dim=1).numpy() for of in (is_match, ~is_match)))
    assert list(figures["dir"]) == ["0.1"]


def test_ids_may_be_texts_and_a_query_that_everything_matches_is_refused():
    of = OpenSetScores(["a", "b"], ["b", "a", "c"])
    of.add(torch.tensor([[0.1, 0.9, 0.2], [0.3, 0.4, 0.5]]))
    assert of.highest.matches[:, 0].tolist() == pytest.approx([0.9, 0.3])
    assert of.highest.impostors[:, 0].tolist() == pytest.approx([0.2, 0.5])
    with pytest.raises(ValueError, match="query 1 matches all 2 images of the gallery"):
        OpenSetScores([0, 7], [7, 7])


def test_the_reliability_curve_counts_each_tenth():
    probabilities = torch.tensor([0.0, 0.05, 0.55, 0.58, 1.0])
    is_match = torch.tensor([False, True, True, True, True])
    assert reliability_curve(probabilities, is_match) == [
        {"probability": 0.025, "share": 0.5, "number": 2},
        {"probability": 0.565, "share": 1.0, "number": 2},
        {"probability": 1.0, "share": 1.0, "number": 1},
    ]


@pytest.fixture
def report(model, processor, itcpr_root, tmp_path):
    options = {"data_dir": str(itcpr_root), "split": "test", "cache_dir": str(tmp_path / "cache")}
    queries, gallery = (load_dataset("ITCPR", name, **options) for name in ("query", "gallery"))
    return evaluate_itcpr(model, processor, queries, gallery, progress=False, open_set=True)


def test_a_report_holds_them_for_every_kind_of_query_and_is_read_again(report, tmp_path):
    assert list(report.open_set) == ["image+caption", "caption", "image", "sum", "late-fusion"]
    for figures in report.open_set.values():
        assert figures["dir"] == {} and figures["reliability"] == [], "seven queries are too few"
        assert 0 <= figures["auroc"][0] <= 100
    write_report(report, tmp_path / "report")
    assert read_report(tmp_path / "report") == report
    page = (tmp_path / "report" / "results.md").read_text()
    assert "## When nobody matches" in page and "AUROC" in page

    file = tmp_path / "report" / "results.json"
    record = json.loads(file.read_text())
    del record["open_set"]
    file.write_text(json.dumps(record))
    assert read_report(file).open_set == {}, "reports of earlier versions have none"
    report.open_set["image+caption"]["reliability"] = [{"probability": 0.1, "share": 0.2, "number": 9}]
    for draw in (_open_set, _probabilities):
        with chart(tmp_path / "drawn.png") as figure:
            draw(report, figure.subplots())
        assert (tmp_path / "drawn.png").stat().st_size > 0


def test_a_test_set_without_negatives_is_evaluated_without_these_figures(caplog):
    images = Dataset.from_dict({"image": [None] * 2, "image_path": ["a", "b"], "instance_id": [7, 7]})
    texts = {"caption": ["in red", "in blue"], "source": ["A", "A"]}
    queries = Dataset.from_dict({**images.to_dict(), **texts})
    features = torch.nn.functional.normalize(torch.rand(2, 1, 4), dim=-1)
    report = evaluate_features(
        Cosine(), {"image": features[:, 0]}, features, queries, images, progress=False, open_set=True
    )
    assert report.open_set == {}
    assert "query 0 matches all 2 images of the gallery" in caplog.text
