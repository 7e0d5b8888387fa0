"""Counts what is in a data set: triplets, groups, people, words, and what its texts are about."""

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
    lengths = {"caption": Counter(), "edit": Counter()}
    words: dict[str, set[str]] = {"caption": set(), "edit": set()}
    num_triplets = 0
    for triplet in triplets:
        num_triplets += 1
        groups[triplet[id_field]] += 1
        for field in ("reference_caption", "target_caption", "edit_caption"):
            found = words_of(triplet[field])
            kind = "edit" if field == "edit_caption" else "caption"
            lengths[kind][len(found)] += 1
            words[kind].update(found)
    sizes = Counter(groups.values())
    return {
        "triplets": num_triplets,
        "groups": len(groups),
        "triplets per group, mean": mean_of(sizes),
        "words per caption, mean": mean_of(lengths["caption"]),
        "words per edit, mean": mean_of(lengths["edit"]),
        "distinct words": len(words["caption"] | words["edit"]),
        "distinct words in edits": len(words["edit"]),
        "group sizes": dict(sorted(sizes.items())),
        "caption lengths": dict(sorted(lengths["caption"].items())),
        "edit lengths": dict(sorted(lengths["edit"].items())),
    }


def count_quadruples(quadruples: Iterable[Record]) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """What quadruples are about, and how varied their texts are.

    Returns:
        For every attribute, the share of quadruples in which each value occurs, most frequent first; and distinct-1 to
        distinct-3 of captions and of edits: distinct n-grams as a share of all.
    """
    coverage, captions, edits = Coverage(), WordRuns(), WordRuns()
    for record in quadruples:
        coverage.add(record)
        for runs, fields in ((captions, ("caption_a", "caption_b")), (edits, ("edit_ab", "edit_ba"))):
            for field in fields:
                runs.add(record[field])
    return coverage.shares(), captions.distinct("captions") | edits.distinct("edits")


def count_people(people: Iterable[Sequence[Record]]) -> dict[str, Any]:
    """Counts of people, pictures and captions, and how often each number and length occurs.

    Args:
        people: As for `write_statistics`. The coverage is the share of them for whose prompt a value was drawn.
    """
    sizes, lengths, per_image, groups = Counter(), Counter(), Counter(), Counter()
    words: set[str] = set()
    coverage, runs = Coverage(), WordRuns()
    for pictures in people:
        sizes[len(pictures)] += 1
        coverage.add(pictures[0])
        for picture in pictures:
            per_image[len(picture["captions"])] += 1
            if "group" in picture:
                groups[picture["group"]] += 1
            for caption in picture["captions"]:
                found = words_of(caption)
                lengths[len(found)] += 1
                words.update(found)
                runs.add(caption)
    return {
        "images": per_image.total(),
        "generated": per_image.total() - groups.total(),
        "edited": groups.total(),
        "people": sizes.total(),
        "images per person, mean": mean_of(sizes),
        "captions": lengths.total(),
        "captions per image, mean": mean_of(per_image),
        "words per caption, mean": mean_of(lengths),
        "distinct words": len(words),
        "people by images": dict(sorted(sizes.items())),
        "caption lengths": dict(sorted(lengths.items())),
        "edits by group": dict(groups),
        "coverage": coverage.shares(),
        "diversity": runs.distinct("captions"),
    }


class Coverage:
    """Counts in how many records a value of an attribute occurs."""

    def __init__(self) -> None:
        self._count = 0
        self._values: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, record: Record) -> None:
        """Count a record, by its fields that say what it is about."""
        self._count += 1
        about = {pair for field in _ATTRIBUTES for pair in _attributes(record.get(field), "")}
        for attribute, value in about:
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


class WordRuns:
    """Counts runs of one to three words in texts."""

    def __init__(self) -> None:
        self._found: dict[int, set[int]] = {1: set(), 2: set(), 3: set()}
        self._totals: Counter[int] = Counter()

    def add(self, text: str) -> None:
        """Count the runs of a text."""
        words = words_of(text)
        for n, found in self._found.items():
            runs = [hash(words[i : i + n]) for i in range(len(words) - n + 1)]
            found.update(runs)
            self._totals[n] += len(runs)

    def distinct(self, kind: str) -> dict[str, float]:
        """distinct-1 to distinct-3 of texts of this kind: different runs as a share of all."""
        return {f"distinct-{n} of {kind}": len(found) / self._totals[n] for n, found in self._found.items() if found}


def _attributes(content: Any, name: str) -> Iterator[tuple[str, str]]:
    """Every single value in nested mappings and lists, with the keys that lead to it."""
    if isinstance(content, Mapping):
        for key, inner in content.items():
            yield from _attributes(inner, f"{name} {key}".strip())
    elif isinstance(content, (list, tuple)):
        for inner in content:
            yield from _attributes(inner, name)
    elif content is not None:
        yield name, str(content)


def mean_of(counts: Mapping[int, int]) -> float:
    """The mean of numbers that occur so often; 0 of none."""
    return sum(value * count for value, count in counts.items()) / max(1, sum(counts.values()))


def as_columns(scores: Iterable[Mapping[str, float]]) -> dict[str, np.ndarray]:
    """The values of each score, of all pairs that have it."""
    columns: dict[str, array] = defaultdict(lambda: array("f"))
    for of_pair in scores:
        for name, score in of_pair.items():
            columns[name].append(score)
    return {name: np.frombuffer(column, dtype=np.float32) for name, column in columns.items()}


def describe(values: np.ndarray) -> dict[str, float]:
    """How many values there are, and where most of them lie."""
    low, median, high = np.percentile(values, (5, 50, 95)).tolist()
    return {"count": len(values), "mean": float(values.mean(dtype=float)), "5 %": low, "median": median, "95 %": high}


def choose_records(records: Iterable[Record], most: int, seed: int) -> list[Record]:
    """Some records of every reason, drawn at random, whatever their order; the most frequent reasons first."""
    chosen: dict[str, list[tuple[int, str, Record]]] = defaultdict(list)
    counts: Counter[str] = Counter()
    for record in records:
        reason = record.get(REJECTED, "")
        counts[reason] += 1
        insort(
            chosen[reason], (seed_of(seed, "sheet", record["id"]), record["id"], record), key=lambda entry: entry[:2]
        )
        del chosen[reason][most:]
    per_reason = max(2, most // max(1, len(chosen)))
    return [record for reason, _ in counts.most_common() for *_, record in chosen[reason][:per_reason]][:most]


def num_kept(counts: Mapping[str, Any]) -> int:
    """Of a stage's `{"items": number, "rejected": {reason: number}}`: the items that were not rejected."""
    return counts["items"] - sum(counts["rejected"].values())
