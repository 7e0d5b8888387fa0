"""The page about a finished set of triplets; `people` is that of text-image sets."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...markdown_text import plain
from ...tables import markdown_table
from ..components import REJECTED, Record
from ..pair_sheet import PairCard, draw_pairs
from .charts import Chart, acceptance_chart, length_chart, score_chart, size_chart
from .counting import as_columns, choose_records, count_quadruples, count_triplets, describe
from .page import acceptance_section, control_section, coverage_table, measure_table, shown, write_page

logger = logging.getLogger(__name__)

PUBLISHED = {  # what the papers say of the published data sets, by the names of `summarise`
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

_KEPT_SHOWN, _REJECTED_SHOWN = 12, 18  # cards on a sheet

_OVERVIEW_NOTE = (
    "Words are runs of letters and digits, in lower case. A group is what one quadruple gives in one direction. Two "
    "triplets are possible of every diptych that was to be painted."
)


def write_statistics(
    folder: Path,
    name: str,
    triplets: Iterable[Mapping[str, Any]],
    *,
    id_field: str = "cpr_id",
    stages: Mapping[str, Mapping[str, Any]] | None = None,
    quadruples: Iterable[Record] = (),
    scores: Iterable[Mapping[str, float]] = (),
    controls: Mapping[str, Any] | None = None,
    bounds: Mapping[str, tuple[float | None, float | None]] | None = None,
    kept: Iterable[Record] = (),
    rejected: Iterable[Record] = (),
    images: Path = Path(),
    measures: Mapping[str, float] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Write the page, its numbers and its pictures.

    Args:
        folder: Where they go; made if need be.
        name: Of the data set; published figures of this name stand beside the own ones.
        triplets: Records in the form of SynCPR.json.
        id_field: Of a triplet's group.
        stages: By name and in order: `{"items": number, "rejected": {reason: number}}`. The possible triplets are two
            per item of "diptychs".
        quadruples: Those kept, for diversity and for what they are about.
        scores: Of each pair, by name.
        controls: Of the judge, see `filtering.controls.ControlTally.as_dict`; None where there are none.
        bounds: Of scores: lowest and highest that is kept, drawn into their histograms.
        kept: Triplets that were kept: `id`, `left`, `right`, `edit_ab`, `edit_ba`, and "ab" or "ba" as `direction`.
        rejected: Triplets or pairs that were rejected: the same, and the reason as `rejected`. Where there are no
            halves, the diptych under `image` is shown.
        images: What their image paths are relative to.
        measures: Further numbers to list, such as an embedding spread, CLIPScore, FID.
        seed: Of the choice of pairs that are shown.

    Returns:
        What statistics.json holds.

    Raises:
        ImportError: matplotlib is missing.
    """
    counted = count_triplets(triplets, id_field)
    if not counted["triplets"]:
        logger.warning("%s: no triplet was kept; statistics.md tells why", folder)
    stages = dict(stages or {})
    coverage, diversity = count_quadruples(quadruples)
    columns = as_columns(scores)
    possible = 2 * stages["diptychs"]["items"] if "diptychs" in stages else None
    found = {
        "name": name,
        **counted,
        "kept of all possible triplets": counted["triplets"] / possible if possible else None,
        "stages": stages,
        "scores": {score: describe(values) for score, values in columns.items()},
        **({"controls": dict(controls)} if controls else {}),
        "coverage": coverage,
        "measures": diversity | dict(measures or {}),
    }
    charts: dict[str, Chart] = {}
    if found["triplets"]:
        lengths = {"captions": found["caption lengths"], "edits": found["edit lengths"]}
        charts["groups.png"] = partial(size_chart, found["group sizes"], "groups", "triplets")
        charts["lengths.png"] = partial(length_chart, lengths)
    if stages:
        charts["acceptance.png"] = partial(acceptance_chart, stages)
    if columns:
        charts["scores.png"] = partial(score_chart, columns, bounds or {})
    sheets = {
        "kept.jpg": ("Kept pairs", [_card(one, images) for one in choose_records(kept, _KEPT_SHOWN, seed)]),
        "rejected.jpg": (
            "Rejected pairs",
            [_card(one, images) for one in choose_records(rejected, _REJECTED_SHOWN, seed)],
        ),
    }
    write_page(folder, found, charts, sheets, draw_pairs, _page, seed)
    return found


def summarise(found: Mapping[str, Any]) -> dict[str, str]:
    """The numbers of the overview, as text."""
    share = found["kept of all possible triplets"]
    return {
        "triplets": f"{found['triplets']:,}",
        "groups": f"{found['groups']:,}",
        "triplets per group, mean": f"{found['triplets per group, mean']:.1f}",
        "words per caption, mean": f"{found['words per caption, mean']:.1f}",
        "words per edit, mean": f"{found['words per edit, mean']:.1f}",
        "distinct words": f"{found['distinct words']:,}",
        "kept of all possible triplets": "not known" if share is None else f"{100 * share:.0f} %",
    }


def _page(found: Mapping[str, Any], pictures: Sequence[str]) -> dict[str, list[str]]:
    name, published = found["name"], PUBLISHED.get(found["name"], {})
    overview = [
        [key, value, *([published.get(key, "")] if published else [])] for key, value in summarise(found).items()
    ]
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
            "Dashed lines in the picture are the bounds between which a triplet is kept.",
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


def _card(record: Record, images: Path) -> PairCard:
    direction = record.get("direction", "ab")
    sides = ("left", "right") if direction == "ab" else ("right", "left")
    paths = [record[side] for side in sides] if "left" in record else [record["image"]]
    note = record.get(REJECTED, record["id"])
    return PairCard([images / path for path in paths], record[f"edit_{direction}"], note, REJECTED not in record)
