"""The Hugging Face Trainer for FAFA, with no more changed than FAFA needs."""

import logging
import math
from collections import defaultdict
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.optim.lr_scheduler import OneCycleLR
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalPrediction

from .batches import GroupSampler

logger = logging.getLogger(__name__)

LOSS_TERMS = ("loss_fda", "loss_fd", "loss_mfr", "loss_itc")


@dataclass
class FafaTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the paper's recipe as defaults, and what batches and warm-up need beyond it.

    Paper and released code: AdamW, learning rate 2e-6, betas (0.9, 0.98), epsilon 1e-7, weight decay 0.05, one-cycle
    schedule with 2 % of warm-up, batches of 256, 10 epochs. Added here: gradient clipping, and no weight decay on
    biases, norms, tokens and temperature.
    """

    per_device_train_batch_size: int = 256
    num_train_epochs: float = 10.0
    learning_rate: float = 2e-6
    adam_beta2: float = 0.98
    adam_epsilon: float = 1e-7
    weight_decay: float = 0.05
    warmup_steps: float = 0.02
    max_grad_norm: float = 1.0
    remove_unused_columns: bool = False
    label_names: list[str] | None = field(default_factory=lambda: ["group_ids"])

    one_cycle: bool = field(
        default=True,
        metadata={"help": "One-cycle schedule as released, beta1 cycling included; else lr_scheduler_type counts."},
    )
    group_size: int = field(
        default=1, metadata={"help": "Triplets of one group (cpr_id) kept together in a batch; 1: random batches."}
    )
    random_epochs: int = field(default=0, metadata={"help": "Epochs of random batches before group_size counts."})
    contrastive_steps: int = field(
        default=0,
        metadata={"help": "Steps with the forward divergence before FDA's own; for a model from random weights."},
    )
    caption_steps: int = field(
        default=0,
        metadata={"help": "Steps with the caption-to-image term (itc_weight 1); for a model from random weights."},
    )


class ContrastiveWarmup(TrainerCallback):
    """Trains with cross-entropy, and with whole captions, before the configured loss.

    BLIP-2's weights come from contrastive training; a model from random weights needs the like, because the reverse
    divergence of FDA has hardly a gradient while all scores are alike.

    Args:
        config: of the model; its `fda_divergence` and `itc_weight` are what training ends with.
        contrastive_steps: optimiser steps with the forward divergence.
        caption_steps: optimiser steps with the caption-to-image term.
    """

    def __init__(self, config, contrastive_steps: int, caption_steps: int):
        self.config = config
        self.contrastive_steps, self.caption_steps = contrastive_steps, caption_steps
        self.divergence, self.itc_weight = config.fda_divergence, config.itc_weight

    def on_step_begin(self, args, state, control, **kwargs):
        """Depends on the step alone, so that a resumed run does the same."""
        step = state.global_step
        self.config.fda_divergence = "forward" if step < self.contrastive_steps else self.divergence
        self.config.itc_weight = 1.0 if step < self.caption_steps else self.itc_weight

    def on_train_end(self, args, state, control, **kwargs):
        """The saved config says what the model is, also when training ended within the warm-up."""
        self.config.fda_divergence, self.config.itc_weight = self.divergence, self.itc_weight


class CollatorEpoch(TrainerCallback):
    """Tells the collator which epoch's augmentation to draw, as the Trainer tells the sampler."""

    def __init__(self, collator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        """After a resume in the middle of an epoch, `state.epoch` is a fraction."""
        self.collator.set_epoch(math.floor(state.epoch + 1e-6))


class ResumableOneCycle(OneCycleLR):
    """One-cycle over the length of this run, also when it resumes one that was to be shorter or longer."""

    def load_state_dict(self, state_dict: dict) -> None:
        """Takes over the position in the cycle, not its length."""
        length = ("total_steps", "_schedule_phases")
        super().load_state_dict({name: value for name, value in state_dict.items() if name not in length})


class FafaTrainer(Trainer):
    """Trainer with one-cycle schedule, group-aware batches, and the loss terms in the log."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.skipped_images: dict[str, int] = defaultdict(int)
        self._term_sums: dict[str, torch.Tensor] = {}
        self._term_count = 0
        if hasattr(self.data_collator, "set_epoch"):
            self.add_callback(CollatorEpoch(self.data_collator))
        warmup = self.args.contrastive_steps, self.args.caption_steps
        if any(warmup):
            self.add_callback(ContrastiveWarmup(self.model.config, *warmup))

    def get_decay_parameter_names(self, model) -> list[str]:
        """Matrices of linear, convolution and word layers: no biases, norms, tokens, positions, temperature."""
        kept_free = ("temperature", "query_tokens", "class_embedding", "position_embedding")
        names = super().get_decay_parameter_names(model)
        return [name for name in names if not any(part in name for part in kept_free)]

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """One-cycle as in the released code, unless `one_cycle` is off."""
        if not self.args.one_cycle or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        optimizer = optimizer or self.optimizer
        given = self.args.warmup_steps
        warmup = given / num_training_steps if given >= 1 else given
        self.lr_scheduler = ResumableOneCycle(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=num_training_steps,
            # The class divides by the warm-up steps less one, so a single one is none.
            pct_start=warmup if warmup * num_training_steps > 1 else 0.0,
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.group_size == 1 or not hasattr(dataset, "column_names"):
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return GroupSampler(np.asarray(dataset["cpr_id"][:]), self.args.group_size, self.args.random_epochs, seed)

    def get_eval_dataloader(self, eval_dataset=None):
        """The training collator, but without augmentation."""
        training_collator = self.data_collator
        self.data_collator = replace(training_collator, augment=False)
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = training_collator

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Keeps the terms of the loss for the log, and the names of images that the collator left out."""
        for name in inputs.pop("skipped_images", []):
            self.skipped_images[name] += 1
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            for term in LOSS_TERMS:
                if outputs.get(term) is not None:
                    self._term_sums[term] = self._term_sums.get(term, 0.0) + outputs[term].detach()
            self._term_count += 1
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each loss term since the last log of the training loss."""
        if "loss" in logs and self._term_count:
            logs.update({term: float(total) / self._term_count for term, total in self._term_sums.items()})
            self._term_sums, self._term_count = {}, 0
        super().log(logs, start_time)

    def train(self, *args, **kwargs):
        """Trains; images that were left out under `on_error="skip"` are reported at the end, also of a failed run."""
        try:
            return super().train(*args, **kwargs)
        finally:
            if self.skipped_images:
                logger.warning(
                    "%d images could not be read; triplets were left out %d times because of them: %s",
                    len(self.skipped_images),
                    sum(self.skipped_images.values()),
                    ", ".join(sorted(self.skipped_images)),
                )


def held_out_rank_metrics(model):
    """A `compute_metrics` for held-out triplets: each query against all their targets, only its own being correct.

    Args:
        model: the `FafaModel` that is trained; it scores.

    Returns:
        a function from the Trainer's `EvalPrediction` to Rank-1, 5, 10, mAP and mINP in percent.
    """
    from ..evaluation import retrieval_metrics

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        queries, targets = (torch.from_numpy(features) for features in prediction.predictions)
        own = np.arange(len(queries))
        return retrieval_metrics(model.score(queries, targets).cpu(), own, own)

    return compute
