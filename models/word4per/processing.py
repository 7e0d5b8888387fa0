"""The processor of Word4Per: images of the model's shape, captions by CLIP's tokenizer, the template with "*"."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from PIL.Image import Resampling
from tokenizers import Tokenizer, models, trainers
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPTokenizer
from transformers.feature_extraction_utils import BatchFeature

from ...captions_fafa import has_word
from ...image_reading_fafa import open_image
from ...retriever import Retriever, RetrieverProcessor
from ..dual_encoder.processing import DualEncoderProcessor

PSEUDO_WORD = "*"
TEMPLATE = "a * is , {}"  # of a composed query (paper; released code)
PROMPT = "a photo of *"  # on which TINets train


def clip_image_processor(height: int = 384, width: int = 128) -> CLIPImageProcessorPil:
    """Stretches images to a size, without padding or cropping, by torchvision's default filter (released code)."""
    return CLIPImageProcessorPil(
        size={"height": height, "width": width}, do_center_crop=False, resample=Resampling.BILINEAR
    )


class Word4PerProcessor(DualEncoderProcessor):
    """Prepares queries (image, caption, or both) and targets (images) for `Word4PerModel`.

    A caption that comes with an image is put into the template "a * is , {caption}"; the model puts the image's
    pseudo-word in the place of "*". A caption by itself stays as it is.

    Args:
        image_processor: of transformers', with a size of height and width; `clip_image_processor` makes one.
        tokenizer: CLIP's.
        max_text_length (`int`): Ids of a caption at most, template and both ends included.
        cut_captions (`bool`): Whether longer captions are cut, which is told of once; False refuses them.

    Raises:
        ValueError: a setting is impossible, or the tokenizer makes several tokens of "*" or none.
    """

    def __init__(self, image_processor=None, tokenizer=None, max_text_length=77, cut_captions=True):
        super().__init__(image_processor, tokenizer, max_text_length, cut_captions=cut_captions)
        if len(ids := tokenizer(PSEUDO_WORD, add_special_tokens=False)["input_ids"]) != 1:
            raise ValueError(
                f"tokenizer: it makes {len(ids)} tokens of '*', expected one, in whose place the pseudo-word goes: "
                "take CLIP's tokenizer, or one of build_tokenizer"
            )

    def word_settings(self) -> dict[str, Any]:
        """What of `Word4PerConfig` this tokenizer decides: ids of "*", of the template and of the prompt."""
        bare = {"add_special_tokens": False}
        return {
            "pseudo_token_id": self.tokenizer(PSEUDO_WORD, **bare)["input_ids"][0],
            "template_ids": self.tokenizer(TEMPLATE.format(""), **bare)["input_ids"],
            "prompt_ids": self.tokenizer(PROMPT)["input_ids"],
        }

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        names: Sequence[str] | None = None,
        composed: bool | None = None,
        **settings: Any,
    ) -> BatchFeature:
        """Prepares images, captions, or pairs of them.

        Args:
            images: one image or a sequence, each as `open_image` takes it.
            text: one caption or a sequence.
            names: how messages call them; by default by their places.
            composed: whether captions are put into the template; by default where images come with them.
            settings: as `DualEncoderProcessor`.

        Returns:
            `pixel_values` `(num_images, 3, height, width)`; `input_ids` and `attention_mask` `(num_captions, length)`.

        Raises:
            ValueError: as `DualEncoderProcessor`, or a caption that is put into the template holds a "*" of its own.
        """
        if text is not None and (images is not None if composed is None else composed):
            single = isinstance(text, str)
            text = self._in_template([text] if single else list(text), names)
            text = text[0] if single else text
        return super().__call__(images, text, names=names, **settings)

    def open_crop(self, image: Any, name: str = "image") -> Image.Image:
        """Opens an image and stretches it to the model's shape, at which training augments it (released code)."""
        return self._stretched(open_image(image, name))

    def resize_crop(self, crop: Image.Image) -> np.ndarray:
        """A crop as uint8 `(height, width, 3)`."""
        return np.asarray(self._stretched(crop))

    def _stretched(self, crop: Image.Image) -> Image.Image:
        size = self.image_processor.size
        shape = size["width"], size["height"]
        return crop if crop.size == shape else crop.resize(shape, self.image_processor.resample)

    def encode_captions(self, captions: Sequence[str], names: Sequence[str] | None = None) -> Mapping[str, Tensor]:
        """Captions of queries as `input_ids` and `attention_mask`, with the template: `(num_captions, length)`.

        The same ids serve a query of the caption alone: the model leaves the template out where no image comes along.

        Raises:
            TypeError: a caption is no text. ValueError: it holds no word, or a "*" of its own.
        """
        return super().encode_captions(self._in_template(list(captions), names), names)

    def _as_read(self, caption: str) -> str:
        return TEMPLATE.format(caption)

    def _in_template(self, captions: list[str], names: Sequence[str] | None) -> list[str]:
        for place, caption in enumerate(captions):
            name = f"captions[{place}]" if names is None else names[place]
            if not isinstance(caption, str):
                raise TypeError(f"{name}: expected a caption (str), got {type(caption).__name__}.")
            if not has_word(caption):
                raise ValueError(
                    f"{name}: the caption {caption[:60]!a} holds no word. Expected what the person looks like."
                )
            if PSEUDO_WORD in caption:
                raise ValueError(
                    f"{name}: the caption {caption[:60]!r} holds a '*', which stands for the person of the image in "
                    f"the template '{TEMPLATE.format('...')}'. Write it otherwise, or leave it out."
                )
        return [self._as_read(caption) for caption in captions]

    def augment_crop(self, crop, rng) -> None:
        """FAFA's augmentation, which is that of the released code."""
        return RetrieverProcessor.augment_crop(self, crop, rng)

    def augment_caption(self, caption: str, rng) -> str:
        """As it is."""
        return caption

    def misfit(self, model: Retriever) -> str | None:
        """Captions may be too long, or end in another token; "*", template or prompt may have other ids."""
        config = model.config
        if self.max_text_length > (positions := config.get_text_config().max_position_embeddings):
            return (
                f"captions may have {self.max_text_length} tokens (max_text_length), and the model has {positions} "
                "positions"
            )
        if self.tokenizer.eos_token_id != (end := config.get_text_config().eos_token_id):
            return f"the tokenizer ends captions with the id {self.tokenizer.eos_token_id}, and the model reads {end}"
        for name, ids in self.word_settings().items():
            if (known := getattr(config, name)) is not None and known != ids:
                return f"the tokenizer gives {name} {ids}, and the model has {known}"
        return None


def build_tokenizer(captions: Iterable[str], vocab_size: int = 600, max_length: int = 77) -> CLIPTokenizer:
    """Makes a small tokenizer of CLIP's kind: all bytes, inside a word and at its end, pairs that occur, both ends.

    No text is unknown to it, and the ids of single letters and signs are CLIP's own ("*" is 265).

    Args:
        captions: in which frequent pairs are looked for.
        vocab_size: at most, 514 at least.
        max_length: tokens of a text.

    Raises:
        ValueError: there is no caption, or no room for single bytes.
    """
    captions = [*captions, TEMPLATE.format(""), PROMPT]
    if len(captions) < 3 or vocab_size < 514:
        raise ValueError(f"a vocabulary of {vocab_size} tokens from {len(captions) - 2} captions: expected 514 from 1")
    letters = _bytes_in_clips_order()
    words = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    like = CLIPTokenizer().backend_tokenizer
    words.normalizer, words.pre_tokenizer = like.normalizer, like.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    words.train_from_iterator(captions, trainer)
    model = json.loads(words.to_str())["model"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *dict.fromkeys("".join(pair) for pair in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, merges=merges, model_max_length=max_length
    )


def _bytes_in_clips_order() -> list[str]:
    """How byte-level tokenizers write each byte: the visible ones first, the others behind, as shifted letters."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) for byte in visible] + [chr(256 + number) for number in range(len(others))]


__all__ = ["PROMPT", "PSEUDO_WORD", "TEMPLATE", "Word4PerProcessor", "build_tokenizer", "clip_image_processor"]
