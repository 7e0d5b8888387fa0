"""The Hugging Face Trainer for FAFA, with no more changed than FAFA needs."""

import logging
import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalPrediction

from ..files import some
from ..image_reading_fafa import UnreadableImageError
from ..loading import dead_workers_told, undecoded, worker_options
from ..markdown_text import public
from .averaging import AveragedWeights
from .batches import TripletBatches
from .card import RunClock, RunFacts, write_training_card
from .gradient_cache import average_gradients, cached_backward
from .guard import EarlyStopping, embedding_spread
from .safe_trainer import SafeTrainer

logger = logging.getLogger(__name__)

LOSS_TERMS = ("loss_fda", "loss_fd", "loss_mfr", "loss_itc")


@dataclass
class FafaTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the paper's recipe as defaults, and what batches and warm-up need beyond it.

    Paper and released code: AdamW, learning rate 2e-6, betas (0.9, 0.98), epsilon 1e-7, weight decay 0.05, one-cycle
    schedule with 2 % of warm-up, batches of 256, 10 epochs. Added here: gradient clipping, and no weight decay on
    biases, norms, tokens and temperature.
    """

    per_device_train_batch_size: int | None = field(
        default=None, metadata={"help": "Triplets of a batch in each process; instead of batch_size."}
    )
    num_train_epochs: float = 10.0
    learning_rate: float = 2e-6
    adam_beta2: float = 0.98
    adam_epsilon: float = 1e-7
    weight_decay: float = 0.05
    warmup_steps: float = 0.02
    max_grad_norm: float = 1.0
    remove_unused_columns: bool = False
    label_names: list[str] | None = field(default_factory=lambda: ["group_ids"])
    logging_nan_inf_filter: bool = False  # it would hide what the guard looks for, and wait for the device every step

    batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Triplets in a batch, all processes together, which share it evenly; 256 unless "
            "per_device_train_batch_size is given."
        },
    )
    one_cycle: bool = field(
        default=True,
        metadata={"help": "One-cycle schedule as released, beta1 cycling included; else lr_scheduler_type counts."},
    )
    group_size: int = field(
        default=1,
        metadata={"help": "Most triplets of one group (cpr_id) in a batch, kept together; 0: plain random order."},
    )
    gradient_cache_size: int = field(
        default=0,
        metadata={"help": "Triplets with activations in memory at a time, for batches too large for it; 0: all."},
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

    ema_decay: float = field(
        default=0.0,
        metadata={"help": "Evaluate and save an exponential moving average of the weights (0.999, say); 0: off."},
    )
    early_stopping_patience: int = field(
        default=0,
        metadata={"help": "Stop after so many evaluations without a better metric_for_best_model (rank-1); 0: never."},
    )
    collapse_share: float = field(
        default=0.5,
        metadata={"help": "Stop when held-out mAP falls below this share of the best so far; 0: never."},
    )
    collapse_spread: float = field(
        default=0.05,
        metadata={"help": "Stop when the spread of embeddings falls below this share of the most so far; 0: never."},
    )
    allow_changed_data: bool = field(
        default=False,
        metadata={"help": "Resume with other data, seed or batches than the checkpoint's; the order is another then."},
    )

    def __post_init__(self):
        if self.metric_for_best_model is None and (self.load_best_model_at_end or self.early_stopping_patience):
            self.metric_for_best_model = "rank-1"  # the loss depends on the size of the batch
        for entry in fields(self):
            if isinstance(value := getattr(self, entry.name), float) and not math.isfinite(value):
                raise ValueError(f"{entry.name} is {value}, expected a finite number")
        if not isinstance(self.learning_rate, (str, type(None))) and self.learning_rate < 0:
            raise ValueError(f"learning_rate is {self.learning_rate}, expected a number from 0")
        for name in ("seed", "data_seed"):
            if (value := getattr(self, name)) is not None and not 0 <= value < 2**32:
                raise ValueError(f"{name} is {value}, expected a whole number from 0 to {2**32 - 1:,}, as numpy's")
        super().__post_init__()
        if self.n_gpu > 1:  # the Trainer would split each batch, and with it the loss, among them
            logger.warning(
                "This process trains on the first of %d GPUs. For all of them: accelerate launch examples/train.py ...",
                self.n_gpu,
            )
            self._n_gpu = 1
        if self.per_device_train_batch_size is None or self.batch_size is not None:
            self._divide_batch(256 if self.batch_size is None else self.batch_size)

    def _divide_batch(self, batch_size: int) -> None:
        share, rest = divmod(batch_size, self.world_size)
        if share < 1 or rest:
            raise ValueError(
                f"batch_size is {batch_size}, which {self.world_size} processes cannot share evenly: choose a multiple "
                "of their number"
            )
        if self.per_device_train_batch_size not in (None, share):
            raise ValueError(
                f"batch_size {batch_size} is {share} triplets in each of {self.world_size} processes, but "
                f"per_device_train_batch_size is {self.per_device_train_batch_size}: give one of the two. The command "
                "line changes what a file sets: --batch_size N"
            )
        self.per_device_train_batch_size = share

    def __getstate__(self) -> dict:
        """Without the Hub's token: `training_args.bin` lies in the folder that `push_to_hub` uploads."""
        return self.__dict__ | {"hub_token": None}


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


class FafaTrainer(AveragedWeights, SafeTrainer):
    """Trainer with one-cycle schedule, group-aware batches, and the loss terms in the log."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._check_settings()
        self.train_dataset, self.eval_dataset = undecoded(self.train_dataset), undecoded(self.eval_dataset)
        if self.is_fsdp_enabled:  # it shards no scalars; `_save` undoes this
            self.model.temperature = torch.nn.Parameter(self.model.temperature.detach().reshape(1))
        self.facts = RunFacts()
        self.add_callback(RunClock())
        self.skipped_images: dict[str, int] = defaultdict(int)
        if getattr(self.data_collator, "on_error", None) == "skip" and hasattr(self.eval_dataset, "select"):
            self.eval_dataset = self._readable(self.eval_dataset)
        if self.args.early_stopping_patience:
            self.add_callback(EarlyStopping(self.args.early_stopping_patience))
        if hasattr(self.data_collator, "check_captions"):
            self.data_collator.check_captions(self.train_dataset, self.eval_dataset)
        if hasattr(self.data_collator, "set_epoch"):
            self.add_callback(CollatorEpoch(self.data_collator))
        warmup = self.args.contrastive_steps, self.args.caption_steps
        if any(warmup):
            self.add_callback(ContrastiveWarmup(self.model.config, *warmup))

    def _check_settings(self) -> None:
        if "instance_id" in (getattr(self.eval_dataset, "column_names", None) or []):
            raise ValueError(
                "eval_dataset is a test set in ITCPR's form (it has a column instance_id). Choosing checkpoints by it "
                "would make its results worthless. Hold out quadruples of the training set: hold_out_quadruples()."
            )
        if getattr(self.data_collator, "cache_images", False) and self.args.dataloader_num_workers:
            raise ValueError(
                f"cache_images keeps images in the process that reads them, so {self.args.dataloader_num_workers} "
                "workers would each keep all of them: set dataloader_num_workers to 0, or leave out cache_images"
            )
        if self.is_fsdp_enabled and hasattr(self.model, "peft_config"):
            raise ValueError(
                "adapters (LoRA) do not train under FSDP. They need little memory: launch with one process per GPU and "
                "the whole model in each, as examples/configs/accelerate/one_node.yaml does"
            )
        if self.args.gradient_cache_size and (
            self.args.gradient_accumulation_steps > 1 or self.args.fp16 or self.is_fsdp_enabled
        ):
            raise ValueError(
                "gradient_cache_size works without gradient accumulation, fp16 and FSDP: raise batch_size "
                "instead of accumulating, and train in bf16"
            )
        if self.args.fp16:
            logger.warning(
                "fp16: users of the released code, which trains in it, lost runs to a collapse near step 23,000 and "
                "reached 40.3 Rank-1 instead of 46.5. bf16=true has the range of float32 at the same speed."
            )

    def _readable(self, dataset):
        """Without triplets that cannot be read: processes gather their metrics, so none may leave out any later."""
        unreadable = self.data_collator.unreadable(dataset)
        if not unreadable:
            return dataset
        names = ", ".join(sorted(set(unreadable.values())))
        if len(unreadable) == len(dataset):
            raise UnreadableImageError(f"none of {len(dataset)} held-out triplets has readable images: {names}")
        for name in unreadable.values():
            self.skipped_images[name] += 1
        logger.warning(
            "%d of %d held-out triplets are left out (on_error='skip'), whose images cannot be read: %s",
            len(unreadable),
            len(dataset),
            names,
        )
        return dataset.select([row for row in range(len(dataset)) if row not in unreadable])

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

    def get_train_dataloader(self) -> DataLoader:
        """Batches of `TripletBatches`, of which every process reads its share."""
        if not hasattr(self.train_dataset, "column_names") or isinstance(self.train_dataset, IterableDataset):
            with self._safe_workers():
                return super().get_train_dataloader()
        args = self.args
        batches = TripletBatches(
            np.asarray(self.train_dataset["cpr_id"][:]),
            batch_size=args.per_device_train_batch_size * args.world_size,
            group_size=args.group_size,
            random_epochs=args.random_epochs,
            seed=args.seed if args.data_seed is None else args.data_seed,
            num_processes=args.world_size,
            process_index=args.process_index,
        )
        with self._safe_workers():
            loader = DataLoader(
                self.train_dataset,
                batch_sampler=batches,
                collate_fn=self.data_collator,
                num_workers=args.dataloader_num_workers,
                multiprocessing_context=args.dataloader_multiprocessing_context,
                pin_memory=args.dataloader_pin_memory,
                persistent_workers=args.dataloader_persistent_workers,
                prefetch_factor=args.dataloader_prefetch_factor,
            )
        # Not by `accelerator.prepare`, which would divide the batches among processes once more.
        return prepare_data_loader(loader, args.device, num_processes=1, process_index=0, put_on_device=True)

    def get_eval_dataloader(self, eval_dataset=None):
        """The training collator, but without augmentation, and stopping at an image that cannot be read."""
        training_collator = self.data_collator
        self.data_collator = training_collator.for_evaluation()
        try:
            with self._safe_workers():
                return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = training_collator

    def get_test_dataloader(self, test_dataset) -> DataLoader:
        """The Trainer's own, with safe workers."""
        with self._safe_workers():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _safe_workers(self) -> Iterator[None]:
        """Within, `args` ask for workers that need no shared memory for batches, or for none; see `worker_options`."""
        names = "num_workers", "multiprocessing_context", "persistent_workers", "prefetch_factor"
        given = {f"dataloader_{name}": getattr(self.args, f"dataloader_{name}") for name in names}
        options = worker_options(self.args.dataloader_num_workers, self.args.dataloader_multiprocessing_context)
        if options["num_workers"] == 0:
            options |= {"multiprocessing_context": None, "persistent_workers": False, "prefetch_factor": None}
        vars(self.args).update({f"dataloader_{name}": value for name, value in options.items()})
        try:
            yield
        finally:
            vars(self.args).update(given)

    def evaluation_loop(self, *args, **kwargs):
        """The Trainer's own; a worker that is killed ends it."""
        with dead_workers_told():
            return super().evaluation_loop(*args, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """A step in chunks of `gradient_cache_size`, or the Trainer's own."""
        if self.args.gradient_cache_size == 0:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        inputs = self._prepare_inputs(inputs)
        self._note_skipped(inputs)
        parallel = self.args.world_size > 1
        output = cached_backward(
            self.model,
            inputs,
            self.args.gradient_cache_size,
            self.accelerator.autocast,  # which accelerate puts around `forward` alone
            gather_across_processes=parallel,
        )
        if parallel:
            average_gradients(self.model)
        self._note_terms(output)
        return output.loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss of the batches of all processes together; notes its terms and what the collator left out."""
        self._note_skipped(inputs)
        if model.training and self.args.world_size > 1:
            inputs["gather_across_processes"] = True
        loss, output = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self._note_terms(output)
        return (loss, output) if return_outputs else loss

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Writes the model folder; from FSDP, too, one that `FafaModel` loads."""
        if state_dict and "temperature" in state_dict:
            state_dict["temperature"] = state_dict["temperature"].reshape(())
        super()._save(output_dir, state_dict)

    def _note_skipped(self, inputs) -> None:
        for name in inputs.pop("skipped_images", []):
            self.skipped_images[name] += 1

    def _note_terms(self, output) -> None:
        self.guard.observe(output.loss)
        terms = {term: output[term].detach() for term in LOSS_TERMS if output.get(term) is not None}
        for term, value in (terms | embedding_spread(output)).items():
            self._term_sums[term] = self._term_sums.get(term, 0.0) + value
        self._term_count += 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each loss term, and of the embeddings' spread, since the last log of the training loss."""
        if "loss" in logs and self._term_count:
            logs.update({term: float(total) / self._term_count for term, total in self._term_sums.items()})
            self._term_sums, self._term_count = {}, 0
        super().log(logs, start_time)

    def save_state(self) -> None:
        """Writes trainer_state.json beside the model, without the folders of this machine: `push_to_hub` uploads it."""
        best = self.state.best_model_checkpoint
        self.state.best_model_checkpoint = public(best)
        try:
            super().save_state()
        finally:
            self.state.best_model_checkpoint = best

    def create_model_card(self, model_name: str | None = None, **metadata) -> None:
        """Card and curves of the run, of which `self.facts` say more; `push_to_hub` calls this before it uploads."""
        if self.is_world_process_zero():
            write_training_card(self, model_name, **metadata)

    def train(self, *args, **kwargs):
        """Trains; images that were left out under `on_error="skip"` are reported at the end, also of a failed run.

        Raises:
            ValueError: if weights that train are in half precision.
            WorkerDiedError: a process that reads images was killed.
        """
        for name, weight in self.model.named_parameters():
            if weight.requires_grad and weight.dtype in (torch.float16, torch.bfloat16):
                raise ValueError(
                    f"{name} trains, but is {weight.dtype}, where most updates round away. Load the model in float32 "
                    "(from_pretrained(..., dtype=torch.float32)); bf16=true then still computes in half precision"
                )
        try:
            with dead_workers_told():
                return super().train(*args, **kwargs)
        finally:
            if self.skipped_images:
                logger.warning(
                    "%d images could not be read; triplets were left out %d times because of them: %s",
                    len(self.skipped_images),
                    sum(self.skipped_images.values()),
                    some(sorted(self.skipped_images)),
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
