"""Number of TINets against accuracy and query time: is a second pseudo-word worth its second sentence?

    python benchmarks/tinets.py --work DIR

On Word4Per's CLIP of methods.py (trained if it is not there) eight TINets train side by side, four supervised by
captions and four by images, with otherwise the second stage's settings. CLIP is frozen, so they do not learn from one
another; subsets of them answer composed queries, fused as released: the sum of their normalised sentences. Query time
is of features alone, one query on one thread, median of 30, subsets in turns.
"""

import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from cells import (
    Cell,
    cpu_hours,
    facts,
    few,
    heading,
    interval,
    options,
    paint,
    paired_test,
    run_cells,
    seeds_told,
    told,
    told_difference,
    write_pages,
)
from methods import cell_of as method_cell
from methods import word4per_tinets
from words import gallery_of, mean_precisions

from fafa.drawing.curves import band, chart
from fafa.drawing.palette import BLUE, TEAL, VERMILION
from fafa.model_folder import load_model
from fafa.tables import markdown_table

TEXT, IMAGE = [f"text-{number}" for number in range(1, 5)], [f"image-{number}" for number in range(1, 5)]
KINDS = {"by captions": (TEXT, BLUE), "by images": (IMAGE, VERMILION), "half and half": (None, TEAL)}
SUBSETS = {
    ("by captions", 1): TEXT[:1],
    ("by captions", 2): TEXT[:2],
    ("by captions", 4): TEXT,
    ("by images", 1): IMAGE[:1],
    ("by images", 2): IMAGE[:2],
    ("by images", 4): IMAGE,
    ("half and half", 2): [TEXT[0], IMAGE[0]],
    ("half and half", 4): [*TEXT[:2], *IMAGE[:2]],
    ("half and half", 8): [*TEXT, *IMAGE],
}


def cell_of(seed: int) -> Cell:
    """Eight TINets on the CLIP of the table's model."""
    stage = word4per_tinets(f"cells/word4per-{seed}/clip", seed=seed)
    tinets = [{"name": name, "supervision": name.split("-")[0], "hidden_sizes": [256, 256]} for name in TEXT + IMAGE]
    stage["model_options"] = {**stage["model_options"], "tinets": tinets}
    return Cell(f"tinets-{seed}", (stage,), evaluated=False)


@torch.no_grad()
def measure(work: Path, seed: int) -> tuple[dict, dict[str, float]]:
    """Average precision of every query by subset, and milliseconds of a query."""
    torch.set_num_threads(1)
    model, processor = load_model(work / "cells" / cell_of(seed).name / "model")
    model.eval()
    test = gallery_of(work, model, processor)
    values = {
        subset: mean_precisions(model, test, model.get_query_features(**test.inputs, tinet=names))
        for subset, names in SUBSETS.items()
    }
    one = {name: tensor[:1] for name, tensor in test.inputs.items()}
    times: dict[tuple, list[float]] = {subset: [] for subset in SUBSETS}
    for turn in range(33):
        for subset, names in SUBSETS.items():
            start = time.perf_counter()
            model.get_query_features(**one, tinet=names)
            if turn >= 3:
                times[subset].append(1000 * (time.perf_counter() - start))
    return values, {subset: median(of) for subset, of in times.items()}


def record_of(work: Path, seeds: list[int]) -> dict:
    """All figures of the page."""
    found = [measure(work, seed) for seed in seeds]
    values = {subset: np.stack([of[subset] for of, _ in found]) for subset in SUBSETS}
    cells = [cell for seed in seeds for cell in (cell_of(seed), method_cell("word4per", seed))]
    pair = ("half and half", 2)
    return {
        **facts("tinets.py", seeds, cpu_hours(work, cells)),
        "subsets": [
            {
                "kind": kind,
                "tinets": number,
                "mAP": interval(values[kind, number]),
                "against_pair": None if (kind, number) == pair else paired_test(values[pair], values[kind, number]),
                "query_ms": round(found[0][1][kind, number], 2),
            }
            for kind, number in SUBSETS
        ],
    }


def conclusion(record: dict) -> str:
    """What the figures say, and no more."""
    of = {(entry["kind"], entry["tinets"]): entry for entry in record["subsets"]}
    one, pair, eight = of["by captions", 1], of["half and half", 2], of["half and half", 8]
    better = [
        f"{entry['tinets']} {entry['kind']}"
        for entry in record["subsets"]
        if entry["against_pair"] and entry["against_pair"][0] > 0 and entry["against_pair"][3] < 0.05
    ]
    clear = "These are better than the paper's pair beyond what seeds and queries explain: " + ", ".join(better)
    return (
        f"From one TINet supervised by captions to the paper's pair mAP changes by "
        f"{pair['mAP'][0] - one['mAP'][0]:+.1f} points, from the pair to eight by "
        f"{eight['mAP'][0] - pair['mAP'][0]:+.1f}; eight take {eight['query_ms'] / one['query_ms']:.1f} times the time "
        f"of one. "
        f"{clear if better else 'No other subset is better than the pair beyond what seeds and queries explain'}. "
        "Every TINet is one more sentence through the text tower; here they differ in supervision and first weights "
        "only."
    )


def to_markdown(record: dict) -> str:
    """The record as a page."""
    rows = [
        [
            entry["kind"],
            str(entry["tinets"]),
            told(entry["mAP"]),
            *told_difference(entry["against_pair"]),
            f"{entry['query_ms']:.2f}",
        ]
        for entry in record["subsets"]
    ]
    parts = [
        *heading("Number of TINets", record),
        f"{seeds_told(record['seeds'])}; composed queries, mAP in percent with 95 % intervals over "
        f"seeds and queries{few(record['seeds'])}. The paper's pair is one TINet of each supervision.",
        "![mAP by number of TINets](tinets.png)",
        markdown_table(["supervised", "TINets", "mAP", "against the pair", "p", "ms a query"], rows),
        conclusion(record),
    ]
    return "\n\n".join(parts) + "\n"


def draw(record: dict, file: Path) -> None:
    """mAP over number, and over time."""
    with chart(file, figsize=(8.6, 3.8)) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for kind, (_, colour) in KINDS.items():
            of = [entry for entry in record["subsets"] if entry["kind"] == kind]
            band(left, [entry["tinets"] for entry in of], [entry["mAP"] for entry in of], colour, kind)
            right.plot(
                [entry["query_ms"] for entry in of], [entry["mAP"][0] for entry in of], "o-", color=colour, label=kind
            )
        left.set(xlabel="TINets", ylabel="mAP (%)", xticks=[1, 2, 4, 8], ylim=(0, None))
        right.set(xlabel="ms a query (features)", xlim=(0, None))
        left.legend(fontsize=9)


def main() -> None:
    """Run every cell and write the page."""
    arguments = options(__doc__).parse_args()
    paint(arguments.work)
    run_cells(arguments.work, [method_cell("word4per", seed) for seed in arguments.seeds], arguments.jobs)
    run_cells(arguments.work, [cell_of(seed) for seed in arguments.seeds], arguments.jobs)
    record = record_of(arguments.work, arguments.seeds)
    write_pages(arguments.output, "tinets", record, to_markdown, draw)


if __name__ == "__main__":
    main()
