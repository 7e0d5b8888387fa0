"""Both stages: what each trains and needs, kept features, rates; and the commands, as a person would give them."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import tiny_trainer
from tiny_word4per import tiny_model, tiny_processor

from fafa.models.word4per import CachedCollator, Word4PerModel, cache_features
from fafa.models.word4per.masked_words import mask_words
from fafa.training import TripletCollator, caption_pairs
from fafa.training.adapters import add_lora
from fafa.training.rates import set_rates
from fafa.world import make_world

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def collator():
    return TripletCollator(tiny_processor(), with_captions=True)


def test_kept_features_give_the_losses_of_the_images(triplets, collator, tmp_path, monkeypatch):
    model = tiny_model(composed_weight=0.5)
    rows = [triplets[number] for number in range(5)]
    features = cache_features(model, collator, triplets, folder=tmp_path, progress=False)
    cached = CachedCollator(collator.processor, with_captions=True, features=features)
    batch = cached(rows)
    assert "pixel_values" not in batch and batch["reference_features"].shape == (5, 8)
    for mode in (True, False):
        model.train(mode)
        expected, output = model(**collator(rows)), model(**batch)
        for name in ("loss", "loss_sdm", "loss_composed", "query_embeds", "target_embeds"):
            torch.testing.assert_close(output[name], expected[name], rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(model, "image_features", None)  # a second run encodes nothing
    again = cache_features(model, collator, triplets, folder=tmp_path, progress=False)
    assert torch.equal(again.images, features.images) and len(again.images) == 12
    with pytest.raises(TypeError, match="not callable"):  # of another CLIP they are made anew
        other = tiny_model(seed=1)
        monkeypatch.setattr(other, "image_features", None)
        cache_features(other, collator, triplets, folder=tmp_path, progress=False)
    with pytest.raises(ValueError, match="features are kept where CLIP is frozen"):
        cache_features(tiny_model(stage=1), collator, triplets)


def test_the_second_stage_trains_on_kept_features_and_leaves_clip_alone(triplets, collator, tmp_path):
    model = tiny_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    cached = CachedCollator(
        collator.processor, with_captions=True, features=cache_features(model, collator, triplets, progress=False)
    )
    trainer = tiny_trainer(
        tmp_path / "run", triplets, model, data_collator=cached, max_steps=2, save_strategy="no", bias_rate=2.0,
        learning_rate=0.01, gradient_cache_size=3, lr_scheduler_type="constant",
    )  # fmt: skip
    trainer.train()
    assert trainer.evaluate()["eval_rank-1"] >= 0
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if name.startswith("tinets.")}
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {0.01, 0.02}


def test_biases_and_new_layers_have_rates_of_their_own():
    """Released: biases at twice the rate, layers that CLIP has not at five times."""
    model = tiny_model(stage=1, mlm_weight=1.0)
    model.meet_groups(np.array([1, 1, 2]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    set_rates(optimizer, model, model, biases=2.0, new_layers=5.0)
    rate_of = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    found = {name: round(rate_of[id(weight)], 6) for name, weight in model.named_parameters()}
    assert found["clip.text_projection.weight"] == 0.1 and found["clip.vision_model.post_layernorm.bias"] == 0.2
    assert found["classifier.weight"] == found["cross_modal.head.0.weight"] == 0.5
    assert found["classifier.bias"] == found["cross_modal.head.3.bias"] == 1.0 and len(found) == len(rate_of)


def test_masked_words_train_with_the_image(triplets, collator):
    torch.manual_seed(0)
    model = tiny_model(stage=1, mlm_weight=1.0, id_weight=0.0).train()
    batch = collator([triplets[number] for number in range(6)])
    output = model(**batch)
    assert output.loss_id is None and output.loss_mlm > 1
    torch.testing.assert_close(output.loss, output.loss_sdm + output.loss_mlm)
    output.loss.backward()
    assert all(weight.grad is not None for weight in model.cross_modal.parameters())
    model.eval()
    assert model(**batch).loss_mlm == model(**batch).loss_mlm  # evaluation repeats


def test_masks_leave_the_ends_alone_and_always_hide_a_word():
    torch.manual_seed(0)
    ids = torch.tensor([[1, 7, 8, 9, 2, 2]] * 500)
    may = torch.tensor([[False, True, True, True, False, False]] * 500)
    masked, labels = mask_words(ids, may, 0.15, 5, 20)
    told = labels != 0
    assert told.any(dim=1).all() and not told[~may].any() and torch.equal(masked[~told], ids[~told])
    assert torch.equal(labels[told], ids[told])
    assert 0.7 < (masked[told] == 5).float().mean() < 0.9
    assert (mask_words(ids, may, 0.0, 5, 20)[1] != 0).sum() == 500


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({"stage": 1}, {"group_ids": None}, "needs the identities of a batch"),
        ({"stage": 1}, {"caption_input_ids": None}, "caption_input_ids are missing"),
        ({"stage": 1, "id_weight": 0.0}, {"target_pixel_values": None}, "target_pixel_values are missing"),
        ({"prompt_ids": None}, {}, "set tinets, and prompt_ids"),
        ({}, {"caption_input_ids": None}, "caption_input_ids are missing"),
    ],
)
def test_what_a_stage_needs_is_asked_for(triplets, collator, options, change, message):
    batch = collator([triplets[number] for number in range(4)]) | change
    with pytest.raises(ValueError, match=message):
        tiny_model(**options).train()(**batch)


def test_a_training_set_without_identities_is_refused(triplets, collator, tmp_path):
    alone = triplets.remove_columns("cpr_id").add_column("cpr_id", list(range(12)))
    options = {"data_collator": collator, "save_strategy": "no"}
    with pytest.raises(ValueError, match=r"each of the 12 identities of the training set occurs once.*id_weight to 0"):
        tiny_trainer(tmp_path / "run", alone, tiny_model(stage=1), **options)
    assert tiny_trainer(tmp_path / "run", alone, tiny_model(stage=1, id_weight=0.0), **options).model.classifier is None
    model = tiny_model(stage=1).train()
    model.meet_groups(np.array([0, 0, 1]))
    with pytest.raises(ValueError, match=r"identities \[2, 2\] are none of the training set"):
        model(**collator([triplets[number] for number in (0, 4, 4)]) | {"group_ids": torch.tensor([0, 2, 2])})


def test_pairs_of_image_and_caption_train_the_first_stage(triplets, tmp_path):
    from datasets import Dataset

    people = Dataset.from_list(
        [
            {"image": row["target_image"], "image_path": row["target_image_path"], "captions": [row["edit_caption"]],
             "person_id": number // 2}
            for number, row in enumerate(triplets)
        ]
    )  # fmt: skip
    collator = TripletCollator(tiny_processor(), with_references=False, group_column="person_id")
    options = {"group_column": "person_id", "max_steps": 1, "save_strategy": "no", "logging_steps": 1}
    trainer = tiny_trainer(
        tmp_path / "run", caption_pairs(people), tiny_model(stage=1), data_collator=collator, **options
    )
    trainer.train()
    assert trainer.model.config.num_identities == 6 and trainer.state.log_history[0]["loss_id"] > 1


def test_adapters_train_in_the_first_stage_and_are_refused_in_the_second(triplets, collator, tmp_path):
    tiny_model(stage=1, id_weight=0.0).save_pretrained(tmp_path / "base")
    adapted = add_lora(Word4PerModel.from_pretrained(tmp_path / "base"), rank=2, targets="both")
    pixels = torch.randn(2, 3, 48, 24)
    before = adapted.eval().get_target_features(pixels)
    options = {"max_steps": 1, "save_strategy": "no", "learning_rate": 0.1, "lr_scheduler_type": "constant"}
    tiny_trainer(tmp_path / "run", triplets, adapted, data_collator=collator, **options).train()
    trained = {name.partition("lora")[1] for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert "lora" in trained and not torch.equal(adapted.eval().get_target_features(pixels), before)
    tiny_model().save_pretrained(tmp_path / "second")
    with pytest.raises(ValueError, match="names no lora_targets"):
        add_lora(Word4PerModel.from_pretrained(tmp_path / "second"), rank=2)


@pytest.fixture(scope="module")
def example():
    """examples/train.py as a module: launching it would cost several seconds each time."""
    spec = importlib.util.spec_from_file_location("word4per_train_example", ROOT / "examples" / "train.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their types
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_example_trains_both_stages_and_resumes(example, tmp_path, monkeypatch):
    world = make_world(tmp_path / "world", num_diptychs=24, num_queries=4, gallery_size=30, num_workers=1)
    data = str(world / "SynCPR")

    def train(stage: int, *options: str) -> None:
        config = ROOT / "examples" / "configs" / f"word4per_world_stage{stage}.yaml"
        given = ["train.py", "--config", str(config), "--data_dir", data, "--validation_fraction", "0.2"]
        given += ["--batch_size", "8", "--disable_tqdm", "true", "--save_strategy", "steps", "--save_steps", "1"]
        given += ["--eval_strategy", "no", "--warmup_steps", "0", *options]
        monkeypatch.setattr(sys, "argv", given)
        example.main(*example.parse_arguments())

    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    train(1, "--output_dir", first, "--max_steps", "2")
    train(2, "--model", first, "--output_dir", second, "--max_steps", "1")
    train(2, "--model", first, "--output_dir", second, "--max_steps", "2", "--resume_from_checkpoint", "true")
    clip, model = Word4PerModel.from_pretrained(first), Word4PerModel.from_pretrained(second)
    assert torch.equal(clip.clip.text_projection.weight, model.clip.text_projection.weight)
    assert (tmp_path / "second" / "features" / "images-00000.safetensors").exists()
    card = (tmp_path / "second" / "README.md").read_text(encoding="utf-8")
    assert "| TINet text   | 2 hidden layers, supervised by text |" in card
    assert "max_steps: 2" in card
