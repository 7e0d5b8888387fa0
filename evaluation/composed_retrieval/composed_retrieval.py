"""Metrics of composed person retrieval for the `evaluate` library: `fafa.evaluation.retrieval_metrics` behind it."""

import datasets
import evaluate
import numpy as np

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
    gallery_ids (`list` of `int`): To `compute` alone: the instance id of each gallery image, -1 for distractors.
    ks (`tuple` of `int`): To `compute` alone: the ranks k, (1, 5, 10) unless told.

Returns:
    `dict` of percentages: "rank-1", "rank-5", "rank-10", "mAP", "mINP".

Examples:
    >>> metric = evaluate.load("evaluation/composed_retrieval")
    >>> metric.add_batch(predictions=[[0.1, 0.9, 0.5]], references=[7])
    >>> metric.compute(gallery_ids=[8, -1, 7], ks=(1, 2))
    {'rank-1': 0.0, 'rank-2': 100.0, 'mAP': 50.0, 'mINP': 50.0}
"""

_CITATION = """
@misc{liu2025automaticsyntheticdatafinegrained,
  title         = {Automatic Synthetic Data and Fine-grained Adaptive Feature Alignment for Composed Person Retrieval},
  author        = {Delong Liu and Haiwen Li and Zhaohui Hou and Zhicheng Zhao and Fei Su and Yuan Dong},
  year          = {2025},
  eprint        = {2311.16515},
  archivePrefix = {arXiv},
  primaryClass  = {cs.CV},
  url           = {https://arxiv.org/abs/2311.16515}
}
"""


class ComposedRetrieval(evaluate.Metric):
    """The metric; it stores rows of scores as they come and computes when all are in."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions, references, gallery_ids, ks=(1, 5, 10)):
        return retrieval_metrics(np.asarray(predictions, dtype=np.float32), references, gallery_ids, ks)
