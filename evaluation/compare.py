"""Compares two reports on the same queries: differences with intervals, tests, and the queries that changed.

    fafa evaluate compare A B
    fafa evaluate compare A A --mode image+caption --against late-fusion      # or sum, caption, image

A and B are folders of reports, or their results.json. Prints Markdown. A difference is real, as far as these queries
can tell, where its interval does not hold zero.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..commands import command, make_parser
from ..files import check_output_file, write_whole
from ..markdown_text import plain, public
from ..names import counted
from ..tables import markdown_table
from .intervals import paired_bootstrap, sign_test
from .metrics import tell_ties
from .report import OVERALL, EvaluationReport
from .report_folder import read_report

_METHOD = (
    "In brackets the 95 % interval of the difference and p, two-sided, by a paired bootstrap over queries (10,000 "
    "resamples)."
)
FEW_QUERIES = 20
_FEW = " Queries are few: the intervals are too narrow."


def compare_reports(
    first: EvaluationReport,
    second: EvaluationReport,
    mode: str | None = None,
    against: str | None = None,
    names: tuple[str, str] = ("first", "second"),
) -> str:
    """Compares two runs, A and B, query by query.

    Args:
        first: A; `second`: B, on the same queries and gallery.
        mode: kind of query; by default the first of A. `against`: that of B; by default the same.
        names: what the page calls the two reports.

    Returns:
        a page of Markdown.

    Raises:
        ValueError: queries or gallery differ, or a report lacks the mode; the message says where.
    """
    _check_same_test_set(first, second)
    modes = (mode or first.main_mode, against or mode or first.main_mode)
    runs = list(zip((first, second), modes, names, strict=True))
    for report, wanted, name in runs:
        if wanted not in report.metrics:
            raise ValueError(f"{name} has no results of {wanted!r}, only of {', '.join(report.metrics)}")
    results = [report.results(wanted) for report, wanted, _ in runs]
    values = [{name: 100 * of.numpy() for name, of in ranked.per_query(first.ks).items()} for ranked in results]
    differences = np.stack([values[1][name] - values[0][name] for name in values[0]], axis=1)
    ranks = np.stack([ranked.first_rank.numpy() for ranked in results], axis=1)
    won, lost = (ranks[:, 0] > 1) & (ranks[:, 1] == 1), (ranks[:, 0] == 1) & (ranks[:, 1] > 1)

    models = [public(report.settings.get("model", "unknown")) for report in (first, second)]
    ties = [
        f"**Ties**, {letter}: {remark}"
        for letter, (report, wanted, _) in zip("AB", runs, strict=True)
        if wanted in report.ties
        and (remark := tell_ties(report.ties[wanted], report.metrics[wanted][OVERALL], len(ranks))) is not None
    ]
    parts = [
        "# A against B",
        "\n".join(
            f"- {letter}: {plain(public(name))}, model {plain(model)}, {plain(wanted)}"
            for letter, model, (_, wanted, name) in zip("AB", models, runs, strict=True)
        ),
        f"{counted(len(ranks), 'query')}, gallery of {counted(first.num_gallery, 'image')}, percent:",
        _difference_table(values, *paired_bootstrap(differences)),
        _METHOD + (_FEW if len(ranks) < FEW_QUERIES else ""),
        *ties,
        _rank_1(ranks, int(won.sum()), int(lost.sum())),
    ]
    for heading, changed in ((f"Won by B: {won.sum():,}", won), (f"Lost by B: {lost.sum():,}", lost)):
        if changed.any():
            parts += [f"## {heading}", _query_table(first.queries, ranks, changed)]
    return "\n\n".join(parts) + "\n"


def _difference_table(values: list[dict[str, np.ndarray]], intervals: np.ndarray, p: np.ndarray) -> str:
    rows = []
    for metric, (low, high), p_metric in zip(values[0], intervals, p, strict=True):
        a, b = (of_run[metric].mean() for of_run in values)
        rows.append([metric, f"{a:.2f}", f"{b:.2f}", f"{b - a:+.2f} [{low:+.2f}, {high:+.2f}]", _p(p_metric)])
    return markdown_table(["", "A", "B", "B - A", "p"], rows)


def _rank_1(ranks: np.ndarray, num_won: int, num_lost: int) -> str:
    better, worse = int((ranks[:, 1] < ranks[:, 0]).sum()), int((ranks[:, 1] > ranks[:, 0]).sum())
    return (
        f"Rank-1: {counted(num_won, 'query')} won, {num_lost:,} lost; by the exact sign test (McNemar) p is "
        f"{_p(sign_test(num_won, num_lost))}. The first correct image ranks higher for "
        f"{counted(better, 'query')}, lower for {worse:,}, and the same for {len(ranks) - better - worse:,}."
    )


def _query_table(queries: list[dict], ranks: np.ndarray, chosen: np.ndarray) -> str:
    rows = []
    for index in chosen.nonzero()[0]:
        query, (a, b) = queries[index], ranks[index]
        rows.append([query["image_path"], query["caption"], query["source"], str(query["index"]), f"{a:,}", f"{b:,}"])
    return markdown_table(["reference image", "caption", "source", "query", "rank in A", "in B"], rows)


def _check_same_test_set(first: EvaluationReport, second: EvaluationReport) -> None:
    cannot = "the reports cannot be compared query by query: "
    if len(first.queries) != len(second.queries):
        raise ValueError(f"{cannot}{counted(len(first.queries), 'query')} in one, {len(second.queries):,} in the other")
    for a, b in zip(first.queries, second.queries, strict=True):
        for name in ("image_path", "caption", "instance_id"):
            if a[name] != b[name]:
                raise ValueError(
                    f"{cannot}{name} of query {a['index']} is {a[name]!r} in one, {b[name]!r} in the other"
                )
    if first.num_gallery != second.num_gallery:
        raise ValueError(
            f"{cannot}a gallery of {counted(first.num_gallery, 'image')} and one of {second.num_gallery:,}"
        )
    if first.gallery_fingerprint != second.gallery_fingerprint:
        raise ValueError(f"{cannot}the galleries of {counted(first.num_gallery, 'image')} differ in images or order")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def main(arguments: Sequence[str] | None = None, program: str = "python -m fafa.evaluation.compare") -> None:
    """Compare, print or write."""
    parser = make_parser(program, __doc__)
    parser.add_argument("first", metavar="A", help="a report: its folder, or its results.json")
    parser.add_argument("second", metavar="B", help="another one, on the same queries and gallery")
    parser.add_argument("--mode", help="kind of query to compare; by default the first of A")
    parser.add_argument("--against", metavar="MODE", help="another kind of query in B")
    parser.add_argument("--output", type=Path, help="a file for the page; by default it is printed")
    given = parser.parse_args(arguments)
    try:
        if given.output is not None:
            check_output_file(given.output)
        first, second = read_report(given.first), read_report(given.second)
        page = compare_reports(first, second, given.mode, given.against, (given.first, given.second))
        if given.output is None:
            print(page, end="")
        else:
            write_whole(given.output, page)
    except BrokenPipeError:
        raise  # `... | head`
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    with command():
        main()
