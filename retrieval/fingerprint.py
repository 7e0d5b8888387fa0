"""What decides features: a hash over all of a model's weights and settings, and the settings of its processor."""

import json
from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
import xxhash
from torch import Tensor

from ..retriever import Retriever, RetrieverProcessor

# Settings of a configuration, or of those within it, that provably decide no feature, besides a model's own
# `settings_of_losses`. Whatever is not named counts.
NOT_DECIDING = {
    # Names and versions. The precision stands in a manifest by itself.
    *("_name_or_path", "architectures", "auto_map", "transformers_version", "dtype", "torch_dtype"),
    # What is returned, and labels of classes, which no model here has.
    *("return_dict", "output_attentions", "output_hidden_states", "id2label", "label2id", "problem_type"),
    # Initial values, and what acts in training alone.
    *("initializer_range", "attention_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"),
    "freeze_vision",
}
# The section of a gallery's settings that says how people were cut out of its images. It decides which entries there
# are, and not how they are encoded or compared.
PEOPLE = "people"
_PIECE = 1 << 24  # values converted at a time


def read_as_noted(processor: RetrieverProcessor, settings: Mapping[str, Any]) -> None:
    """Has a processor decode photographs as drafts if a gallery of these settings does; a new one does."""
    if hasattr(processor.image_processor, "draft_photographs"):  # photographs are larger than crops of people
        drafts = settings.get("image_processor", {}).get("draft_photographs", True)
        processor.image_processor.draft_photographs = drafts


def model_fingerprint(model: Retriever) -> str:
    """A short name for all of a model that decides features: every weight and buffer, configuration, acting adapters.

    Floats count as they are in bfloat16, so that a gallery encoded in bf16 on a GPU is searched by the same model in
    fp32. It is computed anew every time (of the full model's 1.2 billion weights in about two seconds), since weights
    may change in place. It guards against mistakes, not against forgery.

    Raises:
        ValueError: weights are not in memory (offloaded, or never loaded).
    """
    if model.exported_from is not None:
        return model.exported_from["fingerprint"]
    left_out = NOT_DECIDING | model.settings_of_losses
    settings = [_deciding(model.config.to_dict(), left_out), _acting_adapters(model)]
    digest = xxhash.xxh3_128(json.dumps(settings, sort_keys=True, default=str).encode())
    weights = {_plain(name): weight for name, weight in (*model.state_dict().items(), *model.named_buffers())}
    for name, weight in sorted(weights.items()):
        if not model.weights_of_losses.intersection(name.split(".")):
            _add(digest, name, weight)
    return digest.hexdigest()


def feature_settings(
    model: Retriever,
    processor: RetrieverProcessor,
    kind: str,
    shape: Sequence[int],
    dtype: torch.dtype | None = None,
    images: bool = True,
    captions: bool = False,
    fingerprint: str | None = None,
) -> dict[str, Any]:
    """What decides the features of an image (or query), as it stands in a manifest.

    Args:
        kind: "target", or the kind of query. `shape`: shape of one input's features.
        dtype: precision of the stored features; None is the model's.
        images: whether the features come from images; `captions`: whether from captions.
        fingerprint: the model's, if it has just been computed.
    """
    settings = {
        "model": dict(model.exported_from)
        if model.exported_from is not None
        else {
            "name": model.config._name_or_path,
            "revision": getattr(model.config, "_commit_hash", None),
            "fingerprint": fingerprint or model_fingerprint(model),
            "dtype": ", ".join(sorted({dtype_name(weight.dtype) for weight in model.parameters()})),
        },
        "features": {
            "kind": kind,
            "dtype": dtype_name(dtype or model.features_dtype),
            "shape": list(shape),
        },
    }
    if images:
        settings["image_processor"] = processor.image_settings()
    if captions:
        settings["captions"] = processor.caption_settings()
    return settings


def differing_settings(stored: Mapping[str, Any], current: Mapping[str, Any], but: Set[str] = frozenset()) -> list[str]:
    """What makes features incomparable: a phrase for each setting that differs, but for those of `PEOPLE`.

    Args:
        stored, current: see `feature_settings`.
        but: settings that may differ, besides names.
    """
    differences = []
    for section in sorted({*stored, *current} - {PEOPLE}):
        old, new = stored.get(section, {}), current.get(section, {})
        for name in sorted({*old, *new} - {"name", "revision", *but}):
            if old.get(name) != new.get(name):
                was, now = (
                    f"{side.get(name)} of {side.get('name')!r}" if name == "fingerprint" else side.get(name)
                    for side in (old, new)
                )
                differences.append(f"{section} {name} {was} (now {now})")
    return differences


def _deciding(config: Mapping[str, Any], left_out: Set[str]) -> dict[str, Any]:
    """A configuration, and those within it, without what decides no feature."""
    return {
        name: _deciding(value, left_out) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in left_out
    }


def _acting_adapters(model: Retriever) -> list[Any]:
    """Which adapters act in every layer that has some, and how strongly. Their weights are among the others."""
    return [
        [
            _plain(name),
            list(module.active_adapters),
            list(module.merged_adapters),
            bool(module.disable_adapters),
            [getattr(module, "scaling", {}).get(adapter) for adapter in module.active_adapters],
        ]
        for name, module in model.named_modules()
        if hasattr(module, "merged_adapters") and hasattr(module, "disable_adapters")
    ]


def _plain(name: str) -> str:
    return name.replace("_orig_mod.", "")  # a compiled model has it


def _add(digest: xxhash.xxh3_128, name: str, value: Any) -> None:
    """Feeds a weight to a hash, piece by piece from wherever it lies; or what quantised layers hold in its place."""
    if not isinstance(value, Tensor):
        if isinstance(value, (list, tuple)):
            value = dict(enumerate(value))
        if isinstance(value, Mapping):
            for part, inner in value.items():
                _add(digest, f"{name}.{part}", inner)
        else:
            digest.update(f"{name} {value!r};".encode())
        return
    value = value.detach()
    if value.is_meta:
        raise ValueError(f"the weight {name} is not in memory, so the model cannot be told from others: load it whole")
    if value.is_quantized:
        scale = (
            (value.q_scale(), value.q_zero_point())
            if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric)
            else (value.q_per_channel_scales(), value.q_per_channel_zero_points(), value.q_per_channel_axis())
        )
        return _add(digest, name, (value.int_repr(), str(value.qscheme()), *scale))
    if hasattr(value, "__tensor_flatten__"):  # quantised by a library that makes its own kind of tensor
        parts, context = value.__tensor_flatten__()
        return _add(digest, name, {**{part: getattr(value, part) for part in parts}, "context": str(context)})
    if value.is_complex():
        value = torch.view_as_real(value)
    kind = torch.bfloat16 if value.is_floating_point() else value.dtype
    digest.update(f"{name} {tuple(value.shape)} {kind};".encode())
    for piece in value.reshape(-1).split(_PIECE):
        digest.update(piece.to("cpu", kind).contiguous().view(torch.uint8).numpy())


def dtype_name(dtype: torch.dtype) -> str:
    """The name in a manifest: "float32"."""
    return str(dtype).removeprefix("torch.")
