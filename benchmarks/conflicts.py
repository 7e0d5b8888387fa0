"""When image and caption of a query contradict each other: which half wins, method by method.

    python benchmarks/conflicts.py --work DIR

The models of methods.py (trained if they are not there), and examples/evaluate_robustness.py on the same test set: at
strength s the last share s of a caption's words, or s of the image's pixels' weight, is that of another query. A query
is won by its own half where its own target ranks before the other query's.

The reports of FAFA and Word4Per are kept whole, as pages: results/robustness-fafa and results/robustness-word4per.
"""

import shutil
from pathlib import Path

import numpy as np
from cells import COLOURS, Cell, cpu_hours, facts, heading, options, paint, run_cells, seeds_told, write_pages
from methods import METHODS
from methods import cell_of as method_cell

from fafa.drawing.curves import band, chart
from fafa.files import read_json
from fafa.tables import markdown_table

NAMES = ("fafa", "coalign", "coalign-clip", "word4per", "dual")
PAGES = ("fafa", "word4per")
HALVES = ("caption", "image")


def cell_of(name: str, seed: int) -> Cell:
    """The robustness report of a model of methods.py."""
    command = (
        "examples/evaluate_robustness.py --model cells/{0}-{1}/model --data {{world}}/ITCPR --output {{cell}}/report"
    )
    return Cell(f"robustness-{name}-{seed}", (), evaluated=False, more=(command.format(name, seed),))


def record_of(work: Path, seeds: list[int]) -> dict:
    """All figures of the page."""
    cells = {name: [cell_of(name, seed) for seed in seeds] for name in NAMES}
    reports = {
        name: [read_json(work / "cells" / cell.name / "report/robustness.json") for cell in of]
        for name, of in cells.items()
    }
    first = reports[NAMES[0]][0]
    strengths = [conflict["strength"] for conflict in first["conflicts"] if conflict["half"] == HALVES[0]]

    def mean(of: list[dict], half: str, strength: float) -> list[float]:
        """Over seeds; the ends are means of the seeds' intervals over queries."""
        found = [
            conflict["own_wins"]
            for report in of
            for conflict in report["conflicts"]
            if (conflict["half"], conflict["strength"]) == (half, strength)
        ]
        return np.mean(found, axis=0).round(3).tolist()

    def left(of: list[dict], half: str) -> float:
        """What is left of Rank-1 at the highest severity, mean over corruptions and seeds, percent."""
        found = [
            100 * condition["relative"]["rank-1"][0]
            for report in of
            for condition in report["conditions"]
            if condition["half"] == half and condition["severity"] == max(report["settings"]["severities"])
        ]
        return float(np.mean(found))

    clean = {name: float(np.mean([report["clean"]["rank-1"][0] for report in of])) for name, of in reports.items()}
    return {
        **facts("conflicts.py", seeds, cpu_hours(work, [cell for of in cells.values() for cell in of])),
        "strengths": strengths,
        "own_wins": {
            name: {half: [mean(of, half, strength) for strength in strengths] for half in HALVES}
            for name, of in reports.items()
        },
        "clean": clean,
        "left_at_worst": {name: {half: left(of, half) for half in HALVES} for name, of in reports.items()},
    }


def conclusion(record: dict) -> str:
    """What the figures say, and no more."""
    deciding: dict[str, list[str]] = {}
    for name, of in record["own_wins"].items():
        # A half decides where its query wins by it against the other's, and loses without it, both beyond chance.
        by_image, by_caption = of["caption"][-1], of["image"][-1]
        caption_decides = by_image[2] < 50 < by_caption[1]
        image_decides = by_caption[2] < 50 < by_image[1]
        half = "the caption decides" if caption_decides else "the image decides" if image_decides else "neither decides"
        told = f"{METHODS[name][0]} (own image {by_image[0]:.0f} %, own caption {by_caption[0]:.0f} %)"
        deciding.setdefault(half, []).append(told)
    halves = "; ".join(f"{half} with {', '.join(names)}" for half, names in deciding.items())
    return (
        f"Where the two contradict each other wholly: {halves}. The percentages are the queries that the own half wins "
        "against the other query's. What is left of Rank-1 compares each method with itself: where clean queries "
        "already find little, little can be lost, and a handful of queries moves the figure."
    )


def to_markdown(record: dict) -> str:
    """The record as a page."""
    parts = [
        *heading("Conflict of image and caption", record),
        f"{seeds_told(record['seeds'])}. Queries won by the own target where a half comes from another "
        "query, percent; in brackets the 95 % interval over queries, a mean over seeds. The hours are those of the "
        "evaluations alone; the models are those of [methods.md](methods.md).",
        "![Who wins by strength of conflict](conflicts.png)",
    ]
    for half in HALVES:
        rows = [
            [METHODS[name][0], *("{:.0f} ({:.0f} to {:.0f})".format(*found) for found in of[half])]
            for name, of in record["own_wins"].items()
        ]
        strengths = [f"strength {strength:g}" for strength in record["strengths"]]
        parts += [f"## Another query's {half}", markdown_table(["", *strengths], rows)]
    rows = [
        [METHODS[name][0], f"{record['clean'][name]:.1f}", *(f"{of[half]:.0f}" for half in HALVES)]
        for name, of in record["left_at_worst"].items()
    ]
    parts += [
        "## What is left of Rank-1 at the worst severity",
        "Percent of the clean figure, mean over the corruptions of a half.",
        markdown_table(["", "clean Rank-1 (%)", "corrupted caption", "corrupted image"], rows),
        "Whole reports: [FAFA](robustness-fafa/robustness.md), [Word4Per](robustness-word4per/robustness.md).",
    ]
    return "\n\n".join([*parts, conclusion(record)]) + "\n"


def draw(record: dict, file: Path) -> None:
    """Wins over strength, a curve for each method."""
    with chart(file, figsize=(9.2, 4.2)) as figure:
        for axes, half in zip(figure.subplots(1, 2, sharey=True), HALVES, strict=True):
            for colour, (name, of) in zip(COLOURS, record["own_wins"].items(), strict=False):
                band(axes, record["strengths"], of[half], colour, METHODS[name][0])
            axes.set(xlabel="strength", title=f"another query's {half}", ylim=(0, 102))
        axes.legend(fontsize=8)
        figure.axes[0].set_ylabel("own target before the other's (%)")


def main() -> None:
    """Run every cell and write the page."""
    arguments = options(__doc__, seeds=(0,)).parse_args()
    paint(arguments.work)
    pairs = [(name, seed) for seed in arguments.seeds for name in NAMES]
    run_cells(arguments.work, [method_cell(*pair) for pair in pairs], arguments.jobs)
    run_cells(arguments.work, [cell_of(*pair) for pair in pairs], arguments.jobs)
    record = record_of(arguments.work, arguments.seeds)
    for name in PAGES:
        folder = arguments.output / f"robustness-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(arguments.work / "cells" / cell_of(name, arguments.seeds[0]).name / "report", folder)
    write_pages(arguments.output, "conflicts", record, to_markdown, draw)


if __name__ == "__main__":
    main()
