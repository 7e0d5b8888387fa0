"""Evaluation of a model on ITCPR, or another test set of its form: overall, by source and caption length, by query."""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from ..retrieval.encoding import encode_queries, encode_targets
from ..retriever import QUERY_MODES, Retriever, RetrieverProcessor
from .intervals import bootstrap_intervals
from .metrics import chance_metrics, tell_ties, ties_of
from .open_set import OpenSetScores
from .ranking import MatchRanker, QueryResults, checked_ks, match_ranks, top_images
from .report import LATE_FUSION, OVERALL, SUM, EvaluationReport

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

TOP = 50  # images listed for each query
ROWS = 128  # queries scored together: all modes' blocks exist at a time
CAPTION_LENGTHS = {  # the most words, between blanks; captions of ITCPR have 3 to 32, 9.5 on average
    "up to 6 words": 6,
    "7 to 9 words": 9,
    "10 to 12 words": 12,
    "13 words or more": math.inf,
}
TOKEN_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # points of the curve over k, as far as a model has tokens
GALLERY_SIZES, GALLERY_SAMPLES = 6, 5  # points of the curve over gallery size, and samples of each


def evaluate_itcpr(
    model: Retriever,
    processor: RetrieverProcessor,
    queries: "datasets.Dataset",
    gallery: "datasets.Dataset",
    modes: Sequence[str] = tuple(QUERY_MODES),
    ks: Sequence[int] = (1, 5, 10),
    batch_size: int = 64,
    num_workers: int = 0,
    features_dir: str | Path | None = None,
    features_dtype: torch.dtype | None = None,
    curves: bool = False,
    seed: int = 0,
    progress: bool = True,
    open_set: bool = False,
) -> EvaluationReport:
    """Ranks the gallery for every query, on the device and in the precision of the model.

    The protocol is the paper's: a gallery image is correct when its instance id equals the query's; queries of one
    source search the whole gallery. No image is left out: one that cannot be read is an error naming its file.

    Args:
        queries: with the columns `image`, `image_path`, `caption`, `instance_id` and `source`.
        gallery: with the columns `image`, `image_path` and `instance_id`.
        modes: kinds of query, of "image+caption", "caption", "image". With the last two the report has their
            `sum_of_queries` and their `late_fusion` as well. The first one is the subject of curves and sheets.
        ks: the ranks k to report.
        batch_size: images encoded at a time.
        num_workers: processes that read images; 0 reads in this one.
        features_dir: keeps features in its folders `queries` and `gallery`, to resume from and to use again; several
            launched processes share the work there.
        features_dtype: precision of the gallery's features, such as float16 for half the memory; None: the model's.
        curves: also scores with other numbers of top tokens, where the model has several, and ranks in random parts of
            the gallery; that takes ten times as long as scoring once (of ITCPR, 70 CPU-seconds).
        seed: decides the bootstrap and the parts of the gallery.
        open_set: also asks every query of the gallery without its matches: can the model tell that nobody matches?
            Where every image matches a query, a warning says that there are no such figures.

    Raises:
        ValueError: a query without a match or with the id of distractors, a column that is missing, an unknown mode or
            an option that makes no sense, NaN in the features, scores that tell no images apart.
        FileNotFoundError, UnreadableImageError: an image is missing, or cannot be decoded.
    """
    if features_dtype is not None and not features_dtype.is_floating_point:
        raise ValueError(f"features_dtype is {features_dtype}, which would round features to zero: expected a float")
    TestSet(queries, gallery, ks)  # before hours of encoding: it raises if a query has no match, or a column is missing
    model.eval()
    options = {"batch_size": batch_size, "num_workers": num_workers, "progress": progress}
    folders = [features_dir and Path(features_dir, name) for name in ("queries", "gallery")]
    query_features = encode_queries(model, processor, queries, modes, **options, features_dir=folders[0])
    targets = encode_targets(model, processor, gallery, **options, features_dir=folders[1], dtype=features_dtype)
    return evaluate_features(model, query_features, targets, queries, gallery, ks, curves, seed, progress, open_set)


class Scorer(Protocol):
    """What features are compared by: a model, or `Cosine`."""

    num_top_tokens: int

    def score(self, queries: Tensor, targets: Tensor, num_top_tokens: int | None = None) -> Tensor:
        """`(num_queries, num_images)`."""


class TestSet:
    """Queries and a gallery in ITCPR's form, checked: what every evaluation of features looks at.

    Raises:
        ValueError: a query without a match or with the id of distractors, a column that is missing, a text that is
            none, a k below 1.
    """

    __test__ = False  # no test of pytest's

    def __init__(self, queries: "datasets.Dataset", gallery: "datasets.Dataset", ks: Sequence[int]):
        self.ks = checked_ks(ks)
        check_columns(queries, "queries", ("image", "image_path", "caption", "instance_id", "source"))
        check_columns(gallery, "gallery", ("image", "image_path", "instance_id"))
        self.query_ids, self.gallery_ids = queries["instance_id"][:], gallery["instance_id"][:]
        self.query_paths, self.gallery_paths = queries["image_path"][:], gallery["image_path"][:]
        num_matches = MatchRanker(self.query_ids, self.gallery_ids).num_matches
        self.captions, self.sources = queries["caption"][:], queries["source"][:]
        for name, texts in (("caption", self.captions), ("source", self.sources)):
            if strange := [index for index, text in enumerate(texts) if not isinstance(text, str)]:
                raise ValueError(f"query {strange[0]}: its {name} is {texts[strange[0]]!r}, expected a text")
        sources = list(map(_source_group, self.sources))
        self.groups = {
            "source": _members(sources, sorted(set(sources))),
            "caption length": _members([_caption_length(caption) for caption in self.captions], list(CAPTION_LENGTHS)),
        }
        everyone = {OVERALL: torch.ones(len(self.query_ids), dtype=torch.bool)}
        self.members = everyone | self.groups["source"] | self.groups["caption length"]
        self.chance = {
            name: chance_metrics(num_matches[chosen], len(self.gallery_ids), self.ks)
            for name, chosen in self.members.items()
        }


def evaluate_features(
    scorer: Scorer,
    query_features: Mapping[str, Tensor],
    targets: Tensor,
    queries: "datasets.Dataset",
    gallery: "datasets.Dataset",
    ks: Sequence[int] = (1, 5, 10),
    curves: bool = False,
    seed: int = 0,
    progress: bool = True,
    open_set: bool = False,
) -> EvaluationReport:
    """Ranks the gallery by features that are there already, whoever made them; see `evaluate_itcpr`.

    Args:
        scorer: has `score(queries, targets, num_top_tokens)` and `num_top_tokens`.
        query_features: kind of query -> `(num_queries, dim)`, unit length.
        targets: `(num_gallery, num_tokens, dim)`, each token of unit length.
        queries: see `evaluate_itcpr`, as all that follow.
    """
    of = TestSet(queries, gallery, ks)
    ks, query_ids, gallery_ids, members = of.ks, of.query_ids, of.gallery_ids, of.members

    # One pass over the queries: every mode's scores of a few queries at a time.
    main = next(iter(query_features))
    has_both = {"caption", "image"} <= query_features.keys()
    if has_both:
        both = sum_of_queries(query_features["caption"], query_features["image"])
        query_features = {**query_features, SUM: both}
    modes = list(query_features)
    rankings = {name: _Ranking(query_ids, gallery_ids) for name in (*modes, *([LATE_FUSION] if has_both else []))}
    parts = _gallery_parts(query_ids, gallery_ids, seed) if curves else []
    open_sets = {}
    if open_set:
        try:
            open_sets = {name: OpenSetScores(query_ids, gallery_ids) for name in rankings}
        except ValueError as error:
            logger.warning("%s", error)
    blocks = zip(*(score_blocks(scorer, query_features[mode], targets, ROWS) for mode in modes), strict=True)
    num_blocks = -(-len(query_ids) // ROWS)
    for block in tqdm(blocks, "scoring", num_blocks, unit="block", disable=not progress):
        scores = dict(zip(modes, block, strict=True))
        if has_both:
            scores[LATE_FUSION] = late_fusion(scores["caption"], scores["image"])
        for name, ranking in rankings.items():
            ranking.add(scores[name])
        for name, of_mode in open_sets.items():
            of_mode.add(scores[name])
        for images, ranker in parts:
            ranker.add(scores[main].index_select(1, images.to(scores[main].device)))
    results = {name: ranking.results(name) for name, ranking in rankings.items()}
    metrics = {
        name: {group: ranked.metrics(ks, chosen) for group, chosen in members.items()}
        for name, ranked in results.items()
    }
    ties = {name: ties_of(ranked, ks) for name, ranked in results.items()}
    for name, of_mode in ties.items():
        if (remark := tell_ties(of_mode, metrics[name][OVERALL], len(query_ids))) is not None:
            logger.warning("%s: %s", name, remark)

    lists = {name: ranking.lists(results[name]) for name, ranking in rankings.items()}
    found = {}
    if curves:
        found["mode"] = main
        if targets.shape[1] > 1:
            given = query_features[main], targets, query_ids, gallery_ids
            found["top_tokens"] = _top_token_curve(scorer, *given, ks, progress)
        samples: dict[int, list] = {}
        for images, ranker in parts:
            samples.setdefault(len(images), []).append(ranker.results().metrics(ks))
        found["gallery_size"] = [{"num_images": size, "draws": samples[size]} for size in sorted(samples)]
    columns = zip(of.query_paths, of.captions, of.sources, query_ids, strict=True)
    fields = ("image_path", "caption", "source", "instance_id")
    return EvaluationReport(
        metrics=metrics,
        intervals=_intervals(results, members, ks, seed),
        chance=of.chance,
        groups={kind: list(names) for kind, names in of.groups.items()},
        num_queries={name: int(chosen.sum()) for name, chosen in members.items()},
        num_gallery=len(gallery_ids),
        gallery_fingerprint=_fingerprint(of.gallery_paths, gallery_ids),
        ks=list(ks),
        queries=[
            {"index": index, **dict(zip(fields, values, strict=True))}
            | {"results": {name: listed[index] for name, listed in lists.items()}}
            for index, values in enumerate(columns)
        ],
        curves=found,
        settings={"num_top_tokens": scorer.num_top_tokens, "seed": seed},
        ties=ties,
        open_set={name: of_mode.figures(seed) for name, of_mode in open_sets.items()},
    )


def score_blocks(
    scorer: Scorer, queries: Tensor, targets: Tensor, rows: int = 512, num_top_tokens: int | None = None
) -> Iterator[Tensor]:
    """Scores `rows` queries at a time against the whole gallery: blocks of `(rows, num_gallery)`, fp32."""
    for block in queries.split(rows):
        yield scorer.score(block, targets, num_top_tokens)


def sum_of_queries(first: Tensor, second: Tensor) -> Tensor:
    """Joins the embeddings of two kinds of query: their sum, of unit length again.

    Args:
        first: `(num_queries, dim)`, unit length; `second`: the same queries' embeddings by the other kind.

    Returns:
        `(num_queries, dim)`, in the precision of `first`.

    Raises:
        ValueError: their shapes differ, or the two of a query are opposite, so that their sum has no direction.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            f"expected two kinds of queries, (num_queries, dim) both, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    both = first.float() + second.float()
    if (is_zero := (both == 0).all(dim=1)).any():
        raise ValueError(
            f"query {int(is_zero.nonzero()[0])}: its two embeddings are opposite, so that their sum has no direction. "
            "Evaluate other kinds of query, not both of them"
        )
    return F.normalize(both, dim=-1).to(first.dtype)


def late_fusion(first: Tensor, second: Tensor) -> Tensor:
    """Joins the scores of two kinds of query: the mean of both, each standardised over the gallery.

    Without that the one whose scores spread further would decide alone.

    Args:
        first: `(num_queries, num_gallery)`; `second`: the same queries' and images' scores by the other kind.

    Returns:
        `(num_queries, num_gallery)`, in standard deviations above the gallery's mean.

    Raises:
        ValueError: their shapes differ.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            f"expected two kinds of scores, (num_queries, num_gallery) both, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    if not (first.is_floating_point() and second.is_floating_point()):
        first, second = first.double(), second.double()
    fused = torch.zeros_like(first)
    for scores in (first, second):
        spread, mean = torch.std_mean(scores, dim=1, keepdim=True, correction=0)
        fused += (scores - mean).div_(2 * spread.clamp_min(torch.finfo(scores.dtype).tiny))
    return fused


class _Ranking:
    """Ranks of the matches and the images ranked first, from blocks of scores."""

    def __init__(self, query_ids: Sequence[int], gallery_ids: Sequence[int]):
        self.ranker, self.top = MatchRanker(query_ids, gallery_ids), []
        self._tells_apart = len(gallery_ids) < 2  # whether any query has scores that differ

    def add(self, scores: Tensor) -> None:
        self.ranker.add(scores)
        self.top += zip(*(top.tolist() for top in top_images(scores, TOP)), strict=True)
        self._tells_apart = self._tells_apart or bool((scores != scores[:, :1]).any())

    def results(self, mode: str) -> QueryResults:
        """The ranks of the matches.

        Raises:
            ValueError: for every query all images have one score, so that ranks would be the gallery's order.
        """
        if not self._tells_apart:
            raise ValueError(
                f"{mode}: for every query all images of the gallery have the same score, so there is no ranking. The "
                "model's features are all alike: is it trained, was it loaded whole, is its precision too low?"
            )
        return self.ranker.results()

    def lists(self, results: QueryResults) -> list[dict]:
        """The entries of the report for each query."""
        matches = results.images.split(results.num_matches.tolist())
        worst = results.pessimistic.first_rank.tolist()
        precisions = results.average_precision.tolist()
        columns = zip(results.ranks_per_query, worst, matches, precisions, self.top, strict=True)
        return [
            {
                "first_rank": int(ranks[0]),
                "pessimistic_first_rank": pessimistic,
                "ranks": ranks.tolist(),
                "matches": of_query.tolist(),
                "average_precision": round(precision, 6),
                "top_images": images,
                "top_scores": [round(score, 6) for score in scores],
            }
            for ranks, pessimistic, of_query, precision, (scores, images) in columns
        ]


def _gallery_parts(query_ids: Sequence[int], gallery_ids: Sequence[int], seed: int) -> list[tuple[Tensor, MatchRanker]]:
    """Random parts of the gallery, from the matches alone to the whole, and their rankers; all keep every match."""
    gallery_ids = np.asarray(gallery_ids)
    is_match = np.isin(gallery_ids, query_ids)
    matches, others = is_match.nonzero()[0], (~is_match).nonzero()[0]
    sizes = np.unique(np.geomspace(len(matches), len(gallery_ids), GALLERY_SIZES).round().astype(int))
    rng, parts = np.random.default_rng(seed), []
    for sample in range(GALLERY_SAMPLES):
        others = rng.permutation(others)
        for size in sizes.tolist():
            if sample and size in (len(matches), len(gallery_ids)):
                continue  # there is only one such part
            images = np.sort(np.concatenate([matches, others[: size - len(matches)]]))  # in order, for ties
            parts.append((torch.from_numpy(images), MatchRanker(query_ids, gallery_ids[images])))
    return parts


def _top_token_curve(
    scorer: Scorer,
    queries: Tensor,
    targets: Tensor,
    query_ids: Sequence[int],
    gallery_ids: Sequence[int],
    ks: Sequence[int],
    progress: bool,
) -> list[dict]:
    """Metrics with the mean of the k largest similarities, for other k than the model's as well."""
    num_tokens = targets.shape[1]
    counts = sorted({count for count in TOKEN_COUNTS if count <= num_tokens} | {scorer.num_top_tokens, num_tokens})
    points = []
    for count in tqdm(counts, "scoring with other numbers of top tokens", disable=not progress):
        ranks = match_ranks(score_blocks(scorer, queries, targets, ROWS, count), query_ids, gallery_ids)
        points.append({"num_top_tokens": count, **ranks.metrics(ks)})
    return points


def _intervals(
    results: dict[str, QueryResults], members: dict[str, Tensor], ks: Sequence[int], seed: int
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """95 % intervals in percent: mode -> group -> metric -> [lower, upper]."""
    per_query = {mode: ranked.per_query(ks) for mode, ranked in results.items()}
    values = 100 * np.stack([column.numpy() for columns in per_query.values() for column in columns.values()], axis=1)
    intervals: dict = {mode: {} for mode in results}
    for group, chosen in members.items():
        ends = iter(bootstrap_intervals(values[chosen.numpy()], seed=seed).tolist())
        for mode, columns in per_query.items():
            intervals[mode][group] = {metric: next(ends) for metric in columns}
    return intervals


def check_columns(table: "datasets.Dataset", name: str, expected: Sequence[str]) -> None:
    """Refuses a table without the columns that an evaluation reads."""
    if missing := [column for column in expected if column not in table.column_names]:
        raise ValueError(f"{name} lack the columns {', '.join(missing)}: load them with load_dataset('ITCPR', ...)")


def _members(labels: list[str], names: list[str]) -> dict[str, Tensor]:
    """Which queries have each label, `(num_queries,)` booleans; labels that none has are left out."""
    return {name: torch.tensor([label == name for label in labels]) for name in names if name in labels}


def _source_group(source: str) -> str:
    """The name of a source's group; one that is called like another group is marked as a source."""
    is_taken = source in (OVERALL, *CAPTION_LENGTHS) or source.startswith("source: ")
    return f"source: {source}" if is_taken else source


def _caption_length(caption: str) -> str:
    num_words = len(caption.split())
    return next(name for name, most in CAPTION_LENGTHS.items() if num_words <= most)


def _fingerprint(image_paths: Sequence[str], instance_ids: Sequence[int]) -> str:
    """Tells one gallery from another by its images' names and ids, in order."""
    return hashlib.sha256(json.dumps([image_paths, instance_ids]).encode()).hexdigest()[:16]
