"""Fewer tokens an image: those most alike become one, so that a gallery takes less room."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def pool_tokens(tokens: Tensor, number: int) -> Tensor:
    """Joins each image's most similar tokens until `number` are left.

    Again and again the two groups of tokens whose means have the largest cosine become one; a group's token is its
    mean, of unit length (hierarchical token pooling, as for ColPali). Score them with fewer, see `pooled_top_tokens`.

    Args:
        tokens: `(n, num_tokens, dim)`, floating-point, unit length.
        number: of tokens to keep, from 1.

    Returns:
        `(n, number, dim)`, of the same dtype; where `number` is no less than `num_tokens`, the tokens as they are.

    Raises:
        ValueError: `number` is below 1.
    """
    if number < 1:
        raise ValueError(f"number is {number}, expected 1 or more tokens to keep")
    (count, num_tokens, _), every = tokens.shape, torch.arange(len(tokens))
    if number >= num_tokens:
        return tokens
    sums = tokens.float().clone()
    means = normalize(sums, dim=-1)
    cosines = means @ means.mT
    cosines.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    is_left = torch.ones(count, num_tokens, dtype=torch.bool)
    for _ in range(num_tokens - number):
        pair = cosines.flatten(1).argmax(dim=1)
        first, second = pair // num_tokens, pair % num_tokens
        sums[every, first] += sums[every, second]
        is_left[every, second] = False
        joined = normalize(sums[every, first], dim=-1)
        means[every, first] = joined
        # What has joined another group is nobody's neighbour.
        nearness = (means @ joined[..., None])[..., 0].masked_fill(is_left.logical_not(), -torch.inf)
        nearness[every, first] = -torch.inf
        cosines[every, first], cosines[every, :, first] = nearness, nearness
        cosines[every, second], cosines[every, :, second] = -torch.inf, -torch.inf
    return normalize(sums[is_left].view(count, number, -1), dim=-1).to(tokens.dtype)


def pooled_top_tokens(num_top_tokens: int, num_tokens: int, number: int) -> int:
    """How many of `number` pooled tokens count in a score: the same share as `num_top_tokens` of `num_tokens`."""
    return max(1, round(num_top_tokens * min(1.0, number / num_tokens)))
