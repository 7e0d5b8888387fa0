"""Evaluation of a model on ITCPR, or another test set of its form: overall, per source, and beside chance."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..modeling_fafa import FafaModel
from ..processing_fafa import FafaProcessor
from .encoding import QUERY_MODES, encode_queries, encode_targets, score_blocks
from .metrics import MatchRanker, chance_metrics

if TYPE_CHECKING:
    import datasets
    import evaluate

OVERALL = "overall"


@dataclass
class EvaluationReport:
    """Metrics of each kind of query over all queries and per source, in percent.

    Args:
        metrics: mode ("image+caption", "caption", "image") -> "overall" or source -> metric -> percentage.
        chance: "overall" or source -> metric -> percentage expected of a random ranking (exact, not simulated).
        num_queries: "overall" or source -> number of queries.
        num_gallery: images in the gallery, which every source searches whole.
        settings: what else belongs in the record: model, data, precision, versions.
    """

    metrics: dict[str, dict[str, dict[str, float]]]
    chance: dict[str, dict[str, float]]
    num_queries: dict[str, int]
    num_gallery: int
    settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The fields as JSON, nested as above."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """A table over all queries and, where there are several sources, one for each."""
        title = f"{self.num_queries[OVERALL]:,} queries, gallery of {self.num_gallery:,} images, percent:"
        parts = [title, self._table(OVERALL)]
        sources = [name for name in self.num_queries if name != OVERALL]
        if len(sources) > 1:
            for source in sources:
                parts += [f"{source}, {self.num_queries[source]:,} queries:", self._table(source)]
        return "\n\n".join(parts) + "\n"

    def _table(self, group: str) -> str:
        rows = {mode: groups[group] for mode, groups in self.metrics.items()} | {"chance": self.chance[group]}
        names = list(self.chance[group])
        lines = [["query", *names], *([mode, *(f"{row[name]:.2f}" for name in names)] for mode, row in rows.items())]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
        return "\n".join(_table_line(line, widths) for line in lines)


def _table_line(cells: list[str], widths: list[int]) -> str:
    padded = [
        cells[0].ljust(widths[0]),
        *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)),
    ]
    return f"| {' | '.join(padded)} |"


def evaluate_itcpr(
    model: FafaModel,
    processor: FafaProcessor,
    queries: "datasets.Dataset",
    gallery: "datasets.Dataset",
    modes: Sequence[str] = tuple(QUERY_MODES),
    ks: Sequence[int] = (1, 5, 10),
    batch_size: int = 64,
    num_workers: int = 0,
    metric: "evaluate.Metric | None" = None,
    progress: bool = True,
) -> EvaluationReport:
    """Ranks the gallery for every query, on the device and in the precision of the model.

    The protocol is the paper's: a gallery image is correct when its instance id equals the query's; queries of one
    source search the whole gallery. No image is left out: one that cannot be read is an error naming its file.

    Args:
        model: it is put into eval mode.
        processor: the model's own.
        queries: with the columns `image`, `caption`, `instance_id` and `source`.
        gallery: with the columns `image` and `instance_id`.
        modes: kinds of query, of "image+caption", "caption", "image".
        ks: the ranks k to report.
        batch_size: images encoded at a time.
        num_workers: processes that read images; 0 reads in this one.
        metric: `evaluate.load(...)` of the folder `composed_retrieval`, to compute the overall metrics through that
            library; None computes the same numbers directly, which is faster (by 20 seconds a mode on ITCPR).
        progress: whether to show progress bars.

    Raises:
        ValueError: a query without a match, an unknown mode, NaN in the features.
        UnreadableImageError: an image cannot be decoded. FileNotFoundError: it is not there.
    """
    query_ids, gallery_ids = queries["instance_id"][:], gallery["instance_id"][:]
    num_matches = MatchRanker(query_ids, gallery_ids).num_matches  # before hours of encoding: raises if one has none
    groups = _groups(queries["source"][:])

    model.eval()
    query_features = encode_queries(model, processor, queries, modes, batch_size, num_workers, progress)
    targets = encode_targets(model, processor, gallery, batch_size, num_workers, progress)

    metrics = {}
    for mode in modes:
        ranker, blocks = MatchRanker(query_ids, gallery_ids), []
        for block in score_blocks(model, query_features[mode], targets):
            ranker.add(block)
            if metric is not None:
                blocks.append(block.cpu())
        results = ranker.results()
        metrics[mode] = {name: results.metrics(ks, members) for name, members in groups.items()}
        if metric is not None:
            metrics[mode][OVERALL] = metric.compute(
                predictions=torch.cat(blocks), references=query_ids, gallery_ids=gallery_ids, ks=ks
            )
    return EvaluationReport(
        metrics=metrics,
        chance={name: chance_metrics(num_matches[members], len(gallery_ids), ks) for name, members in groups.items()},
        num_queries={name: int(members.sum()) for name, members in groups.items()},
        num_gallery=len(gallery_ids),
    )


def _groups(sources: list[str]) -> dict[str, torch.Tensor]:
    """Which queries to average over: all, and those of each source; `(num_queries,)` booleans."""
    groups = {OVERALL: torch.ones(len(sources), dtype=torch.bool)}
    for source in sorted(set(sources)):
        groups[source] = torch.tensor([other == source for other in sources])
    return groups
