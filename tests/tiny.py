"""Small models for the tests: a tiny FAFA, its processor, and the released model behind the golden vectors."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from fafa import FafaConfig, FafaImageProcessor, FafaModel, FafaProcessor
from fafa.convert_fafa_checkpoint import convert_state_dict
from fafa.processing_fafa import build_tokenizer

GOLDEN = Path(__file__).parent / "fixtures" / "golden"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "in", "now", "with", "red", "blue", "coat", "bag", "hat"]


def tiny_config(**options) -> FafaConfig:
    """The tiny preset with the vocabulary of `tiny_processor`."""
    return FafaConfig.tiny(vocab_size=len(WORDS) + 1, **options)


def tiny_model(seed: int = 0, **options) -> FafaModel:
    """Random weights, in eval mode."""
    torch.manual_seed(seed)
    return FafaModel(tiny_config(**options)).eval()


def tiny_processor() -> FafaProcessor:
    """96-pixel images and a dozen words."""
    image_processor = FafaImageProcessor(person_size={"height": 96, "width": 48}, size={"height": 96, "width": 96})
    return FafaProcessor(image_processor, build_tokenizer(WORDS))


def tiny_batch(size: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """Inputs of `FafaModel.forward`, the second half of the captions padded."""
    generator = torch.Generator().manual_seed(seed)
    attention_mask = torch.ones(size, 7, dtype=torch.long)
    attention_mask[size // 2 :, 5:] = 0
    return {
        "pixel_values": torch.randn(size, 3, 96, 96, generator=generator),
        "input_ids": torch.randint(5, len(WORDS), (size, 7), generator=generator),
        "attention_mask": attention_mask,
        "target_pixel_values": torch.randn(size, 3, 96, 96, generator=generator),
        "group_ids": torch.arange(size) // 2,
    }


def golden_tensors(name: str) -> dict[str, torch.Tensor]:
    """One file of golden vectors."""
    return load_file(GOLDEN / f"{name}.safetensors")


def golden_config(**options) -> FafaConfig:
    """The configuration that the golden vectors were made with, as released: a whole group counts as correct."""
    published = json.loads((GOLDEN / "config_public.json").read_text())
    vision, qformer, fafa = published["vision"], published["qformer"], published["fafa"]
    return FafaConfig(
        **{
            "vision_config": {
                "hidden_size": vision["dim"],
                "intermediate_size": vision["mlp_hidden"],
                "num_hidden_layers": vision["depth"],
                "num_attention_heads": vision["heads"],
                "image_size": vision["image_size"],
                "patch_size": vision["patch_size"],
            },
            "qformer_config": {
                "vocab_size": qformer["vocab_size"],
                "hidden_size": qformer["hidden"],
                "intermediate_size": qformer["intermediate"],
                "num_hidden_layers": qformer["layers"],
                "num_attention_heads": qformer["heads"],
                "max_position_embeddings": qformer["max_position"],
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
            },
            "num_query_tokens": qformer["num_query_token"],
            "projection_dim": fafa["embed_dim"],
            "num_top_tokens": fafa["fda_k"],
            "mfr_hidden_size": fafa["mfr_hidden"],
            "fda_alpha": 1.0,
            **options,
        }
    )


def golden_model(**options) -> FafaModel:
    """The released model behind the golden vectors, converted; in eval mode."""
    config = golden_config(**options)
    model = FafaModel(config)
    model.load_state_dict(convert_state_dict(golden_tensors("fafa_public"), config))
    return model.eval()
