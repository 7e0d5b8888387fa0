"""Gathers rows of all processes, so that each computes the loss that one process would on the whole batch."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from .checks_fafa import check_group_ids


class _GatherRows(torch.autograd.Function):
    """Concatenates every process's rows; the gradient of a row is the sum of what all processes derive for it.

    Every process computes the whole loss, so that sum is `world_size` times the gradient, and the mean over processes
    that data-parallel training takes of parameter gradients makes it exact.
    """

    @staticmethod
    def forward(ctx, rows: Tensor, counts: list[int]) -> Tensor:
        largest = max(counts)
        padded = rows.new_zeros(largest, *rows.shape[1:])  # processes exchange tensors of equal size
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        rank = dist.get_rank()
        ctx.first, ctx.last = sum(counts[:rank]), sum(counts[: rank + 1])
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient[ctx.first : ctx.last], None


@torch.compiler.disable
def gather_rows(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Concatenates the rows that each process holds, in the order of processes, with exact gradients.

    Args:
        tensors: each `(num_rows, ...)`, with as many rows as the others in this process; another process may have
            another number, but at least one. None stays None, and must be None everywhere.

    Returns:
        the same tensors over `(num_rows of all processes together, ...)`.
    """
    first = next(tensor for tensor in tensors if tensor is not None)
    counts = [torch.zeros(1, dtype=torch.long, device=first.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(first)], device=first.device))
    sizes = torch.cat(counts).tolist()
    return tuple(None if tensor is None else _GatherRows.apply(tensor, sizes) for tensor in tensors)


@torch.compiler.disable
def share_random_state(device: torch.device) -> None:
    """Sets every process's random state to that of the first, so that all sample the same masks.

    Without dropout, which samples for a process's own rows, that state is also the one a single process would have.
    """
    on_cuda = device.type == "cuda"
    state = torch.cuda.get_rng_state(device) if on_cuda else torch.get_rng_state()
    shared = state.to(device)
    dist.broadcast(shared, 0)
    torch.cuda.set_rng_state(shared.cpu(), device) if on_cuda else torch.set_rng_state(shared)


class TripletStates(NamedTuple):
    """Q-Former states of a batch of triplets before projection: all that the losses are computed from."""

    query: Tensor  # (batch_size, qformer_hidden_size), the [CLS] state of reference image and relative caption
    target: Tensor  # (batch_size, num_query_tokens, qformer_hidden_size)
    caption: Tensor | None = None  # (batch_size, qformer_hidden_size), the [CLS] state of the whole captions


def whole_batch(
    states: TripletStates, group_ids: Tensor | None, gather_across_processes: bool
) -> tuple[TripletStates, Tensor]:
    """What a loss compares: the triplets of this process, or of all together, which then draw the same masks.

    Args:
        states: of this process's triplets.
        group_ids: `(batch_size,)`, equal for triplets of one group; None: every triplet its own.
        gather_across_processes: whether to gather; every process must call with it.

    Raises:
        ValueError, TypeError: `group_ids` are not one integer a triplet.
    """
    if group_ids is not None:
        check_group_ids(group_ids, states.query.shape[0])
    if gather_across_processes:
        *gathered, group_ids = gather_rows(*states, group_ids)
        states = TripletStates(*gathered)
        share_random_state(states.query.device)
    if group_ids is None:
        group_ids = torch.arange(states.query.shape[0], device=states.query.device)
    return states, group_ids
