"""The page about a finished text-image set: what is in it, what was rejected on the way, and how it looks.

    statistics.md      the page to read; written last, so where it is, the rest is whole
    statistics.json    every number on it
    *.png, *.jpg       pictures per person, lengths, acceptance; some people, and some pictures that were rejected

Records are read once, one by one; memory holds counts, the distinct words and n-grams.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...markdown_text import plain
from ..components import Record
from ..pair_sheet import MOST_PICTURES, PairCard, draw_people
from ..stages import REJECTED
from ..statistics import (
    Coverage,
    WordRuns,
    acceptance_chart,
    acceptance_section,
    choose_records,
    coverage_table,
    draw_charts,
    length_chart,
    mean_of,
    measure_table,
    percent,
    shown,
    size_chart,
    table,
    words_of,
    write_page,
)

logger = logging.getLogger(__name__)

_PEOPLE_SHOWN, _REJECTED_SHOWN = 12, 12  # cards on a sheet


def write_statistics(
    folder: Path,
    name: str,
    people: Iterable[Sequence[Record]],
    *,
    stages: Mapping[str, Mapping[str, Any]],
    edits: Iterable[Record] = (),
    kept: Iterable[Sequence[Record]] = (),
    rejected: Iterable[Record] = (),
    images: Path = Path(),
    measures: Mapping[str, float] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Write the page, its numbers and its pictures.

    Args:
        folder: Where they go; made if need be.
        name: Of the data set.
        people: Of each person in the data set the pictures: `id`, `image`, `captions`, those that were edited `group`,
            and what was drawn for the prompt.
        stages: By name and in order: `{"items": number, "rejected": {reason: number}}`.
        edits: All that were to be painted: `group`.
        kept: The people once more, for the sheet.
        rejected: Pictures that were rejected: `id`, `image`, `prompt`, and the reason as `rejected`.
        images: What the image paths are relative to.
        measures: Further numbers to list, such as CLIPScore.
        seed: Of the choice of what is shown.

    Returns:
        What statistics.json holds.

    Raises:
        SynthesisError: matplotlib is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {"name": name, **count_people(people), "stages": dict(stages)}
    if not found["images"]:
        logger.warning("%s: no picture was kept; statistics.md tells why", folder)
    found["edits painted"] = dict(Counter(edit["group"] for edit in edits))
    found["measures"] = found.pop("diversity") | dict(measures or {})
    charts = {"acceptance.png": partial(acceptance_chart, found["stages"])}
    if found["images"]:
        charts["people.png"] = partial(size_chart, found["people by images"], "people", "images")
        charts["lengths.png"] = partial(length_chart, {"captions": found["caption lengths"]})
    pictures = draw_charts(folder, charts)
    people_shown = choose_records(({"id": one[0]["id"], "pictures": one} for one in kept), _PEOPLE_SHOWN, seed)
    rejected_shown = choose_records(rejected, _REJECTED_SHOWN, seed)
    for file, title, cards in (
        ("kept.jpg", "People in the data set", [_person_card(one["pictures"], images) for one in people_shown]),
        ("rejected.jpg", "Rejected pictures, as painted", [_rejected_card(one, images) for one in rejected_shown]),
    ):
        if cards:
            draw_people(cards, title, f"{name}: drawn at random (seed {seed})").save(folder / file, quality=90)
            pictures.append(file)
    write_page(folder, found, _page(found, pictures))
    return found


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


def _page(found: Mapping[str, Any], pictures: Sequence[str]) -> dict[str, list[str]]:
    images = found["images"]
    overview = [
        ["images", f"{images:,}"],
        *([source, f"{found[source]:,} {_in_brackets(found[source], images)}"] for source in ("generated", "edited")),
        ["people", f"{found['people']:,}"],
        ["images per person, mean", f"{found['images per person, mean']:.1f}"],
        ["captions", f"{found['captions']:,}"],
        ["captions per image, mean", f"{found['captions per image, mean']:.1f}"],
        ["words per caption, mean", f"{found['words per caption, mean']:.1f}"],
        ["distinct words", f"{found['distinct words']:,}"],
    ]
    edits = [
        [group, f"{painted:,}", f"{(used := found['edits by group'].get(group, 0)):,}", percent(used, painted)]
        for group, painted in sorted(found["edits painted"].items(), key=lambda entry: (-entry[1], entry[0]))
    ]
    return {
        f"# {plain(found['name'])}: statistics of the synthesis": [
            table(["", ""], overview),
            "Words are runs of letters and digits, in lower case.",
            *shown(pictures, "people.png", "lengths.png"),
        ],
        "## Acceptance": acceptance_section(found["stages"], pictures),
        "## Edits": [table(["group", "edits", "in the data set", ""], edits)],
        "## What the prompts ask for": [
            "The share of the people in the data set for whose prompt a value was drawn.",
            coverage_table(found["coverage"]),
        ],
        "## Diversity and quality": [
            "distinct-n: different runs of n words, as a share of all such runs in the captions.",
            measure_table(found["measures"]),
        ],
        "## Pictures": shown(pictures, "kept.jpg", "rejected.jpg"),
    }


def _in_brackets(part: int, whole: int) -> str:
    return f"({percent(part, whole)})" if whole else ""


def _person_card(pictures: Sequence[Record], images: Path) -> PairCard:
    """The first pictures of a person, the generated one before its edits, and one caption."""
    some = pictures[:MOST_PICTURES]
    groups = [picture["group"] for picture in some if "group" in picture]
    more = f", {len(pictures) - len(some)} more" if len(pictures) > len(some) else ""
    note = f"{pictures[0]['id']}: {', '.join(groups)}{more}" if groups else pictures[0]["id"]
    return PairCard([images / picture["image"] for picture in some], pictures[0]["captions"][0], note, good=True)


def _rejected_card(record: Record, images: Path) -> PairCard:
    return PairCard([images / record["image"]], record["prompt"], record[REJECTED], good=False)
