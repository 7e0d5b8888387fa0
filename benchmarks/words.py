"""What the two benchmarks of pseudo-words share: a test set encoded for one model, and how well features find in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import load_dataset
from torch import Tensor

from fafa.evaluation.itcpr import score_blocks
from fafa.evaluation.ranking import match_ranks
from fafa.models.word4per import Word4PerModel
from fafa.retrieval.encoding import encode_targets
from fafa.retriever import RetrieverProcessor


@dataclass(frozen=True)
class TestInputs:
    """Queries as a model takes them, and the gallery's features."""

    inputs: Mapping[str, Tensor]
    targets: Tensor
    query_ids: list[int]
    gallery_ids: list[int]
    captions: list[str]


def gallery_of(work: Path, model: Word4PerModel, processor: RetrieverProcessor) -> TestInputs:
    """The hard world's test set."""
    folder = str(work / "worlds/hard/ITCPR")
    queries, gallery = (load_dataset("ITCPR", name, data_dir=folder, split="test") for name in ("query", "gallery"))
    return TestInputs(
        processor(images=queries["image"][:], text=queries["caption"][:], return_tensors="pt"),
        encode_targets(model, processor, gallery, progress=False),
        queries["instance_id"][:],
        gallery["instance_id"][:],
        queries["caption"][:],
    )


def mean_precisions(model: Word4PerModel, test: TestInputs, features: Tensor) -> np.ndarray:
    """Average precision of every query, percent: `(num_queries,)`."""
    ranked = match_ranks(score_blocks(model, features, test.targets), test.query_ids, test.gallery_ids)
    return 100 * ranked.average_precision.numpy()
