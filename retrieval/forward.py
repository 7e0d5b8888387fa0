"""The one way in which search and evaluation call a model: on a CPU, the rows of a batch are shared among threads."""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ..retriever import Retriever
from ..threads import in_threads, taken
from ..workers import num_cores

SMALL_MODEL = 2**24  # weights: with fewer, an operation on one image ends before a second core has begun


def forward(model: Retriever, features_of: Callable[..., Tensor], **inputs: Tensor) -> Tensor:
    """`features_of(**inputs)` without gradients; on a CPU, in as many threads as torch would use, each on one core.

    torch itself divides every operation among its threads, which wait for each other at its end by spinning. A forward
    pass has hundreds of operations: beside worker processes that read images, or any other program, all of them wait
    for the slowest every time: beside busy processes, two such threads took more time than one alone.

    A batch with fewer rows than threads goes whole to torch's own threads, but that of a small model to one core.

    Args:
        features_of: a method of the model, `get_target_features` or `get_query_features`.
        inputs: its arguments, each `(num_rows, ...)`.
    """
    rows = next(iter(inputs.values()))
    num_threads, is_cpu = min(torch.get_num_threads(), num_cores()), rows.device.type == "cpu"
    # Other threads see no mode of this one: autocast, counting of operations.
    has_modes = torch.is_autocast_enabled("cpu") or _get_current_dispatch_mode() is not None
    is_divisible = len(rows) >= num_threads or sum(weights.numel() for weights in model.parameters()) < SMALL_MODEL
    if not is_cpu or num_threads == 1 or has_modes or not is_divisible:
        with torch.no_grad():
            return features_of(**inputs)
    size = -(-len(rows) // num_threads)
    blocks, parts = deque(range(0, len(rows), size)), {}

    def encode_blocks() -> None:
        # In inference mode, what a model keeps for the next time could not be used in training.
        with torch.inference_mode(False), torch.no_grad():
            for start in taken(blocks):
                parts[start] = features_of(**{name: part[start : start + size] for name, part in inputs.items()})

    in_threads(encode_blocks, blocks)
    return torch.cat([parts[start] for start in sorted(parts)])
