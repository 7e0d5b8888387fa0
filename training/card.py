"""The model card of a training run."""

import platform
from importlib.metadata import version

import torch
import yaml

from ..model_card import make_model_card, markdown_table

_LIBRARIES = ("torch", "transformers", "datasets", "accelerate")


def training_card(trainer, about: str, data: dict[str, object], metrics: dict[str, float], recipe: dict) -> str:
    """Describes a finished run of `FafaTrainer`: data, settings, loss terms, held-out results, versions.

    Args:
        trainer: after `train()`.
        about: where the weights started from.
        data: what the training and validation sets are: name -> value, for a table.
        metrics: of `trainer.evaluate()`.
        recipe: the settings of the run, as a YAML file would give them.

    Returns:
        the text of a README.md.
    """
    last = [entry for entry in trainer.state.log_history if "loss" in entry][-1:]
    terms = [[name, f"{value:.4f}"] for entry in last for name, value in entry.items() if name.startswith("loss")]
    ranking = [name for name in metrics if name.startswith(("eval_rank", "eval_mAP", "eval_mINP"))]
    held_out = [[name.removeprefix("eval_"), f"{metrics[name]:.2f}"] for name in ranking]
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    versions = ", ".join(f"{library} {version(library)}" for library in _LIBRARIES)
    return make_model_card(
        trainer.model.config,
        num_parameters=trainer.model.num_parameters(),
        title="FAFA for composed person retrieval",
        about=about,
        sections={
            "Training data": markdown_table(["", ""], [[name, value] for name, value in data.items()]),
            "Held-out results": "Quadruples of the training set that were not trained on, each query against all their "
            f"targets, percent.\n\n{markdown_table(['metric', 'value'], held_out)}",
            "Training": f"{trainer.state.global_step:,} steps on {machine} ({platform.machine()}); {versions}. "
            f"Loss at the end:\n\n{markdown_table(['term', 'value'], terms)}\n\nSettings:\n\n"
            f"```yaml\n{yaml.safe_dump(recipe, sort_keys=False)}```",
        },
    )
