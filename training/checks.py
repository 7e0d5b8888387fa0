"""What a trainer refuses before a run and after its first step: what it was given and could not use."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorWithPadding, TrainerCallback, default_data_collator

from ..files import some
from ..names import counted
from ..retriever import Retriever, check_contract
from .arguments import REFUSED
from .batches import check_batch_size
from .collator import TripletCollator

logger = logging.getLogger(__name__)


def check_trainer(trainer) -> None:
    """Refuses parts of a trainer that do not go together, or could not act.

    Raises:
        TypeError: the model does not keep the contract.
        ValueError: the message names the part, and says what to do.
    """
    check_contract(trainer.model, Retriever)
    _check_data(trainer)
    _check_collator(trainer)
    _check_modes(trainer)
    if trainer.compute_loss_func is not None:
        raise ValueError(
            "compute_loss_func is given no group_ids, and the steps of gradient_cache_size do not call it. The loss is "
            "the model's: choose its weights in the configuration, or override `losses` in a class of your own"
        )
    base = getattr(getattr(trainer.model, "peft_config", {}).get("default"), "base_model_name_or_path", None)
    if trainer.args.push_to_hub and base and Path(base).is_dir():
        raise ValueError(
            f"push_to_hub would upload an adapter whose base, {Path(base).name}, is a folder of this machine, so that "
            "nobody could load it: upload the base first and train from its name on the Hub, or leave push_to_hub out"
        )
    if trainer.optimizer is not None:
        held = {id(weight) for group in trainer.optimizer.param_groups for weight in group["params"]}
        missing = [name for name, weight in trained(trainer.model) if id(weight) not in held]
        if missing:
            raise ValueError(
                f"optimizers: weights that train are not in the optimiser ({len(missing)}): {some(missing)}. Make it "
                "of this model's parameters, after adapters were added; or give optimizer_cls_and_kwargs"
            )
    elif trainer.optimizer_cls_and_kwargs is None:
        trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)  # says if its library is not installed
    names = getattr(trainer.compute_metrics, "names", None)
    chosen = (trainer.args.metric_for_best_model or "loss").removeprefix("eval_")
    if chosen != "loss" and (trainer.compute_metrics is None or (names is not None and chosen not in names)):
        known = "compute_metrics is not given" if names is None else f"compute_metrics gives {', '.join(names)}"
        raise ValueError(f"metric_for_best_model is {chosen}, but {known}: choose one of held_out_rank_metrics")


def check_held_out(dataset: Any) -> None:
    """Refuses what cannot choose a checkpoint: a test set, several sets, a stream, a single triplet.

    Raises:
        ValueError: the message says what to do.
    """
    parts = dataset.values() if isinstance(dataset, dict) else [dataset]
    if any("instance_id" in (getattr(part, "column_names", None) or []) for part in parts):
        raise ValueError(
            "eval_dataset is a test set in ITCPR's form (it has a column instance_id). Choosing checkpoints by it "
            "would make its results worthless. Hold out quadruples of the training set: hold_out_quadruples()."
        )
    if isinstance(dataset, dict):
        raise ValueError(
            f"eval_dataset is a dict of {some(list(map(str, dataset)))}: give the one held-out set that checkpoints "
            "are chosen by, and that the guard and the card look at. Others: after training, "
            "trainer.evaluate(dataset, metric_key_prefix='other')"
        )
    _check_set("eval_dataset", dataset)
    if len(dataset) < 2:
        raise ValueError(
            f"eval_dataset has {counted(len(dataset), 'triplet')}, so that no query could miss its target: hold out "
            "more (validation_fraction), or leave it out"
        )


def _check_set(name: str, dataset: Any) -> None:
    if getattr(dataset, "column_names", None) is None or not hasattr(dataset, "select"):
        kind = f"a {type(dataset).__name__}" if hasattr(dataset, "__len__") else "a stream"
        raise ValueError(
            f"{name} is {kind}, which does not tell the groups of its triplets beforehand, as batches by group and "
            "exact resuming need. Give a datasets.Dataset: load_dataset without streaming=True, or Dataset.from_list. "
            "Images stay on disk until they are needed"
        )


def _check_data(trainer) -> None:
    args, dataset = trainer.args, trainer.train_dataset
    if trainer.eval_dataset is not None:
        check_held_out(trainer.eval_dataset)
    if dataset is None:
        return
    _check_set("train_dataset", dataset)
    if "instance_id" in dataset.column_names:
        raise ValueError("train_dataset is a test set in ITCPR's form (it has a column instance_id)")
    group = args.group_column
    if group not in dataset.column_names:
        raise ValueError(
            f"train_dataset has no column {group}, the group of a triplet; it has {some(dataset.column_names)}. "
            "group_column names another"
        )
    batch_size = args.per_device_train_batch_size * args.world_size
    check_batch_size(len(dataset), batch_size, args.world_size, args.dataloader_drop_last)
    first = dataset[group][:1]
    if np.asarray(first).dtype.kind not in "iu":
        raise ValueError(
            f"train_dataset: the first {group} is {first[0]!r:.40}, expected whole numbers. "
            "np.unique(ids, return_inverse=True)[1] numbers other names"
        )
    if args.group_size > batch_size:
        raise ValueError(f"group_size is {args.group_size}, expected 0 to the batch size of {batch_size}")
    if (steps := args.gradient_accumulation_steps) > 1:
        logger.warning(
            "gradient_accumulation_steps %d: a triplet is told from the others of its batch of %d, not of all %d. "
            "batch_size %d with gradient_cache_size %d compares all, in the same memory.",
            *(steps, batch_size, batch_size * steps, batch_size * steps, args.per_device_train_batch_size),
        )


def _check_collator(trainer) -> None:
    collator, args = trainer.data_collator, trainer.args
    sets = {"train_dataset": trainer.train_dataset, "eval_dataset": trainer.eval_dataset}
    sets = {name: dataset for name, dataset in sets.items() if dataset is not None}
    if sets and (collator is default_data_collator or isinstance(collator, DataCollatorWithPadding)):
        raise ValueError("data_collator: a batch of images and captions is made by TripletCollator(processor, ...)")
    if not isinstance(collator, TripletCollator):
        return
    wants_captions = args.caption_steps > 0 or trainer.model.reads_target_captions
    if wants_captions and collator.with_references and not collator.with_captions:  # of a pair the caption is whole
        raise ValueError(
            "caption_steps, or the model's own loss, trains with the targets' captions: "
            "TripletCollator(..., with_captions=True)"
        )
    if collator.group_column != args.group_column:
        raise ValueError(
            f"group_column is {args.group_column}, but {collator.group_column} in the collator: give it both"
        )
    images = collator.image_columns
    needed = (*images, "edit_caption", args.group_column, *["target_caption"] * collator.with_captions)
    if collator.augment:
        needed += tuple(f"{image}_path" for image in images)
    for name, dataset in sets.items():
        missing = [column for column in needed if column not in dataset.column_names]
        if missing:
            raise ValueError(
                f"{name} has no column {' and '.join(missing)}, which TripletCollator reads; it has "
                f"{some(dataset.column_names)}. load_dataset('SynCPR', data_dir=...) gives them"
                if collator.with_references
                else f"{name} has no column {' and '.join(missing)}, which a collator of pairs reads; it has "
                f"{some(dataset.column_names)}. caption_pairs(dataset) gives them"
            )
    if collator.cache_images and args.dataloader_num_workers:
        raise ValueError(
            f"cache_images would keep all images in each of {args.dataloader_num_workers} workers: set "
            "dataloader_num_workers to 0, or leave out cache_images"
        )


def _check_modes(trainer) -> None:
    args = trainer.args
    if trainer.is_deepspeed_enabled:  # by a configuration of accelerate
        raise ValueError(REFUSED["deepspeed"][1])
    if trainer.is_fsdp_enabled and hasattr(trainer.model, "peft_config"):
        raise ValueError(
            "adapters (LoRA) do not train under FSDP. They need little memory: launch with one process per GPU and "
            "the whole model in each, as examples/configs/accelerate/one_node.yaml does"
        )
    for name in ("contrastive", "caption"):
        steps = getattr(args, f"{name}_steps")
        if steps and not trainer.model.warmup_settings(name == "contrastive", name == "caption"):
            raise ValueError(f"{name}_steps is {steps}, but {type(trainer.model).__name__} has no such warm-up")
    if args.gradient_cache_size and (args.gradient_accumulation_steps > 1 or args.fp16 or trainer.is_fsdp_enabled):
        raise ValueError(
            "gradient_cache_size excludes gradient accumulation (raise batch_size), fp16 (use bf16) and FSDP"
        )
    if args.fp16:
        logger.warning(
            "fp16: users of the released code, which trains in it, lost runs to a collapse near step 23,000 and "
            "reached 40.3 Rank-1 instead of 46.5. bf16=true has the range of float32 at the same speed."
        )


def trained(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    """The weights that train, by name."""
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]


def check_weights(model: torch.nn.Module) -> None:
    """Refuses a model of which nothing would be learnt.

    Raises:
        ValueError: no weight trains, or one does in half precision.
    """
    weights = trained(model)
    if not weights:
        raise ValueError("no weight of the model trains (requires_grad). Call add_lora or train_vision_blocks")
    for name, weight in weights:
        if weight.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"{name} trains, but is {weight.dtype}, where most updates round away. Load the model in float32 "
                "(from_pretrained(..., dtype=torch.float32)); bf16=true then still computes in half precision"
            )


class EveryWeightLearns(TrainerCallback):
    """Stops a run at its first step if a weight that is to train got no gradient; torch at most warns of it."""

    def on_train_begin(self, args, state, control, **kwargs):
        """Every run is looked at once."""
        self.looked = False

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Gradients are there, and nothing has changed yet."""
        if self.looked:
            return
        self.looked = True
        without = [name for name, weight in trained(model) if weight.grad is None]
        if without:
            raise ValueError(
                f"weights are to train and got no gradient in the first step ({len(without)}): {some(without)}. Where "
                "the model checkpoints activations, use_reentrant=False lets gradients through; weights that no part "
                "of the loss reaches are frozen by requires_grad_(False)"
            )
