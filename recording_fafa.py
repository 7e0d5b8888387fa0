"""Records hidden states and attention weights of the towers, on request."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn

Run = dict[str, tuple[Tensor, ...]]


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
