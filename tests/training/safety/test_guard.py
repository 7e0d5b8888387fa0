"""A run that collapses is stopped, says why, and goes on from its last good checkpoint."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_processor
from tiny_run import names_of, tiny_trainer
from transformers import TrainerCallback

from fafa.training import FafaDataCollator, FafaTrainingArguments
from fafa.training.checks import check_trainer
from fafa.training.safety.checkpoints import fault_of
from fafa.training.safety.guard import TrainingCollapsed


class At(TrainerCallback):
    """Does something to the model before a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step - 1:
            self.action(model)


def metrics_in_turn(*values):
    """A `compute_metrics` that knows the results beforehand: pairs of Rank-1 and mAP."""
    left = list(values)
    return lambda _: dict(zip(("rank-1", "mAP"), left.pop(0), strict=True))


EVALUATE = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 12}


def collapsed(trainer, message: str) -> dict:
    with pytest.raises(TrainingCollapsed, match=message) as caught:
        trainer.train()
    report = json.loads(Path(trainer.args.output_dir, "collapse.json").read_text())
    assert str(caught.value).endswith(report["remedy"])
    return report


def test_too_high_a_learning_rate_is_caught_and_a_lower_one_goes_on(tmp_path, triplets_of_module):
    """A thousand times the rate the tiny model learns with, from the fifth step on."""
    folder = tmp_path / "run"
    good = tiny_trainer(folder, triplets_of_module, max_steps=4, **EVALUATE)
    good.train()
    too_high = tiny_trainer(folder, triplets_of_module, max_steps=12, learning_rate=1.0, **EVALUATE)
    with pytest.raises(TrainingCollapsed, match=r"Likely cause: .*the learning rate is too high") as caught:
        too_high.train(resume_from_checkpoint=True)
    report = json.loads((folder / "collapse.json").read_text())
    assert report["last_good_checkpoint"] in str(caught.value) and "--learning_rate 0.1" in str(caught.value)
    assert fault_of(Path(report["last_good_checkpoint"])) is None and report["last_good_step"] == 4

    again = tiny_trainer(folder, triplets_of_module, max_steps=12, **EVALUATE)
    again.train(resume_from_checkpoint=report["last_good_checkpoint"])
    assert again.state.global_step == 12 and not (folder / "collapse.json").exists()
    assert all(torch.isfinite(weight).all() for weight in again.model.parameters())


def test_overflow_of_half_precision_is_caught_and_the_last_good_checkpoint_goes_on(tmp_path, triplets_of_module):
    """Numbers beyond fp16's largest become infinite; the Trainer's own filter would log an ordinary loss."""

    def overflow(model):
        model.text_projection.register_forward_hook(lambda module, args, output: (output * 1e6).half().float())

    steps = {"logging_steps": 3, "save_steps": 3, "max_steps": 12}
    trainer = tiny_trainer(tmp_path, triplets_of_module, callbacks=[At(8, overflow)], **steps)
    report = collapsed(
        trainer, r"stopped after step 9: the loss is not finite, first in step 8\. Likely cause: the lea"
    )
    assert report["last_good_step"] == 3  # nothing was looked at since checkpoint 6
    trainer.args.fp16 = True
    assert "fp16 overflowed" in stop_message(trainer)

    again = tiny_trainer(tmp_path, triplets_of_module, **steps)
    again.train(resume_from_checkpoint=True)
    logged = [entry["step"] for entry in again.state.log_history if "loss" in entry]
    assert logged == [3, 6, 9, 12] and all(torch.isfinite(weight).all() for weight in again.model.parameters())


def stop_message(trainer) -> str:
    with pytest.raises(TrainingCollapsed) as caught:
        trainer.guard._stop_not_finite(trainer.state, "the loss is")
    return str(caught.value)


def test_fp16_may_skip_steps_but_not_all(tmp_path, triplets_of_module):
    """Its loss is scaled up to 65,536 times; below 1, every step of seventeen or more overflowed."""
    trainer = tiny_trainer(tmp_path, triplets_of_module, max_steps=1, save_strategy="no")
    trainer.train()
    trainer.args.fp16, trainer.guard.watching = True, True
    logs = {"loss": 5.0, "grad_norm": float("inf")}
    trainer.accelerator.scaler = SimpleNamespace(get_scale=lambda: 65536.0)
    trainer.guard.on_log(trainer.args, trainer.state, trainer.control, logs)
    trainer.accelerator.scaler = SimpleNamespace(get_scale=lambda: 0.5)
    with pytest.raises(TrainingCollapsed, match=r"the gradient is not finite.*fp16 overflowed.*--bf16 true"):
        trainer.guard.on_log(trainer.args, trainer.state, trainer.control, logs)


def test_weights_that_are_not_finite_are_never_saved(tmp_path, triplets_of_module):
    """Between two lines of the log; the loss before that step was still finite."""

    def spoil(model):
        model.mfr_predictor[2].bias.register_hook(lambda gradient: gradient * float("nan"))

    trainer = tiny_trainer(tmp_path, triplets_of_module, callbacks=[At(4, spoil)], logging_steps=100)
    collapsed(trainer, "stopped after step 4: weights are not finite")
    assert names_of(tmp_path) == ["checkpoint-2"]


def test_embeddings_that_become_all_alike_stop_the_run(tmp_path, triplets_of_module):
    def all_alike(model):
        model.vision_projection.register_forward_hook(lambda module, args, output: output + 1e3)

    trainer = tiny_trainer(tmp_path, triplets_of_module, callbacks=[At(5, all_alike)])
    collapsed(
        trainer, r"stopped after step 6: the target spread of the embeddings fell to .* nearly the same embedding"
    )


def test_a_data_set_of_equal_triplets_is_not_blamed_on_the_learning_rate(tmp_path, triplets_of_module):
    """Nor is a batch that is smaller than it was asked for, whose spread says nothing."""
    equal = triplets_of_module.select([0] * 12)
    plain = {"data_collator": FafaDataCollator(tiny_processor()), "eval_dataset": None}
    trainer = tiny_trainer(tmp_path, equal, **plain)
    report = collapsed(trainer, r"spread of the embeddings is .* Likely cause: all images or captions are the same")
    assert "learning" not in report["remedy"]
    few = tiny_trainer(tmp_path / "few", equal.select(range(3)), max_steps=2, save_strategy="no", **plain)
    few.train()
    assert few.state.global_step == 2


def test_fall_of_held_out_retrieval_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, triplets_of_module):
    """Rotation keeps one checkpoint and the best; the last good one stays as well."""
    results = [(1.0, 26.0), (90.0, 95.0), (60.0, 90.0), (60.0, 44.0)]  # 90 is near enough to 95 to be good
    trainer = tiny_trainer(
        tmp_path,
        triplets_of_module,
        compute_metrics=metrics_in_turn(*results),
        load_best_model_at_end=True,
        save_total_limit=1,
        **EVALUATE,
    )
    report = collapsed(trainer, "stopped after step 8: held-out mAP fell from 95.0 to 44.0, which is chance")
    assert report["last_good_step"] == 6
    assert names_of(tmp_path) == ["checkpoint-4", "checkpoint-6"] and trainer.state.best_global_step == 4


def test_the_last_good_checkpoint_is_kept_while_the_newest_is_on_trial(tmp_path, triplets_of_module):
    """Good at step 4, doubtful at 6, good again at 8; the limit is one checkpoint."""
    seen = []

    class Look(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            seen.append(names_of(tmp_path))

    results = metrics_in_turn((0.0, 10.0), (80.0, 90.0), (60.0, 70.0), (80.0, 88.0))
    settings = EVALUATE | {"save_total_limit": 1, "callbacks": [Look()], "compute_metrics": results}
    tiny_trainer(tmp_path, triplets_of_module, **settings).train()
    assert seen == [["checkpoint-2"], ["checkpoint-4"], ["checkpoint-4", "checkpoint-6"], ["checkpoint-8"]]


def test_low_scores_near_chance_are_no_collapse(tmp_path, triplets_of_module):
    """Twelve queries: chance is an mAP of 26, half way to perfect 63."""
    trainer = tiny_trainer(
        tmp_path, triplets_of_module, compute_metrics=metrics_in_turn((1.0, 60.0), (0.0, 5.0)), max_steps=4, **EVALUATE
    )
    trainer.train()
    assert trainer.state.global_step == 4


def test_early_stopping_counts_on_after_a_resume(tmp_path, triplets_of_module):
    """The best is chosen by Rank-1, survives rotation, and is what the run ends with."""
    results = [(10.0, 90.0), (30.0, 90.0), (20.0, 90.0), (25.0, 90.0), (26.0, 90.0), (99.0, 90.0)]
    settings = EVALUATE | {"load_best_model_at_end": True, "early_stopping_patience": 3, "save_total_limit": 2}

    def resumed(*left, steps=20):
        trainer = tiny_trainer(
            tmp_path, triplets_of_module, compute_metrics=metrics_in_turn(*left), max_steps=steps, **settings
        )
        trainer.train(resume_from_checkpoint=True)
        return trainer

    assert resumed(*results[:3], steps=6).state.best_metric == 30.0
    trainer = resumed(*results[3:])
    assert trainer.state.global_step == 10 and trainer.state.best_global_step == 4
    assert names_of(tmp_path) == ["checkpoint-10", "checkpoint-4"]
    assert resumed(*results[5:]).state.global_step == 10  # killed between stopping and its end: it stays stopped


def test_fp16_is_allowed_with_a_warning(tmp_path, triplets_of_module, caplog):
    trainer = tiny_trainer(tmp_path, triplets_of_module)
    assert "fp16" not in caplog.text
    trainer.args.fp16 = True
    check_trainer(trainer)
    assert "collapse near step 23,000 and reached 40.3 Rank-1 instead of 46.5. bf16=true" in caplog.text


def test_the_loss_is_not_filtered_before_the_guard_sees_it(tmp_path):
    assert not FafaTrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True).logging_nan_inf_filter
