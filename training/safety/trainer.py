"""A Trainer whose runs cannot be lost: locked folder, complete checkpoints, exact resume, a guard against collapse."""

import contextlib
import logging
import math
import shutil
import signal
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_jit_checkpoint import JITCheckpointCallback
from transformers.trainer_utils import HPSearchBackend

from ...files import locked, read_json
from ...processing_fafa import vocabulary_hash
from ..checks import check_weights
from . import checkpoints
from .checkpoints import CheckpointError
from .guard import COLLAPSE, CollapseGuard, TrainingCollapsed
from .preemption import Preemption, TrainingPreempted
from .resuming import ExactResume

logger = logging.getLogger(__name__)

_WORDS = "words of the tokenizer"


class SafeTrainer(ExactResume, Trainer):
    """What `RetrieverTrainer` adds to a run around its steps. Several machines need a shared output folder."""

    def __init__(self, *args, **kwargs):
        at_sigterm = signal.getsignal(signal.SIGTERM)
        super().__init__(*args, **kwargs)
        self.preemption = Preemption()
        if self.args.enable_jit_checkpoint:
            self.pop_callback(JITCheckpointCallback)  # which has set its own already
            signal.signal(signal.SIGTERM, at_sigterm)
            self.add_callback(self.preemption)  # before the guard, which looks at what is to be saved
        self.guard = CollapseGuard(self)
        self.add_callback(self.guard)
        self._writing = False
        self._trial = None
        self._scalars: set[str] = set()
        self._prepare_scalars()

    def train(self, resume_from_checkpoint: str | bool | None = None, trial=None, *args, **kwargs):
        """Trains, alone in its output folder.

        Args:
            resume_from_checkpoint: True goes on from the newest sound checkpoint of the output folder (after a
                collapse, from the last good one), or begins if it has none; a path goes on from that one.
            trial: what `hyperparameter_search` passes, which calls this.

        Raises:
            CheckpointError: another run writes the folder; it has checkpoints, and none is to be resumed; the one to
                resume is damaged or of other data; the disk is full.
            TrainingCollapsed: see `CollapseGuard`.
            TrainingPreempted: see `Preemption`.
        """
        self._trial = trial
        folder = self.run_folder
        with contextlib.ExitStack() as stack:
            if self.args.should_save:
                folder.mkdir(parents=True, exist_ok=True)
                in_use = f"another run is writing {folder}: wait for its end, or choose another output_dir"
                try:
                    stack.enter_context(locked(folder / checkpoints.LOCK, in_use))
                except BlockingIOError as error:
                    raise CheckpointError(in_use) from error
            if self.args.enable_jit_checkpoint:
                stack.enter_context(self.preemption.watching())
            start = self._starting_point(folder, resume_from_checkpoint)
            try:
                result = super().train(start, trial, *args, **kwargs)
            except TrainingCollapsed as collapse:  # a search goes on with the next trial
                if trial is None or self.hp_search_backend != HPSearchBackend.OPTUNA:
                    raise
                import optuna

                logger.warning("%s: given up, %s", folder.name, collapse)
                raise optuna.TrialPruned(str(collapse)) from collapse
        if self.preemption.stopped:
            raise TrainingPreempted(
                f"stopped after step {self.state.global_step} of {self.state.max_steps}, as SIGTERM asked: checkpoint-"
                f"{self.state.global_step} in {folder} is where the same command goes on, with "
                "--resume_from_checkpoint true. This is no finished model."
            )
        return result

    @property
    def run_folder(self) -> Path:
        """The output folder; of a trial of `hyperparameter_search`, its own folder within."""
        return Path(super()._get_output_dir(self._trial))

    def _starting_point(self, folder: Path, given: str | bool | None) -> str | None:
        if self.args.should_save:
            checkpoints.recover(folder)
        self.accelerator.wait_for_everyone()
        present = checkpoints.checkpoints_in(folder)
        if not present and (given is True or not given):
            if given:
                logger.warning("%s has no checkpoint to resume: training begins at the beginning", folder)
            return None
        if not given:
            raise CheckpointError(
                f"{folder} has checkpoints of an earlier run, up to {present[-1].name}, which a new run would mix with "
                "its own. Go on with it (resume_from_checkpoint=true), choose another output_dir, or remove them."
            )
        try:
            chosen = self._newest(folder) if given is True else Path(given)
            fault = None if given is True else checkpoints.fault_of(chosen)
            manifest = checkpoints.read_manifest(chosen)
        except OSError as error:
            raise CheckpointError(
                f"{error.filename or folder} cannot be read now ({error.strerror or error}). See to its permissions, "
                "or to the disk or network drive it lies on, and give the same command again."
            ) from error
        refusal = None
        if not chosen.is_dir():
            refusal = "no such folder"
        elif (chosen / checkpoints.MANIFEST).exists():
            refusal = fault
        elif not (chosen / TRAINER_STATE_NAME).exists():  # the stock Trainer writes no manifest
            refusal = f"it is no checkpoint, without {TRAINER_STATE_NAME}"
        if refusal is not None:
            raise CheckpointError(
                f"{chosen} cannot be resumed: {refusal}. Choose another checkpoint, or "
                "resume_from_checkpoint=true for the newest sound one of the output folder."
            )
        if manifest is None:
            logger.warning("%s: %s, so whether it is complete, and of the same data, is unknown", chosen, fault)
        else:
            self._check_same_run(chosen, manifest)
        self.accelerator.wait_for_everyone()
        if self.args.should_save and chosen.parent.resolve() == folder.resolve():
            checkpoints.set_aside_after(folder, checkpoints.step_of(chosen))
            (folder / COLLAPSE).unlink(missing_ok=True)
        return str(chosen)

    def _newest(self, folder: Path) -> Path:
        chosen, passed_over = checkpoints.newest_sound(folder, at_most=_last_good_step(folder / COLLAPSE))
        if chosen is None:
            faults = "; ".join(f"{path.name}: {fault}" for path, fault in reversed(passed_over.items()))
            raise CheckpointError(
                f"no checkpoint in {folder} can be resumed ({faults}). Name one all the same "
                "(resume_from_checkpoint=PATH), or begin anew in another output_dir."
            )
        for path, fault in reversed(passed_over.items()):
            logger.warning("passed over %s: %s", path, fault)
        return chosen

    @cached_property
    def _data_identity(self) -> dict[str, Any]:
        return checkpoints.data_identity(self.train_dataset, self.args.group_column)

    def _run_identity(self) -> dict[str, Any]:
        """Settings and data that decide which triplets come in which order, and which words have which embeddings."""
        args, tokenizer = self.args, getattr(self.processing_class, "tokenizer", None)
        identity = self._data_identity | {
            "seed": args.seed if args.data_seed is None else args.data_seed,
            "seed of the augmentation": getattr(self.data_collator, "seed", None),
            "triplets in a batch, over all processes": args.per_device_train_batch_size * args.world_size,
            "gradient_accumulation_steps": args.gradient_accumulation_steps,
            "group_size": args.group_size,
            "random_epochs": args.random_epochs,
            "dataloader_drop_last": args.dataloader_drop_last,
        }
        if hasattr(tokenizer, "get_vocab"):
            identity[_WORDS] = vocabulary_hash(tokenizer)
        return identity

    def _check_same_run(self, checkpoint: Path, manifest: dict[str, Any]) -> None:
        if manifest["model_only"]:
            raise CheckpointError(f"{checkpoint} holds no optimiser state (save_only_model): nothing can go on from it")
        now = self._run_identity()
        if _WORDS in now and manifest["run"].get(_WORDS, now[_WORDS]) != now[_WORDS]:
            raise CheckpointError(
                f"{checkpoint} knows other words than this run, or by other numbers: they come from the training "
                "captions (model tiny, new_words), which have changed. Bring back what they were, or begin anew in "
                "another output_dir."
            )
        differences = [
            f"{name}: {value} then, {now[name]} now"
            for name, value in manifest["run"].items()
            if name in now and now[name] != value
        ]
        if not differences:
            return
        message = f"{checkpoint} is of other data or another order of it ({'; '.join(differences)})"
        if not self.args.allow_changed_data:
            raise CheckpointError(
                f"{message}. Going on would repeat some triplets and leave out others. Bring back what it was, begin "
                "anew in another output_dir, or go on all the same with allow_changed_data=true."
            )
        logger.warning("%s; going on all the same", message)

    # `Trainer._inner_training_loop` calls it before the optimiser is made, and before accelerate wraps the model.
    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        check_weights(self.model)  # the model may be new: `model_init` makes one for every run
        self._prepare_scalars()
        return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)

    def _prepare_scalars(self) -> None:
        """FSDP shards no scalars; `_save` undoes this."""
        scalars = [name for name, weight in self.model.named_parameters() if weight.ndim == 0 and self.is_fsdp_enabled]
        for name in scalars:
            (layer, _, own), weight = name.rpartition("."), self.model.get_parameter(name)
            vector = torch.nn.Parameter(weight.detach().reshape(1), requires_grad=weight.requires_grad)
            setattr(self.model.get_submodule(layer), own, vector)
        self._scalars.update(scalars)

    # `Trainer.save_model` calls it, under FSDP with the state dict that it has gathered.
    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        for name in self._scalars.intersection(state_dict or ()):
            state_dict[name] = state_dict[name].reshape(())
        super()._save(output_dir, state_dict)

    # Where `Trainer._save_checkpoint` writes to; elsewhere it is the folder of a trial.
    def _get_output_dir(self, trial) -> str:
        folder = super()._get_output_dir(trial)
        return str(Path(folder, checkpoints.UNFINISHED)) if self._writing else folder

    # `Trainer._maybe_log_save_evaluate` calls it. It writes, updates `state` and `control`, uploads and rotates.
    def _save_checkpoint(self, model, trial) -> None:
        """Lets the Trainer write elsewhere, then makes the checkpoint count, then rotates."""
        folder = Path(self._get_output_dir(trial))
        written = folder / checkpoints.UNFINISHED / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(written.parent, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.loss_terms.loss, self.loss_terms.since_step = float(self._tr_loss), self._globalstep_last_logged
        try:
            self._writing = True
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._writing = False
            if self.state.best_model_checkpoint == str(written):
                self.state.best_model_checkpoint = str(folder / written.name)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self.state.save_to_json(str(written / TRAINER_STATE_NAME))
                about = {"learning_rate": self.args.learning_rate, "model_only": self.args.save_only_model}
                checkpoints.publish(written, folder, about | {"run": self._run_identity()})
        except (OSError, RuntimeError, SafetensorError) as error:
            is_full = checkpoints.disk_is_full(folder, error)
            shutil.rmtree(written.parent, ignore_errors=True)
            if not is_full:
                raise
            raise CheckpointError(
                f"no room for {written.name} in {folder}: it needs about {self._checkpoint_bytes():,} bytes, "
                f"{shutil.disk_usage(folder).free:,} are free. Older checkpoints are as they were. Make room (rotation "
                "needs that of one more than save_total_limit) and go on with resume_from_checkpoint=true."
            ) from error
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            kept = [Path(path) for path in (best, self.guard.last_good()) if path is not None]
            checkpoints.rotate(folder, self.args.save_total_limit, kept)
            shutil.rmtree(written.parent, ignore_errors=True)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(folder / written.name))

    # `Trainer._save_checkpoint` calls it in the middle.
    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._writing:  # uploading takes long, so it is done from where the folder stays
            super()._push_from_checkpoint(checkpoint_folder)

    def _checkpoint_bytes(self) -> int:
        adapter = hasattr(self.model, "peft_config")  # its base model is not saved with it
        saved = [p for p in self.model.parameters() if p.requires_grad or not adapter]
        state = [t for of_one in self.optimizer.state.values() for t in of_one.values() if isinstance(t, torch.Tensor)]
        return sum(tensor.nbytes for tensor in saved + state)


def _last_good_step(report: Path) -> float:
    """The last good step by the report of a collapse; without one, no step is bad."""
    if not report.exists():
        return math.inf
    try:
        return int(read_json(report)["last_good_step"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{report} is damaged ({error}), so which checkpoint was the last good one is unknown: name one "
            "(resume_from_checkpoint=PATH), or remove this file to resume the newest."
        ) from error
