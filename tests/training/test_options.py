"""Every option of transformers' Trainer acts, or is refused by name. A new one that nobody has looked at fails here."""

import inspect
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from datasets import DatasetDict
from tiny import tiny_model, tiny_processor
from tiny_run import tiny_arguments, tiny_trainer
from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator, integrations, set_seed
from transformers.trainer_utils import HPSearchBackend

from fafa.training import FafaDataCollator, FafaTrainer
from fafa.training.arguments import REFUSED
from fafa.training.rank_metrics import held_out_rank_metrics

# Refused by name before anything is read, each with what asks for it.
ASKED = {
    "label_smoothing_factor": 0.1,
    "auto_find_batch_size": True,
    "use_liger_kernel": True,
    "liger_kernel_config": {"rope": True},
    "use_cache": True,
    "bf16_full_eval": True,
    "fp16_full_eval": True,
    "include_num_input_tokens_seen": "all",
    "save_on_each_node": True,
    "remove_unused_columns": True,
    "label_names": ["labels"],
    "train_sampling_strategy": "sequential",
    "length_column_name": "caption_length",
    "dataloader_in_order": False,
    "do_predict": True,
    "parallelism_config": object(),
    "debug": "underflow_overflow",
    "deepspeed": "ds.json",
}

# Each gives other weights than the run without it. A pair: what it is compared with.
OTHER_WEIGHTS = {
    "learning_rate": {"learning_rate": 1e-4},
    "warmup_steps": ({"lr_scheduler_type": "linear", "warmup_steps": 2}, {"lr_scheduler_type": "linear"}),
    "lr_scheduler_type": {"lr_scheduler_type": "constant"},
    "lr_scheduler_kwargs": (
        {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 1.0}, "warmup_steps": 0},
        {"lr_scheduler_type": "cosine", "warmup_steps": 0},
    ),
    "adam_beta1": ({"lr_scheduler_type": "constant", "adam_beta1": 0.1}, {"lr_scheduler_type": "constant"}),
    "adam_beta2": {"adam_beta2": 0.5},
    "adam_epsilon": {"adam_epsilon": 0.1},
    "weight_decay": {"weight_decay": 10.0},
    "max_grad_norm": {"max_grad_norm": 1e-6},
    "optim": {"optim": "adafactor"},
    "optim_args": ({"optim": "sgd", "optim_args": "momentum=0.5"}, {"optim": "sgd"}),
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 2},
    "per_device_train_batch_size": {"per_device_train_batch_size": 6},
    "dataloader_drop_last": ({"per_device_train_batch_size": 5, "dataloader_drop_last": True}, {"batch_size": None}),
    "bf16": {"bf16": True},
    "neftune_noise_alpha": {"neftune_noise_alpha": 5.0},
    "seed": {"seed": 3},
    "data_seed": {"data_seed": 3},
}

# Each gives the same weights to the bit: how they come about changes nothing.
SAME_WEIGHTS = {
    "activation_checkpointing": {"activation_checkpointing": True},
    "activation_checkpointing_kwargs": {
        "activation_checkpointing": True,
        "activation_checkpointing_kwargs": {"every_n_layers": 2, "preserve_rng_state": True},
    },
    "dataloader_num_workers": {"dataloader_num_workers": 2},
    "dataloader_persistent_workers": {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
    "dataloader_prefetch_factor": {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 3},
    "dataloader_multiprocessing_context": {
        "dataloader_num_workers": 1,
        "dataloader_multiprocessing_context": "fork",
    },
    "dataloader_pin_memory": {"dataloader_pin_memory": True},
    "torch_empty_cache_steps": {"torch_empty_cache_steps": 1},
    "accelerator_config": {"accelerator_config": {"non_blocking": True, "even_batches": False}},
    "include_num_input_tokens_seen": {"include_num_input_tokens_seen": "non_padding"},
    "logging_nan_inf_filter": {"logging_nan_inf_filter": True},
    "average_tokens_across_devices": {"average_tokens_across_devices": False},
}

# Shown by tests of their own, here and in other files.
SHOWN_BY = {
    "output_dir": "safety/test_checkpoints.py::test_two_runs_cannot_write_one_folder",
    "num_train_epochs": "test_trainer.py::test_numbers_that_nothing_can_be_trained_with_are_refused_by_name",
    "max_steps": "safety/test_checkpoints.py::test_resuming_a_finished_run_takes_no_step",
    "optim_target_modules": "test_options.py::test_options_that_would_be_dropped_are_refused_by_name",
    "fp16": "safety/test_guard.py::test_fp16_is_allowed_with_a_warning",
    "tf32": "test_options.py::test_what_needs_another_machine_is_said_at_once",
    "gradient_checkpointing": "test_adapters.py::test_lora_trains_in_little_memory",
    "gradient_checkpointing_kwargs": "test_options.py::test_options_that_would_be_dropped_are_refused_by_name",
    "torch_compile": "test_options.py::test_a_compiled_step_is_the_plain_step_traced",
    "torch_compile_backend": "test_options.py::test_a_compiled_step_is_the_plain_step_traced",
    "torch_compile_mode": "test_options.py::test_a_compiled_step_is_the_plain_step_traced",
    "logging_strategy": "test_options.py::test_log_and_evaluation_follow_their_options",
    "logging_steps": "test_trainer.py::test_log_holds_every_term_of_the_loss",
    "logging_first_step": "test_options.py::test_log_and_evaluation_follow_their_options",
    "disable_tqdm": "test_options.py::test_log_and_evaluation_follow_their_options",
    "skip_memory_metrics": "test_options.py::test_log_and_evaluation_follow_their_options",
    "eval_strategy": "safety/test_guard.py::test_early_stopping_counts_on_after_a_resume",
    "eval_steps": "safety/test_guard.py::test_early_stopping_counts_on_after_a_resume",
    "eval_delay": "test_options.py::test_log_and_evaluation_follow_their_options",
    "eval_on_start": "test_options.py::test_log_and_evaluation_follow_their_options",
    "per_device_eval_batch_size": "test_options.py::test_held_out_metrics_do_not_depend_on_how_they_are_gathered",
    "eval_do_concat_batches": "test_options.py::test_held_out_metrics_do_not_depend_on_how_they_are_gathered",
    "eval_accumulation_steps": "test_options.py::test_held_out_metrics_do_not_depend_on_how_they_are_gathered",
    "eval_use_gather_object": "test_options.py::test_held_out_metrics_do_not_depend_on_how_they_are_gathered",
    "include_for_metrics": "test_options.py::test_held_out_metrics_do_not_depend_on_how_they_are_gathered",
    "prediction_loss_only": "test_options.py::test_options_that_would_be_dropped_are_refused_by_name",
    "batch_eval_metrics": "test_options.py::test_options_that_would_be_dropped_are_refused_by_name",
    "save_only_model": "safety/test_checkpoints.py::test_a_checkpoint_of_weights_alone_is_no_start",
    "save_strategy": "test_options.py::test_the_best_is_saved_by_held_out_rank_one",
    "save_steps": "safety/test_guard.py::test_early_stopping_counts_on_after_a_resume",
    "save_total_limit": "safety/test_guard.py::test_early_stopping_counts_on_after_a_resume",
    "enable_jit_checkpoint": "safety/test_preemption.py::test_a_preempted_run_writes_no_model",
    "load_best_model_at_end": "safety/test_guard.py::test_early_stopping_counts_on_after_a_resume",
    "metric_for_best_model": "test_options.py::test_the_best_is_saved_by_held_out_rank_one",
    "greater_is_better": "test_options.py::test_a_rate_that_follows_a_metric_knows_which_way_is_better",
    "ignore_data_skip": "test_options.py::test_options_of_resuming_act",
    "restore_callback_states_from_checkpoint": "test_options.py::test_options_of_resuming_act",
    "resume_from_checkpoint": "../test_examples.py::test_training_example_trains_resumes_and_writes_a_card",
    "full_determinism": "test_options.py::test_full_determinism_is_switched_on",
    "use_cpu": "test_trainer.py::test_one_process_trains_on_the_first_of_several_gpus",
    "fsdp": "test_adapters.py::test_fsdp_equals_one_process",
    "fsdp_config": "test_adapters.py::test_fsdp_equals_one_process",
    "push_to_hub": "test_card.py::test_",
    "do_train": "../test_examples.py::test_values_of_another_kind_are_refused_by_name_before_data_is_read",
    "do_eval": "../test_examples.py::test_values_of_another_kind_are_refused_by_name_before_data_is_read",
}

# Read by transformers and accelerate alone, in code that nothing here takes part in.
LEFT_TO_TRANSFORMERS = {
    "logging on several machines": ("log_on_each_node", "log_level", "log_level_replica"),
    "trackers": (
        "report_to",
        "run_name",
        "project",
        "trackio_space_id",
        "trackio_bucket_id",
        "trackio_static_space_id",
    ),
    "uploads": (
        "hub_token",
        "hub_private_repo",
        "hub_model_id",
        "hub_strategy",
        "hub_always_push",
        "hub_revision",
    ),
    "how processes exchange gradients": (
        "ddp_find_unused_parameters",
        "ddp_bucket_cap_mb",
        "ddp_broadcast_buffers",
        "ddp_static_graph",
        "ddp_backend",
        "ddp_timeout",
        "local_rank",
    ),
}


def make_trainer(folder, triplets, **options) -> FafaTrainer:
    settings = {"max_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1, "save_strategy": "no"}
    return tiny_trainer(folder, triplets, options.pop("model", None), **{**settings, "eval_dataset": None, **options})


@pytest.fixture(scope="module")
def weights_after(tmp_path_factory, triplets_of_module):
    """Weights after two steps with some options; each set of options runs once."""
    known: dict[str, dict[str, torch.Tensor]] = {}

    def train(options: dict) -> dict[str, torch.Tensor]:
        if (key := repr(sorted(options.items(), key=str))) not in known:
            trainer = make_trainer(tmp_path_factory.mktemp("run"), triplets_of_module, **options)
            trainer.train()
            known[key] = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
        return known[key]

    return train


def differ(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(weight, others[name]) for name, weight in some.items())


def test_every_option_of_the_installed_transformers_is_in_one_table():
    """One that it adds would be accepted, and perhaps not act: put it into REFUSED, or into a table with its test."""
    left = {name for names in LEFT_TO_TRANSFORMERS.values() for name in names}
    tables = [REFUSED, OTHER_WEIGHTS, SAME_WEIGHTS, SHOWN_BY, left]
    known = set().union(*tables)
    assert {entry.name for entry in fields(TrainingArguments)} - known == set()
    assert set(ASKED) == set(REFUSED)
    assert sum(map(len, tables)) - len(known) == 1  # of the tokens seen, one way of counting is refused


def test_the_tests_that_the_table_names_exist():
    folder = Path(__file__).parent
    for option, place in SHOWN_BY.items():
        file, _, name = place.partition("::")
        assert f"\ndef {name}" in (folder / file).read_text(encoding="utf-8"), option


@pytest.mark.parametrize("name", sorted(ASKED))
def test_an_option_that_could_not_act_is_refused_with_a_remedy(tmp_path, name):
    """label_smoothing_factor did nothing, auto_find_batch_size never shrank, sampling strategies were not read."""
    with pytest.raises(ValueError, match=rf"^{name} is .*: .{{20}}"):
        tiny_arguments(tmp_path, **{name: ASKED[name]})


@pytest.mark.parametrize("name", sorted(OTHER_WEIGHTS))
def test_an_option_of_learning_acts(weights_after, name):
    """A constant rate was silently one-cycle; adafactor and adagrad died of a momentum that they do not have."""
    options, plain = OTHER_WEIGHTS[name] if isinstance(OTHER_WEIGHTS[name], tuple) else (OTHER_WEIGHTS[name], {})
    assert differ(weights_after(options), weights_after(plain))


@pytest.mark.parametrize("name", sorted(SAME_WEIGHTS))
def test_an_option_of_the_machinery_changes_no_weight(weights_after, name):
    assert not differ(weights_after(SAME_WEIGHTS[name]), weights_after({}))


@pytest.mark.parametrize("optim", ["adagrad", "rmsprop", "sgd", "adamw_torch"])
def test_optimisers_without_momentum_follow_the_one_cycle(weights_after, optim):
    assert differ(weights_after({"optim": optim}), dict(tiny_model().named_parameters()))


def test_one_cycle_moves_only_a_momentum_that_was_asked_for(tmp_path, triplets_of_module):
    """Plain SGD would have become SGD with a momentum of 0.95."""
    for options, expected in (({}, {0}), ({"optim_args": "momentum=0.5"}, {0.85, 0.95})):
        trainer = make_trainer(tmp_path, triplets_of_module, optim="sgd", max_steps=10, **options)
        scheduler, seen = trainer.create_scheduler(10, trainer.create_optimizer()), set()
        for _ in range(10):
            seen.add(round(trainer.optimizer.param_groups[0]["momentum"], 6))
            trainer.optimizer.step()
            scheduler.step()
        assert {min(seen), max(seen)} == expected or min(seen) == pytest.approx(0.85, abs=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"one_cycle": True, "lr_scheduler_type": "constant"}, "lr_scheduler_type is constant, but one_cycle is true"),
        ({"lr_scheduler_kwargs": {"num_cycles": 2}}, "lr_scheduler_kwargs belong to lr_scheduler_type"),
        ({"adam_beta1": 0.5}, "adam_beta1 is 0.5, but one_cycle moves it"),
        ({"lr_scheduler_type": "constant", "warmup_steps": 5}, "constant has no warm-up"),
        ({"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"power": 2}}, "of constant: there is no 'power'"),
        (
            {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"pwer": 2}},
            "no 'pwer'; did you mean 'power'?",
        ),
        ({"optim_args": "momentum=0.5"}, "optim_args of adamw_torch_fused: there is no 'momentum'"),
        ({"optim": "sgd", "optim_args": "momentm=0.5"}, "did you mean 'momentum'"),
        ({"optim": "sgd", "optim_args": "0.5"}, "optim_args is '0.5', expected such as"),
        ({"optim": "lomo"}, "optim is lomo, which steps within the backward pass"),
        ({"optim": "galore_adamw_layerwise"}, "optim is galore_adamw_layerwise, which steps within"),
        ({"optim_target_modules": ["query"]}, "optim_target_modules belong to GaLore and APOLLO"),
        ({"activation_checkpointing_kwargs": {"every_n_layers": 2}}, "need activation_checkpointing: set that to"),
        (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_rentrant": False}},
            "there is no 'use_rentrant'; did you mean 'use_reentrant'?",
        ),
        (
            {"activation_checkpointing": True, "activation_checkpointing_kwargs": '{"use_reentrant": true}'},
            "use_reentrant gives no gradient to adapters",
        ),
        ({"torch_compile": True, "gradient_cache_size": 2}, "torch_compile compiles the plain step"),
        ({"accelerator_config": {"split_batchs": True}}, "no 'split_batchs'; did you mean 'split_batches'?"),
        ({"accelerator_config": {"split_batches": True}}, "accelerator_config: split_batches does not act here"),
        ({"accelerator_config": '{"dispatch_batches": true'}, "accelerator_config is no JSON"),
        ({"enable_jit_checkpoint": True, "save_only_model": True}, "enable_jit_checkpoint saves a state to resume"),
        (
            {"prediction_loss_only": True, "metric_for_best_model": "rank-1"},
            "prediction_loss_only leaves out rank-1, by which checkpoints are chosen",
        ),
        (
            {"per_device_eval_batch_size": 1, "metric_for_best_model": "loss"},
            "the loss of a single triplet cannot choose a checkpoint",
        ),
        ({"num_train_epochs": 0, "max_steps": -1}, "num_train_epochs is 0, expected a number above 0"),
        ({"max_steps": 0}, "max_steps is 0, expected a number from 1, or -1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0, expected"),
        ({"per_device_eval_batch_size": 0}, "per_device_eval_batch_size is 0, expected"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_options_that_would_be_dropped_are_refused_by_name(tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_arguments(tmp_path, **options)


def test_a_schedule_that_is_given_counts_and_the_recipe_is_one_cycle(tmp_path):
    assert tiny_arguments(tmp_path).one_cycle and tiny_arguments(tmp_path).lr_scheduler_type is None
    constant = tiny_arguments(tmp_path, lr_scheduler_type="constant")
    assert not constant.one_cycle and constant.warmup_steps == 0  # of which the card tells
    assert tiny_arguments(tmp_path, one_cycle=False).lr_scheduler_type.value == "linear"
    for arguments in (constant, tiny_arguments(tmp_path)):
        assert replace(arguments, seed=1).one_cycle == arguments.one_cycle


def test_a_rate_that_follows_a_metric_knows_which_way_is_better(tmp_path, triplets_of_module):
    """transformers' plateau waits for lower values: a rising Rank-1 would have lowered the rate."""
    for metric, mode in ((None, "max"), ("loss", "min")):
        options = {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset": triplets_of_module}
        options |= {"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": metric, "max_steps": 1}
        trainer = make_trainer(tmp_path, triplets_of_module, **options)
        trainer.train()
        assert trainer.lr_scheduler.mode == mode


def test_a_warmup_longer_than_the_run_is_refused(tmp_path, triplets_of_module):
    with pytest.raises(ValueError, match="warmup_steps is 50, but the run has 2 steps"):
        make_trainer(tmp_path, triplets_of_module, warmup_steps=50).train()


def test_what_needs_another_machine_is_said_at_once(tmp_path, triplets_of_module):
    with pytest.raises(ValueError, match="tf32"):
        tiny_arguments(tmp_path, tf32=True)
    with pytest.raises(ValueError, match=r"fp16 needs a GPU.*bf16"):
        tiny_arguments(tmp_path, fp16=True, use_cpu=True)
    with pytest.raises(ImportError, match="torchao"):
        make_trainer(tmp_path, triplets_of_module, optim="adamw_torch_4bit")


def test_a_compiled_step_is_the_plain_step_traced(tmp_path, triplets_of_module):
    """What runs is the module that accelerate made of it; tracing a step costs a minute, so it is only looked at."""
    options = {"torch_compile_backend": "eager", "torch_compile_mode": "default"}
    trainer = make_trainer(tmp_path, triplets_of_module, **options)
    assert trainer.args.torch_compile
    compiled = trainer.accelerator.prepare_model(trainer.model)
    assert type(compiled).__name__ == "OptimizedModule" and compiled._orig_mod is trainer.model


def test_log_and_evaluation_follow_their_options(tmp_path, triplets_of_module, capsys):
    options = {"max_steps": 4, "logging_steps": 3, "logging_first_step": True, "disable_tqdm": False}
    options |= {"eval_dataset": triplets_of_module, "eval_strategy": "steps", "eval_steps": 1, "eval_delay": 3}
    trainer = make_trainer(tmp_path, triplets_of_module, eval_on_start=True, skip_memory_metrics=False, **options)
    trainer.train()
    history = trainer.state.log_history
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 3]
    assert [entry["step"] for entry in history if "eval_mAP" in entry] == [0, 3, 4]
    assert "train_mem_cpu_peaked_delta" in history[-1] and "4/4" in capsys.readouterr().err
    silent = make_trainer(tmp_path, triplets_of_module, logging_strategy="no", max_steps=1)
    silent.train()
    assert not any("loss" in entry for entry in silent.state.log_history)


def test_weights_that_are_not_finite_end_a_run_that_logs_nothing(tmp_path, triplets_of_module):
    """Without a log, a checkpoint or an evaluation nobody looked, and a model of NaN was saved."""
    from fafa.training import TrainingCollapsed

    for options in ({"logging_strategy": "no"}, {"logging_nan_inf_filter": True, "max_steps": 4}):
        trainer = make_trainer(tmp_path, triplets_of_module, learning_rate=1e9, **options)
        with pytest.raises(TrainingCollapsed, match="not finite"):
            trainer.train()


@pytest.mark.parametrize(
    "options",
    [
        {"per_device_eval_batch_size": 5},
        {"per_device_eval_batch_size": 1},
        {"eval_do_concat_batches": False, "per_device_eval_batch_size": 5},
        {"eval_accumulation_steps": 1, "per_device_eval_batch_size": 5},
        {"eval_use_gather_object": True},
        {"include_for_metrics": ["inputs", "loss"]},
        {"dataloader_drop_last": True, "per_device_eval_batch_size": 5},
    ],
    ids=lambda options: next(iter(options)),
)
def test_held_out_metrics_do_not_depend_on_how_they_are_gathered(tmp_path, triplets_of_module, options):
    """In batches kept apart they ended in an error of numpy's; without the last batch they were of ten triplets."""
    expected = make_trainer(tmp_path, triplets_of_module, eval_dataset=triplets_of_module).evaluate()
    trainer = make_trainer(tmp_path, triplets_of_module, eval_dataset=triplets_of_module, **options)
    metrics = trainer.evaluate()
    for name in ("eval_rank-1", "eval_rank-5", "eval_mAP"):
        assert metrics[name] == pytest.approx(expected[name]), name


def test_the_best_is_saved_by_held_out_rank_one(tmp_path, triplets_of_module):
    options = {"eval_dataset": triplets_of_module, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best"}
    trainer = make_trainer(tmp_path, triplets_of_module, **options)
    assert trainer.args.metric_for_best_model == "rank-1" and trainer.args.greater_is_better
    trainer.train()
    assert (tmp_path / f"checkpoint-{trainer.state.best_global_step}").is_dir()
    with pytest.raises(ValueError, match="metric_for_best_model is rank-2, but compute_metrics gives rank-1, rank-5"):
        make_trainer(tmp_path, triplets_of_module, **options, metric_for_best_model="rank-2")
    with pytest.raises(ValueError, match="compute_metrics is not given"):
        make_trainer(tmp_path, triplets_of_module, **options, compute_metrics=None)


def test_options_of_resuming_act(tmp_path, triplets_of_module):
    """Starting the epoch anew is what was asked for; the clock, a callback with a state, goes on either way."""
    settings = {"save_strategy": "steps", "save_steps": 1}
    make_trainer(tmp_path, triplets_of_module, **settings).train()
    options = {"ignore_data_skip": True, "restore_callback_states_from_checkpoint": True}
    trainer = make_trainer(tmp_path, triplets_of_module, **settings, max_steps=3, **options)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 3
    assert [callback.resumed_at for callback in trainer.callback_handler.callbacks if hasattr(callback, "resumed_at")]


def test_full_determinism_is_switched_on(tmp_path, triplets_of_module):
    try:
        make_trainer(tmp_path, triplets_of_module, full_determinism=True, max_steps=1).train()
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        set_seed(0)


# What a Trainer is made of.

CONSTRUCTOR = {
    "model": "test_model_init_keeps_the_warmup_and_every_run_begins_anew",
    "args": "test_parts_that_could_not_act_are_refused_by_name",
    "data_collator": "test_a_collator_of_ones_own_is_used_for_evaluation_too",
    "train_dataset": "test_parts_that_could_not_act_are_refused_by_name",
    "eval_dataset": "test_several_evaluation_sets_are_refused_and_a_test_set_among_them_is_named",
    "processing_class": "test_an_optimiser_and_all_else_that_is_given_are_used",
    "model_init": "test_model_init_keeps_the_warmup_and_every_run_begins_anew",
    "compute_loss_func": "test_parts_that_could_not_act_are_refused_by_name",
    "compute_metrics": "test_an_optimiser_and_all_else_that_is_given_are_used",
    "callbacks": "test_an_optimiser_and_all_else_that_is_given_are_used",
    "optimizers": "test_an_optimiser_and_all_else_that_is_given_are_used",
    "optimizer_cls_and_kwargs": "test_an_optimiser_and_all_else_that_is_given_are_used",
    "preprocess_logits_for_metrics": "test_an_optimiser_and_all_else_that_is_given_are_used",
}


def test_every_part_of_a_trainer_is_in_the_table():
    assert set(inspect.signature(Trainer.__init__).parameters) - {"self"} == set(CONSTRUCTOR)
    assert all(name in globals() for name in CONSTRUCTOR.values())


class Seen(TrainerCallback):
    """What the loss was, step by step."""

    def __init__(self):
        self.divergences = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.divergences.append(model.config.fda_divergence)


def trainer_of_new_models(folder, triplets, **options) -> FafaTrainer:
    arguments = {"per_device_train_batch_size": 4, "max_steps": 2, "save_strategy": "no", **options}
    return FafaTrainer(
        args=tiny_arguments(folder, **arguments),
        model_init=lambda: tiny_model(),
        train_dataset=triplets,
        eval_dataset=triplets,
        data_collator=FafaDataCollator(tiny_processor(), augment=True),
        compute_metrics=held_out_rank_metrics(tiny_model()),
        callbacks=[Seen()],
    )


def test_model_init_keeps_the_warmup_and_every_run_begins_anew(tmp_path, triplets_of_module):
    """The warm-up changed the configuration of the first model, which never trained."""
    trainer = trainer_of_new_models(tmp_path, triplets_of_module, contrastive_steps=1)
    seen = trainer.pop_callback(Seen)
    trainer.add_callback(seen)
    weights = []
    for _ in range(2):
        trainer.train()
        weights.append({name: weight.detach().clone() for name, weight in trainer.model.named_parameters()})
        assert trainer.model.config.fda_divergence == "reverse"
    assert seen.divergences == ["forward", "reverse"] * 2
    assert not differ(*weights) and differ(weights[0], dict(tiny_model().named_parameters()))


class Trial(dict):
    """Whose settings transformers takes as they are."""

    def __init__(self, number: int):
        super().__init__()
        self.number, self.params = number, {}


class Trials:
    """What optuna does: a few trials, one after another."""

    name = "optuna"

    def ensure_available(self):
        pass

    def run(self, trainer, n_trials, direction, **kwargs):
        results = []
        for number in range(n_trials):
            trainer.objective = None
            trainer.train(resume_from_checkpoint=None, trial=Trial(number))
            results.append(trainer.compute_objective(trainer.evaluate()))
        return direction, results


def test_a_search_for_settings_gives_each_trial_a_folder_and_looks_for_the_highest_rank(
    tmp_path, triplets_of_module, monkeypatch
):
    """The second trial found the checkpoints of the first, and the lowest sum of all metrics won."""
    from transformers import trainer as module

    monkeypatch.setitem(module.ALL_HYPERPARAMETER_SEARCH_BACKENDS, HPSearchBackend.OPTUNA, Trials)
    monkeypatch.setattr(integrations, "hp_params", dict)
    trainer = trainer_of_new_models(tmp_path, triplets_of_module, save_strategy="steps", save_steps=2)
    with pytest.raises(ValueError, match="there is no 'ema_decay'"):
        trainer.hyperparameter_search(lambda trial: {"ema_decay": 0.9}, n_trials=1, backend="optuna")
    rates = []

    def space(trial):
        rates.append(10.0 ** -(3 + trial.number))
        return {"learning_rate": rates[-1], "per_device_train_batch_size": 4 + trial.number}

    direction, results = trainer.hyperparameter_search(space, n_trials=2, backend="optuna")
    assert direction == "maximize" and len(results) == 2 and all(0 <= result <= 100 for result in results)
    assert trainer.args.learning_rate == rates[-1] == 1e-4 and trainer.args.per_device_train_batch_size == 5
    assert {path.name for path in tmp_path.iterdir()} == {"run-0", "run-1"}
    assert all((tmp_path / run / "checkpoint-2").is_dir() for run in ("run-0", "run-1"))


def test_a_trial_that_collapses_does_not_end_the_search(tmp_path, triplets_of_module):
    optuna = pytest.importorskip("optuna", reason="the search is optuna's")
    trainer = trainer_of_new_models(tmp_path, triplets_of_module)
    grid = {"learning_rate": [1e9, 1e-4]}
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", grid["learning_rate"])},
        n_trials=2,
        backend="optuna",
        sampler=optuna.samplers.GridSampler(grid),
    )
    assert best.hyperparameters == {"learning_rate": 1e-4}


def test_several_evaluation_sets_are_refused_and_a_test_set_among_them_is_named(tmp_path, triplets_of_module):
    """The card said "not evaluated", the guard saw no mAP, and metric_for_best_model could name the test set's."""
    itcpr = triplets_of_module.add_column("instance_id", list(range(12)))
    for several in ({"a": triplets_of_module, "b": itcpr}, DatasetDict(test=itcpr)):
        with pytest.raises(ValueError, match="is a test set in ITCPR's form"):
            make_trainer(tmp_path, triplets_of_module, eval_dataset=several)
    with pytest.raises(ValueError, match=r"eval_dataset is a dict of a, b: give the one held-out set"):
        make_trainer(tmp_path, triplets_of_module, eval_dataset=dict.fromkeys("ab", triplets_of_module))


def test_figures_of_another_set_are_not_taken_for_held_out_ones(tmp_path, triplets_of_module):
    """The card took the last Rank-1 of the log, whatever set it was of."""
    trainer = make_trainer(tmp_path, triplets_of_module, eval_dataset=triplets_of_module)
    other = triplets_of_module.select(range(4))
    with pytest.raises(ValueError, match="metric_key_prefix='other'"):
        trainer.evaluate(other)
    assert "other_rank-1" in trainer.evaluate(other, metric_key_prefix="other")
    assert trainer.evaluate(triplets_of_module)["eval_mAP"] == trainer.evaluate()["eval_mAP"]
    with pytest.raises(ValueError, match="a dict of a: give"):
        trainer.evaluate({"a": other})


def test_predictions_are_of_images_as_they_are(tmp_path, triplets_of_module):
    """They were augmented as in training."""
    trainer = make_trainer(tmp_path, triplets_of_module)
    predicted = trainer.predict(triplets_of_module).metrics["test_mAP"]
    trainer.data_collator.set_epoch(1)
    assert trainer.predict(triplets_of_module).metrics["test_mAP"] == predicted
    assert trainer.evaluate(triplets_of_module, metric_key_prefix="x")["x_mAP"] == predicted


def refused_parts(triplets) -> dict[str, tuple[dict, str]]:
    texts = triplets.map(lambda row: row, remove_columns=["cpr_id"]).add_column(
        "cpr_id", [f"group {n}" for n in range(12)]
    )
    stranger = torch.optim.SGD(tiny_model().parameters(), lr=0.1)
    captions = {"caption_steps": 1, "data_collator": FafaDataCollator(tiny_processor(), augment=True)}
    return {
        "compute_loss_func": ({"compute_loss_func": lambda *_, **__: 0}, "compute_loss_func is given no group_ids"),
        "another model's optimiser": ({"optimizers": (stranger, None)}, "weights that train are not in the optimiser"),
        "no collator": ({"data_collator": default_data_collator}, "is made by TripletCollator"),
        "no captions": (captions, r"trains with the targets' captions: TripletCollator\(\.\.\., with_captions=True\)"),
        "a stream": (
            {"train_dataset": triplets.to_iterable_dataset()},
            "train_dataset is a stream, which does not tell",
        ),
        "a stream held out": ({"eval_dataset": triplets.to_iterable_dataset()}, "eval_dataset is a stream"),
        "a list": ({"train_dataset": list(triplets)}, "train_dataset is a list, .* Give a datasets.Dataset"),
        "another column": (
            {"train_dataset": triplets.remove_columns("edit_caption")},
            "train_dataset has no column edit_caption, which TripletCollator reads",
        ),
        "no groups": ({"train_dataset": triplets.remove_columns("cpr_id")}, "train_dataset has no column cpr_id"),
        "groups that are texts": ({"train_dataset": texts}, "the first cpr_id is 'group 0', expected whole numbers"),
        "a test set": (
            {"train_dataset": triplets.add_column("instance_id", list(range(12)))},
            "train_dataset is a test set",
        ),
        "nothing held out": ({"eval_dataset": triplets.select([])}, "eval_dataset has 0 triplets"),
        "one held out": ({"eval_dataset": triplets.select([0])}, "1 triplet, so that no query could miss its target"),
        "no triplet": ({"train_dataset": triplets.select([])}, "the training set has 0 triplets"),
        "one triplet": (
            {"train_dataset": triplets.select([0])},
            "has 1 triplet, but the loss tells each from the others",
        ),
        "batches of one": ({"per_device_train_batch_size": 1}, "the loss would be 0 in every step. Raise batch_size"),
        "batches of one, accumulated": (
            {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
            "Gradient accumulation does not help",
        ),
        "a last batch of one": (
            {"per_device_train_batch_size": 2, "train_dataset": triplets.select(range(11))},
            "11 triplets in batches of 2 leave one that has no others",
        ),
        "less than a batch": (
            {"per_device_train_batch_size": 16, "dataloader_drop_last": True},
            "12 triplets are less than a batch of 16, so that dataloader_drop_last leaves none",
        ),
        "large groups": ({"group_size": 5}, "group_size is 5, expected 0 to the batch size of 4"),
    }


def test_parts_that_could_not_act_are_refused_by_name(tmp_path, triplets_of_module):
    """Before the run, with what to do; they trained on nothing, ignored groups, or ended in a card that crashed."""
    model = tiny_model()
    for parts, message in refused_parts(triplets_of_module).values():
        with pytest.raises(ValueError, match=message):
            make_trainer(tmp_path, triplets_of_module, model=model, **parts)
    plain = TrainingArguments(str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match="args is TrainingArguments, expected RetrieverTrainingArguments"):
        FafaTrainer(model=model, args=plain, train_dataset=triplets_of_module)


def test_accumulation_says_what_a_triplet_is_compared_with(tmp_path, triplets_of_module, caplog):
    """ "batch: 8 triplets", said the card of a run in which only two were ever compared."""
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_steps": 1}
    trainer = make_trainer(tmp_path, triplets_of_module, **options)
    assert (
        "told from the others of its batch of 2, not of all 8. batch_size 8 with gradient_cache_size 2" in caplog.text
    )
    trainer.train()
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "8 triplets (1 processes × 2 × 4 accumulated); the loss compares 2 at a time" in card


def test_an_optimiser_and_all_else_that_is_given_are_used(tmp_path, triplets_of_module):
    model, seen = tiny_model(), Seen()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer = make_trainer(
        tmp_path,
        triplets_of_module,
        model=model,
        optimizers=(optimizer, None),
        callbacks=[seen],
        processing_class=tiny_processor(),
        eval_dataset=triplets_of_module,
        preprocess_logits_for_metrics=lambda logits, labels: (logits[0], torch.zeros_like(logits[1])),
        compute_metrics=lambda prediction: {"targets": float(abs(prediction.predictions[1]).sum())},
    )
    trainer.train()
    assert trainer.optimizer.optimizer is optimizer and len(seen.divergences) == 2
    assert differ(before, dict(model.named_parameters()))
    assert trainer.evaluate()["eval_targets"] == 0.0
    trainer.save_model()
    assert (tmp_path / "processor_config.json").exists()
    given = make_trainer(tmp_path, triplets_of_module, optimizer_cls_and_kwargs=(torch.optim.Adagrad, {"lr": 0.1}))
    given.train()
    assert isinstance(given.optimizer.optimizer, torch.optim.Adagrad)


def test_a_collator_of_ones_own_is_used_for_evaluation_too(tmp_path, triplets_of_module):
    """One without `for_evaluation` ended in an AttributeError."""
    collate = FafaDataCollator(tiny_processor())
    parts = {"data_collator": lambda rows: collate(rows), "eval_dataset": triplets_of_module}
    assert make_trainer(tmp_path, triplets_of_module, **parts).evaluate()["eval_mAP"] > 0


def test_a_weight_that_gets_no_gradient_stops_the_run_at_its_first_step(tmp_path, triplets_of_module):
    """Torch warns at most, and the weight keeps its random value for ten epochs."""
    model = tiny_model()
    model.mfr_predictor.register_parameter("spare", torch.nn.Parameter(torch.zeros(2)))
    trainer = make_trainer(tmp_path, triplets_of_module, model=model)
    with pytest.raises(ValueError, match=r"weights are to train and got no gradient .* \(1\): mfr_predictor\.spare\."):
        trainer.train()
    with pytest.raises(ValueError, match="no weight of the model trains"):
        make_trainer(tmp_path, triplets_of_module, model=tiny_model().requires_grad_(False)).train()
