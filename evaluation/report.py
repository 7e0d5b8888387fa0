"""What an evaluation found: metrics with intervals, every query's ranks, and the page that shows them."""

import json
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import Any

import torch

from ..markdown_text import public
from ..names import counted
from ..tables import markdown_table
from .intervals import INTERVALS_EXPLAINED
from .metrics import tell_ties
from .ranking import QueryResults

OVERALL = "overall"
SUM, LATE_FUSION = "sum", "late-fusion"  # kinds of query that need no encoding: of the caption's and the image's
PICTURES = {  # name -> file
    "Rank-k": "rank_k.png",
    "Rank of the first correct image": "first_ranks.png",
    "Top tokens": "top_tokens.png",
    "Gallery size": "gallery_size.png",
    "When nobody matches": "open_set.png",
    "Probabilities": "probabilities.png",
    "best": "best.jpg",
    "worst": "worst.jpg",
    "random": "random.jpg",
}

_METRICS = (
    "rank-k: queries with a correct image among the first k; mAP: mean average precision; mINP: mean of the number of "
    "correct images over the rank of the last one. chance: expected of a random ranking, exact."
)
_EXPLAINED = {
    SUM: " sum: the normalised sum of the caption's and the image's query embeddings.",
    LATE_FUSION: " late-fusion: the mean of the caption's and the image's scores, each standardised over the gallery "
    "for each query.",
}
_INTERVALS = (
    f"{INTERVALS_EXPLAINED} Two models on the same queries are compared by "
    "`fafa evaluate compare A B`, which sees smaller differences than two intervals side by side."
)
_OPEN_SET = (
    "Every query is asked twice, once of the whole gallery and once without its matches. A search answers with its "
    "best image where that scores above a threshold. DIR at a false-alarm rate: of the queries with a match, those "
    "whose best image is one and above the threshold that this share of the queries without a match exceeds; rates "
    "that so few queries cannot tell are left out. AUROC: how often the best score with a match is above that without "
    "one; 50 is chance. 95 % intervals as above, of 2,000 resamples."
)
_HEADINGS = {
    "source": ("By source", "Queries of a source search the whole gallery."),
    "caption length": ("By caption length", "In words, as blanks divide the caption."),
}


@dataclass
class EvaluationReport:
    """Metrics of each kind of query over all queries and groups of them, in percent, and every query's results.

    A mode is "image+caption", "caption", "image", "sum" or "late-fusion"; a group "overall", a source or a caption
    length (a source called like another group is "source: overall"). Reports of earlier versions have no "sum".

    Args:
        metrics: mode -> group -> metric -> percentage.
        intervals: mode -> group -> metric -> [lower, upper], 95 %, percent.
        chance: group -> metric -> percentage expected of a random ranking (exact, not simulated).
        groups: "source" and "caption length" -> the names of their groups.
        num_queries: group -> number of queries.
        num_gallery: images in the gallery, which every group searches whole.
        gallery_fingerprint: a hash of the gallery's image paths and instance ids, in order.
        ks: the ranks k of the metrics.
        queries: for each query, in order, `index`, `image_path`, `caption`, `source`, `instance_id` and `results`:
            mode -> `first_rank`, `pessimistic_first_rank` (in the worst order of equal scores), `ranks` (of all
            matches, from 1, ascending), `matches` (the image, by its index in the gallery, at each of them),
            `average_precision` (0 to 1), `top_images` (the 50 ranked first), `top_scores`.
        curves: `mode` whose curves they are, `top_tokens` (metrics by `num_top_tokens`; not of a model with one token),
            `gallery_size` (metrics of random samples, `draws`, of `num_images` images that hold every match); empty
            unless asked for.
        settings: what else belongs in the record: model, data, precision, versions.
        ties: mode -> `num_queries` for which the gallery's order decided between equal scores, and the `pessimistic`
            metrics, in the order that is worst; empty in reports of earlier versions.
        open_set: mode -> figures of queries asked with and without their matches, see `OpenSetScores.figures`; empty
            unless asked for.
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
    open_set: dict[str, dict[str, Any]] = field(default_factory=dict)

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
        title = (
            f"{counted(self.num_queries[OVERALL], 'query')}, gallery of {counted(self.num_gallery, 'image')}, percent:"
        )
        return f"{title}\n\n{markdown_table(['query', *names], table)}\n"

    def to_page(self, pictures: dict[str, str] | None = None) -> str:
        """The whole report as a page of Markdown.

        Args:
            pictures: name -> file beside the page, as `pictures.draw_pictures` returns them.
        """
        pictures = pictures or {}
        kind = "Text-to-image" if list(self.metrics) == ["caption"] else "Composed"
        parts = [f"# {kind} person retrieval: results", self.to_markdown().rstrip()]
        parts.append(_METRICS + "".join(text for mode, text in _EXPLAINED.items() if mode in self.metrics))
        for mode, ties in self.ties.items():
            remark = tell_ties(ties, self.metrics[mode][OVERALL], self.num_queries[OVERALL])
            parts += [] if remark is None else [f"**Ties**, {mode}: {remark}"]
        parts += ["## Intervals", _INTERVALS, self._group_table("", [OVERALL])]
        for kind, names in self.groups.items():
            if len(names) > 1:
                heading, remark = _HEADINGS[kind]
                parts += [f"## {heading}", remark, self._group_table(kind, names)]
        if self.open_set:
            parts += ["## When nobody matches", _OPEN_SET, self._open_set_table()]
        if pictures:
            parts.append("## Pictures")
            parts += [f"![{name}]({file})" for name, file in pictures.items() if file.endswith(".png")]
            sheets = [f"[{name}]({file})" for name, file in pictures.items() if not file.endswith(".png")]
            parts.append(f"Sheets of queries and the images ranked first ({self.main_mode}): {', '.join(sheets)}.")
        if self.settings:
            parts += ["## Settings", markdown_table(["", ""], flat(public(self.settings)))]
        return "\n\n".join(parts) + "\n"

    def _open_set_table(self) -> str:
        """A row for each kind of query, with intervals."""
        rates = list(self.open_set[self.main_mode]["dir"])
        rows = [
            [mode, *("{:.1f} [{:.1f}, {:.1f}]".format(*cell) for cell in (*figures["dir"].values(), figures["auroc"]))]
            for mode, figures in self.open_set.items()
        ]
        headings = [f"DIR at {100 * float(rate):g} % false alarms" for rate in rates]
        return markdown_table(["query", *headings, "AUROC"], rows)

    def _group_table(self, kind: str, names: list[str]) -> str:
        """A row for each group and kind of query, with intervals."""
        metrics, rows = list(self.chance[OVERALL]), []
        for name in names:
            label = [name, f"{self.num_queries[name]:,}"]
            for mode, groups in self.metrics.items():
                ends = {metric: "[{:.1f}, {:.1f}]".format(*self.intervals[mode][name][metric]) for metric in metrics}
                rows.append([*label, mode, *(f"{groups[name][metric]:.1f} {ends[metric]}" for metric in metrics)])
                label = ["", ""]
            rows.append([*label, "chance", *(f"{self.chance[name][metric]:.1f}" for metric in metrics)])
        header = [kind, "queries", "query", *metrics]
        if names == [OVERALL]:
            header, rows = header[2:], [row[2:] for row in rows]
        return markdown_table(header, rows)


def flat(settings: dict[str, Any], prefix: str = "") -> list[list[str]]:
    """Rows of a table of settings; those within others go by both names."""
    rows = []
    for name, value in settings.items():
        rows += flat(value, f"{prefix}{name} ") if isinstance(value, dict) else [[prefix + name, str(value)]]
    return rows
