"""Padding of captions, on either side."""

import torch
from torch import Tensor


def moved_left(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """The same with captions that are padded on the left padded on the right, since positions begin at the left.

    Args:
        input_ids: `(num_captions, length)`.
        attention_mask: the same shape, 0 at padding.
    """
    first = attention_mask.int().argmax(dim=1, keepdim=True)
    places, length = torch.arange(input_ids.shape[1], device=input_ids.device) + first, input_ids.shape[1]
    places = torch.where(
        places < length, places, places - length
    )  # a remainder by a variable length is nothing for ONNX
    return input_ids.gather(1, places), attention_mask.gather(1, places)
