"""A model that shares nothing with FAFA, written only with the contract: that of docs/your-own-model.md, made tiny."""

import re
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPImageProcessor, PreTrainedTokenizerFast

PAGE = Path(__file__).parents[1] / "docs" / "your-own-model.md"
WORDS = ["<pad>", "<unk>", "<s>", "</s>", "a", "in", "now", "with", "red", "blue", "coat", "bag", "hat"]

# The page's code, each line where it stands there, so that tracebacks show it.
_code = re.sub(r"(\A|```\n).*?(```python\n|\Z)", lambda gap: "\n" * gap[0].count("\n"), PAGE.read_text(), flags=re.S)
exec(compile(_code, str(PAGE), "exec"), globals())


def second_config(**options):
    """Four patches by two, of 48 x 24 pixels: CLIP's own are squares, so their places are interpolated."""
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": len(WORDS), "max_position_embeddings": 16, "bos_token_id": 2, "eos_token_id": 3}
    clip = {
        "vision_config": {**tower, "image_size": 48, "patch_size": 12},
        "text_config": {**tower, **text, "pad_token_id": 0},
        "projection_dim": 8,
    }
    return SumConfig(**{"clip_config": clip, **options})  # noqa: F821


def second_model(seed: int = 0, **options):
    """Random weights, in eval mode."""
    torch.manual_seed(seed)
    return SumModel(second_config(**options)).eval()  # noqa: F821


def second_processor():
    """A tokenizer of whole words between <s> and </s>, and images that are not square."""
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=16, **special)
    image_processor = CLIPImageProcessor(size={"height": 48, "width": 24}, do_center_crop=False)
    return SumProcessor(image_processor, tokenizer)  # noqa: F821
