"""A vocabulary for a model that starts from random weights; the released models use BERT's."""

from collections import Counter
from collections.abc import Iterable

from tokenizers.pre_tokenizers import BertPreTokenizer

from ..processing_fafa import clean_caption

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def build_vocabulary(captions: Iterable[str], max_words: int = 2000) -> list[str]:
    """The most frequent words of some captions, and all their characters, so that other words can be spelt.

    Args:
        captions: raw captions; they are cleaned as the processor does.

    Returns:
        tokens in the order of their ids, for `build_tokenizer`; the same captions give the same order.

    Raises:
        ValueError: the captions hold no word.
    """
    split = BertPreTokenizer().pre_tokenize_str
    words = Counter(word for caption in captions for word, _ in split(clean_caption(caption)))
    if not words:
        raise ValueError("there is no word in the captions, so no vocabulary can be built from them")
    characters = sorted({character for word in words for character in word})
    # Ties are broken by the alphabet, not by the order of the captions.
    frequent = [word for word, _ in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:max_words]]
    tokens = SPECIAL_TOKENS + characters + ["##" + character for character in characters] + frequent
    return list(dict.fromkeys(tokens))
