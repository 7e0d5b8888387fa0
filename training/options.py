"""The options of a training run, from a YAML file and the command line: what to train, on what, and how."""

import json
import sys
from argparse import ArgumentDefaultsHelpFormatter, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import torch
from transformers import HfArgumentParser, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ..dataset_builders import TEXT_IMAGE
from ..names import nearest
from ..registration import MODELS, classes_of
from ..yaml_files import SettingsFileError, read_yaml
from .arguments import RetrieverTrainingArguments, refuse_unknown

# The column of each data set that names the group of a triplet, or the person whom captions describe.
GROUPS = {"SynCPR": "cpr_id", "CIRHS": "tid", "SynTBPR": "person_id"} | dict.fromkeys(TEXT_IMAGE, "person_id")


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Help with defaults, below a description in its own lines."""


@dataclass
class RunOptions:
    """What to train, on what; how is told by `RetrieverTrainingArguments`.

    Raises:
        ValueError: an option that makes no sense, alone or beside others; the message names it.
    """

    model: str = field(
        default="tiny",
        metadata={
            "help": "Folder or Hub id of a model to start from, or 'tiny': one of random weights, with its vocabulary."
        },
    )
    import_modules: list[str] = field(
        default_factory=list,
        metadata={"help": "Python modules to import first, such as one that registers a model of your own."},
    )
    method: str = field(default="Fafa", metadata={"help": f"What a tiny model is of: {', '.join(MODELS)}."})
    model_options: dict | str | None = field(
        default=None, metadata={"help": "Fields of its configuration to set, as JSON: '{\"fda_alpha\": 1.0}'."}
    )
    new_words: int = field(
        default=0,
        metadata={"help": "Words that occur so often, and that the model spells in pieces, get an entry; 0: none do."},
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder of SynCPR.json and its images; none: the authors' Hub data set."}
    )
    dataset: str = field(
        default="SynCPR",
        metadata={"help": f"What data_dir holds, one of {', '.join(GROUPS)}; the last ones are images with captions."},
    )
    generated_dir: str | None = field(
        default=None, metadata={"help": "Folder of SynTBPR.json: its pairs are mixed into those of another dataset."}
    )
    real_repeats: int = field(
        default=1,
        metadata={"help": "How often the pairs of `dataset` come in an epoch, beside those of generated_dir."},
    )
    validation_fraction: float = field(
        default=0.02, metadata={"help": "Share of the quadruples held out for validation."}
    )
    max_validation_triplets: int = field(default=2000, metadata={"help": "The most held-out triplets to use."})
    on_error: str = field(
        default="raise", metadata={"help": "'raise' or 'skip' (and report) an image that cannot be decoded."}
    )
    cache_images: bool = field(
        default=False, metadata={"help": "Keep decoded images in memory (small data sets, read without workers)."}
    )
    cache_features: bool = field(
        default=False,
        metadata={"help": "Encode images and captions once where CLIP is frozen (stage 2 of Word4Per), and keep that."},
    )
    vision_dtype: str | None = field(
        default=None, metadata={"help": "Store the frozen vision tower in this dtype, such as bfloat16."}
    )
    trainable_vision_blocks: int | None = field(
        default=None,
        metadata={"help": "Last blocks of the vision tower to train; 0: none, -1: all; unset: by the model's config."},
    )
    lora_rank: int = field(default=0, metadata={"help": "Train adapters (LoRA) of this rank, not the weights; 0: off."})
    lora_alpha: float = field(default=32.0, metadata={"help": "Their updates are scaled by lora_alpha / lora_rank."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout on the inputs of the adapters."})
    lora_targets: str | None = field(
        default=None, metadata={"help": "Side to adapt: of FAFA 'qformer' (by default) or 'vision'; 'both': all sides."}
    )
    merge_adapter: bool = field(
        default=False, metadata={"help": "Also write the model with its adapter merged in, into OUTPUT_DIR/merged."}
    )

    def __post_init__(self):
        if isinstance(self.model_options, str):  # from the command line; a YAML file gives the fields themselves
            try:
                self.model_options = json.loads(self.model_options)
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"model_options is no JSON ({error}), expected such as '{{\"fda_alpha\": 1.0}}'"
                ) from None
        self.model_options = self.model_options or {}
        if not isinstance(self.model_options, dict):
            raise ValueError(f"model_options is {self.model_options!r:.60}, expected fields of the configuration")
        for name, known in {"method": MODELS, "dataset": GROUPS}.items():
            if (given := getattr(self, name)) not in known:
                raise ValueError(f"there is no {name} {given!r}; {nearest(str(given), list(known))}")
        if self.model == "tiny":
            if not hasattr(classes_of(self.method)[0], "tiny"):
                raise ValueError(f"there is no tiny {self.method}: name a folder to start from (model)")
            check_model_options(self.model_options, classes_of(self.method)[0].tiny())
            if self.new_words:
                raise ValueError("new_words is for a model that has learnt; a tiny one has the words of its captions")
        elif self.method != type(self).method:
            raise ValueError(f"method {self.method} is of model 'tiny'; {self.model} says itself what it is")
        if GROUPS[self.dataset] != "person_id" and (self.generated_dir or self.real_repeats != 1):
            raise ValueError(
                f"generated_dir and real_repeats mix images with captions, and {self.dataset} holds triplets: leave "
                "them out"
            )
        if self.real_repeats < 1:
            raise ValueError(f"real_repeats is {self.real_repeats}, expected a number from 1")
        dtype = getattr(torch, self.vision_dtype or "float32", None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ValueError(f"vision_dtype is {self.vision_dtype!r}, expected such as float32, bfloat16 or float16")
        if self.new_words < 0:
            raise ValueError(f"new_words is {self.new_words}, expected a number from 0 (no new words)")
        if self.new_words and self.lora_rank:
            raise ValueError("lora_rank leaves the words' embeddings as they are: leave out new_words")
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank is {self.lora_rank}, expected a number from 0 (no adapters)")
        if self.trainable_vision_blocks and self.lora_rank:
            raise ValueError("lora_rank trains adapters beside frozen weights: leave out trainable_vision_blocks")
        if self.merge_adapter and not self.lora_rank:
            raise ValueError("merge_adapter is for a run with adapters: set lora_rank, too")


def check_model_options(options: dict, config: PreTrainedConfig, where: str = "model_options") -> None:
    """Refuses unknown settings of a configuration, or of those within it."""
    refuse_unknown(where, options, [*(entry.name for entry in fields(config)), "attn_implementation", "model_type"])
    for part in config.sub_configs:
        inner, given = getattr(config, part), options.get(part)
        if isinstance(given, dict):
            if (kind := given.get("model_type", inner.model_type)) != inner.model_type and kind in CONFIG_MAPPING:
                inner = CONFIG_MAPPING[kind]()
            check_model_options(given, inner, f"{where}: {part}")


def read_options(
    arguments: Sequence[str] | None = None, program: str | None = None, description: str = ""
) -> tuple[RunOptions, RetrieverTrainingArguments, dict]:
    """Reads `--config FILE.yaml` and a command line, which wins. Every field of both classes is an option of it.

    Args:
        arguments: of the command line; None for those of this process.
        program: how it was called; None for the script's name.
        description: for its help.

    Returns:
        both, and the settings given, which repeat the run.

    Raises:
        SystemExit: with 2, after one line that names the option or setting; with 0 after the help.
    """
    parser = HfArgumentParser(
        (RunOptions, RetrieverTrainingArguments),
        allow_abbrev=False,
        prog=program,
        description=description,
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--config", type=Path, help="YAML file of settings, which the command line overrides.")
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    config_file = parser.parse_known_args(arguments)[0].config
    try:
        settings = {} if config_file is None else read_yaml(config_file)
    except SettingsFileError as error:
        parser.error(str(error))
    known = [entry.name for entry in (*fields(RunOptions), *fields(RetrieverTrainingArguments))]
    for name in settings:
        if name not in known:
            parser.error(f"{config_file}: there is no setting {name!r}; {nearest(name, known)}")
    hints = get_type_hints(RunOptions) | get_type_hints(RetrieverTrainingArguments)
    for name, value in settings.items():
        types = tuple(get_origin(one) or one for one in get_args(hints[name]) or (hints[name],))
        if not _is_fit(value, types):
            expected = " or ".join(one.__name__ for one in types if one is not type(None))
            parser.error(f"{config_file}: {name} is {value!r:.60}, expected {expected}")
        if type(value) in (int, float) and str in types and not {int, float} & set(types):
            settings[name] = str(value)
    parser.set_defaults(**settings)
    try:
        run, training, _ = parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)
    except ValueError as error:  # settings that do not go together
        parser.error(str(error))
    # Parsed with None as the default of every setting, so what is not None was given on the command line.
    given = vars(parser.parse_args(arguments, namespace=Namespace(**dict.fromkeys(known))))
    for name in ("do_train", "do_eval"):
        if given[name] is False or settings.get(name) is False:
            parser.error(f"{name} is false, but this trains, and evaluates at the end: leave it out")
    return run, training, settings | {name: given[name] for name in known if given[name] is not None}


def _is_fit(value, types: tuple) -> bool:
    """Whether a value of a YAML file fits a setting; argparse reads texts, and takes other values as they are."""
    if isinstance(value, (list, dict)):
        return type(value) in types
    if isinstance(value, (bool, int, float)) and (numbers := {bool, int, float} & set(types)):
        return type(value) in numbers or (type(value) is int and float in numbers)
    return True
