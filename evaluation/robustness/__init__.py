"""Robustness (ITCPR-C): how a model's ranking suffers when queries are spoilt, contradicted, reworded or negated."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..report_folder import write_files
from .report import PICTURES, RobustnessReport
from .suite import evaluate_robustness

if TYPE_CHECKING:
    import datasets

__all__ = ["RobustnessReport", "evaluate_robustness", "write_robustness_report"]


def write_robustness_report(
    report: RobustnessReport, folder: str | Path, queries: "datasets.Dataset | None" = None
) -> list[Path]:
    """Writes robustness.json, the pictures, and last robustness.md.

    Args:
        report: of `evaluate_robustness`.
        folder: is made if need be; a report that lies there is replaced, pictures included.
        queries: those of the report, for the sheet of corruptions; None draws no pictures.

    Returns:
        the files written.

    Raises:
        ImportError: pictures are to be drawn and matplotlib is not installed.
    """

    def draw(folder: Path) -> dict[str, str]:
        if queries is None:
            return {}
        from .pictures import draw_pictures

        return draw_pictures(report, folder, queries)

    return write_files(report, Path(folder), "robustness", PICTURES.values(), draw)
