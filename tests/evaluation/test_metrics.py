"""Rank-k, mAP and mINP: the released code's numbers, ties, streaming, bad input, chance."""

import doctest
import itertools
import json
import random

import numpy as np
import pytest
import torch
from tiny import GOLDEN, golden_tensors

from fafa.evaluation import MatchRanker, chance_metrics, match_ranks, metrics, ranking, retrieval_metrics
from fafa.evaluation.ranking import top_images
from fafa.scoring_fafa import topk_mean_similarity

CASES = {case["tag"]: case for case in json.loads((GOLDEN / "metrics_public.json").read_text())["cases"]}
RELEASED_NAMES = {"rank-1": "R1", "rank-5": "R5", "rank-10": "R10", "mAP": "mAP", "mINP": "mINP"}


def golden_inputs(tag):
    tensors = golden_tensors("metrics_public")
    return tensors[f"{tag}.similarity"], tensors[f"{tag}.q_ids"], tensors[f"{tag}.g_ids"]


def sorted_ranks(scores, query_ids, gallery_ids):
    """The definition: sort by score, equal ones in gallery order, and note where matches are."""
    ranks = []
    for row, query_id in zip(scores.tolist(), query_ids, strict=True):
        order = sorted(range(len(row)), key=lambda index: (-row[index], index))
        ranks.append([rank for rank, index in enumerate(order, 1) if gallery_ids[index] == query_id])
    return ranks


def random_ranking(seed, num_queries=23, num_gallery=60, num_ids=12, levels=None):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(num_queries, num_gallery, generator=generator)
    if levels:
        scores = (scores * levels).round() / levels
    gallery_ids = [index % num_ids for index in range(num_gallery)]
    random.Random(seed).shuffle(gallery_ids)
    query_ids = [index % num_ids for index in range(num_queries)]
    return scores, query_ids, gallery_ids


@pytest.mark.parametrize("tag", [tag for tag in CASES if tag != "ties_relevant"])
def test_equals_the_released_code(tag):
    result = retrieval_metrics(*golden_inputs(tag))
    # The released code averages in fp32.
    assert result == {name: pytest.approx(CASES[tag][released], abs=1e-5) for name, released in RELEASED_NAMES.items()}


@pytest.mark.parametrize("tag", [tag for tag in CASES if "cmc_1_to_10" in CASES[tag]])
def test_every_rank_up_to_ten_equals_the_released_code(tag):
    result = retrieval_metrics(*golden_inputs(tag), ks=range(1, 11))
    assert list(result)[:10] == [f"rank-{k}" for k in range(1, 11)]
    assert list(result.values())[:10] == pytest.approx(CASES[tag]["cmc_1_to_10"], abs=1e-5)


def test_ties_stay_within_what_an_unstable_sort_can_give():
    result = retrieval_metrics(*golden_inputs("ties_relevant"))
    bounds = CASES["ties_relevant"]["bounds"]
    for name, released in RELEASED_NAMES.items():
        assert bounds["pessimistic"][released] - 1e-5 <= result[name] <= bounds["optimistic"][released] + 1e-5


@pytest.mark.parametrize("levels", [None, 2, 1])
@pytest.mark.parametrize("num_ids", [1, 3, 60])
def test_ranks_are_those_of_a_stable_sort(monkeypatch, levels, num_ids):
    """One match or all of the gallery, few ties or hardly anything else."""
    monkeypatch.setattr(ranking, "BLOCK_ELEMENTS", 200)
    scores, query_ids, gallery_ids = random_ranking(0, num_ids=num_ids, levels=levels)
    results = match_ranks(scores, query_ids, gallery_ids)
    assert [ranks.tolist() for ranks in results.ranks_per_query] == sorted_ranks(scores, query_ids, gallery_ids)


def test_equal_scores_rank_in_gallery_order():
    scores = torch.zeros(2, 4)
    assert match_ranks(scores, [7, 8], [8, 7, 7, 8]).first_rank.tolist() == [2, 1]
    assert retrieval_metrics(scores, [7, 8], [8, 7, 7, 8], ks=[1])["rank-1"] == 50.0


def test_per_query_numbers():
    results = match_ranks(torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6]]), [1, 2], [2, 1, 2, 1])
    assert results.first_rank.tolist() == [2, 1]
    assert results.average_precision.tolist() == pytest.approx([(1 / 2 + 2 / 4) / 2, (1 / 1 + 2 / 3) / 2])
    assert results.inverse_negative_penalty.tolist() == pytest.approx([2 / 4, 2 / 3])
    assert results.metrics(ks=[1], queries=[False, True])["rank-1"] == 100.0
    with pytest.raises(ValueError, match="one or more of them true"):
        results.metrics(queries=[False, False])


def test_metrics_are_means_over_queries():
    results = match_ranks(*random_ranking(5, levels=4))
    values = results.per_query(ks=(1, 4))
    assert list(values) == ["rank-1", "rank-4", "mAP", "mINP"]
    assert results.metrics((1, 4)) == pytest.approx({name: 100 * of.mean().item() for name, of in values.items()})
    assert set(values["rank-4"].tolist()) == {0.0, 1.0}


def test_ranks_come_with_their_images():
    scores, query_ids, gallery_ids = random_ranking(6, levels=3)
    results = match_ranks(scores, query_ids, gallery_ids)
    images = results.images.split(results.num_matches.tolist())
    for row, ranks, of_query in zip(scores, results.ranks_per_query, images, strict=True):
        assert row.argsort(descending=True, stable=True)[ranks - 1].tolist() == of_query.tolist()


@pytest.mark.parametrize("levels", [None, 4, 1])
@pytest.mark.parametrize("k", [1, 7, 60, 100])
def test_top_images_are_the_first_of_a_stable_sort(levels, k):
    scores, _, _ = random_ranking(7, levels=levels)
    values, images = top_images(scores, k)
    assert images.tolist() == scores.argsort(dim=1, descending=True, stable=True)[:, :k].tolist()
    assert values.tolist() == scores.gather(1, images).tolist()


def test_the_plain_way_from_features_to_metrics_agrees():
    """All token similarities at once, fp64, a stable sort of the whole gallery, and the definitions word by word."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(40, 16, generator=generator), dim=-1)
    targets = torch.nn.functional.normalize(torch.randn(90, 8, 16, generator=generator), dim=-1)
    query_ids, gallery_ids = torch.arange(40) % 25, torch.arange(90) % 30
    blocks = (topk_mean_similarity(rows, targets, 3, max_elements=500) for rows in queries.split(7))
    result = retrieval_metrics(blocks, query_ids, gallery_ids)

    similarities = torch.einsum("qd,gtd->qgt", queries.double(), targets.double())
    order = similarities.topk(3).values.mean(-1).argsort(descending=True, stable=True)
    hits = gallery_ids[order] == query_ids[:, None]
    precision = hits.cumsum(1) / torch.arange(1, 91)
    last = torch.stack([row.nonzero()[-1, 0] + 1 for row in hits])
    expected = {f"rank-{k}": hits[:, :k].any(1).double().mean() for k in (1, 5, 10)}
    expected["mAP"] = ((precision * hits).sum(1) / hits.sum(1)).double().mean()
    expected["mINP"] = (hits.sum(1) / last).double().mean()
    assert result == pytest.approx({name: 100 * value.item() for name, value in expected.items()}, abs=1e-5)


def test_row_blocks_give_the_same_as_the_matrix():
    scores, query_ids, gallery_ids = random_ranking(1, levels=4)
    expected = retrieval_metrics(scores, query_ids, gallery_ids)
    assert (
        retrieval_metrics((scores[start : start + 5] for start in range(0, 23, 5)), query_ids, gallery_ids) == expected
    )
    assert retrieval_metrics(list(scores.split(1)), query_ids, gallery_ids) == expected
    assert retrieval_metrics([scores[:0], scores, scores[:0]], query_ids, gallery_ids) == expected
    assert retrieval_metrics(scores.numpy(), np.array(query_ids), torch.tensor(gallery_ids)) == expected


def test_ids_may_be_strings_and_images_may_repeat():
    scores = torch.tensor([[0.5, 0.9, 0.9]])
    assert retrieval_metrics(scores, ["ann"], ["bob", "ann", "ann"])["mINP"] == 100.0


def test_k_may_exceed_the_gallery():
    assert retrieval_metrics(torch.tensor([[0.1, 0.9]]), [1], [1, -1], ks=(1, 10))["rank-10"] == 100.0


def test_scores_keep_their_precision():
    """fp64 scores that are equal in fp32 must not become ties; half precision is fine, and so are whole numbers."""
    scores = torch.tensor([[1.0, 1.0 + 1e-12]], dtype=torch.float64)
    assert match_ranks(scores, [2], [1, 2]).first_rank.tolist() == [1]
    half = torch.tensor([[0.5, 0.25, 1.0]], dtype=torch.bfloat16)
    assert match_ranks(half, [2], [1, 2, 3]).first_rank.tolist() == [3]


@pytest.mark.parametrize(
    ("scores", "query_ids", "gallery_ids", "message"),
    [
        (torch.zeros(2, 3), [5, 6], [5, 5, -1], r"query 1 \(id 6\) has no match among 3 gallery images"),
        (torch.zeros(1, 0), [5], [], r"query 0 \(id 5\) has no match among 0"),
        (torch.zeros(1, 0), ["ann"], [], r"query 0 \(id ann\) has no match among 0"),
        (torch.zeros(2, 3), [5], [5, 5, -1], "2 rows of scores for 1 queries"),
        (torch.zeros(1, 3), [5, 5], [5, 5, -1], "1 rows of scores for 2 queries"),
        (torch.zeros(1, 4), [5], [5, 5, -1], r"3 gallery images\), got \(1, 4\)"),
        (torch.zeros(3), [5], [5, 5, -1], r"got \(3,\)"),
        (torch.zeros(1, 3, 8), [5], [5, 5, -1], r"got \(1, 3, 8\); model.score"),
        ([torch.zeros(3)], [5], [5, 5, -1], r"got \(3,\)"),
        (torch.zeros(0, 3), [], [5, 5, -1], "query_ids is empty"),
        (torch.zeros(1, 3), [[5]], [5, 5, -1], "query_ids: expected one id each"),
        (torch.zeros(1, 3), [5.0], [5, 5, -1], "query_ids: expected integers or strings, got float64"),
        (torch.zeros(1, 3), ["5"], [5, 5, -1], "they never match"),
    ],
)
def test_bad_input_is_named(scores, query_ids, gallery_ids, message):
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(scores, query_ids, gallery_ids)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([[0.1, "high", 0.3]], "scores: expected numbers"),
        ([[0.1, 0.2, 0.3], [0.1]], "scores: expected numbers"),
        (np.array([[None, 1, 2]]), "scores: expected numbers"),
        (torch.zeros(1, 3, dtype=torch.bool), "expected real numbers, dense, got bool"),
        (torch.zeros(1, 3, dtype=torch.complex64), "expected real numbers, dense, got complex64"),
        (torch.zeros(1, 3).to_sparse(), "expected real numbers, dense, got sparse"),
        (torch.zeros(1, 3, device="meta"), "expected real numbers, dense, got none"),
        ([[0.1, torch.inf, 0.3]], r"query 0 \(id 5\) against gallery image 1 is infinite"),
        (np.array([[6e4, np.inf, 1]], dtype=np.float16), "against gallery image 1 is infinite"),
        ([[0.1, 0.2, -torch.inf]], r"query 0 \(id 5\) against gallery image 2, which is its match, is minus infinity"),
    ],
)
def test_scores_that_are_none_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(scores, [5] * len(scores), [4, -1, 5])


@pytest.mark.parametrize(
    "scores",
    [
        [[1, 3, 2]],
        ((0.1, 0.3, 0.2),),
        np.array([[1, 3, 2]], dtype=np.uint32),
        np.array([[2, 3, 1]], dtype=np.int8)[:, ::-1],
        np.array([[0.1, 0.3, 0.2]], dtype=np.float16),
        torch.tensor([[0.1, 0.3, 0.2]], dtype=torch.float16, requires_grad=True),
        torch.tensor([[-torch.inf, 0.3, 0.2]]),
        torch.tensor([[1, 3, 2]], dtype=torch.uint8),
    ],
)
def test_scores_of_every_real_kind_are_ranked(scores):
    """Minus infinity leaves an image out, as the reference image of a query."""
    assert retrieval_metrics(scores, [5], [4, -1, 5], ks=[1, 2]) == {"rank-1": 0, "rank-2": 100, "mAP": 50, "mINP": 50}


@pytest.mark.parametrize(
    ("query_ids", "gallery_ids", "message"),
    [
        ([7, -1], [7, -1, 8], r"query 1 has the id -1, which distractors have"),
        (["ann", "-1"], ["ann", "-1", "-1"], r"query 1 has the id -1, which distractors have"),
        ([7, "8"], ["7", "8", "8"], "query_ids: expected integers or strings, not both; got 7 among strings"),
        ([7, 8], ["7", 8, "8"], "gallery_ids: expected integers or strings, not both; got 8 among strings"),
        ([7, 8], [7, 8, None], "gallery_ids: expected integers or strings, got object"),
        ([True, False], [True, False, False], "query_ids: expected integers or strings, got bool"),
        (
            np.array([2**64 - 1, 7], dtype=np.uint64),
            [7, 7, 7],
            "query_ids: 18446744073709551615 is beyond 64-bit integers",
        ),
        ("78", [7, 8, 8], "query_ids: expected one id each, .* got the text '78'"),
        ([[7], [8, 9]], [7, 8, 8], "query_ids: expected one id each"),
    ],
)
def test_ids_that_would_match_what_they_should_not_are_refused(query_ids, gallery_ids, message):
    """A query with the distractors' id matched all of them, which looked like a very good model."""
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(torch.rand(2, 3), query_ids, gallery_ids)


def test_rows_that_are_refused_leave_the_ranker_as_it_was(monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK_ELEMENTS", 2)
    ranker, scores = MatchRanker([1, 2], [1, 2]), torch.eye(2)
    with pytest.raises(ValueError, match="query 1"):
        ranker.add(torch.tensor([[1.0, 0.0], [0.0, torch.nan]]))
    ranker.add(scores)
    assert ranker.results().first_rank.tolist() == [1, 1]


def test_nan_is_named_with_its_query_also_in_a_later_block():
    scores = torch.zeros(5, 6)
    scores[3, 2] = torch.nan
    with pytest.raises(ValueError, match=r"query 3 \(id 13\) against gallery image 2 is NaN"):
        retrieval_metrics(scores.split(2), [10, 11, 12, 13, 14], [14, 13, 12, 11, 10, -1])


@pytest.mark.parametrize("ks", [(0, 5), (1.5,), (True,), ("1",), "15", 5, None, [None], (-3,)])
def test_ks_are_whole_numbers_from_one(ks):
    with pytest.raises(ValueError, match="ks is "):
        retrieval_metrics(torch.zeros(1, 1), [1], [1], ks=ks)
    with pytest.raises(ValueError, match="ks is "):
        chance_metrics([1], 2, ks=ks)


def test_ks_may_be_given_by_numpy_or_once():
    """What can be gone through once only used to lose every rank-k."""
    expected = {"rank-1", "rank-2", "mAP", "mINP"}
    assert set(retrieval_metrics(torch.zeros(1, 1), [1], [1], ks=np.array([1, 2]))) == expected
    assert set(retrieval_metrics(torch.zeros(1, 1), [1], [1], ks=iter([1, 2]))) == expected


@pytest.mark.parametrize(
    ("num_matches", "num_gallery", "message"),
    [
        ([], 5, "expected integers"),
        ([1.5], 5, "expected integers"),
        ([[1]], 5, "expected integers"),
        ([1, 0], 5, "0 matches of a query, expected 1 to 5"),
        ([6], 5, "6 matches of a query, expected 1 to 5"),
    ],
)
def test_chance_of_what_cannot_be_is_refused(num_matches, num_gallery, message):
    with pytest.raises(ValueError, match=message):
        chance_metrics(num_matches, num_gallery)


@pytest.mark.parametrize(("scores", "k"), [(torch.zeros(3), 1), (torch.zeros(1, 3), 0), (torch.zeros(1, 3), 1.5)])
def test_top_images_of_what_cannot_be_are_refused(scores, k):
    with pytest.raises(ValueError, match="expected"):
        top_images(scores, k)


def test_a_query_without_a_match_is_found_before_any_score():
    with pytest.raises(ValueError, match="2 of 3 queries have none"):
        MatchRanker([1, 2, 3], [3, -1])


@pytest.mark.parametrize("num_matches", [1, 2, 3, 6])
def test_chance_is_the_mean_over_all_orders(num_matches):
    gallery_ids = [1] * num_matches + [0] * (6 - num_matches)
    orders = torch.tensor(list(itertools.permutations(range(6))), dtype=torch.float32)
    every_order = retrieval_metrics(orders, [1] * len(orders), gallery_ids, ks=(1, 2, 8))
    assert chance_metrics([num_matches], 6, ks=(1, 2, 8)) == pytest.approx(every_order)


def test_chance_averages_over_queries():
    mixed = chance_metrics([1, 3, 3], 50)
    one, three = chance_metrics([1], 50), chance_metrics([3], 50)
    assert mixed == pytest.approx({name: (one[name] + 2 * three[name]) / 3 for name in one})
    assert one["rank-5"] == pytest.approx(100 * 5 / 50)


def test_docstring_examples_run():
    for module, number in ((metrics, 3), (ranking, 5)):
        failed, attempted = doctest.testmod(module)
        assert attempted >= number
        assert failed == 0
