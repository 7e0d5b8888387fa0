"""Partial fine-tuning: which blocks of the vision tower train."""

import pytest
import torch
from tiny import tiny_batch, tiny_model

from fafa.training.vision_blocks import train_vision_blocks


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("num_blocks", [0, 1, 2, -1])
def test_last_vision_blocks_train(num_blocks):
    model = train_vision_blocks(tiny_model(), num_blocks).train()
    model(**tiny_batch()).loss.backward()
    tower = {name for name, _ in model.named_parameters() if name.startswith(("vision_model.enc", "vision_model.emb"))}
    expected = [f"vision_model.encoder.layers.{2 - i}." for i in range(num_blocks)]
    expected = {name for name in tower if num_blocks < 0 or name.startswith(tuple(expected))}
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained(model) & tower == with_gradient & tower == expected
    assert {"query_tokens", "temperature", "vision_model.post_layernorm.weight"} <= with_gradient
    modes = [block.training for block in model.vision_model.encoder.layers]
    assert modes == [num_blocks < 0 or i >= 3 - num_blocks for i in range(3)]


def test_partial_training_and_full_training_compute_the_same_gradients():
    full, partial = (train_vision_blocks(tiny_model(), num_blocks) for num_blocks in (-1, 1))
    for model in (full, partial):
        torch.manual_seed(0)
        model(**tiny_batch()).loss.backward()
    for name in trained(partial):
        torch.testing.assert_close(partial.get_parameter(name).grad, full.get_parameter(name).grad)


def test_more_blocks_than_there_are():
    with pytest.raises(ValueError, match="is 4, but the vision tower has 3 blocks"):
        train_vision_blocks(tiny_model(), 4)
