"""Quality against quantity of triplets: a stricter filter keeps fewer, cleaner ones. And more of the same quality.

    python benchmarks/triplet_quality.py --work DIR

A pool of 12,000 triplets of the hard world, 40 % of them with the captions of another group. The filter is a judge that
has never seen this world: the model in checkpoints/tiny scores each target image by the target caption, and a
strictness of 30 % keeps the best three tenths. From what is kept, as many triplets are taken as a size says, at random;
FAFA trains on them for 300 steps of 128, whatever their number. Sizes beyond what a strictness keeps do not exist.
"""

from pathlib import Path

import numpy as np
import torch
from cells import (
    COLOURS,
    Cell,
    cpu_hours,
    derive_world,
    facts,
    few,
    heading,
    interval,
    options,
    paint,
    paired_test,
    query_values,
    read_reports,
    run_cells,
    seeds_told,
    told,
    told_difference,
    write_pages,
)
from methods import BY_TRIPLETS, EVERY_RUN

from fafa import TINY_CHECKPOINT
from fafa.drawing.curves import band, chart, log_ticks
from fafa.files import read_json, write_json
from fafa.model_folder import load_model
from fafa.tables import markdown_table

STEPS = 300
NOISE = 0.4
KEPT = (1.0, 0.6, 0.3)  # shares of the pool that strictnesses keep; 60 % are right
SIZES = (1_200, 3_600, 7_200, 12_000)
CELLS = [(kept, size) for kept in KEPT for size in SIZES if size <= kept * SIZES[-1]]
COARSER = {name: round(value * STEPS / 500) for name, value in BY_TRIPLETS.items() if name.endswith("_steps")}


def world_of(kept: float, size: int, seed: int) -> str:
    """Its name."""
    return f"pool-{100 * kept:.0f}-{size}-{seed}"


def cell_of(kept: float, size: int, seed: int) -> Cell:
    """A run of FAFA."""
    stage = {
        **EVERY_RUN,
        **BY_TRIPLETS,
        **COARSER,
        "random_epochs": 0,
        "group_size": 0,  # of so few triplets, groups would come too often
        "method": "Fafa",
        "model_options": {"fda_alpha": 0.0},
        "max_steps": STEPS,
        "output_dir": "{cell}/model",
        "seed": seed,
    }
    return Cell(f"quality-{100 * kept:.0f}-{size}-{seed}", (stage,), world=world_of(kept, size, seed))


@torch.no_grad()
def judge(work: Path, triplets: list[dict], folder: Path) -> np.ndarray:
    """The judge's score of every triplet, kept in a file of `work`: `(num_triplets,)`."""
    file = work / "judged.json"
    if not file.exists():
        model, processor = load_model(TINY_CHECKPOINT)
        model.eval()
        scores = []
        for start in range(0, len(triplets), 64):
            some = triplets[start : start + 64]
            images = [str(folder / triplet["target_image_path"]) for triplet in some]
            captions = [triplet["target_caption"] for triplet in some]
            queries = model.get_query_features(**processor(text=captions, return_tensors="pt"))
            targets = model.get_target_features(**processor(images=images, return_tensors="pt"))
            scores += model.score(queries, targets).diagonal().tolist()
        write_json(file, scores)
    return np.array(read_json(file))


def choose(triplets: list[dict], scores: np.ndarray, kept: float, size: int, seed: int) -> list[dict]:
    """So many of the best triplets, at random, in the order of the pool."""
    best = np.argsort(-scores, kind="stable")[: round(kept * len(scores))]
    rows = np.random.default_rng([seed, size]).permutation(best)[:size]
    return [triplets[row] for row in np.sort(rows)]


def wrong_share(triplets: list[dict]) -> float:
    """Of captions, percent."""
    return 100 * float(np.mean([triplet.get("caption_is_wrong", False) for triplet in triplets]))


def record_of(work: Path, seeds: list[int]) -> dict:
    """All figures of the page."""
    cells = {key: [cell_of(*key, seed) for seed in seeds] for key in CELLS}
    values = {key: query_values(read_reports(work, of), "image+caption") for key, of in cells.items()}
    wrong = {
        key: float(
            np.mean(
                [
                    wrong_share(read_json(work / "worlds" / world_of(*key, seed) / "SynCPR/SynCPR.json"))
                    for seed in seeds
                ]
            )
        )
        for key in CELLS
    }
    whole = (1.0, SIZES[-1])
    return {
        **facts("triplet_quality.py", seeds, cpu_hours(work, [cell for of in cells.values() for cell in of])),
        "steps": STEPS,
        "runs": [
            {
                "kept": kept,
                "size": size,
                "wrong": round(wrong[kept, size], 2),
                "mAP": interval(values[kept, size]),
                "against_whole": None if (kept, size) == whole else paired_test(values[whole], values[kept, size]),
            }
            for kept, size in CELLS
        ],
    }


def conclusion(record: dict) -> str:
    """What the figures say, and no more."""
    parts = []
    for kept in KEPT[1:]:
        of = [run for run in record["runs"] if run["kept"] == kept]
        largest = of[-1]
        difference, low, high, p = largest["against_whole"]
        clear = "better than" if low > 0 else "worse than" if high < 0 else "not distinguishable from"
        parts.append(
            f"The best {100 * kept:.0f} % ({largest['size']:,} triplets, {largest['wrong']:.1f} % wrong) are {clear} "
            f"the whole pool of {SIZES[-1]:,} ({difference:+.1f} points, p {p:.3f})."
        )
    unfiltered = [run for run in record["runs"] if run["kept"] == 1.0]
    best = max(unfiltered, key=lambda run: run["mAP"][0])
    parts.append(
        f"Unfiltered, mAP goes from {unfiltered[0]['mAP'][0]:.1f} at {unfiltered[0]['size']:,} triplets to "
        f"{unfiltered[-1]['mAP'][0]:.1f} at {unfiltered[-1]['size']:,}, at equal steps; the highest, "
        f"{best['mAP'][0]:.1f}, is at {best['size']:,}."
    )
    return " ".join(parts)


def to_markdown(record: dict) -> str:
    """The record as a page."""
    rows = [
        [
            "all" if run["kept"] == 1 else f"the best {100 * run['kept']:.0f} %",
            f"{run['size']:,}",
            f"{run['wrong']:.1f}",
            told(run["mAP"]),
            *told_difference(run["against_whole"]),
        ]
        for run in record["runs"]
    ]
    parts = [
        *heading("Quality against quantity of triplets", record),
        f"{seeds_told(record['seeds'])}; FAFA, {record['steps']} steps of 128 from random weights; "
        f"composed queries, mAP in percent with 95 % intervals over seeds and queries{few(record['seeds'])}.",
        "![mAP by size and strictness](triplet_quality.png)",
        markdown_table(["kept", "triplets", "wrong (%)", "mAP", "against the whole pool", "p"], rows),
        conclusion(record),
    ]
    return "\n\n".join(parts) + "\n"


def draw(record: dict, file: Path) -> None:
    """mAP over size, a curve for each strictness."""
    with chart(file) as figure:
        axes = figure.subplots()
        for colour, kept in zip(COLOURS, KEPT, strict=False):
            of = [run for run in record["runs"] if run["kept"] == kept]
            label = "all" if kept == 1 else f"the best {100 * kept:.0f} %"
            band(axes, [run["size"] for run in of], [run["mAP"] for run in of], colour, label)
        log_ticks(axes, SIZES)
        axes.set(xlabel="triplets trained on", ylabel="mAP (%)", ylim=(0, None))
        axes.legend(title="kept by the filter", fontsize=9)


def main() -> None:
    """Run every cell and write the page."""
    arguments = options(__doc__).parse_args()
    pool = paint(arguments.work, "pool", caption_noise=NOISE)
    triplets = read_json(pool / "SynCPR/SynCPR.json")
    scores = judge(arguments.work, triplets, pool / "SynCPR")
    for seed in arguments.seeds:
        for kept, size in CELLS:
            derive_world(arguments.work, world_of(kept, size, seed), "pool", choose(triplets, scores, kept, size, seed))
    cells = [cell_of(*key, seed) for seed in arguments.seeds for key in CELLS]
    run_cells(arguments.work, cells, arguments.jobs)
    record = record_of(arguments.work, arguments.seeds)
    write_pages(arguments.output, "triplet_quality", record, to_markdown, draw)


if __name__ == "__main__":
    main()
