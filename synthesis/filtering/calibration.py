"""Finds bounds of scores from what people say of a sample, and says how good bounds are.

A verdict says whether one triplet, that is a pair in one direction, is good. Precision is the share of good triplets
among those that the bounds keep, recall the share of good triplets that they keep. Bounds are found on one half of the
verdicts and measured on the other.
"""

import csv
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..components import Record, SynthesisError, seed_of
from ..stages import Workspace
from ..triplets.records import pairs_with_texts, scores_of
from .thresholds import DIRECTIONS, Bound, Thresholds, concerns

_COLUMNS = ("page", "id", "direction", "good", "reason")  # of the file of verdicts
_MOST_CUTS = 40  # tried per score
_DIGITS = 4  # of a bound
_WEIGHTS = np.geomspace(0.1, 20, 24)  # how many good triplets may be lost to get rid of a bad one
_FOLDS = 5  # of the cross-validation
_PRICE = 0.01  # of a bound: one that gains less than this share of the verdicts probably fits this sample alone


@dataclass(frozen=True)
class Pair:
    """A pair of images that was measured."""

    record: Record  # its id, both images' paths, and the texts of its quadruple
    scores: dict[str, float]  # of its gates and of its judge, by name


@dataclass(frozen=True)
class Verdict:
    """What a person says of a triplet."""

    pair: Pair
    direction: str  # "ab" or "ba"
    good: bool  # whether it is worth training on
    reason: str = ""  # why not; may be empty


@dataclass(frozen=True)
class Outcome:
    """How verdicts and decisions agree, in numbers of triplets."""

    kept_good: int
    kept_bad: int
    good: int
    bad: int
    by_reason: dict[str, tuple[int, int]]  # of each reason for being bad: bad triplets, and those of them that are kept

    @property
    def kept(self) -> int:
        """Triplets that are kept."""
        return self.kept_good + self.kept_bad

    @property
    def precision(self) -> float:
        """Share of the kept triplets that are good; NaN if none is kept."""
        return self.kept_good / self.kept if self.kept else float("nan")

    @property
    def recall(self) -> float:
        """Share of the good triplets that are kept; NaN if none is good."""
        return self.kept_good / self.good if self.good else float("nan")


def read_pairs(folder: Path) -> list[Pair]:
    """The measured pairs of a synthesis, finished or not, in order.

    Raises:
        SynthesisError: nothing was measured yet.
    """
    work, pairs = Workspace(folder, 0), []
    for chunk in _finished(work, "gates"):
        judged = ["judgements"] if work.file("judgements", chunk).exists() else []
        scores = scores_of(work, chunk, ["gates", *judged])
        pairs += [Pair(pair, scores.get(pair["id"], {})) for pair in pairs_with_texts(work, chunk)]
    if not pairs:
        raise SynthesisError(f"{folder}: no pair was measured yet; run the recipe up to the stage gates first")
    return pairs


def read_judgements(folder: Path) -> Iterator[Record]:
    """What a judge said, also of its controls; nothing if there is no judge."""
    work = Workspace(folder, 0)
    for chunk in _finished(work, "judgements"):
        yield from work.read("judgements", chunk)


def _finished(work: Workspace, stage: str) -> list[int]:
    return sorted(int(file.stem) for file in work.folder(stage).glob("[0-9]" * 5 + ".jsonl"))


def sample_pairs(pairs: Sequence[Pair], count: int, seed: int = 0) -> list[Pair]:
    """`count` of the pairs, each as likely as the others; the same ones whatever the order."""
    return sorted(pairs, key=lambda pair: seed_of("calibration", seed, pair.record["id"]))[:count]


def write_form(file: Path, pairs: Sequence[Pair], pairs_per_page: int) -> None:
    """Writes the file of verdicts to be filled in: a row per triplet, `good` and `reason` empty."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(_COLUMNS)
        for number, pair in enumerate(pairs):
            page = 1 + number // pairs_per_page
            writer.writerows([page, pair.record["id"], direction, "", ""] for direction in DIRECTIONS)


def read_verdicts(file: Path, pairs: Sequence[Pair]) -> tuple[list[Verdict], int]:
    """The verdicts in a file, and how many of its rows are not filled in.

    Raises:
        SynthesisError: the file cannot be read, or a row makes no sense; names the line.
    """
    by_id = {pair.record["id"]: pair for pair in pairs}
    verdicts: dict[tuple[str, str], Verdict] = {}
    empty = 0
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SynthesisError(f"{file}: cannot be read ({error}); give a CSV file in UTF-8") from None
    header = text.partition("\n")[0]
    reader = csv.DictReader(text.splitlines(), delimiter=";" if ";" in header else ",")  # some spreadsheets write ;
    missing = [name for name in ("id", "direction", "good") if name not in (reader.fieldnames or [])]
    if missing:
        raise SynthesisError(f"{file}: the first line must name the columns; {', '.join(missing)} not found")
    for row in reader:
        place = f"{file}, line {reader.line_num}"
        name, direction, good = ((row[column] or "").strip() for column in ("id", "direction", "good"))
        if not good:
            empty += 1
            continue
        if good not in ("0", "1"):
            raise SynthesisError(f"{place}: good must be 1 or 0, or empty where nobody has decided; found {good!r}")
        if name not in by_id or direction not in DIRECTIONS:
            raise SynthesisError(f"{place}: there is no measured pair {name!r} with direction {direction!r}")
        if (name, direction) in verdicts:
            raise SynthesisError(f"{place}: a second verdict of {name} {direction}; leave one")
        reason = (row.get("reason") or "").strip()
        verdicts[name, direction] = Verdict(by_id[name], direction, good == "1", reason)
    if not verdicts:
        raise SynthesisError(f"{file}: no row is filled in; put 1 or 0 into the column good")
    return list(verdicts.values()), empty


def measure(thresholds: Thresholds, verdicts: Sequence[Verdict]) -> Outcome:
    """How decisions by these thresholds agree with verdicts."""
    kept = [verdict for verdict in verdicts if not thresholds.decide(verdict.pair.scores)[verdict.direction]]
    bad, kept_bad = (Counter(verdict.reason for verdict in some if not verdict.good) for some in (verdicts, kept))
    return Outcome(
        kept_good=sum(verdict.good for verdict in kept),
        kept_bad=sum(kept_bad.values()),
        good=sum(verdict.good for verdict in verdicts),
        bad=sum(bad.values()),
        by_reason={reason: (bad[reason], kept_bad[reason]) for reason in sorted(bad)},
    )


def cut_in_halves(verdicts: Sequence[Verdict]) -> tuple[list[Verdict], list[Verdict]]:
    """About half of the verdicts, and the others. Those of one quadruple, which are alike, stay together."""
    halves: tuple[list[Verdict], list[Verdict]] = ([], [])
    for verdict in verdicts:
        halves[seed_of("half", verdict.pair.record["quadruple"]) % 2].append(verdict)
    return halves


def score_names(verdicts: Sequence[Verdict]) -> list[str]:
    """All scores that were measured, in their order."""
    return list(dict.fromkeys(name for verdict in verdicts for name in verdict.pair.scores))


def find_thresholds(verdicts: Sequence[Verdict], precision: float) -> Thresholds:
    """Bounds that keep as many good triplets as possible at this precision, to be expected of other triplets.

    For a given worth of a bad triplet, counted in good ones, bounds are set one score at a time until none can be
    improved. Cross-validation finds how high the worth must be, since bounds that are measured on what they were fitted
    to look better than they are. Of all worths that reach the precision, the one that keeps the most good triplets is
    taken. If none does, the choice is among those within a standard error of the best.

    The precision is the wanted share of good triplets among those kept, above 0 and at most 1.
    """
    folds = [seed_of("fold", verdict.pair.record["quadruple"]) % _FOLDS for verdict in verdicts]
    kept_good, kept = np.zeros(len(_WEIGHTS)), np.zeros(len(_WEIGHTS))
    for number in range(_FOLDS):
        fitted = _fit_each([verdict for verdict, fold in zip(verdicts, folds, strict=True) if fold != number])
        unseen = [verdict for verdict, fold in zip(verdicts, folds, strict=True) if fold == number]
        outcomes = [measure(thresholds, unseen) for thresholds in fitted]
        kept_good += [outcome.kept_good for outcome in outcomes]
        kept += [outcome.kept for outcome in outcomes]
    shares = kept_good / np.maximum(1, kept)
    best = int(np.argmax(shares))
    error = math.sqrt(shares[best] * (1 - shares[best]) * shares[best] / max(1, kept_good[best]))
    enough = shares >= (precision if shares[best] >= precision else shares[best] - error)
    return _fit_each(verdicts)[int(np.argmax(np.where(enough, kept_good, -1)))]


def _fit_each(verdicts: Sequence[Verdict]) -> list[Thresholds]:
    """The best bounds for each worth of a bad triplet."""
    scores = [_Score(name, verdicts) for name in score_names(verdicts)]
    good = np.array([verdict.good for verdict in verdicts])
    found = []
    for weight in _WEIGHTS:
        _climb(scores, np.where(good, 1.0, -weight), price=_PRICE * len(verdicts))
        found.append(Thresholds(bounds={score.name: score.bound for score in scores if score.bound}))
    return found


class _Score:
    """The values of one score, its possible cuts, and its present bound."""

    def __init__(self, name: str, verdicts: Sequence[Verdict]):
        self.name = name
        values = np.array([verdict.pair.scores.get(name, np.nan) for verdict in verdicts])
        applies = np.array([concerns(name, verdict.direction) for verdict in verdicts])
        self.cuts = _cuts(values[applies])
        # Which verdicts' triplets each cut admits: row 0 is no bound, row n the n-th cut. No cut admits NaN.
        admits_all = np.ones((1, len(verdicts)), dtype=bool)
        cuts = np.array(self.cuts)[:, None]
        self.above = np.concatenate([admits_all, (values >= cuts) | ~applies])
        self.below = np.concatenate([admits_all, (values <= cuts) | ~applies])
        self.low = self.high = 0

    @property
    def admitted(self) -> np.ndarray:
        """Which triplets the present bound admits."""
        return self.above[self.low] & self.below[self.high]

    @property
    def bound(self) -> Bound | None:
        """The present bound; None if the score has none."""
        low, high = (self.cuts[row - 1] if row else None for row in (self.low, self.high))
        return None if low is None and high is None else Bound(at_least=low, at_most=high)

    def improve(self, admitted: np.ndarray, worth: np.ndarray, price: float) -> bool:
        """Moves the bound to where the kept triplets are worth most, less its price; returns whether it moved.

        `admitted` says which triplets all other scores admit, `worth` what each is worth.
        """
        before = self.low, self.high
        lower = range(self.high or len(self.above))
        self.low = _best(self.above, lower, self.below[self.high] & admitted, worth, price)
        higher = [0, *range(self.low + 1, len(self.below))]
        self.high = _best(self.below, higher, self.above[self.low] & admitted, worth, price)
        return (self.low, self.high) != before


def _climb(scores: Sequence[_Score], worth: np.ndarray, price: float) -> None:
    for _ in range(20):  # it ends much sooner
        admitted = (np.all([other.admitted for other in scores if other is not score], axis=0) for score in scores)
        moved = [score.improve(others, worth, price) for score, others in zip(scores, admitted, strict=True)]
        if not any(moved):
            return


def _best(admits: np.ndarray, rows: Sequence[int], admitted: np.ndarray, worth: np.ndarray, price: float) -> int:
    """The one of these rows with which the kept triplets are worth most; row 0, no bound, costs nothing."""
    values = admits[rows] @ (worth * admitted) - price * (np.array(rows) > 0)
    return rows[int(np.argmax(np.round(values, 9)))]


def _cuts(values: np.ndarray) -> list[float]:
    """Where a score can be cut: midway between neighbouring values, evenly spread over them if they are many."""
    distinct = np.unique(values[~np.isnan(values)])
    middles = (distinct[1:] + distinct[:-1]) / 2
    if len(middles) > _MOST_CUTS:
        middles = middles[np.linspace(0, len(middles) - 1, _MOST_CUTS).round().astype(int)]
    return sorted({float(f"{middle:.{_DIGITS}g}") for middle in middles.tolist()})
