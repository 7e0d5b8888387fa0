"""Robustness (ITCPR-C): how a model's ranking suffers when queries are spoilt, contradicted, reworded or negated."""

from pathlib import Path
from typing import TYPE_CHECKING

from ...files import write_whole
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
    folder = Path(folder)
    for file in ("robustness.md", *PICTURES.values()):
        (folder / file).unlink(missing_ok=True)
    write_whole(folder / "robustness.json", report.to_json())
    drawn = {}
    if queries is not None:
        from .pictures import draw_pictures

        drawn = draw_pictures(report, folder, queries)
    write_whole(folder / "robustness.md", report.to_page(drawn))
    return [folder / "robustness.md", folder / "robustness.json", *(folder / file for file in drawn.values())]
