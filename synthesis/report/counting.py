"""Counts the triplets, groups, people and words of a data set, and what its texts are about."""

from array import array
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...dataset_builders.counting import words_of
from ..components import REJECTED, Record, seed_of

_ATTRIBUTES = ("constraints", "outfits", "outfit")  # fields of a record that say what it is about


def count_triplets(triplets: Iterable[Mapping[str, Any]], id_field: str) -> dict[str, Any]:
    """Counts of triplets, groups and words, and how often each size and length occurs."""
    groups: Counter[int] = Counter()
    captions, edits = Texts(), Texts()
    for triplet in triplets:
        groups[triplet[id_field]] += 1
        captions.add(triplet["reference_caption"])
        captions.add(triplet["target_caption"])
        edits.add(triplet["edit_caption"])
    sizes = Counter(groups.values())
    return {
        "triplets": groups.total(),
        "groups": len(groups),
        "triplets per group, mean": mean_of(sizes),
        "words per caption, mean": mean_of(captions.lengths),
        "words per edit, mean": mean_of(edits.lengths),
        "distinct words": len(captions.runs[1].keys() | edits.runs[1].keys()),
        "distinct words in edits": len(edits.runs[1]),
        "group sizes": dict(sorted(sizes.items())),
        "caption lengths": dict(sorted(captions.lengths.items())),
        "edit lengths": dict(sorted(edits.lengths.items())),
    }


def count_quadruples(quadruples: Iterable[Record]) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """What quadruples are about, and how varied their texts are.

    Returns:
        For every attribute, the share of quadruples in which each value occurs, most frequent first; and distinct-1 to
        distinct-3 of captions and of edits: distinct n-grams as a share of all.
    """
    coverage, captions, edits = Coverage(), Texts(longest_run=3), Texts(longest_run=3)
    for record in quadruples:
        coverage.add(record)
        for texts, fields in ((captions, ("caption_a", "caption_b")), (edits, ("edit_ab", "edit_ba"))):
            for field in fields:
                texts.add(record[field])
    return coverage.shares(), captions.distinct("captions") | edits.distinct("edits")


def count_people(people: Iterable[Sequence[Record]]) -> dict[str, Any]:
    """Counts of people, images and captions, and how often each number and length occurs.

    Args:
        people: The images of each person, the generated one first. The coverage is the share of people for whose prompt
            a value was sampled.
    """
    sizes, per_image, groups = Counter(), Counter(), Counter()
    coverage, captions = Coverage(), Texts(longest_run=3)
    for images in people:
        sizes[len(images)] += 1
        coverage.add(images[0])
        for image in images:
            per_image[len(image["captions"])] += 1
            if "group" in image:
                groups[image["group"]] += 1
            for caption in image["captions"]:
                captions.add(caption)
    return {
        "images": per_image.total(),
        "generated": per_image.total() - groups.total(),
        "edited": groups.total(),
        "people": sizes.total(),
        "images per person, mean": mean_of(sizes),
        "captions": captions.lengths.total(),
        "captions per image, mean": mean_of(per_image),
        "words per caption, mean": mean_of(captions.lengths),
        "distinct words": len(captions.runs[1]),
        "people by images": dict(sorted(sizes.items())),
        "caption lengths": dict(sorted(captions.lengths.items())),
        "edits by group": dict(groups),
        "coverage": coverage.shares(),
        "diversity": captions.distinct("captions"),
    }


class Coverage:
    """Counts in how many records a value of an attribute occurs."""

    def __init__(self) -> None:
        self._count = 0
        self._values: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, record: Record) -> None:
        """Count a record, by its fields that say what it is about."""
        self._count += 1
        for attribute, value in {pair for field in _ATTRIBUTES for pair in _attributes(record.get(field), "")}:
            self._values[attribute][value] += 1

    def shares(self) -> dict[str, dict[str, float]]:
        """For every attribute, the share of records in which each value occurs, most frequent first."""
        return {
            attribute: {
                value: found / self._count
                for value, found in sorted(counter.items(), key=lambda one: (-one[1], one[0]))
            }
            for attribute, counter in sorted(self._values.items())
        }


class Texts:
    """Counts the words of texts, and by their hashes the runs of one to `longest_run` words."""

    def __init__(self, longest_run: int = 1) -> None:
        self.lengths: Counter[int] = Counter()
        self.runs: dict[int, Counter[int]] = {n: Counter() for n in range(1, longest_run + 1)}

    def add(self, text: str) -> None:
        """Count a text."""
        words = words_of(text)
        self.lengths[len(words)] += 1
        for n, runs in self.runs.items():
            runs.update(hash(words[i : i + n]) for i in range(len(words) - n + 1))

    def distinct(self, kind: str) -> dict[str, float]:
        """distinct-1, distinct-2, ... of texts of this kind: different runs as a share of all."""
        return {f"distinct-{n} of {kind}": len(runs) / runs.total() for n, runs in self.runs.items() if runs}


def _attributes(content: Any, name: str) -> Iterator[tuple[str, str]]:
    """Every value in nested mappings and lists, with the keys that lead to it."""
    if isinstance(content, Mapping):
        for key, inner in content.items():
            yield from _attributes(inner, f"{name} {key}".strip())
    elif isinstance(content, (list, tuple)):
        for inner in content:
            yield from _attributes(inner, name)
    elif content is not None:
        yield name, str(content)


def mean_of(counts: Mapping[int, int]) -> float:
    """The mean of numbers by how often each occurs; 0 if there are none."""
    return sum(value * count for value, count in counts.items()) / max(1, sum(counts.values()))


def as_columns(scores: Iterable[Mapping[str, float]]) -> dict[str, np.ndarray]:
    """The values of each score, from all pairs that have it."""
    columns: dict[str, array] = defaultdict(lambda: array("f"))
    for pair_scores in scores:
        for name, score in pair_scores.items():
            columns[name].append(score)
    return {name: np.frombuffer(column, dtype=np.float32) for name, column in columns.items()}


def describe(values: np.ndarray) -> dict[str, float]:
    """How many values there are, and where most of them lie."""
    low, median, high = np.percentile(values, (5, 50, 95)).tolist()
    return {"count": len(values), "mean": float(values.mean(dtype=float)), "5 %": low, "median": median, "95 %": high}


def choose_records(records: Iterable[Record], most: int, seed: int) -> list[Record]:
    """Some records of every reason, sampled at random, whatever their order; the most frequent reasons first."""
    chosen: dict[str, list[tuple[int, str, Record]]] = defaultdict(list)
    counts: Counter[str] = Counter()
    for record in records:
        reason = record.get(REJECTED, "")
        counts[reason] += 1
        entry = (seed_of(seed, "sheet", record["id"]), record["id"], record)
        insort(chosen[reason], entry, key=lambda entry: entry[:2])
        del chosen[reason][most:]
    per_reason = max(2, most // max(1, len(chosen)))
    return [record for reason, _ in counts.most_common() for *_, record in chosen[reason][:per_reason]][:most]


def num_kept(counts: Mapping[str, Any]) -> int:
    """How many items a stage with counts `{"items": number, "rejected": {reason: number}}` did not reject."""
    return counts["items"] - sum(counts["rejected"].values())
