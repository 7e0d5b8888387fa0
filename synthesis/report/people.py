"""Writes the page about a finished text-image set; `triplets` writes that of triplets."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...markdown_text import plain
from ...tables import markdown_table
from ..components import REJECTED, Record
from ..pair_sheet import MOST_IMAGES, PairPanel, draw_people
from ..stages import Workspace
from ..text_image.assembly import DATASET
from ..text_image.records import pictures_by_person, rejected_pictures
from .charts import length_chart, size_chart
from .counting import choose_records, count_people
from .page import StatisticsStage, acceptance_section, coverage_table, measure_table, overview_rows, percent, shown

logger = logging.getLogger(__name__)

_OVERVIEW = ("images", "generated", "edited", "people", "images per person, mean", "captions")
_OVERVIEW += ("captions per image, mean", "words per caption, mean", "distinct words")
_PEOPLE_SHOWN, _REJECTED_SHOWN = 12, 12  # panels on a sheet


class PeopleStatistics(StatisticsStage):
    """The stage that writes the page."""

    draw = staticmethod(draw_people)

    def make(self, work: Workspace) -> dict[str, Any]:
        """See `WholeStage.make`."""
        folder, with_edits = work.folder(self.name), "edits" in self.sources()
        found = {"name": DATASET, **count_people(self._people(work))}
        found["stages"] = {name: work.counts(name) for name in self.sources()}
        if not found["images"]:
            logger.warning("%s: no image was kept; statistics.md tells why", folder)
        found["edits painted"] = dict(Counter(edit["group"] for edit in work.records("edits")) if with_edits else ())
        found["measures"] = found.pop("diversity") | self._measure(work)
        charts = {}
        if found["images"]:
            charts["people.png"] = partial(size_chart, found["people by images"], "people", "images")
            charts["lengths.png"] = partial(length_chart, {"captions": found["caption lengths"]})
        kept = ({"id": images[0]["id"], "images": images} for images in self._people(work))
        kept = choose_records(kept, _PEOPLE_SHOWN, self._seed)
        rejected = choose_records(rejected_pictures(work, with_edits), _REJECTED_SHOWN, self._seed)
        sheets = {
            "kept.jpg": ("People in the data set", [_person_panel(one["images"], work.root) for one in kept]),
            "rejected.jpg": (
                "Rejected images, as painted",
                [PairPanel([work.root / one["image"]], one["prompt"], one[REJECTED], good=False) for one in rejected],
            ),
        }
        self.write(folder, found, charts, sheets)
        return {"images": found["images"], "people": found["people"]}

    def _people(self, work: Workspace) -> Iterator[list[Record]]:
        """The images of each person that have captions, the generated one first."""
        people = pictures_by_person(work, "edits" in self.sources())
        return filter(None, ([image for image in images if "captions" in image] for images in people))

    def _measure(self, work: Workspace) -> dict[str, float]:
        if not self.works_with.needs_models:
            return {}
        images = [image for person in self._people(work) for image in person]
        pairs = [(work.root / image["image"], caption) for image in images for caption in image["captions"]]
        return self.works_with.measure([caption for _, caption in pairs], pairs, self._seed)

    def sections(self, found: Mapping[str, Any], pictures: Sequence[str]) -> dict[str, list[str]]:
        """See `StatisticsStage.sections`."""
        images, rows = found["images"], dict(overview_rows(found, _OVERVIEW))
        for name in ("generated", "edited"):
            rows[name] += f" ({percent(found[name], images)})" if images else " "
        edits = [
            [group, f"{painted:,}", f"{(used := found['edits by group'].get(group, 0)):,}", percent(used, painted)]
            for group, painted in sorted(found["edits painted"].items(), key=lambda entry: (-entry[1], entry[0]))
        ]
        return {
            f"# {plain(found['name'])}: statistics of the synthesis": [
                markdown_table(["", ""], [*rows.items()]),
                "Words are runs of letters and digits, in lower case.",
                *shown(pictures, "people.png", "lengths.png"),
            ],
            "## Acceptance": acceptance_section(found["stages"], pictures),
            "## Edits": [markdown_table(["group", "edits", "in the data set", ""], edits)],
            "## What the prompts ask for": [
                "The share of the people in the data set for whose prompt a value was sampled.",
                coverage_table(found["coverage"]),
            ],
            "## Diversity and quality": [
                "distinct-n: different runs of n words, as a share of all such runs in the captions.",
                measure_table(found["measures"]),
            ],
            "## Pictures": shown(pictures, "kept.jpg", "rejected.jpg"),
        }


def _person_panel(images: Sequence[Record], folder: Path) -> PairPanel:
    """The first images of a person, the generated one before its edits, and one caption."""
    some = images[:MOST_IMAGES]
    groups = [image["group"] for image in some if "group" in image]
    more = f", {len(images) - len(some)} more" if len(images) > len(some) else ""
    note = f"{images[0]['id']}: {', '.join(groups)}{more}" if groups else images[0]["id"]
    return PairPanel([folder / image["image"] for image in some], images[0]["captions"][0], note, good=True)
