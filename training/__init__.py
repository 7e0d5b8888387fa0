"""Training with the Hugging Face Trainer: batches, augmentation, the trainer, vocabularies for small worlds."""

from importlib import import_module

_EXPORTS = {
    "CheckpointError": "safety.checkpoints",
    "RetrieverTrainer": "trainer",
    "RetrieverTrainingArguments": "arguments",
    "TripletCollator": "collator",
    "TripletBatches": "batches",
    "TrainingCollapsed": "safety.guard",
    "TrainingPreempted": "safety.preemption",
    "hold_out_quadruples": "split",
    "caption_pairs": "pairs",
    "build_vocabulary": "vocabulary",
    "held_out_rank_metrics": "rank_metrics",
    # Names of earlier versions of three of these.
    "FafaDataCollator": "collator",
    "FafaTrainer": "trainer",
    "FafaTrainingArguments": "arguments",
}

__all__ = list(_EXPORTS)


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
