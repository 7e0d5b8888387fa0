"""Converts published weights to a FafaModel folder: `python -m fafa.convert_fafa_checkpoint SOURCE OUTPUT`.

SOURCE is one of

- the authors' released FAFA file: `{"epoch": n, "model": state_dict}`, `{"step": n, "model": state_dict}` or the bare
  state dict; fp16 and fp32 may be mixed;
- LAVIS's BLIP-2 pre-training file, which lacks the vision tower: give that with `--vision-weights eva_vit_g.pth`;
- a folder of Hugging Face's `Blip2ForImageTextRetrieval`, or its Hub id (`Salesforce/blip2-itm-vit-g`).

Every key of the source is used, or dropped for a reason that is printed, or the conversion is refused. Sizes are read
from the tensors. Files are memory-mapped and the output is written in shards, so that the memory needed stays below 1.5
times the size of the source, whatever the dtype of the output.
"""

import argparse
import hashlib
import json
import logging
import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download, split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import Blip2Config

from .commands import command
from .configuration_fafa import FafaConfig
from .files import read_json
from .image_processing_fafa import FafaImageProcessor
from .model_card import make_model_card, markdown_table
from .modeling_fafa import FafaModel
from .processing_fafa import FafaProcessor, build_tokenizer, vocabulary_hash

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

HEADS_OF_VISION_WIDTH = {1408: 16, 1024: 16}  # EVA ViT-g, ViT-L
HEADS_OF_QFORMER_WIDTH = {768: 12}  # BERT-base
BLOCKS_OF_VISION_WIDTH = {1408: 39}  # BLIP-2 reads ViT-g before its 40th block

CAPTION_HEAD = "BLIP-2's word predictor for writing captions; retrieval has no use for it"
MATCHING_HEAD = "BLIP-2's image-text matching head; FAFA scores by similarity"
COUNTER = "a constant counter of positions, made anew by the model"
BOOKKEEPING = "training state beside the weights"
BEYOND_THE_TOWER = "BLIP-2 reads the tower before its last block, and has its own LayerNorm (ln_vision) behind it"


@dataclass
class Conversion:
    """What becomes of a checkpoint.

    Args:
        config: configuration of the model.
        sources: name in FafaModel → names in the source; two for a joint bias of query, key and value.
        dropped: name in the source → why it has no place in FafaModel.
        fresh: name in FafaModel → its initial value, for what BLIP-2 pre-training does not have.
        shapes: name in FafaModel → shape.
    """

    config: FafaConfig
    sources: dict[str, tuple[str, ...]]
    dropped: dict[str, str]
    fresh: dict[str, Tensor]
    shapes: dict[str, tuple[int, ...]]

    @property
    def is_trained_fafa(self) -> bool:
        """Whether the source holds FAFA's own parts, rather than BLIP-2's pre-training alone."""
        return not self.fresh

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
        names in FafaModel to tensors: exactly `FafaModel(config).state_dict()`'s names and shapes, in the source's
        dtypes. Parts that BLIP-2 pre-training lacks have initial values; both these and what is dropped are logged.

    Raises:
        ValueError: if keys are missing, unexpected or of another shape; one error that lists them all.
    """
    conversion = plan_conversion(state_dict, config)
    for name, reason in conversion.dropped.items():
        logger.info("dropped %s: %s", name, reason)
    for name in conversion.fresh:
        logger.info("initialised %s: not part of BLIP-2 pre-training", name)
    return {name: conversion.tensor(state_dict, name) for name in conversion.shapes}


def plan_conversion(state_dict: Mapping[str, Tensor], config: FafaConfig) -> Conversion:
    """Finds a source for every tensor of the model, and a reason for every tensor that is left; see its callers."""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in FafaModel(config).state_dict().items()}
    is_released = _has_released_names(state_dict)
    sources = {name: released_names(name) if is_released else (name,) for name in shapes}
    fresh = {name: _initial_value(name, shapes[name], config) for name in _absent_from_blip2(sources, state_dict)}
    sources = {name: keys for name, keys in sources.items() if name not in fresh}

    # The parts of a joint bias have the same share of its shape each; all else has the shape of its target.
    wanted = {
        key: shapes[name] if len(keys) == 1 else (shapes[name][0] // 3,)
        for name, keys in sources.items()
        for key in keys
    }
    droppable = _droppable(config, is_released)
    dropped = {key: droppable[key][1] for key in state_dict if key in droppable and key not in wanted}
    _check(state_dict, wanted, {key: droppable[key][0] for key in dropped})
    return Conversion(config, sources, dropped, fresh, shapes)


def released_names(name: str) -> tuple[str, ...]:
    """Names in the released code of what FafaModel calls `name`: one, or two for a joint bias of query, key, value."""
    for pattern, replacement in RELEASED_NAMES:
        name = re.sub(pattern, replacement, name)
    if name.endswith(".attn.qkv.bias"):
        prefix = name.removesuffix("qkv.bias")
        return prefix + "q_bias", prefix + "v_bias"
    return (name,)


def _has_released_names(state_dict: Mapping[str, Tensor]) -> bool:
    return any(key.startswith(("Qformer.", "visual_encoder.")) for key in state_dict)


def _absent_from_blip2(sources: dict[str, tuple[str, ...]], state_dict: Mapping[str, Tensor]) -> list[str]:
    """Names of FafaModel's own parts when the source is BLIP-2; a source with some of a part must have all of it."""
    predictor = [name for name in sources if name.startswith("mfr_predictor.")]
    absent = [] if any(sources[name][0] in state_dict for name in predictor) else predictor
    # LAVIS has a temperature, Hugging Face's class has none.
    if absent and not _has_released_names(state_dict) and "temperature" not in state_dict:
        absent.append("temperature")
    return absent


def _initial_value(name: str, shape: tuple[int, ...], config: FafaConfig) -> Tensor:
    """As `FafaModel` initialises it, but the same in every conversion."""
    if name == "temperature":
        return torch.tensor(float(config.temperature_init))
    if name.endswith(".bias"):
        return torch.zeros(shape)
    generator = torch.Generator().manual_seed(0)
    return torch.normal(0.0, config.qformer_config.initializer_range, shape, generator=generator)


def _droppable(config: FafaConfig, is_released: bool) -> dict[str, tuple[tuple[int, ...], str]]:
    """Names in the source without a place in FafaModel: their shapes, and why they have none."""
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


def _check(state_dict: Mapping[str, Tensor], wanted: dict[str, tuple], dropped: dict[str, tuple]) -> None:
    expected = wanted | dropped
    found = {
        key: tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        for key, value in state_dict.items()
    }
    problems = [f"missing     {key} {shape}" for key, shape in wanted.items() if key not in found]
    problems += [f"unexpected  {key} {shape}" for key, shape in found.items() if key not in expected]
    problems += [
        f"mis-shaped  {key} {found[key]}, expected {shape}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    if problems:
        raise ValueError(
            f"{len(problems)} keys of the checkpoint do not fit FafaModel; nothing was converted:\n  "
            + "\n  ".join(problems)
            + "\nIs the file whole, and from the code that it is said to be from? Shapes are compared with the "
            + f"configuration, read from {', '.join(SIZE_KEYS)} unless given."
        )


def config_from_tensors(
    state_dict: Mapping[str, Tensor], vision_heads: int | None = None, qformer_heads: int | None = None
) -> FafaConfig:
    """Reads the configuration from a state dict with released names.

    Args:
        state_dict: names to tensors, the vision tower among them.
        vision_heads: attention heads of the vision tower, which no tensor tells; None: BLIP-2's 16 at ViT-g's width.
        qformer_heads: attention heads of the Q-Former; None: 12 at BERT-base's width.

    Raises:
        ValueError: if a tensor that tells a size is missing or of another rank, if the tower is CLIP's, or if the
            heads of an unknown width are not given.
    """
    if "visual_encoder.ln_pre.weight" in state_dict:
        raise ValueError(
            "visual_encoder.ln_pre.weight: the vision tower is CLIP's ViT-L, with a LayerNorm before its first block "
            "for which transformers' Blip2VisionModel has no place. Only EVA towers (ViT-g) can be converted"
        )
    wrong = [f"{key} (missing)" for key in SIZE_KEYS if key not in state_dict]
    wrong += [
        f"{key} (shape {tuple(state_dict[key].shape)}, expected {rank} axes)"
        for key, rank in SIZE_KEYS.items()
        if key in state_dict and state_dict[key].ndim != rank
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
        "num_hidden_layers": 1 + max(_numbers(state_dict, r"visual_encoder\.blocks\.(\d+)\.")),
        "num_attention_heads": _heads("--vision-heads", vision_heads, vision_width, HEADS_OF_VISION_WIDTH),
        "image_size": patch_size * math.isqrt(num_patches),
        "patch_size": patch_size,
    }
    num_layers = 1 + max(_numbers(state_dict, r"Qformer\.bert\.encoder\.layer\.(\d+)\."))
    cross_layers = _numbers(state_dict, r"Qformer\.bert\.encoder\.layer\.(\d+)\.crossattention\.")
    qformer_config = {
        "vocab_size": vocab_size,
        "hidden_size": qformer_width,
        "intermediate_size": sizes["Qformer.bert.encoder.layer.0.intermediate_query.dense.weight"][0],
        "num_hidden_layers": num_layers,
        "num_attention_heads": _heads("--qformer-heads", qformer_heads, qformer_width, HEADS_OF_QFORMER_WIDTH),
        "max_position_embeddings": num_positions,
        "cross_attention_frequency": cross_layers[1] - cross_layers[0] if len(cross_layers) > 1 else num_layers,
    }
    predictor = state_dict.get("mlm_predictor.predictor.0.bias")
    return FafaConfig(
        vision_config=vision_config,
        qformer_config=qformer_config,
        num_query_tokens=num_query_tokens,
        projection_dim=sizes["vision_proj.weight"][0],
        num_top_tokens=min(FafaConfig.num_top_tokens, num_query_tokens),
        mfr_hidden_size=FafaConfig.mfr_hidden_size if predictor is None else len(predictor),
        max_text_length=min(FafaConfig.max_text_length, num_positions),
    )


def _numbers(state_dict: Mapping[str, Tensor], pattern: str) -> list[int]:
    """The different layer numbers that the pattern's group finds in the names, ascending."""
    return sorted({int(match[1]) for match in (re.match(pattern, key) for key in state_dict) if match})


def _heads(option: str, given: int | None, width: int, known: dict[int, int]) -> int:
    heads = given or known.get(width)
    if heads is None:
        raise ValueError(f"no tensor tells the number of attention heads, and width {width} is unknown: give {option}")
    if width % heads:
        raise ValueError(f"{option} is {heads}, which does not divide the width {width}")
    return heads


def config_from_blip2_folder(folder: Path) -> FafaConfig:
    """The configuration of a `Blip2ForImageTextRetrieval` folder, for FafaModel.

    The epsilon behind the vision tower stays at 1e-5: BLIP-2 was trained so, and transformers' class, which has one
    epsilon for all of the tower, is what differs.
    """
    fields = read_json(folder / "config.json")
    if fields.get("model_type") != "blip-2":
        raise ValueError(f"{folder / 'config.json'}: model_type is {fields.get('model_type')!r}, expected 'blip-2'")
    blip2 = Blip2Config(**fields)
    positions = blip2.qformer_config.max_position_embeddings
    return FafaConfig(
        vision_config=blip2.vision_config,
        qformer_config=blip2.qformer_config,
        num_query_tokens=blip2.num_query_tokens,
        projection_dim=blip2.image_text_hidden_size,
        num_top_tokens=min(FafaConfig.num_top_tokens, blip2.num_query_tokens),
        max_text_length=min(FafaConfig.max_text_length, positions),
    )


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Opens a `.pt`, `.pth` or `.safetensors` file, memory-mapped, without running code from it.

    Returns:
        the state dict, and what lies beside it in the file with the reason why it is dropped.

    Raises:
        ValueError: if the file is broken, or holds anything but tensors and plain values.
    """
    if path.suffix == ".safetensors":
        return read_safetensors([path]), {}
    try:
        # Files of torch < 1.6 are not zip archives, and cannot be memory-mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} was refused: it is broken, or holds more than tensors and plain values, which could run code. "
            f"Expected a checkpoint of a state dict; fetch it again from its authors. ({error})"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        return dict(content["model"]), {key: BOOKKEEPING for key in content if key != "model"}
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a state dict or {{'model': state dict}}")
    return dict(content), {}


def read_safetensors(paths: list[Path]) -> dict[str, Tensor]:
    """State dict of one or several safetensors files, memory-mapped.

    Raises:
        ValueError: if a file is broken.
    """
    state_dict = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                state_dict |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no iteration)
        except SafetensorError as error:
            raise ValueError(f"{path} is broken; fetch it again from its authors. ({error})") from error
    return state_dict


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a Hugging Face model folder."""
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.exists():
        names = sorted(set(read_json(index)["weight_map"].values()))
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(f"{folder}: no {', '.join(missing)}; expected a model saved with safetensors")
    return [folder / name for name in names]


def read_vision_tower(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Opens the file of a vision tower that LAVIS publishes apart (`eva_vit_g.pth`), and names it as in a whole model.

    Returns:
        the state dict with names under `visual_encoder.`, and the names that BLIP-2 does not use, with the reason.
    """
    tower, dropped = read_checkpoint(path)
    last_used = BLOCKS_OF_VISION_WIDTH.get(tower["cls_token"].shape[-1]) if "cls_token" in tower else None
    beyond = re.compile(r"(norm|fc_norm|head)\.(weight|bias)$")
    for key in list(tower):
        block = re.match(r"blocks\.(\d+)\.", key)
        if beyond.match(key) or (block and last_used and int(block[1]) >= last_used):
            dropped[f"{key} (of {path.name})"] = BEYOND_THE_TOWER
            del tower[key]
    return {f"visual_encoder.{key}": tensor for key, tensor in tower.items()}, dropped


def read_vocabulary(source: str | Path) -> dict[str, int] | Path:
    """The WordPiece vocabulary at a `vocab.txt`, a tokenizer folder or a Hub id, for `build_tokenizer`.

    Raises:
        FileNotFoundError: if there is none, or the Hub cannot be reached.
    """
    path = Path(source)
    if not path.exists():
        path = _from_hub(str(source), "--tokenizer", ["vocab.txt", "tokenizer.json"])
    if path.is_dir():
        path = path / "vocab.txt" if (path / "vocab.txt").exists() else path / "tokenizer.json"
    if path.suffix == ".txt":
        return path
    if not path.exists():
        raise FileNotFoundError(f"{path.parent}: no vocab.txt and no tokenizer.json; give another with --tokenizer")
    fields = read_json(path)
    vocabulary = dict(fields["model"]["vocab"])
    # <image> is a placeholder of Blip2Processor: it stands for no word and has no row among the word embeddings.
    vocabulary |= {token["content"]: token["id"] for token in fields["added_tokens"] if token["content"] != "<image>"}
    return vocabulary


def _from_hub(repo_id: str, argument: str, patterns: list[str]) -> Path:
    try:
        return Path(snapshot_download(repo_id, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{argument} {repo_id}: neither a file or folder here, nor to be had from the Hub. "
            f"Give a path, or go online once so that the files are cached. ({error})"
        ) from error


def build_processor(config: FafaConfig, tokenizer: str | Path) -> FafaProcessor:
    """The processor that fits the model; its tokens and the rows of the word embeddings must be equally many."""
    words = build_tokenizer(read_vocabulary(tokenizer))
    rows = config.qformer_config.vocab_size
    if len(words) != rows:
        raise ValueError(
            f"tokenizer {tokenizer} has {len(words)} tokens ([DEC] among them), but the checkpoint embeds {rows}: "
            "give the one that it was trained with by --tokenizer"
        )
    size = config.vision_config.image_size
    image_processor = FafaImageProcessor(size={"height": size, "width": size})
    return FafaProcessor(image_processor, words, max_text_length=config.max_text_length)


def convert_checkpoint(
    source: str | Path,
    output: str | Path,
    *,
    tokenizer: str | Path | None = None,
    vision_weights: str | Path | None = None,
    vision_heads: int | None = None,
    qformer_heads: int | None = None,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "300MB",
) -> Conversion:
    """Writes a complete FafaModel folder: weights, configuration, processor, model card.

    Args:
        source: file, folder or Hub id; see the module's docstring.
        output: folder to write; must be absent or empty.
        tokenizer: `vocab.txt`, tokenizer folder or Hub id. None: a source folder's own; `bert-base-uncased` for a file.
        vision_weights: the vision tower's file, where the source lacks it.
        vision_heads: see `config_from_tensors`; a folder's `config.json` tells it otherwise. Likewise `qformer_heads`.
        dtype: of the output's tensors.
        max_shard_size: most that is held in memory beside the memory-mapped source.

    Returns:
        what was taken from where, dropped and initialised.

    Raises:
        ValueError: if the source does not fit (every key named), or the tokenizer does not fit the source.
        FileNotFoundError: if the source or the tokenizer is not there.
        FileExistsError: if `output` holds something.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} exists already; name a folder that is absent or empty")
    path = Path(source)
    if not path.exists():
        path = _from_hub(str(source), "SOURCE", ["*.json", "*.safetensors", "vocab.txt"])
    try:
        if path.is_dir():
            files, set_aside = weight_files(path), {}
            state_dict, config = read_safetensors(files), config_from_blip2_folder(path)
            tokenizer = tokenizer or path
        else:
            files = [path] if vision_weights is None else [path, Path(vision_weights)]
            state_dict, set_aside = _read_released(path, vision_weights)
            config = config_from_tensors(state_dict, vision_heads, qformer_heads)
        conversion = plan_conversion(state_dict, config)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    conversion.dropped |= set_aside

    processor = build_processor(config, tokenizer or "bert-base-uncased")
    config.vocabulary_hash = vocabulary_hash(processor.tokenizer)
    output.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(output)
    _write_weights(conversion, state_dict, output, dtype, max_shard_size)
    (output / "README.md").write_text(_model_card(conversion, source, files), encoding="utf-8")
    # Last, so that an interrupted conversion leaves nothing that could be taken for a model.
    config.architectures, config.dtype = ["FafaModel"], dtype
    config.save_pretrained(output)
    return conversion


def _read_released(path: Path, vision_weights: str | Path | None) -> tuple[dict[str, Tensor], dict[str, str]]:
    state_dict, dropped = read_checkpoint(path)
    has_tower = any(key.startswith("visual_encoder.") for key in state_dict)
    if has_tower and vision_weights is not None:
        raise ValueError("holds a vision tower already: leave out --vision-weights")
    if not has_tower and "Qformer.bert.embeddings.word_embeddings.weight" in state_dict and vision_weights is None:
        raise ValueError(
            "holds no vision tower (no visual_encoder.* keys): LAVIS publishes it apart, as eva_vit_g.pth. "
            "Give it with --vision-weights"
        )
    if vision_weights is not None:
        tower, beyond = read_vision_tower(Path(vision_weights))
        return state_dict | tower, dropped | beyond
    return state_dict, dropped


def _write_weights(
    conversion: Conversion, state_dict: Mapping[str, Tensor], output: Path, dtype: torch.dtype, max_shard_size: str
) -> None:
    sizes = {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in conversion.shapes.items()}
    split = split_torch_state_dict_into_shards(sizes, max_shard_size=max_shard_size)
    for filename, names in tqdm(split.filename_to_tensors.items(), desc="writing", unit="file"):
        shard = {name: conversion.tensor(state_dict, name).to(dtype, copy=True).contiguous() for name in names}
        save_file(shard, output / filename, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (output / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


TRAINED_FAFA = "The weights are those of a trained FAFA: it answers queries of a person's image and a caption."
PRETRAINED_BLIP2 = (
    "The weights are BLIP-2's pre-training: a starting point for training FAFA, not a person retriever yet. "
    "The parts that BLIP-2 lacks have initial values: {fresh}."
)


def _model_card(conversion: Conversion, source: str | Path, files: list[Path]) -> str:
    fresh = ", ".join(f"`{name}`" for name in conversion.fresh)
    digests = markdown_table(["file", "sha256"], [[path.name, f"`{_sha256(path)}`"] for path in files])
    return make_model_card(
        conversion.config,
        num_parameters=sum(math.prod(shape) for shape in conversion.shapes.values()),
        title=f"FAFA, converted from {Path(source).name if Path(source).exists() else source}",
        about=TRAINED_FAFA if conversion.is_trained_fafa else PRETRAINED_BLIP2.format(fresh=fresh),
        sections={
            "Source": "Converted by `python -m fafa.convert_fafa_checkpoint`, without training. The licence of the "
            f"source's weights applies.\n\n{digests}"
        },
    )


def report(conversion: Conversion, output: str | Path) -> str:
    """What a conversion did, and how to check it, for people to read."""
    lines = []
    for reason in sorted(set(conversion.dropped.values())):
        lines.append(f"dropped: {reason}")
        lines += [f"    {name}" for name, why in conversion.dropped.items() if why == reason]
    if conversion.fresh:
        lines.append("initialised: not part of BLIP-2 pre-training")
        lines += [f"    {name}" for name in conversion.fresh]
    lines.append(f"written: {len(conversion.shapes)} tensors to {output}")
    if conversion.is_trained_fafa:
        lines += [
            f"to check: python examples/evaluate_itcpr.py --model {output} --data /path/to/ITCPR",
            "    the authors' released file has Rank-1 46.5 to 46.7, Rank-5 66.2, Rank-10 73.3, mAP 55.6 to 55.7",
        ]
    else:
        lines += [
            f"to check: FafaModel.from_pretrained({str(output)!r}) reports no missing and no unexpected key",
            "    to make it a person retriever, train it: see examples/train.py",
        ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m fafa.convert_fafa_checkpoint",
        description=__doc__.split("\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="file, folder or Hub id")
    parser.add_argument("output", metavar="OUTPUT", help="folder to write; absent or empty")
    parser.add_argument("--tokenizer", help="vocab.txt, tokenizer folder or Hub id (bert-base-uncased)")
    parser.add_argument("--vision-weights", help="file of the vision tower, where SOURCE lacks it (eva_vit_g.pth)")
    parser.add_argument("--vision-heads", type=int, help="attention heads of the vision tower (ViT-g: 16)")
    parser.add_argument("--qformer-heads", type=int, help="attention heads of the Q-Former (BERT-base: 12)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of the output")
    options = vars(parser.parse_args(arguments))
    options["dtype"] = getattr(torch, options["dtype"])
    with command(kept="Nothing is kept: delete what was written, and give the same command again."):
        conversion = convert_checkpoint(**options)
        print(report(conversion, options["output"]))


if __name__ == "__main__":
    main()
