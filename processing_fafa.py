"""The processor of FAFA: an image of a person and a caption in, tensors for `FafaModel` out."""

import hashlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.feature_extraction_utils import BatchFeature
from transformers.models.bert.tokenization_bert import BertTokenizer
from transformers.processing_utils import ImagesKwargs, ProcessorMixin, TextKwargs

from .captions_fafa import clean_caption
from .image_processing_fafa import FafaImageProcessor
from .names import meant
from .retriever import Retriever, RetrieverProcessor, tokenizer_fingerprint

logger = logging.getLogger(__name__)

_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def build_tokenizer(vocab: Mapping[str, int] | Iterable[str] | str | Path) -> BertTokenizer:
    """Makes the tokenizer of FAFA: uncased BERT WordPiece with `[DEC]` as its beginning-of-sequence token.

    `[DEC]` belongs to BLIP-2's caption decoder, which FAFA does not have: it takes a row of the embedding matrix (the
    last one, when the vocabulary lacks it) but never occurs in a caption's ids.

    Args:
        vocab: Token to id, tokens in the order of their ids, or the path of a `vocab.txt` with one token per line.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A special token is missing, a token occurs twice, or the ids are not 0, 1, 2, ...
    """
    if isinstance(vocab, (str, Path)):
        tokens = Path(vocab).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    else:
        tokens = list(vocab)
    if isinstance(vocab, Mapping):
        if sorted(vocab.values()) != list(range(len(vocab))):
            raise ValueError(f"vocabulary: the {len(vocab)} tokens must have the ids 0 to {len(vocab) - 1}, each once.")
        tokens.sort(key=vocab.__getitem__)
    ids = {token: index for index, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        twice = sorted({token for token in tokens if tokens.count(token) > 1})
        raise ValueError(f"vocabulary: every token must occur once, but {twice[:5]} occur more often.")
    if missing := [token for token in _SPECIAL_TOKENS if token not in ids]:
        raise ValueError(f"vocabulary: {', '.join(missing)} missing among {len(ids)} tokens; it must be BERT's kind.")
    # As a dictionary: BertTokenizer(vocab_file=...) ignores the file in transformers 5.
    return BertTokenizer(vocab=ids, bos_token="[DEC]", model_input_names=["input_ids", "attention_mask"])


_MOST_TOKENS = 65_536  # as in a configuration


def vocabulary_hash(tokenizer: Any, of: str | None = None) -> str:
    """A short name for which token has which id: the number of tokens, and a hash over them.

    Args:
        of: an earlier hash; then only as many tokens count as did there, so that tokens added since change nothing.
    """
    ids = tokenizer.get_vocab()
    size = len(ids) if of is None else int(of.partition(":")[0]) if of.partition(":")[0].isdecimal() else 0
    lines = sorted(f"{index} {token}\n" for token, index in ids.items() if index < size)
    return f"{size}:{hashlib.sha256(''.join(lines).encode()).hexdigest()[:32]}"


# transformers' settings for text that cannot be chosen here: what they must be, and why.
_A_CAPTION_ALONE = "a query has one caption, which goes in as text"
_NO_PLACEHOLDERS = "captions hold no placeholders for images"
_FIXED_TEXT_SETTINGS = {
    "text_pair": (None, _A_CAPTION_ALONE),
    "text_target": (None, _A_CAPTION_ALONE),
    "text_pair_target": (None, _A_CAPTION_ALONE),
    "add_special_tokens": (True, "the feature of a caption is read at its [CLS]"),
    "is_split_into_words": (False, "captions are sentences; join their words by blanks"),
    "stride": (0, "what is cut off a caption has no use"),
    "return_overflowing_tokens": (False, "what is cut off a caption has no use"),
    "return_token_type_ids": (False, "the Q-Former has no token types"),
    "return_mm_token_type_ids": (False, _NO_PLACEHOLDERS),
    "return_text_replacement_offsets": (False, _NO_PLACEHOLDERS),
    "sanitize_control_tokens": (False, "there are no chats; control tokens in captions are unknown words"),
}


class FafaProcessor(RetrieverProcessor, ProcessorMixin):
    """Prepares queries (image, caption, or both) and targets (images) for `FafaModel`.

    Args:
        image_processor ([`FafaImageProcessor`]): Turns images into `pixel_values`.
        tokenizer ([`BertTokenizer`]): Turns captions into ids; see `build_tokenizer`.
        max_text_length (`int`): The most ids of a caption, `[CLS]` and `[SEP]` included; longer captions are cut. The
            released model is built with 32; its class default is 128.
        clean_captions (`bool`): Pass captions through `clean_caption` first, as the released code does everywhere.
        vocabulary_hash (`str`, *optional*): The tokenizer's, see `vocabulary_hash`. It is saved with the processor, so
            that a lost or replaced tokenizer file is noticed when the processor is loaded.

    Raises:
        ValueError: a setting is impossible, or the tokenizer is unfit for captions, or not the one that was saved.

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

    image_defaults: Mapping[str, Any] = {}  # of the image processor, where one is built for a model

    def __init__(
        self, image_processor=None, tokenizer=None, max_text_length=32, clean_captions=True, vocabulary_hash=None
    ):
        super().__init__(image_processor, tokenizer)
        _check_length("max_text_length", max_text_length)
        if not isinstance(clean_captions, bool):
            raise ValueError(f"clean_captions: expected true or false, got {clean_captions!r:.40}.")
        _check_tokenizer(tokenizer, vocabulary_hash)
        self.max_text_length = max_text_length
        self.clean_captions = clean_captions
        self.vocabulary_hash = vocabulary_hash
        self._warned = set()  # kinds of captions that a warning has named

    @classmethod
    def tiny(cls, tokenizer: BertTokenizer, config: Any) -> "FafaProcessor":
        """The processor of a tiny model.

        People are stretched to the square that the released model pads them to: no patch is spent on black borders.

        Args:
            config: `FafaConfig.tiny`'s, or that of another model on the same towers.
        """
        square = {"height": config.vision_config.image_size, "width": config.vision_config.image_size}
        image_processor = FafaImageProcessor(person_size=square, size=square)
        return cls(image_processor, tokenizer, max_text_length=config.max_text_length)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        names: Sequence[str] | None = None,
        **settings: Any,
    ) -> BatchFeature:
        """Prepares images, captions, or pairs of them.

        Args:
            images: One image or a batch, as [`FafaImageProcessor.preprocess`] takes them.
            text (`str` or sequence of `str`): One caption or a batch; with `images`, one per image.
            names (sequence of `str`, *optional*): What messages call the images and captions: `"query 100"`, a
                record, a file. By default `text[3]`.
            settings: transformers' own for text and images, by themselves or in `text_kwargs`, `images_kwargs` and
                `common_kwargs`; those that FAFA cannot honour are refused. The usual ones:

                return_tensors (`"pt"`, `"np"` or `None`): The type of the results.
                padding (`"longest"`, `"max_length"` or `False`; by default `"longest"`): The released code pads to
                    `max_length`; the mask makes both equal, and padding to the longest of the batch costs less.
                max_length (`int`): Replaces `max_text_length` for this call.
                truncation (`bool`, by default `True`): Whether longer captions are cut; a warning names the first.

        Returns:
            `BatchFeature` with `pixel_values` (num_images, 3, size, size), float32, for images, and `input_ids` and
            `attention_mask` (num_captions, length), integers, for text.

        Raises:
            ValueError: Neither images nor text, unequal numbers of them, a caption without a known word after the
                clean-up, or an impossible setting. Unreadable images: see `open_image`.
            TypeError: A caption that is not a string, or a setting that is unknown or cannot be honoured.
        """
        for_text, for_images = self._sort_settings(settings)
        if images is None and text is None:
            raise ValueError("FafaProcessor: expected images, text or both, got neither.")
        inputs = {}
        if images is not None:
            inputs.update(self.image_processor(images, names=names, **for_images))
        if text is not None:
            inputs.update(self._tokenize(text, names, **for_text))
        if images is not None and text is not None:
            num_images, num_captions = len(inputs["pixel_values"]), len(inputs["input_ids"])
            if num_images != num_captions:
                raise ValueError(
                    f"FafaProcessor: {num_images} images but {num_captions} captions. A query pairs one image with "
                    "one caption; repeat the shorter list, or process images and text in two calls."
                )
        return BatchFeature(inputs)

    def _sort_settings(self, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The settings of a call that go to the tokenizer, and those that go to the image processor."""
        known = {
            "text_kwargs": set(TextKwargs.__annotations__),
            "images_kwargs": {*ImagesKwargs.__annotations__, *self.image_processor.valid_kwargs.__annotations__},
        }
        for name in ("videos", "videos_kwargs", "audio", "audio_kwargs"):
            if settings.pop(name, None):
                raise TypeError(f"{name}: FafaProcessor takes images and captions only.")
        common = settings.pop("common_kwargs", None) or {}
        nested = {kind: settings.pop(kind, None) or {} for kind in known}
        for kind, names in known.items():
            if twice := sorted(names & nested[kind].keys() & settings.keys()):
                raise ValueError(f"{', '.join(twice)}: given twice, by itself and in {kind}. Leave out one.")
            _refuse_unknown(nested[kind], names)
        everything = set.union(*known.values())
        _refuse_unknown(common, everything)
        _refuse_unknown(settings, everything, also=("images", "text", "names", "common_kwargs", *known))
        for_text, for_images = (
            {name: value for name, value in (common | settings).items() if name in names} | nested[kind]
            for kind, names in known.items()
        )
        for name, (expected, reason) in _FIXED_TEXT_SETTINGS.items():
            value = for_text.pop(name, None)
            if value is not None and value != expected:
                raise TypeError(f"{name}={value!r:.60} cannot be honoured: {reason}.")
        return for_text, for_images

    def _tokenize(
        self,
        text: str | Sequence[str],
        names: Sequence[str] | None = None,
        return_tensors: str | None = None,
        padding: bool | str | None = None,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        return_attention_mask: bool | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        captions = list(text) if isinstance(text, Iterable) and not isinstance(text, str) else [text]
        if not captions:
            raise ValueError("text is empty. Expected at least one caption.")
        if names is not None and len(names) != len(captions):
            raise ValueError(f"names: {len(names)} for {len(captions)} captions. Expected one each.")
        if names is None:
            names = ["text"] if isinstance(text, str) else [f"text[{index}]" for index in range(len(captions))]
        for name, caption in zip(names, captions, strict=True):
            if not isinstance(caption, str):
                raise TypeError(f"{name}: expected a caption (str), got {type(caption).__name__}.")
            if any("\ud800" <= letter <= "\udfff" for letter in caption):  # for example from a command line
                raise ValueError(f"{name}: the caption {caption[:60]!a} holds bytes that are no text in UTF-8.")
        cleaned = [self._as_read(caption) for caption in captions]
        if max_length is None:
            max_length = self.max_text_length
        _check_length("max_length", max_length)
        truncation = True if truncation is None else truncation
        encoded = self.tokenizer(
            cleaned,
            truncation=truncation,
            max_length=max_length,
            padding="longest" if padding is None else padding,
            return_token_type_ids=False,
            return_attention_mask=True,
            **{name: value for name, value in settings.items() if value is not None},
        )
        lengths = [sum(mask) for mask in encoded["attention_mask"]]
        most = max_length if truncation else None
        self._check_captions(names, captions, cleaned, encoded["input_ids"], lengths, most)
        if return_attention_mask is False:
            if any(length < len(ids) for length, ids in zip(lengths, encoded["input_ids"], strict=True)):
                raise ValueError(
                    "return_attention_mask=False: some captions were padded, and without the mask the padding would "
                    "count as words. Leave it out, or give captions of one length."
                )
            del encoded["attention_mask"]
        return BatchFeature(dict(encoded), tensor_type=return_tensors)

    def _as_read(self, caption: str) -> str:
        return clean_caption(caption) if self.clean_captions else caption

    def _check_captions(
        self,
        names: Sequence[str],
        captions: Sequence[str],
        cleaned: Sequence[str],
        ids: Sequence[Sequence[int]],
        lengths: Sequence[int],
        max_length: int | None,
    ) -> None:
        """Refuses captions that say nothing, and warns of the first that lost words."""
        unknown_id, num_special = self.tokenizer.unk_token_id, self.tokenizer.num_special_tokens_to_add()
        for name, caption, clean, tokens, length in zip(names, captions, cleaned, ids, lengths, strict=True):
            num_unknown = tokens.count(unknown_id)
            if length <= num_special:
                raise ValueError(
                    f"{name}: the caption {caption[:200]!r} holds no word. Expected what the target looks like; for a "
                    "query without a caption give none."
                )
            if num_unknown == length - num_special:
                raise ValueError(
                    f"{name}: no word of the caption {caption[:200]!r} is among the {len(self.tokenizer):,} of this "
                    "model's vocabulary, so it would say nothing. Expected the language that the model was trained "
                    "in; for a query without a caption give none."
                )
            is_unread = self._warn_if_unread(name, caption, length)
            if num_unknown and not is_unread and self._is_first("unknown"):
                words = self._unknown_words(clean)
                logger.warning(
                    "%s: words of the caption %r are not in this model's vocabulary and are ignored: %s. There are no "
                    "warnings of further captions like it.",
                    *(name, caption[:200], ", ".join(words[:10]) or self.tokenizer.unk_token),
                )
            if length == max_length and self._is_first("cut"):
                num_tokens = len(self.tokenizer(clean, verbose=False)["input_ids"])
                if num_tokens > max_length:
                    logger.warning(
                        "%s: the caption %r has %d tokens, and is cut after %d (max_text_length). There are no "
                        "warnings of further captions like it.",
                        *(name, caption[:200], num_tokens, max_length),
                    )
                else:
                    self._warned.discard("cut")

    def open_crop(self, image: Any, name: str = "image") -> Image.Image:
        """Opens an image and resizes it to `person_size`."""
        return self.image_processor.to_person_crop(image, name)

    def resize_crop(self, crop: Image.Image) -> np.ndarray:
        """Pads a person crop to a square and resizes it to the model's size: uint8 (size, size, 3)."""
        return self.image_processor.to_square(crop)

    def to_pixels(self, crops: Sequence[np.ndarray]) -> Tensor:
        """Squares as float32 (num_images, 3, size, size)."""
        return torch.from_numpy(self.image_processor.to_pixel_values(crops))

    def encode_captions(self, captions: Sequence[str], names: Sequence[str] | None = None) -> Mapping[str, Tensor]:
        """The same as a call with only `text`."""
        return self(text=captions, names=names, return_tensors="pt")

    def caption_settings(self) -> dict[str, Any]:
        """The tokenizer, where captions are cut, and whether they are cleaned."""
        return {
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
            "max_text_length": self.max_text_length,
            "clean_captions": self.clean_captions,
        }

    def misfit(self, model: Retriever) -> str | None:
        """Captions too long for the model, special tokens elsewhere, or other words than the model was saved with."""
        tokenizer, positions = self.tokenizer, model.config.qformer_config.max_position_embeddings
        if self.max_text_length > positions:
            return (
                f"captions may have {self.max_text_length} tokens (max_text_length), and the model has {positions} "
                "positions"
            )
        empty, expected = tokenizer("")["input_ids"], [tokenizer.cls_token_id, tokenizer.sep_token_id]
        if empty != expected or None in expected:
            return "the tokenizer does not put [CLS] before a caption and [SEP] after it, as BERT's does"
        pad = model.config.qformer_config.pad_token_id
        if pad is not None and tokenizer.pad_token_id != pad:
            return f"the tokenizer's [PAD] has the id {tokenizer.pad_token_id}, and the model's {pad}"
        recorded = model.config.vocabulary_hash
        if recorded is not None and vocabulary_hash(tokenizer, recorded) != recorded:
            return "the tokenizer gives ids to other words than those that the model was saved with"
        return None

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **options: Any) -> list[str]:
        """Saves it as transformers does, but a `Path` can be pushed to the Hub, too."""
        return super().save_pretrained(os.fspath(save_directory), *args, **options)

    def to_dict(self) -> dict[str, Any]:
        """The settings as they are saved, with the hash of the tokenizer as it is now."""
        return {**super().to_dict(), "vocabulary_hash": vocabulary_hash(self.tokenizer)}

    @property
    def unused_input_names(self) -> list[str]:
        """Inputs of BERT that the Q-Former does not take, whatever the tokenizer gives."""
        return ["token_type_ids"]

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoProcessor"):
        """Makes `save_pretrained` add the code of both processors, for `trust_remote_code`."""
        super().register_for_auto_class(auto_class)
        FafaImageProcessor.register_for_auto_class()


def _check_length(name: str, length: Any) -> None:
    if type(length) is not int or not 3 <= length <= _MOST_TOKENS:
        raise ValueError(
            f"{name}: expected a whole number from 3 ([CLS], a token, [SEP]) to {_MOST_TOKENS:,}, got {length!r:.40}."
        )


def _check_tokenizer(tokenizer: Any, recorded: str | None) -> None:
    """Refuses another model's tokenizer, and one without words, which transformers makes if its file is missing."""
    if missing := [name for name in ("pad", "unk", "cls", "sep") if getattr(tokenizer, f"{name}_token_id") is None]:
        raise ValueError(
            f"tokenizer: it has no {', '.join(f'{name}_token' for name in missing)}. Expected BERT's kind, see "
            "build_tokenizer; of a folder, tokenizer_config.json may be missing or another model's."
        )
    if not tokenizer.get_vocab().keys() - {*tokenizer.all_special_tokens, *_SPECIAL_TOKENS}:
        raise ValueError("tokenizer: it knows no word. Of a folder, tokenizer.json is missing, or not the model's.")
    if recorded is not None and vocabulary_hash(tokenizer, recorded) != recorded:
        raise ValueError(
            "tokenizer: it gives ids to other words than the one that this processor was saved with. Of a folder, "
            "tokenizer.json is damaged, or was replaced: take it from where the model came from."
        )


def _refuse_unknown(settings: Mapping[str, Any], known: Iterable[str], also: Iterable[str] = ()) -> None:
    for name in settings:
        if name not in known:
            raise TypeError(f"{name}: unknown setting of FafaProcessor{meant(name, sorted({*known, *also}), '; ')}")


__all__ = ["FafaProcessor", "build_tokenizer", "clean_caption", "vocabulary_hash"]
