"""Marks move a query by Rocchio's formula over the tokens that won."""

import pytest
import torch
from torch.nn import functional as F

from fafa.retrieval.feedback import RIGHT, WRONG, rocchio
from fafa.scoring_fafa import topk_mean_similarity


@pytest.fixture(scope="module")
def features():
    torch.manual_seed(0)
    return F.normalize(torch.randn(2, 16), dim=-1), F.normalize(torch.randn(20, 8, 16), dim=-1)


def test_the_formula_of_the_docstring(features):
    queries, targets = features
    right, wrong = targets[:2], targets[2:5]

    def tokens(query, image):
        winners = sorted(image, key=lambda token: float(query @ token))[-3:]
        return F.normalize(torch.stack(winners).mean(dim=0), dim=0)

    expected = []
    for query in queries:
        near, far = (torch.stack([tokens(query, image) for image in of]).mean(dim=0) for of in (right, wrong))
        expected.append(F.normalize(query + RIGHT * near - WRONG * far, dim=0))
    torch.testing.assert_close(rocchio(queries, right, wrong, 3), torch.stack(expected))


def test_right_marks_raise_scores_of_the_marked_and_wrong_marks_lower_them(features):
    queries, targets = features
    before = topk_mean_similarity(queries, targets[:2], 3)
    moved = rocchio(queries, targets[:1], targets[:0], 3)
    assert (topk_mean_similarity(moved, targets[:1], 3) > before[:, :1]).all()
    moved = rocchio(queries, targets[:0], targets[1:2], 3)
    assert (topk_mean_similarity(moved, targets[1:2], 3) < before[:, 1:]).all()


def test_without_marks_the_query_stays(features):
    queries, targets = features
    torch.testing.assert_close(rocchio(queries, targets[:0], targets[:0], 3), queries)


def test_half_precision_tokens_are_taken(features):
    queries, targets = features
    exact, half = (rocchio(queries, of[:3], of[3:5], 3) for of in (targets, targets.half()))
    torch.testing.assert_close(half, exact, atol=2e-3, rtol=0)


def test_marks_that_cancel_the_query_are_refused(features):
    queries, _ = features
    opposite = -queries[:1, None].expand(1, 8, 16)
    with pytest.raises(ValueError, match="cancel the query out"):
        rocchio(queries[:1], opposite, opposite[:0], 3, to_right=1.0)
