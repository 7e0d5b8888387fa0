"""The folder of a report, as it is written and read again.

- results.json: everything: metrics, intervals, and of every query the matches' ranks and the images ranked first;
- results.md: the page to read: tables, pictures; written last, so where it is, the report is whole;
- curves as .png and sheets of queries as .jpg, see `pictures`.
"""

from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..files import read_json, write_whole
from . import pictures
from .ranking import checked_ks
from .report import OVERALL, PICTURES, EvaluationReport

if TYPE_CHECKING:
    import datasets


def write_report(
    report: EvaluationReport,
    folder: str | Path,
    queries: "datasets.Dataset | None" = None,
    gallery: "datasets.Dataset | None" = None,
) -> list[Path]:
    """Writes results.json, the pictures and results.md.

    Each file is written beside its place and moved there, results.json first and results.md last: if the run is
    interrupted, the numbers are kept, and the page is missing.

    Args:
        folder: is made if need be; a report that lies there is replaced, pictures included.
        queries: the test set's queries, for the sheets of ranked images, as `gallery`; None draws no pictures.

    Returns:
        the files written.

    Raises:
        ImportError: pictures are to be drawn and matplotlib is not installed.
    """

    def draw(folder: Path) -> dict[str, str]:
        return {} if queries is None or gallery is None else pictures.draw_pictures(report, folder, queries, gallery)

    return write_files(report, Path(folder), "results", PICTURES.values(), draw)


class Report(Protocol):
    """What can be written: as JSON, and as a page with pictures."""

    def to_json(self) -> str:
        """All of it."""

    def to_page(self, pictures: dict[str, str] | None = None) -> str:
        """Markdown; `pictures` are the files drawn, by name."""


def write_files(
    report: Report,
    folder: Path,
    stem: str,
    picture_files: Iterable[str],
    draw: Callable[[Path], dict[str, str]],
) -> list[Path]:
    """Writes STEM.json, the pictures, and last STEM.md; those of a report that lies there go first.

    Args:
        picture_files: every file that `draw` may write.
        draw: draws into a folder, and says which files it wrote.
    """
    for file in (f"{stem}.md", *picture_files):
        (folder / file).unlink(missing_ok=True)
    write_whole(folder / f"{stem}.json", report.to_json())
    drawn = draw(folder)
    write_whole(folder / f"{stem}.md", report.to_page(drawn))
    return [folder / f"{stem}.md", folder / f"{stem}.json", *(folder / file for file in drawn.values())]


def read_report(path: str | Path) -> EvaluationReport:
    """Reads a results.json, or the one in a folder.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is damaged, or no report with results of each query, or its metrics are not theirs.
    """
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    remedy = "write it again with examples/evaluate_itcpr.py"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {remedy}")
    try:
        record = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from error
    names = {entry.name for entry in fields(EvaluationReport)}
    found = set(record) if isinstance(record, dict) else set()
    if found | {"ties", "open_set"} != names:  # earlier versions had neither
        differing = ", ".join(sorted(names ^ found))
        raise ValueError(f"{path} is no report of this version of fafa (differing fields: {differing}); {remedy}")
    report = EvaluationReport(**record)
    try:
        _check_consistency(report)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); {remedy}") from error
    return report


def _check_consistency(report: EvaluationReport) -> None:
    """Raises nearly any error unless the metrics are those of the queries' ranks, and these can be of that gallery."""
    report.ks = list(checked_ks(report.ks))
    if not report.metrics or not report.queries:
        raise ValueError("no metrics, or no queries")
    for place, query in enumerate(report.queries):
        if lacking := {"index", "image_path", "caption", "source", "instance_id"} - query.keys():
            raise ValueError(f"query {place} lacks {', '.join(sorted(lacking))}")
    for mode, groups in report.metrics.items():
        results = report.results(mode)
        if not (results.num_matches > 0).all() or len(results.ranks) != len(results.images):
            raise ValueError(f"{mode}: a query without a match, or a match without a rank")
        if not ((results.ranks > 0) & (results.ranks <= report.num_gallery)).all():
            raise ValueError(f"{mode}: ranks beyond the gallery of {report.num_gallery:,} images")
        for name, value in results.metrics(report.ks).items():
            if not abs(value - groups[OVERALL][name]) < 1e-6:
                raise ValueError(f"{mode}: {name} is {groups[OVERALL][name]}, but its queries give {value:.6f}")
