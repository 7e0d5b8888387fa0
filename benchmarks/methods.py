"""One table over all methods: which finds whom, on one harder painted world, at one budget, under the same seeds.

    python benchmarks/methods.py --work DIR                       # all; three hours on two cores
    python benchmarks/methods.py --work DIR --methods word4per    # one of them; a page of those that are there

Every method has about two million parameters, trains from random weights for 500 steps of 128 triplets (or pairs) in
all, on the same 12,000 triplets, 10 % of whose captions are wrong, and is evaluated on the same 300 queries over 2,200
images: the same person in other clothes, three others in the clothes asked for, some images blurred or partly hidden.
Settings are those of examples/configs/*world*.yaml, their steps shortened in proportion. No setting was tuned
on the test set.

Random weights are what the methods' authors never meant them for: the real ones start from BLIP-2 or CLIP. All get the
same remedy, plain contrastive learning first. What the table says of real weights is therefore a guess.
"""

import shlex
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
    query_values,
    read_reports,
    run_cells,
    seeds_told,
    told,
    told_difference,
    write_pages,
)
from datasets import load_dataset

from fafa.drawing.curves import chart
from fafa.drawing.palette import BLUE, GREY, TEAL, VERMILION
from fafa.model_folder import load_model
from fafa.tables import markdown_table

STEPS, BATCH = 500, 128
METRICS = ("rank-1", "rank-5", "rank-10", "mAP", "mINP")
MODES = {"image+caption": BLUE, "caption": TEAL, "image": VERMILION}
EVERY_RUN = {
    "batch_size": BATCH,
    "warmup_steps": 0.1,
    "cache_images": True,
    "eval_strategy": "no",
    "save_strategy": "no",
    "logging_steps": 50,
    "max_validation_triplets": 240,
    "per_device_eval_batch_size": BATCH,
    "report_to": "none",
    "disable_tqdm": True,
}
# FAFA's recipe for random weights (examples/train.py), its 1,100 steps shortened to 500.
BY_TRIPLETS = {
    "learning_rate": 1.5e-3,
    "random_epochs": 3,
    "group_size": 4,
    "caption_steps": 280,
    "contrastive_steps": 430,
}
CLIP_PARTS = {
    "vision_config": {"intermediate_size": 768, "num_hidden_layers": 3},
    "text_config": {"intermediate_size": 768, "num_hidden_layers": 3},
}
DUAL_PARTS = {
    "vision_config": {"intermediate_size": 768, "num_hidden_layers": 4},
    "text_config": {"intermediate_size": 768, "num_hidden_layers": 3},
}
WORD_TOWER = {"hidden_size": 128, "intermediate_size": 768, "num_hidden_layers": 3}
WORD_PARTS = {"vision_config": WORD_TOWER, "text_config": WORD_TOWER}
PAIRS = {"method": "DualEncoder", "learning_rate": 1e-3}


def _one_run(**settings) -> tuple[dict, ...]:
    return ({**EVERY_RUN, "max_steps": STEPS, "output_dir": "{cell}/model", **settings},)


def word4per_clip(output_dir: str = "{cell}/clip", **settings) -> dict:
    """Word4Per's stage 1, two thirds of the budget."""
    steps = STEPS * 2 // 3
    fields = {"scale": 20.0, "id_weight": 0.0, "relative_weight": 1.0, "clip_config": WORD_PARTS}
    own = {"method": "Word4Per", "model_options": fields, "learning_rate": 1.5e-3, "contrastive_steps": steps * 7 // 8}
    return {**EVERY_RUN, "max_steps": steps, "output_dir": output_dir, **own, **settings}


def word4per_tinets(model: str = "{cell}/clip", **settings) -> dict:
    """Word4Per's stage 2, the rest."""
    steps = STEPS - STEPS * 2 // 3
    tinets = [{"name": name, "supervision": name, "hidden_sizes": [256, 256]} for name in ("text", "image")]
    fields = {"stage": 2, "scale": 20.0, "composed_weight": 1.0, "tinets": tinets}
    own = {"model": model, "model_options": fields, "learning_rate": 1e-3, "contrastive_steps": steps * 3 // 4}
    given = {**EVERY_RUN, "max_steps": steps, "output_dir": "{cell}/model", "cache_features": True, **own, **settings}
    return {name: value for name, value in given.items() if name != "cache_images"}


# name -> title, and the runs of examples/train.py.
METHODS: dict[str, tuple[str, tuple[dict, ...]]] = {
    "fafa": ("FAFA", _one_run(method="Fafa", model_options={"fda_alpha": 0.0}, **BY_TRIPLETS)),
    "coalign": ("CoAlign: GCA + LCR", _one_run(method="CoAlign", model_options={"gca_beta": 0.0}, **BY_TRIPLETS)),
    "coalign-clip": (
        "CoAlign on CLIP",
        _one_run(method="CoAlignClip", model_options={"gca_beta": 0.0, "clip_config": CLIP_PARTS}, **BY_TRIPLETS),
    ),
    "word4per": ("Word4Per", (word4per_clip(), word4per_tinets())),
    "dual": ("dual encoder: N-ITC + R-ITC", _one_run(model_options={"backbone_config": DUAL_PARTS}, **PAIRS)),
    "dual-plain": (
        "dual encoder: plain ITC",
        _one_run(
            model_options={"backbone_config": DUAL_PARTS, "n_itc_weight": 0.0, "r_itc_weight": 0.0, "itc_weight": 1.0},
            **PAIRS,
        ),
    ),
    # Plain contrast to the end in the place of GCA's divergence; LCR off; both.
    "coalign-lcr": (
        "CoAlign without GCA",
        _one_run(method="CoAlign", model_options={"gca_beta": 0.0}, **{**BY_TRIPLETS, "contrastive_steps": STEPS}),
    ),
    "coalign-gca": (
        "CoAlign without LCR",
        _one_run(method="CoAlign", model_options={"gca_beta": 0.0, "lcr_weight": 0.0}, **BY_TRIPLETS),
    ),
    "coalign-neither": (
        "CoAlign without either",
        _one_run(
            method="CoAlign",
            model_options={"gca_beta": 0.0, "lcr_weight": 0.0},
            **{**BY_TRIPLETS, "contrastive_steps": STEPS},
        ),
    ),
}
# What the paired tests compare: the second with the first.
TESTS = [
    *(("fafa", name) for name in ("coalign", "coalign-clip", "word4per", "dual")),
    ("dual-plain", "dual"),
    *((name, "coalign") for name in ("coalign-lcr", "coalign-gca", "coalign-neither")),
]


def cell_of(name: str, seed: int) -> Cell:
    """The cell of a method and a seed."""
    return Cell(f"{name}-{seed}", tuple({**stage, "seed": seed} for stage in METHODS[name][1]))


@torch.no_grad()
def measure_costs(work: Path, names: list[str], seed: int) -> dict[str, dict[str, float]]:
    """Per method: parameters, bytes of an image in the gallery, milliseconds of a query against 2,200 images.

    A query is the small steps of a single search: its image and caption to tensors, features, scores. Methods take
    turns in one process of one thread; the median of 30.
    """
    torch.set_num_threads(1)
    queries = load_dataset("ITCPR", "query", data_dir=str(work / "worlds/hard/ITCPR"), split="test")
    image, caption = queries[0]["image"], queries[0]["caption"]
    loaded = {name: load_model(work / "cells" / f"{name}-{seed}" / "model") for name in names}
    galleries = {
        name: torch.nn.functional.normalize(torch.randn(2_200, *model.feature_shape), dim=-1)
        for name, (model, _) in loaded.items()
    }
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(33):
        for name, (model, processor) in loaded.items():
            model.eval()
            start = time.perf_counter()
            model.score(
                model.get_query_features(**processor(images=[image], text=[caption], return_tensors="pt")),
                galleries[name],
            )
            if turn >= 3:  # the first ones find cold caches
                times[name].append(1000 * (time.perf_counter() - start))
    return {
        name: {
            "parameters": sum(weights.numel() for weights in model.parameters()),
            "bytes_per_image": 4 * int(np.prod(model.feature_shape)),
            "query_ms": round(median(times[name]), 2),
        }
        for name, (model, _) in loaded.items()
    }


def record_of(work: Path, names: list[str], seeds: list[int]) -> dict:
    """All figures of the page."""
    cells = {name: [cell_of(name, seed) for seed in seeds] for name in names}
    reports = {name: read_reports(work, of) for name, of in cells.items()}
    report = reports[names[0]][0]
    modes = list(report.metrics)
    values = {name: {mode: query_values(of, mode) for mode in modes} for name, of in reports.items()}
    return {
        **facts("methods.py", seeds, cpu_hours(work, [cell for of in cells.values() for cell in of])),
        "num_queries": len(report.queries),
        "num_gallery": report.num_gallery,
        "chance": report.chance["overall"],
        "costs": measure_costs(work, names, seeds[0]),
        "cpu_minutes": {name: round(60 * cpu_hours(work, of) / len(seeds), 1) for name, of in cells.items()},
        "seeds_means": {
            name: {
                mode: {metric: query_values(of, mode, metric).mean(axis=1).tolist() for metric in METRICS}
                for mode in modes
            }
            for name, of in reports.items()
        },
        "rank-1": {name: interval(query_values(of, "image+caption", "rank-1")) for name, of in reports.items()},
        "mAP": {name: {mode: interval(found) for mode, found in of.items()} for name, of in values.items()},
        "tests": [
            [first, second, paired_test(values[first]["image+caption"], values[second]["image+caption"])]
            for first, second in TESTS
            if first in values and second in values
        ],
        "above_halves": {
            name: {half: paired_test(of[half], of["image+caption"]) for half in ("caption", "image")}
            for name, of in values.items()
        },
        "commands": {name: [shlex.join(command) for command in of[0].commands(work)] for name, of in cells.items()},
    }


def to_markdown(record: dict) -> str:
    """The record as a page."""
    names, chance = list(record["mAP"]), record["chance"]
    title = {name: METHODS[name][0] for name in names}
    modes = list(record["mAP"][names[0]])
    composed = [
        [
            title[name],
            told(record["rank-1"][name]),
            told(record["mAP"][name]["image+caption"]),
            *(told_difference(record["above_halves"][name][half])[0] for half in ("caption", "image")),
        ]
        for name in names
    ]
    costs = [
        [
            title[name],
            f"{of['parameters']:,}",
            f"{of['bytes_per_image']:,}",
            f"{of['query_ms']:.1f}",
            f"{record['cpu_minutes'][name]:.1f}",
        ]
        for name, of in record["costs"].items()
    ]
    commands = [
        f"{title[name]}:\n\n```bash\n" + "\n".join(f"python {line}" for line in record["commands"][name]) + "\n```"
        for name in names
    ]
    parts = [
        *heading("Methods of composed person retrieval on one painted world", record),
        f"{seeds_told(record['seeds'])}; {record['num_queries']} queries, {record['num_gallery']:,} "
        f"images; percent, with 95 % intervals in which seeds and queries are sampled, both{few(record['seeds'])}. "
        f"Every method: two million parameters, {STEPS} steps of {BATCH} from random weights, on 12,000 triplets of "
        "which 10 % have wrong captions. The head of `benchmarks/methods.py` has the world, the settings, and what "
        "this cannot tell of real weights.",
        "![mAP of every method by kind of query](methods.png)",
        "## Image and caption together",
        markdown_table(
            ["", "Rank-1", "mAP", "mAP above the caption alone", "above the image alone"],
            [*composed, ["chance", f"{chance['rank-1']:.1f}", f"{chance['mAP']:.1f}", "", ""]],
        ),
        "## mAP by kind of query",
        markdown_table(
            ["", *modes], [[title[name], *(f"{record['mAP'][name][mode][0]:.1f}" for mode in modes)] for name in names]
        ),
        "## Paired tests of mAP, image and caption",
        markdown_table(
            ["", "against", "difference", "p"],
            [[title[second], title[first], *told_difference(found)] for first, second, found in record["tests"]],
        ),
        "## Costs",
        "A query: its image and caption to tensors, features, scores of 2,200 images; one thread, median of 30, "
        "methods in turns.",
        markdown_table(["", "parameters", "bytes an image", "ms a query", "CPU-minutes a run"], costs),
        "## Commands of the first seed",
        "In the folder DIR, where `examples/` is the checkout's:",
        *commands,
    ]
    return "\n\n".join(parts) + "\n"


def draw(record: dict, file: Path) -> None:
    """mAP with intervals, a row for each method."""
    names = list(record["mAP"])
    with chart(file, figsize=(7.6, 1.2 + 0.5 * len(names))) as figure:
        axes = figure.subplots()
        for offset, (mode, colour) in zip((-0.22, 0.0, 0.22), MODES.items(), strict=True):
            for row, name in enumerate(names):
                mean, low, high = record["mAP"][name][mode]
                axes.plot([low, high], [row + offset] * 2, color=colour, linewidth=2)
                axes.plot(mean, row + offset, "o", color=colour, markersize=5, label=None if row else mode)
        axes.axvline(record["chance"]["mAP"], color=GREY, linestyle=":", linewidth=1, label="chance")
        axes.set_yticks(range(len(names)), [METHODS[name][0] for name in names])
        axes.invert_yaxis()
        axes.set(xlabel="mAP (%)", xlim=(0, None))
        axes.legend(fontsize=9)


def main() -> None:
    """Run every cell and write the page."""
    parser = options(__doc__)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    arguments = parser.parse_args()
    paint(arguments.work)
    cells = [cell_of(name, seed) for seed in arguments.seeds for name in arguments.methods]
    run_cells(arguments.work, cells, arguments.jobs)
    record = record_of(arguments.work, arguments.methods, arguments.seeds)
    write_pages(arguments.output, "methods", record, to_markdown, draw)


if __name__ == "__main__":
    main()
