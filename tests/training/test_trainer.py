"""FafaTrainer: the released optimiser, group-aware batches, the log, resume."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Image
from tiny import GOLDEN, tiny_model, tiny_processor
from tiny_run import tiny_trainer

from fafa import FafaConfig
from fafa.image_reading_fafa import UnreadableImageError
from fafa.training import FafaDataCollator, FafaTrainer, FafaTrainingArguments
from fafa.workers import WorkerDiedError


def make_trainer(folder, triplets, model=None, **options) -> FafaTrainer:
    collator = FafaDataCollator(tiny_processor(), augment=True, with_captions=True)
    settings = {"max_steps": 4, "per_device_train_batch_size": 4, "logging_steps": 1, "save_strategy": "no"}
    return tiny_trainer(folder, triplets, model, **{**settings, "data_collator": collator, **options})


def test_optimiser_and_schedule_equal_released(tmp_path, triplets):
    """AdamW and one-cycle, beta1 cycling included, over the published 100 steps."""
    golden = json.loads((GOLDEN / "optim_public.json").read_text())
    trainer = make_trainer(tmp_path, triplets, learning_rate=golden["max_lr"], max_steps=100)
    parameter = torch.nn.Parameter(torch.tensor(golden["p0"]))
    optimizer_class, options = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    optimizer = optimizer_class([parameter], weight_decay=trainer.args.weight_decay, **options)
    scheduler = trainer.create_scheduler(100, optimizer)
    for step in range(100):
        group = optimizer.param_groups[0]
        assert group["lr"] == pytest.approx(golden["lr"][step], rel=1e-9)
        assert group["betas"] == pytest.approx((golden["beta1"][step], golden["beta2"]))
        parameter.grad = torch.tensor(golden["grads"][step])
        optimizer.step()
        scheduler.step()
        torch.testing.assert_close(
            parameter.detach(), torch.tensor(golden["p_after_each_step"][step]), rtol=0, atol=2e-6
        )


def test_weight_decay_spares_biases_norms_tokens_and_temperature(tmp_path, triplets):
    """The released code decays all of them."""
    trainer = make_trainer(tmp_path, triplets)
    decayed = trainer.get_decay_parameter_names(trainer.model)
    assert "qformer.encoder.layer.0.attention.attention.query.weight" in decayed
    assert "embeddings.word_embeddings.weight" in decayed
    spared = [name for name, _ in trainer.model.named_parameters() if name not in decayed]
    for part in ("temperature", "query_tokens", "bias", "post_layernorm.weight", "LayerNorm.weight", "class_embedding"):
        assert any(part in name for name in spared) and not any(part in name for name in decayed), part


def test_log_holds_every_term_of_the_loss(tmp_path, triplets):
    model = tiny_model(fd_weight=0.5, mfr_weight=2.0)
    trainer = make_trainer(tmp_path, triplets, model, logging_steps=2)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 2
    for entry in logs:
        total = entry["loss_fda"] + 0.5 * entry["loss_fd"] + 2.0 * entry["loss_mfr"]
        assert entry["loss"] == pytest.approx(total, rel=1e-4)


def test_contrastive_warmup_and_captions_end_at_their_steps(tmp_path, triplets):
    settings = {"contrastive_steps": 3, "caption_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer(tmp_path, triplets, **settings)
    seen = []
    forward = trainer.model.forward
    trainer.model.forward = lambda **inputs: seen.append(trainer.model.config.fda_divergence) or forward(**inputs)
    trainer.train()
    assert seen == ["forward", "forward", "forward", "reverse"]
    with_captions = ["loss_itc" in entry for entry in trainer.state.log_history if "loss" in entry]
    assert with_captions == [True, True, False, False]
    for config in (trainer.model.config, FafaConfig.from_pretrained(tmp_path / "checkpoint-2")):
        assert (config.fda_divergence, config.itc_weight) == ("reverse", 0.0)


def test_batches_follow_the_group_settings(tmp_path, triplets):
    trainer = make_trainer(tmp_path, triplets, group_size=2, seed=5, per_device_train_batch_size=5)
    batches = [batch["group_ids"].tolist() for batch in trainer.get_train_dataloader()]
    assert [len(batch) for batch in batches] == [4, 4, 4]  # equal sizes, no remainder of two
    assert all(batch[0] == batch[1] != batch[2] == batch[3] for batch in batches)


def test_a_test_set_cannot_choose_checkpoints(tmp_path, triplets):
    itcpr = triplets.add_column("instance_id", list(range(len(triplets))))
    trainer = make_trainer(tmp_path, triplets)
    with pytest.raises(ValueError, match=r"instance_id.*make its results worthless.*hold_out_quadruples"):
        FafaTrainer(model=trainer.model, args=trainer.args, train_dataset=triplets, eval_dataset=itcpr)


def test_evaluation_reports_rank_metrics_without_augmentation(tmp_path, triplets):
    trainer = make_trainer(tmp_path, triplets, per_device_eval_batch_size=5)
    first, second = trainer.evaluate(), trainer.evaluate()
    assert first["eval_loss"] > 0 and 0 <= first["eval_rank-1"] <= first["eval_rank-10"] <= 100
    assert first["eval_rank-1"] == second["eval_rank-1"] and first["eval_mAP"] == second["eval_mAP"]
    batch = next(iter(trainer.get_eval_dataloader()))
    plain = FafaDataCollator(tiny_processor())([triplets[row] for row in range(5)])
    assert torch.equal(batch["pixel_values"], plain["pixel_values"])
    assert trainer.data_collator.augment


WORKERS = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}


@pytest.mark.parametrize(
    "options", [{}, {**WORKERS, "eval_strategy": "steps", "eval_steps": 1}], ids=["plain", "workers"]
)
def test_resume_is_bit_equal(tmp_path, triplets, options):
    """In the middle of an epoch of grouped, augmented batches, past the end of the contrastive warm-up.

    Workers that stay draw a seed once, those of a resumed run once more: not from what masks are drawn from.
    """
    settings = {"max_steps": 6, "group_size": 2, "contrastive_steps": 3, "caption_steps": 4, "num_train_epochs": 2}
    settings |= options
    whole = make_trainer(tmp_path / "whole", triplets, save_strategy="steps", save_steps=2, **settings)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", triplets, tiny_model(seed=9), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    losses = [[e["loss"] for e in t.state.log_history if "loss" in e] for t in (whole, resumed)]
    assert len(losses[0]) == 6 and losses[0] == losses[1]
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_skipped_images_are_counted_and_reported(tmp_path, triplets, caplog):
    broken = Path(triplets[0]["reference_image"]["path"])
    broken.write_bytes(b"no image")
    collator = FafaDataCollator(tiny_processor(), on_error="skip")
    settings = {"max_steps": 3, "per_device_train_batch_size": 12, "eval_dataset": None}
    trainer = make_trainer(tmp_path, triplets, data_collator=collator, **settings)
    trainer.train()
    assert trainer.skipped_images == {str(broken): 6}  # two triplets hold it, in three epochs
    assert "images could not be read (1); triplets were left out 6 times" in caplog.text
    assert broken.name in caplog.records[-1].message


def test_images_that_datasets_would_decode_are_judged_by_the_one_reader(tmp_path, triplets):
    """A broken picture among them ended training by an error that named neither file nor triplet."""
    broken = tmp_path / "0-0_left.png"
    broken.write_bytes(b"no image")
    for column in ("reference_image", "target_image"):
        triplets = triplets.cast_column(column, Image())
    collator = FafaDataCollator(tiny_processor(), on_error="skip")
    trainer = make_trainer(tmp_path, triplets, data_collator=collator, eval_dataset=triplets, max_steps=3)
    trainer.train()
    assert set(trainer.skipped_images) == {str(broken)}


def test_unreadable_held_out_images_are_left_out_once_and_for_all(tmp_path, triplets, caplog):
    """The metrics, and the card's number of queries, are of those that remain."""
    broken = Path(triplets[0]["reference_image"]["path"])
    broken.write_bytes(b"no image")
    collator = FafaDataCollator(tiny_processor(), on_error="skip")
    trainer = make_trainer(tmp_path, triplets.select(range(4, 12)), data_collator=collator, eval_dataset=triplets)
    assert f"2 of 12 held-out triplets are left out (on_error='skip'), whose images cannot be read: {broken}" in (
        caplog.text
    )
    trainer.train()
    trainer.evaluate()
    assert trainer.skipped_images == {str(broken): 2}
    trainer.create_model_card()
    assert "10 queries" in (tmp_path / "README.md").read_text(encoding="utf-8")
    with pytest.raises(UnreadableImageError, match=r"none of 2 held-out triplets has readable images: .*0-0_left"):
        make_trainer(tmp_path, triplets, data_collator=collator, eval_dataset=triplets.select([0, 1]))


def test_evaluations_share_the_cache(tmp_path, triplets):
    collator = FafaDataCollator(tiny_processor(), cache_images=True)
    trainer = make_trainer(tmp_path, triplets, data_collator=collator)
    first = trainer.evaluate()
    for row in triplets:
        Path(row["target_image"]["path"]).unlink()
    assert trainer.evaluate()["eval_mAP"] == first["eval_mAP"]


def test_a_cache_in_each_worker_is_refused(tmp_path, triplets):
    collator = FafaDataCollator(tiny_processor(), cache_images=True)
    with pytest.raises(ValueError, match="in each of 2 workers: set dataloader_num_workers to 0"):
        make_trainer(tmp_path, triplets, data_collator=collator, dataloader_num_workers=2)


def test_a_tracker_that_is_not_installed_is_told_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr("fafa.training.arguments.get_available_reporting_integrations", lambda: ["mlflow"])
    with pytest.raises(ValueError, match="report_to asks for wandb, not installed here"):
        FafaTrainingArguments(output_dir=str(tmp_path), report_to=["mlflow", "wandb"])
    assert FafaTrainingArguments(output_dir=str(tmp_path), report_to="none").report_to == []


def test_processes_that_do_not_see_each_other_do_not_train_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"2 processes were launched.*--use_cpu true"):
        FafaTrainingArguments(output_dir=str(tmp_path), report_to="none")


def test_one_process_trains_on_the_first_of_several_gpus(tmp_path, triplets, monkeypatch, caplog):
    """The Trainer would take all of them, and split each batch."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    trainer = make_trainer(tmp_path, triplets, use_cpu=False, max_steps=1)
    trainer.train()
    assert trainer.args.n_gpu == 1 and trainer.args.train_batch_size == 4
    assert "first of 2 GPUs. For all of them: accelerate launch" in caplog.text


def test_processes_share_a_batch_size_evenly(tmp_path, monkeypatch):
    """What equal results need is tested with two of them in test_processes.py."""
    monkeypatch.setattr(FafaTrainingArguments, "world_size", 4)
    settings = {"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True}
    for given, share in (
        ({}, 64),
        ({"batch_size": 8}, 2),
        ({"per_device_train_batch_size": 6}, 6),
        ({"batch_size": 8, "per_device_train_batch_size": 2}, 2),
    ):
        assert FafaTrainingArguments(**settings, **given).per_device_train_batch_size == share
    with pytest.raises(ValueError, match="batch_size is 6, which 4 processes cannot share evenly"):
        FafaTrainingArguments(**settings, batch_size=6)
    with pytest.raises(ValueError, match=r"batch_size 8 is 2 triplets in each of 4 processes, but .* is 8: give one"):
        FafaTrainingArguments(**settings, batch_size=8, per_device_train_batch_size=8)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", float("nan")),
        ("learning_rate", -0.1),
        ("weight_decay", float("inf")),
        ("seed", -1),
        ("data_seed", 2**32),
    ],
)
def test_numbers_that_nothing_can_be_trained_with_are_refused_by_name(tmp_path, name, value):
    """NaN and large seeds ended in tracebacks of other libraries, after the data had been read."""
    with pytest.raises(ValueError, match=f"{name} is {value}, expected"):
        FafaTrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True, **{name: value})


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9}], ids=str)
def test_half_precision_weights_do_not_train(tmp_path, triplets, options):
    """Unless they are frozen, as in `vision_dtype`."""
    model = tiny_model().freeze_vision_tower(torch.bfloat16)
    make_trainer(tmp_path / "frozen", triplets, model, max_steps=1, **options).train()
    trainer = make_trainer(tmp_path, triplets, model.to(torch.bfloat16), **options)
    with pytest.raises(ValueError, match=r"\w+ trains, but is torch\.bfloat16.*dtype=torch\.float32"):
        trainer.train()


def test_saved_model_loads_and_scores_the_same(tmp_path, triplets):
    from fafa import FafaModel

    trainer = make_trainer(tmp_path, triplets)
    trainer.train()
    trainer.save_model()
    loaded = FafaModel.from_pretrained(tmp_path)
    pixels = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 96, 96)).astype(np.float32))
    with torch.no_grad():
        expected = trainer.model.eval().get_target_features(pixels)
        assert torch.equal(loaded.get_target_features(pixels), expected)


@pytest.mark.parametrize("chunk_size", [0, 2])
def test_bf16_is_the_precision_of_a_step_with_gradient_cache_too(tmp_path, triplets, chunk_size):
    """Accelerate puts autocast around `forward`, which gradient caching does not call."""
    trainer = make_trainer(tmp_path, triplets, bf16=True, gradient_cache_size=chunk_size, max_steps=1)
    seen = []
    trainer.model.qformer.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    trainer.train()
    assert seen and all(seen)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_read_the_batches_that_are_read_without_them(tmp_path, triplets, persistent):
    """Their pixels travel as 8-bit values; the epoch, which decides the augmentation, reaches workers that stay."""
    collator = FafaDataCollator(tiny_processor(), augment=True)
    options = {"dataloader_num_workers": 2, "dataloader_persistent_workers": persistent, "data_collator": collator}
    trainer = make_trainer(tmp_path, triplets, **options)
    loaders = [trainer.get_train_dataloader()]
    evaluated = list(trainer.get_eval_dataloader())
    trainer.args.dataloader_num_workers, trainer.args.dataloader_persistent_workers = 0, False
    loaders.append(trainer.get_train_dataloader())
    assert [loader.num_workers for loader in loaders] == [2, 0]
    for epoch in range(2):
        collator.set_epoch(epoch)
        for read, expected in zip(*loaders, strict=True):
            assert read.keys() == expected.keys()
            assert all(torch.equal(read[name], expected[name]) for name in expected)
    trainer._eval_dataloaders = {}
    assert torch.equal(evaluated[0]["pixel_values"], next(iter(trainer.get_eval_dataloader()))["pixel_values"])


@pytest.mark.parametrize("evaluates", [False, True])
def test_a_killed_worker_ends_training_with_a_remedy(tmp_path, triplets, evaluates):
    """By the kernel, for want of memory: the run is not to hang or to show a traceback of torch's."""

    class Deadly(FafaDataCollator):
        def __call__(self, rows):
            if self.augment != evaluates:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(rows)

    collator = Deadly(tiny_processor(), augment=True)
    trainer = make_trainer(tmp_path, triplets, dataloader_num_workers=1, data_collator=collator)
    with pytest.raises(WorkerDiedError, match="fewer workers"):
        trainer.evaluate() if evaluates else trainer.train()
