"""Draws the charts of a statistics page, in the style of evaluation reports."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...drawing.curves import bars
from ...drawing.palette import BLUE, FAINT, GREY, TEAL, VERMILION
from ..filtering.thresholds import Bound
from .counting import mean_of, num_kept

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Chart = Callable[["Figure"], None]  # draws itself
_BINS = 40


def size_chart(sizes: Mapping[int, int], groups: str, members: str, figure: "Figure") -> None:
    """The share of the groups with each number of members; `groups` and `members` are their names in the plural."""
    axes = figure.subplots()
    total = sum(sizes.values())
    shares = [100 * count / total for count in sizes.values()]
    is_readable = len(sizes) <= 12
    if is_readable:
        axes.set_xticks(list(sizes))
    bars(axes, list(sizes), shares, BLUE, is_labelled=is_readable)
    axes.set(xlabel=members, ylabel=f"{groups} (%)", title=f"{total:,} {groups} by their number of {members}")


def length_chart(lengths: Mapping[str, Mapping[int, int]], figure: "Figure") -> None:
    """The share of the texts with each length in words, for each kind (two at most)."""
    axes = figure.subplots()
    for (kind, counter), (colour, dashes) in zip(lengths.items(), ((BLUE, "-"), (VERMILION, "--")), strict=False):
        positions = range(min(counter), max(counter) + 1)
        total = sum(counter.values())
        shares = [100 * counter.get(position, 0) / total for position in positions]
        label = f"{kind}, mean {mean_of(counter):.1f}"
        axes.plot(positions, shares, color=colour, linestyle=dashes, marker=".", label=label)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="words", ylabel="texts (%)", title=f"Lengths of {' and '.join(lengths)}")
    axes.legend()


def acceptance_chart(stages: Mapping[str, Mapping[str, Any]], figure: "Figure") -> None:
    """A bar per stage, in order: what it kept of what came to it, with the numbers."""
    figure.set_figheight(0.9 + 0.42 * len(stages))
    axes = figure.subplots()
    for place, counts in enumerate(stages.values()):
        kept, items = num_kept(counts), counts["items"]
        share = 100 * kept / items if items else 0.0
        axes.barh(place, 100, color=FAINT, height=0.7)
        axes.barh(place, share, color=TEAL, height=0.7)
        text = f"{kept:,} of {items:,}, {share:.1f} %"
        axes.annotate(text, (101.5, place), va="center", color=GREY, fontsize=10, annotation_clip=False)
    axes.set_yticks(range(len(stages)), list(stages))
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set(xlim=(0, 100), xlabel="kept of what came to the stage (%)", title="Acceptance per stage")


def score_chart(columns: Mapping[str, np.ndarray], bounds: Mapping[str, Bound], figure: "Figure") -> None:
    """A small histogram per score, between its 0.2 % and 99.8 % quantiles: single outliers would flatten the rest."""
    num_columns = min(3, len(columns))
    num_rows = -(-len(columns) // num_columns)
    figure.set_size_inches(3.2 * num_columns, 2.3 * num_rows)
    grid = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axes, (name, values) in zip(grid, columns.items(), strict=False):
        bound = bounds.get(name)
        limits = [limit for limit in (bound.at_least, bound.at_most) if limit is not None] if bound else []
        ends = [*np.percentile(values, (0.2, 99.8)).tolist(), *limits]
        axes.hist(values, bins=_BINS, range=(min(ends), max(ends)), color=BLUE)
        for limit in limits:
            axes.axvline(limit, color=VERMILION, linestyle="--", linewidth=1.5)
        axes.set_title(name)
        axes.set_yticks([])
        axes.grid(visible=False)
    for axes in grid[len(columns) :]:
        axes.set_axis_off()
