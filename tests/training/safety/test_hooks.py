"""Private methods and attributes of transformers' Trainer that a run's safety leans on: a change there fails here.

What to do then: read what calls the method now (a comment at ours says what did), mend ours, and only then this table.
"""

import inspect

import transformers.trainer
from transformers import Trainer

from fafa.training import RetrieverTrainer
from fafa.training.safety.trainer import SafeTrainer

HOOKS = {
    "_get_output_dir": ["trial"],
    "_load_from_checkpoint": ["resume_from_checkpoint", "model"],
    "_load_optimizer_and_scheduler": ["checkpoint"],
    "_load_rng_state": ["checkpoint"],
    "_prepare_for_training": ["max_steps", "train_dataloader", "resume_from_checkpoint"],
    "_push_from_checkpoint": ["checkpoint_folder"],
    "_run_epoch": [
        *("model", "epoch", "train_dataloader", "steps_in_epoch", "num_update_steps_per_epoch", "trial"),
        *("ignore_keys_for_eval", "start_time", "resume_from_checkpoint", "epochs_trained"),
        "steps_trained_in_current_epoch",
    ],
    "_save": ["output_dir", "state_dict"],
    "_save_checkpoint": ["model", "trial"],
}
CALLS = {  # who calls each, as the comments at ours say
    "_get_output_dir": ["_save_checkpoint"],
    "_load_from_checkpoint": ["train"],
    "_load_optimizer_and_scheduler": ["_prepare_for_training"],
    "_load_rng_state": ["_run_epoch"],
    "_prepare_for_training": ["_inner_training_loop"],
    "_push_from_checkpoint": ["_save_checkpoint"],
    "_run_epoch": ["_inner_training_loop"],
    "_save": ["save_model"],
    "_save_checkpoint": ["_maybe_log_save_evaluate"],
}
SET_BEFORE_TRAINING = ("self._tr_loss = ", "self._total_loss_scalar = ", "self._globalstep_last_logged = ")


def ours() -> list[type]:
    return [one for one in RetrieverTrainer.__mro__ if one.__module__.startswith("fafa.")]


def test_private_methods_are_overridden_in_one_room_and_stand_in_the_table():
    overridden = {
        name: one.__module__
        for one in ours()
        for name in vars(one)
        if name.startswith("_") and not name.startswith("__") and hasattr(Trainer, name)
    }
    assert set(overridden) == set(HOOKS)
    assert {module.rpartition(".")[0] for module in overridden.values()} == {"fafa.training.safety"}


def test_private_methods_take_and_are_called_as_they_were():
    for name, expected in HOOKS.items():
        assert list(inspect.signature(getattr(Trainer, name)).parameters)[1:] == expected, name
        for caller in CALLS[name]:
            assert f"self.{name}(" in inspect.getsource(getattr(Trainer, caller)), f"{caller} calls {name} no more"


def test_sums_of_the_loss_begin_before_the_first_epoch_and_are_summed_up_in_it():
    loop, epoch = inspect.getsource(Trainer._inner_training_loop), inspect.getsource(Trainer._run_epoch)
    for beginning in SET_BEFORE_TRAINING:
        assert (
            loop.index(beginning) < loop.index("callback_handler.on_train_begin(") < loop.index("self._run_epoch(")
        ), beginning
    assert epoch.index("self._load_rng_state(") < epoch.index("self._tr_loss += ")
    assert "self._created_lr_scheduler" in inspect.getsource(Trainer._prepare_for_training)
    assert "self._globalstep_last_logged" in inspect.getsource(Trainer._maybe_log_save_evaluate)


def test_a_checkpoint_is_written_as_ours_expects():
    """State of callbacks, then trainer_state.json, then the upload, which ours puts off, then rotation."""
    source = inspect.getsource(Trainer._save_checkpoint)
    order = (
        "self.save_model(",
        "cb.state()",
        "self.state.save_to_json(",
        "self._push_from_checkpoint(",
        "rotate_checkpoints(",
    )
    places = [source.index(part) for part in order]
    assert places == sorted(places)
    assert SafeTrainer.__mro__.index(Trainer) > 0 and hasattr(transformers.trainer, "TRAINER_STATE_NAME")
