"""Pooling joins what is alike, image by image, and keeps unit length."""

import pytest
import torch
from torch.nn.functional import normalize

from fafa.retrieval.token_pooling import pool_tokens, pooled_top_tokens


def test_tokens_of_one_group_become_their_mean():
    """Groups of several sizes, in other places in each image."""
    axes = torch.eye(8)[:3]
    generator = torch.Generator().manual_seed(0)
    groups = torch.tensor([0, 0, 0, 1, 1, 2])
    tokens = normalize(axes[groups] + 0.1 * torch.randn(5, 6, 8, generator=generator), dim=-1)
    expected = torch.stack([normalize(tokens[:, groups == group].sum(dim=1), dim=-1) for group in range(3)], dim=1)
    order = torch.stack([torch.randperm(6, generator=generator) for _ in range(5)])
    pooled = pool_tokens(tokens.gather(1, order[..., None].expand(-1, -1, 8)), 3)
    for image in range(5):
        nearest = (expected[image] @ pooled[image].T).max(dim=1)
        torch.testing.assert_close(nearest.values, torch.ones(3))
        assert sorted(nearest.indices.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pooled_tokens_keep_length_dtype_and_the_image_alone_decides(dtype):
    tokens = normalize(torch.randn(7, 9, 16), dim=-1).to(dtype)
    for number in (1, 4, 8):
        pooled = pool_tokens(tokens, number)
        assert (pooled.shape, pooled.dtype) == ((7, number, 16), dtype)
        torch.testing.assert_close(pooled.float().norm(dim=-1), torch.ones(7, number), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(pool_tokens(tokens[3:4], number), pooled[3:4])
    assert torch.equal(pool_tokens(tokens, 9), tokens)
    with pytest.raises(ValueError, match="number is 0"):
        pool_tokens(tokens, 0)


def test_the_share_of_tokens_that_count_stays():
    assert [pooled_top_tokens(6, 32, number) for number in (64, 32, 16, 8, 4, 1)] == [6, 6, 3, 2, 1, 1]
    assert pooled_top_tokens(1, 1, 1) == 1
