"""The processor of FAFA: a picture of a person and a caption in, tensors for `FafaModel` out."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.feature_extraction_utils import BatchFeature
from transformers.models.bert.tokenization_bert import BertTokenizer
from transformers.processing_utils import ProcessorMixin

from .captions_fafa import clean_caption
from .image_processing_fafa import FafaImageProcessor

_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def build_tokenizer(vocab: Mapping[str, int] | Iterable[str] | str | Path) -> BertTokenizer:
    """Makes the tokenizer of FAFA: uncased BERT WordPiece with `[DEC]` as its beginning-of-sequence token.

    `[DEC]` belongs to BLIP-2's caption decoder, which FAFA has not: it takes a row of the embedding matrix (the last
    one, when the vocabulary lacks it) but never occurs in a caption's ids.

    Args:
        vocab: Token to id, tokens in the order of their ids, or the path of a `vocab.txt` with a token a line.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A special token is missing, a token occurs twice, or the ids are not 0, 1, 2, ...
    """
    tokens = _read_vocabulary(vocab)
    ids = {token: index for index, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        twice = sorted({token for token in tokens if tokens.count(token) > 1})
        raise ValueError(f"vocabulary: every token must occur once, but {twice[:5]} occur more often.")
    if missing := [token for token in _SPECIAL_TOKENS if token not in ids]:
        raise ValueError(f"vocabulary: {', '.join(missing)} missing among {len(ids)} tokens; it must be BERT's kind.")
    # As a dictionary: BertTokenizer(vocab_file=...) ignores the file in transformers 5.
    return BertTokenizer(vocab=ids, bos_token="[DEC]", model_input_names=["input_ids", "attention_mask"])


def _read_vocabulary(vocab: Mapping[str, int] | Iterable[str] | str | Path) -> list[str]:
    if isinstance(vocab, (str, Path)):
        return Path(vocab).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if isinstance(vocab, Mapping):
        if sorted(vocab.values()) != list(range(len(vocab))):
            raise ValueError(f"vocabulary: the {len(vocab)} tokens must have the ids 0 to {len(vocab) - 1}, each once.")
        return sorted(vocab, key=vocab.__getitem__)
    return list(vocab)


_MOST_TOKENS = 65_536  # as many positions as a configuration may have


class FafaProcessor(ProcessorMixin):
    """Prepares queries (picture, caption, or both) and targets (pictures) for `FafaModel`.

    Args:
        image_processor ([`FafaImageProcessor`]): Turns pictures into `pixel_values`.
        tokenizer ([`BertTokenizer`]): Turns captions into ids; see `build_tokenizer`.
        max_text_length (`int`): Ids per caption at most, `[CLS]` and `[SEP]` included; longer captions are cut. 32 is
            what the released model is built with; 128 is its class default.
        clean_captions (`bool`): Pass captions through `clean_caption` first, as the released code does everywhere.

    Examples:

    ```python
    >>> from PIL import Image
    >>> from fafa.image_processing_fafa import FafaImageProcessor
    >>> from fafa.processing_fafa import FafaProcessor, build_tokenizer

    >>> tokenizer = build_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "coat"])
    >>> processor = FafaProcessor(FafaImageProcessor(), tokenizer)
    >>> inputs = processor(images=Image.new("RGB", (64, 128)), text="Red coat.", return_tensors="pt")
    >>> inputs["pixel_values"].shape, inputs["input_ids"].tolist()
    (torch.Size([1, 3, 224, 224]), [[2, 5, 6, 3]])

    ```
    """

    def __init__(self, image_processor=None, tokenizer=None, max_text_length=32, clean_captions=True):
        super().__init__(image_processor, tokenizer)
        if type(max_text_length) is not int or not 3 <= max_text_length <= _MOST_TOKENS:
            raise ValueError(
                f"max_text_length: expected a whole number from 3 ([CLS], a token, [SEP]) to {_MOST_TOKENS:,}, got "
                f"{max_text_length!r:.40}."
            )
        if not isinstance(clean_captions, bool):
            raise ValueError(f"clean_captions: expected true or false, got {clean_captions!r:.40}.")
        self.max_text_length = max_text_length
        self.clean_captions = clean_captions

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str | None = None,
        padding: bool | str = "longest",
        max_length: int | None = None,
    ) -> BatchFeature:
        """Prepares pictures, captions, or pairs of them.

        Args:
            images: One picture or a batch, as [`FafaImageProcessor.preprocess`] takes them.
            text (`str` or sequence of `str`): One caption or a batch; with `images`, one per picture.
            return_tensors (`"pt"`, `"np"` or `None`): The type of the results.
            padding (`"longest"`, `"max_length"` or `False`): The released code pads to `max_length`; the mask makes
                both equal, and the longest of the batch costs less.
            max_length (`int`, *optional*): Replaces `max_text_length` for this call.

        Returns:
            `BatchFeature` with, for images, `pixel_values` (num_images, 3, size, size), float32; and for text
            `input_ids` and `attention_mask` (num_captions, length), integers.

        Raises:
            ValueError: Neither images nor text, unequal numbers of them, or a caption in which no word is left after
                the clean-up. Unreadable pictures: see `open_image`.
            TypeError: A caption that is not a string.
        """
        if images is None and text is None:
            raise ValueError("FafaProcessor: expected images, text or both, got neither.")
        inputs = {}
        if images is not None:
            inputs.update(self.image_processor(images, return_tensors=return_tensors))
        if text is not None:
            inputs.update(self._tokenize(text, return_tensors, padding, max_length or self.max_text_length))
        if images is not None and text is not None:
            num_images, num_captions = len(inputs["pixel_values"]), len(inputs["input_ids"])
            if num_images != num_captions:
                raise ValueError(
                    f"FafaProcessor: {num_images} images but {num_captions} captions. A query pairs one picture with "
                    "one caption; repeat the shorter list, or process images and text in two calls."
                )
        return BatchFeature(inputs)

    def _tokenize(self, text, return_tensors: str | None, padding: bool | str, max_length: int) -> dict[str, Any]:
        captions = list(text) if isinstance(text, Iterable) and not isinstance(text, str) else [text]
        if not captions:
            raise ValueError("text is empty. Expected at least one caption.")
        for index, caption in enumerate(captions):
            if not isinstance(caption, str):
                raise TypeError(f"text[{index}]: expected a caption (str), got {type(caption).__name__}.")
            if any("\ud800" <= letter <= "\udfff" for letter in caption):  # from a command line that is not UTF-8, say
                raise ValueError(f"text[{index}]: the caption {caption[:60]!a} holds bytes that are no text in UTF-8.")
        cleaned = [clean_caption(caption) for caption in captions] if self.clean_captions else captions
        encoded = self.tokenizer(
            cleaned, truncation=True, max_length=max_length, return_token_type_ids=False, return_attention_mask=True
        )
        num_special_tokens = self.tokenizer.num_special_tokens_to_add()
        for index, ids in enumerate(encoded["input_ids"]):
            if len(ids) <= num_special_tokens:
                raise ValueError(
                    f"text[{index}]: the caption {captions[index]!r} holds no word. Expected what the target looks "
                    "like; for a query without a caption leave text out."
                )
        return self.tokenizer.pad(encoded, padding=padding, max_length=max_length, return_tensors=return_tensors)

    @property
    def unused_input_names(self) -> list[str]:
        """Inputs of BERT that the Q-Former does not take, also when the tokenizer came from elsewhere."""
        return ["token_type_ids"]

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoProcessor"):
        """Makes `save_pretrained` add the code of the processor and its image processor, for `trust_remote_code`."""
        super().register_for_auto_class(auto_class)
        FafaImageProcessor.register_for_auto_class()


__all__ = ["FafaProcessor", "build_tokenizer", "clean_caption"]
