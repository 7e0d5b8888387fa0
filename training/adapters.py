"""Training less than everything: the last blocks of the vision tower, or low-rank adapters (LoRA, with peft).

An adapter folder holds a few megabytes and the name of the model folder it belongs to. Three ways to use it:

    model = AutoModel.from_pretrained("runs/lora")                                              # finds its base itself
    model = PeftModel.from_pretrained(AutoModel.from_pretrained("models/fafa"), "runs/lora")    # base chosen by hand
    merge_lora(model).save_pretrained("models/merged")     # of a PeftModel: a folder that needs neither base nor peft

with `import fafa` and `from peft import PeftModel` before.
"""

from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file

from ..retriever import Retriever


def train_vision_blocks(model: Retriever, num_blocks: int) -> Retriever:
    """Chooses how much of the vision tower trains; what comes after it always does.

    Blocks below the first that trains keep no activations for the backward pass, and stay in eval mode.

    Args:
        model: whose `config.freeze_vision` and `requires_grad` are set.
        num_blocks: 0 freezes the tower (the paper), n trains its last n blocks, -1 all of it, embeddings included.

    Returns:
        the model.

    Raises:
        ValueError: if the tower has fewer blocks.
    """
    tower = model.vision_blocks
    blocks = tower[1:]
    if not -1 <= num_blocks <= len(blocks):
        raise ValueError(
            f"trainable_vision_blocks is {num_blocks}, but the vision tower has {len(blocks)} blocks: expected 0 "
            f"(frozen), 1 to {len(blocks)} (the last ones) or -1 (all, and the embeddings before them)"
        )
    model.freeze_vision_tower()
    if num_blocks:
        model.config.freeze_vision = False
        for module in tower if num_blocks < 0 else blocks[-num_blocks:]:
            module.requires_grad_(True)
    return model.train(model.training)


def add_lora(
    model: Retriever, rank: int = 16, alpha: float = 32.0, dropout: float = 0.05, targets: str | None = None
) -> "LoraRetriever":
    """Freezes a model and adds low-rank adapters (LoRA) to it, to be trained.

    Beside them trains what the model names (`lora_trained_whole`, `lora_parameters`), which the adapter folder holds.

    Args:
        model: from a folder or the Hub, whose name the adapter keeps; it is changed in place.
        rank: of the update of each layer.
        alpha: the update is scaled by `alpha / rank`.
        dropout: on the inputs of the update, while training.
        targets: the side whose layers are adapted, of the model's `lora_targets`; by default the first; `"both"`: all.

    Returns:
        a `PeftModel` that trains and saves like any other; attributes and methods of the model are its own, too.

    Raises:
        ValueError: for a model without a folder, which nobody could load the adapter onto; for unknown targets.
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

    Loading needs no more than peft: `PeftModel.from_pretrained` reads the additional entries. Features do not depend on
    them, so adapters can be switched and switched off as usual. To train one on, load it with
    `LoraRetriever.from_pretrained(model, folder, is_trainable=True)`.
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
