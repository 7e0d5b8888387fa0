"""Evaluation: rank metrics, and the runner that scores a model on ITCPR.

`composed_retrieval/` is the same metrics as a module of the `evaluate` library: `evaluate.load` takes that folder.
"""

from .encoding import QUERY_MODES, encode_queries, encode_targets, score_blocks
from .itcpr import EvaluationReport, evaluate_itcpr
from .metrics import MatchRanker, QueryResults, chance_metrics, match_ranks, retrieval_metrics

__all__ = [
    "QUERY_MODES",
    "EvaluationReport",
    "MatchRanker",
    "QueryResults",
    "chance_metrics",
    "encode_queries",
    "encode_targets",
    "evaluate_itcpr",
    "match_ranks",
    "retrieval_metrics",
    "score_blocks",
]
