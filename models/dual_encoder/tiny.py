"""A dual encoder of random weights, small enough to learn the painted world on a CPU."""

from collections.abc import Iterable
from typing import Any

from transformers import CLIPImageProcessor

from ...processing_fafa import build_tokenizer
from ...training.vocabulary import build_vocabulary
from .configuration import DualEncoderConfig
from .modeling import DualEncoderModel
from .processing import DualEncoderProcessor

_TOWER = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
_MOST_TOKENS = 48


def tiny_dual_encoder(captions: Iterable[str], **settings: Any) -> tuple[DualEncoderModel, DualEncoderProcessor]:
    """A CLIP of 2 million parameters with random weights, and its processor.

    Images of 96 x 48 pixels in 32 patches; the vocabulary is that of the captions.

    Args:
        captions: of the training set.
        settings: of `DualEncoderConfig`.
    """
    tokenizer = build_tokenizer(build_vocabulary(captions))
    tokenizer.eos_token = "[SEP]"  # where a CLIP reads the feature of a caption
    backbone = {
        "model_type": "clip",
        "projection_dim": 64,
        "vision_config": {**_TOWER, "image_size": 96, "patch_size": 12},
        "text_config": {
            **_TOWER,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": _MOST_TOKENS,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.cls_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
    }
    sizes = {"image_height": 96, "image_width": 48}
    model = DualEncoderModel(DualEncoderConfig(**{"backbone_config": backbone, **sizes, **settings}))
    height, width = model.image_shape
    image_processor = CLIPImageProcessor(size={"height": height, "width": width}, do_center_crop=False)
    return model, DualEncoderProcessor(image_processor, tokenizer, max_text_length=_MOST_TOKENS)
