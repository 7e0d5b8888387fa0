"""Captions and images of the dual encoder: what is refused, and how training changes them."""

import logging

import numpy as np
import pytest
from PIL import Image
from tiny_dual_encoder import tiny_model, tiny_processor

from fafa.models.dual_encoder.augmentation import OPERATIONS, augment_image, delete_words

LONG = " ".join(["red"] * 20)


def picture(width=24, height=48, seed=0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_images_are_stretched_and_captions_have_a_mask():
    inputs = tiny_processor()(images=[picture(100, 60), picture()], text=["a red coat", "a hat"], return_tensors="pt")
    assert inputs["pixel_values"].shape == (2, 3, 48, 24)
    assert inputs["input_ids"].tolist() == [[2, 4, 8, 10, 3], [2, 4, 12, 3, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert tiny_processor("siglip")(text="a hat", return_tensors="pt")["input_ids"].shape == (1, 16)


def test_a_caption_longer_than_the_model_reads_is_refused_or_cut_where_that_is_asked_for(caplog):
    with pytest.raises(
        ValueError, match=r"query 7: the caption 'red red .* has 22 tokens, and the model reads 16: .*cut"
    ):
        tiny_processor().encode_captions([LONG], ["query 7"])
    processor = tiny_processor(cut_captions=True)
    with caplog.at_level(logging.WARNING):
        ids = processor.encode_captions([LONG, LONG])["input_ids"]
    assert ids.shape == (2, 16) and ids[0, -1] == 3  # the end that a CLIP reads stays
    assert caplog.text.count("is cut after 16") == 1


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, ValueError, "expected images, text or both"),
        ({"text": "..."}, ValueError, r"captions\[0\]: the caption '...' holds no word"),
        ({"text": [3]}, TypeError, r"captions\[0\]: expected a caption \(str\), got int"),
        ({"text": ["a", "b"], "images": picture()}, ValueError, "1 images but 2 captions"),
        ({"text": "a hat", "padding": False}, TypeError, "padding cannot be honoured for one call: .*caption_padding"),
        ({"text": "a hat", "colour": 1}, TypeError, "colour: unknown setting of DualEncoderProcessor"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-",  # an image's own text holds its address
)
def test_calls_that_make_no_query_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        tiny_processor()(**given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_text_length": 2}, "max_text_length is 2"),
        ({"caption_padding": "some"}, "expected 'longest' or 'max_length'"),
        ({"word_deletion": 1.0}, "word_deletion is 1.0"),
        ({"num_augmentations": -1}, "num_augmentations is -1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_processor(**settings)


def test_a_processor_of_another_backbone_is_told_from_the_models():
    clip, siglip = tiny_model(), tiny_model("siglip")
    assert tiny_processor().misfit(clip) is tiny_processor("siglip").misfit(siglip) is None
    assert "padded to its full length" in tiny_processor().misfit(siglip)
    assert "17 tokens" in tiny_processor(max_text_length=17).misfit(clip)
    other = tiny_processor()
    other.tokenizer.eos_token = "hat"
    assert "ends captions with the id 12, and the model reads them at 3" in other.misfit(clip)
    clip.config.backbone_config.text_config.eos_token_id = 2  # as in OpenAI's files: the highest id is meant
    assert other.misfit(clip) is None and "reads them at 12" in tiny_processor().misfit(clip)


def test_settings_come_back_and_decide_the_features(tmp_path):
    processor = tiny_processor(word_deletion=0.2, cut_captions=True)
    processor.save_pretrained(tmp_path)
    loaded = type(processor).from_pretrained(tmp_path)
    assert (loaded.word_deletion, loaded.cut_captions, loaded.max_text_length) == (0.2, True, 16)
    assert loaded.caption_settings() == processor.caption_settings() != tiny_processor().caption_settings()


def test_words_are_left_out_at_their_rate_and_one_stays():
    words = [f"w{number}" for number in range(50)]
    caption, rng = " ".join(words), np.random.default_rng(0)
    kept = [delete_words(caption, rng, 0.05).split() for _ in range(400)]
    assert np.mean([len(some) for some in kept]) == pytest.approx(47.5, abs=0.3)
    assert all(sorted(some, key=words.index) == some for some in kept)  # in their order
    assert delete_words("red coat", rng, 0.999) in ("red", "coat")
    assert delete_words("a  hat", rng, 0.0) == "a  hat"
    processor = tiny_processor(word_deletion=0.5)
    drawn = {processor.augment_caption("a red coat with a hat", np.random.default_rng(seed)) for seed in range(20)}
    assert len(drawn) > 5 and tiny_processor(word_deletion=0.0).augment_caption("a hat", rng) == "a hat"


def test_two_of_six_operations_are_chosen_with_replacement(monkeypatch):
    applied = []
    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, lambda image, rng, name=name: applied.append(name) or image)
    pairs = set()
    for seed in range(300):
        applied.clear()
        augment_image(picture(), np.random.default_rng(seed))
        pairs.add(tuple(applied))
    assert len(OPERATIONS) == 6 and len(pairs) == 36


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_changes_an_image_and_not_its_size(name):
    image = picture()
    changed = [OPERATIONS[name](image, np.random.default_rng(seed)) for seed in range(40)]
    assert all((one.size, one.mode) == (image.size, "RGB") for one in changed)
    assert any(np.asarray(one).tobytes() != np.asarray(image).tobytes() for one in changed)
    assert np.asarray(image).tobytes() == np.asarray(picture()).tobytes()
    again = OPERATIONS[name](image, np.random.default_rng(3))
    assert np.array_equal(np.asarray(again), np.asarray(changed[3]))


def test_erasing_leaves_most_of_a_very_flat_image_too():
    assert OPERATIONS["erase"](picture(30, 1), np.random.default_rng(1)).size == (30, 1)
