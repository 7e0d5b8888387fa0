"""The methods that tests/models/test_every_model.py looks at: a new one adds a row here, and is held to the contract.

Each row makes a tiny model of random weights, in eval mode, and its processor, which know the words of
tests/tiny_triplets.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import tiny_coalign
import tiny_dual_encoder
import tiny_word4per

from fafa.retriever import QUERY_MODES, Retriever, RetrieverProcessor


@dataclass(frozen=True)
class Row:
    """One method, or one stage of it.

    Args:
        model: makes one of a seed, without dropout and other random draws, so that its loss repeats.
        processor: makes its processor.
        method: as its card is headed.
        modes: kinds of query that it answers.
        training: options of the trainer.
        learns: part of the name of a weight that training changes.
    """

    model: Callable[[int], Retriever]
    processor: Callable[[], RetrieverProcessor]
    method: str
    learns: str
    modes: tuple[str, ...] = tuple(QUERY_MODES)
    training: dict[str, Any] = field(default_factory=dict)


EVERY_MODEL = {
    # All entries are masked, which draws nothing.
    "coalign": Row(
        model=lambda seed=0: tiny_coalign.small_model(seed, itc_weight=0.5, lcr_mask_ratio=1.0),
        processor=tiny_coalign.small_processor,
        method="CoAlign",
        learns="qformer",
    ),
    "coalign-clip": Row(
        model=lambda seed=0: tiny_coalign.clip_model(seed, itc_weight=0.5, lcr_mask_ratio=1.0),
        processor=tiny_coalign.clip_processor,
        method="CoAlign on CLIP",
        learns="fusion",
    ),
    "word4per-1": Row(
        model=lambda seed=0: tiny_word4per.tiny_model(
            seed, stage=1, itc_weight=0.5, cmpm_weight=0.1, relative_weight=0.5
        ),
        processor=tiny_word4per.tiny_processor,
        method="Word4Per",
        learns="clip.visual_projection",
        modes=("caption", "image"),
        training={"bias_rate": 2.0, "new_layer_rate": 5.0},
    ),
    "word4per-2": Row(
        model=lambda seed=0: tiny_word4per.tiny_model(seed, composed_weight=0.5),
        processor=tiny_word4per.tiny_processor,
        method="Word4Per",
        learns="tinets.text",
    ),
    "dual-encoder": Row(
        model=lambda seed=0: tiny_dual_encoder.tiny_model(seed=seed, itc_weight=0.5),
        processor=tiny_dual_encoder.tiny_processor,
        method="Noise-robust dual encoder",
        learns="backbone.visual_projection",
    ),
    "dual-encoder-siglip": Row(
        model=lambda seed=0: tiny_dual_encoder.tiny_model("siglip", seed, sigmoid_weight=0.5),
        processor=lambda: tiny_dual_encoder.tiny_processor("siglip"),
        method="Noise-robust dual encoder",
        learns="backbone.logit_bias",
    ),
}
