"""Captions: the clean-up of the released code, whether it leaves a word, and whether a vocabulary knows its words.

It imports nothing beside Python's own.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Any

_IDEOGRAPH = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")  # of Chinese and Japanese: words of a sign
_MANY_IDEOGRAPHS = 1000  # a vocabulary made for Chinese or Japanese has thousands; BERT's English one has some hundreds


def clean_caption(text: str, max_words: int = 50) -> str:
    r"""Cleans a caption as the released code does: lower case, `.!"()*#:;~` to blanks, blanks folded, words limited.

    Args:
        text (`str`): The caption.
        max_words (`int`): Words, as separated by blanks, beyond this number are cut off.

    Returns:
        `str`: The cleaned caption; empty if nothing is left.

    Examples:

    ```python
    >>> from fafa.processing_fafa import clean_caption

    >>> clean_caption("Wearing a RED coat;  no hat.")
    'wearing a red coat no hat'

    ```
    """
    text = re.sub(r'[.!"()*#:;~]', " ", text.lower())
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])


def has_word(caption: str) -> bool:
    """Whether a letter or a digit, of any script, is left of a caption once it is cleaned.

    Without one ("...", zero-width blanks, accents without a letter, emoji), the tokenizer finds nothing that a model
    could know.
    """
    # The first 50 characters belong to the first 50 words, and the clean-up removes no letter.
    return any(map(str.isalnum, caption[:50])) or any(map(str.isalnum, clean_caption(caption)))


def is_unread(caption: str, tokenizer: Any) -> bool:
    """Whether a vocabulary knows less than half of a caption: the rest is spelt letter by letter, or unknown.

    That is what becomes of other scripts than those that a model was trained in. English words that are rare come apart
    into longer pieces, and count as known; so do words of one or two English letters.
    """
    text = "".join(char if unicodedata.category(char)[0] in "LM" else " " for char in caption)
    num_letters = num_unread = 0
    for word in text.split():
        length = sum(map(str.isalpha, word))
        num_letters += length
        if length >= (3 if word.isascii() else 2):
            num_unread += _num_unread(word, length, tokenizer)
    return 2 * num_unread > num_letters


def _num_unread(word: str, length: int, tokenizer: Any) -> int:
    """How many of a word's letters are spelt out or unknown."""
    tokens = [token for token in tokenizer.tokenize(word) if token != "▁"]  # SentencePiece's blank
    if _IDEOGRAPH.search(word) and _knows_ideographs(tokenizer):
        return tokens.count(tokenizer.unk_token)
    return length if tokenizer.unk_token in tokens or len(tokens) >= length else 0


@lru_cache(maxsize=4)
def _knows_ideographs(tokenizer: Any) -> bool:
    found = sum(_IDEOGRAPH.fullmatch(token.removeprefix("##")) is not None for token in tokenizer.get_vocab())
    return found >= _MANY_IDEOGRAPHS


__all__ = ["clean_caption", "has_word", "is_unread"]
