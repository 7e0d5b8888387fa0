"""What an evaluation found: tables with intervals, every query's ranks, and the folder that holds them.

- results.json: everything: metrics, intervals, and of every query the matches' ranks and the images ranked first;
- results.md: the page to read: tables, pictures; written last, so where it is, the report is whole;
- curves as .png and sheets of queries as .jpg, see `pictures`.
"""

import json
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..files import write_whole
from ..markdown_text import public
from ..tables import markdown_table
from .metrics import tell_ties
from .ranking import QueryResults, checked_ks

if TYPE_CHECKING:
    import datasets

OVERALL = "overall"
LATE_FUSION = "late-fusion"
PICTURES = {  # name -> file
    "Rank-k": "rank_k.png",
    "Rank of the first correct image": "first_ranks.png",
    "Top tokens": "top_tokens.png",
    "Gallery size": "gallery_size.png",
    "best": "best.jpg",
    "worst": "worst.jpg",
    "random": "random.jpg",
}

_METRICS = (
    "rank-k: queries with a correct image among the first k; mAP: mean average precision; mINP: mean of the number of "
    "correct images over the rank of the last one. chance: expected of a random ranking, exact."
)
_LATE_FUSION = (
    " late-fusion: the mean of the caption's and the image's scores, each standardised over the gallery for each query."
)
_INTERVALS = (
    "In brackets the 95 % interval over queries (percentile bootstrap, 10,000 resamples): what other queries of the "
    "same kind could give. It does not cover another training run, and it is too narrow where queries are few, or all "
    "or none of them hits. Two models on the same queries are compared by "
    "`python -m fafa.evaluation.compare A B`, which sees smaller differences than two intervals side by side."
)
_HEADINGS = {
    "source": ("By source", "Queries of a source search the whole gallery."),
    "caption length": ("By caption length", "In words, as blanks divide the caption."),
}


@dataclass
class EvaluationReport:
    """Metrics of each kind of query over all queries and groups of them, in percent, and every query's results.

    A mode is "image+caption", "caption", "image" or "late-fusion"; a group "overall", a source or a caption length
    (a source called like another group is "source: overall").

    Args:
        metrics: mode -> group -> metric -> percentage.
        intervals: mode -> group -> metric -> [lower, upper], 95 %, percent.
        chance: group -> metric -> percentage expected of a random ranking (exact, not simulated).
        groups: "source" and "caption length" -> the names of their groups.
        num_queries: group -> number of queries.
        num_gallery: images in the gallery, which every group searches whole.
        gallery_fingerprint: of the gallery's image paths and instance ids, in order.
        ks: the ranks k of the metrics.
        queries: for each query, in order, `index`, `image_path`, `caption`, `source`, `instance_id` and `results`:
            mode -> `first_rank`, `pessimistic_first_rank` (in the worst order of equal scores), `ranks` (of all
            matches, from 1, ascending), `matches` (the image, by its index in the gallery, at each of them),
            `average_precision` (0 to 1), `top_images` (the 50 ranked first), `top_scores`.
        curves: `mode` whose curves they are, `top_tokens` (metrics by `num_top_tokens`), `gallery_size` (metrics of
            random `draws` of `num_images` images that hold every match); empty if they were not asked for.
        settings: what else belongs in the record: model, data, precision, versions.
        ties: mode -> `num_queries` for which the gallery's order decided between equal scores, and the `pessimistic`
            metrics, in the order that is worst; empty in reports of earlier versions.
    """

    metrics: dict[str, dict[str, dict[str, float]]]
    intervals: dict[str, dict[str, dict[str, list[float]]]]
    chance: dict[str, dict[str, float]]
    groups: dict[str, list[str]]
    num_queries: dict[str, int]
    num_gallery: int
    gallery_fingerprint: str
    ks: list[int]
    queries: list[dict[str, Any]]
    curves: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    ties: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def main_mode(self) -> str:
        """The first kind of query asked for, the subject of curves and sheets."""
        return next(iter(self.metrics))

    def results(self, mode: str) -> QueryResults:
        """The ranks of every query's matches."""
        results = [query["results"][mode] for query in self.queries]
        ranks, images = (torch.tensor(list(chain(*(of[name] for of in results)))) for name in ("ranks", "matches"))
        return QueryResults(ranks, torch.tensor([len(of["ranks"]) for of in results]), images)

    def to_json(self) -> str:
        """The fields as JSON, a line for each query."""
        record = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        lines = ",\n".join(json.dumps(query, ensure_ascii=False) for query in record.pop("queries"))
        return f'{json.dumps(record, indent=1, ensure_ascii=False)[:-2]},\n "queries": [\n{lines}\n ]\n}}\n'

    def to_markdown(self) -> str:
        """The table over all queries."""
        rows = {mode: groups[OVERALL] for mode, groups in self.metrics.items()} | {"chance": self.chance[OVERALL]}
        names = list(self.chance[OVERALL])
        table = [[mode, *(f"{row[name]:.2f}" for name in names)] for mode, row in rows.items()]
        title = f"{self.num_queries[OVERALL]:,} queries, gallery of {self.num_gallery:,} images, percent:"
        return f"{title}\n\n{markdown_table(['query', *names], table)}\n"

    def to_page(self, pictures: dict[str, str] | None = None) -> str:
        """The whole report as a page of Markdown.

        Args:
            pictures: name -> file beside the page, as `pictures.draw_pictures` returns them.
        """
        pictures = pictures or {}
        parts = ["# Composed person retrieval: results", self.to_markdown().rstrip()]
        parts.append(_METRICS + (_LATE_FUSION if LATE_FUSION in self.metrics else ""))
        for mode, ties in self.ties.items():
            remark = tell_ties(ties, self.metrics[mode][OVERALL], self.num_queries[OVERALL])
            parts += [] if remark is None else [f"**Ties**, {mode}: {remark}"]
        parts += ["## Intervals", _INTERVALS, self._group_table("", [OVERALL])]
        for kind, names in self.groups.items():
            if len(names) > 1:
                heading, remark = _HEADINGS[kind]
                parts += [f"## {heading}", remark, self._group_table(kind, names)]
        if pictures:
            parts.append("## Pictures")
            parts += [f"![{name}]({file})" for name, file in pictures.items() if file.endswith(".png")]
            sheets = [f"[{name}]({file})" for name, file in pictures.items() if not file.endswith(".png")]
            parts.append(f"Sheets of queries and the images ranked first ({self.main_mode}): {', '.join(sheets)}.")
        if self.settings:
            parts += ["## Settings", markdown_table(["", ""], _flat(public(self.settings)))]
        return "\n\n".join(parts) + "\n"

    def _group_table(self, kind: str, names: list[str]) -> str:
        """A row for each group and kind of query, with intervals."""
        metrics, rows = list(self.chance[OVERALL]), []
        for name in names:
            label = [name, f"{self.num_queries[name]:,}"]
            for mode, groups in self.metrics.items():
                cells = [_with_interval(groups[name][metric], self.intervals[mode][name][metric]) for metric in metrics]
                rows.append([*label, mode, *cells])
                label = ["", ""]
            rows.append([*label, "chance", *(f"{self.chance[name][metric]:.1f}" for metric in metrics)])
        header = [kind, "queries", "query", *metrics]
        if names == [OVERALL]:
            header, rows = header[2:], [row[2:] for row in rows]
        return markdown_table(header, rows)


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
        report: of `evaluate_itcpr`.
        folder: is made if need be; a report that lies there is replaced, pictures included.
        queries: the test set's queries, for the sheets of ranked images; None draws no pictures.
        gallery: its gallery.

    Returns:
        the files written.

    Raises:
        ImportError: pictures are to be drawn and matplotlib is not installed.
    """
    folder = Path(folder)
    for file in ("results.md", *PICTURES.values()):
        (folder / file).unlink(missing_ok=True)
    write_whole(folder / "results.json", report.to_json())
    pictures = {}
    if queries is not None and gallery is not None:
        from .pictures import draw_pictures

        pictures = draw_pictures(report, folder, queries, gallery)
    write_whole(folder / "results.md", report.to_page(pictures))
    return [folder / "results.md", folder / "results.json", *(folder / file for file in pictures.values())]


def read_report(path: str | Path) -> EvaluationReport:
    """Reads a results.json, or the one in a folder.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged, or no report with results of each query, or its metrics are not theirs.
    """
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    remedy = "write it again with examples/evaluate_itcpr.py"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {remedy}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, nested too deep
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from error
    names = {entry.name for entry in fields(EvaluationReport)}
    found = set(record) if isinstance(record, dict) else set()
    if found | {"ties"} != names:  # which earlier versions did not count
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


def _with_interval(value: float, interval: list[float]) -> str:
    return f"{value:.1f} [{interval[0]:.1f}, {interval[1]:.1f}]"


def _flat(settings: dict[str, Any], prefix: str = "") -> list[list[str]]:
    rows = []
    for name, value in settings.items():
        rows += _flat(value, f"{prefix}{name} ") if isinstance(value, dict) else [[prefix + name, str(value)]]
    return rows
