"""The steps of a training run, in their order. examples/train.py and `fafa train` take them one after another.

start(options, training)
train_set, validation_set = read_sets(options, training)
model, processor = make_model(options, train_set)
trainer = make_trainer(options, training, recipe, model, processor, train_set, validation_set)
train(trainer)
metrics = save(trainer, options.merge_adapter)
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoConfig, set_seed

from ..commands import command, import_modules, loading
from ..dataset_builders.syncpr import SynCPR
from ..files import check_output_folder, printable
from ..markdown_text import code, public
from ..model_folder import load_model
from ..names import counted, some
from ..processing_fafa import build_tokenizer, vocabulary_hash
from ..registration import MODELS, classes_of
from ..retriever import Retriever, RetrieverProcessor
from .adapters import add_lora, merge_lora
from .arguments import RetrieverTrainingArguments
from .card import RunFacts
from .collator import TripletCollator
from .memory import keep_memory
from .options import GROUPS, RunOptions, check_model_options, read_options
from .pairs import caption_pairs
from .rank_metrics import held_out_rank_metrics
from .safety.checkpoints import CheckpointError
from .safety.guard import TrainingCollapsed
from .safety.preemption import PREEMPTED, TrainingPreempted
from .split import hold_out_quadruples
from .trainer import RetrieverTrainer
from .vision_blocks import train_vision_blocks
from .vocabulary import add_words, build_vocabulary

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)


def start(options: RunOptions, training: RetrieverTrainingArguments) -> None:
    """Sets the seed, before anything random happens, and refuses at once what could not be written or set later.

    On a CPU, memory that a step frees is kept for the next one from here on, see `keep_memory`.

    Raises:
        OSError: nothing can be written into the output folder.
        ValueError: a module cannot be imported, or the model's configuration has no such field.
    """
    import_modules(options.import_modules)
    set_seed(training.seed)
    if training.device.type == "cpu":
        keep_memory()
    check_output_folder(training.output_dir)
    if options.model != "tiny" and options.model_options:
        with loading(options.model):
            config = AutoConfig.from_pretrained(options.model)
        check_model_options(options.model_options, config)


def read_sets(options: RunOptions, training: RetrieverTrainingArguments) -> "tuple[datasets.Dataset, datasets.Dataset]":
    """The training set, and what is held out of it for validation: whole quadruples. A test set never selects a model.

    Images are paths, which the collator opens: a bad file is reported by its name. Images with captions become pairs,
    for models that train without reference images. Sets the group column of `training`, unless another was chosen.

    Raises:
        OSError, ValueError: a file is missing, or a record is wrong.
    """
    from datasets import load_dataset

    triplets = load_dataset(options.dataset, split="train", data_dir=options.data_dir)
    in_pairs = _in_pairs(options)
    if in_pairs:
        parts, repeats = [triplets], [options.real_repeats]
        if options.generated_dir:
            parts.append(load_dataset("SynTBPR", split="train", data_dir=options.generated_dir))
            repeats.append(1)
        triplets = caption_pairs(*parts, repeats=repeats)
    if training.group_column == GROUPS["SynCPR"]:
        training.group_column = GROUPS[options.dataset]
    train_rows, validation_rows = hold_out_quadruples(
        triplets[training.group_column][:],
        triplets["target_image_path" if in_pairs else "reference_image_path"][:],
        triplets["target_image_path"][:],
        fraction=options.validation_fraction,
        seed=training.seed,
    )
    return triplets.select(train_rows), triplets.select(validation_rows[: options.max_validation_triplets])


def make_model(options: RunOptions, train_set: "datasets.Dataset") -> tuple[Retriever, RetrieverProcessor]:
    """The model and its processor, and what of the model trains.

    A folder's is loaded in fp32 whatever its precision: in 16 bits, updates of 2e-6 round away.

    Raises:
        OSError, ValueError: there is no such model, or it cannot train so.
    """
    if options.model == "tiny":
        model, processor = make_tiny_model(train_set, options.method, options.model_options)
    else:
        with loading(options.model):
            model, processor = load_model(options.model, dtype=torch.float32, **options.model_options)
        if getattr(model, "peft_config", None):
            raise ValueError(
                f"{options.model} holds an adapter: start from its merged model (merge_adapter), or resume"
            )
        if options.new_words:
            words = add_words(model, processor, _captions(train_set), options.new_words)
            logger.info("%s for the model to learn: %s", counted(len(words), "new word"), some(words))
    if options.trainable_vision_blocks is not None:
        train_vision_blocks(model, options.trainable_vision_blocks)
    if options.trainable_vision_blocks and options.vision_dtype is not None:
        logger.warning("vision_dtype %s is for a frozen tower; this one trains, in fp32", options.vision_dtype)
    elif options.vision_dtype is not None:
        model.freeze_vision_tower(getattr(torch, options.vision_dtype))
    if options.lora_rank:
        model = add_lora(model, options.lora_rank, options.lora_alpha, options.lora_dropout, options.lora_targets)
    return model, processor


def make_tiny_model(train_set: "datasets.Dataset", method: str, options: dict) -> tuple[Retriever, RetrieverProcessor]:
    """A tiny model with random weights, and its processor, whose vocabulary is that of the training captions."""
    captions = _captions(train_set)
    if (start := getattr(import_module(MODELS[method], __package__.partition(".")[0]), "tiny_start", None)) is not None:
        return start(captions, **options)  # with a tokenizer of the method's own kind
    tokenizer = build_tokenizer(build_vocabulary(captions))
    config_class, model_class, processor_class, _ = classes_of(method)
    config = config_class.tiny(vocab_size=len(tokenizer), vocabulary_hash=vocabulary_hash(tokenizer), **options)
    return model_class(config), processor_class.tiny(tokenizer, config)


def _captions(train_set: "datasets.Dataset") -> list[str]:
    columns = [name for name in ("edit_caption", "target_caption") if name in train_set.column_names]
    return [caption for name in columns for caption in train_set[name][:]]


def make_trainer(
    options: RunOptions,
    training: RetrieverTrainingArguments,
    recipe: dict,
    model: Retriever,
    processor: RetrieverProcessor,
    train_set: "datasets.Dataset",
    validation_set: "datasets.Dataset",
) -> RetrieverTrainer:
    """The trainer, which augments the training images only; with `cache_features` it reads features, encoded here.

    Args:
        recipe: the settings given, as `read_options` returns them, for the card.

    Raises:
        ValueError: parts that do not go together; the message names them.
    """
    in_pairs = _in_pairs(options)
    collator = TripletCollator(
        processor,
        augment=not options.cache_features,
        with_references=not in_pairs and model.reads_references,
        with_captions=not in_pairs and (training.caption_steps > 0 or model.reads_target_captions),
        on_error=options.on_error,
        cache_images=options.cache_images,
        seed=training.seed,
        group_column=training.group_column,
    )
    if options.cache_features:
        collator = _with_cached_features(model, collator, train_set, validation_set, training)
    trainer = RetrieverTrainer(
        model=model,
        args=training,
        train_dataset=train_set,
        eval_dataset=validation_set,
        data_collator=collator,
        compute_metrics=held_out_rank_metrics(model),
        processing_class=processor,
    )
    is_tiny = options.model == "tiny"
    origin = f"random weights (`{options.method}Config.tiny`)" if is_tiny else code(public(options.model))
    trainer.facts = RunFacts(
        about=f"Trained from {origin} by `fafa train`.",
        dataset=options.data_dir or (SynCPR.HUB_REPO_ID if options.dataset == "SynCPR" else options.dataset),
        base_model=None if is_tiny else options.model,
        settings=recipe,
    )
    return trainer


def _in_pairs(options: RunOptions) -> bool:
    """Whether the data set holds images with captions, which become pairs; others hold triplets."""
    return GROUPS[options.dataset] == "person_id"


def _with_cached_features(model, collator, train_set, validation_set, training) -> TripletCollator:
    """A collator of features, which OUTPUT_DIR/features keeps for a run that goes on."""
    from ..models.word4per import CachedCollator, Word4PerModel, cache_features

    if not isinstance(model, Word4PerModel):
        raise ValueError(
            f"cache_features is for Word4Per's second stage, and {type(model).__name__} is none: leave it out"
        )
    folder = Path(training.output_dir, "features")
    features = cache_features(model.to(training.device), collator, train_set, validation_set, folder=folder)
    given = {entry.name: getattr(collator, entry.name) for entry in fields(collator) if entry.init}
    return CachedCollator(**given, features=features)


def train(trainer: RetrieverTrainer) -> None:
    """Trains to the end, or goes on where `resume_from_checkpoint` says ("true": the output folder's last checkpoint).

    Raises:
        SystemExit: with one sentence, where a checkpoint cannot be resumed or the model collapses; with 143, where the
            machine is taken away: no model is written, and a scheduler should start the run again.
    """
    start = trainer.args.resume_from_checkpoint
    if isinstance(start, str) and start.lower() in ("true", "false"):
        start = start.lower() == "true"
    try:
        trainer.train(resume_from_checkpoint=start)
    except (CheckpointError, TrainingCollapsed) as stop:  # their messages say what to do
        raise SystemExit(f"{type(stop).__name__}: {stop}") from stop
    except TrainingPreempted as stop:
        print(f"{type(stop).__name__}: {stop}", file=sys.stderr)
        raise SystemExit(PREEMPTED) from stop


def save(trainer: RetrieverTrainer, merge_adapter: bool = False) -> dict[str, float]:
    """Writes a folder that AutoModel and AutoProcessor load, with a card that says how it came about.

    With `push_to_hub` it is on the Hub as well: once saved, and once more with the final figures.

    Args:
        merge_adapter: whether to write the model with its adapter merged in, too, into OUTPUT_DIR/merged.

    Returns:
        the held-out metrics, in percent.
    """
    training = trainer.args
    trainer.save_model()
    trainer.save_state()
    metrics = trainer.evaluate()
    trainer.save_metrics("eval", metrics)
    trainer.create_model_card()
    if training.push_to_hub:
        trainer.push_to_hub()
    if merge_adapter and trainer.is_world_process_zero():
        training.output_dir = str(Path(training.output_dir, "merged"))
        trainer.model = merge_lora(trainer.model)
        trainer.model.save_pretrained(training.output_dir)
        trainer.processing_class.save_pretrained(training.output_dir)
        trainer.create_model_card()
    logger.info("held-out Rank-1 %.1f %%; the model is in %s", metrics["eval_rank-1"], training.output_dir)
    return metrics


def main(arguments: Sequence[str] | None = None, program: str | None = None) -> None:
    """Train a model on a data set in SynCPR's format: FAFA, or another of the package's methods, or your own.

        fafa train --config examples/configs/paper.yaml --data_dir /data/SynCPR --output_dir runs/paper

    Every setting is a field of the YAML file, of the command line, or of both (the command line wins). A run that was
    stopped or killed goes on from its last checkpoint with --resume_from_checkpoint true. Several GPUs:
    accelerate launch -m fafa.cli train ...
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    with command():
        options, training, recipe = read_options(arguments, program, cleandoc(main.__doc__))
    with command(kept_of(training)):
        start(options, training)
        train_set, validation_set = read_sets(options, training)
        model, processor = make_model(options, train_set)
        trainer = make_trainer(options, training, recipe, model, processor, train_set, validation_set)
        train(trainer)
        save(trainer, options.merge_adapter)


def kept_of(training: RetrieverTrainingArguments) -> str:
    """What is kept of a run that is interrupted, for `commands.command`."""
    return (
        f"Checkpoints in {printable(training.output_dir)} are kept: the same command goes on from the last one with "
        "--resume_from_checkpoint true."
    )
