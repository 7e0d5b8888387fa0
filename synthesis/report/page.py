"""The sections that the pages of both kinds of data sets have, and how a page is written."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ...drawing.sheet import save_sheet
from ...files import write_json, write_whole
from ...tables import markdown_table
from ..filtering.controls import LOST, SPOILT, TURNED
from ..pair_sheet import PairCard
from .charts import Chart, draw_charts
from .counting import num_kept

_MOST_VALUES, _MOST_REASONS = 12, 12  # listed on the page


def control_section(tally: Mapping[str, Any], bounds: str = "the judge's bounds") -> list[str]:
    """Paragraphs and a table for a page: what is known of how well the judge looks.

    Args:
        tally: What `ControlTally.as_dict` gives.
        bounds: What the bounds are called on this page.
    """
    rows = []
    for kind in SPOILT:
        if found := tally.get(kind):
            shown, told, kept = found["shown"], found["told apart"], found["kept by the bounds"]
            kept_text = "no bounds" if kept is None else f"{kept:,} ({100 * kept / shown:.0f} %)"
            rows.append([kind, f"{shown:,}", f"{told:,} ({100 * told / shown:.0f} %)", kept_text])
    section = [
        "Some pairs were shown to the judge once more, spoilt on purpose. Told apart are those that got lower marks "
        "than the pair that they were made of. Marks without a look tell half of them apart at most; bounds that keep "
        "many of them keep faulty pairs.",
        *([markdown_table(["spoilt pairs", "shown", "told apart", f"kept by {bounds}"], rows)] if rows else []),
    ]
    if (turned := tally[TURNED])["shown"]:
        section.append(
            f"Shown once more with left and right exchanged, texts and all, {turned['same decision']:,} of "
            f"{turned['shown']:,} pairs were decided on as before; a mark differed by "
            f"{turned['mean difference of a mark']:.2f} in the mean."
        )
    if lost := tally[LOST]:
        section.append(
            f"{lost:,} more of these pairs say nothing: the judge gave no usable marks, then or for the sound pair."
        )
    return section


def write_page(
    folder: Path,
    found: Mapping[str, Any],
    charts: Mapping[str, Chart],
    sheets: Mapping[str, tuple[str, Sequence[PairCard]]],
    draw: Callable[[Sequence[PairCard], str, str], Image.Image],
    sections: Callable[[Mapping[str, Any], Sequence[str]], Mapping[str, Sequence[str]]],
    seed: int,
) -> None:
    """Write a data set's statistics.json, its pictures, and at last statistics.md.

    Args:
        folder: Where they go; made if need be.
        found: What statistics.json holds.
        charts: By the names of their files.
        sheets: Titles and cards, by the names of their files; those without cards are left out.
        draw: Makes a sheet of cards, a title and a subtitle.
        sections: Makes headings and their parts of `found` and of the names of the pictures that were drawn.
        seed: By which the cards were chosen, for the subtitle.

    Raises:
        ImportError: matplotlib is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = draw_charts(folder, charts)
    for file, (title, cards) in sheets.items():
        if cards:
            sheet = draw(cards, title, f"{found['name']}: drawn at random (seed {seed})")
            save_sheet(sheet, folder / file, quality=90)
            pictures.append(file)
    write_json(folder / "statistics.json", found)
    parts = (part for heading, parts in sections(found, pictures).items() for part in (heading, *parts))
    write_whole(folder / "statistics.md", "\n\n".join(parts) + "\n")


def acceptance_section(stages: Mapping[str, Mapping[str, Any]], pictures: Sequence[str]) -> list[str]:
    """What each stage kept, and why it rejected the rest; `stages` as for `write_statistics`."""
    rows = [
        [stage, f"{counts['items']:,}", f"{num_kept(counts):,}", percent(num_kept(counts), counts["items"])]
        for stage, counts in stages.items()
    ]
    return [
        markdown_table(["stage", "items", "kept", ""], rows),
        *shown(pictures, "acceptance.png"),
        "Rejected, the most frequent reasons of each stage first:",
        markdown_table(["stage", "reason", "items", ""], _reason_rows(stages)),
    ]


def shown(pictures: Sequence[str], *names: str) -> list[str]:
    """The pictures of these names that were drawn, in Markdown."""
    return [f"![{name.split('.')[0]}]({name})" for name in names if name in pictures]


def _reason_rows(stages: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    rows = []
    for stage, counts in stages.items():
        reasons = sorted(counts["rejected"].items(), key=lambda entry: -entry[1])
        for reason, number in reasons[:_MOST_REASONS]:
            rows.append([stage, reason, f"{number:,}", percent(number, counts["items"])])
        if rest := reasons[_MOST_REASONS:]:
            number = sum(count for _, count in rest)
            rows.append([stage, f"{len(rest):,} other reasons", f"{number:,}", percent(number, counts["items"])])
    return rows


def coverage_table(coverage: Mapping[str, Mapping[str, float]]) -> str:
    """The most frequent values of every attribute; `coverage` as `Coverage.shares` gives it."""
    rows = []
    for attribute, shares in coverage.items():
        listed = [f"{value} {100 * share:.1f} %" for value, share in list(shares.items())[:_MOST_VALUES]]
        more = f"; and {len(shares) - _MOST_VALUES:,} more values" if len(shares) > _MOST_VALUES else ""
        rows.append([attribute, ", ".join(listed) + more])
    return markdown_table(["attribute", "values"], rows)


def measure_table(measures: Mapping[str, float]) -> str:
    """Measures, four digits of each."""
    return markdown_table(["measure", "value"], [[key, f"{value:.4g}"] for key, value in measures.items()])


def percent(part: float, whole: float) -> str:
    """A share as text; empty where there is nothing to share."""
    return f"{100 * part / whole:.1f} %" if whole else ""
