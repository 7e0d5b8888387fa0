"""The page about a finished text-image set; `triplets` is that of triplets."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...markdown_text import plain
from ...tables import markdown_table
from ..components import REJECTED, Record
from ..pair_sheet import MOST_PICTURES, PairCard, draw_people
from .charts import acceptance_chart, length_chart, size_chart
from .counting import choose_records, count_people
from .page import acceptance_section, coverage_table, measure_table, percent, shown, write_page

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
        ImportError: matplotlib is missing.
    """
    found = {"name": name, **count_people(people), "stages": dict(stages)}
    if not found["images"]:
        logger.warning("%s: no picture was kept; statistics.md tells why", folder)
    found["edits painted"] = dict(Counter(edit["group"] for edit in edits))
    found["measures"] = found.pop("diversity") | dict(measures or {})
    charts = {"acceptance.png": partial(acceptance_chart, found["stages"])}
    if found["images"]:
        charts["people.png"] = partial(size_chart, found["people by images"], "people", "images")
        charts["lengths.png"] = partial(length_chart, {"captions": found["caption lengths"]})
    people_shown = choose_records(({"id": one[0]["id"], "pictures": one} for one in kept), _PEOPLE_SHOWN, seed)
    rejected_shown = choose_records(rejected, _REJECTED_SHOWN, seed)
    sheets = {
        "kept.jpg": ("People in the data set", [_person_card(one["pictures"], images) for one in people_shown]),
        "rejected.jpg": ("Rejected pictures, as painted", [_rejected_card(one, images) for one in rejected_shown]),
    }
    write_page(folder, found, charts, sheets, draw_people, _page, seed)
    return found


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
            markdown_table(["", ""], overview),
            "Words are runs of letters and digits, in lower case.",
            *shown(pictures, "people.png", "lengths.png"),
        ],
        "## Acceptance": acceptance_section(found["stages"], pictures),
        "## Edits": [markdown_table(["group", "edits", "in the data set", ""], edits)],
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
