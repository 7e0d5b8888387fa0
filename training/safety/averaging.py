"""An exponential moving average of the trained weights, which is what is evaluated and saved."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback

RAW_WEIGHTS = "raw_weights.safetensors"


class WeightAverage(TrainerCallback):
    """Averages the weights that train, after every optimiser step; the others need none.

    average <- d average + (1 - d) weights, with d = `decay`, but at most (1 + steps) / (10 + steps), so that the
    beginning is forgotten soon. At 0.999 the average looks back over about a thousand steps. All processes have the
    same, as they have the same weights.

    Raises:
        ValueError: decay is not in (0, 1).
    """

    def __init__(self, decay: float):
        if not 0.0 < decay < 1.0:
            raise ValueError(f"ema_decay is {decay}, expected 0 (off) or a number below 1, such as 0.999")
        self.decay = decay
        self._weights: list[torch.nn.Parameter] = []
        self._averages: list[torch.Tensor] = []
        self._exchanged = False

    def start(self, model: torch.nn.Module) -> None:
        """Begins at the model's present weights."""
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._averages = [weight.detach().clone() for weight in self._weights]

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """A resumed run has its average already."""
        if state.global_step == 0 or not self._averages:
            self.start(model)

    def on_optimizer_step(self, args, state, control, **kwargs):
        """Adds the new weights to the averages."""
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        get_ema_multi_avg_fn(decay)(self._averages, self._weights, None)

    def on_train_end(self, args, state, control, **kwargs):
        """Leaves the averages in the model; what `load_best_model_at_end` loaded are averages, too."""
        if not (args.load_best_model_at_end and state.best_model_checkpoint is not None):
            self._exchange()
        self._weights, self._averages = [], []

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the model has the averages."""
        if self._exchanged:
            yield
            return
        self._exchange()
        self._exchanged = True
        try:
            yield
        finally:
            self._exchange()
            self._exchanged = False

    @torch.no_grad()
    def _exchange(self) -> None:
        for weight, average in zip(self._weights, self._averages, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)


class AveragedWeights:
    """What a Trainer does for `ema_decay` (a base class before `Trainer`).

    Evaluations, checkpoints and the final model have the averaged weights; checkpoints also hold the raw ones
    (`raw_weights.safetensors`), from which a resumed run goes on.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.average = WeightAverage(self.args.ema_decay) if self.args.ema_decay else None
        if self.average is not None:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError("ema_decay works in one process or with plain data parallelism, not FSDP or DeepSpeed")
            self.add_callback(self.average)

    def _averaged(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.average is None else self.average.in_place()

    def evaluation_loop(self, *args, **kwargs):
        """Evaluates the averaged weights."""
        with self._averaged():
            return super().evaluation_loop(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the averaged weights; in a checkpoint (an internal call) the raw ones, too."""
        with self._averaged():
            super().save_model(output_dir, _internal_call)
        if self.average is not None and _internal_call and self.args.should_save:
            trained = {name: weight.detach() for name, weight in self.model.named_parameters() if weight.requires_grad}
            save_file(trained, Path(output_dir, RAW_WEIGHTS))

    # `Trainer.train` calls it where a run goes on, before anything is prepared.
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.average is not None:
            self.average.start(self.model)
        path = Path(resume_from_checkpoint, RAW_WEIGHTS)
        if not path.exists():
            return
        raw = load_file(path)
        trained = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        shapes, now = ({name: tuple(weight.shape) for name, weight in of.items()} for of in (raw, trained))
        other = sorted(dict(shapes.items() ^ now.items()))
        if other:
            raise ValueError(f"{path} is of a run that trained other weights: {', '.join(other[:3])} ({len(other)})")
        with torch.no_grad():
            for name, weight in trained.items():
                weight.copy_(raw[name])
