"""A vocabulary for a model that starts from random weights, and further words for one that has learnt; BERT's kind."""

from collections import Counter
from collections.abc import Iterable

from tokenizers import AddedToken
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import BertTokenizer

from ..processing_fafa import clean_caption
from ..retriever import Retriever, RetrieverProcessor

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
    words = _count_words(captions)
    if not words:
        raise ValueError("there is no word in the captions, so no vocabulary can be built from them")
    characters = sorted({character for word in words for character in word})
    tokens = SPECIAL_TOKENS + characters + ["##" + character for character in characters] + list(words)[:max_words]
    return list(dict.fromkeys(tokens))


def add_words(model: Retriever, processor: RetrieverProcessor, captions: Iterable[str], least: int) -> list[str]:
    """Gives words of some captions that the tokenizer spells in pieces tokens of their own, to be learnt.

    Args:
        model: gets a row of random word embeddings for each; `processor`, whose tokenizer gets the tokens.
        least: how often a word must occur.

    Returns:
        the new words, the most frequent first.

    Raises:
        ValueError: the tokenizer is not BERT's kind.
    """
    tokenizer = processor.tokenizer
    if not isinstance(tokenizer, BertTokenizer):
        raise ValueError(
            f"new_words is for tokenizers of BERT's kind, and this model's is {type(tokenizer).__name__}: leave it out"
        )
    frequent = [word for word, count in _count_words(captions).items() if count >= least]
    new = [
        word
        for word in frequent
        if len(tokenizer.tokenize(word)) > 1 or tokenizer.unk_token in tokenizer.tokenize(word)
    ]
    tokenizer.add_tokens([AddedToken(word, single_word=True) for word in new])
    # Random rows, not copies of their mean: words that begin alike are told apart more slowly.
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return new


def _count_words(captions: Iterable[str]) -> dict[str, int]:
    """How often each word occurs, the most frequent first; ties are in the order of the alphabet."""
    split = BertPreTokenizer().pre_tokenize_str
    words = Counter(word for caption in captions for word, _ in split(clean_caption(caption)))
    return dict(sorted(words.items(), key=lambda item: (-item[1], item[0])))
