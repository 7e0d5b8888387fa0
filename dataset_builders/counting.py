"""Counts what is in a data set, record by record: groups, captions, words, image files."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..markdown_text import Markdown

if TYPE_CHECKING:
    import datasets

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_NO_MATCH = -1
_MAX_VALUES = 20  # a text column with more values is not counted by value


class Statistics:
    """Counts the records of a split, one by one.

    Texts are counted by column: those named `...caption`, and lists named `captions`, by their words, others with few
    values by value. Integers are taken as ids; where there is an instance_id, as in ITCPR, a person_id is unique within
    its source only.

    Args:
        features: Those of the split.
    """

    def __init__(self, features: "datasets.Features"):
        types = {name: getattr(feature, "dtype", None) for name, feature in features.items()}
        texts = [name for name, dtype in types.items() if dtype == "string" and not name.endswith("_path")]
        self.records = 0
        self.ids = {name: Counter() for name, dtype in types.items() if dtype == "int64"}
        self.values = {name: Counter() for name in texts if not name.endswith("caption")}
        captions = [name for name in features if name == "captions" or (name in texts and name.endswith("caption"))]
        self.captions = {name: Counter() for name in captions}  # lengths
        self.distinct = {name: set() for name in self.captions}  # hashes
        self.words = {name: set() for name in self.captions}
        self.files: dict[int, int] = {}  # hash of the path -> bytes
        self.images, self.image_bytes = 0, 0

    def add(self, record: dict[str, Any], images: Iterable[tuple[str, int]]) -> None:
        """Count a record.

        Args:
            record: Its columns other than images.
            images: The path of each of its images, and the size of the file in bytes.
        """
        self.records += 1
        for name, counter in self.ids.items():
            by_source = name == "person_id" and "instance_id" in record
            counter[(record["source"], record[name]) if by_source else record[name]] += 1
        for name, counter in self.values.items():
            if len(counter) <= _MAX_VALUES:
                counter[record[name]] += 1
        for name, lengths in self.captions.items():
            for caption in record[name] if name == "captions" else (record[name],):
                words = words_of(caption)
                lengths[len(words)] += 1
                self.distinct[name].add(hash(caption))
                self.words[name].update(words)
        for path, size in images:
            self.files[hash(path)] = size
            self.images += 1
            self.image_bytes += size

    def to_dict(self) -> dict[str, Any]:
        """The results, as JSON can hold them."""
        return {
            "records": self.records,
            "ids": {name: _count_groups(counter, name == "instance_id") for name, counter in self.ids.items()},
            "values": {name: counter for name, counter in self.values.items() if len(counter) <= _MAX_VALUES},
            "captions": {
                name: {
                    "distinct": len(self.distinct[name]),
                    "shortest": min(lengths),
                    "longest": max(lengths),
                    "mean": sum(length * count for length, count in lengths.items()) / lengths.total(),
                    "words": len(self.words[name]),
                }
                for name, lengths in self.captions.items()
            },
            "words": len(set().union(*self.words.values())),
            "images": {
                "files": len(self.files),
                "file_bytes": sum(self.files.values()),
                "embedded": self.images,
                "embedded_bytes": self.image_bytes,
            },
        }


def _count_groups(counter: Counter, has_distractors: bool) -> dict[str, Any]:
    sizes = [count for value, count in counter.items() if not (has_distractors and value == _NO_MATCH)]
    return {
        "groups": len(sizes),
        "records": sum(sizes),
        "sizes": {str(size): count for size, count in sorted(Counter(sizes).items())},
        "distractors": counter[_NO_MATCH] if has_distractors else 0,
    }


@lru_cache(maxsize=4096)  # records of the same captions follow one another
def words_of(text: str) -> tuple[str, ...]:
    """Runs of letters and digits, in lower case."""
    return tuple(_WORD.findall(text.lower()))


def describe_counts(counts: Mapping[str, Any]) -> dict[str, str]:
    """The counts of `Statistics.to_dict` for a table: name of a row, as Markdown or text -> its content."""
    rows = {"records": f"{counts['records']:,}"}
    for name, ids in counts["ids"].items():
        sizes = list(map(int, ids["sizes"]))
        each = f"; records each: {span(sizes)}, mean {ids['records'] / ids['groups']:.2f}" if sizes else ""
        distractors = f"; -1 in {ids['distractors']:,} records" if ids["distractors"] else ""
        rows[_code(name)] = f"{ids['groups']:,} distinct{each}{distractors}"
        if len(sizes) <= _MAX_VALUES:
            rows[Markdown(f"records each: number of {_code(name)}")] = listing(ids["sizes"])
    for name, values in counts["values"].items():
        rows[_code(name)] = listing(values)
    for name, caption in counts["captions"].items():
        rows[_code(name)] = (
            f"{caption['distinct']:,} distinct; words each: {span([caption['shortest'], caption['longest']])}, mean "
            f"{caption['mean']:.1f}; {caption['words']:,} distinct words"
        )
    if len(counts["captions"]) > 1:
        rows["words of all captions"] = f"{counts['words']:,} distinct"
    return rows


def _code(name: str) -> Markdown:
    return Markdown(f"`{name}`")


def span(numbers: Iterable[int]) -> str:
    """The lowest and the highest."""
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def listing(counts: Mapping[str, int]) -> str:
    """How often each value occurs."""
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items())
