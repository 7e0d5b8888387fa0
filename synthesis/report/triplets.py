"""Writes the page about a finished set of triplets; `people` writes that of text-image sets."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...markdown_text import plain
from ...tables import markdown_table
from ..components import REJECTED, Record
from ..filtering.controls import count_controls
from ..filtering.thresholds import Thresholds
from ..pair_sheet import PairPanel
from ..stages import Workspace
from ..triplets.assembly import FORMATS, triplet_of
from ..triplets.records import kept_triplets, rejected_pairs, scores_of
from .charts import Chart, length_chart, score_chart, size_chart
from .counting import as_columns, choose_records, count_quadruples, count_triplets, describe
from .measures import StatisticsSettings
from .page import (
    StatisticsStage,
    acceptance_section,
    control_section,
    coverage_table,
    measure_table,
    overview_rows,
    shown,
)

logger = logging.getLogger(__name__)

_PUBLISHED = {  # the papers' numbers for the published data sets, by the names of the overview
    "SynCPR": {
        "triplets": "1,153,230",
        "groups": "177,530",
        "triplets per group, mean": "6.5",
        "words per caption, mean": "13.3",
        "distinct words": "4,370",
        "kept of all possible triplets": "41 %",
    },
    "CIRHS": {"triplets": "534 thousand", "words per edit, mean": "10.2"},
}

_KEPT_SHOWN, _REJECTED_SHOWN = 12, 18  # panels on a sheet

_OVERVIEW = ("triplets", "groups", "triplets per group, mean", "words per caption, mean", "words per edit, mean")
_OVERVIEW += ("distinct words",)
_SHARE = "kept of all possible triplets"
_OVERVIEW_NOTE = (
    "Words are runs of letters and digits, in lower case. A group is what one quadruple gives in one direction. Two "
    "triplets are possible of every diptych that was to be painted."
)


class TripletStatistics(StatisticsStage):
    """The stage that writes the page.

    Args:
        settings: See `StatisticsStage`.
        seed: See `StatisticsStage`.
        sources: See `StatisticsStage`.
        data_set: "SynCPR" or "CIRHS"; the published numbers of this data set are shown beside the new ones.
        bounds: Bounds of scores, drawn into their histograms.
    """

    def __init__(
        self, settings: StatisticsSettings, seed: int, sources: Sequence[str], data_set: str, bounds: Thresholds
    ):
        super().__init__(settings, seed, sources)
        self._data_set, self._bounds = data_set, bounds

    def make(self, work: Workspace) -> dict[str, Any]:
        """See `WholeStage.make`."""
        folder, (_, id_field) = work.folder(self.name), FORMATS[self._data_set]
        counted = count_triplets((triplet_of(record, id_field) for record in kept_triplets(work)), id_field)
        if not counted["triplets"]:
            logger.warning("%s: no triplet was kept; statistics.md tells why", folder)
        stages = {name: work.counts(name) for name in self.sources()}
        coverage, diversity = count_quadruples(self._quadruples(work))
        columns = as_columns(self._scores(work))
        possible = 2 * stages["diptychs"]["items"]
        tally = count_controls(work.records("judgements"), self._bounds) if "judgements" in self.sources() else None
        found = {
            "name": self._data_set,
            **counted,
            _SHARE: counted["triplets"] / possible if possible else None,
            "stages": stages,
            "scores": {score: describe(values) for score, values in columns.items()},
            **({"controls": tally.as_dict()} if tally else {}),
            "coverage": coverage,
            "measures": diversity | self._measure(work),
        }
        charts: dict[str, Chart] = {}
        if found["triplets"]:
            lengths = {"captions": found["caption lengths"], "edits": found["edit lengths"]}
            charts["groups.png"] = partial(size_chart, found["group sizes"], "groups", "triplets")
            charts["lengths.png"] = partial(length_chart, lengths)
        if columns:
            charts["scores.png"] = partial(score_chart, columns, self._bounds.bounds)
        sheets = {
            file: (title, [_panel(record, work.root) for record in choose_records(records, most, self._seed)])
            for file, title, records, most in (
                ("kept.jpg", "Kept pairs", kept_triplets(work), _KEPT_SHOWN),
                ("rejected.jpg", "Rejected pairs", rejected_pairs(work), _REJECTED_SHOWN),
            )
        }
        self.write(folder, found, charts, sheets)
        return {"triplets": found["triplets"], "groups": found["groups"]}

    def _quadruples(self, work: Workspace) -> Iterator[Record]:
        return (record for record in work.records("distinct") if REJECTED not in record)

    def _scores(self, work: Workspace) -> Iterator[dict[str, float]]:
        for chunk in range(work.num_chunks):
            scores = scores_of(work, chunk, [name for name in self.sources() if name in ("gates", "judgements")])
            yield from (scores[record["id"]] for record in work.kept("gates", chunk))

    def _measure(self, work: Workspace) -> dict[str, float]:
        if not self.works_with.needs_models:
            return {}
        captions = [record[name] for record in self._quadruples(work) for name in ("caption_a", "caption_b")]
        triplets = (record for record in kept_triplets(work) if record["direction"] == "ab")
        sides = (("left", "caption_a"), ("right", "caption_b"))
        pairs = [(work.root / record[side], record[caption]) for record in triplets for side, caption in sides]
        return self.works_with.measure(captions, pairs, self._seed)

    def sections(self, found: Mapping[str, Any], pictures: Sequence[str]) -> dict[str, list[str]]:
        """See `StatisticsStage.sections`."""
        name, published = found["name"], _PUBLISHED.get(found["name"], {})
        share = found[_SHARE]
        overview = [
            *overview_rows(found, _OVERVIEW),
            [_SHARE, "not known" if share is None else f"{100 * share:.0f} %"],
        ]
        if published:
            overview = [[key, value, published.get(key, "")] for key, value in overview]
        scores = [
            [score, f"{entry['count']:,}", *(f"{entry[key]:.3g}" for key in ("mean", "5 %", "median", "95 %"))]
            for score, entry in found["scores"].items()
        ]
        return {
            f"# {plain(name)}: statistics of the synthesis": [
                markdown_table(["", "here", *(["published"] if published else [])], overview),
                _OVERVIEW_NOTE,
                *shown(pictures, "groups.png", "lengths.png"),
            ],
            "## Acceptance": acceptance_section(found["stages"], pictures),
            "## Scores": [
                markdown_table(["score", "pairs", "mean", "5 % below", "median", "95 % below"], scores),
                "Dashed lines in the picture are the bounds within which a triplet is kept.",
                *shown(pictures, "scores.png"),
            ],
            **({"## The judge's controls": control_section(found["controls"])} if "controls" in found else {}),
            "## What the quadruples are about": [
                "The share of the quadruples in which a value occurs.",
                coverage_table(found["coverage"]),
            ],
            "## Diversity and quality": [
                "distinct-n: different runs of n words, as a share of all such runs in the quadruples.",
                measure_table(found["measures"]),
            ],
            "## Pairs": shown(pictures, "kept.jpg", "rejected.jpg"),
        }


def _panel(record: Record, images: Path) -> PairPanel:
    """A triplet that was kept or rejected; or the whole of a diptych that could not be cut apart."""
    direction = record.get("direction", "ab")
    sides = ("left", "right") if direction == "ab" else ("right", "left")
    paths = [record[side] for side in sides] if "left" in record else [record["image"]]
    note = record.get(REJECTED, record["id"])
    return PairPanel([images / path for path in paths], record[f"edit_{direction}"], note, REJECTED not in record)
