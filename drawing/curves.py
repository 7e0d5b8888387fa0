"""Charts: curves and bars in one look. Matplotlib draws them, and is imported only when one is drawn."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras import not_installed
from ..files import whole_file
from .palette import FAINT, GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRAME = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "legend.frameon": False,
}
STYLE = FRAME | {
    "figure.figsize": (6.4, 3.8),
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "lines.linewidth": 2,
}


def check_charts() -> None:
    """Checks, before long work, that matplotlib is installed; else raises an ImportError that says how."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise not_installed("matplotlib", "charts are drawn by it") from error


@contextmanager
def chart(file: Path, style: Mapping[str, Any] = STYLE, **options) -> Iterator["Figure"]:
    """A figure with these options, such as `figsize`, to draw on. At the end it is written as a PNG, whole or not."""
    check_charts()
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # not pyplot, which would look for a display

    with rc_context(style):
        figure = Figure(**options)
        yield figure
        with whole_file(file) as part:
            figure.savefig(part, format="png")


def bars(
    axes: "Axes", positions: Sequence[Any], shares: Sequence[float], colour: str, is_labelled: bool = True
) -> None:
    """Bars of percentages, each with its number above it."""
    drawn = axes.bar(positions, shares, color=colour, width=0.8)
    if is_labelled:
        axes.bar_label(drawn, [f"{share:.1f}" for share in shares], padding=2, color=GREY, fontsize=10)
    axes.grid(visible=False)
    axes.margins(y=0.1)


def band(axes: "Axes", places: Sequence[float], intervals: Sequence[Sequence[float]], colour: str, label: str) -> None:
    """A curve of values with their intervals: each is the value, its lower and its upper end."""
    middle, low, high = zip(*intervals, strict=True)
    axes.plot(places, middle, color=colour, marker="o", label=label)
    axes.fill_between(places, low, high, color=colour, alpha=0.12, linewidth=0)


def log_ticks(axes: "Axes", positions: Sequence[int]) -> None:
    """A logarithmic axis with ticks only at these whole numbers."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_xticks(positions)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda position, _: f"{position:,.0f}"))
