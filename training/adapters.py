"""Training low-rank adapters (LoRA, with peft) instead of all weights.

An adapter folder holds a few megabytes and the name of the model folder it belongs to. Three ways to use it:

    model = AutoModel.from_pretrained("runs/lora")                                              # finds its base itself
    model = PeftModel.from_pretrained(AutoModel.from_pretrained("pretrained/fafa"), "runs/lora")   # base chosen by hand
    merge_lora(model).save_pretrained("pretrained/merged")     # a PeftModel becomes a folder without base and peft

with `import fafa` and `from peft import PeftModel` before.
"""

from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file

from ..retriever import Retriever


def add_lora(
    model: Retriever, rank: int = 16, alpha: float = 32.0, dropout: float = 0.05, targets: str | None = None
) -> "LoraRetriever":
    """Freezes a model and adds low-rank adapters (LoRA) to it, to be trained.

    What the model names (`lora_trained_whole`, `lora_parameters`) trains beside them; the adapter folder holds it, too.

    Args:
        model: from a folder or the Hub, whose name the adapter keeps; it is changed in place.
        rank: rank of each layer's update, which is scaled by `alpha / rank`.
        dropout: on the inputs of the update, while training.
        targets: the side of the model's `lora_targets` whose layers are adapted; None: the first; `"both"`: all.

    Returns:
        a `PeftModel` that trains and saves like any other; attributes and methods of the model are its own, too.

    Raises:
        ValueError: the model has no folder, so that nobody could load the adapter onto it, or the targets are unknown.
    """
    if not model.name_or_path:
        raise ValueError(
            "LoRA adapts a saved model, whose folder the adapter names; this one was built from a configuration. "
            "Save it (save_pretrained), load it (from_pretrained), and add the adapter to that."
        )
    sides = list(model.lora_targets)
    if targets not in (None, *sides, "both") or not sides:
        raise ValueError(
            f"lora_targets is {targets!r}, but {type(model).__name__} has {', '.join(map(repr, [*sides, 'both']))}"
            if sides
            else f"{type(model).__name__} names no lora_targets, so that there is nothing to adapt"
        )
    chosen = sides if targets == "both" else [targets or sides[0]]
    # A folder by its whole path: the adapter lies elsewhere, and is loaded from anywhere.
    base = str(Path(model.name_or_path).resolve()) if Path(model.name_or_path).is_dir() else model.name_or_path
    if "vision" in chosen:
        model.config.freeze_vision = False  # gradients pass through the tower, to the adapters in it
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="|".join(model.lora_targets[side] for side in chosen),
        modules_to_save=list(model.lora_trained_whole),
        base_model_name_or_path=base,
    )
    return LoraRetriever(model, config)


def merge_lora(model: PeftModel) -> Retriever:
    """Adds the adapters into the weights: a model of its own, frozen, with equal outputs; `model` is used up.

    In fp32, so that a vision tower stored in half precision does not round the updates away.
    """
    return model.float().merge_and_unload().requires_grad_(False)


class LoraRetriever(PeftModel):
    """A `PeftModel` that trains and saves `lora_parameters`, too, which peft leaves out as parameters of no layer.

    `PeftModel.from_pretrained` reads these entries, too. Features do not depend on them, so adapters can be switched
    and switched off as usual. To train one on: `LoraRetriever.from_pretrained(model, folder, is_trainable=True)`.
    """

    def __init__(self, model: Retriever, peft_config: LoraConfig, adapter_name: str = "default", **kwargs: Any):
        super().__init__(model, peft_config, adapter_name, **kwargs)
        for name in model.lora_parameters:
            model.get_parameter(name).requires_grad_(not peft_config.inference_mode)

    def save_pretrained(self, save_directory: str, is_main_process: bool = True, **kwargs: Any) -> None:
        """Writes the adapter folder; arguments as peft's."""
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        if is_main_process:
            names = [f"base_model.model.{name}" for name in self.lora_parameters]
            file = Path(save_directory, SAFETENSORS_WEIGHTS_NAME)
            weights = kwargs.get("state_dict") or self.state_dict()
            save_file(load_file(file) | {name: weights[name] for name in names}, file, metadata={"format": "pt"})

    def create_or_update_model_card(self, output_dir: str) -> None:
        """Writes none: peft's template is a page of gaps, and the training run writes its own card."""


FafaLoraModel = LoraRetriever  # its name in earlier versions
