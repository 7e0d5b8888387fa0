"""What changes by the step: settings of the loss, the epoch of the augmentation, the learning rate."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from transformers import TrainerCallback

from ..names import counted


class WarmUp(TrainerCallback):
    """Trains with cross-entropy for `contrastive_steps`, and with whole captions for `caption_steps`, at the beginning.

    The model knows which settings do that (`warmup_settings`), and which others change as training goes on
    (`settings_at`). Its configuration says what training ends with.
    """

    def __init__(self):
        self.config, self.own = None, {}

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Looks at the model that trains now: `model_init` makes a new one for every run."""
        if model.config is not self.config:
            self.config = model.config
            warms_up = args.contrastive_steps or args.caption_steps
            changed = model.warmup_settings(contrastive=True, captions=True) if warms_up else {}
            self.own = self._now(changed | model.settings_at(0.0))

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        """Depends on the step alone, so that a resumed run does the same."""
        self._set(self.own)
        step = state.global_step
        self._set(model.settings_at(state.epoch or 0.0))
        if args.contrastive_steps or args.caption_steps:
            self._set(model.warmup_settings(step < args.contrastive_steps, step < args.caption_steps))

    def on_train_end(self, args, state, control, **kwargs):
        """Restores the model's own configuration, also when training ended within the warm-up."""
        self._set(self.own)

    @contextmanager
    def put_aside(self) -> Iterator[None]:
        """Within, the configuration is the model's own: a checkpoint of the warm-up may be a start for others."""
        now = self._now(self.own)
        self._set(self.own)
        try:
            yield
        finally:
            self._set(now)

    def _now(self, names: Iterable[str]) -> dict[str, Any]:
        return {name: getattr(self.config, name) for name in names}

    def _set(self, settings: dict[str, Any]) -> None:
        for name, value in settings.items():
            setattr(self.config, name, value)


class CollatorEpoch(TrainerCallback):
    """Tells the collator which epoch's augmentation to sample, as the Trainer tells the batch sampler."""

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


def one_cycle(optimizer: Optimizer, num_steps: int, warmup: float) -> ResumableOneCycle:
    """The released schedule: up to the optimiser's rate and down again, beta1 down and up.

    Args:
        optimizer: any kind; its momentum is moved, if it has some.
        num_steps: length of the run.
        warmup: steps, or below 1 their share of the run.

    Raises:
        ValueError: the warm-up is longer than the run.
    """
    if warmup > num_steps:
        steps = counted(num_steps, "step")
        raise ValueError(f"warmup_steps is {warmup:g}, but the run has {steps}: give a share, say 0.02")
    share = warmup / num_steps if warmup >= 1 else warmup
    return ResumableOneCycle(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=num_steps,
        # The class divides by the warm-up steps less one, so a single one is none.
        pct_start=share if share * num_steps > 1 else 0.0,
        cycle_momentum="betas" in optimizer.defaults or bool(optimizer.defaults.get("momentum")),
    )
