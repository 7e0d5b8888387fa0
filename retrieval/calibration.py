"""Scores as probabilities that a result is a match, and cut-offs below which "nobody here matches". Numbers alone.

An *impostor* is an image that does not match the query. The larger a gallery, the higher the best of its impostors
scores: a score means nothing without the gallery's size, and all that is computed here takes that into account.

What is calibrated is the score itself. Scores standardised per query over a sample of the gallery (T-norm; Auckenthaler
et al. 2000) were tried on the painted world: they tell queries with a match from those without less well (AUROC 0.74
against 0.82 over 3,000 images; `benchmarks/open_set.py`), for the spread of a query's scores says little of their tail.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from ..names import counted, some
from ..retriever import QUERY_MODES

TOP = 10  # results of each query that probabilities are fitted to, as many as a search shows
LEAST_QUERIES = 50
SMALLEST_PART = 50  # images
NUM_RESAMPLES = 300
PROBES = 100  # queries that are kept, to look at a gallery with
PROBED_IMAGES = 2048  # the most that are looked at
PLACE = 3  # of the image that is looked at: a gallery may hold a match or two of a probe
ALIKE = (0.2, 0.8)  # share of probes above the calibration's median: in galleries like it 0.28 to 0.69, measured


class HighestScores:
    """The highest scores of impostors and of matches of many queries, from blocks of scores.

    Args:
        num_images: in the gallery.
        seed: decides which images make up its parts.

    Attributes:
        parts: sizes of random parts of the gallery, each within the one before: all of it, a quarter, a sixteenth, ...
    """

    def __init__(self, num_images: int, seed: int = 0):
        self.num_images = num_images
        self.parts = [num_images]
        while self.parts[-1] >= 4 * SMALLEST_PART:
            self.parts.append(self.parts[-1] // 4)
        self._order = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))
        self._blocks: list[tuple[Tensor, ...]] = []

    def add(self, scores: Tensor, is_match: Tensor, is_left_out: Tensor | None = None) -> None:
        """Takes the scores of the next queries.

        Args:
            scores: `(num_rows, num_images)`.
            is_match: likewise, bool.
            is_left_out: likewise: images that are neither, such as the query's own photograph.
        """
        scores, is_match = scores.cpu(), is_match.cpu()
        others = is_match if is_left_out is None else is_match | is_left_out.cpu()
        impostors = scores.masked_fill(others, -math.inf)
        matches = scores.masked_fill(~is_match, -math.inf)
        top = min(TOP, self.num_images)
        in_parts = [impostors[:, self._order[:size]].topk(min(PLACE, size)).values for size in self.parts]
        best, placed = (torch.stack([of_part[:, place] for of_part in in_parts], dim=1) for place in (0, -1))
        self._blocks.append((impostors.topk(top).values, matches.topk(top).values, best, placed))

    @cached_property
    def _all(self) -> tuple[Tensor, ...]:
        return tuple(torch.cat(blocks).double() for blocks in zip(*self._blocks, strict=True))

    @property
    def impostors(self) -> Tensor:
        """`(num_queries, TOP)`, fp64, the best first; minus infinity where there are fewer. So are `matches`."""
        return self._all[0]

    @property
    def matches(self) -> Tensor:
        """`(num_queries, TOP)`."""
        return self._all[1]

    @property
    def best_impostors(self) -> Tensor:
        """`(num_queries, len(parts))`, fp64: the best impostor's score within each part."""
        return self._all[2]

    @property
    def levels(self) -> list[float]:
        """`(len(parts),)`: the median over queries of the score of the impostor at the PLACE, within each part."""
        return self._all[3].median(dim=0).values.tolist()

    def shown(self, queries: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What searches show: the TOP results of queries, once with their matches in the gallery and once without.

        Args:
            queries: indices of some of them; None: all.

        Returns:
            scores and whether each is a match's, both `(2 * num_queries, TOP)`, the best first; minus infinity where
            there are fewer.
        """
        impostors, matches = (of if queries is None else of[queries] for of in (self.impostors, self.matches))
        scores, place = torch.cat([matches, impostors], dim=1).sort(dim=1, descending=True, stable=True)
        width = impostors.shape[1]
        is_match = (place < width)[:, :width]
        return torch.cat([scores[:, :width], impostors]), torch.cat([is_match, torch.zeros_like(is_match)])


@dataclass(frozen=True, eq=False)
class ScoreCalibration:
    """What scores of one kind of query mean, for a gallery of any size.

    **Cut-offs.** The best impostor's score over a gallery is the largest of many, so it follows about a generalised
    extreme-value distribution (Fisher and Tippett 1928), G(s) = exp(-t(s)) with t(s) = (1 - k (z - x) / a)^(1/k). Here
    z is artanh(s), Fisher's: cosines end at 1, but the tail of z falls off evenly, so that a fit carries further. It is
    fitted to the best impostor of each query by probability-weighted moments (Hosking, Wallis and Wood 1985). A gallery
    of N images instead of n has N / n times as many impostors above any score, so that the best stays below s with
    probability G(s)^(N/n) (max-stability): the false-alarm rate of a cut-off s is 1 - exp(-(N/n) t(s)). It is averaged
    over fits to resampled queries (a bootstrap): few queries, or a gallery far larger than the calibration's, make the
    cut-off higher, since the tail is known less well. For smaller galleries the fit is that of the largest random part
    of the calibration's images that is no larger: queries differ in how many images resemble what they ask for, so a
    fit carries less far downwards.

    **Probabilities.** Platt's (1999): 1 / (1 + exp(-(intercept + slope * s))), fitted to the first TOP results of every
    query, once with its matches in the gallery and once without, with his smoothed targets. In a gallery of N images
    impostors of any score are N / n times as many, while the match stays one, so log(N / n) is taken off the exponent.

    Args:
        num_images: n, in the calibration's gallery.
        parts: sizes of its random parts, itself first; see `HighestScores`.
        best: `(num_queries, len(parts))`, fp64: the best impostor's score in each.
        intercept, slope: of the probabilities.
    """

    num_images: int
    parts: tuple[int, ...]
    best: Tensor
    intercept: float
    slope: float

    @classmethod
    def fit(cls, highest: HighestScores) -> "ScoreCalibration":
        """Fits both to scores.

        Raises:
            ValueError: queries are too few, one has no impostor in the gallery or in a part of it, or scores are alike.
        """
        best, number = highest.best_impostors, len(highest.best_impostors)
        if number < LEAST_QUERIES:
            raise ValueError(
                f"{counted(number, 'query')} to calibrate with, expected at least {LEAST_QUERIES}, and as many as 1 / "
                "false-alarm rate: 100 for 1 %"
            )
        if without := best.isneginf().any(dim=1).nonzero()[:, 0].tolist():
            raise ValueError(
                f"{len(without)} of {number} queries have no image that does not match them among {highest.parts[-1]} "
                f"of the calibration's {counted(highest.num_images, 'image')} (query {without[0]} is the first): "
                "without such negatives nothing tells what a wrong image scores; add images of other people"
            )
        if min(len(of_part.unique()) for of_part in best.T) < LEAST_QUERIES // 5:
            raise ValueError(
                f"the best scores of images that do not match are alike for {number} different queries: is the model "
                "trained, was it loaded whole, are the queries different ones?"
            )
        scores, is_match = (of.flatten() for of in highest.shown())
        is_there = ~scores.isneginf()
        intercept, slope = fit_probabilities(scores[is_there], is_match[is_there])
        return cls(highest.num_images, tuple(highest.parts), best, intercept, slope)

    @property
    def num_queries(self) -> int:
        """How many there were."""
        return len(self.best)

    def cut_off(self, false_alarm_rate: float, gallery_size: int) -> float:
        """The score that the best image of a gallery exceeds, though nobody in it matches, in that share of queries.

        Args:
            false_alarm_rate: between 0 and 1: of 100 queries that nobody matches, how many may have results, over 100.
            gallery_size: images searched.

        Raises:
            ValueError: the rate is not between 0 and 1, or lower than the queries of the calibration, or its images,
                allow to tell.
        """
        size = _checked_size(gallery_size)
        if isinstance(false_alarm_rate, bool) or not isinstance(false_alarm_rate, Real) or not 0 < false_alarm_rate < 1:
            raise ValueError(
                f"false_alarm_rate is {false_alarm_rate!r}, expected a number between 0 and 1, such as 0.01 for 1 %"
            )
        least = math.ceil(1 / false_alarm_rate - 1e-6)
        if self.num_queries < least:
            raise ValueError(
                f"a false-alarm rate of {100 * false_alarm_rate:g} % needs at least {least:,} queries to calibrate "
                f"with; this calibration has {self.num_queries:,}: ask for {100 / self.num_queries:.2g} % or more, or "
                "calibrate with more queries"
            )
        low, high = -1.0, 1.0  # of cosines
        if self.false_alarm_rate(high, size) > false_alarm_rate:
            raise ValueError(
                f"a false-alarm rate of {100 * false_alarm_rate:g} % cannot be promised over {size:,} images "
                f"after a calibration with {self.num_queries:,} queries on {counted(self.num_images, 'image')}: "
                "calibrate with more of both, or ask for a higher rate"
            )
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self.false_alarm_rate(middle, size) > false_alarm_rate else (low, middle)
        return high

    def false_alarm_rate(self, score: float, gallery_size: int) -> float:
        """The share of queries nobody matches for which some image of such a gallery scores higher."""
        part = next((part for part, size in enumerate(self.parts) if size <= gallery_size), len(self.parts) - 1)
        location, scale, shape = self._fits[part]
        base = (1 - shape * (_fisher_z(torch.tensor(score).double()) - location) / scale).clamp_min(0)
        above = gallery_size / self.parts[part] * base ** (1 / shape)
        return -torch.expm1(-above).mean().item()

    def probability(self, scores: Tensor, gallery_size: int) -> Tensor:
        """How likely each of a search's results is a match, if half of all queries have one in the gallery.

        Of results with 0.7, of whatever rank, 70 % are matches; of best ones somewhat more. Where fewer queries than
        half have a match, so have results; no score can know that.

        Args:
            scores: `(...)`.
            gallery_size: images searched.

        Returns:
            `(...)`, fp64.
        """
        odds = self.intercept + self.slope * scores.double() - math.log(_checked_size(gallery_size) / self.num_images)
        return odds.sigmoid()

    @cached_property
    def _fits(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of each part: location, scale and shape of the fits to resampled queries, `(NUM_RESAMPLES,)` each."""
        rng = torch.Generator().manual_seed(0)
        chosen = torch.randint(self.num_queries, (NUM_RESAMPLES, self.num_queries), generator=rng)
        return [_extreme_value_fit(_fisher_z(of_part)[chosen]) for of_part in self.best.T]


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a model's scores mean, by kind of query; kept with a gallery, as a record of JSON.

    Args:
        settings: what made the features, see `feature_settings`; another model's scores mean something else.
        kinds: kind of query ("image+caption", "caption", "image") -> its calibration.
        probes: kind -> `(PROBES at most, dim)`, fp16: some of the queries, to look at a gallery with.
        levels: kind -> see `HighestScores.levels`.
    """

    settings: Mapping[str, Any]
    kinds: Mapping[str, ScoreCalibration]
    probes: Mapping[str, Tensor]
    levels: Mapping[str, Sequence[float]]

    def of_kind(self, kind: str) -> ScoreCalibration:
        """The calibration of a kind of query.

        Raises:
            ValueError: it was not calibrated.
        """
        if kind in self.kinds:
            return self.kinds[kind]
        if kind in QUERY_MODES:
            raise ValueError(
                f"the gallery is calibrated for queries of {some(list(self.kinds))}, not of {kind}, and promises no "
                "false-alarm rate for these: calibrate it anew, or ask without one"
            )
        raise ValueError(
            f"no false-alarm rate can be promised for queries of {kind}: leave it out, or ask by a photo, a sentence "
            "or both"
        )

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuses the features of another model or of other settings of its processor.

        Raises:
            ValueError: they differ.
        """
        differing = [
            f"{section} {name}"
            for section, names in (("model", ("fingerprint",)), ("features", ("shape",)), ("image_processor", None))
            for name in names or sorted({*self.settings.get(section, {}), *settings.get(section, {})})
            if self.settings.get(section, {}).get(name) != settings.get(section, {}).get(name)
        ]
        if differing:
            raise ValueError(
                f"the calibration is of another model or processor ({some(differing)} differ), whose scores mean "
                "something else: calibrate the gallery again"
            )

    def probed_images(self, kind: str, gallery_size: int) -> int:
        """How many of a gallery's images `tell_unlike` looks at; 0 where they are too few to tell."""
        most = min(gallery_size, PROBED_IMAGES)
        return next((size for size in self.of_kind(kind).parts if size <= most), 0)

    def tell_unlike(self, kind: str, scores: Tensor) -> str | None:
        """A sentence where a gallery's images score otherwise than the impostors of the calibration; None where not.

        It sees images of another kind: dark or grey ones, of no people, or of people all dressed alike. It cannot see
        that users ask for what the gallery is full of.

        Args:
            scores: `(num_probes, probed_images)`: of the kind's `probes` against a random sample of the gallery.
        """
        level = self.levels[kind][self.of_kind(kind).parts.index(scores.shape[1])]
        share = (scores.topk(min(PLACE, scores.shape[1])).values[:, -1] > level).double().mean().item()
        if ALIKE[0] <= share <= ALIKE[1]:
            return None
        consequence = (
            "false alarms will be more frequent than promised, and probabilities too high"
            if share > ALIKE[1]
            else "cut-offs will be stricter than need be, and probabilities too low"
        )
        return (
            f"the gallery's images are unlike those it was calibrated on: for {100 * share:.0f} % of the calibration's "
            f"queries wrong images score as high as for 50 % of them there, so {consequence}; calibrate on images like "
            "the gallery's"
        )

    def to_record(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "format": "fafa calibration",
            "version": 1,
            "settings": dict(self.settings),
            "kinds": {
                kind: {
                    "num_images": of.num_images,
                    "parts": list(of.parts),
                    "best": [[round(score, 6) for score in query] for query in of.best.tolist()],
                    "intercept": of.intercept,
                    "slope": of.slope,
                    "probes": [[round(value, 4) for value in probe] for probe in self.probes[kind].tolist()],
                    "levels": [round(level, 6) for level in self.levels[kind]],
                }
                for kind, of in self.kinds.items()
            },
        }

    @classmethod
    def from_record(cls, record: Any) -> "Calibration":
        """What `to_record` gave.

        Raises:
            ValueError: it is damaged, or of a newer version.
        """
        if isinstance(record, dict) and record.get("version", 1) != 1:
            raise ValueError(
                f"the calibration is of version {record['version']!r}, this fafa reads version 1: calibrate again, or "
                "install a newer fafa"
            )
        try:
            kinds, probes, levels = {}, {}, {}
            for kind, of in record["kinds"].items():
                best = torch.tensor(of["best"], dtype=torch.double)
                if best.shape[1:] != (len(of["parts"]),) or len(best) < LEAST_QUERIES or not best.isfinite().all():
                    raise ValueError(f"best impostors of shape {tuple(best.shape)}")
                numbers = [float(number) for number in (of["intercept"], of["slope"], *of["levels"])]
                if not all(map(math.isfinite, numbers)) or len(numbers) != 2 + len(of["parts"]):
                    raise ValueError("numbers that are missing or not finite")
                parts = tuple(map(_checked_size, of["parts"]))
                kinds[kind] = ScoreCalibration(_checked_size(of["num_images"]), parts, best, *numbers[:2])
                probes[kind], levels[kind] = torch.tensor(of["probes"], dtype=torch.float16), numbers[2:]
            return cls(dict(record["settings"]), kinds, probes, levels)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise ValueError(f"the calibration is damaged ({error}): calibrate the gallery again") from error


def _checked_size(size: Any) -> int:
    if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
        raise ValueError(f"gallery_size is {size!r}, expected a whole number from 1")
    return int(size)


def _fisher_z(scores: Tensor) -> Tensor:
    return scores.clamp(-1 + 1e-6, 1 - 1e-6).atanh()


def _extreme_value_fit(best: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Location, scale and shape k (positive: scores have an upper end) of samples, `(..., number)`, fp64 each `(...)`.

    Hosking, Wallis and Wood 1985, equations 12 to 15.
    """
    best = best.sort(dim=-1).values
    number = best.shape[-1]
    below = torch.arange(number, dtype=best.dtype)
    first = best.mean(dim=-1)
    second = (best * (below / (number - 1))).mean(dim=-1)
    third = (best * (below * (below - 1) / ((number - 1) * (number - 2)))).mean(dim=-1)
    c = (2 * second - first) / (3 * third - first) - math.log(2) / math.log(3)
    shape = 7.859 * c + 2.9554 * c**2
    shape = shape.where(shape.abs() > 1e-6, 1e-6)  # at 0 it is Gumbel's, the limit
    gamma = torch.lgamma(1 + shape).exp()
    scale = (2 * second - first) * shape / (gamma * (1 - 2**-shape))
    return first + scale * (gamma - 1) / shape, scale, shape


def fit_probabilities(scores: Tensor, is_match: Tensor) -> tuple[float, float]:
    """Intercept and slope of the log-odds that a result is a match (Platt 1999), of results `(number,)`, fp64.

    The slope is 0 where matches score no higher than others. Newton's method with the step halved where it leads
    uphill, as Lin, Lin and Weng (2007) have it.
    """
    num_matches = int(is_match.sum())
    high, low = (num_matches + 1) / (num_matches + 2), 1 / (len(scores) - num_matches + 2)
    wanted = torch.where(is_match, high, low).double()
    mean, spread = scores.mean(), scores.std().clamp_min(1e-9)
    inputs = torch.stack([torch.ones_like(scores), (scores - mean) / spread], dim=1)

    def loss(weights: Tensor) -> Tensor:
        odds = inputs @ weights
        return (torch.nn.functional.softplus(odds) - wanted * odds).sum()

    weights = torch.zeros(2, dtype=torch.double)
    for _ in range(100):
        odds = (inputs @ weights).sigmoid()
        slope = inputs.T @ (wanted - odds)
        curvature = (inputs * (odds * (1 - odds))[:, None]).T @ inputs + 1e-9 * torch.eye(2, dtype=torch.double)
        step = torch.linalg.solve(curvature, slope)
        while loss(weights + step) > loss(weights) and step.abs().max() > 1e-9:
            step = step / 2
        weights = weights + step
        if step.abs().max() < 1e-8:
            break
    if weights[1] <= 0:
        return torch.logit(wanted.mean()).item(), 0.0
    slope = (weights[1] / spread).item()
    return weights[0].item() - slope * mean.item(), slope
