"""Good against bad pseudo-words: what a TINet that was stopped early costs, by kind of query.

    python benchmarks/pseudo_words.py --work DIR

On Word4Per's CLIP of methods.py (trained if it is not there) the paper's two TINets train as there, and are kept as
they are before training and after 5, 10, 20, 40, 80 and all steps. How good a pseudo-word is by itself: how often "a
photo of *", with the word of a reference image, finds that very image among the references of all queries (Rank-1).
What it is worth: mAP of composed queries, of short captions and of long ones; beside it the caption alone and the image
alone, which need no pseudo-word.
"""

from pathlib import Path

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
from methods import STEPS, word4per_tinets
from methods import cell_of as method_cell
from words import TestInputs, gallery_of, mean_precisions

from fafa.drawing.curves import band, chart
from fafa.drawing.palette import AMBER, BLUE, GREY, TEAL, VERMILION
from fafa.model_folder import load_model
from fafa.models.word4per import Word4PerModel
from fafa.tables import markdown_table

LAST = STEPS - STEPS * 2 // 3
STOPS = (0, 5, 10, 20, 40, 80, LAST)
KINDS = {"composed": BLUE, "composed, short caption": TEAL, "composed, long caption": AMBER}
HALVES = {"caption alone": GREY, "image alone": VERMILION}


def cell_of(seed: int) -> Cell:
    """The paper's two TINets, with a checkpoint after every five steps."""
    stage = {**word4per_tinets(f"cells/word4per-{seed}/clip", seed=seed), "save_strategy": "steps", "save_steps": 5}
    return Cell(f"words-{seed}", (stage,), evaluated=False)


@torch.no_grad()
def measure(work: Path, seed: int) -> dict[int, dict[str, np.ndarray]]:
    """stop -> kind -> average precision of every query; "own image" -> hits."""
    folder = work / "cells" / cell_of(seed).name / "model"
    model, processor = load_model(folder)
    test = gallery_of(work, model, processor)  # CLIP is frozen, so that these, and either half, are those of every stop
    caption = processor(text=test.captions, return_tensors="pt")
    image = {"pixel_values": test.inputs["pixel_values"]}
    model.eval()
    halves = {
        "caption alone": mean_precisions(model, test, model.get_query_features(**caption)),
        "image alone": mean_precisions(model, test, model.get_query_features(**image)),
    }
    lengths = np.array([len(caption.split()) for caption in test.captions])
    short = lengths <= np.median(lengths)
    found = {}
    for stop in STOPS:
        source = folder / f"checkpoint-{stop}" if stop else work / "cells" / f"word4per-{seed}" / "clip"
        torch.manual_seed(seed)  # of TINets without training
        settings = {} if stop else {"stage": 2, "tinets": word4per_tinets()["model_options"]["tinets"]}
        model, _ = load_model(source, **settings)
        model.eval()
        composed = mean_precisions(model, test, model.get_query_features(**test.inputs))
        found[stop] = {
            "composed": composed,
            "composed, short caption": composed[short],
            "composed, long caption": composed[~short],
            **halves,
            "own image": own_image_found(model, test),
        }
    return found


def own_image_found(model: Word4PerModel, test: TestInputs) -> np.ndarray:
    """Whether "a photo of *" finds the image of its "*" first among all references, percent: `(num_queries,)`."""
    pixels = test.inputs["pixel_values"]
    prompt = torch.tensor([model.config.prompt_ids]).expand(len(pixels), -1)
    scores = model.score(
        model.get_query_features(pixel_values=pixels, input_ids=prompt), model.get_target_features(pixels)
    )
    return 100 * (scores.argmax(dim=1) == torch.arange(len(pixels))).double().numpy()


def record_of(work: Path, seeds: list[int]) -> dict:
    """All figures of the page."""
    found = [measure(work, seed) for seed in seeds]
    values = {stop: {kind: np.stack([of[stop][kind] for of in found]) for kind in found[0][stop]} for stop in STOPS}
    cells = [cell for seed in seeds for cell in (cell_of(seed), method_cell("word4per", seed))]
    return {
        **facts("pseudo_words.py", seeds, cpu_hours(work, cells)),
        "stops": [
            {
                "step": stop,
                **{kind: interval(of) for kind, of in found_at.items()},
                "above_caption": paired_test(found_at["caption alone"], found_at["composed"]),
                "against_last": paired_test(values[LAST]["composed"], found_at["composed"]),
            }
            for stop, found_at in values.items()
        ],
    }


def conclusion(record: dict) -> str:
    """What the figures say, and no more."""
    first, last = record["stops"][0], record["stops"][-1]
    enough = [entry["step"] for entry in record["stops"] if entry["above_caption"][1] > 0]
    below = [entry["step"] for entry in record["stops"] if entry["above_caption"][2] < 0]
    parts = [
        f"Untrained pseudo-words find their own image for {first['own image'][0]:.0f} %, trained ones for "
        f"{last['own image'][0]:.0f} %; composed mAP goes from {first['composed'][0]:.1f} to "
        f"{last['composed'][0]:.1f}, beside {last['caption alone'][0]:.1f} by the caption alone."
    ]
    if below:
        parts.append(
            f"After {', '.join(map(str, below))} steps the pseudo-word harms: composed is below the caption alone."
        )
    if enough:
        parts.append(f"From step {enough[0]} on composed queries are above it, as far as seeds and queries can tell.")
    return " ".join(parts)


def to_markdown(record: dict) -> str:
    """The record as a page."""
    kinds = ("own image", *KINDS, *HALVES)
    rows = [
        [
            str(entry["step"]),
            *(told(entry[kind]) if kind in ("own image", "composed") else f"{entry[kind][0]:.1f}" for kind in kinds),
            told_difference(entry["above_caption"])[0],
        ]
        for entry in record["stops"]
    ]
    parts = [
        *heading("Good and bad pseudo-words", record),
        f"{seeds_told(record['seeds'])}; percent with 95 % intervals over seeds and "
        f"queries{few(record['seeds'])}: Rank-1 of the own image, mAP of the others. Short captions are the shorter "
        "half.",
        "![mAP over steps of TINet training](pseudo_words.png)",
        markdown_table(["steps", *kinds, "composed above caption alone"], rows),
        conclusion(record),
    ]
    return "\n\n".join(parts) + "\n"


def draw(record: dict, file: Path) -> None:
    """mAP over steps, and over the quality of the word."""
    with chart(file, figsize=(9.2, 4.2)) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        places = range(len(STOPS))
        quality = [entry["own image"][0] for entry in record["stops"]]
        for kind, colour in (KINDS | HALVES).items():
            found = [entry[kind] for entry in record["stops"]]
            if kind == "composed":
                band(left, places, found, colour, kind)
            else:
                left.plot(places, [one[0] for one in found], "o-", color=colour, label=kind)
            right.plot(quality, [one[0] for one in found], "o-", color=colour)
        left.set_xticks(places, [str(stop) for stop in STOPS])
        left.set(xlabel="steps of TINet training", ylabel="mAP (%)", ylim=(0, None))
        right.set(xlabel='"a photo of *" finds its own image (%)')
        left.legend(fontsize=8)


def main() -> None:
    """Run every cell and write the page."""
    arguments = options(__doc__).parse_args()
    paint(arguments.work)
    run_cells(arguments.work, [method_cell("word4per", seed) for seed in arguments.seeds], arguments.jobs)
    run_cells(arguments.work, [cell_of(seed) for seed in arguments.seeds], arguments.jobs)
    record = record_of(arguments.work, arguments.seeds)
    write_pages(arguments.output, "pseudo_words", record, to_markdown, draw)


if __name__ == "__main__":
    main()
