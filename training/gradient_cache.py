"""Large batches in little memory: the gradients of a whole batch, with the activations of a few triplets at a time."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.utils.checkpoint import get_device_states, set_device_states
from transformers.utils import ModelOutput

from ..retriever import Retriever


def cached_backward(
    model: Retriever,
    inputs: dict[str, Tensor],
    chunk_size: int,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    **loss_options: Any,
) -> ModelOutput:
    """Adds the gradients of `model(**inputs).loss` to the parameters, keeping one chunk's activations at a time.

    Three passes: states of all chunks without a graph; the loss over all states and its gradient by them; each chunk
    again, with a graph, to carry that gradient on. One more forward pass is the price. The last pass repeats the random
    numbers (dropout) of the first. Equal to the plain step up to rounding.

    Args:
        model: not wrapped by data parallelism; gradients are those of this process (`average_gradients`).
        inputs: a batch, as for the model's `forward`.
        chunk_size: triplets that have activations at a time.
        autocast: makes the context of the forward passes.
        loss_options: further arguments of the model's `losses`.

    Returns:
        the output over the whole batch, detached.
    """
    inputs = dict(inputs)
    group_ids = inputs.pop("group_ids", None)
    num_triplets = len(next(iter(inputs.values())))
    chunks = [
        {name: tensor[start : start + chunk_size] for name, tensor in inputs.items()}
        for start in range(0, num_triplets, chunk_size)
    ]

    parts, random_states = [], []
    with torch.no_grad(), autocast():
        for chunk in chunks:
            random_states.append(_random_state(chunk))
            parts.append(model.training_states(**chunk))
    fields = zip(*parts, strict=True)
    joined = (None if field[0] is None else torch.cat(field).requires_grad_() for field in fields)
    states = type(parts[0])._make(joined)
    del parts

    with autocast():
        output = model.losses(states, group_ids, **loss_options)
    output.loss.backward()

    after = _random_state(inputs)
    learns = [state is not None and state.grad is not None for state in states]  # the loss may take some as they are
    gradients = zip(*(state.grad.split(chunk_size) for state in compress(states, learns)), strict=True)
    for chunk, random_state, gradient in zip(chunks, random_states, gradients, strict=True):
        _set_random_state(*random_state)
        with autocast():
            again = compress(model.training_states(**chunk), learns)
        pairs = [(state, one) for state, one in zip(again, gradient, strict=True) if state.requires_grad]
        torch.autograd.backward(*zip(*pairs, strict=True))  # without those of frozen towers
    _set_random_state(*after)
    return type(output)(**{name: tensor.detach() for name, tensor in output.items()})


def average_gradients(model: torch.nn.Module) -> None:
    """Replaces every gradient by its mean over processes, as data-parallel training does."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _random_state(tensors: dict[str, Tensor]) -> tuple:
    return torch.get_rng_state(), *get_device_states(*tensors.values())


def _set_random_state(cpu_state: Tensor, devices: list[int], device_states: list[Tensor]) -> None:
    torch.set_rng_state(cpu_state)
    set_device_states(devices, device_states)
