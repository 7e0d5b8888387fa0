"""Weights as they were published: their names and sizes, and where each tensor goes in FafaModel."""

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .checkpoint_files import check_names, read_checkpoint
from .commands import loading
from .configuration_fafa import FafaConfig
from .configuration_towers_fafa import TowersConfig
from .files import printable, some
from .modeling_fafa import FafaModel
from .modeling_towers_fafa import TowersModel
from .names import counted

logger = logging.getLogger(__name__)

# From a name in FafaModel to the released (LAVIS) name: every pattern is applied, in this order.
RELEASED_NAMES = [
    (r"^vision_model\.embeddings\.class_embedding$", "visual_encoder.cls_token"),
    (r"^vision_model\.embeddings\.position_embedding$", "visual_encoder.pos_embed"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual_encoder.patch_embed.proj."),
    (r"^vision_model\.post_layernorm\.", "ln_vision."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.layer_norm([12])\.", r"visual_encoder.blocks.\1.norm\2."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.projection\.", r"visual_encoder.blocks.\1.attn.proj."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.", r"visual_encoder.blocks.\1.attn."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.mlp\.", r"visual_encoder.blocks.\1.mlp."),
    (r"^embeddings\.", "Qformer.bert.embeddings."),
    (r"^qformer\.layernorm\.", "Qformer.bert.embeddings.LayerNorm."),
    (r"^qformer\.encoder\.", "Qformer.bert.encoder."),
    (r"attention\.attention\.", "attention.self."),
    (r"^vision_projection\.", "vision_proj."),
    (r"^text_projection\.", "text_proj."),
    (r"^temperature$", "temp"),
    (r"^mfr_predictor\.", "mlm_predictor.predictor."),
]

# Tensors of a released file from which sizes are read, with their ranks.
SIZE_KEYS = {
    "query_tokens": 3,
    "vision_proj.weight": 2,
    "visual_encoder.patch_embed.proj.weight": 4,
    "visual_encoder.pos_embed": 3,
    "visual_encoder.blocks.0.mlp.fc1.weight": 2,
    "Qformer.bert.embeddings.word_embeddings.weight": 2,
    "Qformer.bert.embeddings.position_embeddings.weight": 2,
    "Qformer.bert.encoder.layer.0.intermediate_query.dense.weight": 2,
}
MFR_SIZE_KEY = "mlm_predictor.predictor.0.bias"  # FAFA's own part, which BLIP-2 lacks

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)  # of weights
MOST_HEADS = 1_024  # as in a configuration
SHOWN = 20  # how many problems of each kind an error lists

HEADS_OF_VISION_WIDTH = {1408: 16, 1024: 16}  # EVA ViT-g, ViT-L
HEADS_OF_QFORMER_WIDTH = {768: 12}  # BERT-base
BLOCKS_OF_VISION_WIDTH = {1408: 39}  # BLIP-2 reads ViT-g before its 40th block

CAPTION_HEAD = "BLIP-2's word predictor for writing captions; retrieval has no use for it"
MATCHING_HEAD = "BLIP-2's image-text matching head; scores are similarities here"
COUNTER = "a constant counter of positions, which the model makes itself"
BEYOND_THE_TOWER = "BLIP-2 reads the tower before its last block, and puts its own LayerNorm (ln_vision) behind it"


@dataclass
class Conversion:
    """Where the tensors of a checkpoint go."""

    config: TowersConfig
    sources: dict[str, tuple[str, ...]]  # name in FafaModel -> names in the source; two for a joint bias of q, k and v
    dropped: dict[str, str]  # name in the source -> why it has no place in FafaModel
    fresh: dict[str, Tensor]  # name in FafaModel -> initial value of what BLIP-2 lacks; empty for a trained FAFA
    shapes: dict[str, tuple[int, ...]]  # name in FafaModel -> shape
    model_class: type[TowersModel] = FafaModel  # or another on the same towers, which is meant by FafaModel above

    def tensor(self, state_dict: Mapping[str, Tensor], name: str) -> Tensor:
        """The tensor of FafaModel called `name`, in the source's dtype."""
        if name in self.fresh:
            return self.fresh[name]
        parts = [state_dict[source] for source in self.sources[name]]
        if len(parts) == 1:
            return parts[0]
        query_bias, value_bias = parts
        return torch.cat([query_bias, torch.zeros_like(query_bias), value_bias])  # the key has no trained bias


def convert_state_dict(state_dict: Mapping[str, Tensor], config: FafaConfig) -> dict[str, Tensor]:
    """Renames a released FAFA, LAVIS BLIP-2 or `Blip2ForImageTextRetrieval` state dict for FafaModel.

    Args:
        state_dict: names to tensors.
        config: configuration of the model that will load the result; see `config_from_tensors`.

    Returns:
        exactly the names and shapes of `FafaModel(config).state_dict()`, in the source's dtypes. Parts that BLIP-2
        pre-training lacks have initial values; the log names these, and what is dropped.

    Raises:
        ValueError: keys are missing, unexpected, of another shape, or hold anything but finite floating-point weights;
            the error lists them all.
    """
    conversion = plan_conversion(state_dict, config)
    check_values(conversion, state_dict)
    for name, reason in conversion.dropped.items():
        logger.info("dropped %s: %s", name, reason)
    for name in conversion.fresh:
        logger.info("initialised %s: not part of BLIP-2 pre-training", name)
    return {name: conversion.tensor(state_dict, name) for name in conversion.shapes}


def plan_conversion(
    state_dict: Mapping[str, Tensor], config: TowersConfig, model_class: type[TowersModel] = FafaModel
) -> Conversion:
    """Finds a source for every tensor of the model, and a reason for every tensor that is left over.

    It compares names, types and sizes; `check_values` looks at the values. `config` is that of `model_class`, which is
    FafaModel or another on BLIP-2's towers.
    """
    check_names(state_dict)
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in model_class(config).state_dict().items()}
    is_released = any(key.startswith(("Qformer.", "visual_encoder.")) for key in state_dict)
    sources = {name: released_names(name) if is_released else (name,) for name in shapes}
    # The model's own parts, if the source is BLIP-2; a source with some of the predictor must have all of it.
    own_parts = tuple(f"{name}." for name in model_class.weights_of_losses - {"temperature"})
    predictor = [name for name in sources if name.startswith(own_parts)]
    absent = [] if any(sources[name][0] in state_dict for name in predictor) else predictor
    if absent and not is_released and "temperature" not in state_dict:  # LAVIS has one, Hugging Face's class has none
        absent.append("temperature")
    sources = {name: keys for name, keys in sources.items() if name not in absent}

    # Each part of a joint bias is a third of it; everything else has the shape of its target.
    wanted = {
        key: shapes[name] if len(keys) == 1 else (shapes[name][0] // 3,)
        for name, keys in sources.items()
        for key in keys
    }
    droppable = _droppable(config, is_released)
    dropped = {key: droppable[key][1] for key in state_dict if key in droppable and key not in wanted}
    _check(state_dict, wanted, {key: droppable[key][0] for key in dropped})
    fresh = {name: _initial_value(name, shapes[name], config) for name in absent}
    return Conversion(config, sources, dropped, fresh, shapes, model_class)


def released_names(name: str) -> tuple[str, ...]:
    """The released code's names of what FafaModel calls `name`: one, or two for a joint bias of query, key, value."""
    for pattern, replacement in RELEASED_NAMES:
        name = re.sub(pattern, replacement, name)
    if name.endswith(".attn.qkv.bias"):
        prefix = name.removesuffix("qkv.bias")
        return prefix + "q_bias", prefix + "v_bias"
    return (name,)


def _initial_value(name: str, shape: tuple[int, ...], config: TowersConfig) -> Tensor:
    """Like `FafaModel`'s own, but the same in every conversion."""
    if name == "temperature":
        return torch.tensor(float(config.temperature_init))
    if name.endswith(".bias"):
        return torch.zeros(shape)
    generator = torch.Generator().manual_seed(0)
    return torch.normal(0.0, config.qformer_config.initializer_range, shape, generator=generator)


def _droppable(config: TowersConfig, is_released: bool) -> dict[str, tuple[tuple[int, ...], str]]:
    """Names in the source that have no place in FafaModel: their shapes, and the reason."""
    hidden = config.qformer_config.hidden_size
    vocabulary, positions = config.qformer_config.vocab_size, config.qformer_config.max_position_embeddings
    droppable = {"itm_head.weight": ((2, hidden), MATCHING_HEAD), "itm_head.bias": ((2,), MATCHING_HEAD)}
    if not is_released:
        return droppable | {"embeddings.position_ids": ((1, positions), COUNTER)}
    caption_head = {
        "bias": (vocabulary,),
        "decoder.weight": (vocabulary, hidden),
        "decoder.bias": (vocabulary,),
        "transform.dense.weight": (hidden, hidden),
        "transform.dense.bias": (hidden,),
        "transform.LayerNorm.weight": (hidden,),
        "transform.LayerNorm.bias": (hidden,),
    }
    droppable |= {f"Qformer.cls.predictions.{key}": (shape, CAPTION_HEAD) for key, shape in caption_head.items()}
    return droppable | {"Qformer.bert.embeddings.position_ids": ((1, positions), COUNTER)}


def check_values(conversion: Conversion, state_dict: Mapping[str, Tensor]) -> None:
    """Looks at every weight that the model takes.

    Raises:
        ValueError: tensors hold NaN or infinite values, or matrices hold only zeros; the error lists them.
    """
    keys = [key for keys in conversion.sources.values() for key in keys]
    faults = []
    for key in tqdm(keys, desc="checking weights", unit="tensor", delay=2):
        tensor = state_dict[key]
        if not torch.isfinite(tensor).all():
            faults.append(f"{key} (NaN or infinite)")
        elif key.endswith(".weight") and tensor.ndim > 1 and not tensor.any():
            faults.append(f"{key} (all zeros)")
    if faults:
        raise ValueError(
            f"tensors of the checkpoint hold no trained weights ({len(faults)}): {some(faults, SHOWN)}. The file is "
            "damaged, or its training went wrong: fetch it again, or take an earlier one"
        )


def _check(state_dict: Mapping[str, Tensor], wanted: dict[str, tuple], dropped: dict[str, tuple]) -> None:
    expected = wanted | dropped
    found = {key: _shape_of(value) for key, value in state_dict.items()}
    problems = {
        "missing": [f"{key} {shape}" for key, shape in wanted.items() if key not in found],
        "unexpected": [f"{key} {shape}" for key, shape in found.items() if key not in expected],
        "mis-shaped": [
            f"{key} {found[key]}, expected {shape}"
            for key, shape in expected.items()
            if key in found and found[key] != shape
        ],
        "unusable": [
            f"{key} is {fault}"
            for key, shape in wanted.items()
            if found.get(key) == shape and (fault := _fault_of(state_dict[key]))
        ],
    }
    if number := sum(map(len, problems.values())):
        lines = []
        for kind, of_kind in problems.items():
            lines += [f"{kind:<11} {printable(problem)}" for problem in of_kind[:SHOWN]]
            lines += [f"{kind:<11} ... and {len(of_kind) - SHOWN} more"] if len(of_kind) > SHOWN else []
        raise ValueError(
            f"checkpoint and FafaModel differ in {counted(number, 'key')}; nothing was converted:\n  "
            + "\n  ".join(lines)
            + "\nIs the file whole, and does it come from the code that you expect? Shapes are compared with the "
            + f"configuration, read from {', '.join(SIZE_KEYS)} unless given."
        )
    # A small file may name one storage many times, and would become a model of any size.
    tensors = [state_dict[key] for key in wanted]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    claimed, held = sum(tensor.numel() * tensor.itemsize for tensor in tensors), sum(storages.values())
    if claimed > held:
        raise ValueError(
            f"the checkpoint's {len(tensors)} tensors have {claimed:,} bytes, but share {held:,}: some are the same "
            "under several names, which those of FafaModel never are"
        )


def _shape_of(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) and not value.is_nested else type(value).__name__


def _fault_of(tensor: Tensor) -> str | None:
    """Why a tensor cannot be the weights of a model; None if it can."""
    if tensor.layout != torch.strided:
        return "sparse or nested, expected a dense tensor"
    if tensor.dtype not in DTYPES:  # quantised ones among them
        return f"{str(tensor.dtype).removeprefix('torch.')}, expected float32, float16, bfloat16 or float64"
    if tensor.is_meta:
        return "without values, as saved from the meta device"
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        return f"made of {tensor.untyped_storage().nbytes():,} bytes that are repeated to its shape"
    return None


def config_from_tensors(
    state_dict: Mapping[str, Tensor],
    vision_heads: int | None = None,
    qformer_heads: int | None = None,
    config_class: type[TowersConfig] = FafaConfig,
) -> TowersConfig:
    """Reads the configuration from a state dict with released names.

    Args:
        state_dict: names to tensors, the vision tower among them.
        vision_heads: attention heads of the vision tower, which no tensor tells; None: BLIP-2's 16 at ViT-g's width.
        qformer_heads: attention heads of the Q-Former; None: 12 at BERT-base's width.
        config_class: of the model that it is for.

    Raises:
        ValueError: a tensor that tells a size is missing or of another rank, the tower is CLIP's, or the width is
            unknown and no heads are given.
    """
    check_names(state_dict)
    if "visual_encoder.ln_pre.weight" in state_dict:
        raise ValueError(
            "visual_encoder.ln_pre.weight: the vision tower is CLIP's ViT-L, with a LayerNorm before its first block "
            "for which transformers' Blip2VisionModel has no place. Only EVA towers (ViT-g) can be converted"
        )
    wrong = [f"{key} (missing)" for key in SIZE_KEYS if key not in state_dict]
    wrong += [
        f"{key} (shape {found}, expected {rank} axes)"
        for key, rank in (SIZE_KEYS | {MFR_SIZE_KEY: 1}).items()
        if key in state_dict and (isinstance(found := _shape_of(state_dict[key]), str) or len(found) != rank)
    ]
    if wrong:
        raise ValueError(f"cannot read the model's sizes from {', '.join(wrong)}; is this a FAFA or BLIP-2 checkpoint?")

    sizes = {key: tuple(state_dict[key].shape) for key in SIZE_KEYS}
    vision_width, _, patch_size, _ = sizes["visual_encoder.patch_embed.proj.weight"]
    num_patches = sizes["visual_encoder.pos_embed"][1] - 1
    vocab_size, qformer_width = sizes["Qformer.bert.embeddings.word_embeddings.weight"]
    num_positions = sizes["Qformer.bert.embeddings.position_embeddings.weight"][0]
    num_query_tokens = sizes["query_tokens"][1]
    vision_config = {
        "hidden_size": vision_width,
        "intermediate_size": sizes["visual_encoder.blocks.0.mlp.fc1.weight"][0],
        "num_hidden_layers": _num_layers(state_dict, "visual_encoder.blocks."),
        "num_attention_heads": _heads("--vision-heads", vision_heads, vision_width, HEADS_OF_VISION_WIDTH),
        "image_size": patch_size * math.isqrt(num_patches),
        "patch_size": patch_size,
    }
    num_layers = _num_layers(state_dict, "Qformer.bert.encoder.layer.")
    cross_layers = _numbers(state_dict, "Qformer.bert.encoder.layer.", "crossattention.")
    qformer_config = {
        "vocab_size": vocab_size,
        "hidden_size": qformer_width,
        "intermediate_size": sizes["Qformer.bert.encoder.layer.0.intermediate_query.dense.weight"][0],
        "num_hidden_layers": num_layers,
        "num_attention_heads": _heads("--qformer-heads", qformer_heads, qformer_width, HEADS_OF_QFORMER_WIDTH),
        "max_position_embeddings": num_positions,
        "cross_attention_frequency": cross_layers[1] - cross_layers[0] if len(cross_layers) > 1 else num_layers,
    }
    predictor = state_dict.get(MFR_SIZE_KEY)
    with loading("sizes of the checkpoint's tensors"):
        return config_class(
            vision_config=vision_config,
            qformer_config=qformer_config,
            num_query_tokens=num_query_tokens,
            projection_dim=sizes["vision_proj.weight"][0],
            num_top_tokens=min(config_class.num_top_tokens, num_query_tokens),
            max_text_length=min(config_class.max_text_length, num_positions),
            **({} if predictor is None else {config_class.predictor_size: len(predictor)}),
        )


def _num_layers(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    numbers = _numbers(state_dict, prefix)
    if numbers != list(range(len(numbers))):
        gap = next(number for number in range(len(numbers)) if number != numbers[number])
        raise ValueError(
            f"{prefix}* has {len(numbers)} layers, but they are numbered up to {numbers[-1]:,}: {prefix}{gap} is "
            "missing. Is the file whole, and does it come from the code that you expect?"
        )
    return len(numbers)


def _numbers(state_dict: Mapping[str, Tensor], prefix: str, part: str = "") -> list[int]:
    """The different layer numbers in names that begin with `prefix` and go on with `part`, ascending."""
    pattern = re.compile(rf"{re.escape(prefix)}([0-9]{{1,9}})\.{re.escape(part)}")
    return sorted({int(match[1]) for match in map(pattern.match, state_dict) if match})


def _heads(option: str, given: int | None, width: int, known: dict[int, int]) -> int:
    heads = known.get(width) if given is None else given
    if heads is None:
        raise ValueError(f"no tensor tells the number of attention heads, and width {width} is unknown: give {option}")
    check_heads(option, heads)
    if width % heads:
        raise ValueError(f"{option} is {heads}, which does not divide the width {width}")
    return heads


def check_heads(option: str, heads: int) -> None:
    """Refuses numbers of attention heads that no model has, by the name of the option."""
    if type(heads) is not int or not 1 <= heads <= MOST_HEADS:
        raise ValueError(f"{option} is {heads!r}, expected a whole number from 1 to {MOST_HEADS:,}")


def read_vision_tower(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Opens the vision tower that LAVIS publishes in a file of its own (`eva_vit_g.pth`).

    Returns:
        the state dict with names under `visual_encoder.`, and the names that BLIP-2 does not use, with the reason.
    """
    tower, dropped = read_checkpoint(path)
    shape = _shape_of(tower.get("cls_token"))
    last_used = BLOCKS_OF_VISION_WIDTH.get(shape[-1]) if shape and not isinstance(shape, str) else None
    beyond = re.compile(r"(norm|fc_norm|head)\.(weight|bias)$")
    for key in list(tower):
        block = re.match(r"blocks\.([0-9]{1,9})\.", key)
        if beyond.match(key) or (block and last_used and int(block[1]) >= last_used):
            dropped[f"{key} (of {path.name})"] = BEYOND_THE_TOWER
            del tower[key]
    return {f"visual_encoder.{key}": tensor for key, tensor in tower.items()}, dropped
