"""The terms of the loss and the spread of embeddings, for the log."""

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.utils import ModelOutput

from .guard import embedding_spread


class LossTerms(TrainerCallback, ExportableState):
    """Means since the last log; checkpoints carry what is not logged yet, so that the log of a resumed run is the same.

    All processes compute the loss of their batches together, so one process's numbers stand for all. The state also
    holds the Trainer's own sum of the loss, and the step since which it sums.
    """

    def __init__(self):
        self.sums: dict[str, torch.Tensor | float] = {}
        self.count, self.loss, self.since_step = 0, 0.0, None

    def on_train_begin(self, args, state, control, **kwargs):
        """Goes on from what the checkpoint carries."""
        stored = state.stateful_callbacks.get("LossTerms", {}).get("attributes", {}) if state.global_step else {}
        self.sums, self.count = dict(stored.get("sums", {})), stored.get("count", 0)
        self.loss, self.since_step = stored.get("loss", 0.0), stored.get("since_step")
        state.stateful_callbacks.setdefault("LossTerms", self.state())  # a checkpoint of an earlier version has none

    def add(self, output: ModelOutput) -> None:
        """Takes in what `Retriever.losses` gave, without waiting for the device."""
        terms = {name: value.detach() for name, value in output.items() if name.startswith("loss_")}
        for name, value in (terms | embedding_spread(output)).items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def take_means(self) -> dict[str, float]:
        """The mean of each since it was last asked for."""
        means = {name: float(total) / self.count for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means

    def state(self) -> dict:
        """For the checkpoint that is being written."""
        sums = {name: float(total) for name, total in self.sums.items()}
        kept = {"sums": sums, "count": self.count, "loss": self.loss, "since_step": self.since_step}
        return {"args": {}, "attributes": kept}
