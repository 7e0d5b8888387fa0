"""A tiny training run for the tests of everything around its steps."""

import gc
from dataclasses import fields
from pathlib import Path

from tiny import tiny_model, tiny_processor

from fafa.training import FafaDataCollator, FafaTrainer, FafaTrainingArguments
from fafa.training.rank_metrics import held_out_rank_metrics

gc.freeze()  # every train() collects garbage: not among all that is imported, which takes half of the time


def tiny_arguments(folder, **arguments) -> FafaTrainingArguments:
    """Eight steps of eight triplets, a checkpoint and a line of log at every second."""
    settings = {
        "output_dir": str(folder),
        "max_steps": 8,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "logging_steps": 2,
        "save_steps": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return FafaTrainingArguments(**{**settings, **arguments})


def tiny_trainer(folder, triplets, model=None, **options) -> FafaTrainer:
    """Of `tiny_arguments`; whatever else a Trainer takes may stand among them."""
    model = model or tiny_model()
    parts = {
        "train_dataset": triplets,
        "eval_dataset": triplets,
        "data_collator": FafaDataCollator(tiny_processor(), augment=True),
        "compute_metrics": held_out_rank_metrics(model),
        "processing_class": None,
        "callbacks": None,
    }
    arguments = {entry.name for entry in fields(FafaTrainingArguments)}
    parts |= {name: options.pop(name) for name in list(options) if name not in arguments}
    return FafaTrainer(model=model, args=tiny_arguments(folder, **options), **parts)


def names_of(folder) -> list[str]:
    """Folders in an output folder."""
    return sorted(path.name for path in Path(folder).iterdir() if path.is_dir())
