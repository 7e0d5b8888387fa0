"""The curves of a training run as a picture: loss and its terms, held-out ranking, learning rate."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from ..drawing.curves import FRAME, chart
from ..drawing.palette import BLUE, GREY, INK, PINK, TEAL, VERMILION

# The dashes keep lines apart in print.
_LINES = [(BLUE, "-"), (VERMILION, (0, (5, 1.5))), (TEAL, (0, (1.5, 1.2))), (PINK, (0, (5, 1, 1, 1)))]
_STYLE = FRAME | {
    "font.size": 10,
    "axes.labelcolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.linewidth": 0.8,
}
_TERMS = {"loss_fda": "FDA", "loss_fd": "FD", "loss_mfr": "MFR", "loss_itc": "caption"}
_RANKING = {"eval_rank-10": "Rank-10", "eval_mAP": "mAP", "eval_rank-1": "Rank-1"}
_INCHES_A_PANEL = 2.1


def training_history(log_history: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """The entries of `trainer.state.log_history` that training itself logged, up to its summary.

    What is evaluated afterwards may be the best checkpoint's weights, and is logged under the last step all the same.
    """
    end = [index for index, entry in enumerate(log_history) if "train_runtime" in entry]
    return list(log_history[: end[-1]] if end else log_history)


def draw_curves(
    log_history: Sequence[dict[str, float]], path: str | Path, marks: dict[int, str] | None = None
) -> list[str]:
    """Draws what was logged, a panel for each kind that has at least two points, all over the optimiser steps.

    Args:
        log_history: `trainer.state.log_history`.
        path: the PNG to write; it is 1,600 pixels wide and readable at half of that.
        marks: step -> a word or two, for a vertical line across the panels.

    Returns:
        the panels drawn, of "loss", "held-out ranking" and "learning rate"; without any, no file is written.

    Raises:
        ImportError: matplotlib is not installed, with how to install it.
    """
    history = training_history(log_history)
    others = sorted({name for entry in history for name in entry if name.startswith("loss_")} - _TERMS.keys())
    terms = _series(history, {"loss": "loss", **_TERMS, **{name: name.removeprefix("loss_") for name in others}})
    if len(terms) == 2:  # one term alone is the loss itself
        terms = {"loss": terms["loss"]}
    panels = {
        "loss": terms,
        "held-out ranking": _series(history, _RANKING),
        "learning rate": _series(history, {"learning_rate": "learning rate"}),
    }
    panels = {name: lines for name, lines in panels.items() if lines}
    if panels:
        _draw(panels, marks or {}, Path(path))
    return list(panels)


def _series(history: list[dict[str, float]], names: dict[str, str]) -> dict[str, tuple[list[int], list[float]]]:
    """Label -> steps and values, of the names that were logged at least twice."""
    series = {}
    for name, label in names.items():
        points = [(entry["step"], entry[name]) for entry in history if name in entry]
        if len(points) > 1:
            series[label] = tuple(map(list, zip(*points, strict=True)))
    return series


def _draw(panels: dict[str, dict], marks: dict[int, str], path: Path) -> None:
    heights = [0.55 if name == "learning rate" else 1.0 for name in panels]
    size = (8, 0.6 + _INCHES_A_PANEL * sum(heights))
    with chart(path, _STYLE, figsize=size, dpi=200, layout="constrained") as figure:
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axis, (name, lines) in zip(axes, panels.items(), strict=True):
            _draw_panel(axis, name, lines)
            for step in marks:
                axis.axvline(step, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        first, last = axes[0].get_xlim()
        for step, word in marks.items():
            beside = "left" if step - first < 0.25 * (last - first) else "right"  # the title stays clear of the word
            place = axes[0].get_xaxis_transform()  # x by the step, y by the height of the panel
            axes[0].text(step, 1.01, f" {word} ", transform=place, ha=beside, va="bottom", color=GREY, fontsize=9)
        axes[-1].set_xlabel("optimiser step")
        axes[-1].xaxis.get_major_locator().set_params(integer=True)
        axes[-1].xaxis.set_major_formatter("{x:,.0f}")


def _draw_panel(axis, name: str, lines: dict[str, tuple[list[int], list[float]]]) -> None:
    axis.set_title(f"{name}, percent" if name == "held-out ranking" else name, loc="left", fontsize=10, color=INK)
    styles = cycle(_LINES)
    for label, (steps, values) in lines.items():
        colour, dashes = (INK, "-") if label in ("loss", "learning rate") else next(styles)
        marker = "o" if name == "held-out ranking" and len(steps) <= 30 else None
        line = {"color": colour, "linestyle": dashes, "linewidth": 1.6, "marker": marker, "markersize": 3.5}
        axis.plot(steps, values, label=label, **line)
    if name == "held-out ranking":
        axis.set_ylim(0, 100)
    else:
        axis.set_ylim(bottom=0)
        axis.yaxis.set_major_formatter("{x:g}")
    if len(lines) > 1:
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), labelcolor=INK, handlelength=2.2, fontsize=10)
