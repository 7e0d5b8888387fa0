"""A model that shares nothing with FAFA trains as FAFA does: the package asks the contract alone."""

import pytest
import torch
from second_model import second_model, second_processor
from tiny_run import tiny_trainer
from transformers import AutoModel, AutoProcessor

from fafa.model_folder import load_model
from fafa.training import RetrieverTrainer, TripletCollator
from fafa.training.adapters import add_lora, merge_lora
from fafa.training.vision_blocks import train_vision_blocks


def make_trainer(folder, triplets, model, **options) -> RetrieverTrainer:
    processor = second_processor()
    settings = {
        "data_collator": TripletCollator(processor, augment=True),
        "processing_class": processor,
        "per_device_train_batch_size": 6,
        "gradient_cache_size": 4,
        "max_steps": 4,
        "ema_decay": 0.9,
        "eval_strategy": "steps",
        "eval_steps": 2,
    }
    return tiny_trainer(folder, triplets, model, **{**settings, **options})


def test_it_trains_resumes_to_the_same_bits_and_writes_its_card(tmp_path, triplets):
    trainer = make_trainer(tmp_path / "run", triplets, second_model())
    trainer.train()
    first = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    assert not torch.equal(
        first["clip.visual_projection.weight"], second_model().state_dict()["clip.visual_projection.weight"]
    )
    lines = [entry for entry in trainer.state.log_history if "loss" in entry]
    for line in lines:
        assert line["loss"] == pytest.approx(line["loss_contrast"] + 0.1 * line["loss_pull"], abs=1e-4)

    resumed = make_trainer(tmp_path / "run", triplets, second_model(seed=5))
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert all(torch.equal(weight, first[name]) for name, weight in resumed.model.state_dict().items())
    assert [entry for entry in resumed.state.log_history if "loss" in entry] == lines

    resumed.save_model()
    resumed.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text()
    for part in (
        "# Sum of towers for composed",
        "AutoModel.from_pretrained",
        "| vision tower | 2 blocks |",
        "loss_pull",
    ):
        assert part in card, part
    model, processor = load_model(tmp_path / "run")
    assert type(model) is type(AutoModel.from_pretrained(tmp_path / "run")) is type(second_model())
    assert type(processor) is type(AutoProcessor.from_pretrained(tmp_path / "run")) is type(second_processor())
    assert all(torch.equal(weight, first[name]) for name, weight in model.state_dict().items())


def test_adapters_and_single_blocks_train(tmp_path, triplets):
    second_model().save_pretrained(tmp_path / "base")
    second_processor().save_pretrained(tmp_path / "base")
    adapted = add_lora(load_model(tmp_path / "base")[0], rank=2, targets="both")
    make_trainer(tmp_path / "lora", triplets, adapted, max_steps=2, ema_decay=0).train()
    pixels = torch.randn(2, 3, 48, 24)
    expected = adapted.eval().get_target_features(pixels)
    assert not torch.equal(expected, second_model().get_target_features(pixels))
    adapted.save_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(AutoModel.from_pretrained(tmp_path / "adapter").get_target_features(pixels), expected)
    assert adapted.state_dict()["base_model.model.clip.logit_scale"] != second_model().clip.logit_scale
    torch.testing.assert_close(merge_lora(adapted).get_target_features(pixels), expected)

    model = train_vision_blocks(second_model(), 1).train()
    assert [layer.training for layer in model.clip.vision_model.encoder.layers] == [False, True]
    with pytest.raises(ValueError, match="contrastive_steps is 1, but SumModel has no such warm-up"):
        make_trainer(tmp_path / "other", triplets, model, contrastive_steps=1)
