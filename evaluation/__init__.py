"""Evaluation: rank metrics, the runner that scores a model on ITCPR, its report, and the comparison of two.

`compare` is a command: `python -m fafa.evaluation.compare A B`. `composed_retrieval/` is the same metrics as a module
of the `evaluate` library: `evaluate.load` takes that folder.
"""

from .encoding import QUERY_MODES, encode_queries, encode_targets, score_blocks
from .itcpr import evaluate_itcpr, late_fusion
from .metrics import MatchRanker, QueryResults, chance_metrics, match_ranks, retrieval_metrics
from .report import EvaluationReport, read_report, write_report

__all__ = [
    "QUERY_MODES",
    "EvaluationReport",
    "MatchRanker",
    "QueryResults",
    "chance_metrics",
    "encode_queries",
    "encode_targets",
    "evaluate_itcpr",
    "late_fusion",
    "match_ranks",
    "read_report",
    "retrieval_metrics",
    "score_blocks",
    "write_report",
]
