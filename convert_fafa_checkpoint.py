"""Converts published weights to a FafaModel folder.

    fafa convert fafa.pt pretrained/fafa

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
import json
import math
import os
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import snapshot_download, split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm
from transformers import Blip2Config

from .checkpoint_files import check_regular_file, read_checkpoint, read_safetensors, weight_files
from .commands import command, loading, make_parser
from .configuration_fafa import FafaConfig
from .configuration_towers_fafa import TowersConfig
from .files import check_empty, check_output_folder, printable, read_json, sha256_of, some, whole_folder
from .image_processing_fafa import FafaImageProcessor
from .markdown_text import Markdown
from .model_card import make_model_card
from .modeling_fafa import FafaModel
from .modeling_towers_fafa import TowersModel
from .processing_fafa import FafaProcessor, build_tokenizer, vocabulary_hash
from .released_weights import (
    SHOWN,
    Conversion,
    check_heads,
    check_values,
    config_from_tensors,
    convert_state_dict,
    plan_conversion,
    read_vision_tower,
)
from .tables import markdown_table

__all__ = ["config_from_blip2_folder", "config_from_tensors", "convert_checkpoint", "convert_state_dict", "report"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_LARGEST_VOCABULARY = 64 << 20  # bytes; BERT's has 0.2 MB


def config_from_blip2_folder(folder: Path, config_class: type[TowersConfig] = FafaConfig) -> TowersConfig:
    """The configuration of a `Blip2ForImageTextRetrieval` folder, for FafaModel or another on the same towers.

    The epsilon behind the vision tower stays at 1e-5, with which BLIP-2 was trained; only transformers' class differs,
    which has one epsilon for the whole tower.
    """
    file = folder / "config.json"
    fields = read_json(file)
    model_type = fields.get("model_type") if isinstance(fields, dict) else None
    if model_type != "blip-2":
        raise ValueError(f"{printable(file)}: model_type is {model_type!r}, expected 'blip-2'")
    with loading(str(file)):
        blip2 = Blip2Config(**fields)
        positions = blip2.qformer_config.max_position_embeddings
        return config_class(
            vision_config=blip2.vision_config,
            qformer_config=blip2.qformer_config,
            num_query_tokens=blip2.num_query_tokens,
            projection_dim=blip2.image_text_hidden_size,
            num_top_tokens=min(config_class.num_top_tokens, blip2.num_query_tokens),
            max_text_length=min(config_class.max_text_length, positions),
        )


def read_vocabulary(source: str | Path) -> dict[str, int] | Path:
    """The WordPiece vocabulary at a `vocab.txt`, a tokenizer folder or a Hub id, for `build_tokenizer`."""
    path = Path(source)
    if not path.exists():
        path = _from_hub(str(source), "--tokenizer", ["vocab.txt", "tokenizer.json"])
    if path.is_dir():
        path = path / "vocab.txt" if (path / "vocab.txt").exists() else path / "tokenizer.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{printable(path.parent)}: no vocab.txt and no tokenizer.json; give another with --tokenizer"
        )
    check_regular_file(path)
    if (size := path.stat().st_size) > _LARGEST_VOCABULARY:
        raise ValueError(f"{printable(path)} is too large for a vocabulary ({size:,} bytes)")
    if path.suffix == ".txt":
        return path
    try:
        vocabulary = Tokenizer.from_file(str(path)).get_vocab()
    except Exception as error:  # the library raises nothing narrower
        reason = textwrap.shorten(str(error), 200)
        raise ValueError(
            f"{printable(path)} holds no WordPiece vocabulary ({reason}); give another with --tokenizer"
        ) from error
    vocabulary.pop("<image>", None)  # a placeholder of Blip2Processor, which has no row among the word embeddings
    return vocabulary


def _from_hub(repo_id: str, argument: str, patterns: list[str]) -> Path:
    try:
        return Path(snapshot_download(repo_id, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{argument} {repo_id}: neither a file or folder here, nor available from the Hub. "
            f"Give a path, or go online once so that the files are cached. ({error})"
        ) from error


def build_processor(
    config: TowersConfig, tokenizer: str | Path, processor_class: type[FafaProcessor] = FafaProcessor
) -> FafaProcessor:
    """The processor that fits the model; it must have one token for each row of the word embeddings."""
    try:
        words = build_tokenizer(read_vocabulary(tokenizer))
    except UnicodeDecodeError as error:
        raise ValueError(f"tokenizer {tokenizer} is no text ({error}); give another with --tokenizer") from error
    rows = config.qformer_config.vocab_size
    if len(words) != rows:
        raise ValueError(
            f"tokenizer {tokenizer} has {len(words)} tokens ([DEC] among them), but the checkpoint embeds {rows}: "
            "give the one that it was trained with by --tokenizer"
        )
    size = config.vision_config.image_size
    image_processor = FafaImageProcessor(size={"height": size, "width": size}, **processor_class.image_defaults)
    return processor_class(image_processor, words, max_text_length=config.max_text_length)


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
    model_class: type[TowersModel] = FafaModel,
    processor_class: type[FafaProcessor] = FafaProcessor,
) -> Conversion:
    """Writes a complete FafaModel folder: weights, configuration, processor, model card.

    Args:
        source: file, folder or Hub id; see the module's docstring.
        output: folder to write; must be absent or empty.
        tokenizer: `vocab.txt`, tokenizer folder or Hub id. None: a source folder's own; `bert-base-uncased` for a file.
        vision_weights: the vision tower's file, if the source lacks it.
        vision_heads: see `config_from_tensors`; not for a folder, whose `config.json` tells. Likewise `qformer_heads`.
        dtype: dtype of the output's tensors.
        max_shard_size: the most that is held in memory beside the memory-mapped source.
        model_class: FafaModel, or another model on BLIP-2's towers; likewise `processor_class`.

    Returns:
        what was taken from where, dropped and initialised.

    Raises:
        ValueError: an option makes no sense, the source is damaged or does not fit (every key is named), or the
            tokenizer does not fit the source.
        FileNotFoundError: there is no such source or tokenizer.
        FileExistsError: `output` holds something.
    """
    options = {"--vision-heads": vision_heads, "--qformer-heads": qformer_heads, "--vision-weights": vision_weights}
    given = {option: value for option, value in options.items() if value is not None}
    for option in ("--vision-heads", "--qformer-heads"):
        if option in given:
            check_heads(option, given[option])
    if vision_weights is not None:
        check_regular_file(vision_weights)
    if dtype not in DTYPES.values():
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(map(str, DTYPES.values()))}")
    output = Path(output)
    check_empty(output)
    check_output_folder(output)
    path = Path(source)
    if not path.exists():
        path = _from_hub(str(source), "SOURCE", ["*.json", "*.safetensors", "vocab.txt"])
    if path.is_dir() and given:
        raise ValueError(f"{', '.join(given)}: a folder says this itself; leave the option out")
    set_aside: dict[str, str] = {}
    if path.is_dir():
        files = weight_files(path)
        config, tokenizer = config_from_blip2_folder(path, model_class.config_class), tokenizer or path
        state_dict = read_safetensors(files)
    else:
        files = [path] if vision_weights is None else [path, Path(vision_weights)]
        state_dict, set_aside = _read_released(path, vision_weights)
    try:
        if not path.is_dir():
            config = config_from_tensors(state_dict, vision_heads, qformer_heads, model_class.config_class)
        conversion = plan_conversion(state_dict, config, model_class)
        processor = build_processor(config, tokenizer or "bert-base-uncased", processor_class)
        check_values(conversion, state_dict)
    except ValueError as error:
        raise ValueError(f"{printable(source)}: {error}") from error
    conversion.dropped |= set_aside

    config.vocabulary_hash = vocabulary_hash(processor.tokenizer)
    with whole_folder(output, last="config.json") as folder:
        processor.save_pretrained(folder)
        _write_weights(conversion, state_dict, folder, dtype, max_shard_size)
        (folder / "README.md").write_text(_model_card(conversion, source, files), encoding="utf-8")
        config.architectures, config.dtype = [model_class.__name__], dtype
        config.save_pretrained(folder)
    return conversion


def _read_released(path: Path, vision_weights: str | Path | None) -> tuple[dict[str, Tensor], dict[str, str]]:
    state_dict, dropped = read_checkpoint(path)
    has_tower = any(key.startswith("visual_encoder.") for key in state_dict)
    if has_tower and vision_weights is not None:
        raise ValueError("holds a vision tower already: leave out --vision-weights")
    if not has_tower and "Qformer.bert.embeddings.word_embeddings.weight" in state_dict and vision_weights is None:
        raise ValueError(
            "holds no vision tower (no visual_encoder.* keys): LAVIS publishes it separately, as eva_vit_g.pth. "
            "Give it with --vision-weights"
        )
    if vision_weights is None:
        return state_dict, dropped
    tower, beyond = read_vision_tower(Path(vision_weights))
    return state_dict | tower, dropped | beyond


def _write_weights(
    conversion: Conversion, state_dict: Mapping[str, Tensor], output: Path, dtype: torch.dtype, max_shard_size: str
) -> None:
    sizes = {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in conversion.shapes.items()}
    split = split_torch_state_dict_into_shards(sizes, max_shard_size=max_shard_size)
    for filename, names in tqdm(split.filename_to_tensors.items(), desc="writing", unit="file"):
        shard = {name: conversion.tensor(state_dict, name).to(dtype, copy=True).contiguous() for name in names}
        if beyond := [name for name, tensor in shard.items() if not torch.isfinite(tensor).all()]:
            raise ValueError(
                f"{some(beyond, SHOWN)}: weights beyond what {str(dtype).removeprefix('torch.')} can hold; "
                "choose another --dtype"
            )
        _save_file(shard, output / filename)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (output / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _save_file(tensors: dict[str, Tensor], file: Path) -> None:
    """Writes a safetensors file with usual permissions; a full disk raises the usual OSError."""
    file.touch()
    mode = file.stat().st_mode
    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(file)) from error
    file.chmod(mode)  # safetensors makes files that only their owner can read


def _model_card(conversion: Conversion, source: str | Path, files: list[Path]) -> str:
    facts = conversion.model_class.card_facts(conversion.config)
    about = "The weights are those of a trained FAFA: it answers queries of a person's image and a caption."
    if conversion.fresh:
        kind = "person retriever" if conversion.model_class is FafaModel else "retriever"
        about = (
            f"The weights are BLIP-2's pre-training: a starting point for training {facts.method}, not a {kind} yet. "
            f"The parts that BLIP-2 lacks have initial values: {', '.join(f'`{name}`' for name in conversion.fresh)}."
        )
    digests = markdown_table(["file", "sha256"], [[path.name, Markdown(f"`{sha256_of(path)}`")] for path in files])
    return make_model_card(
        facts,
        num_parameters=sum(math.prod(shape) for shape in conversion.shapes.values()),
        title=f"{facts.method}, converted from {Path(source).name if Path(source).exists() else source}",
        about=about,
        sections={
            "Source": "Converted by `fafa convert`, without training. The licence of the "
            f"source's weights applies.\n\n{digests}"
        },
    )


def report(conversion: Conversion, output: str | Path) -> str:
    """What a conversion did, and how to check it, as a text."""
    lines = []
    for reason in sorted(set(conversion.dropped.values())):
        lines.append(f"dropped: {reason}")
        lines += [f"    {name}" for name, why in conversion.dropped.items() if why == reason]
    if conversion.fresh:
        lines.append("initialised: not part of BLIP-2 pre-training")
        lines += [f"    {name}" for name in conversion.fresh]
    lines.append(f"written: {len(conversion.shapes)} tensors to {output}")
    if not conversion.fresh:
        lines += [
            f"to check: fafa evaluate --model {output} --data /path/to/ITCPR",
            "    the authors' released file has Rank-1 46.5 to 46.7, Rank-5 66.2, Rank-10 73.3, mAP 55.6 to 55.7",
        ]
    else:
        model = conversion.model_class.__name__
        lines += [
            f"to check: {model}.from_pretrained({str(output)!r}) reports no missing and no unexpected key",
            "    to make it a retriever, train it: see fafa train --help",
        ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None, program: str = "python -m fafa.convert_fafa_checkpoint") -> None:
    """The command line; see the module's docstring."""
    parser = parser_of(program, __doc__)
    options = vars(parser.parse_args(arguments))
    options["dtype"] = DTYPES[options["dtype"]]
    with command(kept="Nothing was written: give the same command again."):
        conversion = convert_checkpoint(**options)
        print(report(conversion, options["output"]))


def parser_of(program: str, description: str) -> argparse.ArgumentParser:
    """The options of `convert_checkpoint` on a command line, for FAFA and other models on the same towers.

    Its arguments are those of `make_parser`.
    """
    parser = make_parser(program, description)
    parser.add_argument("source", metavar="SOURCE", help="file, folder or Hub id")
    parser.add_argument("output", metavar="OUTPUT", help="folder to write; absent or empty")
    parser.add_argument("--tokenizer", help="vocab.txt, tokenizer folder or Hub id (bert-base-uncased)")
    parser.add_argument("--vision-weights", help="file of the vision tower, where SOURCE lacks it (eva_vit_g.pth)")
    parser.add_argument("--vision-heads", type=int, help="attention heads of the vision tower (ViT-g: 16)")
    parser.add_argument("--qformer-heads", type=int, help="attention heads of the Q-Former (BERT-base: 12)")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="of the output")
    return parser


if __name__ == "__main__":
    main()
