"""The module of the `evaluate` library, loaded as users load it: it gives the numbers of `retrieval_metrics`."""

from pathlib import Path

import pytest
import torch

import fafa.evaluation
from fafa.evaluation import retrieval_metrics

FOLDER = Path(fafa.evaluation.__file__).parent / "composed_retrieval"


@pytest.fixture(scope="module")
def load_metric(tmp_path_factory):
    import evaluate  # takes seconds, so not for every test run of this folder

    cache = str(tmp_path_factory.mktemp("evaluate"))
    return lambda **options: evaluate.load(str(FOLDER), cache_dir=cache, **options)


@pytest.fixture
def ranking():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(9, 20, generator=generator)
    scores[:, ::3] = 0.5  # ties
    return scores, [index % 4 for index in range(9)], [index % 5 for index in range(19)] + [-1]


@pytest.mark.parametrize("keep_in_memory", [False, True])
def test_rows_in_batches_give_the_numbers_of_retrieval_metrics(load_metric, ranking, keep_in_memory):
    scores, query_ids, gallery_ids = ranking
    metric = load_metric(keep_in_memory=keep_in_memory)
    for start in range(0, 9, 4):
        metric.add_batch(predictions=scores[start : start + 4], references=query_ids[start : start + 4])
    assert metric.compute(gallery_ids=gallery_ids) == retrieval_metrics(*ranking)


def test_one_call_with_arrays_and_other_ranks(load_metric, ranking):
    scores, query_ids, gallery_ids = ranking
    metric = load_metric()
    result = metric.compute(
        predictions=scores.numpy(), references=torch.tensor(query_ids), gallery_ids=gallery_ids, ks=(1, 3)
    )
    assert result == retrieval_metrics(*ranking, ks=(1, 3))
    assert metric.compute(predictions=[[0.1, 0.9, 0.5]], references=[7], gallery_ids=[8, -1, 7])["rank-5"] == 100.0


def test_row_by_row_with_the_gallery_given_when_loading(load_metric, ranking):
    scores, query_ids, gallery_ids = ranking
    metric = load_metric(gallery_ids=gallery_ids, ks=(2,))
    for row, query_id in zip(scores, query_ids, strict=True):
        metric.add(prediction=row, reference=query_id)
    assert metric.compute() == retrieval_metrics(*ranking, ks=(2,))


@pytest.mark.parametrize("in_batches", [True, False])
def test_combines_with_another_metric(load_metric, ranking, in_batches):
    """`evaluate.combine` hands the arguments of `compute` to every metric: ours must need none."""
    import datasets
    import evaluate

    class NumScores(evaluate.Metric):
        def _info(self):
            row, number = datasets.Sequence(datasets.Value("float32")), datasets.Value("int64")
            features = datasets.Features({"predictions": row, "references": number})
            return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

        def _compute(self, predictions, references):
            return {"num_scores": sum(map(len, predictions))}

    scores, query_ids, gallery_ids = ranking
    other = NumScores(keep_in_memory=True)
    both = evaluate.combine([load_metric(gallery_ids=gallery_ids, keep_in_memory=True), other])
    expected = {**retrieval_metrics(*ranking), "num_scores": 9 * 20}
    if in_batches:
        for start in range(0, 9, 4):
            both.add_batch(predictions=scores[start : start + 4], references=query_ids[start : start + 4])
        assert both.compute() == expected
    else:
        assert both.compute(predictions=scores.tolist(), references=query_ids) == expected


def test_bad_input_is_named(load_metric):
    with pytest.raises(ValueError, match="give gallery_ids, the instance id of each gallery image"):
        load_metric().compute(predictions=[[0.1, 0.9]], references=[7])
    with pytest.raises(ValueError, match="rows of 1 and of 2 scores"):
        load_metric(gallery_ids=[7, 8]).compute(predictions=[[0.1, 0.9], [0.3]], references=[7, 8])
    with pytest.raises(ValueError, match=r"query 0 \(id 7\) has no match"):
        load_metric().compute(predictions=[[0.1, 0.9]], references=[7], gallery_ids=[8, -1])
    with pytest.raises(ValueError, match="against gallery image 1 is NaN"):
        load_metric().compute(predictions=[[0.1, float("nan")]], references=[8], gallery_ids=[8, -1])


def test_other_bad_input_is_named(load_metric):
    metric = load_metric(gallery_ids=[7, -1])
    for scores, query_id, message in (
        ([0.1, float("inf")], 7, "against gallery image 1 is infinite"),
        ([0.1, 0.2], -1, "query 0 has the id -1, which distractors have"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.compute(predictions=[scores], references=[query_id])
    with pytest.raises(ValueError, match="no predictions: give a row of scores for each query"):
        metric.compute(predictions=[], references=[])
    assert metric.compute(predictions=[[0.2, 0.1]], references=[7])["rank-1"] == 100.0, "goes on after errors"


def test_the_card_and_the_code_describe_the_same_inputs(load_metric):
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in ("predictions", "references", "gallery_ids", "ks", "rank-1", "mAP", "mINP"):
        assert f"`{name}`" in card
    assert set(load_metric().features) == {"predictions", "references"}
