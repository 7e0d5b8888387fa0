"""Going on from a checkpoint as if nothing had happened."""

import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from .checkpoints import CheckpointError, read_manifest
from .loss_terms import LossTerms

logger = logging.getLogger(__name__)


class ExactResume:
    """What the Trainer's own resume lacks (a base class before `Trainer`).

    Weights, log and early stopping of a run that was killed and resumed equal those of an undisturbed one: to the bit
    on a CPU; on CUDA as far as its kernels repeat themselves (`full_determinism=true` makes them, at a price). The
    number of processes has to stay the same.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(LossTerms())

    @property
    def loss_terms(self) -> LossTerms:
        """The present one: `restore_callback_states_from_checkpoint` makes a new one."""
        return next(entry for entry in self.callback_handler.callbacks if isinstance(entry, LossTerms))

    # `Trainer._run_epoch` calls it once where a run goes on, before the first step and after `_inner_training_loop` has
    # set the three sums to nothing.
    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _refusing_objects(checkpoint):
            super()._load_rng_state(checkpoint)
        terms = self.loss_terms
        if checkpoint and terms.since_step is not None:
            self._globalstep_last_logged = terms.since_step
            self._tr_loss = torch.tensor(terms.loss, device=self.args.device)
            self._total_loss_scalar = -terms.loss  # train_loss is the mean over the steps of this call

    # `Trainer._prepare_for_training` calls it, with None for a run that begins.
    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Loads the stored state, but at the learning rate that is asked for now."""
        with _refusing_objects(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
        stored = (read_manifest(Path(checkpoint)) or {}).get("learning_rate") if checkpoint else None
        if not stored or stored == self.args.learning_rate:
            return
        factor = self.args.learning_rate / stored
        for group in self.optimizer.param_groups:
            for name in ("lr", "initial_lr", "max_lr", "min_lr"):
                if name in group:
                    group[name] *= factor
        scheduler = self.lr_scheduler
        if hasattr(scheduler, "base_lrs"):  # those that follow a metric have none
            scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]
        scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]
        logger.info("going on with %g times the learning rate of %s", factor, checkpoint)

    # `Trainer._inner_training_loop` calls it for every epoch, also where no step is left to take.
    def _run_epoch(self, *args, **kwargs) -> None:
        """Takes no further step where a run that was killed after its last one goes on."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)


@contextmanager
def _refusing_objects(checkpoint: str | None) -> Iterator[None]:
    """Tells why torch refused a file: it reads only tensors and plain values, since others could run a program."""
    try:
        yield
    except pickle.UnpicklingError as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{checkpoint} holds an object that no checkpoint needs; it was not loaded, since it could run a program "
            f"({reason}). Go on from a checkpoint whose origin you know."
        ) from error
