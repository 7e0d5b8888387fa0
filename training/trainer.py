"""The Hugging Face Trainer for models of the contract; only what they need is changed."""

import logging
from collections import Counter
from operator import itemgetter

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache

from ..files import some
from ..loading import dead_workers_told, undecoded
from ..markdown_text import public
from .arguments import RetrieverTrainingArguments, refuse_unknown
from .card import RunClock, RunFacts, write_training_card
from .checks import EveryWeightLearns, check_held_out, check_trainer
from .gradient_cache import average_gradients, cached_backward
from .rates import set_rates
from .reading import TripletReading
from .safety.averaging import AveragedWeights
from .safety.guard import EarlyStopping
from .safety.trainer import SafeTrainer
from .schedules import CollatorEpoch, WarmUp, one_cycle

logger = logging.getLogger(__name__)

SEARCHED = (  # settings that every run reads anew
    "learning_rate",
    "weight_decay",
    "adam_beta2",
    "adam_epsilon",
    "warmup_steps",
    "max_grad_norm",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "group_size",
    "random_epochs",
    "contrastive_steps",
    "seed",
    "data_seed",
)


class RetrieverTrainer(AveragedWeights, TripletReading, SafeTrainer):
    """Trainer with one-cycle schedule, group-aware batches, and the loss terms in the log."""

    def __init__(self, model=None, args: RetrieverTrainingArguments | None = None, *others, **kwargs):
        args = RetrieverTrainingArguments() if args is None else args
        if not isinstance(args, RetrieverTrainingArguments):
            raise ValueError(f"args is {type(args).__name__}, expected RetrieverTrainingArguments (the same options)")
        super().__init__(model, args, *others, **kwargs)
        self._given_held_out = self.eval_dataset
        self.train_dataset, self.eval_dataset = undecoded(self.train_dataset), undecoded(self.eval_dataset)
        check_trainer(self)
        self._meet_groups(self.model)
        self.facts = RunFacts()
        self.add_callback(RunClock())
        self.skipped_images: Counter[str] = Counter()
        if getattr(self.data_collator, "on_error", None) == "skip" and hasattr(self.eval_dataset, "select"):
            self.eval_dataset = self._readable(self.eval_dataset)
        if self.args.early_stopping_patience:
            self.add_callback(EarlyStopping(self.args.early_stopping_patience))
        if hasattr(self.data_collator, "check_captions"):
            self.data_collator.check_captions(self.train_dataset, self.eval_dataset)
        if hasattr(self.data_collator, "set_epoch"):
            self.add_callback(CollatorEpoch(self.data_collator))
        self._warmup = WarmUp()
        self.add_callback(self._warmup)
        self.add_callback(EveryWeightLearns())

    def call_model_init(self, trial=None):
        """A model that knows the groups of the training set, also where a search makes one anew."""
        model = super().call_model_init(trial)
        if hasattr(self, "facts"):  # not from within the Trainer's own `__init__`
            self._meet_groups(model)
        return model

    def _meet_groups(self, model) -> None:
        if self.train_dataset is not None:
            model.meet_groups(np.asarray(self.train_dataset[self.args.group_column][:]))

    def create_optimizer(self, model=None):
        """The Trainer's own, in which biases and new layers may have rates of their own."""
        made_here, args = self.optimizer is None, self.args
        optimizer = super().create_optimizer(model)
        if (args.bias_rate, args.new_layer_rate) != (1.0, 1.0):
            if not made_here:
                raise ValueError("bias_rate and new_layer_rate are for the trainer's own optimiser, not a given one")
            set_rates(
                optimizer, self.model if model is None else model, self.model, args.bias_rate, args.new_layer_rate
            )
        return optimizer

    def get_decay_parameter_names(self, model) -> list[str]:
        """Matrices of linear, convolution and word layers, but no biases, no norms, and not what the model names."""
        names = super().get_decay_parameter_names(model)
        return [name for name in names if not any(part in name for part in self.model.weights_without_decay)]

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """One-cycle as in the released code, unless `one_cycle` is off."""
        if not self.args.one_cycle or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = one_cycle(optimizer or self.optimizer, num_training_steps, self.args.warmup_steps)
        self._created_lr_scheduler = True  # otherwise a second run would continue the first one's
        return self.lr_scheduler

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """The Trainer's own; figures of another set than `eval_dataset` need another name, or the card would take them.

        Raises:
            ValueError: another set under the name "eval", or several sets.
        """
        if eval_dataset is self._given_held_out or eval_dataset is self.eval_dataset:
            eval_dataset = None  # the trainer's own, which it has prepared
        elif isinstance(eval_dataset, dict):
            check_held_out(eval_dataset)
        elif eval_dataset is not None and metric_key_prefix == "eval":
            raise ValueError(
                "the figures of this set would be taken for held-out ones, in the log and in the card: name them, "
                "evaluate(dataset, metric_key_prefix='other'), or give the set to the trainer as eval_dataset"
            )
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """A step in chunks of `gradient_cache_size`, or the Trainer's own."""
        if self.args.gradient_cache_size == 0:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        inputs = self._prepare_inputs(inputs)
        self.skipped_images.update(inputs.pop("skipped_images", []))
        parallel = self.args.world_size > 1
        output = cached_backward(
            self.model,
            inputs,
            self.args.gradient_cache_size,
            self.accelerator.autocast,  # accelerate puts it around `forward` alone
            gather_across_processes=parallel,
        )
        if parallel:
            average_gradients(self.model)
        self._note_terms(output)
        every = self.args.torch_empty_cache_steps
        if every is not None and self.state.global_step % every == 0:
            clear_device_cache()
        return output.loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss of the batches of all processes together; notes its terms and what the collator left out."""
        self.skipped_images.update(inputs.pop("skipped_images", []))
        if model.training and self.args.world_size > 1:
            inputs["gather_across_processes"] = True
        loss, output = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self._note_terms(output)
        else:  # what `compute_metrics` is given
            output = {name: output[name] for name in ("query_embeds", "target_embeds")}
        return (loss, output) if return_outputs else loss

    def hyperparameter_search(
        self, hp_space=None, compute_objective=None, n_trials: int = 20, direction=None, *others, **kwargs
    ):
        """The Trainer's own; by default it maximises `metric_for_best_model`: held-out Rank-1, if there are metrics.

        transformers would minimise the sum of all metrics. A trial that collapses is given up, and the search goes on.

        Args:
            hp_space: gives the settings of a trial, which `SEARCHED` must name; `model_init` reads those of the model.
            others: arguments of the Trainer's method, as `kwargs`.

        Raises:
            ValueError: a trial could not change one of its settings.
        """
        if compute_objective is None:
            chosen = self.args.metric_for_best_model or ("loss" if self.compute_metrics is None else "rank-1")
            name = f"eval_{chosen.removeprefix('eval_')}"
            compute_objective = itemgetter(name)
            direction = direction or ("minimize" if name.endswith("loss") else "maximize")

        def checked_space(trial) -> dict:
            settings = hp_space(trial)
            refuse_unknown("hp_space, of what a trial may change", settings, SEARCHED)
            return settings

        space = None if hp_space is None else checked_space
        direction = direction or "minimize"
        return super().hyperparameter_search(space, compute_objective, n_trials, direction, *others, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The Trainer's own; the configuration says what the model is, also within the warm-up."""
        with self._warmup.put_aside():
            super().save_model(output_dir, _internal_call)

    def _note_terms(self, output) -> None:
        self.guard.observe(output.loss, len(output.query_embeds))
        self.loss_terms.add(output)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each loss term, and of the embeddings' spread, since the last log of the training loss."""
        if "loss" in logs:
            logs.update(self.loss_terms.take_means())
        super().log(logs, start_time)

    def save_state(self) -> None:
        """Writes trainer_state.json beside the model without this machine's folders, since `push_to_hub` uploads it."""
        best = self.state.best_model_checkpoint
        self.state.best_model_checkpoint = public(best)
        try:
            super().save_state()
        finally:
            self.state.best_model_checkpoint = best

    def create_model_card(self, model_name: str | None = None, **metadata) -> None:
        """Card and curves of the run, with what `self.facts` say; `push_to_hub` calls this before it uploads."""
        if self.is_world_process_zero():
            write_training_card(self, model_name, **metadata)

    def train(self, *args, **kwargs):
        """Trains; images that `on_error="skip"` left out are reported at the end, also of a failed run.

        Raises:
            ValueError: weights that train are in half precision, or got no gradient in the first step.
            TrainingPreempted: SIGTERM ended the run, with `enable_jit_checkpoint`.
            WorkerDiedError: a process that reads images was killed.
        """
        try:
            with dead_workers_told():
                return super().train(*args, **kwargs)
        finally:
            if self.skipped_images:
                logger.warning(
                    "images could not be read (%d); triplets were left out %d times because of them: %s",
                    *(len(self.skipped_images), self.skipped_images.total(), some(sorted(self.skipped_images))),
                )


FafaTrainer = RetrieverTrainer  # its name in earlier versions
