"""CoAlign made tiny, on both backbones."""

import torch
from tiny import WORDS, tiny_processor

from fafa.models.coalign import (
    CoAlignClipConfig,
    CoAlignClipModel,
    CoAlignClipProcessor,
    CoAlignConfig,
    CoAlignModel,
    CoAlignProcessor,
)
from fafa.processing_fafa import build_tokenizer


def small_model(seed: int = 0, **options) -> CoAlignModel:
    """On BLIP-2's towers, of random weights, in eval mode."""
    torch.manual_seed(seed)
    return CoAlignModel(CoAlignConfig.tiny(vocab_size=len(WORDS) + 1, **options)).eval()


def small_processor() -> CoAlignProcessor:
    """96-pixel images and a dozen words."""
    parts = tiny_processor()
    return CoAlignProcessor(parts.image_processor, parts.tokenizer)


def clip_model(seed: int = 0, **options) -> CoAlignClipModel:
    """On CLIP's towers, whose fusion begins at 0: here it has random weights as well."""
    torch.manual_seed(seed)
    model = CoAlignClipModel(CoAlignClipConfig.tiny(vocab_size=len(WORDS) + 1, **options)).eval()
    torch.nn.init.normal_(model.fusion[-1].weight, std=0.1)
    return model


def clip_processor() -> CoAlignClipProcessor:
    """The same words."""
    return CoAlignClipProcessor.tiny(build_tokenizer(WORDS), CoAlignClipConfig.tiny())
