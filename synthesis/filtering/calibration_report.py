"""What calibration found, as a page, a picture and a piece of a recipe."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from ...drawing.curves import chart
from ...drawing.palette import BLUE, FAINT, GREY, TEAL, VERMILION
from ...files import write_whole
from ...markdown_text import Markdown, block, plain, public
from ...names import counted
from ...tables import markdown_table
from ..report.page import control_section
from .calibration import Outcome, Verdict, measure, score_names
from .calibration_sheets import describe_bound
from .controls import ControlTally, wilson_interval
from .thresholds import Thresholds, concerns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REPORT, CURVES, RECIPE = "report.md", "curves.png", "thresholds.yaml"

_COLUMNS, _CURVE_POINTS, _FEWEST = 4, 100, 10


def write_report(
    folder: Path,
    source: str,
    verdicts: tuple[Sequence[Verdict], Sequence[Verdict]],
    empty: int,
    precision: float,
    present: Thresholds,
    found: Thresholds,
    controls: ControlTally | None = None,
) -> Outcome:
    """Writes `REPORT`, `CURVES` and `RECIPE` into a folder; returns how the bounds found do on the second half.

    Args:
        folder: Must exist.
        source: What was calibrated, for the headline.
        verdicts: The half that bounds were found on, and the other.
        empty: Rows of the file of verdicts that were not filled in.
        precision: The wanted precision.
        present: The bounds of the recipe.
        found: The bounds found on the first half.
        controls: What the judge said of pairs spoilt on purpose, if it was shown some.
    """
    learned, unseen = verdicts
    every = [*learned, *unseen]
    snippet, result = recipe_of(found), measure(found, unseen)
    num_pairs, num_good = len({verdict.pair.record["id"] for verdict in every}), sum(v.good for v in every)
    parts = [
        f"# Calibration of {plain(public(source))}",
        f"{counted(len(every), 'verdict')} on {counted(num_pairs, 'pair')}; {num_good:,} good "
        f"({100 * num_good / len(every):.1f} %). Not filled in: {counted(empty, 'row')}. Wanted precision: "
        f"{100 * precision:g} %.",
        "Precision is the share of good triplets among those kept, recall the share of good triplets that are kept; in "
        "brackets 95 % intervals (Wilson), as if verdicts were independent. Bounds were found on the first half of the "
        "verdicts, cut by quadruple; only the second half says how good they are.",
        markdown_table(
            ["", "verdicts", "good", "kept", "precision", "recall"],
            [
                _outcome_row("no bounds, all verdicts", measure(Thresholds(), every)),
                _outcome_row("present bounds, all verdicts", measure(present, every)),
                _outcome_row("present bounds, second half", measure(present, unseen)),
                _outcome_row("bounds found, first half (found on it)", measure(found, learned)),
                _outcome_row(Markdown("**bounds found, second half (unseen)**"), result),
            ],
        ),
    ]
    if not result.precision >= precision:
        parts.append(
            f"**The wanted precision was not reached on the unseen half** ({_share(result.kept_good, result.kept)}). "
            "More verdicts, other questions to the judge or another judge may help."
        )
    parts += ["## Bounds found", f"Also in {RECIPE}.", block(snippet, "yaml")]
    parts += ["## Why triplets are bad", "On the second half: bad for this reason, and kept all the same."]
    by_present = measure(present, unseen).by_reason
    rows = [
        [reason or "(none given)", f"{total:,}", f"{by_present[reason][1]:,}", f"{kept:,}"]
        for reason, (total, kept) in result.by_reason.items()
    ]
    parts.append(markdown_table(["reason", "bad", "kept by the present bounds", "kept by the bounds found"], rows))
    if controls:
        parts += ["## The judge's controls", *control_section(controls.as_dict(), "the judge's present bounds")]
    parts += ["## Scores", f"![Precision and recall of a bound on each score alone]({CURVES})"]
    parts += [
        "AUC: how often a good triplet scores higher than a bad one; 0.5 says nothing, below it low scores are good.",
        _score_table(every, present, found),
    ]
    write_whole(folder / REPORT, "\n\n".join(parts) + "\n")
    write_whole(folder / RECIPE, snippet)
    draw_curves(folder / CURVES, every, present, found)
    return result


def _outcome_row(name: str, outcome: Outcome) -> list[str]:
    numbers = (outcome.good + outcome.bad, outcome.good, outcome.kept)
    shares = (_share(outcome.kept_good, outcome.kept), _share(outcome.kept_good, outcome.good))
    return [name, *(f"{number:,}" for number in numbers), *shares]


def _score_table(verdicts: Sequence[Verdict], present: Thresholds, found: Thresholds) -> str:
    rows = []
    for name in score_names(verdicts):
        values, good = _values(name, verdicts)
        medians = [f"{np.median(part):.3g}" if len(part) else "" for part in (values[good], values[~good])]
        bounds = [describe_bound(thresholds.bounds.get(name)) for thresholds in (present, found)]
        rows.append([name, f"{len(values):,}", f"{auc(values, good):.3f}", *medians, *bounds])
    header = ["score", "measured", "AUC", "median of good", "of bad", "present bound", "bound found"]
    return markdown_table(header, rows)


def recipe_of(thresholds: Thresholds) -> str:
    """The bounds as the section `filter` of a recipe."""
    return yaml.safe_dump({"filter": thresholds.model_dump(exclude_none=True)}, sort_keys=False)


def auc(values: np.ndarray, good: np.ndarray) -> float:
    """Probability that a good one has the higher value, ties halved; NaN if all are good or all bad."""
    if good.all() or not good.any():
        return math.nan
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    num_good, num_bad = good.sum(), (~good).sum()
    return float((ranks[good].sum() - num_good * (num_good + 1) / 2) / (num_good * num_bad))


def draw_curves(file: Path, verdicts: Sequence[Verdict], present: Thresholds, found: Thresholds) -> None:
    """Draws precision and recall of a bound on each score alone, over the bound, and the bounds as vertical lines.

    Raises:
        ImportError: matplotlib is not installed.
    """
    names = score_names(verdicts)
    rows = -(-len(names) // _COLUMNS)
    with chart(file, {}, figsize=(3.1 * _COLUMNS, 2.5 * rows + 0.5), dpi=110, layout="constrained") as figure:
        axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
        for panel in axes[len(names) :]:
            panel.remove()
        for name, panel in zip(names, axes[: len(names)], strict=True):
            _draw_panel(panel, name, *_values(name, verdicts), {"present": present, "found": found})
        labelled = {
            label: line for panel in axes for line, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        figure.legend(labelled.values(), labelled.keys(), loc="outside upper center", ncols=4, frameon=False)


def _draw_panel(
    panel: "Axes", name: str, values: np.ndarray, good: np.ndarray, bounds: Mapping[str, Thresholds]
) -> None:
    side, kept = ("at most", np.less_equal) if auc(values, good) < 0.5 else ("at least", np.greater_equal)
    cuts = np.unique(np.quantile(values, np.linspace(0, 1, _CURVE_POINTS), method="nearest"))
    is_kept = kept(values[None, :], cuts[:, None])
    counts, kept_good = is_kept.sum(1), (is_kept & good).sum(1)
    shown = counts >= _FEWEST  # the share of a few says little, and jumps
    panel.plot(cuts[shown], kept_good[shown] / counts[shown], color=VERMILION, label="precision", marker=".", ms=3)
    panel.plot(cuts, kept_good / max(1, good.sum()), color=TEAL, ls="--", label="recall")
    for (label, thresholds), (colour, style) in zip(bounds.items(), ((GREY, ":"), (BLUE, "-")), strict=True):
        bound = thresholds.bounds.get(name)
        for cut in (bound.at_least, bound.at_most) if bound else ():
            if cut is not None:
                panel.axvline(cut, color=colour, ls=style, lw=1.5, label=f"{label} bound")
    panel.set_title(f"{name}, {side}", loc="left", fontsize=10)
    panel.set_ylim(-0.03, 1.03)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(color=FAINT)
    panel.tick_params(labelsize=8)


def _values(name: str, verdicts: Sequence[Verdict]) -> tuple[np.ndarray, np.ndarray]:
    """The values of a score, and whether the triplets are good, where it was measured and concerns the triplet."""
    some = [
        (verdict.pair.scores[name], verdict.good)
        for verdict in verdicts
        if concerns(name, verdict.direction) and math.isfinite(verdict.pair.scores.get(name, math.nan))
    ]
    return np.array([value for value, _ in some], dtype=float), np.array([good for _, good in some], dtype=bool)


def _share(part: int, whole: int) -> str:
    """A share with Wilson's interval of 95 %."""
    if not whole:
        return "-"
    low, high = wilson_interval(part, whole, z=1.96)
    return f"{100 * part / whole:.1f} % ({100 * max(0, low):.1f} to {100 * min(1, high):.1f})"
