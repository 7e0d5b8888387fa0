"""Records hidden states and attention weights of the towers, on request."""

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

Run = dict[str, tuple[Tensor, ...]]

_ONE_AT_A_TIME = threading.Lock()  # or one would put back the eager attention of another


class Recording(NamedTuple):
    """The hidden states and attention weights that were asked for, of each run of a tower, in order."""

    vision: list[Run]
    qformer: list[Run]


@contextmanager
def recorded(
    vision_encoder: nn.Module, qformer_encoder: nn.Module, hidden_states: bool, attentions: bool
) -> Iterator[Recording]:
    """Records what two towers do within the block.

    Args:
        vision_encoder: a `Blip2Encoder`.
        qformer_encoder: a `Blip2QFormerEncoder`.
        hidden_states: whether to record the states before the first layer and after each.
        attentions: whether to record attention weights, which only eager attention gives.
    """
    recording, handles = Recording([], []), []
    vision, qformer = vision_encoder.layers, qformer_encoder.layer
    of_vision = {"attentions": [layer.self_attn for layer in vision]}
    # transformers' own recording mixes the Q-Former's weights of both kinds.
    of_qformer = {
        "attentions": [layer.attention.attention for layer in qformer],
        "cross_attentions": [layer.crossattention.attention for layer in qformer if layer.has_cross_attention],
    }
    try:
        if hidden_states or attentions:
            for encoder, layers, weights, runs in (
                (vision_encoder, vision, of_vision, recording.vision),
                (qformer_encoder, qformer, of_qformer, recording.qformer),
            ):
                handles += _watch(encoder, layers if hidden_states else (), weights if attentions else {}, runs)
        yield recording
    finally:
        for handle in handles:
            handle.remove()


def _watch(
    encoder: nn.Module, layers: Collection[nn.Module], weights: Mapping[str, Collection[nn.Module]], runs: list[Run]
) -> Iterator:
    def start(module, args, kwargs):
        run = dict.fromkeys(weights, ())
        if layers:
            run["hidden_states"] = (args[0] if args else kwargs["inputs_embeds"],)
        runs.append(run)

    def keep(name, index=None):
        def hook(module, args, output):
            runs[-1][name] += (output if index is None else output[index],)

        return hook

    yield encoder.register_forward_pre_hook(start, with_kwargs=True)
    for layer in layers:
        yield layer.register_forward_hook(keep("hidden_states"))
    for name, modules in weights.items():
        for module in modules:
            yield module.register_forward_hook(keep(name, 1))


@contextmanager
def recorded_weights(model: PreTrainedModel, attentions: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """Records attention weights within the block, for which attention is eager; then it is again what it was.

    Other threads may use the model meanwhile: they get the same features, and are not recorded.

    Args:
        model: the model, or the tower of it that the modules are in.
        attentions: modules whose second output are weights, `(num_images, num_heads, num_queries, num_keys)`; they are
            recorded in the order in which they run.
    """
    weights: list[Tensor] = []
    own = threading.get_ident()

    def keep(module, inputs, output):
        if threading.get_ident() == own:
            weights.append(output[1])

    with _ONE_AT_A_TIME:
        configs = list({id(config): config for module in model.modules() for config in _configs_of(module)}.values())
        before = [config._attn_implementation for config in configs]
        handles = [module.register_forward_hook(keep) for module in attentions]
        try:
            model.set_attn_implementation("eager")
            yield weights
        finally:
            for handle in handles:
                handle.remove()
            for config, kind in zip(configs, before, strict=True):  # a whole before its parts, which it also sets
                config._attn_implementation = kind


def _configs_of(module: nn.Module) -> Iterator[PreTrainedConfig]:
    waiting = [getattr(module, "config", None)]
    while waiting:
        if isinstance(config := waiting.pop(), PreTrainedConfig):
            yield config
            waiting += [getattr(config, name, None) for name in config.sub_configs]


def weights_of_patches(weights: Tensor, grid: tuple[int, int]) -> Tensor:
    """What attention weights say of each patch, in fp32: the mean over heads, without the class token's share.

    Args:
        weights: `(num_images, num_heads, num_queries, 1 + num_patches)`, the class token first.
        grid: rows and columns of patches.

    Returns:
        `(num_images, num_queries, rows, columns)`.
    """
    return weights.float().mean(dim=1)[..., 1:].unflatten(-1, grid)
