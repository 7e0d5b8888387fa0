"""Captions in the template, "*" once; images stretched; a tokenizer to which nothing is unknown."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_word4per import CAPTIONS, tiny_model, tiny_processor
from transformers import AutoProcessor

from fafa.model_folder import check_fit
from fafa.models.word4per import build_tokenizer
from fafa.weights_fafa import UnsoundModelError


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def words_of(processor, ids) -> str:
    return processor.tokenizer.decode(ids, skip_special_tokens=True)


def test_the_template_comes_with_an_image_and_not_without(processor):
    image = Image.new("RGB", (30, 80), "red")
    composed = processor(images=image, text="in a red coat", return_tensors="pt")
    assert words_of(processor, composed["input_ids"][0]) == "a * is , in a red coat"
    assert composed["pixel_values"].shape == (1, 3, 48, 24)
    alone = processor(text=["in a red coat"])["input_ids"][0]
    assert words_of(processor, alone) == "in a red coat"
    assert words_of(processor, processor(text="in a red coat", composed=True)["input_ids"][0]).startswith("a * is ,")
    assert processor.encode_captions(["in a red coat"])["input_ids"].tolist() == composed["input_ids"].tolist()


def test_a_caption_alone_has_the_same_features_with_and_without_the_template(processor):
    """Evaluation and search encode captions once for all kinds of query."""
    model, texts = tiny_model(), ["in a red coat", "a hat"]
    plain = model.get_query_features(**processor(text=texts, return_tensors="pt"))
    torch.testing.assert_close(model.get_query_features(**processor.encode_captions(texts)), plain)


def test_padding_on_the_left_changes_nothing(processor):
    model, texts = tiny_model(), ["in a red coat with a hat", "a hat"]
    pixels = torch.randn(2, 3, 48, 24)
    right = processor(text=texts, composed=True, return_tensors="pt")
    left = processor(text=texts, composed=True, return_tensors="pt", padding_side="left")
    assert not torch.equal(left["input_ids"], right["input_ids"])
    torch.testing.assert_close(model.get_query_features(pixels, **left), model.get_query_features(pixels, **right))


def test_a_caption_with_a_star_of_its_own_is_refused(processor):
    with pytest.raises(ValueError, match=r"query 7: the caption 'a \* star' holds a '\*', which stands for the person"):
        processor.encode_captions(["a * star"], ["query 7"])
    with pytest.raises(ValueError, match=r"captions\[0\]: the caption 'a \*"):
        processor(images=Image.new("RGB", (30, 80)), text="a * star")
    with pytest.raises(ValueError, match="holds no word"):
        processor.encode_captions(["..."])


def test_long_captions_are_cut_and_told_of_or_refused(processor, caplog):
    long = " ".join(["red coat"] * 30)
    ids = processor.encode_captions([long])["input_ids"]
    assert ids.shape == (1, 24) and ids[0, -1] == processor.tokenizer.eos_token_id
    assert "is cut after 24" in caplog.text
    with pytest.raises(ValueError, match="shorten it"):
        tiny_processor(cut_captions=False).encode_captions([long])


def test_images_are_stretched_without_padding(processor):
    array = np.zeros((10, 40, 3), np.uint8)
    array[:, 20:] = 255
    resized = processor.resize_crop(processor.open_crop(Image.fromarray(array)))
    whole = processor(images=Image.fromarray(array), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(processor.to_pixels([resized]), whole, rtol=0, atol=1e-6)
    assert resized.shape == (48, 24, 3) and resized[:, 0].max() == 0 and resized[:, -1].min() == 255


def test_nothing_is_unknown_to_the_small_tokenizer():
    """CLIP's unknown token is its end: at an unknown sign the feature would be read."""
    tokenizer = build_tokenizer(CAPTIONS, 560)
    for text in ("Ω café “quoted” 衣服 🙂", "zzz-9!", "\x00 \u200b"):
        ids = tokenizer(text)["input_ids"]
        assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id
    assert tokenizer("*", add_special_tokens=False)["input_ids"] == [265]  # CLIP's own
    with pytest.raises(ValueError, match="expected 514"):
        build_tokenizer(CAPTIONS, 300)


def test_settings_are_saved_and_another_models_processor_is_refused(tmp_path):
    processor = tiny_processor(max_text_length=12, cut_captions=False)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert (loaded.max_text_length, loaded.cut_captions) == (12, False)
    assert loaded.image_settings() == processor.image_settings()
    with pytest.raises(UnsoundModelError, match="gives pseudo_token_id 265, and the model has 9"):
        check_fit(tiny_model(pseudo_token_id=9, template_ids=None, prompt_ids=None), processor)
    with pytest.raises(UnsoundModelError, match="captions may have 30 tokens"):
        check_fit(tiny_model(), tiny_processor(max_text_length=30))
    with pytest.raises(TypeError, match="unknown setting"):
        processor(text="a hat", colour="red")
