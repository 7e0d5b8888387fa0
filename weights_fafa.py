"""What a folder's weights must be before a model answers with them: all there, none foreign, such as training gives.

Transformers fills what a file lacks with random numbers, leaves out what has no place, turns integers into floats, and
says so in a table at most. The scores that come out then look like scores.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

_NAMED = 5  # names in a message; the rest is counted
_DAMAGED = "The file is damaged, or its numbers are of another kind than the model's. Fetch or save the model again."
_LOOKED_AT = 1024  # values of a weight that tell whether all are worth a look


# Options of `from_pretrained` that FAFA has no use for, or that transformers drops without a word.
_NO_PLAN = "FAFA has no plan for splitting layers over devices; accelerate's FSDP and device_map split the model"
_NOT_HONOURED = {
    "from_tf": "TensorFlow's files are read no more",
    "from_flax": "Flax' files are read no more",
    "mirror": "set HF_ENDPOINT in the environment",
    "proxies": "set HTTPS_PROXY in the environment",
    "offload_state_dict": "device_map and offload_folder say what is offloaded",
    "_fast_init": "there is one way to initialise",
    "generation_config": "FAFA generates no text",
    "gguf_file": "there is no GGUF form of FAFA",
    "experts_implementation": "FAFA has no experts",
    "fusion_config": "there is nothing in FAFA to fuse",
    "tp_plan": _NO_PLAN,
    "tp_size": _NO_PLAN,
    "device_mesh": _NO_PLAN,
    "distributed_config": _NO_PLAN,
}


class UnsoundModelError(ValueError):
    """What a model's folder holds is no whole model, or its parts do not fit together. The message says what to do."""


def refuse_options(source: object, options: Mapping[str, Any]) -> None:
    """Refuses options of `from_pretrained` that nothing would come of.

    Raises:
        TypeError: it names the option, and says why. ValueError: weights shall be offloaded to nowhere.
    """
    for name, reason in _NOT_HONOURED.items():
        if options.get(name):
            raise TypeError(f"{name} cannot be honoured: {reason}.")
    if (
        options.get("revision") not in (None, "main")
        and isinstance(source, (str, os.PathLike))
        and Path(source).is_dir()
    ):
        raise ValueError(f"revision={options['revision']!r} cannot be honoured: {source} is a folder, and has none.")
    device_map = options.get("device_map")
    if isinstance(device_map, Mapping) and "disk" in device_map.values() and options.get("offload_folder") is None:
        raise ValueError("device_map puts weights on the disk: say in which folder by offload_folder.")


def refuse_incomplete(
    source: object,
    missing: Iterable[str],
    unexpected: Iterable[str],
    allow_missing: bool | str | Sequence[str] | None = None,
    allow_unexpected: bool | str | Sequence[str] | None = None,
) -> None:
    """Refuses a model of which weights were not read, or which holds weights without a place.

    Args:
        source: what was loaded, for the message.
        missing: names of weights that no file has; those that are tied or computed do not count.
        unexpected: names of weights in the files that the model does not have.
        allow_missing: names or patterns (`"mfr_predictor.*"`) that may be missing and begin anew; True: all.
        allow_unexpected: names or patterns that may be left over; True: all.

    Raises:
        UnsoundModelError: it names them.
    """
    missing = _not_allowed(missing, allow_missing, "allow_missing")
    unexpected = _not_allowed(unexpected, allow_unexpected, "allow_unexpected")
    if not (missing or unexpected):
        return
    found = []
    if missing:
        found.append(f"weights of the model are missing and would be random numbers: {_some(missing)}")
    if unexpected:
        found.append(f"weights have no place in the model: {_some(unexpected)}")
    asked = " and ".join(["allow_missing=[...]"] * bool(missing) + ["allow_unexpected=[...]"] * bool(unexpected))
    raise UnsoundModelError(
        f"{source}: {'; '.join(found)}. Fetch or save the model again. Where this is meant, name them in {asked}."
    )


def refuse_unsound_weights(source: object, model: nn.Module) -> None:
    """Refuses weights that no training gives: NaN, infinity, complex or whole numbers (as integers are).

    Weights that are not in memory, or packed by a library that quantises, are not looked at.

    Raises:
        UnsoundModelError: it names them.
    """
    if isinstance(source, (str, os.PathLike)) and (complex_ones := _complex_weights(Path(source))):
        raise UnsoundModelError(f"{source}: weights hold complex numbers: {_some(complex_ones)}. {_DAMAGED}")
    infinite, whole = [], []
    for name, weight in model.named_parameters():
        weight = weight.detach()
        if weight.is_meta or weight.numel() == 0 or not weight.is_floating_point() or is_packed(weight):
            continue
        # A sum costs a tenth of looking at each; only one that overflowed needs the second look.
        if not weight.sum(dtype=torch.float32).isfinite() and not weight.isfinite().all():
            infinite.append(name)
        elif weight.ndim > 1 and _are_integers(weight):
            whole.append(name)
    for names, what in ((infinite, "NaN or infinite values"), (whole, "whole numbers alone, as quantised files do")):
        if names:
            raise UnsoundModelError(f"{source}: weights hold {what}: {_some(names)}. {_DAMAGED}")


def is_packed(weight: torch.Tensor) -> bool:
    """Whether a weight holds a library's own encoding of numbers rather than the numbers."""
    return weight.is_quantized or hasattr(weight, "__tensor_flatten__") or hasattr(weight, "quant_state")


def beside_adapter(folder: object, options: dict[str, Any]) -> object:
    """Where the model of a local adapter's folder lies, if its name there is a path relative to some other folder.

    Such a path would be taken for a repository of the Hub. It is looked for from the adapter's folder upwards; then
    `options` gain the adapter. Anything else is returned as it is.
    """
    config = Path(os.fspath(folder), "adapter_config.json") if isinstance(folder, (str, os.PathLike)) else None
    if config is None or not config.is_file() or Path(folder, "config.json").exists():
        return folder
    base = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not isinstance(base, str) or not base or Path(base).exists():
        return folder
    for above in Path(folder).resolve().parents:
        if (above / base / "config.json").is_file():
            options["adapter_kwargs"] = {**(options.get("adapter_kwargs") or {}), "_adapter_model_path": str(folder)}
            return str(above / base)
    return folder


def _complex_weights(folder: Path) -> list[str]:
    """By the headers of a local folder's files: loading drops imaginary parts, and nothing tells afterwards."""
    names = []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            names += [name for name in tensors.keys() if tensors.get_slice(name).get_dtype().startswith("C")]  # noqa: SIM118
    return names


def _are_integers(weight: torch.Tensor) -> bool:
    """Whether all values are whole numbers, and not all one: what begins as zeros or ones is no quantised weight."""
    some = weight.flatten()[:: max(1, weight.numel() // _LOOKED_AT)]
    return bool((some == some.round()).all() and (weight == weight.round()).all() and weight.min() != weight.max())


def _not_allowed(names: Iterable[str], allowed: bool | str | Sequence[str] | None, option: str) -> list[str]:
    if allowed is True:
        return []
    patterns = [allowed] if isinstance(allowed, str) else list(allowed or ())
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"{option} is {allowed!r:.100}, expected names or patterns of weights, or True for all.")
    return sorted(name for name in names if not any(fnmatchcase(name, pattern) for pattern in patterns))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


__all__ = [
    "UnsoundModelError",
    "beside_adapter",
    "is_packed",
    "refuse_incomplete",
    "refuse_options",
    "refuse_unsound_weights",
]
