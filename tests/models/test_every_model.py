"""What every method must do: keep the contract, load through the Auto classes, train, search, have a card.

A new method adds a row to tests/every_model.py; two processes are looked at in test_processes.py.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from every_model import EVERY_MODEL
from tiny_run import tiny_trainer
from transformers import AutoModel, AutoProcessor

from fafa.model_folder import check_fit, load_model
from fafa.retrieval import Gallery
from fafa.retriever import QUERY_MODES
from fafa.training import TripletCollator
from fafa.training.gradient_cache import cached_backward


@pytest.fixture(params=EVERY_MODEL, scope="module")
def row(request):
    return EVERY_MODEL[request.param]


def collator_of(row, **options) -> TripletCollator:
    return TripletCollator(row.processor(), with_captions=row.model(0).reads_target_captions, **options)


def query_of(row, triplets, mode: str) -> dict[str, torch.Tensor]:
    batch = collator_of(row)([triplets[0], triplets[5], triplets[9]])
    return {name: batch[name] for name in QUERY_MODES[mode]}


def test_features_are_of_unit_length_and_the_stated_shape(row, triplets):
    model = row.model(0)
    check_fit(model, row.processor())
    targets = model.get_target_features(query_of(row, triplets, "image")["pixel_values"])
    assert targets.shape == (3, *model.feature_shape)
    torch.testing.assert_close(targets.norm(dim=-1), torch.ones(targets.shape[:2]))
    for mode in row.modes:
        queries = model.get_query_features(**query_of(row, triplets, mode))
        assert queries.shape == (3, model.feature_shape[1])
        torch.testing.assert_close(queries.norm(dim=-1), torch.ones(3))
        assert model.score(queries, targets).shape == (3, 3)


def attention_kinds(model) -> list[str]:
    return [module.config._attn_implementation for module in model.modules() if hasattr(module, "config")]


def test_attention_to_a_target_is_told_and_its_kind_put_back(row, triplets):
    """Also after an error: a model left with eager attention is slow ever after."""
    model, pixels = row.model(0), query_of(row, triplets, "image")["pixel_values"]
    before, features, kinds = dict(model.named_modules()), model.get_target_features(pixels), attention_kinds(model)
    assert "eager" not in kinds
    attention = model.target_attention(pixels)
    assert attention.shape[:2] == (3, model.feature_shape[0]) and attention.ndim == 4 and attention.shape[2] > 1
    assert (attention >= 0).all() and (attention.sum(dim=(2, 3)) <= 1.0001).all()
    assert not torch.equal(attention[0], attention[1])
    with pytest.raises(ValueError, match="pixels"):
        model.target_attention(pixels[:, :, 1:])
    assert attention_kinds(model) == kinds and torch.equal(model.get_target_features(pixels), features)
    assert not any(module._forward_hooks for module in before.values())


def test_heat_maps_in_several_threads_do_not_mix(row, triplets):
    """One that ended before another once left eager attention on."""
    model, pixels = row.model(0), query_of(row, triplets, "image")["pixel_values"]
    kinds, expected = attention_kinds(model), [model.target_attention(pixels[place : place + 1]) for place in range(3)]
    with ThreadPoolExecutor(3) as pool:
        places = [0, 1, 2] * 4
        found = list(pool.map(lambda place: model.target_attention(pixels[place : place + 1]), places))
    for place, attention in zip(places, found, strict=True):
        torch.testing.assert_close(attention, expected[place])
    assert attention_kinds(model) == kinds


def test_auto_classes_load_the_same_model(row, triplets, tmp_path):
    model = row.model(0)
    model.save_pretrained(tmp_path)
    row.processor().save_pretrained(tmp_path)
    loaded, processor = load_model(tmp_path)
    assert type(loaded) is type(AutoModel.from_pretrained(tmp_path)) is type(model)
    assert type(processor) is type(AutoProcessor.from_pretrained(tmp_path)) is type(row.processor())
    assert loaded.config.to_diff_dict().keys() == model.config.to_diff_dict().keys()
    query = query_of(row, triplets, row.modes[0])
    assert torch.equal(loaded.get_query_features(**query), model.get_query_features(**query))
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {name for name, weight in loaded.named_parameters() if weight.requires_grad}


def test_two_steps_train_what_is_to_train_and_write_a_card(row, triplets, tmp_path):
    model, processor = row.model(0), row.processor()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    trainer = tiny_trainer(
        tmp_path / "run",
        triplets,
        model,
        data_collator=collator_of(row, augment=True),
        processing_class=processor,
        per_device_train_batch_size=6,
        max_steps=2,
        save_strategy="no",
        logging_steps=1,
        **row.training,
    )
    trainer.train()
    for name, weight in model.named_parameters():
        if name in before and not weight.requires_grad:
            assert torch.equal(weight, before[name]), name
    assert any(
        row.learns in name and not torch.equal(weight, before[name]) for name, weight in model.named_parameters()
    )
    lines = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(lines) == 2 and all(any(name.startswith("loss_") for name in line) for line in lines)
    assert 0 <= trainer.evaluate()["eval_rank-1"] <= 100
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert f"# {row.method} for composed" in card and "AutoModel.from_pretrained" in card
    assert torch.equal(load_model(tmp_path / "run")[0].state_dict()[name], model.state_dict()[name])


def gradients(model) -> dict[str, torch.Tensor]:
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


def test_a_batch_in_chunks_has_the_gradients_of_the_whole(row, triplets):
    """Five triplets in chunks of two, the last one smaller."""
    model = row.model(0).train()
    batch = collator_of(row)([triplets[number] for number in range(5)])
    model.meet_groups(batch["group_ids"].numpy())
    output = model(**batch)
    output.loss.backward()
    expected = gradients(model)
    assert expected.keys() == {name for name, weight in model.named_parameters() if weight.requires_grad}
    cached = cached_backward(model, batch, 2)
    torch.testing.assert_close(cached.loss, output.loss.detach())
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4)


def test_a_gallery_ranks_by_the_models_own_scores(row, triplets, tmp_path):
    model, processor = row.model(0), row.processor()
    paths = sorted({image["path"] for image in triplets["target_image"][:]})
    # In full precision: half, the usual one, moves scores by about 1e-4.
    options = {"features_dir": tmp_path / "index", "dtype": torch.float32, "progress": False}
    gallery = Gallery.from_images(model, processor, paths, **options)
    loaded = Gallery.load(tmp_path / "index", model, processor)
    for mode in row.modes:
        asked = {"image": paths[0], "caption": "in a red coat"}
        asked = {name: value for name, value in asked.items() if name in mode}
        results = loaded.search(**asked, top=None)
        pixels = processor.to_pixels([processor.resize_crop(processor.open_crop(path)) for path in paths])
        query = {"pixel_values": pixels[:1], **processor.encode_captions(["in a red coat"])}
        scores = model.score(
            model.get_query_features(**{name: query[name] for name in QUERY_MODES[mode]}),
            model.get_target_features(pixels),
        )[0]
        assert [result.score for result in sorted(results, key=lambda one: one.index)] == pytest.approx(
            scores.tolist(), abs=1e-5
        )
        assert results[0].score == pytest.approx(scores.max().item(), abs=1e-5)
    assert len(gallery.paths) == len(paths)
