"""Benchmarks of composed image retrieval: FashionIQ, CIRR and CIRCO, for any model of the contract, zero-shot or not.

Each has the metrics that its authors publish, in percent. Scores come in blocks of rows and are ranked as all scores
are here, so the whole matrix never exists. Of splits whose targets a server keeps there are predictions, for
`server_files.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..retrieval.encoding import encode_queries, encode_targets
from ..retriever import Retriever, RetrieverProcessor
from .intervals import intervals_over_groups
from .itcpr import ROWS, score_blocks
from .ranking import MatchRanker, QueryResults, top_images

if TYPE_CHECKING:
    import datasets

FASHIONIQ_KS, CIRR_KS, SUBSET_KS, CIRCO_KS = (10, 50), (1, 5, 10, 50), (1, 2, 3), (5, 10, 25, 50)
TOP, SUBSET_TOP = 50, 3  # images of a query that servers take
COMPOSED = "image+caption"


class BenchmarkResults(NamedTuple):
    """What a benchmark's evaluation gives.

    Args:
        metrics: group of queries -> metric -> percent; empty where the targets are kept by a server.
        predictions: metric of a server -> query -> images, best first; of FashionIQ, which has no server, empty.
        per_query: group of queries -> metric -> percent of each of its queries, in their order; a recall is 100 for a
            hit and 0 for none. FashionIQ's mean, which is over categories, is no such group.
    """

    metrics: dict[str, dict[str, float]]
    predictions: dict[str, dict[int, list]]
    per_query: dict[str, dict[str, list[float]]]

    def intervals(self, seed: int = 0) -> dict[str, dict[str, list[float]]]:
        """95 % bootstrap intervals in percent: group of queries -> metric -> [lower, upper]; see `intervals.py`.

        That of FashionIQ's mean is of the mean over categories, whose queries are sampled within each.
        """
        values = {group: np.array(list(of.values())).T for group, of in self.per_query.items()}
        intervals = {}
        for group, of in self.metrics.items():
            of_groups = [values[group]] if group in values else list(values.values())
            ends = intervals_over_groups(of_groups, seed=seed)
            intervals[group] = dict(zip(of, ends.tolist(), strict=True))
        return intervals


def average_precision_at(results: QueryResults, k: int) -> Tensor:
    """Of each query the mean of the precision at the ranks of its matches up to k, over min(matches, k) (CIRCO).

    Returns:
        `(num_queries,)`, fp64, from 0 to 1.
    """
    query = torch.repeat_interleave(results.num_matches)
    starts = results.num_matches.cumsum(0) - results.num_matches
    found = torch.arange(1, len(results.ranks) + 1) - starts[query]  # matches at this rank or before
    precision = torch.where(results.ranks <= k, found.double() / results.ranks, 0.0)
    total = torch.zeros(len(results.num_matches), dtype=torch.double).index_add(0, query, precision)
    return total / results.num_matches.clamp(max=k)


def fashioniq_results(
    scores: Mapping[str, Iterable[Tensor]], targets: Mapping[str, Sequence[str]], names: Mapping[str, Sequence[str]]
) -> BenchmarkResults:
    """Recall@10 and Recall@50 of each category, and their means over categories.

    The reference stays in the gallery, as in the authors' own evaluation.

    Args:
        scores: category -> blocks of rows, `(num_queries, num_gallery)` together, higher is better.
        targets: category -> the name of each query's target.
        names: category -> names of its gallery's images.

    Raises:
        ValueError: a target is not in the gallery, or scores do not fit.
    """
    per_query = {}
    for category, blocks in scores.items():
        ranker = MatchRanker(list(targets[category]), list(names[category]))
        for block in blocks:
            ranker.add(block)
        per_query[category] = _recalls(ranker.results(), FASHIONIQ_KS)
    metrics = _means(per_query)
    means = {name: sum(of[name] for of in metrics.values()) / len(metrics) for name in next(iter(metrics.values()))}
    return BenchmarkResults({**metrics, "mean": means}, {}, per_query)


def cirr_results(
    scores: Iterable[Tensor],
    pair_ids: Sequence[int],
    references: Sequence[str],
    members: Sequence[Sequence[str]],
    names: Sequence[str],
    targets: Sequence[str] | None = None,
) -> BenchmarkResults:
    """Recall@1/5/10/50 over the gallery, Recall_subset@1/2/3 over the reference's set; the reference is left out.

    Args:
        scores: blocks of rows, `(num_queries, num_gallery)` together, higher is better.
        pair_ids: numbers of the queries.
        references: names of the reference images.
        members: names of the images of each reference's set.
        names: of the gallery's images.
        targets: names of the targets; None where a server keeps them.

    Raises:
        ValueError: an image is not in the gallery, or scores do not fit.
    """
    place = {name: index for index, name in enumerate(names)}
    if unknown := [name for of_query in members for name in of_query if name not in place]:
        raise ValueError(f"{unknown[0]} is in a query's set and not in the gallery: are both of one split?")
    rankers = None if targets is None else [MatchRanker(list(targets), list(names)) for _ in range(2)]
    predictions: dict[str, dict[int, list]] = {"recall": {}, "recall_subset": {}}
    first = 0
    for block in scores:
        rows = range(first, first + len(block))
        block = _without(block, [place.get(references[row]) for row in rows])
        in_set = torch.full_like(block, float("-inf"))
        for number, row in enumerate(rows):
            chosen = torch.tensor([place[name] for name in members[row] if name != references[row]])
            in_set[number, chosen] = block[number, chosen]
        for metric, of_metric, k in (("recall", block, TOP), ("recall_subset", in_set, SUBSET_TOP)):
            for row, images in zip(rows, _best(of_metric, k), strict=True):
                predictions[metric][pair_ids[row]] = [names[image] for image in images]
        for ranker, of_metric in zip(rankers or (), (block, in_set), strict=False):
            ranker.add(of_metric)
        first += len(block)
    if rankers is None:
        return BenchmarkResults({}, predictions, {})
    whole, subset = (ranker.results() for ranker in rankers)
    per_query = {"overall": _recalls(whole, CIRR_KS) | _recalls(subset, SUBSET_KS, "recall_subset")}
    return BenchmarkResults(_means(per_query), predictions, per_query)


def circo_results(
    scores: Iterable[Tensor],
    query_ids: Sequence[int],
    references: Sequence[int],
    image_ids: Sequence[int],
    truths: Sequence[Sequence[int]] | None = None,
    aspects: Sequence[Sequence[str]] | None = None,
    keep_reference: bool = False,
) -> BenchmarkResults:
    """mAP@5/10/25/50 over all queries and over those of each semantic aspect.

    Args:
        scores: blocks of rows, `(num_queries, num_gallery)` together, higher is better.
        query_ids: numbers of the queries; references: numbers of the reference images.
        image_ids: numbers of the gallery's images.
        truths: numbers of all targets of each query; None where a server keeps them.
        aspects: semantic aspects of each query.
        keep_reference: whether the reference may be found. It is never a target; the authors' baseline keeps it.

    Raises:
        ValueError: a target is not in the gallery, or scores do not fit.
    """
    place = {number: index for index, number in enumerate(image_ids)}
    ranker = None
    if truths is not None:
        if unknown := [number for of_query in truths for number in of_query if number not in place]:
            raise ValueError(f"image {unknown[0]} is a target and not in the gallery: is the gallery whole?")
        matches = [[place[number] for number in of_query] for of_query in truths]
        ranker = MatchRanker.of_matches(matches, len(image_ids))
    predictions: dict[int, list] = {}
    first = 0
    for block in scores:
        rows = range(first, first + len(block))
        if not keep_reference:
            block = _without(block, [place.get(references[row]) for row in rows])
        for row, images in zip(rows, _best(block, TOP), strict=True):
            predictions[query_ids[row]] = [image_ids[image] for image in images]
        if ranker is not None:
            ranker.add(block)
        first += len(block)
    if ranker is None:
        return BenchmarkResults({}, {"map": predictions}, {})
    results = ranker.results()
    values = {f"mAP@{k}": 100 * average_precision_at(results, k) for k in CIRCO_KS}
    names = sorted({name for of_query in aspects or () for name in of_query})
    members = {"overall": torch.ones(len(query_ids), dtype=torch.bool)} | {
        name: torch.tensor([name in of_query for of_query in aspects]) for name in names
    }
    per_query = {
        group: {name: of_queries[chosen].tolist() for name, of_queries in values.items()}
        for group, chosen in members.items()
    }
    return BenchmarkResults(_means(per_query), {"map": predictions}, per_query)


def evaluate_fashioniq(
    model: Retriever,
    processor: RetrieverProcessor,
    queries: "datasets.Dataset",
    gallery: "datasets.Dataset",
    mode: str = COMPOSED,
    **options: Any,
) -> BenchmarkResults:
    """Ranks each category's gallery for its queries, see `fashioniq_results`.

    A query has two captions; they are joined by "and" in both orders, and the features of both are averaged, as is
    usual for zero-shot models, which know no order.

    Args:
        model, processor: of the contract, one with the other.
        queries, gallery: of `load_dataset("FashionIQ", ...)`, one split with targets.
        mode: kind of query, of `QUERY_MODES`.
        options: `batch_size`, `num_workers`, `features_dir`, `progress`, see `encode_queries`.

    Raises:
        ValueError: queries have no targets. For images and features see `encode_images`.
    """
    if None in queries["target"][:]:
        raise ValueError("FashionIQ's test split has no targets, and no server is known to us: evaluate on val")
    both = []
    for order in ("forward", "reversed") if "caption" in mode else ("forward",):
        joined = [join_captions(pair if order == "forward" else pair[::-1]) for pair in queries["captions"][:]]
        asked = queries.select_columns(["image"]).add_column("caption", joined)
        both.append(_encode(model, processor, asked, mode, f"queries-{order}", **options))
    features = F.normalize(torch.stack(both).sum(dim=0), dim=-1)
    targets = _encode_gallery(model, processor, gallery, **options)
    of_query, of_image = queries["category"][:], gallery["category"][:]
    target_names, names = queries["target"][:], gallery["name"][:]
    scores, wanted, known = {}, {}, {}
    for category in dict.fromkeys(of_query):
        rows = [row for row, name in enumerate(of_query) if name == category]
        images = [row for row, name in enumerate(of_image) if name == category]
        scores[category] = score_blocks(model, features[rows], targets[images], ROWS)
        wanted[category] = [target_names[row] for row in rows]
        known[category] = [names[row] for row in images]
    return fashioniq_results(scores, wanted, known)


def evaluate_cirr(
    model: Retriever,
    processor: RetrieverProcessor,
    queries: "datasets.Dataset",
    gallery: "datasets.Dataset",
    mode: str = COMPOSED,
    **options: Any,
) -> BenchmarkResults:
    """Ranks the gallery and each reference's set, see `cirr_results`; arguments as for `evaluate_fashioniq`."""
    features = _encode(model, processor, queries, mode, "queries", **options)
    targets, given = _encode_gallery(model, processor, gallery, **options), queries["target"][:]
    return cirr_results(
        score_blocks(model, features, targets, ROWS),
        queries["pair_id"][:],
        queries["reference"][:],
        queries["members"][:],
        gallery["name"][:],
        None if None in given else given,
    )


def evaluate_circo(
    model: Retriever,
    processor: RetrieverProcessor,
    queries: "datasets.Dataset",
    gallery: "datasets.Dataset",
    mode: str = COMPOSED,
    keep_reference: bool = False,
    **options: Any,
) -> BenchmarkResults:
    """Ranks the gallery, see `circo_results`; arguments as for `evaluate_fashioniq`."""
    features = _encode(model, processor, queries, mode, "queries", **options)
    targets, truths = _encode_gallery(model, processor, gallery, **options), queries["ground_truth"][:]
    return circo_results(
        score_blocks(model, features, targets, ROWS),
        queries["query_id"][:],
        queries["reference"][:],
        gallery["image_id"][:],
        truths if all(truths) else None,
        queries["semantic_aspects"][:],
        keep_reference,
    )


def join_captions(captions: Sequence[str]) -> str:
    """Captions of one query as one; one that is blank is left out."""
    return " and ".join(text for caption in captions if (text := caption.strip(" .?,")))


def _encode(model, processor, queries, mode, folder, features_dir=None, **options) -> Tensor:
    place = features_dir and Path(features_dir, folder)
    return encode_queries(model, processor, queries, [mode], features_dir=place, **options)[mode]


def _encode_gallery(model, processor, gallery, features_dir=None, **options) -> Tensor:
    return encode_targets(
        model, processor, gallery, features_dir=features_dir and Path(features_dir, "gallery"), **options
    )


def _without(scores: Tensor, images: Sequence[int | None]) -> Tensor:
    """The scores, each row without one image."""
    scores = scores.clone()
    rows = [row for row, image in enumerate(images) if image is not None]
    scores[rows, [images[row] for row in rows]] = float("-inf")
    return scores


def _best(scores: Tensor, k: int) -> list[list[int]]:
    """The images ranked first, those left out aside."""
    return [
        [image for image, value in zip(images, values, strict=True) if value != float("-inf")]
        for values, images in ((v.tolist(), i.tolist()) for v, i in zip(*top_images(scores, k), strict=True))
    ]


def _recalls(results: QueryResults, ks: Sequence[int], name: str = "recall") -> dict[str, list[float]]:
    """Of each query 100 for a hit and 0 for none."""
    return {f"{name}@{k}": (100 * (results.first_rank <= k).double()).tolist() for k in ks}


def _means(per_query: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, dict[str, float]]:
    return {group: {name: float(np.mean(values)) for name, values in of.items()} for group, of in per_query.items()}


__all__ = [
    "BenchmarkResults",
    "average_precision_at",
    "circo_results",
    "cirr_results",
    "evaluate_circo",
    "evaluate_cirr",
    "evaluate_fashioniq",
    "fashioniq_results",
    "join_captions",
]
