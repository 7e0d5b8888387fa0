"""How a model breaks: its queries corrupted, contradicted, reworded and negated, over a clean gallery.

Every random choice is made by the seed, the condition and the number of the query: a query meets the same corruption
whatever else is run, in whatever batch or process.
"""

import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ...checks_fafa import AlikeFeatures, check_features
from ...image_reading_fafa import open_image
from ...loading import dead_workers_told, undecoded
from ...model_folder import check_fit
from ...retrieval.encoding import encode_targets
from ...retrieval.forward import forward
from ...retrieval.reading import read_pixels
from ...retriever import Retriever, RetrieverProcessor
from ..intervals import bootstrap_intervals, bootstrap_means
from ..itcpr import ROWS, check_columns, score_blocks
from ..ranking import QueryResults, checked_ks, match_ranks
from . import captions as caption_corruptions
from . import images as image_corruptions
from .report import RobustnessReport

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

STRENGTHS = (0.25, 0.5, 0.75, 1.0)  # of a conflict: how much of the other query's half there is
CAPTION, IMAGE = "caption", "image"


def evaluate_robustness(
    model: Retriever,
    processor: RetrieverProcessor,
    queries: "datasets.Dataset",
    gallery: "datasets.Dataset",
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    ks: Sequence[int] = (1, 5, 10),
    batch_size: int = 64,
    num_workers: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> RobustnessReport:
    """Ranks a clean gallery for queries by image and caption that are spoilt in every way this package knows.

    Args:
        model: it is put into eval mode.
        processor: the model's own.
        queries: with the columns `image`, `caption` and `instance_id`; with `paraphrases` (a list of captions that ask
            for the same target) these are the wordings, else fixed sentences around the caption are.
        gallery: with the columns `image` and `instance_id`.
        severities: of 1 to 5, for the corruptions that have several.
        ks: the ranks k to report.
        batch_size: images encoded at a time.
        num_workers: processes that read and corrupt images; 0 does it in this one.
        seed: of every random choice.
        progress: whether to show progress bars.

    Raises:
        ValueError: a column is missing, a caption cannot be read, a query has no match, the queries have one target
            alone (then there is none to contradict with), a severity is not of 1 to 5, or the model finds nothing even
            with clean queries.
        UnreadableImageError: an image cannot be decoded. FileNotFoundError: it is not there.
    """
    ks = checked_ks(ks)
    check_columns(queries, "queries", ("image", "caption", "instance_id"))
    check_columns(gallery, "gallery", ("image", "instance_id"))
    if not severities or any(severity not in (1, 2, 3, 4, 5) for severity in severities):
        raise ValueError(f"severities is {list(severities)}, expected some of 1, 2, 3, 4, 5")
    query_ids, gallery_ids = queries["instance_id"][:], gallery["instance_id"][:]
    captions, pictures = list(queries["caption"][:]), undecoded(queries)["image"]
    others = _others(query_ids, seed)
    model.eval()
    check_fit(model, processor)
    processor.encode_captions(captions, [f"the caption of query {row}" for row in range(len(captions))])
    targets = encode_targets(model, processor, gallery, batch_size, num_workers, progress)

    def ranks(features: Tensor, ids: Sequence[Any] = query_ids) -> QueryResults:
        return match_ranks(score_blocks(model, features, targets, ROWS), ids, gallery_ids)

    # What changes captions alone shares each image's pixels: they are read once.
    of_captions = {"clean": captions} | corrupted_captions(captions, severities, seed)
    of_captions |= _mixed_captions(captions, others) | _wordings(queries, captions) | _negations(captions, seed)
    num_images = len(image_corruptions.CORRUPTIONS) * len(severities) + len(STRENGTHS)
    bar = tqdm(total=1 + num_images, desc="spoilt queries", unit="condition", disable=not progress)
    encode = partial(_encode, model, processor, batch_size=batch_size, num_workers=num_workers, bar=bar)
    features = encode(pictures, of_captions)
    clean = ranks(features["clean"])
    _check_finds(clean)

    conditions = []
    for name, (_, known) in caption_corruptions.CORRUPTIONS.items():
        for severity in [severity for severity in severities if severity in known] or known[:1]:
            key = f"{name} {severity}"
            changed = sum(map(str.__ne__, of_captions[key], captions))
            conditions.append(_condition(name, CAPTION, severity, changed, ranks(features[key]), clean, ks, seed))
    conflicts = [
        _conflict(CAPTION, strength, features[f"conflict {strength}"], query_ids, others, ranks, ks, seed)
        for strength in STRENGTHS
    ]
    wordings = _spread([ranks(features[name]) for name in of_captions if name.startswith("wording")], ks)
    negations = _negation_effects(model, features, targets, clean, ranks, ks)
    del features

    for name in image_corruptions.CORRUPTIONS:
        for severity in severities:
            spoilt = CorruptedImages(pictures, name, severity, seed)
            found = encode(spoilt, {f"{name} {severity}": captions})[f"{name} {severity}"]
            conditions.append(_condition(name, IMAGE, severity, len(captions), ranks(found), clean, ks, seed))
    for strength in STRENGTHS:
        mixed = MixedImages(pictures, others, strength)
        found = encode(mixed, {"wrong image": captions})["wrong image"]
        conflicts.append(_conflict(IMAGE, strength, found, query_ids, others, ranks, ks, seed))
    bar.close()
    return RobustnessReport(
        clean=_with_intervals(clean, ks, seed),
        conditions=conditions,
        conflicts=conflicts,
        wordings=wordings | {"are_given": "paraphrases" in queries.column_names},
        negations=negations,
        num_queries=len(captions),
        num_gallery=len(gallery_ids),
        settings={"seed": seed, "severities": list(severities)},
    )


class CorruptedImages(Sequence):
    """Images as one corruption spoils them, opened when they are asked for; workers take it along."""

    def __init__(self, images: Sequence[Any], name: str, severity: int, seed: int):
        self.images, self.name, self.severity, self.seed = images, name, severity, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Image.Image:
        image = image_corruptions.no_higher(open_image(self.images[row], f"reference image of query {row}"))
        rng = _rng(self.seed, f"{self.name} {self.severity}", row)
        return image_corruptions.CORRUPTIONS[self.name](image, self.severity, rng)


class MixedImages(Sequence):
    """Images with those of other queries blended over them."""

    def __init__(self, images: Sequence[Any], others: Sequence[int], strength: float):
        self.images, self.others, self.strength = images, others, strength

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Image.Image:
        own, other = (
            image_corruptions.no_higher(open_image(self.images[place], f"reference image of query {place}"))
            for place in (row, self.others[row])
        )
        return other if self.strength == 1 else image_corruptions.blend(own, other, self.strength)


def _rng(seed: int, condition: str, row: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(condition.encode()), row])


def _others(query_ids: Sequence[Any], seed: int) -> list[int]:
    """For every query another one, of another target, to contradict it with."""
    ids, rng = np.asarray(query_ids), np.random.default_rng(seed)
    if (ids == ids[0]).all():
        raise ValueError("all queries have one target: there is none that another could contradict")
    return [int(rng.choice((ids != own).nonzero()[0])) for own in ids]


def corrupted_captions(captions: Sequence[str], severities: Sequence[int], seed: int) -> dict[str, list[str]]:
    """Captions under every corruption and severity: "letters swapped 3" -> the captions."""
    corrupted = {}
    for name, (corrupt, known) in caption_corruptions.CORRUPTIONS.items():
        for severity in [severity for severity in severities if severity in known] or known[:1]:
            key = f"{name} {severity}"
            corrupted[key] = [corrupt(caption, severity, _rng(seed, key, row)) for row, caption in enumerate(captions)]
    return corrupted


def _mixed_captions(captions: Sequence[str], others: Sequence[int]) -> dict[str, list[str]]:
    """The first words of the own caption, then the last words of the other one: so much of it as `STRENGTHS` says."""

    def mixed(own: str, other: str, strength: float) -> str:
        first, second = own.split(), other.split()
        kept, taken = round((1 - strength) * len(first)), max(1, round(strength * len(second)))
        return " ".join([*first[:kept], *second[len(second) - taken :]])

    return {
        f"conflict {strength}": [
            mixed(caption, captions[other], strength) for caption, other in zip(captions, others, strict=True)
        ]
        for strength in STRENGTHS
    }


def _wordings(queries: "datasets.Dataset", captions: Sequence[str]) -> dict[str, list[str]]:
    if "paraphrases" not in queries.column_names:
        return {
            f"wording {number}": [wording.format(caption) for caption in captions]
            for number, wording in enumerate(caption_corruptions.WORDINGS)
        }
    given = [[caption, *more] for caption, more in zip(captions, queries["paraphrases"][:], strict=True)]
    most = max(map(len, given))
    if most == 1:
        raise ValueError("paraphrases: every query's list is empty; leave the column out, or give other wordings")
    # A query with fewer wordings than others is asked again by its own: that adds nothing to its spread.
    return {f"wording {number}": [of[number % len(of)] for of in given] for number in range(most)}


def _negations(captions: Sequence[str], seed: int) -> dict[str, list[str]]:
    absent = [
        caption_corruptions.absent_object(caption, _rng(seed, "absent", row)) for row, caption in enumerate(captions)
    ]
    return {
        "negated": [f"not {caption}" for caption in captions],
        "without": [f"{caption}, no {thing}" for caption, thing in zip(captions, absent, strict=True)],
        "with": [f"{caption}, {thing}" for caption, thing in zip(captions, absent, strict=True)],
    }


@torch.no_grad()
@dead_workers_told()
def _encode(
    model: Retriever,
    processor: RetrieverProcessor,
    images: Sequence[Any],
    captions_of: Mapping[str, Sequence[str]],
    batch_size: int,
    num_workers: int,
    bar: tqdm,
) -> dict[str, Tensor]:
    """Features of queries by every image and each of its captions: name -> `(num_queries, dim)`."""
    parts: dict[str, list[Tensor]] = {name: [] for name in captions_of}
    alike = {name: AlikeFeatures() for name in captions_of}
    batches = read_pixels(processor, images, [range(len(images))], "reference image of query", batch_size, num_workers)
    for rows, _, pixels, *_ in batches:
        pixels = pixels.to(model.device)
        for name, captions in captions_of.items():
            names = [f"query {row} ({name})" for row in rows]
            with _long_captions_cut(processor):
                text = processor.encode_captions([captions[row] for row in rows], names)
            text = {key: tensor.to(model.device) for key, tensor in text.items()}
            found = forward(model, model.get_query_features, pixel_values=pixels, **text)
            alike[name].check(found, pixels, text["input_ids"])
            check_features(found, "", names)
            parts[name].append(found)
    bar.update()
    return {name: torch.cat(found) for name, found in parts.items()}


@contextmanager
def _long_captions_cut(processor: RetrieverProcessor) -> Iterator[None]:
    """Spelling mistakes and repeated words make captions longer than a model reads: no reason to end long work."""
    if processor.cut_captions:
        yield
        return
    processor.cut_captions = True
    try:
        yield
    finally:
        processor.cut_captions = False


def _check_finds(clean: QueryResults) -> None:
    if not (clean.first_rank <= 1).any():
        raise ValueError(
            "with clean queries the model ranks no target first, so that nothing can be lost: evaluate it with "
            "`fafa evaluate`, and train it, before asking how it breaks"
        )


def _columns(results: QueryResults, ks: Sequence[int]) -> tuple[list[str], np.ndarray]:
    values = results.per_query(ks)
    return list(values), 100 * np.stack([column.numpy() for column in values.values()], axis=1)


def _with_intervals(results: QueryResults, ks: Sequence[int], seed: int) -> dict[str, list[float]]:
    """metric -> [value, lower, upper], percent."""
    names, values = _columns(results, ks)
    rows = zip(values.mean(axis=0).tolist(), bootstrap_intervals(values, seed=seed).tolist(), strict=True)
    return {name: [value, *ends] for name, (value, ends) in zip(names, rows, strict=True)}


def _condition(
    name: str,
    half: str,
    severity: int,
    changed: int,
    results: QueryResults,
    clean: QueryResults,
    ks: Sequence[int],
    seed: int,
) -> dict[str, Any]:
    """Metrics under a corruption, and what is left of the clean ones: their ratio, with a paired bootstrap's interval.

    A resample of the queries in which the clean metric is 0 has no ratio and is left out.
    """
    (names, values), (_, before) = _columns(results, ks), _columns(clean, ks)
    means = bootstrap_means(np.concatenate([values, before], axis=1), seed=seed)
    left = {}
    for column, metric in enumerate(names):
        corrupted, unspoilt = means[:, column], means[:, len(names) + column]
        ratios = corrupted[unspoilt > 0] / unspoilt[unspoilt > 0]
        ends = np.percentile(ratios, [2.5, 97.5]).tolist()
        left[metric] = [float(values[:, column].mean() / before[:, column].mean()), *ends]
    metrics = dict(zip(names, values.mean(axis=0).tolist(), strict=True))
    found = {"name": name, "half": half, "severity": severity, "num_changed": int(changed)}
    return found | {"metrics": metrics, "relative": left}


def _conflict(
    half: str,
    strength: float,
    features: Tensor,
    query_ids: Sequence[Any],
    others: Sequence[int],
    ranks: Callable[..., QueryResults],
    ks: Sequence[int],
    seed: int,
) -> dict[str, Any]:
    """Which target wins where one half of a query comes from another one: its own, or the other query's."""
    own, other = ranks(features), ranks(features, [query_ids[place] for place in others])
    won = 100 * (own.first_rank < other.first_rank).double().numpy()[:, None]
    (ends,) = bootstrap_intervals(won, seed=seed).tolist()
    return {
        "half": half,
        "strength": strength,
        "own": own.metrics(ks),
        "other": other.metrics(ks),
        "own_wins": [float(won.mean()), *ends],
    }


def _spread(results: Iterable[QueryResults], ks: Sequence[int]) -> dict[str, Any]:
    """How far a query's first rank moves between wordings that ask for the same."""
    results = list(results)
    first = torch.stack([of.first_rank for of in results]).double()  # (wordings, queries)
    hits = (first <= 1).double()
    return {
        "num_wordings": len(results),
        "metrics": [of.metrics(ks) for of in results],
        "median_rank_ratio": float((first.amax(dim=0) / first.amin(dim=0)).median()),
        "always_first": 100 * float(hits.amin(dim=0).mean()),
        "ever_first": 100 * float(hits.amax(dim=0).mean()),
    }


def _negation_effects(
    model: Retriever,
    features: Mapping[str, Tensor],
    targets: Tensor,
    clean: QueryResults,
    ranks: Callable[..., QueryResults],
    ks: Sequence[int],
) -> dict[str, Any]:
    """What "not" and "no" do: a model that reads them ranks the target of a negated caption lower, and takes "no hat"
    for another thing than "hat".

    `falls`: percent of queries whose target's rank is worse for "not {caption}". `same`: mean cosine of a query with
    "no {thing}" and the same with "{thing}": 1 means that the "no" is not read.
    """
    negated = ranks(features["negated"])
    return {
        "negated": negated.metrics(ks),
        "falls": 100 * float((negated.first_rank > clean.first_rank).double().mean()),
        "without": ranks(features["without"]).metrics(ks),
        "with": ranks(features["with"]).metrics(ks),
        "same": float((features["without"].float() * features["with"].float()).sum(dim=1).mean()),
    }
