"""What noise-robust losses are worth as more of the training captions are wrong.

    python benchmarks/caption_noise.py --work DIR

The dual encoder, trained by N-ITC + R-ITC (SynTBPR's settings) and by plain contrast, on 12,000 captioned images of the
hard world of which 0, 20, 40 and 60 % have the caption of another group; 300 steps of 128, otherwise as in methods.py.
Two tests: whole captions find the described images among 598 of another world (text to image), and the composed queries
of methods.py, image and caption added up.
"""

from pathlib import Path

import numpy as np
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
from methods import DUAL_PARTS, EVERY_RUN, PAIRS

from fafa.drawing.curves import band, chart
from fafa.files import read_json, write_json
from fafa.tables import markdown_table
from fafa.world import make_world
from fafa.world.hardships import swap_captions

NOISE = (0.0, 0.2, 0.4, 0.6)
STEPS = 300
LOSSES = {
    "N-ITC + R-ITC": {},
    "plain ITC": {"n_itc_weight": 0.0, "r_itc_weight": 0.0, "itc_weight": 1.0},
}
TEXT_TEST = "text"
TESTS = {"text to image": ("text", "caption"), "composed": ("results", "image+caption")}  # folder of a report, mode


def cell_of(loss: str, noise: float, seed: int) -> Cell:
    """A run."""
    stage = {
        **EVERY_RUN,
        **PAIRS,
        "max_steps": STEPS,
        "output_dir": "{cell}/model",
        "model_options": {"backbone_config": DUAL_PARTS, **LOSSES[loss]},
        "seed": seed,
    }
    text = f"--dataset CUHK-PEDES --data worlds/{TEXT_TEST} --output {{cell}}/text --no-pictures"
    return Cell(
        f"noise-{list(LOSSES).index(loss)}-{noise:g}-{seed}",
        (stage,),
        world=f"noise-{noise:g}",
        more=(f"examples/evaluate_itcpr.py --model {{cell}}/model {text}",),
    )


def write_text_test(work: Path) -> None:
    """Images of another world with their whole captions, in the form of CUHK-PEDES; nobody occurs twice."""
    sizes = {"num_diptychs": 300, "diptychs_per_quadruple": 1, "num_queries": 1, "gallery_size": 10}
    world = make_world(work / "worlds/text-world", **sizes, seed=7, spoilt=0.1)
    records = [
        {
            "split": ("train", "val")[number] if number < 2 else "test",  # a file without all three is refused
            "captions": [triplet["target_caption"]],
            "processed_tokens": [triplet["target_caption"].split()],
            "file_path": triplet["target_image_path"],
            "id": triplet["cpr_id"] + 1,
        }
        for number, triplet in enumerate(read_json(world / "SynCPR/SynCPR.json"))
    ]
    folder = work / "worlds" / TEXT_TEST
    folder.mkdir(exist_ok=True)
    if not (folder / "imgs").exists():
        (folder / "imgs").symlink_to((world / "SynCPR").resolve())
    write_json(folder / "reid_raw.json", records)


def record_of(work: Path, seeds: list[int]) -> dict:
    """All figures of the page."""
    cells = {(loss, noise): [cell_of(loss, noise, seed) for seed in seeds] for loss in LOSSES for noise in NOISE}
    values = {
        (*key, test): query_values(read_reports(work, of, folder), kind)
        for key, of in cells.items()
        for test, (folder, kind) in TESTS.items()
    }
    robust, plain = LOSSES
    return {
        **facts("caption_noise.py", seeds, cpu_hours(work, [cell for of in cells.values() for cell in of])),
        "steps": STEPS,
        "own_share": [round(own_share(128, 0.005, sigmoid), 4) for sigmoid in (1.0, 0.5)],
        "mAP": {
            test: {loss: [interval(values[loss, noise, test]) for noise in NOISE] for loss in LOSSES} for test in TESTS
        },
        "tests": {
            test: [paired_test(values[plain, noise, test], values[robust, noise, test]) for noise in NOISE]
            for test in TESTS
        },
    }


def conclusion(record: dict) -> str:
    """What the figures say, and no more."""
    parts = []
    for test, of in record["tests"].items():
        better = [f"{100 * noise:.0f} %" for noise, (_, low, _, _) in zip(NOISE, of, strict=True) if low > 0]
        worse = [f"{100 * noise:.0f} %" for noise, (_, _, high, _) in zip(NOISE, of, strict=True) if high < 0]
        parts.append(
            f"{test.capitalize()}: N-ITC + R-ITC are better than plain ITC at {', '.join(better) or 'no share'} of "
            f"wrong captions, worse at {', '.join(worse) or 'none'}, and elsewhere not distinguishable."
        )
    least, most = (100 * share for share in record["own_share"])
    parts.append(
        f"Why they need not be better: with sigmoid labels and α = 0.005, in a batch of 128 every pair's own caption, "
        f"right or wrong, keeps {least:.0f} to {most:.0f} % of its label (all scores high, all at 0); the rest is "
        "spread over the whole batch, not moved to the captions that fit."
    )
    return " ".join(parts)


def own_share(batch: int, alpha: float, sigmoid: float) -> float:
    """Share of its label that a pair's own caption keeps where the sigmoids of a batch's scores are all the same."""
    own, other = 1 - alpha + alpha * sigmoid, alpha * sigmoid
    return own / (own + (batch - 1) * other)


def to_markdown(record: dict) -> str:
    """The record as a page."""
    robust, plain = LOSSES
    parts = [
        *heading("Noise-robust losses as caption noise rises", record),
        f"{seeds_told(record['seeds'])}; {record['steps']} steps of 128 from random weights; mAP in "
        f"percent with 95 % intervals over seeds and queries{few(record['seeds'])}. Wrong captions are those of "
        "another group of the training set; the test set has none.",
        "![mAP over caption noise](caption_noise.png)",
    ]
    for test in TESTS:
        rows = [
            [
                f"{100 * noise:.0f} %",
                told(record["mAP"][test][robust][place]),
                told(record["mAP"][test][plain][place]),
                *told_difference(record["tests"][test][place]),
            ]
            for place, noise in enumerate(NOISE)
        ]
        head = ["wrong captions", robust, plain, "difference", "p"]
        parts += [f"## {test.capitalize()}", markdown_table(head, rows)]
    return "\n\n".join([*parts, conclusion(record)]) + "\n"


def draw(record: dict, file: Path) -> None:
    """mAP over noise, a curve for each loss."""
    with chart(file, figsize=(8.6, 3.8)) as figure:
        for axes, test in zip(figure.subplots(1, 2), TESTS, strict=True):
            for colour, loss in zip(COLOURS, LOSSES, strict=False):
                band(axes, [100 * noise for noise in NOISE], record["mAP"][test][loss], colour, loss)
            axes.set(xlabel="wrong captions (%)", ylabel="mAP (%)", title=test, ylim=(0, None))
            axes.legend(fontsize=9)


def main() -> None:
    """Run every cell and write the page."""
    arguments = options(__doc__).parse_args()
    base = paint(arguments.work, "clean", caption_noise=0.0)
    write_text_test(arguments.work)
    triplets = read_json(base / "SynCPR/SynCPR.json")
    for noise in NOISE:
        derive_world(
            arguments.work, f"noise-{noise:g}", "clean", swap_captions(triplets, noise, np.random.default_rng(0))
        )
    run_cells(
        arguments.work,
        [cell_of(loss, noise, seed) for seed in arguments.seeds for noise in NOISE for loss in LOSSES],
        arguments.jobs,
    )
    record = record_of(arguments.work, arguments.seeds)
    write_pages(arguments.output, "caption_noise", record, to_markdown, draw)


if __name__ == "__main__":
    main()
