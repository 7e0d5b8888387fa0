"""The encoder of queries as they come: images, captions or both, all that are asked at one time in one batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..retriever import QUERY_MODES, Retriever, RetrieverProcessor
from .forward import forward


@torch.no_grad()
def encode_pairs(model: Retriever, processor: RetrieverProcessor, pairs: Sequence[tuple[Any, str | None]]) -> Tensor:
    """Features of queries, each an image, a caption or both; those of one kind are encoded together.

    Args:
        pairs: image, as `open_image` takes it, or None, and caption, or None. An image in several pairs is opened once.

    Returns:
        `(num_pairs, dim)`, unit length, on the model's device, in order.

    Raises:
        ValueError: there are no pairs, one with neither image nor caption, or a caption without a word. And errors as
            for `open_image`.
    """
    if any(image is None and caption is None for image, caption in pairs):
        raise ValueError("a query needs an image, a caption or both; neither was given")
    images = {id(image): image for image, _ in pairs if image is not None}
    crops = {number: processor.resize_crop(processor.open_crop(image)) for number, image in images.items()}
    kinds: dict[tuple[bool, bool], list[int]] = {}
    for place, (image, caption) in enumerate(pairs):
        kinds.setdefault((image is not None, caption is not None), []).append(place)
    encoded = []
    for (has_image, has_caption), places in kinds.items():
        inputs: dict[str, Tensor] = {}
        if has_image:
            inputs["pixel_values"] = processor.to_pixels([crops[id(pairs[place][0])] for place in places])
        if has_caption:
            inputs |= processor.encode_captions([pairs[place][1] for place in places], ["caption"] * len(places))
        given = {name: inputs[name].to(model.device) for name in QUERY_MODES["image+caption"] if name in inputs}
        encoded.append(forward(model, model.get_query_features, **given))
    order = torch.tensor([place for places in kinds.values() for place in places])
    return torch.cat(encoded)[order.argsort().to(encoded[0].device)]
