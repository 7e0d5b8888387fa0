"""Evaluation: rank metrics, the runner that scores a model on ITCPR, its report, and the comparison of two.

`compare` is a command: `fafa evaluate compare A B`. `composed_retrieval/` is the same metrics as a module
of the `evaluate` library: `evaluate.load` takes that folder.
"""

from ..retrieval.encoding import encode_queries, encode_targets
from ..retriever import QUERY_MODES
from .embedders import evaluate_embedder, with_captions
from .image_benchmarks import evaluate_circo, evaluate_cirr, evaluate_fashioniq
from .itcpr import evaluate_features, evaluate_itcpr, late_fusion, score_blocks, sum_of_queries
from .metrics import chance_metrics, retrieval_metrics
from .ranking import MatchRanker, QueryResults, match_ranks
from .report import EvaluationReport
from .report_folder import read_report, write_report
from .server_files import write_server_files
from .text_to_image import evaluate_text_to_image, text_to_image_tables

__all__ = [
    "QUERY_MODES",
    "EvaluationReport",
    "MatchRanker",
    "QueryResults",
    "chance_metrics",
    "encode_queries",
    "encode_targets",
    "evaluate_circo",
    "evaluate_cirr",
    "evaluate_embedder",
    "evaluate_fashioniq",
    "evaluate_features",
    "evaluate_itcpr",
    "evaluate_text_to_image",
    "late_fusion",
    "match_ranks",
    "read_report",
    "retrieval_metrics",
    "score_blocks",
    "sum_of_queries",
    "text_to_image_tables",
    "with_captions",
    "write_report",
    "write_server_files",
]
