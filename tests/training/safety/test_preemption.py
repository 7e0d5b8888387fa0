"""A run whose machine is taken away saves a checkpoint, ends as unfinished, and goes on."""

import importlib.util
import os
import signal
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from tiny import tiny_model, tiny_processor
from tiny_run import names_of, tiny_trainer
from transformers import TrainerCallback

from fafa.training import FafaTrainingArguments, TrainingPreempted, run
from fafa.training.safety.checkpoints import fault_of

ROOT = Path(__file__).parents[3]


class Terminate(TrainerCallback):
    """The machine's news, in the middle of a step."""

    def __init__(self, step: int):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            os.kill(os.getpid(), signal.SIGTERM)


def make_trainer(folder, triplets, step=None, **options):
    settings = {"enable_jit_checkpoint": True, "max_steps": 6, "logging_steps": 4, "save_steps": 100, "eval_steps": 3}
    callbacks = None if step is None else [Terminate(step)]
    model = tiny_model(distribution_uncertainty=0.5)
    return tiny_trainer(folder, triplets, model, callbacks=callbacks, **settings, **options)


def test_a_preempted_run_writes_no_model_and_goes_on_to_the_same_bits(tmp_path, triplets_of_module):
    """transformers saved in the middle of a step, and let the run end as if it were done: exit 0, model and card."""
    whole = make_trainer(tmp_path / "whole", triplets_of_module)
    whole.train()
    before = signal.getsignal(signal.SIGTERM)
    stopped = make_trainer(tmp_path / "run", triplets_of_module, step=3, eval_strategy="steps")
    with pytest.raises(TrainingPreempted, match=r"after step 3 of 6, as SIGTERM asked: checkpoint-3 in .*from_checkp"):
        stopped.train()
    assert signal.getsignal(signal.SIGTERM) == before
    assert names_of(tmp_path / "run") == ["checkpoint-3"] and fault_of(tmp_path / "run" / "checkpoint-3") is None
    assert not any("eval_mAP" in entry for entry in stopped.state.log_history)  # there may be no time for it
    again = make_trainer(tmp_path / "run", triplets_of_module)
    again.train(resume_from_checkpoint=True)
    for name, weight in whole.model.named_parameters():
        assert torch.equal(weight, again.model.get_parameter(name)), name
    losses = [[entry for entry in trainer.state.log_history if "loss" in entry] for trainer in (whole, again)]
    assert losses[0] == losses[1]


def test_without_the_option_sigterm_ends_the_process_as_usual(tmp_path, triplets_of_module):
    """Not with exit 0 and not with a model: the last checkpoint is where it goes on."""
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    trainer = tiny_trainer(tmp_path, triplets_of_module, max_steps=1)
    seen = []
    looking = TrainerCallback()
    looking.on_step_begin = lambda *_, **__: seen.append(signal.getsignal(signal.SIGTERM))
    trainer.add_callback(looking)
    trainer.train()
    assert seen == [signal.SIG_DFL]


def test_the_command_ends_with_the_status_of_sigterm_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    """A scheduler starts it again; with 0 it would take the run for done."""
    spec = importlib.util.spec_from_file_location("train_example", ROOT / "examples" / "train.py")
    example = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "train_example", example)  # where its dataclasses look for their types
    spec.loader.exec_module(example)

    class Stopped:
        def __init__(self, args, **_):
            self.args = args

        def train(self, **_):
            raise TrainingPreempted("stopped after step 3, go on with --resume_from_checkpoint true")

    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: Rows())
    monkeypatch.setattr(run, "hold_out_quadruples", lambda *_, **__: ([], []))
    monkeypatch.setattr(run, "make_tiny_model", lambda *_: (tiny_model(), tiny_processor()))
    monkeypatch.setattr(run, "RetrieverTrainer", Stopped)
    training = FafaTrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True)
    with pytest.raises(SystemExit) as stopped:
        example.main(run.RunOptions(), training, {})
    assert stopped.value.code == 143
    assert capsys.readouterr().err.endswith("stopped after step 3, go on with --resume_from_checkpoint true\n")


class Rows(defaultdict):
    """A data set without any."""

    column_names = ()

    def __init__(self, *_):
        super().__init__(list)

    def select(self, rows):
        return self
