"""Ending before the machine is taken away: SIGTERM saves a checkpoint, and the run is to be started again."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator

import torch
from torch import distributed as dist
from transformers import TrainerCallback

logger = logging.getLogger(__name__)

PREEMPTED = 143  # exit status that shells give to a program ended by SIGTERM; a scheduler starts such a run again


class TrainingPreempted(RuntimeError):
    """SIGTERM told the run to end before it was done; a checkpoint is saved, and the message says how to go on."""


class Preemption(TrainerCallback):
    """`enable_jit_checkpoint`: at SIGTERM, ends the step, saves a checkpoint, and stops training.

    transformers' own callback saves in the middle of a step, after random numbers were taken, and lets the run end as
    if it were done. Here the checkpoint is like all others, and `RetrieverTrainer.train` raises `TrainingPreempted`. An
    evaluation that is due in that step is left out, since the machine may be gone soon.
    """

    def __init__(self):
        self.told = self.stopped = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Within, SIGTERM is noted; elsewhere it ends the process as usual."""
        self.told = self.stopped = False
        if threading.current_thread() is not threading.main_thread():  # only that one receives signals
            yield
            return
        before = signal.signal(signal.SIGTERM, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _note(self, *_) -> None:
        self.told = True

    def on_step_end(self, args, state, control, **kwargs):
        """All processes stop after the same step, whichever was told first."""
        told = self.told
        if args.world_size > 1:
            anybody = torch.tensor(int(told), device=args.device)
            dist.all_reduce(anybody, op=dist.ReduceOp.MAX)
            told = bool(anybody)
        if told:
            logger.warning("SIGTERM: saving a checkpoint after step %d, then stopping", state.global_step)
            self.stopped = True
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False
