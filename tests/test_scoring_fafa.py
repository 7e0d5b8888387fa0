"""The one scoring function: every path of it against the plain definition."""

import pytest
import torch

from fafa.scoring_fafa import topk_mean_similarity

equal = torch.testing.assert_close


def test_score_in_chunks_equals_whole_and_has_gradients():
    """The uneven last chunk included: forward and backward."""
    torch.manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(7, 16), dim=-1)
    targets = torch.nn.functional.normalize(torch.randn(11, 9, 16), dim=-1)
    results = []
    for max_elements in (1, 2 * 7 * 9, 4 * 7 * 9, 10**6):
        q, t = queries.clone().requires_grad_(), targets.clone().requires_grad_()
        scores = topk_mean_similarity(q, t, 3, max_elements)
        (scores * torch.arange(77).view(7, 11)).sum().backward()
        without_graph = topk_mean_similarity(queries, targets, 3, max_elements)
        results.append((scores.detach(), q.grad, t.grad, without_graph))
    plain = torch.einsum("qd,gnd->qgn", queries, targets).topk(3).values.mean(-1)
    for scores, q_grad, t_grad, without_graph in results:
        equal(scores, plain, rtol=0, atol=1e-6)
        equal(without_graph, plain, rtol=0, atol=1e-6)
        equal(q_grad, results[-1][1], rtol=0, atol=1e-4)
        equal(t_grad, results[-1][2], rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 5, 8, 31, 32, 33])
def test_score_takes_any_number_of_tokens(num_tokens):
    torch.manual_seed(num_tokens)
    queries, targets = torch.randn(3, 8), torch.randn(5, num_tokens, 8)
    for k in range(1, num_tokens + 1):
        plain = torch.einsum("qd,gnd->qgn", queries, targets).topk(k).values.mean(-1)
        equal(topk_mean_similarity(queries, targets, k), plain, rtol=1e-5, atol=1e-5)


def test_score_keeps_both_axes_of_one_query_and_one_target():
    """The released evaluation loses an axis to squeeze()."""
    assert topk_mean_similarity(torch.randn(1, 4), torch.randn(1, 3, 4), 2).shape == (1, 1)
    assert topk_mean_similarity(torch.randn(2, 4), torch.randn(0, 3, 4), 2).shape == (2, 0)
    assert topk_mean_similarity(torch.randn(0, 4), torch.randn(2, 3, 4), 2).shape == (0, 2)


def test_score_is_fp32_of_half_precision_features_and_under_autocast():
    queries, targets = torch.randn(4, 64), torch.randn(6, 8, 64)
    exact = topk_mean_similarity(queries, targets, 2)
    with torch.autocast("cpu", torch.bfloat16):
        equal(topk_mean_similarity(queries, targets, 2), exact)
    half = topk_mean_similarity(queries.bfloat16(), targets.bfloat16(), 2)
    assert half.dtype == torch.float32
    equal(half, topk_mean_similarity(queries.bfloat16().float(), targets.bfloat16().float(), 2))


def test_swapped_scoring_arguments_fail():
    queries, targets = torch.randn(4, 8), torch.randn(5, 3, 8)
    with pytest.raises(ValueError, match=r"swapped.*another model"):
        topk_mean_similarity(targets, queries, 2)
    with pytest.raises(ValueError, match=r"\(4, 6\)"):
        topk_mean_similarity(torch.randn(4, 6), targets, 2)
    with pytest.raises(ValueError, match="num_top_tokens is 4"):
        topk_mean_similarity(queries, targets, 4)
