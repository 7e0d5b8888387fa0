"""Loading a model together with its processor, from one folder, whose parts must fit one another.

    model, processor = load_model("runs/paper", dtype=torch.bfloat16)

A processor of another size, or a tokenizer whose ids mean other words, gives scores that look like scores.
"""

import os
from typing import Any

from .files import printable
from .modeling_fafa import FafaModel
from .processing_fafa import FafaProcessor, vocabulary_hash
from .weights_fafa import UnsoundModelError

# Options of `from_pretrained` that say where files are, so that they hold for both parts.
_WHERE = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_PADDING = 128  # rows by which an embedding matrix is padded to a round number, at most; one of an eighth is round


def load_model(source: str | os.PathLike, **options: Any) -> tuple[FafaModel, FafaProcessor]:
    """Loads a model and its processor from a folder or the Hub, and checks that they fit.

    Args:
        source: a folder, or a repository of the Hub; of a model or of an adapter (LoRA).
        options: of `FafaModel.from_pretrained`; those that say where files are hold for the processor, too.

    Returns:
        the model, in eval mode, and its processor.

    Raises:
        UnsoundModelError: weights are missing, foreign or unsound, or the parts do not fit; a ValueError.
        OSError: there is no such folder or repository, or a file of it is missing.
    """
    model = FafaModel.from_pretrained(source, **options)
    processor = FafaProcessor.from_pretrained(source, **{name: options[name] for name in _WHERE if name in options})
    check_fit(model, processor, printable(source))
    return model, processor


def check_fit(model: FafaModel, processor: FafaProcessor, source: str = "model and processor") -> None:
    """Refuses a processor that is not the model's own, as far as that can be known.

    Args:
        source: what the message calls them.

    Raises:
        UnsoundModelError: the images are of another size than the model's, captions may be longer than it has
            positions, or the tokenizer is another one: of more or fewer words, with special tokens elsewhere, or whose
            words are not those that the model was saved with (`FafaConfig.vocabulary_hash`).
    """
    config, size = model.config, processor.image_processor.size
    if size.height != config.vision_config.image_size:
        raise _misfit(
            source,
            f"the image processor makes images of {size.height} x {size.width} pixels, and the model reads "
            f"{config.vision_config.image_size} x {config.vision_config.image_size}",
        )
    positions = config.qformer_config.max_position_embeddings
    if processor.max_text_length > positions:
        raise _misfit(
            source,
            f"captions may have {processor.max_text_length} tokens (max_text_length), and the model has {positions} "
            "positions",
        )
    _check_tokenizer(model, processor.tokenizer, source)


def _check_tokenizer(model: FafaModel, tokenizer: Any, source: str) -> None:
    words = model.get_input_embeddings().num_embeddings
    ids = sorted(tokenizer.get_vocab().values())
    if ids[-1] >= words:
        raise _misfit(source, f"the tokenizer has ids up to {ids[-1]:,}, and the model has {words:,} word embeddings")
    padded = words % 8 == 0 and words - len(ids) < _PADDING
    if (len(ids) != words and not padded) or ids != list(range(len(ids))):
        raise _misfit(source, f"the tokenizer has {len(ids):,} tokens, and the model {words:,} word embeddings")
    empty, expected = tokenizer("")["input_ids"], [tokenizer.cls_token_id, tokenizer.sep_token_id]
    if empty != expected or None in expected:
        raise _misfit(source, "the tokenizer does not put [CLS] before a caption and [SEP] after it, as BERT's does")
    pad = model.config.qformer_config.pad_token_id
    if pad is not None and tokenizer.pad_token_id != pad:
        raise _misfit(source, f"the tokenizer's [PAD] has the id {tokenizer.pad_token_id}, and the model's {pad}")
    recorded = getattr(model.config, "vocabulary_hash", None)
    if recorded is not None and vocabulary_hash(tokenizer, recorded) != recorded:
        raise _misfit(source, "the tokenizer gives ids to other words than those that the model was saved with")


def _misfit(source: str, reason: str) -> UnsoundModelError:
    return UnsoundModelError(f"{source}: {reason}. Take the processor's files from where the model's came from.")
