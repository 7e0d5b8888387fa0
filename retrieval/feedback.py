"""Results marked right or wrong move a query towards the ones and away from the others."""

import torch
from torch import Tensor
from torch.nn import functional as F

RIGHT, WRONG = 1.5, 0.25


def rocchio(
    queries: Tensor,
    right: Tensor,
    wrong: Tensor,
    num_top_tokens: int,
    to_right: float = RIGHT,
    from_wrong: float = WRONG,
) -> Tensor:
    """Rocchio's formula in the embedding space (Rocchio 1971): the vectors of a query's terms after all marks so far.

        q' = normalised(q + b * mean of t(x) over right x - c * mean of t(x) over wrong x),   b = 1.5, c = 0.25

    t(x) is the normalised mean of the k tokens of image x that are most similar to q, those whose mean is x's score
    (`topk_mean_similarity`): the direction in which that score grows fastest. For composed queries of FAFA it serves
    better than the mean of all tokens, since the caption decides which tokens count. q is always the query as it was
    asked, so that rounds do not drift: each computes from all marks anew.

    The constants were chosen on painted worlds other than those that benchmarks/results/query_terms.md reports. Text
    retrieval's usual b = 0.75 is as good for composed queries and too little for images alone; c = 0.75 harms while
    nothing is marked right. Wrong marks by themselves helped at no value that was tried: what they are good for is that
    such images are not found again.

    Args:
        queries: `(num_terms, dim)`, unit length.
        right: `(num_right, num_tokens, dim)`: features of images marked right; there may be none.
        wrong: `(num_wrong, num_tokens, dim)`, likewise.
        num_top_tokens: k.

    Returns:
        `(num_terms, dim)`, unit length, on the device of `queries`.

    Raises:
        ValueError: the marks cancel a query out.
    """
    moved = queries.float()
    for marked, share in ((right, to_right), (wrong, -from_wrong)):
        if len(marked):
            moved = moved + share * _winning(queries.float(), marked.to(queries).float(), num_top_tokens).mean(dim=1)
    if (moved.norm(dim=1) < 1e-3).any():
        raise ValueError("the marked results cancel the query out: nothing is left of it. Take some of the marks back")
    return F.normalize(moved, dim=1)


def _winning(queries: Tensor, targets: Tensor, k: int) -> Tensor:
    """The normalised mean of each target's k tokens that are most similar to each query: `(q, m, dim)`."""
    chosen = torch.einsum("qd,mtd->qmt", queries, targets).topk(k, dim=2).indices
    tokens = targets.expand(len(queries), -1, -1, -1).gather(2, chosen[..., None].expand(-1, -1, -1, queries.shape[1]))
    return F.normalize(tokens.mean(dim=2), dim=2)
