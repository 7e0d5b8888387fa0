"""What a training run is told: the paper's recipe as defaults. Every inherited option acts, or is refused by name."""

import inspect
import json
import logging
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

from transformers import TrainingArguments
from transformers.hf_argparser import HfArg
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import SchedulerType

from ..names import nearest

logger = logging.getLogger(__name__)

# Inherited options that cannot act here: the values that ask for nothing, and why they are refused. Of every other
# inherited option a test shows that it acts.
REFUSED: dict[str, tuple[tuple, str]] = {
    "label_smoothing_factor": (
        (0, None),
        "it acts on class labels, which triplets do not have. A model's configuration may soften its own",
    ),
    "auto_find_batch_size": (
        (False,),
        "a smaller batch is another loss, since it tells each triplet from the others of its batch. "
        "gradient_cache_size trains with a batch of any size in little memory",
    ),
    "use_liger_kernel": ((False,), "there are no such kernels here. Leave it out"),
    "liger_kernel_config": ((None,), "there are no such kernels here. Leave it out"),
    "use_cache": ((False,), "it is for models that generate text. Leave it out"),
    **dict.fromkeys(
        ("bf16_full_eval", "fp16_full_eval"),
        ((False,), "it would leave the model in half precision, to be saved so. bf16=true evaluates in it"),
    ),
    "include_num_input_tokens_seen": (
        ("no", "non_padding", False),
        "it would count pixels as tokens. 'non_padding' counts the tokens of captions",
    ),
    "save_on_each_node": ((False,), "a run's checkpoints lie in one folder, which all machines share. Leave it out"),
    "remove_unused_columns": ((False,), "the collator reads columns whose names no model knows. Leave it out"),
    "label_names": ((["group_ids"],), "held-out metrics need the batch's group_ids, and nothing else. Leave it out"),
    "train_sampling_strategy": (
        ("random",),
        "group_size decides which triplets share a batch; 0 is plain random order",
    ),
    "length_column_name": (("length",), "it is for batches by length, which do not come here. Leave it out"),
    "dataloader_in_order": ((True,), "batches in any order are not repeated by a run that resumes. Leave it out"),
    "do_predict": ((False,), "nothing here predicts. `fafa evaluate` evaluates on a test set"),
    "parallelism_config": ((None,), "FAFA trains by data parallelism and FSDP. See examples/configs/accelerate"),
    "debug": (
        ("", None, []),
        "its hooks stop at boolean masks. The guard names the first step whose loss is not finite",
    ),
    "deepspeed": (
        (None,),
        "FAFA was not tried with DeepSpeed. FSDP divides a model: examples/configs/accelerate/fsdp.yaml",
    ),
}
_STEPS_WITHIN_BACKWARD = "lomo", "adalomo"
_TAKES_OPTIM_ARGS = {  # optimisers of torch and transformers; other libraries check their own
    "sgd": ("momentum", "dampening", "nesterov"),
    "adagrad": ("lr_decay", "eps"),
    "rmsprop": ("momentum", "alpha", "eps", "centered"),
    **dict.fromkeys(("adafactor", "adamw_torch", "adamw_torch_fused"), ()),
}
_WITHOUT_WARMUP = "constant", "reduce_lr_on_plateau", "greedy"
_CHECKPOINTING = "use_reentrant", "every_n_layers", "offload", "preserve_rng_state", "determinism_check", "debug"
RECIPE_BETA1, RECIPE_WARMUP = 0.9, 0.02
_FROM_1 = "batch_size", *(f"per_device_{use}_batch_size" for use in ("train", "eval")), "gradient_accumulation_steps"
_FROM_0 = (
    *("learning_rate", "gradient_cache_size", "random_epochs", "contrastive_steps", "caption_steps"),
    "early_stopping_patience",
)


@dataclass
class RetrieverTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the paper's recipe as defaults, and what batches and warm-up need beyond it.

    Paper and released code: AdamW, learning rate 2e-6, betas (0.9, 0.98), epsilon 1e-7, weight decay 0.05, one-cycle
    schedule with 2 % of warm-up, batches of 256, 10 epochs. Added here: gradient clipping, and no weight decay on
    biases, norms and what the model names (`weights_without_decay`).
    """

    per_device_train_batch_size: int | None = HfArg(
        default=None, help="Triplets of a batch in each process; instead of batch_size."
    )
    num_train_epochs: float = 10.0
    learning_rate: float = 2e-6
    adam_beta2: float = 0.98
    adam_epsilon: float = 1e-7
    weight_decay: float = 0.05
    lr_scheduler_type: str | None = HfArg(
        default=None, help="A schedule of transformers' instead of one_cycle: linear, cosine, constant ..."
    )
    warmup_steps: float = RECIPE_WARMUP
    max_grad_norm: float = 1.0
    remove_unused_columns: bool = False
    label_names: list[str] | None = field(default_factory=lambda: ["group_ids"])
    logging_nan_inf_filter: bool = False  # it would hide what the guard looks for, and wait for the device every step

    batch_size: int | None = HfArg(
        default=None,
        help="Triplets in a batch, which all processes share evenly; 256 unless per_device_train_batch_size is given.",
    )
    one_cycle: bool | None = HfArg(
        default=None, help="One-cycle schedule as released, with a cycle of beta1; unless lr_scheduler_type is given."
    )
    group_column: str = HfArg(default="cpr_id", help="Column that holds the group of a triplet, a whole number.")
    group_size: int = HfArg(default=1, help="Most triplets of a group in a batch, kept together; 0: random order.")
    gradient_cache_size: int = HfArg(
        default=0, help="Triplets with activations in memory at a time, for batches too large for it; 0: all."
    )
    random_epochs: int = HfArg(default=0, help="Epochs of random batches before group_size counts.")
    contrastive_steps: int = HfArg(
        default=0, help="Steps of plain cross-entropy before the model's own loss; for a model from random weights."
    )
    caption_steps: int = HfArg(
        default=0, help="Steps in which whole captions train, too; for a model from random weights."
    )

    bias_rate: float = HfArg(default=1.0, help="Biases learn at so many times the learning rate.")
    new_layer_rate: float = HfArg(
        default=1.0, help="So do the layers that a model adds to pre-trained ones (its `new_layers`)."
    )

    ema_decay: float = HfArg(
        default=0.0, help="Evaluate and save an exponential moving average of the weights (0.999, say); 0: off."
    )
    early_stopping_patience: int = HfArg(
        default=0, help="Stop after so many evaluations without a better metric_for_best_model (rank-1); 0: never."
    )
    collapse_share: float = HfArg(
        default=0.5, help="Stop when held-out mAP falls below this share of the best so far; 0: never."
    )
    collapse_spread: float = HfArg(
        default=0.05, help="Stop when the spread of embeddings falls below this share of the most so far; 0: never."
    )
    allow_changed_data: bool = HfArg(
        default=False, help="Resume with other data, seed or batches than the checkpoint's; the order changes then."
    )

    def __post_init__(self):
        self._check_numbers()
        self._check_inherited()
        self._check_names()
        self._choose_schedule()
        chooses = self.load_best_model_at_end or self.early_stopping_patience or self.save_strategy == "best"
        if self.metric_for_best_model is None and (chooses or self.lr_scheduler_type in _WITHOUT_WARMUP[1:]):
            self.metric_for_best_model = "rank-1"  # the loss depends on the size of the batch
        super().__post_init__()
        self._check_launch()
        if self.one_cycle:
            self.lr_scheduler_type = None
        self._check_combinations()
        if self.n_gpu > 1:  # the Trainer would split each batch, and with it the loss, among them
            logger.warning(
                "This process trains on the first of %d GPUs. For all of them: accelerate launch -m fafa.cli train ...",
                self.n_gpu,
            )
            self._n_gpu = 1
        if self.per_device_train_batch_size is None or self.batch_size is not None:
            self._divide_batch(256 if self.batch_size is None else self.batch_size)

    def _check_launch(self) -> None:
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched > 1 and self.world_size == 1:  # each would train by itself, all into one folder
            raise ValueError(
                f"{launched} processes were launched, but this one is not connected with the others: it finds no GPU. "
                "To train on CPUs: --use_cpu true"
            )

    def _check_numbers(self) -> None:
        for entry in fields(self):
            if isinstance(value := getattr(self, entry.name), float) and not math.isfinite(value):
                raise ValueError(f"{entry.name} is {value}, expected a finite number")
        for name in ("seed", "data_seed"):
            if (value := getattr(self, name)) is not None and not 0 <= value < 2**32:
                raise ValueError(f"{name} is {value}, expected a whole number from 0 to {2**32 - 1:,}, as numpy's")
        if self.max_steps == 0 or self.max_steps < -1:
            raise ValueError(f"max_steps is {self.max_steps}, expected a number from 1, or -1 (by num_train_epochs)")
        if self.max_steps == -1 and self.num_train_epochs <= 0:
            raise ValueError(
                f"num_train_epochs is {self.num_train_epochs:g}, expected a number above 0. To evaluate a model "
                "without training it: fafa evaluate, or the trainer's evaluate()"
            )
        for least, names in ((1, _FROM_1), (0, _FROM_0)):
            for name in names:
                if isinstance(value := getattr(self, name), (int, float)) and value < least:
                    raise ValueError(f"{name} is {value}, expected a number from {least}")
        for name in ("bias_rate", "new_layer_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a number above 0: 1 is the learning rate")

    def _check_inherited(self) -> None:
        for name, (nothing, remedy) in REFUSED.items():
            if (value := getattr(self, name, nothing[0])) not in nothing:  # earlier transformers lack some
                raise ValueError(f"{name} is {value!r:.60}, which cannot be used here: {remedy}.")

    def _check_names(self) -> None:
        """Looks at options within options: a misspelt one would be dropped, or fail after the data is read."""
        for name in self._VALID_DICT_FIELDS:
            if isinstance(value := getattr(self, name), str) and value.startswith("{"):
                try:
                    setattr(self, name, json.loads(value))
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{name} is no JSON: {error}") from None
        if isinstance(self.accelerator_config, dict):
            refuse_unknown("accelerator_config", self.accelerator_config, [f.name for f in fields(AcceleratorConfig)])
        for name in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
            if not isinstance(kwargs := getattr(self, name, None), dict):
                continue
            if not (getattr(self, "activation_checkpointing", False) or self.gradient_checkpointing):
                raise ValueError(f"{name} need activation_checkpointing: set that to true, or leave them out")
            refuse_unknown(name, kwargs, _CHECKPOINTING)
            if kwargs.get("use_reentrant"):
                raise ValueError(
                    f"{name}: use_reentrant gives no gradient to adapters, and to blocks above frozen ones. Leave it "
                    "out: the default gives one."
                )
            setattr(self, name, {**kwargs, "use_reentrant": False})

    def _choose_schedule(self) -> None:
        """`lr_scheduler_type` counts where it is given; one-cycle refuses what it would ignore."""
        if self.one_cycle is None:
            self.one_cycle = self.lr_scheduler_type is None
        if not self.one_cycle:
            self.lr_scheduler_type = SchedulerType(self.lr_scheduler_type or "linear").value
            self._check_schedule()
            return
        if self.lr_scheduler_type is not None:
            raise ValueError(
                f"lr_scheduler_type is {self.lr_scheduler_type!s:.40}, but one_cycle is true: give one of the two. The "
                "command line changes what a file sets: --one_cycle false"
            )
        if self.lr_scheduler_kwargs:
            raise ValueError("lr_scheduler_kwargs belong to lr_scheduler_type; one_cycle, which is on, takes none")
        if self.adam_beta1 != RECIPE_BETA1:
            raise ValueError(
                f"adam_beta1 is {self.adam_beta1}, but one_cycle moves it between 0.85 and 0.95: leave it out, or "
                "choose another lr_scheduler_type"
            )
        self.lr_scheduler_type = "linear"  # until transformers has looked at it

    def _check_schedule(self) -> None:
        name = self.lr_scheduler_type
        known = inspect.signature(TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(name)]).parameters
        ours = "optimizer", "num_warmup_steps", "num_training_steps", "last_epoch", "kwargs"
        known = [] if name in ("constant", "constant_with_warmup") else [entry for entry in known if entry not in ours]
        if name == "reduce_lr_on_plateau":
            from torch.optim.lr_scheduler import ReduceLROnPlateau

            known = [entry for entry in inspect.signature(ReduceLROnPlateau).parameters if entry != "optimizer"]
        if isinstance(self.lr_scheduler_kwargs, dict):
            refuse_unknown(f"lr_scheduler_kwargs of {name}", self.lr_scheduler_kwargs, known)
        if name in _WITHOUT_WARMUP:
            if self.warmup_steps not in (0, RECIPE_WARMUP):
                raise ValueError(f"warmup_steps is {self.warmup_steps:g}, but lr_scheduler_type {name} has no warm-up")
            self.warmup_steps = 0

    def _check_combinations(self) -> None:
        here = {"none", "all", "flyte", *get_available_reporting_integrations()}  # flyte is in no list of transformers'
        if lacking := sorted({name for name in self.report_to or () if name in INTEGRATION_TO_CALLBACK} - here):
            raise ValueError(
                f"report_to asks for {', '.join(lacking)}, not installed here: install it, or leave it out"
            )
        if self.fp16 and self.device.type == "cpu":  # autocast would run, but nothing scales the loss
            raise ValueError(
                "fp16 needs a GPU, and this run has none: unscaled, its small gradients would be zero. Leave it out, "
                "or set bf16"
            )
        optim = self.optim.value
        if optim in _STEPS_WITHIN_BACKWARD or optim.endswith("_layerwise"):
            raise ValueError(
                f"optim is {optim}, which steps within the backward pass: before gradients are clipped, looked at and "
                "averaged over processes. Choose adafactor or an 8-bit one to save memory"
            )
        parts = self.optim_args.split(",") if self.optim_args else []
        if any("=" not in part for part in parts):
            raise ValueError(f"optim_args is {self.optim_args!r:.60}, expected such as 'momentum=0.9,nesterov=true'")
        if optim in _TAKES_OPTIM_ARGS:
            given = [part.partition("=")[0].strip() for part in parts]
            refuse_unknown(f"optim_args of {optim}", given, _TAKES_OPTIM_ARGS[optim])
        if self.optim_target_modules is not None and not optim.startswith(("galore", "apollo")):
            raise ValueError(f"optim_target_modules belong to GaLore and APOLLO, but optim is {optim}: leave one out")
        if self.torch_compile and self.gradient_cache_size:
            raise ValueError("torch_compile compiles the plain step, not that of gradient_cache_size: leave one out")
        for name in ("split_batches", "dispatch_batches"):
            if getattr(self.accelerator_config, name):
                raise ValueError(
                    f"accelerator_config: {name} does not act here: every process reads its share of each batch. Leave "
                    "it out, and set batch_size, which counts all processes together"
                )
        if self.enable_jit_checkpoint and self.save_only_model:
            raise ValueError("enable_jit_checkpoint saves a state to resume, save_only_model does not: leave one out")
        by_loss = self.metric_for_best_model in ("loss", "eval_loss")
        if self.metric_for_best_model is not None and self.prediction_loss_only and not by_loss:
            raise ValueError(
                f"prediction_loss_only leaves out {self.metric_for_best_model}, by which checkpoints are chosen: leave "
                "one of the two out"
            )
        if by_loss and self.per_device_eval_batch_size < 2:
            raise ValueError(
                "per_device_eval_batch_size is 1, and the loss of a single triplet cannot choose a checkpoint: set it "
                "to 2 or more, or metric_for_best_model to rank-1"
            )
        if self.lr_scheduler_type == SchedulerType.REDUCE_ON_PLATEAU:  # its mode is "min" by default
            mode = "max" if self.greater_is_better else "min"
            self.lr_scheduler_kwargs = {"mode": mode, **(self.lr_scheduler_kwargs or {})}

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
        """Leaves out the Hub's token: `training_args.bin` lies in the folder that `push_to_hub` uploads."""
        return self.__dict__ | {"hub_token": None}


def refuse_unknown(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuses names that do not exist, with the nearest that do; `where` says what they are given in.

    Raises:
        ValueError: one of `given` is not in `known`.
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise ValueError(f"{where}: there is no {name!r}; {nearest(name, known)}")


FafaTrainingArguments = RetrieverTrainingArguments  # its name in earlier versions, and in their training_args.bin
