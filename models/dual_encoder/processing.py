"""The processor of the dual encoder: images stretched to the model's size, captions by the backbone's own tokenizer."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, CLIPImageProcessorPil
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.processing_utils import ImagesKwargs, ProcessorMixin, TextKwargs

from ...captions_fafa import has_word
from ...names import nearest
from ...retriever import Retriever, RetrieverProcessor, tokenizer_fingerprint
from .augmentation import augment_image, delete_words
from .configuration import DualEncoderConfig

logger = logging.getLogger(__name__)

_FIXED = {  # of transformers' settings for text: what they are, and why
    "padding": "captions are padded as the backbone was trained (caption_padding)",
    "truncation": "cut_captions says whether long captions are cut",
    "max_length": "max_text_length says how long captions may be",
    "return_attention_mask": "a mask always comes with the ids",
    "text_pair": "a query has one caption",
}


class DualEncoderProcessor(RetrieverProcessor, ProcessorMixin):
    """Prepares images and captions for `DualEncoderModel`, and changes them at random where it trains.

    Args:
        image_processor: of transformers', with a size of height and width.
        tokenizer: the backbone's.
        max_text_length (`int`): Ids of a caption at most: the positions of the text tower.
        caption_padding (`str`): `"longest"` of the batch, for CLIP, or `"max_length"`, for SigLIP, which reads
            the last.
        cut_captions (`bool`): Whether longer captions are cut, which is told of once; False refuses them.
        word_deletion (`float`): Probability that training leaves a word out (released code: 0.05).
        num_augmentations (`int`): Operations on an image in training, of six (released code: 2).

    Raises:
        ValueError: a setting is impossible.
    """

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        max_text_length=77,
        caption_padding="longest",
        cut_captions=False,
        word_deletion=0.05,
        num_augmentations=2,
    ):
        super().__init__(image_processor, tokenizer)
        if type(max_text_length) is not int or max_text_length < 3:
            raise ValueError(f"max_text_length is {max_text_length!r:.40}, expected a whole number from 3")
        if caption_padding not in ("longest", "max_length"):
            raise ValueError(f"caption_padding is {caption_padding!r:.40}, expected 'longest' or 'max_length'")
        if not isinstance(cut_captions, bool):
            raise ValueError(f"cut_captions is {cut_captions!r:.40}, expected true or false")
        if isinstance(word_deletion, bool) or not 0.0 <= word_deletion < 1.0:
            raise ValueError(f"word_deletion is {word_deletion!r:.40}, expected a number from 0, below 1")
        if type(num_augmentations) is not int or not 0 <= num_augmentations <= 100:
            raise ValueError(f"num_augmentations is {num_augmentations!r:.40}, expected a whole number from 0 to 100")
        if not {"height", "width"} <= set(dict(image_processor.size)):
            raise ValueError(
                f"image_processor: its size is {dict(image_processor.size)}, expected a height and a width: by its "
                "shortest edge, a crop would lose head and feet. DualEncoderProcessor.from_backbone sets it"
            )
        self.max_text_length, self.caption_padding, self.cut_captions = max_text_length, caption_padding, cut_captions
        self.word_deletion, self.num_augmentations = word_deletion, num_augmentations
        self._told = False

    @classmethod
    def from_backbone(
        cls,
        source: str | os.PathLike,
        image_shape: tuple[int, int] | None = None,
        imagenet_statistics: bool = True,
        backbone_options: dict[str, Any] | None = None,
        **settings: Any,
    ) -> "DualEncoderProcessor":
        """The processor of a CLIP or SigLIP, made one for crops of people.

        Args:
            source: as of `DualEncoderModel.from_backbone`, likewise `backbone_options`.
            image_shape: height and width in pixels, the model's; None: the backbone's square.
            imagenet_statistics: normalise images by ImageNet's mean and deviation, as released, not by the backbone's.
            settings: of this class.
        """
        options = backbone_options or {}
        config = AutoConfig.from_pretrained(source, **options)
        side = config.vision_config.image_size
        height, width = image_shape or (side, side)
        changed: dict[str, Any] = {"size": {"height": height, "width": width}, "do_center_crop": False}
        if imagenet_statistics:
            changed |= {"image_mean": list(IMAGENET_DEFAULT_MEAN), "image_std": list(IMAGENET_DEFAULT_STD)}
        image_processor = AutoImageProcessor.from_pretrained(source, **options, **changed)
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="right", **options)
        padding = "max_length" if config.model_type == "siglip" else "longest"
        defaults = {"max_text_length": config.text_config.max_position_embeddings, "caption_padding": padding}
        return cls(image_processor, tokenizer, **{**defaults, **settings})

    @classmethod
    def tiny(cls, tokenizer: Any, config: DualEncoderConfig, **settings: Any) -> "DualEncoderProcessor":
        """Of `DualEncoderConfig.tiny`, with a tokenizer of `build_tokenizer`."""
        tokenizer.eos_token = "[SEP]"  # where a CLIP reads the feature of a caption
        height, width = config.image_shape
        image_processor = CLIPImageProcessorPil(size={"height": height, "width": width}, do_center_crop=False)
        positions = config.get_text_config().max_position_embeddings
        return cls(image_processor, tokenizer, max_text_length=positions, **settings)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        names: Sequence[str] | None = None,
        return_tensors: str | None = None,
        **settings: Any,
    ) -> BatchFeature:
        """Prepares images, captions, or pairs of them.

        Args:
            images: one image or a sequence, each as `open_image` takes it.
            text: one caption or a sequence.
            names: how messages call them; by default by their places.
            return_tensors: `"pt"` or `"np"`; None is numpy for images, lists for captions.
            settings: of the image processor and the tokenizer; what cannot be honoured is refused.

        Returns:
            `pixel_values` `(num_images, 3, height, width)`; `input_ids` and `attention_mask` `(num_captions, length)`.

        Raises:
            ValueError: neither is given, or another number of them; or as `encode_captions`.
            TypeError: a setting is unknown or cannot be honoured. Unreadable images: see `open_image`.
        """
        for_images, for_text = self._sort_settings(settings)
        if images is None and text is None:
            raise ValueError("DualEncoderProcessor: expected images, text or both, got neither.")
        inputs: dict[str, Any] = {}
        if images is not None:
            images = list(images) if isinstance(images, (list, tuple)) else [images]
            called = [f"images[{place}]" for place in range(len(images))] if names is None else names
            crops = [self.open_crop(image, name) for image, name in zip(images, called, strict=True)]
            inputs.update(self.image_processor(crops, return_tensors=return_tensors, **for_images))
        if text is not None:
            captions = [text] if isinstance(text, str) else list(text)
            encoded = self._encode(captions, names, return_tensors, **for_text)
            inputs.update({name: encoded[name] for name in ("input_ids", "attention_mask")})
        if images is not None and text is not None and len(images) != len(inputs["input_ids"]):
            raise ValueError(
                f"DualEncoderProcessor: {len(images)} images but {len(inputs['input_ids'])} captions. A query pairs "
                "one image with one caption; repeat the shorter list, or process them in two calls."
            )
        return BatchFeature(inputs)

    def _sort_settings(self, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        known_images = {*ImagesKwargs.__annotations__, *self.image_processor.valid_kwargs.__annotations__}
        known_text = set(TextKwargs.__annotations__)
        nested = [settings.pop(kind, None) or {} for kind in ("common_kwargs", "images_kwargs", "text_kwargs")]
        settings = {**settings, **nested[0], **nested[1], **nested[2]}
        for name in settings:
            if name in _FIXED:
                raise TypeError(f"{name} cannot be honoured for one call: {_FIXED[name]}.")
            if name not in known_images | known_text:
                known = sorted(known_images | known_text)
                raise TypeError(f"{name}: unknown setting of DualEncoderProcessor; {nearest(name, known)}")
        return tuple(
            {name: value for name, value in settings.items() if name in known} for known in (known_images, known_text)
        )

    def encode_captions(self, captions: Sequence[str], names: Sequence[str] | None = None) -> Mapping[str, Tensor]:
        """Captions as `input_ids` and `attention_mask`, `(num_captions, length)`; `names` are what errors call them.

        Raises:
            TypeError: a caption is no text. ValueError: it holds no word, or is longer than the model reads.
        """
        encoded = self._encode(list(captions), names, "pt")
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def _encode(
        self, captions: list[str], names: Sequence[str] | None, return_tensors: str | None, **settings: Any
    ) -> Mapping[str, Any]:
        names = [f"captions[{place}]" for place in range(len(captions))] if names is None else names
        for name, caption in zip(names, captions, strict=True):
            if not isinstance(caption, str):
                raise TypeError(f"{name}: expected a caption (str), got {type(caption).__name__}.")
            if not has_word(caption):
                raise ValueError(
                    f"{name}: the caption {caption[:60]!a} holds no word. Expected what the person looks like."
                )
        whole = self.tokenizer(captions, verbose=False)["input_ids"]
        for name, caption, ids in zip(names, captions, whole, strict=True):
            self._warn_if_unread(name, caption, len(ids))
            if len(ids) > self.max_text_length:
                self._tell_of_length(name, caption, len(ids))
        return self.tokenizer(
            captions,
            padding=self.caption_padding,
            truncation=True,
            max_length=self.max_text_length,
            return_attention_mask=True,
            return_tensors=return_tensors,
            **settings,
        )

    def _tell_of_length(self, name: str, caption: str, length: int) -> None:
        if not self.cut_captions:
            raise ValueError(
                f"{name}: the caption {caption[:60]!r}... has {length} tokens, and the model reads "
                f"{self.max_text_length}: shorten it, or have the ends of such captions cut off "
                "(cut_captions=True of the processor)"
            )
        if not self._told:
            self._told = True
            logger.warning(
                "%s: the caption %r has %d tokens, and is cut after %d. Further captions of the kind are not told of.",
                *(name, caption[:200], length, self.max_text_length),
            )

    def augment_crop(self, crop: Image.Image, rng: np.random.Generator) -> Image.Image:
        """`num_augmentations` of six operations; see `augmentation.augment_image`."""
        return augment_image(crop, rng, self.num_augmentations)

    def augment_caption(self, caption: str, rng: np.random.Generator) -> str:
        """The caption without some words; see `augmentation.delete_words`."""
        return delete_words(caption, rng, self.word_deletion)

    def caption_settings(self) -> dict[str, Any]:
        """The tokenizer, and where captions are cut and how they are padded."""
        return {
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
            "max_text_length": self.max_text_length,
            "caption_padding": self.caption_padding,
            "cut_captions": self.cut_captions,
        }

    def misfit(self, model: Retriever) -> str | None:
        """Captions may be too long, padded otherwise than the backbone reads them, or end in another token."""
        text, tokenizer = model.config.get_text_config(), self.tokenizer
        if self.max_text_length > text.max_position_embeddings:
            return (
                f"captions may have {self.max_text_length} tokens (max_text_length), and the model has "
                f"{text.max_position_embeddings} positions"
            )
        if model.config.backbone_config.model_type == "siglip":
            if tokenizer.padding_side != "right":
                return "the tokenizer pads captions on the left, where a SigLIP has never seen padding"
            full = self.caption_padding == "max_length" and self.max_text_length == text.max_position_embeddings
            return (
                None if full else "a SigLIP reads captions padded to its full length (caption_padding, max_text_length)"
            )
        # Released configurations name 2, and transformers then looks for the highest id.
        end = max(tokenizer.get_vocab().values()) if text.eos_token_id == 2 else text.eos_token_id
        if tokenizer.eos_token_id != end:
            return (
                f"the tokenizer ends captions with the id {tokenizer.eos_token_id}, and the model reads them at {end}"
            )
        return None


__all__ = ["DualEncoderProcessor"]
