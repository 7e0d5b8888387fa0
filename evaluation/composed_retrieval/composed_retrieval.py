"""Metrics of composed person retrieval for the `evaluate` library: `fafa.evaluation.retrieval_metrics` behind it."""

import datasets
import evaluate
import numpy as np

from fafa.citation_fafa import CITATION
from fafa.evaluation.metrics import retrieval_metrics

_DESCRIPTION = """
Rank-k, mAP and mINP of composed person retrieval: queries of a reference image and a relative caption, ranked against a
gallery of person images. An image is correct when its instance id equals the query's.
"""

_INPUTS = """
Args:
    predictions (`list` of `list` of `float`): For each query its row of scores, one per gallery image; higher is
        better. Equal scores rank in gallery order.
    references (`list` of `int`): The instance id of each query.
    gallery_ids (`list` of `int`): To `evaluate.load` or `compute`: the instance id of each gallery image, -1 for
        distractors.
    ks (`tuple` of `int`): To `evaluate.load` or `compute`: the ranks k, (1, 5, 10) unless told.

Returns:
    `dict` of percentages: "rank-1", "rank-5", "rank-10", "mAP", "mINP".

Examples:
    >>> metric = evaluate.load("evaluation/composed_retrieval")
    >>> metric.add_batch(predictions=[[0.1, 0.9, 0.5]], references=[7])
    >>> metric.compute(gallery_ids=[8, -1, 7], ks=(1, 2))
    {'rank-1': 0.0, 'rank-2': 100.0, 'mAP': 50.0, 'mINP': 50.0}
"""


class ComposedRetrieval(evaluate.Metric):
    """The metric; it stores rows of scores as they come and computes when all are in.

    What the gallery holds is better given to `evaluate.load` where `compute` belongs to others too, as in
    `evaluate.combine`: that hands its arguments to every metric.
    """

    def __init__(self, *args, gallery_ids=None, ks=(1, 5, 10), **kwargs):
        super().__init__(*args, **kwargs)
        self.gallery_ids, self.ks = gallery_ids, ks
        # As Python numbers scores take four times as long to come back. MetricInfo refuses this for lists, needlessly.
        self.info.format = "numpy"

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions, references, gallery_ids=None, ks=None):
        gallery_ids = self.gallery_ids if gallery_ids is None else gallery_ids
        if gallery_ids is None:
            raise ValueError("give gallery_ids, the instance id of each gallery image, to evaluate.load or to compute")
        if len(predictions) == 0:
            raise ValueError("no predictions: give a row of scores for each query, by add_batch or to compute")
        if len(lengths := {len(row) for row in predictions}) > 1:
            raise ValueError(f"predictions: rows of {min(lengths)} and of {max(lengths)} scores, not one per image")
        scores = np.stack(predictions).astype(np.float32, copy=False)
        return retrieval_metrics(scores, references, gallery_ids, self.ks if ks is None else ks)
