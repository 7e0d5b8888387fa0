"""Pairs of caption and image: made of data sets, batched without references, trained, and mixed in scenarios."""

import json

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Picture
from tiny_dual_encoder import tiny_model, tiny_processor
from tiny_run import tiny_trainer

from fafa.training import TripletCollator, caption_pairs

FEATURES = Features(
    {
        "image": Image(decode=False),
        "image_path": Value("string"),
        "captions": List(Value("string")),
        "person_id": Value("int64"),
    }
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Six images of three people, with one or two captions each."""
    folder, rows = tmp_path_factory.mktemp("images"), []
    for number in range(6):
        path = folder / f"{number}.png"
        Picture.new("RGB", (24, 48), (40 * number, 0, 200 - 30 * number)).save(path)
        captions = ["a red coat", "in a hat"][: 1 + number % 2]
        rows.append(
            {"image": {"path": str(path)}, "image_path": path.name, "captions": captions, "person_id": 5 + number // 2}
        )
    return Dataset.from_list(rows, features=FEATURES)


def test_every_caption_makes_a_pair_and_images_stay_closed(images):
    pairs = caption_pairs(images)
    assert pairs.column_names == ["target_image", "target_image_path", "edit_caption", "person_id"]
    expected = [(r["image_path"], text, r["person_id"]) for r in images for text in r["captions"]]
    assert [(p["target_image_path"], p["edit_caption"], p["person_id"]) for p in pairs] == expected
    assert all(pair["target_image"]["bytes"] is None for pair in pairs)


def test_people_of_several_data_sets_are_different_people_and_parts_repeat(images):
    """A generated person 5 is not the photographed one."""
    pairs = caption_pairs(images, images.select([0, 1]), repeats=[2, 1])
    assert len(pairs) == 2 * 9 + 3
    assert pairs["person_id"][:] == 2 * [0, 0, 0, 1, 1, 1, 2, 2, 2] + [3, 3, 3]
    assert pairs["target_image_path"][:9] == pairs["target_image_path"][9:18]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda images: caption_pairs(images.remove_columns("person_id")), "data set 0 has no column person_id"),
        (lambda images: caption_pairs(images, repeats=[0]), r"repeats is \[0\], expected a whole number from 1"),
        (lambda images: caption_pairs(images, repeats=[1, 2]), "for each of 1 data sets"),
        (lambda images: caption_pairs(), "for each of 0 data sets"),
    ],
)
def test_what_makes_no_pairs_is_refused(images, make, message):
    with pytest.raises(ValueError, match=message):
        make(images)


def collator(**options) -> TripletCollator:
    settings = {"with_references": False, "group_column": "person_id", **options}
    return TripletCollator(tiny_processor(word_deletion=0.4), **settings)


def test_a_batch_of_pairs_has_no_references(images):
    pairs = caption_pairs(images)
    batch = collator()([pairs[0], pairs[2]])
    assert batch.keys() == {"target_pixel_values", "input_ids", "attention_mask", "group_ids"}
    assert batch["group_ids"].tolist() == [5, 5] and batch["target_pixel_values"].shape == (2, 3, 48, 24)


def test_images_and_words_change_with_the_epoch_and_repeat_within_it(images):
    pair = caption_pairs(images)[1]
    rows = [pair | {"edit_caption": "a red coat with a blue bag in a hat"}]

    def batch(epoch: int, **options) -> dict[str, torch.Tensor]:
        one = collator(augment=True, **options)
        one.set_epoch(epoch)
        return one(rows)

    lengths = {epoch: batch(epoch)["input_ids"].shape[1] for epoch in range(8)}
    assert len(set(lengths.values())) > 1
    assert all(torch.equal(batch(3)[name], batch(3)[name]) for name in batch(3))
    plain = collator()(rows)["target_pixel_values"]
    assert any(not torch.equal(batch(epoch)["target_pixel_values"], plain) for epoch in range(8))


def make_trainer(folder, images, **options):
    settings = {
        "data_collator": collator(augment=True),
        "processing_class": tiny_processor(),
        "group_column": "person_id",
        "group_size": 0,
        "per_device_train_batch_size": 4,
        "max_steps": 6,
        "logging_steps": 1,
    }
    pairs = caption_pairs(images)
    return tiny_trainer(folder, pairs, options.pop("model"), eval_dataset=pairs, **{**settings, **options})


def test_pairs_train_and_alpha_rises_over_the_first_epoch_alone(images, tmp_path):
    model, seen = tiny_model(alpha=0.3), []
    losses = model.losses
    model.losses = lambda *args, **kwargs: seen.append(model.config.alpha) or losses(*args, **kwargs)
    trainer = make_trainer(tmp_path / "run", images, model=model, gradient_cache_size=3, save_steps=2)
    trainer.train()
    assert seen == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.3, 0.3])  # three steps an epoch
    saved = json.loads((tmp_path / "run" / "checkpoint-2" / "config.json").read_text())
    assert saved["alpha"] == 0.3  # in the middle of the rise as at its end
    lines = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(entry["loss"] == pytest.approx(entry["loss_n_itc"] + entry["loss_r_itc"], abs=1e-4) for entry in lines)
    first = {name: weight.clone() for name, weight in model.state_dict().items()}
    del model.losses

    again = make_trainer(tmp_path / "run", images, model=tiny_model(seed=5, alpha=0.3), gradient_cache_size=3)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert all(torch.equal(weight, first[name]) for name, weight in again.model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_collator": collator(with_references=True, with_captions=True)}, "no column reference_image"),
        ({"group_column": "cpr_id"}, "train_dataset has no column cpr_id, the group of a triplet"),
        (
            {"train_dataset": "images"},
            r"no column target_image and .*a collator of pairs reads.*caption_pairs\(dataset\)",
        ),
    ],
    ids=["references", "group", "images"],
)
def test_a_trainer_refuses_what_does_not_make_pairs(images, tmp_path, options, message):
    options = {name: images if value == "images" else value for name, value in options.items()}
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, images, model=tiny_model(), **options)
