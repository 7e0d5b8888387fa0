"""Batches: shapes, augmentation as released, and images that cannot be read."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from tiny import GOLDEN, golden_tensors, tiny_model, tiny_processor

from fafa import FafaImageProcessor
from fafa.image_reading_fafa import InaccessibleImageError, UnreadableImageError
from fafa.training import FafaDataCollator
from fafa.training.augmentation import apply_augmentation, augment_person_crop


def test_batch_is_what_the_model_takes(triplets):
    rows = [triplets[row] for row in range(4)]
    batch = FafaDataCollator(tiny_processor(), augment=True, with_captions=True)(rows)
    assert batch["pixel_values"].shape == batch["target_pixel_values"].shape == (4, 3, 96, 96)
    assert batch["group_ids"].tolist() == [0, 1, 0, 1]
    model = tiny_model(itc_weight=1.0)
    assert torch.isfinite(model(**batch).loss_itc)
    plain = FafaDataCollator(tiny_processor())(rows)
    assert "caption_input_ids" not in plain and "skipped_images" not in plain


def test_a_caption_that_cannot_be_trained_on_is_told_with_its_triplet(triplets):
    """In a batch by its place in the data set, not in the batch; and before the first step, however late it comes."""
    rows = [triplets[row] for row in range(12)]
    rows[9]["edit_caption"] = rows[10]["target_caption"] = "..."
    named = r"the edit_caption of the triplet of 2-0_right.png and 2-0_left.png \(cpr_id 5\): .*'...'"
    with pytest.raises(ValueError, match=named):
        FafaDataCollator(tiny_processor())(rows[8:])
    collator = FafaDataCollator(tiny_processor(), with_captions=True)
    for sets in ((Dataset.from_list(rows), None), (triplets, Dataset.from_list(rows))):
        with pytest.raises(ValueError, match=named):
            collator.check_captions(*sets)
    with pytest.raises(ValueError, match=r"the target_caption of the triplet of 2-1_left.png and 2-1_right.png"):
        collator.check_captions(Dataset.from_list(rows[10:]))
    FafaDataCollator(tiny_processor()).check_captions(Dataset.from_list(rows[10:]), triplets, None, iter(rows))


@pytest.mark.parametrize("group", ["5", 5.0, None, True])
def test_a_group_that_is_no_whole_number_is_told_with_its_triplet(triplets, group):
    rows = [triplets[row] for row in range(4)]
    rows[3]["cpr_id"] = group
    with pytest.raises(ValueError, match=r"cpr_id of the triplet of 0-1_right.png and 0-1_left.png .*a whole number"):
        FafaDataCollator(tiny_processor())(rows)


def test_without_augmentation_images_are_those_of_the_processor(triplets):
    processor, row = tiny_processor(), triplets[0]
    batch = FafaDataCollator(processor)([row])
    expected = processor(images=[row["reference_image"]["path"]], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], expected)


def test_cached_images_are_the_same(triplets):
    rows = [triplets[row] for row in range(4)]
    collator = FafaDataCollator(tiny_processor(), cache_images=True)
    first, second = collator(rows), collator(rows)
    assert torch.equal(first["pixel_values"], second["pixel_values"])
    assert torch.equal(first["pixel_values"], FafaDataCollator(tiny_processor())(rows)["pixel_values"])
    for row in rows:
        Path(row["reference_image"]["path"]).unlink()
    assert torch.equal(collator(rows)["pixel_values"], first["pixel_values"])


def test_augmentation_equals_released_transform():
    """Flip, pad 10, crop at (13, 4) of the golden image, then the test pipeline."""
    image = Image.open(GOLDEN / "preprocess_public_train.png").convert("RGB")
    augmented = apply_augmentation(image, mirrored=True, padding=10, left=4, top=13)
    square = FafaImageProcessor().to_square(augmented)
    assert np.array_equal(square, golden_tensors("preprocess_public")["squarepad_train.u8"].numpy())


def test_augmentation_moves_within_the_padding_and_mirrors():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (384, 192, 3), dtype=np.uint8))
    results = {augment_person_crop(image, np.random.default_rng(seed)).tobytes() for seed in range(20)}
    assert len(results) > 15
    assert augment_person_crop(image, np.random.default_rng(0)).size == image.size


def test_augmentation_depends_on_seed_epoch_and_image_alone(triplets):
    """Not on batches, workers or the global random state: what makes a resumed run exact."""

    def pixels(rows, epoch=0, seed=0):
        collator = FafaDataCollator(tiny_processor(), augment=True, seed=seed)
        collator.set_epoch(epoch)
        return collator([triplets[row] for row in rows])["pixel_values"]

    assert torch.equal(pixels([0, 1, 2])[1:], pixels([1, 2]))
    for other in ({"epoch": 1}, {"seed": 1}):
        assert not torch.equal(pixels(range(12)), pixels(range(12), **other))


def test_corrupt_image_is_raised_by_default_and_named(triplets):
    path = Path(triplets[1]["target_image"]["path"])
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UnreadableImageError, match=path.name):
        FafaDataCollator(tiny_processor())([triplets[0], triplets[1]])


def test_corrupt_image_is_left_out_and_named_when_asked(triplets, caplog):
    path = Path(triplets[2]["reference_image"]["path"])
    path.write_bytes(b"")
    batch = FafaDataCollator(tiny_processor(), on_error="skip")([triplets[0], triplets[2], triplets[4]])
    assert batch["group_ids"].tolist() == [0, 2] and len(batch["input_ids"]) == 2
    assert batch["skipped_images"] == [str(path)] and path.name in caplog.text
    with pytest.raises(UnreadableImageError, match="none of a batch of 1"):
        FafaDataCollator(tiny_processor(), on_error="skip")([triplets[2]])


def test_missing_image_is_never_skipped(triplets):
    Path(triplets[0]["reference_image"]["path"]).unlink()
    with pytest.raises(FileNotFoundError, match="0-0_left"):
        FafaDataCollator(tiny_processor(), on_error="skip")([triplets[0]])


def test_an_image_that_cannot_be_read_now_is_never_skipped(triplets, monkeypatch):
    """A network drive that went away would leave a training run with few images, or none."""
    path, os_open = triplets[0]["reference_image"]["path"], os.open

    def denied(file, *args, **kwargs):
        if str(file) == path:
            raise PermissionError(errno.EACCES, "Permission denied", file)
        return os_open(file, *args, **kwargs)

    monkeypatch.setattr(os, "open", denied)
    for collate in (FafaDataCollator.__call__, FafaDataCollator.unreadable):
        with pytest.raises(InaccessibleImageError, match=r"0-0_left.*Permission denied"):
            collate(FafaDataCollator(tiny_processor(), on_error="skip"), [triplets[0]])
