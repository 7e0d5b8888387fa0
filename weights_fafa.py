"""Checks of a folder's weights before a model answers with them: all are there, none is foreign, all are plausible.

Transformers fills what a file lacks with random numbers, leaves out what has no place, turns integers into floats, and
says so in a table at most. The scores of such a model look like any other scores.
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

from .names import some

_DAMAGED = "The file is damaged, or its numbers have another type than the model's. Fetch or save the model again."
_SAMPLED = 1024  # values of a weight that decide whether all are looked at


# Options of `from_pretrained` that FAFA has no use for, or that transformers drops silently.
_NOT_HONOURED = {
    **dict.fromkeys(("from_tf", "from_flax", "gguf_file"), "FAFA is read from safetensors files or torch's own"),
    **dict.fromkeys(("mirror", "proxies"), "set HF_ENDPOINT or HTTPS_PROXY in the environment"),
    **dict.fromkeys(
        ("generation_config", "experts_implementation", "fusion_config", "_fast_init"), "FAFA has no use for it"
    ),
    "offload_state_dict": "device_map and offload_folder say what is offloaded",
    **dict.fromkeys(
        ("tp_plan", "tp_size", "device_mesh", "distributed_config"),
        "FAFA has no plan for splitting layers over devices; accelerate's FSDP and device_map split the model",
    ),
}


class UnsoundModelError(ValueError):
    """A model's folder holds no whole model, or its parts do not fit together. The message says what to do."""


def refuse_options(source: object, options: Mapping[str, Any]) -> None:
    """Refuses options of `from_pretrained` that would have no effect.

    Raises:
        TypeError: the message names the option, and says why.
        ValueError: a folder has no revisions, or nothing says where to offload weights.
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
        raise ValueError("device_map puts weights on the disk: name the folder by offload_folder.")


def refuse_incomplete(
    source: object,
    missing: Iterable[str],
    unexpected: Iterable[str],
    allow_missing: bool | str | Sequence[str] | None = None,
    allow_unexpected: bool | str | Sequence[str] | None = None,
) -> None:
    """Refuses a model if some of its weights were not read, or if files hold weights that have no place in it.

    Args:
        source: what was loaded, for the message.
        missing: names of weights that no file has, except tied and computed ones.
        unexpected: names of weights in the files that the model does not have.
        allow_missing: names or patterns (`"mfr_predictor.*"`) that may be missing and are initialised; True: all.
        allow_unexpected: names or patterns that may be left over; True: all.
    """
    missing = _not_allowed(missing, allow_missing, "allow_missing")
    unexpected = _not_allowed(unexpected, allow_unexpected, "allow_unexpected")
    if not (missing or unexpected):
        return
    found = []
    if missing:
        found.append(f"weights of the model are missing and would be random numbers: {some(missing)}")
    if unexpected:
        found.append(f"weights have no place in the model: {some(unexpected)}")
    asked = " and ".join(["allow_missing=[...]"] * bool(missing) + ["allow_unexpected=[...]"] * bool(unexpected))
    raise UnsoundModelError(
        f"{source}: {'; '.join(found)}. Fetch or save the model again. If you want this, name them in {asked}."
    )


def refuse_unsound_weights(source: object, model: nn.Module) -> None:
    """Refuses weights that no training gives: NaN, infinity, complex numbers, or only whole numbers.

    Weights that are not in memory, or packed by a library that quantises, are not looked at.
    """
    if isinstance(source, (str, os.PathLike)) and (complex_ones := _complex_weights(Path(source))):
        raise UnsoundModelError(f"{source}: weights hold complex numbers: {some(complex_ones)}. {_DAMAGED}")
    infinite, whole = [], []
    for name, weight in model.named_parameters():
        weight = weight.detach()
        if weight.is_meta or weight.numel() == 0 or not weight.is_floating_point() or is_packed(weight):
            continue
        # A sum costs a tenth of looking at each value; only a sum that overflowed needs the second look.
        if not weight.sum(dtype=torch.float32).isfinite() and not weight.isfinite().all():
            infinite.append(name)
        elif weight.ndim > 1 and _are_integers(weight):
            whole.append(name)
    for names, what in ((infinite, "NaN or infinite values"), (whole, "only whole numbers, as quantised files do")):
        if names:
            raise UnsoundModelError(f"{source}: weights hold {what}: {some(names)}. {_DAMAGED}")


def is_packed(weight: torch.Tensor) -> bool:
    """Whether a weight holds numbers in a packed form of some library."""
    return weight.is_quantized or hasattr(weight, "__tensor_flatten__") or hasattr(weight, "quant_state")


def beside_adapter(folder: object, options: dict[str, Any]) -> object:
    """The folder of a local adapter's model, if the adapter names it by a path relative to another folder.

    Transformers would take such a path for a repository of the Hub. It is searched from the adapter's folder upwards,
    and `options` gain the adapter. Anything else is returned as it is.
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
    """Found in the headers of a local folder's files, since loading drops imaginary parts without a trace."""
    names = []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            names += [name for name in tensors.keys() if tensors.get_slice(name).get_dtype().startswith("C")]  # noqa: SIM118
    return names


def _are_integers(weight: torch.Tensor) -> bool:
    """Whether all values are whole numbers, but not all the same, as in weights initialised with zeros or ones."""
    sample = weight.flatten()[:: max(1, weight.numel() // _SAMPLED)]
    return bool((sample == sample.round()).all() and (weight == weight.round()).all() and weight.min() != weight.max())


def _not_allowed(names: Iterable[str], allowed: bool | str | Sequence[str] | None, option: str) -> list[str]:
    if allowed is True:
        return []
    patterns = [allowed] if isinstance(allowed, str) else list(allowed or ())
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"{option} is {allowed!r:.100}, expected names or patterns of weights, or True for all.")
    return sorted(name for name in names if not any(fnmatchcase(name, pattern) for pattern in patterns))
