"""Pictures of a report: Rank-k curve, rank histogram, curves over top tokens and gallery size, sheets of queries."""

import random
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ..drawing.curves import bars, chart, log_ticks
from ..drawing.palette import AMBER, BLUE, GREY, PINK, TEAL, VERMILION
from ..drawing.sheet import save_sheet
from ..loading import undecoded
from ..names import counted
from ..retrieval import RankedImage, RankedQuery, draw_contact_sheet
from .metrics import chance_metrics
from .report import PICTURES, EvaluationReport

if TYPE_CHECKING:
    import datasets
    from matplotlib.axes import Axes

MOST_RANKS = 50  # where the Rank-k curve ends
HISTOGRAM_EDGES = (1, 2, 3, 6, 11, 21, 51, 101, 1001)  # first ranks of its bars
SHEET_QUERIES, SHEET_IMAGES = 8, 10

LINES = {  # the dashes tell lines apart in print
    "image+caption": {"color": BLUE, "linestyle": "-"},
    "sum": {"color": AMBER, "linestyle": (0, (5, 1, 1, 1, 1, 1))},
    "late-fusion": {"color": PINK, "linestyle": "-."},
    "caption": {"color": VERMILION, "linestyle": "--"},
    "image": {"color": TEAL, "linestyle": ":"},
}


def draw_pictures(
    report: EvaluationReport, folder: str | Path, queries: "datasets.Dataset", gallery: "datasets.Dataset"
) -> dict[str, str]:
    """Draws what the report holds: curves of all its modes, further ones and sheets of the first mode.

    Args:
        folder: where the files go: curves as .png, sheets as .jpg.
        queries: those of the report, with the columns `image` and `caption`.
        gallery: that of the report, with the columns `image` and `instance_id`.

    Returns:
        name -> file name.
    """
    drawn = {"Rank-k": _rank_k, "Rank of the first correct image": _first_ranks}
    if report.curves:
        drawn |= {"Top tokens": _top_tokens} if "top_tokens" in report.curves else {}
        drawn |= {"Gallery size": _gallery_size}
    if report.open_set:
        drawn["When nobody matches"] = _open_set
        drawn |= {"Probabilities": _probabilities} if report.open_set[report.main_mode]["reliability"] else {}
    for name, draw in drawn.items():
        with chart(Path(folder, PICTURES[name])) as figure:
            draw(report, figure.subplots())
    sheets = draw_sheets(report, folder, queries, gallery)
    return {name: PICTURES[name] for name in drawn} | sheets


def draw_sheets(
    report: EvaluationReport, folder: str | Path, queries: "datasets.Dataset", gallery: "datasets.Dataset"
) -> dict[str, str]:
    """Draws the best, the worst and some random queries with the images ranked first; see `draw_pictures`.

    Best are those whose correct image leads the first wrong one by most; worst those whose first correct image ranks
    lowest. Where the first correct image is not among those shown, it takes the last place of the row.
    """
    mode, gallery_ids = report.main_mode, gallery["instance_id"][:]
    results = [query["results"][mode] for query in report.queries]

    def lead(index: int) -> float:
        """Score of the image at rank 1, if correct, above that of the first wrong one among the top images."""
        result, own_id = results[index], report.queries[index]["instance_id"]
        is_wrong = [gallery_ids[image] != own_id for image in result["top_images"]]
        if result["first_rank"] > 1 or True not in is_wrong:
            return -1
        return result["top_scores"][0] - result["top_scores"][is_wrong.index(True)]

    by_lead = sorted(range(len(results)), key=lead, reverse=True)
    by_rank = sorted(range(len(results)), key=lambda index: -results[index]["first_rank"])
    seed = report.settings.get("seed", 0)
    some = random.Random(seed).sample(range(len(results)), min(SHEET_QUERIES, len(results)))
    sheets = {
        "best": (by_lead, "those whose correct image leads the first wrong one by most"),
        "worst": (by_rank, "those whose first correct image ranks lowest"),
        "random": (sorted(some), f"chosen at random (seed {seed})"),
    }
    queries, gallery = undecoded(queries), undecoded(gallery)

    def row(index: int) -> RankedQuery:
        result, query = results[index], report.queries[index]
        scores = dict(zip(result["top_images"], result["top_scores"], strict=True))  # in the order of ranks
        shown = [
            RankedImage(gallery[image]["image"], scores[image], gallery_ids[image] == query["instance_id"])
            for image in result["top_images"][:SHEET_IMAGES]
        ]
        if result["first_rank"] > len(shown):
            target = result["matches"][0]
            shown[-1] = RankedImage(gallery[target]["image"], scores.get(target), True, rank=result["first_rank"])
        image, caption = queries[index]["image"] if "image" in mode else None, query["caption"]
        return RankedQuery(image, caption if "caption" in mode else None, shown, result["first_rank"])

    for name, (chosen, reason) in sheets.items():
        sheet = draw_contact_sheet(
            [row(index) for index in chosen[:SHEET_QUERIES]],
            title=f"{name.capitalize()} queries",
            subtitle=f"{len(chosen[:SHEET_QUERIES])} of {counted(len(results), 'query')} ({mode}): {reason}; gallery "
            f"of {counted(report.num_gallery, 'image')}",
            max_results=SHEET_IMAGES,
        )
        save_sheet(sheet, Path(folder, PICTURES[name]), quality=90)
    return {name: PICTURES[name] for name in sheets}


def _rank_k(report: EvaluationReport, axes: "Axes") -> None:
    ks = range(1, min(MOST_RANKS, report.num_gallery) + 1)
    for mode in sorted(report.metrics, key=list(LINES).index):
        metrics = report.results(mode).metrics(ks)
        axes.plot(ks, [metrics[f"rank-{k}"] for k in ks], **LINES[mode], label=mode, clip_on=False)
    chance = chance_metrics(report.results(report.main_mode).num_matches, report.num_gallery, ks)
    axes.plot(ks, [chance[f"rank-{k}"] for k in ks], color=GREY, linewidth=1, label="chance")
    log_ticks(axes, [k for k in (1, 2, 3, 5, 10, 20, 50) if k in ks])
    axes.set(xlabel="k", ylabel="queries (%)", ylim=(0, 100), title="Queries with a correct image among the first k")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def _first_ranks(report: EvaluationReport, axes: "Axes") -> None:
    first = report.results(report.main_mode).first_rank
    edges = [*(edge for edge in HISTOGRAM_EDGES if edge <= report.num_gallery), report.num_gallery + 1]
    shares = [100 * ((first >= low) & (first < high)).double().mean().item() for low, high in pairwise(edges)]
    labels = [f"{low:,}" if high == low + 1 else f"{low:,}-{high - 1:,}" for low, high in pairwise(edges)]
    bars(axes, labels, shares, LINES[report.main_mode]["color"])
    axes.set(ylabel="queries (%)", xlabel="rank", title=f"Rank of the first correct image ({report.main_mode})")


def _top_tokens(report: EvaluationReport, axes: "Axes") -> None:
    points, used = report.curves["top_tokens"], report.settings["num_top_tokens"]
    _two_metrics(report, axes, [point["num_top_tokens"] for point in points], [[point] for point in points])
    axes.axvline(used, color=GREY, linewidth=1, linestyle=":")
    axes.text(used, 0.02, f"  k = {used}, as configured", transform=axes.get_xaxis_transform(), color=GREY)
    axes.set(xlabel="k", ylabel="percent", title=f"Score: mean of the k most similar tokens ({report.curves['mode']})")


def _gallery_size(report: EvaluationReport, axes: "Axes") -> None:
    points = report.curves["gallery_size"]
    _two_metrics(report, axes, [point["num_images"] for point in points], [point["draws"] for point in points])
    title = f"Random parts of the gallery ({report.curves['mode']})"
    axes.set(xlabel="images in the gallery", ylabel="percent", title=title)


def _open_set(report: EvaluationReport, axes: "Axes") -> None:
    for mode in sorted(report.open_set, key=list(LINES).index):
        axes.plot(*zip(*report.open_set[mode]["curve"], strict=True), **LINES[mode], label=mode, clip_on=False)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:g}")
    axes.set(
        xlabel="false alarms (% of queries without a match)",
        ylabel="right answers (%)",
        ylim=(0, 100),
        title="Queries answered by a match, by false alarms",
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def _probabilities(report: EvaluationReport, axes: "Axes") -> None:
    bins = report.open_set[report.main_mode]["reliability"]
    points = [(100 * one["probability"], 100 * one["share"]) for one in bins]
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle=":")
    axes.plot(*zip(*points, strict=True), marker="o", color=LINES[report.main_mode]["color"], clip_on=False)
    axes.set(
        xlabel="probability told (%)",
        ylabel="results that are matches (%)",
        xlim=(0, 100),
        ylim=(0, 100),
        title=f"Fitted to half of the queries, told of the other ({report.main_mode})",
    )


def _two_metrics(report: EvaluationReport, axes: "Axes", positions: list[int], samples: list[list[dict]]) -> None:
    """Rank-1 and mAP over positions on a log axis: means of the samples, and the range where there are several."""
    for metric, colour, marker in ((f"rank-{report.ks[0]}", BLUE, "o"), ("mAP", VERMILION, "s")):
        values = [[sample[metric] for sample in of_position] for of_position in samples]
        axes.plot(positions, [sum(some) / len(some) for some in values], color=colour, marker=marker, label=metric)
        lowest, highest = list(map(min, values)), list(map(max, values))
        axes.fill_between(positions, lowest, highest, color=colour, alpha=0.2, linewidth=0)
    log_ticks(axes, positions)
    axes.set_ylim(0, 1.08 * axes.dataLim.ymax or 1)
    axes.legend()
