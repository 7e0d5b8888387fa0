"""What a robustness evaluation found, as JSON and as a page."""

import json
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

from ...markdown_text import public
from ...names import counted
from ...tables import markdown_table
from ..report import flat

PICTURES = {  # name -> file
    "What is left of Rank-1, by severity": "robustness.png",
    "Whose target wins, by strength of the conflict": "conflicts.png",
    "The corruptions": "corruptions.jpg",
}

_RELATIVE = (
    "Queries are spoilt, the gallery stays clean. *left* is the corrupted figure over the clean one, in percent, with "
    "its 95 % interval over queries (paired bootstrap). *changed* counts the captions in which there was something to "
    "change. The last row of a corruption with several severities is its mean."
)
_CONFLICTS = (
    "One half of every query comes from a query with another target: the first words of the own sentence with the last "
    "of the other one, or both photographs blended; at strength 1 the half is the other query's alone. *own wins*: "
    "queries whose own target ranks before the other query's, with the 95 % interval."
)
_NEGATION = (
    "A model that reads *not* ranks the target lower when the sentence is negated, and does not take *no hat* for "
    "*hat*. The cosine is that of a query whose sentence ends in *no (something)* with the same that ends in "
    "*(something)*."
)


@dataclass
class RobustnessReport:
    """Figures of clean and spoilt queries by image and caption, in percent.

    Args:
        clean: metric -> [value, lower, upper], 95 %.
        conditions: corruptions: `name`, `half` ("caption" or "image"), `severity`, `num_changed` (queries whose caption
            or image is another one), `metrics`, `relative` (metric -> [ratio to clean, lower, upper]).
        conflicts: `half` that comes from another query, `strength` (0 to 1), metrics of the `own` and the `other`
            query's target, `own_wins` ([percent, lower, upper]).
        wordings: `num_wordings`, `metrics` of each, `median_rank_ratio` (worst over best rank of a query),
            `always_first` and `ever_first` (percent of queries), `are_given` (by the data set; else fixed ones).
        negations: metrics of queries `negated`, `without` and `with` a thing; `falls` (percent), `same` (cosine).
        num_queries: how many queries.
        num_gallery: how many gallery images.
        settings: what else belongs in the record: seed, model, data, versions.
    """

    clean: dict[str, list[float]]
    conditions: list[dict[str, Any]]
    conflicts: list[dict[str, Any]]
    wordings: dict[str, Any]
    negations: dict[str, Any]
    num_queries: int
    num_gallery: int
    settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The fields as JSON."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RobustnessReport":
        """The report that `to_json` wrote."""
        return cls(**json.loads(text))

    def to_markdown(self) -> str:
        """One line for each corruption: the mean over its severities."""
        metrics = list(self.clean)
        rows = [["clean", *(f"{self.clean[name][0]:.1f}" for name in metrics), "100.0"]]
        for (half, name), of in _by_corruption(self.conditions):
            means = [sum(condition["metrics"][metric] for condition in of) / len(of) for metric in metrics]
            left = sum(condition["relative"][metrics[0]][0] for condition in of) / len(of)
            rows.append([f"{half}: {name}", *(f"{mean:.1f}" for mean in means), f"{100 * left:.1f}"])
        queries, gallery = counted(self.num_queries, "query"), counted(self.num_gallery, "image")
        title = f"{queries} by image and caption, gallery of {gallery}, percent:"
        return f"{title}\n\n{markdown_table(['', *metrics, f'left of {metrics[0]}'], rows)}\n"

    def to_page(self, pictures: dict[str, str] | None = None) -> str:
        """The whole report as a page of Markdown.

        Args:
            pictures: name -> file beside the page.
        """
        parts = ["# Robustness of composed person retrieval", self.to_markdown().rstrip()]
        parts += [f"![{name}]({file})" for name, file in (pictures or {}).items()]
        parts += ["## Corruptions", _RELATIVE, self._corruption_table()]
        parts += ["## Conflicts", _CONFLICTS, self._conflict_table()]
        parts += ["## Wordings", self._tell_wordings(), "## Negation", _NEGATION, self._negation_table()]
        if self.settings:
            parts += ["## Settings", markdown_table(["", ""], flat(public(self.settings)))]
        return "\n\n".join(parts) + "\n"

    def _corruption_table(self) -> str:
        metrics, rows = list(self.clean), []
        for (half, name), of in _by_corruption(self.conditions):
            label = [half, name]
            for condition in of:
                left = (
                    "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * end for end in condition["relative"][metric]))
                    for metric in (metrics[0], "mAP")
                )
                figures = (f"{condition['metrics'][metric]:.1f}" for metric in metrics)
                rows.append([*label, f"{condition['severity']}", f"{condition['num_changed']:,}", *figures, *left])
                label = ["", ""]
            if len(of) > 1:
                means = (sum(condition["metrics"][metric] for condition in of) / len(of) for metric in metrics)
                left = (
                    100 * sum(condition["relative"][metric][0] for condition in of) / len(of)
                    for metric in (metrics[0], "mAP")
                )
                rows.append(["", "", "mean", "", *(f"{mean:.1f}" for mean in means), *(f"{part:.1f}" for part in left)])
        header = ["half", "corruption", "severity", "changed", *metrics, f"left of {metrics[0]}", "left of mAP"]
        return markdown_table(header, rows)

    def _conflict_table(self) -> str:
        metric = next(iter(self.clean))
        rows = [
            [
                f"wrong {conflict['half']}",
                f"{conflict['strength']:g}",
                f"{conflict['own'][metric]:.1f}",
                f"{conflict['other'][metric]:.1f}",
                "{:.1f} [{:.1f}, {:.1f}]".format(*conflict["own_wins"]),
            ]
            for conflict in self.conflicts
        ]
        return markdown_table(["", "strength", f"{metric} of the own", f"{metric} of the other", "own wins"], rows)

    def _tell_wordings(self) -> str:
        of, metric = self.wordings, next(iter(self.clean))
        found = [one[metric] for one in of["metrics"]]
        what = (
            "captions that the data set gives for one target" if of["are_given"] else "fixed sentences around a caption"
        )
        return (
            f"Every query in {of['num_wordings']} wordings ({what}): {metric} from {min(found):.1f} to "
            f"{max(found):.1f}. The target is first in all of them for {of['always_first']:.1f} % of queries, in one "
            f"or more for {of['ever_first']:.1f} %. Half of the queries' ranks spread by a factor of "
            f"{of['median_rank_ratio']:.3g} or more between their best and their worst wording."
        )

    def _negation_table(self) -> str:
        of, metric = self.negations, next(iter(self.clean))
        rows = [
            ["the sentence", f"{self.clean[metric][0]:.1f}", ""],
            [
                "not (the sentence)",
                f"{of['negated'][metric]:.1f}",
                f"the target falls for {of['falls']:.1f} % of queries",
            ],
            [
                "the sentence, no (something absent)",
                f"{of['without'][metric]:.1f}",
                f"cosine with the next: {of['same']:.3f}",
            ],
            ["the sentence, (something absent)", f"{of['with'][metric]:.1f}", ""],
        ]
        return markdown_table(["query", metric, ""], rows)


def _by_corruption(conditions: list[dict[str, Any]]) -> list[tuple[tuple[str, str], list[dict[str, Any]]]]:
    grouped = groupby(conditions, key=lambda condition: (condition["half"], condition["name"]))
    return [(key, list(of)) for key, of in grouped]
