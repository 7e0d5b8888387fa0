"""What is refused by name before a FAFA model computes, and after."""

import numpy as np
import pytest
import torch
from tiny import tiny_batch, tiny_model

from fafa.checks_fafa import AlikeFeatures, check_features

QUERIES = torch.nn.functional.normalize(torch.randn(2, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
TARGETS = torch.nn.functional.normalize(torch.randn(3, 8, 64, generator=torch.Generator().manual_seed(1)), dim=-1)


@pytest.fixture(scope="module")
def model():
    return tiny_model(itc_weight=1.0)


def batch(**changes) -> dict[str, torch.Tensor]:
    inputs = tiny_batch()
    inputs |= {"caption_input_ids": inputs["input_ids"], "caption_attention_mask": inputs["attention_mask"]}
    return inputs | changes


def ids(*wrong: int) -> torch.Tensor:
    values = tiny_batch()["input_ids"].clone()
    values[2, : len(wrong)] = torch.tensor(wrong)
    return values


def masked(row: int) -> torch.Tensor:
    mask = tiny_batch()["attention_mask"].clone()
    mask[row] = 0
    return mask


WRONG_BATCHES = {
    "an id beyond the vocabulary": ({"input_ids": ids(5, 99)}, "input_ids: caption 2 holds the id 99, .* 0 to 14"),
    "a negative id": ({"caption_input_ids": ids(-1)}, "caption_input_ids: caption 2 holds the id -1"),
    "ids as floats": ({"input_ids": ids().float()}, "input_ids are torch.float32, expected integers"),
    "ids as a list": ({"input_ids": ids().tolist()}, "input_ids is of type list, expected a tensor"),
    "one caption without a batch": (
        {"input_ids": ids()[0]},
        r"expected input_ids \(num_captions, .* got \(7,\)",
    ),
    "too long a caption": ({"input_ids": torch.ones(4, 65, dtype=torch.long)}, "have 65 tokens, but .* 64 positions"),
    "a mask of another shape": (
        {"attention_mask": torch.ones(4, 5)},
        r"attention_mask \(4, 5\) does not fit input",
    ),
    "a mask of scores": ({"attention_mask": torch.full((4, 7), 0.5)}, "attention_mask holds other values than 0"),
    "a caption all padding": ({"attention_mask": masked(1)}, "attention_mask: caption 1 is all padding"),
    "images of another model": (
        {"pixel_values": torch.zeros(4, 3, 224, 224)},
        "pixel_values: the images have 224 x 224 pixels, but this model takes 96 x 96: use the processor",
    ),
    "smaller targets": ({"target_pixel_values": torch.zeros(4, 3, 48, 48)}, "target_pixel_values: the images have 48"),
    "four channels": ({"pixel_values": torch.zeros(4, 4, 96, 96)}, r"expected pixel_values .* got \(4, 4, 96, 96\)"),
    "whole pixels": ({"pixel_values": torch.zeros(4, 3, 96, 96, dtype=torch.uint8)}, "pixel_values are torch.uint8"),
    "pixels as an array": (
        {"pixel_values": np.zeros((4, 3, 96, 96))},
        "is of type ndarray, .*torch.as_tensor",
    ),
    "fewer targets": ({"target_pixel_values": torch.zeros(3, 3, 96, 96)}, "3 target images for 4 queries"),
    "fewer captions": ({"input_ids": ids()[:3], "attention_mask": None}, "4 reference images for 3 captions"),
    "fewer whole captions": (
        {"caption_input_ids": ids()[:3], "caption_attention_mask": None},
        "3 captions of targets for 4 triplets",
    ),
    "a mask without captions": ({"caption_input_ids": None}, "caption_attention_mask is of captions, but"),
    "fewer groups": ({"group_ids": torch.arange(3)}, r"group_ids \(3,\) for 4 triplets"),
    "groups by name": ({"group_ids": ["a", "a", "b", "b"]}, "group_ids are strings, .* number the groups"),
    "groups as floats": ({"group_ids": torch.arange(4.0)}, "group_ids are torch.float32, expected integers"),
    "nothing": ({name: value[:0] for name, value in batch().items()}, "holds no image: leave empty batches out"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG_BATCHES.values(), ids=WRONG_BATCHES)
def test_a_batch_that_does_not_fit_is_refused_by_name(model, changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        model(**batch(**changes))


@pytest.mark.parametrize("name", ["group_ids", "caption_input_ids"])
def test_what_is_for_the_loss_is_not_dropped_where_targets_are_missing(model, name):
    inputs = batch(target_pixel_values=None)
    with pytest.raises(ValueError, match="for the loss: target_pixel_values missing"):
        model(**{given: inputs[given] for given in ("pixel_values", "input_ids", name)})


WRONG_FEATURES = {
    "arrays": (QUERIES.numpy(), TARGETS, "queries is of type ndarray, expected a tensor .*torch.as_tensor"),
    "lists": (QUERIES, TARGETS.tolist(), "targets is of type list, expected a tensor"),
    "integers": (QUERIES, (TARGETS * 100).long(), "targets are torch.int64, expected floating-point features"),
    "swapped": (TARGETS, QUERIES, "are they swapped"),
    "zeros": (QUERIES * 0, TARGETS, "the features of query 0, query 1 are zero: the model's weights"),
    "not normalised": (QUERIES, TARGETS * 2, "the features of target 0, target 1, target 2 have length 2, expected 1"),
    "NaN": (QUERIES, TARGETS.index_fill(0, torch.tensor(1), torch.nan), "the features of target 1 hold NaN"),
    "infinity": (QUERIES.index_fill(1, torch.tensor(3), torch.inf), TARGETS, "query 0, query 1 hold NaN or infinity"),
}


@pytest.mark.parametrize(("queries", "targets", "message"), WRONG_FEATURES.values(), ids=WRONG_FEATURES)
def test_features_that_cannot_be_right_are_not_scored(model, queries, targets, message):
    with pytest.raises((ValueError, TypeError), match=message):
        model.score(queries, targets)


def test_features_in_half_precision_are_right(model):
    exact = model.score(QUERIES, TARGETS)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        torch.testing.assert_close(model.score(QUERIES.to(dtype), TARGETS.to(dtype)), exact, atol=0.01, rtol=0)


def test_many_rows_are_counted_and_names_are_used():
    broken = QUERIES.repeat(5, 1)
    broken[2:8] = 0
    with pytest.raises(ValueError, match=r"^the features of a.png, b.png, c.png and 3 more are zero"):
        check_features(broken, "", ["x", "y", "a.png", "b.png", "c.png", "d", "e", "f", "g", "h"])


def test_features_all_alike_are_refused_where_their_inputs_differ_also_between_batches():
    same, pixels = TARGETS[:1], tiny_batch()["pixel_values"]
    check = AlikeFeatures()
    check.check(same, pixels[:1])
    check.check(same, pixels[:1])  # a picture twice
    check.check(same, pixels[:1] + 0.05)  # saved again, with a little loss
    with pytest.raises(ValueError, match="different images or captions have the same features"):
        check.check(same, pixels[1:2])
    with pytest.raises(ValueError, match="different images or captions have the same features"):
        AlikeFeatures().check(same.expand(4, -1, -1), pixels)
    captions = AlikeFeatures()
    captions.check(QUERIES[:1], torch.tensor([[2, 5, 3]]))
    captions.check(QUERIES[:1], torch.tensor([[2, 5, 3, 0]]))  # padded
    with pytest.raises(ValueError, match="the same features"):
        captions.check(QUERIES[:1], torch.tensor([[2, 6, 3, 0]]))
    once_different = AlikeFeatures()
    once_different.check(TARGETS, pixels[:3])
    once_different.check(same.expand(2, -1, -1), pixels[:2])
