"""Train a model on a data set in SynCPR's format: FAFA, or another that keeps the contract (docs/your-own-model.md).

    python examples/train.py --config examples/configs/quickstart.yaml      # the painted world, from random weights
    python examples/train.py --config examples/configs/paper.yaml           # SynCPR, from BLIP-2's weights
    python examples/train.py --config examples/configs/coalign_quickstart.yaml    # CoAlign instead, see docs/models.md

Every setting is a field of the YAML file, of the command line, or of both (the command line wins):

    python examples/train.py --config examples/configs/paper.yaml --data_dir /data/SynCPR --output_dir runs/1 --seed 7

A run that was stopped or killed goes on from its last checkpoint with `--resume_from_checkpoint true`.

What to expect: the quickstart trains for eight to twelve minutes on two CPU cores and reaches 68 % Rank-1 on its test
set (see examples/evaluate_itcpr.py). The paper's recipe reports 46.5 % Rank-1 on ITCPR, from 10 epochs over 1.15
million triplets in batches of 256; it needs GPUs with 80 GB.

How the tiny model learns. The real FAFA starts from BLIP-2, which has learnt by contrastive training what words look
like. FDA, KL(prediction ‖ label), has hardly any gradient while all scores are alike, so random weights need such
training first:

1. Three epochs of random batches with cross-entropy over the same scores, KL(label ‖ prediction), and a second term
   that matches whole captions to images (`caption_steps`). Hardly anybody else in such a batch wears what the caption
   asks for, so the model learns clothes.
2. Then batches in which four people each change clothes in the same way (`group_size`). Only their identity tells them
   apart, so Rank-1 doubles. With such batches from the first step on, it would learn slowly.
3. From step 950 FAFA's own loss (`contrastive_steps` ends), with α = 0: here only the own target counts as correct.

Large batches and few patches (16 an image) make the most of two cores. Where other processes are busy on them as well,
`OMP_WAIT_POLICY=passive` in the environment keeps torch's threads from spinning (the Makefile sets it).
"""

import json
import logging
import sys
from argparse import Namespace
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import fafa  # noqa: F401 - before what takes long, so that Ctrl-C is answered from here on  # isort: skip
import torch
from datasets import load_dataset
from transformers import AutoConfig, HfArgumentParser, PreTrainedConfig, set_seed
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from fafa.commands import command, import_modules, loading
from fafa.dataset_builders import TEXT_IMAGE
from fafa.dataset_builders.syncpr import SynCPR
from fafa.files import check_output_folder, printable
from fafa.markdown_text import code, public
from fafa.model_folder import load_model
from fafa.names import nearest
from fafa.processing_fafa import build_tokenizer, vocabulary_hash
from fafa.registration import MODELS, classes_of
from fafa.retriever import Retriever, RetrieverProcessor
from fafa.training import (
    CheckpointError,
    RetrieverTrainer,
    RetrieverTrainingArguments,
    TrainingCollapsed,
    TrainingPreempted,
    TripletCollator,
    build_vocabulary,
    caption_pairs,
    held_out_rank_metrics,
    hold_out_quadruples,
)
from fafa.training.adapters import add_lora, merge_lora
from fafa.training.arguments import refuse_unknown
from fafa.training.card import RunFacts
from fafa.training.safety.preemption import PREEMPTED
from fafa.training.vision_blocks import train_vision_blocks
from fafa.yaml_files import SettingsFileError, read_yaml

logger = logging.getLogger("train")

# The column of each data set that names the group of a triplet, or the person whom captions describe.
GROUPS = {"SynCPR": "cpr_id", "CIRHS": "tid", "SynTBPR": "person_id"} | dict.fromkeys(TEXT_IMAGE, "person_id")


@dataclass
class ScriptArguments:
    """What to train, on what."""

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
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank is {self.lora_rank}, expected a number from 0 (no adapters)")
        if self.trainable_vision_blocks and self.lora_rank:
            raise ValueError("lora_rank trains adapters beside frozen weights: leave out trainable_vision_blocks")
        if self.merge_adapter and not self.lora_rank:
            raise ValueError("merge_adapter is for a run with adapters: set lora_rank, too")


def main(script: ScriptArguments, training: RetrieverTrainingArguments, recipe: dict) -> None:
    """Runs the steps below."""
    # 1. The seed, before anything random happens. If nothing can be written, it is better to know before.
    import_modules(script.import_modules)
    set_seed(training.seed)
    check_output_folder(training.output_dir)
    if script.model != "tiny" and script.model_options:
        with loading(script.model):
            config = AutoConfig.from_pretrained(script.model)
        check_model_options(script.model_options, config)

    # 2. Data. The trainer takes images as paths, and its collator opens them: a bad file is reported by its name.
    #    Images with captions become pairs, for models that train without reference images.
    triplets = load_dataset(script.dataset, split="train", data_dir=script.data_dir)
    in_pairs = "captions" in triplets.column_names
    if in_pairs:
        parts, repeats = [triplets], [script.real_repeats]
        if script.generated_dir:
            parts.append(load_dataset("SynTBPR", split="train", data_dir=script.generated_dir))
            repeats.append(1)
        triplets = caption_pairs(*parts, repeats=repeats)
    if training.group_column == GROUPS["SynCPR"]:  # unless another was chosen
        training.group_column = GROUPS[script.dataset]

    # 3. Validation: whole quadruples of the training set are held out. The test set never selects a model.
    train_rows, validation_rows = hold_out_quadruples(
        triplets[training.group_column][:],
        triplets["target_image_path" if in_pairs else "reference_image_path"][:],
        triplets["target_image_path"][:],
        fraction=script.validation_fraction,
        seed=training.seed,
    )
    train_set = triplets.select(train_rows)
    validation_set = triplets.select(validation_rows[: script.max_validation_triplets])

    # 4. Model and processor, and what of the model trains.
    if script.model == "tiny":
        model, processor = make_tiny_model(train_set, script.method, script.model_options)
    else:
        # In fp32 whatever the folder's precision: in 16 bits, updates of 2e-6 round away.
        with loading(script.model):
            model, processor = load_model(script.model, dtype=torch.float32, **script.model_options)
        if getattr(model, "peft_config", None):
            raise ValueError(f"{script.model} holds an adapter: start from its merged model (merge_adapter), or resume")
    if script.trainable_vision_blocks is not None:
        train_vision_blocks(model, script.trainable_vision_blocks)
    if script.trainable_vision_blocks and script.vision_dtype is not None:
        logger.warning("vision_dtype %s is for a frozen tower; this one trains, in fp32", script.vision_dtype)
    elif script.vision_dtype is not None:
        model.freeze_vision_tower(getattr(torch, script.vision_dtype))
    if script.lora_rank:
        model = add_lora(model, script.lora_rank, script.lora_alpha, script.lora_dropout, script.lora_targets)

    # 5. Training. The trainer augments the training images only; where CLIP is frozen, it may read features in place of
    #    images, encoded once, here.
    collator = TripletCollator(
        processor,
        augment=not script.cache_features,
        with_references=not in_pairs and model.reads_references,
        with_captions=not in_pairs and (training.caption_steps > 0 or model.reads_target_captions),
        on_error=script.on_error,
        cache_images=script.cache_images,
        seed=training.seed,
        group_column=training.group_column,
    )
    if script.cache_features:
        collator = with_cached_features(model, collator, train_set, validation_set, training)
    trainer = RetrieverTrainer(
        model=model,
        args=training,
        train_dataset=train_set,
        eval_dataset=validation_set,
        data_collator=collator,
        compute_metrics=held_out_rank_metrics(model),
        processing_class=processor,
    )
    start = f"random weights (`{script.method}Config.tiny`)" if script.model == "tiny" else code(public(script.model))
    trainer.facts = RunFacts(
        about=f"Trained from {start} by `examples/train.py`.",
        dataset=script.data_dir or (SynCPR.HUB_REPO_ID if script.dataset == "SynCPR" else script.dataset),
        base_model=None if script.model == "tiny" else script.model,
        settings=recipe,
    )
    try:
        trainer.train(resume_from_checkpoint=resume_checkpoint(training))
    except (CheckpointError, TrainingCollapsed) as stop:  # their messages say what to do
        raise SystemExit(f"{type(stop).__name__}: {stop}") from stop
    except TrainingPreempted as stop:  # not finished: no model is written, and a scheduler should start it again
        print(f"{type(stop).__name__}: {stop}", file=sys.stderr)
        raise SystemExit(PREEMPTED) from stop

    # 6. The result: a folder that AutoModel and AutoProcessor load, with a card that says how it came about. With
    #    push_to_hub it is on the Hub as well: once saved, and once more with the final figures.
    trainer.save_model()
    trainer.save_state()
    metrics = trainer.evaluate()
    trainer.save_metrics("eval", metrics)
    trainer.create_model_card()
    if training.push_to_hub:
        trainer.push_to_hub()
    if script.merge_adapter and trainer.is_world_process_zero():
        training.output_dir = str(Path(training.output_dir, "merged"))
        trainer.model = merge_lora(trainer.model)
        trainer.model.save_pretrained(training.output_dir)
        processor.save_pretrained(training.output_dir)
        trainer.create_model_card()
    logger.info("held-out Rank-1 %.1f %%; the model is in %s", metrics["eval_rank-1"], training.output_dir)


def check_model_options(options: dict, config: PreTrainedConfig, where: str = "model_options") -> None:
    """Refuses unknown settings of a configuration, or of those within it."""
    refuse_unknown(where, options, [*(entry.name for entry in fields(config)), "attn_implementation", "model_type"])
    for part in config.sub_configs:
        inner, given = getattr(config, part), options.get(part)
        if isinstance(given, dict):
            if (kind := given.get("model_type", inner.model_type)) != inner.model_type and kind in CONFIG_MAPPING:
                inner = CONFIG_MAPPING[kind]()
            check_model_options(given, inner, f"{where}: {part}")


def make_tiny_model(train_set, method: str, options: dict) -> tuple[Retriever, RetrieverProcessor]:
    """A tiny model with random weights, and its processor, whose vocabulary is that of the training captions."""
    columns = [name for name in ("edit_caption", "target_caption") if name in train_set.column_names]
    captions = [caption for name in columns for caption in train_set[name][:]]
    if (start := getattr(import_module(MODELS[method], "fafa"), "tiny_start", None)) is not None:
        return start(captions, **options)  # with a tokenizer of the method's own kind
    tokenizer = build_tokenizer(build_vocabulary(captions))
    config_class, model_class, processor_class, _ = classes_of(method)
    config = config_class.tiny(vocab_size=len(tokenizer), vocabulary_hash=vocabulary_hash(tokenizer), **options)
    return model_class(config), processor_class.tiny(tokenizer, config)


def with_cached_features(model, collator, train_set, validation_set, training) -> TripletCollator:
    """A collator of features, which OUTPUT_DIR/features keeps for a run that goes on."""
    from fafa.models.word4per import CachedCollator, Word4PerModel, cache_features

    if not isinstance(model, Word4PerModel):
        raise ValueError(
            f"cache_features is for Word4Per's second stage, and {type(model).__name__} is none: leave it out"
        )
    folder = Path(training.output_dir, "features")
    features = cache_features(model.to(training.device), collator, train_set, validation_set, folder=folder)
    given = {entry.name: getattr(collator, entry.name) for entry in fields(collator) if entry.init}
    return CachedCollator(**given, features=features)


def resume_checkpoint(training: RetrieverTrainingArguments) -> str | bool | None:
    """`true` means the last checkpoint of the output folder; anything else is the path of a checkpoint."""
    given = training.resume_from_checkpoint
    return given.lower() == "true" if isinstance(given, str) and given.lower() in ("true", "false") else given


def parse_arguments() -> tuple[ScriptArguments, RetrieverTrainingArguments, dict]:
    """Reads `--config FILE.yaml` and the command line; also returns the settings given, to repeat the run."""
    parser = HfArgumentParser(
        (ScriptArguments, RetrieverTrainingArguments), allow_abbrev=False, description=__doc__.split("\n")[0]
    )
    parser.add_argument("--config", type=Path, help="YAML file of settings, which the command line overrides.")
    config_file = parser.parse_known_args()[0].config
    try:
        settings = {} if config_file is None else read_yaml(config_file)
    except SettingsFileError as error:
        parser.error(str(error))
    known = [entry.name for entry in (*fields(ScriptArguments), *fields(RetrieverTrainingArguments))]
    for name in settings:
        if name not in known:
            parser.error(f"{config_file}: there is no setting {name!r}; {nearest(name, known)}")
    hints = get_type_hints(ScriptArguments) | get_type_hints(RetrieverTrainingArguments)
    for name, value in settings.items():
        types = tuple(get_origin(one) or one for one in get_args(hints[name]) or (hints[name],))
        if not _is_fit(value, types):
            expected = " or ".join(one.__name__ for one in types if one is not type(None))
            parser.error(f"{config_file}: {name} is {value!r:.60}, expected {expected}")
        if type(value) in (int, float) and str in types and not {int, float} & set(types):
            settings[name] = str(value)
    parser.set_defaults(**settings)
    try:
        script, training, _ = parser.parse_args_into_dataclasses()
    except ValueError as error:  # settings that do not go together
        parser.error(str(error))
    # Parsed with None as the default of every setting, so what is not None was given on the command line.
    given = vars(parser.parse_args(namespace=Namespace(**dict.fromkeys(known))))
    for name in ("do_train", "do_eval"):
        if given[name] is False or settings.get(name) is False:
            parser.error(f"{name} is false, but this script trains, and evaluates at the end: leave it out")
    return script, training, settings | {name: given[name] for name in known if given[name] is not None}


def _is_fit(value, types: tuple) -> bool:
    """Whether a value of a YAML file fits a setting; argparse reads texts, and takes other values as they are."""
    if isinstance(value, (list, dict)):
        return type(value) in types
    if isinstance(value, (bool, int, float)) and (numbers := {bool, int, float} & set(types)):
        return type(value) in numbers or (type(value) is int and float in numbers)
    return True


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    with command():
        settings = parse_arguments()
    with command(
        kept=f"Checkpoints in {printable(settings[1].output_dir)} are kept: the same command goes on from the last one "
        "with --resume_from_checkpoint true."
    ):
        main(*settings)
