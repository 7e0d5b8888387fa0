"""Vocabularies of small worlds."""

import pytest

from fafa.processing_fafa import build_tokenizer
from fafa.training import build_vocabulary


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
