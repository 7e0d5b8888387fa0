"""A tiny Word4Per of either stage, and its processor; the released one behind the golden vectors."""

import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file

from fafa.models.word4per import Word4PerConfig, Word4PerModel, Word4PerProcessor, build_tokenizer, convert_released
from fafa.models.word4per.processing import clip_image_processor

GOLDEN = Path(__file__).parent / "fixtures" / "golden"
CAPTIONS = ["now in a red coat", "with a blue bag", "a hat", "in a red coat with a hat"] * 3
_TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TINETS = [{"name": "text", "hidden_sizes": [12, 12]}, {"name": "image", "hidden_sizes": [12]}]


@cache
def _tokenizer():
    return build_tokenizer(CAPTIONS, 560, max_length=24)


def tiny_processor(**options) -> Word4PerProcessor:
    """Images of 48 x 24 pixels, captions of at most 24 tokens."""
    return Word4PerProcessor(clip_image_processor(48, 24), _tokenizer(), **{"max_text_length": 24, **options})


def tiny_config(**options) -> Word4PerConfig:
    """Patches of 12 pixels, which overlap by half."""
    clip = {
        "vision_config": {**_TOWER, "patch_size": 12},
        "text_config": {**_TOWER, "max_position_embeddings": 24},
        "projection_dim": 8,
    }
    sizes = {"image_height": 48, "image_width": 24, "stride": 6, "tinet_dropout": 0.0}
    if options.get("stage") != 1:
        sizes["tinets"] = TINETS
    words = tiny_processor().word_settings()
    return Word4PerConfig.tiny(len(_tokenizer()), **{"clip_config": clip, **sizes, **words, **options})


def tiny_model(seed: int = 0, **options) -> Word4PerModel:
    """Random weights, in eval mode."""
    torch.manual_seed(seed)
    return Word4PerModel(tiny_config(**options)).eval()


@cache
def golden() -> dict[str, torch.Tensor]:
    """Vectors of the released code."""
    return load_file(GOLDEN / "word4per_public.safetensors")


def golden_config() -> dict:
    """Sizes and ids that they were made with."""
    return json.loads((GOLDEN / "word4per_public.json").read_text())["config"]


def golden_states(*names: str) -> tuple[dict, dict]:
    """Weights of CLIP, and of TINets, by their released names."""
    states = {
        part: {name.partition(".")[2]: weight for name, weight in golden().items() if name.startswith(f"{part}.")}
        for part in ("clip", "tinet_text", "tinet_img")
    }
    tinets = {"text": states["tinet_text"], "image": states["tinet_img"]}
    return states["clip"], {name: tinets[name] for name in names or tinets}


def golden_model(*names: str, **options) -> Word4PerModel:
    """The released model, converted."""
    config = golden_config()
    ids = {"pseudo_token_id": config["star"], "eos_token_id": config["eot_id"], "image_size": tuple(config["img"])}
    return convert_released(*golden_states(*names), **{**ids, **options})
