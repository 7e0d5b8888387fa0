"""Whether a model has the numbers that were asked for: loaders that do not know the option leave it out silently."""

from collections import Counter

import torch

from ..components import SynthesisError

_NAMES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_dtype(module: torch.nn.Module, dtype: str, model: str) -> None:
    """Stop where most of a module's numbers are of another dtype than was asked for. Quantised ones are left alone.

    Args:
        module: As it was loaded.
        dtype: "float32", "bfloat16" or "float16"; "auto" takes what the checkpoint has.
        model: Its name, for the message.

    Raises:
        SynthesisError: they are.
    """
    if dtype == "auto":
        return
    sizes: Counter[torch.dtype] = Counter()
    for parameter in module.parameters():
        sizes[parameter.dtype] += parameter.numel()
    plain = {name: sizes[one] for name, one in _NAMES.items() if sizes[one]}
    if sizes and sizes.most_common(1)[0][0] in _NAMES.values() and (found := max(plain, key=plain.get)) != dtype:
        raise SynthesisError(
            f"{model}: {type(module).__name__} was loaded in {found}, asked for was {dtype}: install the versions of "
            "constraints.txt (diffusers before 0.40 does not know this option)"
        )
