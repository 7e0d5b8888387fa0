"""Captions: the clean-up of the released code, and whether it leaves a word. It imports only `re`."""

import re


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


__all__ = ["clean_caption", "has_word"]
