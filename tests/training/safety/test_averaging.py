"""The average of the weights: what it is, and that it is what is evaluated, saved and ended with."""

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_model
from tiny_run import tiny_trainer
from transformers import TrainerCallback

from fafa.training.safety.averaging import RAW_WEIGHTS


class Record(TrainerCallback):
    """The raw weights after each step, and those that are evaluated."""

    def __init__(self):
        self.raw, self.evaluated = [], []

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.raw.append({name: weight.detach().clone() for name, weight in model.named_parameters()})

    def on_prediction_step(self, args, state, control, model=None, **kwargs):
        self.evaluated.append(model.text_projection.weight.detach().clone())


@pytest.fixture(scope="module")
def averaged(tmp_path_factory, triplets_of_module):
    """Four steps with a decay of 0.3, which the start lowers to 0.1 and 2/11; folder, trainer, records, averages."""
    folder, record, model = tmp_path_factory.mktemp("averaged"), Record(), tiny_model()
    expected = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer = tiny_trainer(
        folder,
        triplets_of_module,
        model,
        max_steps=4,
        callbacks=[record],
        ema_decay=0.3,
        eval_strategy="epoch",
        per_device_eval_batch_size=12,
    )
    trainer.train()
    averages = []
    for decay, raw in zip((0.1, 2 / 11, 0.25, 0.3), record.raw, strict=True):
        expected = {name: decay * expected[name] + (1 - decay) * raw[name] for name in raw}
        averages.append(expected)
    return folder, trainer, record, averages


def test_the_average_is_the_documented_one(averaged):
    _, trainer, record, averages = averaged
    for name, weight in trainer.model.named_parameters():
        torch.testing.assert_close(weight, averages[-1][name], rtol=1e-5, atol=1e-7)
    name = "text_projection.weight"
    assert not torch.allclose(averages[-1][name], record.raw[-1][name], rtol=1e-5, atol=1e-7)


def test_averages_are_evaluated_and_saved_and_raw_weights_kept(averaged):
    folder, _, record, averages = averaged
    name = "text_projection.weight"
    torch.testing.assert_close(record.evaluated[0], averages[1][name])  # an epoch has two steps
    for step in (2, 4):
        saved = load_file(folder / f"checkpoint-{step}" / "model.safetensors")
        raw = load_file(folder / f"checkpoint-{step}" / RAW_WEIGHTS)
        torch.testing.assert_close(saved[name], averages[step - 1][name])
        assert torch.equal(raw[name], record.raw[step - 1][name])


def test_saving_and_evaluating_after_training_change_nothing(averaged, tmp_path):
    """The averages are in the model already, not to be exchanged once more."""
    _, trainer, _, averages = averaged
    trainer.evaluate()
    trainer.save_model(str(tmp_path))
    saved = load_file(tmp_path / "model.safetensors")["text_projection.weight"]
    torch.testing.assert_close(saved, averages[-1]["text_projection.weight"])
    assert not (tmp_path / RAW_WEIGHTS).exists()


def test_the_best_checkpoint_is_the_end_result_untouched(tmp_path, triplets_of_module):
    ranks = [50.0, 40.0]
    trainer = tiny_trainer(
        tmp_path,
        triplets_of_module,
        compute_metrics=lambda _: {"rank-1": ranks.pop(0)},
        max_steps=4,
        ema_decay=0.9,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
    )
    trainer.train()
    best = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert all(torch.equal(trainer.model.state_dict()[name], tensor) for name, tensor in best.items())


def test_resume_without_the_average_goes_on_from_raw_weights(averaged, tmp_path, triplets_of_module):
    """The optimiser's state belongs to them; so does a resume with other trained weights not."""
    folder, _, record, _ = averaged
    trainer = tiny_trainer(tmp_path, triplets_of_module, tiny_model(seed=3), max_steps=2)
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    for name, weight in trainer.model.named_parameters():
        assert torch.equal(weight, record.raw[1][name]), name
    model = tiny_model()
    model.query_tokens.requires_grad_(False)
    with pytest.raises(ValueError, match=r"raw_weights\.safetensors is of a run that trained other weights: query_tok"):
        tiny_trainer(tmp_path / "other", triplets_of_module, model)._load_from_checkpoint(str(folder / "checkpoint-2"))


def test_a_decay_out_of_range_is_refused(tmp_path, triplets_of_module):
    with pytest.raises(ValueError, match=r"ema_decay is 1\.5, expected 0 \(off\) or a number below 1"):
        tiny_trainer(tmp_path, triplets_of_module, ema_decay=1.5)
