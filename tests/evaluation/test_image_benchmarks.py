"""Metrics of FashionIQ, CIRR and CIRCO equal what is computed by hand; files keep the rules of their servers."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from benchmark_folders import make_circo, make_cirr, make_fashioniq
from datasets import load_dataset
from second_model import second_model, second_processor
from tiny import tiny_model, tiny_processor

from fafa.evaluation import evaluate_circo, evaluate_cirr, evaluate_fashioniq
from fafa.evaluation.image_benchmarks import circo_results, cirr_results, fashioniq_results, join_captions
from fafa.evaluation.ranking import MatchRanker
from fafa.evaluation.server_files import check_server_file, write_server_files

ROOT = Path(__file__).parents[2]


def falling(order, number):
    """Scores by which images are ranked in this order, and the others behind them."""
    scores = torch.zeros(number)
    scores[list(order)] = torch.arange(len(order), 0, -1).float()
    return scores


def test_fashioniq_by_hand():
    """Targets at ranks 1, 11 and 51 of one category, 10 of the other; the means are over categories, not queries."""
    names = [f"g{number}" for number in range(60)]
    dress = torch.stack([falling(range(60), 60)] * 3)
    shirt = falling(range(60), 60)[None]
    results = fashioniq_results(
        {"dress": [dress[:2], dress[2:]], "shirt": [shirt]},
        {"dress": ["g0", "g10", "g50"], "shirt": ["g9"]},
        {"dress": names, "shirt": names},
    )
    assert results.metrics["dress"] == pytest.approx({"recall@10": 100 / 3, "recall@50": 200 / 3})
    assert results.metrics["shirt"] == {"recall@10": 100.0, "recall@50": 100.0}
    assert results.metrics["mean"] == pytest.approx({"recall@10": 200 / 3, "recall@50": 250 / 3})
    assert results.per_query == {
        "dress": {"recall@10": [100.0, 0.0, 0.0], "recall@50": [100.0, 100.0, 0.0]},
        "shirt": {"recall@10": [100.0], "recall@50": [100.0]},
    }


def test_intervals_by_hand():
    """One query alone always has its own value; three hits of three are a point; one of two gives none, one or both."""
    names = [f"g{number}" for number in range(60)]
    hit, miss = falling(range(60), 60), falling(range(59, -1, -1), 60)
    results = fashioniq_results(
        {"dress": [torch.stack([hit] * 3)], "shirt": [torch.stack([hit, miss])]},
        {"dress": ["g0"] * 3, "shirt": ["g0"] * 2},
        {"dress": names, "shirt": names},
    )
    intervals = results.intervals()
    assert intervals["dress"]["recall@10"] == [100.0, 100.0]
    assert intervals["shirt"]["recall@10"] == [0.0, 100.0]
    assert intervals["mean"]["recall@10"] == [50.0, 100.0]  # dress adds nothing: each category is sampled by itself
    numbers = list(range(60))
    results = circo_results([hit[None]], [0], [59], numbers, [[0, 11]], [["negation"]])
    for of in results.intervals().values():  # of all queries, and of the aspect
        for metric, value in {"mAP@5": 50, "mAP@10": 50, "mAP@25": 50 * (1 + 2 / 12)}.items():
            assert of[metric] == pytest.approx([value, value])


def test_intervals_of_many_queries_are_those_of_theory():
    """200 queries of CIRR, of which 60 are found first: 30 ± 1.96 sqrt(30 · 70 / 200) percent."""
    names = [f"n{number}" for number in range(12)]
    scores = torch.stack([falling([1 if row < 60 else 2, 1], 12) for row in range(200)])
    members = [names[:6]] * 200
    results = cirr_results([scores], list(range(200)), ["n0"] * 200, members, names, ["n1"] * 200)
    half_width = 1.96 * (30 * 70 / 200) ** 0.5
    intervals = results.intervals()["overall"]
    for metric in ("recall@1", "recall_subset@1"):
        assert results.metrics["overall"][metric] == pytest.approx(30)
        assert intervals[metric] == pytest.approx([30 - half_width, 30 + half_width], abs=0.6)
    assert intervals["recall@5"] == [100.0, 100.0]


def test_cirr_by_hand():
    """Rank 1 once the reference is out; then rank 6 of all and 3 of the set."""
    names = [f"n{number}" for number in range(60)]
    members = [names[:6], names[6:12]]
    scores = torch.stack([falling([0, 3, 1], 60), falling([20, 21, 22, 7, 8, 6, 9], 60)])
    results = cirr_results([scores[:1], scores[1:]], [7, 9], ["n0", "n6"], members, names, targets=["n3", "n9"])
    assert results.metrics["overall"] == {
        **{"recall@1": 50.0, "recall@5": 50.0, "recall@10": 100.0, "recall@50": 100.0},
        **{"recall_subset@1": 50.0, "recall_subset@2": 50.0, "recall_subset@3": 100.0},
    }
    top = results.predictions["recall"][9]
    assert top[:6] == ["n20", "n21", "n22", "n7", "n8", "n9"] and len(top) == 50 and "n6" not in top
    assert results.predictions["recall_subset"] == {7: ["n3", "n1", "n2"], 9: ["n7", "n8", "n9"]}


def test_circo_by_hand():
    """Three targets at ranks 1, 3 and 12, the reference aside: AP@5 = (1 + 2/3) / 3, AP@25 = (1 + 2/3 + 3/12) / 3."""
    numbers = [100 + number for number in range(60)]
    order = [5, 0, 30, 1, *range(31, 39), 2]  # the reference is the first
    second = falling([*range(10, 17), 40], 60)  # one of seven targets behind: min(matches, K) is 5 for K = 5
    truths = [[100, 101, 102], [110, 111, 112, 113, 114, 115, 140]]
    scores = torch.stack([falling(order, 60), second])
    results = circo_results([scores], [0, 1], [105, 159], numbers, truths, [["negation"], ["negation", "addition"]])
    first = {5: (1 + 2 / 3) / 3, 10: (1 + 2 / 3) / 3, 25: (1 + 2 / 3 + 3 / 12) / 3}
    both = {5: 1.0, 10: (6 + 7 / 8) / 7, 25: (6 + 7 / 8) / 7}
    for k in first:
        assert results.metrics["overall"][f"mAP@{k}"] == pytest.approx(50 * (first[k] + both[k]))
        assert results.metrics["negation"][f"mAP@{k}"] == pytest.approx(50 * (first[k] + both[k]))
        assert results.metrics["addition"][f"mAP@{k}"] == pytest.approx(100 * both[k])
    assert results.predictions["map"][0][:3] == [100, 130, 101] and 105 not in results.predictions["map"][0]
    kept = circo_results([scores], [0, 1], [105, 159], numbers, truths, keep_reference=True)
    assert kept.metrics["overall"]["mAP@5"] == pytest.approx(50 * ((1 / 2 + 2 / 4) / 3 + 1))


def test_several_queries_may_want_one_image():
    ranker = MatchRanker.of_matches([[1, 2], [2]], 3)
    ranker.add(torch.tensor([[0.3, 0.2, 0.1], [0.3, 0.2, 0.1]]))
    assert ranker.results().ranks_per_query[0].tolist() == [2, 3] and ranker.results().first_rank.tolist() == [2, 3]
    for matches in ([[1, 1]], [[3]], [[]]):
        with pytest.raises(ValueError, match="query 0: its matches are"):
            MatchRanker.of_matches(matches, 3)


def test_captions_are_joined_in_both_orders():
    assert join_captions(["Is red.", " has a bag"]) == "Is red and has a bag"
    assert join_captions(["", "has a bag"]) == "has a bag"


@pytest.fixture
def load(tmp_path):
    return lambda *names, **where: load_dataset(*names, cache_dir=str(tmp_path / "cache"), **where)


@pytest.mark.parametrize(
    "make", [lambda: (tiny_model(), tiny_processor()), lambda: (second_model(), second_processor())]
)
def test_any_model_of_the_contract_is_evaluated(load, tmp_path, make):
    """Equal to metrics of one whole matrix of scores, and to those from kept features."""
    model, processor = make()
    for name, root, evaluate in (
        ("FashionIQ", make_fashioniq(tmp_path / "fiq"), evaluate_fashioniq),
        ("CIRR", make_cirr(tmp_path / "cirr", num_images=20), evaluate_cirr),
        ("CIRCO", make_circo(tmp_path / "circo", num_images=40), evaluate_circo),
    ):
        queries, gallery = (load(name, kind, data_dir=root, split="val") for kind in ("query", "gallery"))
        options = {"progress": False, "batch_size": 7}
        results = evaluate(model, processor, queries, gallery, **options)
        assert all(0 <= value <= 100 for group in results.metrics.values() for value in group.values())
        if name != "CIRR":
            continue
        kept = evaluate(model, processor, queries, gallery, **options, features_dir=tmp_path / "features")
        again = evaluate(model, processor, queries, gallery, **options, features_dir=tmp_path / "features")
        assert kept == again == results


@pytest.fixture
def run_example(tmp_path, monkeypatch):
    """`examples/evaluate_cir.py` as a person would run it, but in this process."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    spec = importlib.util.spec_from_file_location("evaluate_cir", ROOT / "examples/evaluate_cir.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)

    def run(benchmark, data, *options):
        given = ["evaluate_cir.py", "--benchmark", benchmark, "--data", str(data), *options]
        given += ["--model", str(tmp_path / "model"), "--output", str(tmp_path / "results")]
        monkeypatch.setattr(sys, "argv", given)
        example.main(example.parse_arguments())
        return tmp_path / "results"

    return run


@pytest.mark.parametrize("name", ["CIRR", "CIRCO"])
def test_the_example_writes_what_a_server_takes(tmp_path, run_example, caplog, name):
    split, numbers = ("test1", range(100, 103)) if name == "CIRR" else ("test", range(3))
    root = {"CIRR": make_cirr, "CIRCO": make_circo}[name](tmp_path / name, split)
    results = run_example(name, root, "--split", split)
    assert "it will refuse the files" in caplog.text  # three queries are not all
    for metric, length in {"CIRR": {"recall": 50, "recall_subset": 3}, "CIRCO": {"map": 50}}[name].items():
        file = results / f"{metric}.json"
        content = json.loads(file.read_text())
        if name == "CIRR":
            assert (content.pop("version"), content.pop("metric")) == ("rc2", metric)
        assert list(content) == [str(number) for number in numbers] and file.stat().st_size < 5_000_000
        assert all(len(set(images)) == len(images) == length for images in content.values())
        for row, images in enumerate(content.values()):
            assert (f"{split}-{6 * row}-0-img0" if name == "CIRR" else 8 + 70 * row) not in images


def test_the_example_tells_what_is_missing_of_fashioniq(tmp_path, run_example, capsys):
    root = make_fashioniq(tmp_path / "fiq", missing=("Bvaldress2",))
    results = run_example("FashionIQ", root)
    told = capsys.readouterr().out
    assert "1 of 12 images are missing, and were left out of the gallery, with 1 of 6 queries" in told
    assert "| toptee" in told and "recall@50" in told
    record = json.loads((results / "results.json").read_text())
    assert record["missing"]["images"] == ["Bvaldress2"]
    low, high = record["intervals"]["mean"]["recall@10"]
    assert low <= record["metrics"]["mean"]["recall@10"] <= high
    page = (results / "results.md").read_text()
    assert f"{record['metrics']['mean']['recall@10']:.2f} [{low:.2f}, {high:.2f}]" in page
    assert "5 queries of image+caption, 11 images." in page and "95 % interval over queries" in page


def test_a_file_that_a_server_would_refuse_is_not_written(tmp_path):
    names = [f"test1-{number}" for number in range(60)]
    references = {7: names[0], 8: names[1]}
    good = {"recall": {7: names[1:51], 8: names[2:52]}}
    for wrong, message in (
        ({7: names[1:51]}, "query 8 is missing"),
        ({**good["recall"], 9: names[:50]}, "9 is no query of this split"),
        ({**good["recall"], 8: names[2:40]}, "query 8 has 38 images, expected a list of 50"),
        ({**good["recall"], 8: [*names[2:51], names[2]]}, "query 8 names an image twice"),
        ({**good["recall"], 8: names[1:51]}, "query 8 names its own reference, test1-1"),
    ):
        with pytest.raises(ValueError, match=message):
            write_server_files("CIRR", tmp_path, {"recall": wrong}, references)
    long = {query: [f"{name:>050000}" for name in images] for query, images in good["recall"].items()}
    with pytest.raises(ValueError, match="and the server takes 5,000,000"):
        write_server_files("CIRR", tmp_path, {"recall": long}, references)
    with pytest.raises(ValueError, match="others have no server"):
        write_server_files("FashionIQ", tmp_path, good, references)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="the file begins with"):
        check_server_file("CIRR", "recall", {"version": "rc1", "metric": "recall"}, references)
    assert [file.name for file in write_server_files("CIRR", tmp_path, good, references)] == ["recall.json"]
