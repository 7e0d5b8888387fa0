"""How well held-out triplets rank while a model trains."""

from collections.abc import Callable

import numpy as np
import torch
from transformers.trainer_utils import EvalPrediction

from ..evaluation import retrieval_metrics
from ..retriever import Retriever


def held_out_rank_metrics(model: Retriever) -> Callable[[EvalPrediction], dict[str, float]]:
    """A `compute_metrics` for held-out triplets: each query against all their targets, only its own being correct.

    Returns:
        a function from the Trainer's `EvalPrediction` to Rank-1, 5, 10, mAP and mINP in percent; the model scores.
    """

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        features = prediction.predictions
        if isinstance(features, list):  # eval_do_concat_batches is off: a pair of arrays for every batch
            features = [np.concatenate(parts) for parts in zip(*features, strict=True)]
        queries, targets = map(torch.from_numpy, features)
        own = np.arange(len(queries))
        return retrieval_metrics(model.score(queries, targets).cpu(), own, own)

    compute.names = ("rank-1", "rank-5", "rank-10", "mAP", "mINP")
    return compute
