"""Learning rates that differ between parts of a model."""

from collections import defaultdict

from torch import nn
from torch.optim import Optimizer

from ..retriever import Retriever


def set_rates(optimizer: Optimizer, model: nn.Module, retriever: Retriever, biases: float, new_layers: float) -> None:
    """Divides an optimiser's groups, before its first step, so that biases and new layers learn at rates of their own.

    Args:
        optimizer: with the weights of `model`, and nothing else.
        model: as the trainer holds it; `retriever` within it names its `new_layers`.
        biases: how many times the rate of weights; likewise `new_layers`. A new layer's bias has the product.

    Raises:
        ValueError: the optimiser has no rate of its own.
    """
    factors = {
        id(weight): (biases if name.endswith("bias") else 1.0)
        * (new_layers if any(part in name for part in retriever.new_layers) else 1.0)
        for name, weight in model.named_parameters()
    }
    groups = []
    for group in optimizer.param_groups:
        if group.get("lr") is None:
            raise ValueError(
                f"bias_rate and new_layer_rate multiply a learning rate, which {type(optimizer).__name__} chooses by "
                "itself: leave them out, or choose another optim"
            )
        by_factor = defaultdict(list)
        for weight in group["params"]:
            by_factor[factors[id(weight)]].append(weight)
        for factor in sorted(by_factor):  # the plain ones first, whose rate is logged
            groups.append({**group, "params": by_factor[factor], "lr": group["lr"] * factor})
    optimizer.param_groups[:] = groups
