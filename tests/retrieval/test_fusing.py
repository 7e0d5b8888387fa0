"""Late fusion of a query's terms."""

import pytest
import torch
from torch.nn import functional as F

from fafa.retrieval.fusing import fuse
from fafa.scoring_fafa import topk_mean_similarity


@pytest.fixture(scope="module")
def gallery():
    torch.manual_seed(0)
    return F.normalize(torch.randn(300, 4, 16), dim=-1), F.normalize(torch.randn(3, 16), dim=-1)


def test_fused_scores_rank_as_the_weighted_sum_of_standardised_scores(gallery):
    """Pins the formula of the docstring, and that the scale is that of the plus terms."""
    targets, vectors = gallery
    scores, weights = topk_mean_similarity(vectors, targets, 2), torch.tensor([1.0, 0.5, -0.3])
    sampled = scores[:, ::3]
    mean, spread = sampled.mean(dim=1), sampled.std(dim=1, correction=0)
    wanted = (weights[:, None] * (scores - mean[:, None]) / spread[:, None]).sum(dim=0) / 1.5
    wanted = (mean[0] + 0.5 * mean[1]) / 1.5 + (spread[0] + 0.5 * spread[1]) / 1.5 * wanted
    torch.testing.assert_close(fuse(vectors, weights, sampled).scores(scores), wanted)


def test_a_term_whose_scores_spread_further_decides_no_more_than_the_others(gallery):
    """The sum of plain scores followed it alone."""
    targets, vectors = gallery
    scores = topk_mean_similarity(vectors[:2], targets, 2)
    wide = torch.stack([scores[0], 50 * scores[1]])
    plain, of_wide = (fuse(vectors[:2], torch.ones(2), one).scores(one) for one in (scores, wide))
    assert torch.equal(plain.argsort(), of_wide.argsort())


def test_one_term_keeps_its_scores(gallery):
    targets, vectors = gallery
    scores = topk_mean_similarity(vectors[:1], targets, 2)
    torch.testing.assert_close(fuse(vectors[:1], torch.tensor([2.5]), scores).scores(scores), scores[0])


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_a_sample_of_equal_scores_gives_finite_scores(gallery, spread):
    """A gallery of one image has no deviation."""
    _, vectors = gallery
    sampled = torch.stack([torch.full((4,), 0.3), 0.2 + spread * torch.arange(4.0)])
    fused = fuse(vectors[:2], torch.tensor([1.0, 1.0]), sampled)
    assert fused.scores(sampled).isfinite().all()


def test_means_rank_in_the_fused_direction_as_they_do_by_fused_products(gallery):
    """So one prefilter serves all terms together, minus terms as well."""
    targets, vectors = gallery
    fused = fuse(vectors, torch.tensor([1.0, 1.0, -0.5]), topk_mean_similarity(vectors, targets, 2))
    means = targets.mean(dim=1)
    by_terms = fused.scores(vectors @ means.T)
    torch.testing.assert_close((fused.direction @ means.T)[0] + fused.offset, by_terms)
