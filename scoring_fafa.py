"""The one scoring function: the mean of the k largest token similarities.

Model, losses, evaluation and search all call `topk_mean_similarity`; nothing else computes a score.
"""

from collections import deque
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode

from .threads import Buffers, in_threads, taken

FEW_QUERIES = 32  # with fewer, reading the targets takes longer than multiplying them
FEWEST_TARGETS = 16  # fewer are multiplied in other ways, with other last bits
SMALL_PLANE = 4096  # entries of a plane at which starting an operation takes about as long as the operation itself


def topk_mean_similarity(
    queries: Tensor, targets: Tensor, num_top_tokens: int, max_elements: int | None = None
) -> Tensor:
    """Scores every query against every target by the mean of the k largest of its token similarities (paper, FDA).

    Products are formed block by block, in fp32 whatever the inputs' precision, so that neither the tensor of queries x
    targets x tokens nor an fp32 copy of all targets ever exists. Gradients flow to inputs that ask for them.

    On a CPU, without gradients, blocks are divided among as many threads as torch uses in the calling thread
    (`torch.get_num_threads()`), each on one core. Scores do not depend on their number.

    Targets may be codes in eight bits, of tokens that are codes times a scale: their scores times the scale are those
    of the tokens. If queries are whole numbers, too, (int16), products are formed in whole numbers where the processor
    has instructions for that; so they are exact, and for few queries as fast as memory gives the codes.

    Args:
        queries: `(num_queries, dim)`, unit length; or int16, from -32,512 to 32,512, for targets of int8.
        targets: `(num_targets, num_tokens, dim)`, each token of unit length; or int8, from -127 to 127.
        num_top_tokens: k, from 1 to `num_tokens`.
        max_elements: token similarities in a block, and entries of its fp32 copy of targets in half precision; by
            default 2^21 on a CPU, where each thread has a block, and 2^26 elsewhere.

    Returns:
        `(num_queries, num_targets)`, fp32, in [-1, 1].

    Raises:
        ValueError: ranks or sizes do not fit (queries and targets may be swapped), or k is out of range.
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
        wants_gradients = torch.is_grad_enabled() and (queries.requires_grad or targets.requires_grad)
        # A compiler makes its own blocks, buffers and threads.
        if wants_gradients or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return _plain_scores(queries.float(), targets.float(), num_top_tokens, max_elements)
        with torch.no_grad():
            return _scores(queries, targets, num_top_tokens, max_elements)


def _plain_scores(queries: Tensor, targets: Tensor, k: int, max_elements: int) -> Tensor:
    rows = max(1, max_elements // max(1, targets.shape[0] * targets.shape[1]))
    tokens = targets.flatten(0, 1)  # (targets * tokens, dim)
    blocks = [
        (block @ tokens.mT).unflatten(1, targets.shape[:2]).topk(k, dim=-1, sorted=False).values.mean(dim=-1)
        for block in queries.split(rows)
    ]
    return torch.cat(blocks)


def _scores(queries: Tensor, targets: Tensor, k: int, max_elements: int) -> Tensor:
    num_queries, (num_targets, num_tokens, dim) = len(queries), targets.shape
    if num_targets < FEWEST_TARGETS and queries.device.type == "cpu":
        targets = F.pad(targets, (0, 0, 0, 0, 0, FEWEST_TARGETS - num_targets))
        return _scores(queries, targets, k, max_elements)[:, :num_targets].contiguous()
    scores = torch.empty(num_queries, num_targets, dtype=torch.float32, device=queries.device)
    rows = max(1, min(num_queries, max_elements // num_tokens, 1024))
    piece = max(1, max_elements // (num_tokens * dim))  # targets whose copy in fp32 stays within the budget
    columns = max(1, max_elements // (num_tokens * rows))
    is_whole = (queries.dtype, targets.dtype) == (torch.int16, torch.int8) and _multiplies_bytes(queries.device.type)
    is_whole = is_whole and dim > 1  # of one dimension, torch 2.13 reads the wrong numbers
    queries = queries if is_whole else queries.float()
    if is_whole:
        columns = max(1, min(columns, SMALL_PLANE // rows))  # their products, in int32, stay in the cache
    elif queries.device.type != "cpu":
        columns = columns if targets.dtype == torch.float32 else min(columns, piece)
    elif rows < FEW_QUERIES:  # several pieces together: planes of so few rows would be short
        columns = min(columns, SMALL_PLANE)
    else:
        columns = min(columns, piece)
    # A last block of few targets would have other last bits: it begins earlier, and repeats what another one does. So a
    # score's bits hardly depend on what is scored beside it.
    last = num_targets - min(columns, FEWEST_TARGETS)
    blocks = deque(
        (slice(left, left + columns), slice(top, top + rows))
        for left in (min(left, last) for left in range(0, num_targets, columns))
        for top in range(0, num_queries, rows)
    )

    def score_blocks() -> None:
        """Takes blocks until none is left; runs in several threads at once."""
        buffers = Buffers()
        present, block = None, targets
        for across, down in taken(blocks):
            if across != present:
                present, block = across, targets[across]
            if is_whole:
                planes = _whole_products(queries[down], block, buffers)
            else:
                planes = _token_products(queries[down], block, piece, buffers)
            scores[down, across] = _sum_of_largest(planes, k, buffers).div_(k).T

    # Other threads do not see a mode (counting, tracing) of this one.
    is_plain = type(queries) is Tensor and type(targets) is Tensor and _get_current_dispatch_mode() is None
    if is_plain and queries.device.type == "cpu":
        in_threads(score_blocks, blocks)
    else:
        score_blocks()
    return scores


def _token_products(queries: Tensor, targets: Tensor, piece: int, buffers: Buffers) -> Tensor:
    """(q, d) and (g, n, d) to (n, g, q) in fp32, converting at most `piece` targets at a time."""
    (num_targets, num_tokens, dim), num_queries = targets.shape, len(queries)
    shape = num_tokens, num_targets, num_queries
    if targets.dtype != torch.float32 and num_targets > piece:
        products = buffers.take("products", shape, queries.device)
        for start in range(0, num_targets, piece):
            part = slice(start, start + piece)
            products[:, part] = _token_products(queries, targets[part], piece, buffers)
        return products
    if targets.dtype != torch.float32:
        targets = buffers.take("targets", targets.shape, targets.device).copy_(targets)
    if queries.device.type != "cpu":
        return (targets @ queries.T).permute(1, 0, 2)
    if len(queries) >= FEW_QUERIES and _matmul_is_fast():
        products = buffers.take("products", shape, queries.device)
        return torch.bmm(targets.permute(1, 0, 2), queries.T.expand(num_tokens, dim, num_queries), out=products)
    # A 1x1 convolution is the same product, and on a CPU oneDNN computes it, which uses AVX-512 on all processors:
    # twice as fast as matmul (MKL) on AMD's. Channels are last, so nothing is copied.
    pixels = targets[:, None].permute(0, 3, 1, 2)  # (g, d, 1, n)
    kernels = queries[:, None, None].permute(0, 3, 1, 2)  # (q, d, 1, 1)
    return F.conv2d(pixels, kernels)[:, :, 0].permute(2, 0, 1)


def _whole_products(queries: Tensor, targets: Tensor, buffers: Buffers) -> Tensor:
    """(q, d), int16, and (g, n, d), int8, to (n, g, q) in fp32, by exact products of eight-bit numbers.

    A query is 256 times its high part plus its low part. Sums of their products are below 2^24 for up to 1,040
    dimensions, so that fp32 holds them; the one sum of both is rounded.
    """
    num_queries, (num_targets, num_tokens) = len(queries), targets.shape[:2]
    high = (queries + 128) >> 8
    parts = torch.stack([high, queries - (high << 8)]).to(torch.int8)  # the low one is from -128 to 127
    products = buffers.take("whole", (num_targets * num_tokens, 2 * num_queries), targets.device, torch.int32)
    torch._int_mm(targets.flatten(0, 1), parts.flatten(0, 1).T, out=products)
    high, low = products.view(num_targets, num_tokens, 2, num_queries).permute(2, 1, 0, 3)
    return buffers.take("products", high.shape, targets.device).copy_(high).mul_(256).add_(low)


@cache
def _multiplies_bytes(device: str) -> bool:
    """Whether the processor has instructions for products of eight-bit numbers, and torch uses them rightly.

    Elsewhere torch multiplies one by one. Older processors add pairs of products in 16 bits, which overflow.
    """
    has = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.10
    if device != "cpu" or not any(has.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8")):
        return False
    largest = torch.full((64, 256), -127, dtype=torch.int8)
    try:
        return bool((torch._int_mm(largest, largest[:4].T) == 127 * 127 * 256).all())
    except RuntimeError:
        return False


@cache
def _matmul_is_fast() -> bool:
    """Whether the processor is Intel's, for which MKL is made: there its products have the convolution's bits, come in
    the order that is needed and go into reused memory."""
    read = getattr(torch.cpu, "get_capabilities", dict)  # since torch 2.10
    return torch.backends.mkl.is_available() and "Intel" in read().get("cpu_name", "")


def _sum_of_largest(planes: Tensor, k: int, buffers: Buffers) -> Tensor:
    """Sums the k largest of n planes, `(n, ...)`, entry by entry, overwriting them.

    Sorting each entry's short token axis is slow; a fixed network of max and min over whole planes selects the same
    values at memory speed (15 times faster than `torch.topk` on a CPU).
    """
    network, largest = _selection_network(len(planes), k)
    spare = buffers.take("spare", planes.shape[1:], planes.device)
    planes = list(planes.unbind())
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
    """Comparators (high, low, whether low is needed later) that gather the k largest of n values, and their places.

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
        second = largest(wires[len(wires) // 2 :], True)
        if in_order and len(first) == len(second) == 2 and k >= 4:
            # Two pairs in order take three comparators (Batcher's odd-even merge), one fewer than a bitonic merger.
            (a, b), (c, d) = first, second
            network.extend([(a, c, True), (b, d, True), (c, b, True)])
            return [a, c, b, d]
        second = second[::-1]
        surplus = max(0, len(first) + len(second) - k)
        network.extend(
            (high, low, False) for high, low in zip(first[len(first) - surplus :], second[:surplus], strict=True)
        )
        merged = first + second[surplus:]
        if in_order:
            sort_bitonic(merged)
        return merged

    return network, largest(list(range(n)), False)
