"""Loads a model and its processor from one folder, and checks that they fit.

    model, processor = load_model("runs/paper", dtype=torch.bfloat16)

With a processor of another size, or a tokenizer whose ids mean other words, scores are wrong without a sign of it.
"""

import os
from typing import Any

import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from .files import printable
from .onnx_encoders import OnnxModel, is_export
from .retriever import Retriever, RetrieverProcessor, check_contract
from .weights_fafa import UnsoundModelError, beside_adapter, refuse_incomplete

# Options of `from_pretrained` that say where files are, and so apply to both parts.
_WHERE = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_PADDING = 128  # the most rows by which an embedding matrix is padded to a multiple of 8


def load_model(source: str | os.PathLike, **options: Any) -> tuple[Retriever, RetrieverProcessor]:
    """Loads a model and its processor from a folder or the Hub, and checks that they fit.

    Args:
        source: a folder, or a repository of the Hub, of a model or of an adapter (LoRA); or a folder of exported
            encoders (`onnx_encoders.py`), which take no options.
        options: those of `AutoModel.from_pretrained`; the processor gets those that say where files are.

    Returns:
        the model, in eval mode, and its processor.

    Raises:
        UnsoundModelError: weights are missing, foreign or unsound, or the parts do not fit; a ValueError.
        OSError: there is no such folder or repository, or a file of it is missing.
    """
    if is_export(source):
        if options.get("dtype") not in (None, torch.float32, "float32", "auto"):
            raise ValueError(f"{printable(source)}: exported encoders compute in float32, not in {options['dtype']}")
        model, processor = OnnxModel(source), AutoProcessor.from_pretrained(source)
        check_fit(model, processor, printable(source))
        return model, processor
    base = beside_adapter(source, {})
    model = AutoModel.from_pretrained(base, **options)
    if base != source:  # which `AutoModel` looks for in the working folder alone
        loaded = model.load_adapter(str(source))
        refuse_incomplete(source, loaded.missing_keys, loaded.unexpected_keys)
    processor = AutoProcessor.from_pretrained(source, **{name: options[name] for name in _WHERE if name in options})
    check_fit(model, processor, printable(source))
    return model, processor


def check_fit(model: Retriever, processor: RetrieverProcessor, source: str = "model and processor") -> None:
    """Refuses a processor that is not the model's own, as far as that can be known; `source` names them in the message.

    Raises:
        TypeError: they do not fulfil this package's contract for models and processors.
        UnsoundModelError: images have another size than the model's, the tokenizer has more or fewer words, or the
            processor knows a reason of its own (`RetrieverProcessor.misfit`).
    """
    check_contract(model, Retriever)
    check_contract(processor, RetrieverProcessor)
    made, taken = processor.resize_crop(Image.new("RGB", (64, 128))).shape[:2], model.image_shape
    words = model.get_input_embeddings().num_embeddings
    ids = sorted(processor.tokenizer.get_vocab().values())
    is_padded = words % 8 == 0 and words - len(ids) < _PADDING
    if made != taken:
        reason = (
            f"the image processor makes images of {made[0]} x {made[1]} pixels, and the model reads {taken[0]} x "
            f"{taken[1]}"
        )
    elif ids[-1] >= words:
        reason = f"the tokenizer has ids up to {ids[-1]:,}, and the model has {words:,} word embeddings"
    elif (len(ids) != words and not is_padded) or ids != list(range(len(ids))):
        reason = f"the tokenizer has {len(ids):,} tokens, and the model {words:,} word embeddings"
    else:
        reason = processor.misfit(model)
    if reason:
        raise UnsoundModelError(f"{source}: {reason}. Take the processor's files from where the model's came from.")
