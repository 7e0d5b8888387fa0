"""A Word4Per of random weights, small enough to learn the painted world on a CPU."""

from collections.abc import Iterable
from typing import Any

from .configuration import Word4PerConfig
from .modeling import Word4PerModel
from .processing import Word4PerProcessor, build_tokenizer, clip_image_processor

_MOST_WORDS = 1_500


def tiny_start(captions: Iterable[str], **settings: Any) -> tuple[Word4PerModel, Word4PerProcessor]:
    """A model of half a million parameters with random weights for stage 1, and its processor.

    Args:
        captions: of the training set, whose frequent words become tokens.
        settings: of `Word4PerConfig`.
    """
    tokenizer = build_tokenizer(captions, _MOST_WORDS)
    height, width = settings.get("image_height", 96), settings.get("image_width", 48)
    processor = Word4PerProcessor(clip_image_processor(height, width), tokenizer)
    config = Word4PerConfig.tiny(len(tokenizer), **{"stage": 1, **processor.word_settings(), **settings})
    return Word4PerModel(config), processor
