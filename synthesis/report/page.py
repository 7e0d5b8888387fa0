"""The last stage of every pipeline, which writes a page, and the sections of pages of both kinds."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from ...drawing.curves import chart
from ...drawing.sheet import save_sheet
from ...files import write_json, write_whole
from ...names import counted
from ...tables import markdown_table
from ..components import Record
from ..filtering.controls import LOST, SPOILT, TURNED
from ..pair_sheet import PairPanel, draw_pairs
from ..settings import deciding
from ..stages import WholeStage, Workspace
from .charts import Chart, acceptance_chart
from .counting import num_kept
from .measures import StatisticsSettings

_PAGE, _NUMBERS = "statistics.md", "statistics.json"
_MOST_VALUES, _MOST_REASONS = 12, 12  # listed on the page


class StatisticsStage(WholeStage):
    """A stage that writes a page.

    Args:
        settings: What is measured.
        seed: Seed for the samples that are shown and measured.
        sources: The stages that the page describes, in order.
    """

    name = "statistics"
    draw: ClassVar = staticmethod(draw_pairs)  # makes a sheet of panels

    def __init__(self, settings: StatisticsSettings, seed: int, sources: Sequence[str]):
        super().__init__()
        self._measured, self._seed, self._sources = settings, seed, list(sources)
        self.source, self.settings = self._sources[-1], deciding(settings)

    def sources(self) -> list[str]:
        """The stages that the page describes."""
        return self._sources

    @property
    def works_with(self) -> Any:
        """The settings of what measures."""
        return self._measured

    def try_out(self, pair: Record, folder: Path) -> None:
        """See `Stage.try_out`."""
        self._measured.try_out()

    def results(self, work: Workspace) -> list[Path]:
        """The page and its numbers."""
        return [work.folder(self.name) / name for name in (_PAGE, _NUMBERS)]

    @abstractmethod
    def sections(self, found: Mapping[str, Any], pictures: Sequence[str]) -> dict[str, list[str]]:
        """The parts of the page by their headings, from the numbers and the file names of the pictures."""

    def write(
        self,
        folder: Path,
        found: Mapping[str, Any],
        charts: Mapping[str, Chart],
        sheets: Mapping[str, tuple[str, Sequence[PairPanel]]],
    ) -> None:
        """Write the pictures, the numbers, and finally the page.

        Args:
            folder: Where they go.
            found: The numbers: `name` of the data set, counts of `stages`, and what `sections` needs.
            charts: Charts by the names of their files, beside that of the acceptance.
            sheets: Titles and panels by the names of their files; sheets without panels are left out.

        Raises:
            ImportError: matplotlib is missing.
        """
        charts = {**charts, "acceptance.png": partial(acceptance_chart, found["stages"])}
        draw_charts(folder, charts)
        sheets = {file: sheet for file, sheet in sheets.items() if sheet[1]}
        for file, (title, panels) in sheets.items():
            sheet = self.draw(panels, title, f"{found['name']}: sampled at random (seed {self._seed})")
            save_sheet(sheet, folder / file, quality=90)
        write_json(folder / _NUMBERS, found)
        sections = self.sections(found, [*charts, *sheets])
        parts = (part for heading, parts in sections.items() for part in (heading, *parts))
        write_whole(folder / _PAGE, "\n\n".join(parts) + "\n")


def draw_charts(folder: Path, charts: Mapping[str, Chart]) -> None:
    """Draw charts by the names of their files."""
    for file, draw in charts.items():
        with chart(folder / file) as figure:
            draw(figure)


def control_section(tally: Mapping[str, Any], bounds: str = "the judge's bounds") -> list[str]:
    """Paragraphs and a table for a page: how well the judge looks.

    Args:
        tally: What `ControlTally.as_dict` gives.
        bounds: What the bounds are called on this page.
    """
    rows = []
    for kind in filter(tally.get, SPOILT):
        shown, told, kept = (tally[kind][name] for name in ("shown", "told apart", "kept by the bounds"))
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


def acceptance_section(stages: Mapping[str, Mapping[str, Any]], pictures: Sequence[str]) -> list[str]:
    """What each stage kept, and why it rejected the rest, by `Workspace.counts` of each stage."""
    rows, reason_rows = [], []
    for stage, counts in stages.items():
        items, kept = counts["items"], num_kept(counts)
        rows.append([stage, f"{items:,}", f"{kept:,}", percent(kept, items)])
        reasons = sorted(counts["rejected"].items(), key=lambda entry: -entry[1])
        if rest := reasons[_MOST_REASONS:]:
            others = (counted(len(rest), "other reason"), sum(number for _, number in rest))
            reasons = [*reasons[:_MOST_REASONS], others]
        reason_rows += [[stage, reason, f"{number:,}", percent(number, items)] for reason, number in reasons]
    return [
        markdown_table(["stage", "items", "kept", ""], rows),
        *shown(pictures, "acceptance.png"),
        "Rejected, the most frequent reasons of each stage first:",
        markdown_table(["stage", "reason", "items", ""], reason_rows),
    ]


def shown(pictures: Sequence[str], *names: str) -> list[str]:
    """In Markdown, the pictures with these names that exist."""
    return [f"![{name.split('.')[0]}]({name})" for name in names if name in pictures]


def coverage_table(coverage: Mapping[str, Mapping[str, float]]) -> str:
    """The most frequent values of every attribute; `coverage` as `Coverage.shares` gives it."""
    rows = []
    for attribute, shares in coverage.items():
        listed = [f"{value} {100 * share:.1f} %" for value, share in list(shares.items())[:_MOST_VALUES]]
        more = f"; and {len(shares) - _MOST_VALUES:,} more values" if len(shares) > _MOST_VALUES else ""
        rows.append([attribute, ", ".join(listed) + more])
    return markdown_table(["attribute", "values"], rows)


def measure_table(measures: Mapping[str, float]) -> str:
    """A table of measures, with four digits each."""
    return markdown_table(["measure", "value"], [[key, f"{value:.4g}"] for key, value in measures.items()])


def overview_rows(found: Mapping[str, Any], names: Sequence[str]) -> list[list[str]]:
    """Rows of names and numbers; those that are not whole have one digit after the point."""
    return [[name, f"{found[name]:,}" if isinstance(found[name], int) else f"{found[name]:.1f}"] for name in names]


def percent(part: float, whole: float) -> str:
    """A share as text; empty where there is nothing to share."""
    return f"{100 * part / whole:.1f} %" if whole else ""
