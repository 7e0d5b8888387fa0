"""A tiny dual encoder, on the towers of a CLIP or of a SigLIP, and its processor."""

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPImageProcessorPil, PreTrainedTokenizerFast

from fafa.models.dual_encoder import DualEncoderConfig, DualEncoderModel, DualEncoderProcessor

WORDS = ["<pad>", "<unk>", "<s>", "</s>", "a", "in", "now", "with", "red", "blue", "coat", "bag", "hat"]
_TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_TEXT = {
    "vocab_size": len(WORDS),
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}


def tiny_config(kind: str = "clip", **options) -> DualEncoderConfig:
    """Images of 48 x 24 pixels, in patches of 12."""
    backbone = {
        "model_type": kind,
        "vision_config": {**_TOWER, "image_size": 48, "patch_size": 12},
        "text_config": {**_TOWER, **_TEXT},
        **({"projection_dim": 8} if kind == "clip" else {}),
    }
    return DualEncoderConfig(**{"backbone_config": backbone, "image_height": 48, "image_width": 24, **options})


def tiny_model(kind: str = "clip", seed: int = 0, **options) -> DualEncoderModel:
    """Random weights, in eval mode."""
    torch.manual_seed(seed)
    return DualEncoderModel(tiny_config(kind, **options)).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words between <s> and </s>."""
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=16, **special)


def tiny_processor(kind: str = "clip", **options) -> DualEncoderProcessor:
    """Of `tiny_model`."""
    image_processor = CLIPImageProcessorPil(size={"height": 48, "width": 24}, do_center_crop=False)
    padding = "max_length" if kind == "siglip" else "longest"
    settings = {"max_text_length": 16, "caption_padding": padding, **options}
    return DualEncoderProcessor(image_processor, tiny_tokenizer(), **settings)


def tiny_pairs(size: int = 6, kind: str = "clip", seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch of pairs, two of an identity each."""
    generator = torch.Generator().manual_seed(seed)
    colours, things = torch.randint(8, 10, (2, size), generator=generator)[0], torch.randint(10, 13, (size,))
    captions = [f"a {WORDS[a]} {WORDS[b]}" for a, b in zip(colours.tolist(), things.tolist(), strict=True)]
    return {
        "target_pixel_values": torch.randn(size, 3, 48, 24, generator=generator),
        **tiny_processor(kind).encode_captions(captions),
        "group_ids": torch.arange(size) // 2,
    }
