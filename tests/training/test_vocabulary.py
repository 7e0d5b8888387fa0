"""Vocabularies of small worlds."""

import pytest
import tiny_word4per
from tiny import tiny_model, tiny_processor

from fafa.model_folder import load_model
from fafa.processing_fafa import build_tokenizer
from fafa.training import build_vocabulary
from fafa.training.vocabulary import add_words


def test_known_words_are_one_token_and_others_are_spelt():
    tokenizer = build_tokenizer(build_vocabulary(["A red coat.", "a blue coat"]))
    assert tokenizer.tokenize("red coat") == ["red", "coat"]
    assert tokenizer.tokenize("boat") == ["b", "##o", "##a", "##t"]


def test_order_of_captions_does_not_matter_and_rare_words_go_first():
    captions = ["red red blue", "green blue red"]
    assert build_vocabulary(captions) == build_vocabulary(captions[::-1])
    assert "green" not in build_vocabulary(captions, max_words=2)


def test_captions_without_words_are_refused():
    with pytest.raises(ValueError, match="no word"):
        build_vocabulary(["...", ""])


def test_words_that_were_unknown_get_tokens_and_rows_of_their_own(tmp_path):
    model, processor = tiny_model(), tiny_processor()
    before = model.get_input_embeddings().weight.detach().clone()
    captions = ["a lime robe", "a lime hat.", "Lime, rare"]
    assert add_words(model, processor, captions, least=2) == ["lime"]
    after = model.get_input_embeddings().weight.detach()
    assert (after[: len(before)] == before).all() and len(after) == len(before) + 1 and after[-1].std() > 0
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    _, loaded = load_model(tmp_path)
    assert loaded.tokenizer.tokenize("a lime hat sublime") == ["a", "lime", "hat", "[UNK]"]


def test_only_tokenizers_of_berts_kind_get_words():
    """Others end a text by their last token, or read words by their place in it."""
    with pytest.raises(ValueError, match="new_words is for tokenizers of BERT's kind"):
        add_words(None, tiny_word4per.tiny_processor(), ["a lime robe"], least=1)
