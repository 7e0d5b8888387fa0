"""The one scoring function of FAFA: the mean of the k largest token similarities.

Model, losses, evaluation and search all call `topk_mean_similarity`; nothing else computes a score.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F


def topk_mean_similarity(
    queries: Tensor, targets: Tensor, num_top_tokens: int, max_elements: int | None = None
) -> Tensor:
    """Scores every query against every target by the mean of the k largest of its token similarities (paper, FDA).

    Products are formed block by block, in fp32 whatever the inputs' precision, so that the tensor of queries x targets
    x tokens never exists. Gradients flow to inputs that ask for them.

    Args:
        queries: `(num_queries, dim)`, unit length.
        targets: `(num_targets, num_tokens, dim)`, each token of unit length.
        num_top_tokens: k, from 1 to `num_tokens`.
        max_elements: token similarities in a block; by default 2^21 on a CPU, where they stay in its cache, 2^26
            elsewhere.

    Returns:
        `(num_queries, num_targets)`, fp32, in [-1, 1].

    Raises:
        ValueError: if ranks or sizes do not fit (queries and targets swapped, say), or k is out of range.
    """
    if queries.ndim != 2 or targets.ndim != 3 or queries.shape[-1] != targets.shape[-1]:
        raise ValueError(
            "expected queries (num_queries, dim) and targets (num_targets, num_tokens, dim), got "
            f"{tuple(queries.shape)} and {tuple(targets.shape)}: are they swapped, or from another model?"
        )
    if not 1 <= num_top_tokens <= targets.shape[1]:
        raise ValueError(f"num_top_tokens is {num_top_tokens}, but each target has {targets.shape[1]} tokens")
    if max_elements is None:
        max_elements = 2**21 if queries.device.type == "cpu" else 2**26
    # Autocast would turn even products of fp32 tensors into half precision.
    with torch.autocast(queries.device.type, enabled=False):
        if torch.is_grad_enabled() and (queries.requires_grad or targets.requires_grad):
            return _differentiable_scores(queries.float(), targets.float(), num_top_tokens, max_elements)
        with torch.no_grad():
            return _scores(queries.float(), targets, num_top_tokens, max_elements)


def _differentiable_scores(queries: Tensor, targets: Tensor, k: int, max_elements: int) -> Tensor:
    rows = max(1, max_elements // max(1, targets.shape[0] * targets.shape[1]))
    tokens = targets.flatten(0, 1)  # (targets * tokens, dim)
    blocks = [
        (block @ tokens.mT).unflatten(1, targets.shape[:2]).topk(k, dim=-1, sorted=False).values.mean(dim=-1)
        for block in queries.split(rows)
    ]
    return torch.cat(blocks)


def _scores(queries: Tensor, targets: Tensor, k: int, max_elements: int) -> Tensor:
    num_queries, (num_targets, num_tokens, _) = len(queries), targets.shape
    scores = torch.empty(num_queries, num_targets, device=queries.device)
    rows = max(1, min(num_queries, max_elements // num_tokens, 1024))
    columns = max(1, max_elements // (rows * num_tokens))
    for left in range(0, num_targets, columns):
        block = targets[left : left + columns].float()
        for top in range(0, num_queries, rows):
            products = _token_products(queries[top : top + rows], block)  # (targets, tokens, queries)
            scores[top : top + rows, left : left + columns] = _sum_of_largest(products.unbind(dim=1), k).T
    return scores.div_(k)


def _token_products(queries: Tensor, targets: Tensor) -> Tensor:
    """(q, d) and (g, n, d) to (g, n, q)."""
    if queries.device.type != "cpu":
        return targets @ queries.T
    # A 1x1 convolution is the same product, and on a CPU it goes to oneDNN, which uses AVX-512 on every make of
    # processor: twice as fast as matmul (MKL) on AMD's. Channels last, so nothing is copied.
    pixels = targets[:, None].permute(0, 3, 1, 2)  # (g, d, 1, n)
    kernels = queries[:, None, None].permute(0, 3, 1, 2)  # (q, d, 1, 1)
    return F.conv2d(pixels, kernels)[:, :, 0].permute(0, 2, 1)


def _sum_of_largest(planes: tuple[Tensor, ...], k: int) -> Tensor:
    """Sums the k largest of n equally shaped tensors, entry by entry, overwriting them.

    Sorting each entry's short token axis is slow; a fixed network of max and min over whole planes selects the same at
    memory speed (15 times faster than `torch.topk` on a CPU).
    """
    planes = list(planes)
    network, largest = _selection_network(len(planes), k)
    spare = torch.empty_like(planes[0])
    for high, low, keep_low in network:
        if keep_low:
            torch.maximum(planes[high], planes[low], out=spare)
            torch.minimum(planes[high], planes[low], out=planes[low])
            planes[high], spare = spare, planes[high]
        else:
            torch.maximum(planes[high], planes[low], out=planes[high])
    total = planes[largest[0]]
    for index in largest[1:]:
        total += planes[index]
    return total


@cache
def _selection_network(n: int, k: int) -> tuple[list[tuple[int, int, bool]], list[int]]:
    """Comparators (high, low, whether low is needed later) that gather the k largest of n values, and where those lie.

    Halves are reduced to their k largest in descending order and merged: the crosswise maxima of two descending lists
    are the k largest of both; they fall, then rise, which a bitonic merger sorts. The last merge need not sort.
    """
    network = []

    def sort_bitonic(wires: list[int]) -> None:
        if len(wires) > 1:
            half = 1 << (len(wires) - 1).bit_length() - 1  # largest power of two below the length
            rest = len(wires) - half
            network.extend((wires[i], wires[i + half], True) for i in range(rest))
            sort_bitonic(wires[:rest])
            sort_bitonic(wires[rest:])

    def largest(wires: list[int], in_order: bool) -> list[int]:
        if len(wires) == 1:
            return wires
        first = largest(wires[: len(wires) // 2], True)
        second = largest(wires[len(wires) // 2 :], True)[::-1]
        surplus = max(0, len(first) + len(second) - k)
        network.extend(
            (high, low, False) for high, low in zip(first[len(first) - surplus :], second[:surplus], strict=True)
        )
        merged = first + second[surplus:]
        if in_order:
            sort_bitonic(merged)
        return merged

    return network, largest(list(range(n)), False)
