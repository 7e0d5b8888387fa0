"""Does a calibrated gallery know when nobody matches? False alarms promised and kept, and probabilities that come true.

    python benchmarks/open_set.py --work DIR            # a quarter of an hour on two cores, most of it painting

Painted worlds, four by default, of people whom the tiny model never saw: 240 queries and 3,000 images each; per query
one to three matches, the same person in other clothes, and two other people in the clothes asked for. In turn, one
world calibrates by 300 of its images, and the others are searched: 300 of their images, 1,000, and all 3,000. Every
query is asked with its matches in the gallery and without.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from cells import RESULTS, facts, interval, told, write_pages
from datasets import load_dataset
from PIL import Image
from torch import Tensor

from fafa import TINY_CHECKPOINT
from fafa.drawing.curves import chart
from fafa.drawing.palette import BLUE, GREY, TEAL, VERMILION
from fafa.evaluation import QUERY_MODES, encode_queries, encode_targets
from fafa.evaluation.open_set import BINS, open_set_figures, reliability_curve
from fafa.model_folder import load_model
from fafa.retrieval import encode_images
from fafa.retrieval.calibration import PLACE, Calibration, HighestScores, ScoreCalibration
from fafa.tables import markdown_table
from fafa.world import make_world

MAIN = "image+caption"
NUM_QUERIES, NUM_IMAGES = 240, 3_000
CALIBRATED, SIZES = 300, (300, 1_000, 3_000)  # images
RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
DRAWS = 3  # random parts of a gallery
MATCHES = 3  # the most a query has
UNLIKE_SEED = 305
UNLIKE_WORLDS = {
    "70 % of the images blurred or partly hidden": {"spoilt": 0.7},
    "six people in the clothes asked for, not two": {"look_alikes": 6},
}
CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "images without colour": lambda image: image.convert("L").convert("RGB"),
    "images a third as bright": lambda image: image.point(lambda value: value // 3),
    "images of one colour": lambda image: image.resize((1, 1)).resize(image.size),
}


class World(NamedTuple):
    """Scores of a world's queries against its images, by kind of query: `(240, 3000)` each; and which are matches."""

    scores: dict[str, Tensor]
    is_match: Tensor
    queries: dict[str, Tensor]
    targets: Tensor


def read_world(work: Path, name: str, seed: int, model: Any, processor: Any, **options: Any) -> World:
    """Paints it and encodes it, or finds that done."""
    folder = work / f"world-{name}"
    make_world(folder, num_diptychs=1, num_queries=NUM_QUERIES, gallery_size=NUM_IMAGES, seed=seed, **options)
    queries, images = (
        load_dataset("ITCPR", kind, data_dir=str(folder / "ITCPR"), split="test") for kind in ("query", "gallery")
    )
    kept = [work / "features" / name / kind for kind in ("queries", "gallery")]
    features = encode_queries(model, processor, queries, progress=False, features_dir=kept[0])
    targets = encode_targets(model, processor, images, progress=False, features_dir=kept[1])
    ids, image_ids = torch.tensor(queries["instance_id"][:]), torch.tensor(images["instance_id"][:])
    scores = {mode: model.score(of_mode, targets) for mode, of_mode in features.items()}
    return World(scores, ids[:, None] == image_ids, features, targets)


def part_of(size: int, draw: int) -> Tensor:
    """A random part of the images."""
    return torch.randperm(NUM_IMAGES, generator=torch.Generator().manual_seed(draw))[:size]


def gallery_of(scores: Tensor, is_match: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and matches in a gallery of these images, to which each query's own matches are added.

    Returns:
        `(num_queries, num_images + 3)`, both; minus infinity for matches that are not there.
    """
    impostors = scores.masked_fill(is_match, -torch.inf)[:, images]
    matches = scores.masked_fill(~is_match, -torch.inf).topk(MATCHES).values
    return torch.cat([impostors, matches], 1), torch.cat([torch.zeros_like(impostors).bool(), matches > -torch.inf], 1)


def highest_of(scores: Tensor, is_match: Tensor) -> HighestScores:
    """What calibrations are fitted to, and tests look at."""
    highest = HighestScores(scores.shape[1])
    highest.add(scores, is_match)
    return highest


def best_of(scores: Tensor, is_match: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Each query's best impostor and its best match."""
    highest = highest_of(scores, is_match)
    return highest.impostors[:, 0].numpy(), highest.matches[:, 0].numpy()


def figures(worlds: list[World], size: int, mode: str = MAIN, standardised: bool = False) -> dict[str, Any]:
    """Open-set figures of all worlds' queries together, each against its own world's images, with one threshold.

    Args:
        standardised: scores less the mean of the query's over up to 1,024 images, by their standard deviation (T-norm).
    """
    bests = []
    for world in worlds:
        scores, is_match = gallery_of(world.scores[mode], world.is_match, part_of(size, 0))
        if standardised:
            impostors = scores[:, : min(size, 1024)]
            is_there = impostors > -torch.inf
            mean = impostors.where(is_there, 0).sum(1, keepdim=True) / is_there.sum(1, keepdim=True)
            spread = ((impostors - mean) ** 2).where(is_there, 0).sum(1, keepdim=True) / is_there.sum(1, keepdim=True)
            scores = (scores - mean) / spread.sqrt()
        bests.append(best_of(scores, is_match))
    return open_set_figures(*(np.concatenate(of) for of in zip(*bests, strict=True)))


def kept_promises(worlds: list[World], calibrated: int, sizes: tuple[int, ...], num_queries: int, rates=RATES) -> dict:
    """Measured false-alarm rates and DIR at cut-offs from other worlds, percent with intervals.

    Returns:
        gallery size -> promised rate -> "far", "dir", "far_unscaled" (with the cut-off of the calibration's own size)
        and "worst", the highest rate of one calibration in one world; None where the calibration refuses.
    """
    found: dict = {size: {} for size in sizes}
    calibrations = [
        [
            ScoreCalibration.fit(
                highest_of(
                    *gallery_of(
                        world.scores[MAIN][:num_queries], world.is_match[:num_queries], part_of(calibrated, draw)
                    )
                )
            )
            for draw in range(DRAWS)
        ]
        for world in worlds
    ]
    for size in sizes:
        tests = [
            [
                best_of(*gallery_of(world.scores[MAIN], world.is_match, part_of(size, 10 + draw)))
                for draw in range(DRAWS)
            ]
            for world in worlds
        ]
        for rate in rates:
            try:
                cut_offs = [[of.cut_off(rate, size + MATCHES) for of in draws] for draws in calibrations]
                unscaled = [[of.cut_off(rate, calibrated + MATCHES) for of in draws] for draws in calibrations]
            except ValueError as refusal:
                found[size][f"{rate:g}"] = {"refused": str(refusal)}
                continue

            def outcome(number: int, cuts: list[float], is_right: bool) -> np.ndarray:
                """Of each query of the other worlds, in percent of the draws: alarmed, or rightly answered."""
                others = [test for place, test in enumerate(tests) if place != number]  # noqa: B023
                return 100 * np.concatenate(
                    [
                        np.mean(
                            [
                                (match > max(cut, -1)) & (match > impostor) if is_right else impostor > cut
                                for cut, (impostor, match) in zip(cuts, of_world, strict=True)
                            ],
                            axis=0,
                        )
                        for of_world in others
                    ]
                )

            alarms = np.stack([outcome(number, cuts, False) for number, cuts in enumerate(cut_offs)])
            rights = np.stack([outcome(number, cuts, True) for number, cuts in enumerate(cut_offs)])
            plain = np.stack([outcome(number, cuts, False) for number, cuts in enumerate(unscaled)])
            by_world = alarms.reshape(len(worlds), len(worlds) - 1, -1).mean(axis=2)
            found[size][f"{rate:g}"] = {
                "far": interval(alarms),
                "dir": interval(rights),
                "far_unscaled": interval(plain),
                "worst": round(float(by_world.max()), 2),
            }
    return found


def reliability(worlds: list[World], size: int) -> dict[str, list[dict[str, float]]]:
    """Of probabilities from other worlds' 300 images, in galleries of this size: all first ten results; the first."""
    told = []
    for number, world in enumerate(worlds):
        calibration = ScoreCalibration.fit(
            highest_of(*gallery_of(world.scores[MAIN], world.is_match, part_of(CALIBRATED, 0)))
        )
        for other in worlds[:number] + worlds[number + 1 :]:
            shown, is_match = highest_of(*gallery_of(other.scores[MAIN], other.is_match, part_of(size, 10))).shown()
            told.append((calibration.probability(shown, size + MATCHES), is_match))
    probabilities, are_matches = (torch.cat(of) for of in zip(*told, strict=True))
    return {
        "results": reliability_curve(probabilities.flatten(), are_matches.flatten()),
        "best": reliability_curve(probabilities[:, 0], are_matches[:, 0]),
    }


def unlike(worlds: list[World], seed: int, work: Path, model: Any, processor: Any) -> list[list[str]]:
    """Rows: a gallery, its false alarms at a promised 10 % after a calibration elsewhere, what the program says.

    Args:
        seed: of the first world, which calibrates by all its images.
    """
    world, rows = worlds[0], []
    highest = highest_of(*gallery_of(world.scores[MAIN], world.is_match, part_of(NUM_IMAGES, 0)))
    kind = ScoreCalibration.fit(highest)
    calibration = Calibration({}, {MAIN: kind}, {MAIN: world.queries[MAIN][:100].half()}, {MAIN: highest.levels})

    def row(name: str, targets: Tensor, scores: Tensor, is_match: Tensor) -> list[str]:
        impostor, _ = best_of(scores, is_match)
        probed = targets[: calibration.probed_images(MAIN, len(targets))]
        seen = model.score(calibration.probes[MAIN].float(), probed)
        level = kind.parts.index(len(probed))
        share = (seen.topk(PLACE).values[:, -1] > highest.levels[level]).double().mean().item()
        alarms = (impostor > kind.cut_off(0.1, len(targets))).mean()
        is_told = calibration.tell_unlike(MAIN, seen) is not None
        return [name, f"{len(targets):,}", f"{100 * alarms:.1f}", f"{100 * share:.0f}", "yes" if is_told else "no"]

    for other in worlds[1:]:
        rows.append(row("another such world", other.targets, other.scores[MAIN], other.is_match))
    for name, options in UNLIKE_WORLDS.items():
        slug = next(iter(options))
        other = read_world(work, slug, UNLIKE_SEED, model, processor, **options)
        rows.append(row(name, other.targets, other.scores[MAIN], other.is_match))
    folder, few = str(work / f"world-{seed}" / "ITCPR"), 1_000
    images = load_dataset("ITCPR", "gallery", data_dir=folder, split="test").select(range(few))["image"]
    for name, change in CHANGES.items():
        changed = [change(image.convert("RGB")) for image in images]
        targets = encode_images(model, processor, changed, progress=False, identify=False).features
        scores = model.score(worlds[1].queries[MAIN], targets)
        rows.append(row(name, targets, scores, torch.zeros_like(scores, dtype=torch.bool)))
    return rows


def record_of(worlds: list[World], arguments: argparse.Namespace, model: Any, processor: Any, start: float) -> dict:
    """All figures of the page."""
    promises = {
        "300": kept_promises(worlds, CALIBRATED, SIZES, NUM_QUERIES),
        "3000": kept_promises(worlds, NUM_IMAGES, SIZES, NUM_QUERIES, (0.01, 0.1)),
    }
    by_queries = {
        number: kept_promises(worlds, CALIBRATED, (NUM_IMAGES,), number, (0.01, 0.1))[NUM_IMAGES]
        for number in (60, 120, NUM_QUERIES)
    }
    statistics = {
        mode: {
            name: {size: figures(worlds, size, mode, name == "standardised (T-norm)") for size in (300, 3_000)}
            for name in ("score", "standardised (T-norm)")
        }
        for mode in QUERY_MODES
    }
    return {
        **facts("open_set.py", arguments.seeds, 0),
        "statistics": statistics,
        "promises": promises,
        "by_queries": by_queries,
        "reliability": {size: reliability(worlds, size) for size in (300, 3_000)},
        "unlike": unlike(worlds, arguments.seeds[0], arguments.work, model, processor),
        "cpu_minutes": round((time.process_time() - start) / 60, 1),
    }


def to_markdown(record: dict) -> str:
    """The record as a page."""
    cells = ("{:.1f} [{:.1f}, {:.1f}]".format, "{:.1f}".format)
    table = []
    for mode, of_mode in record["statistics"].items():
        for name, sizes in of_mode.items():
            for size, found in sizes.items():
                values = [*found["dir"].values(), found["auroc"]]
                table.append([mode, name, f"{int(size):,}", *(cells[0](*value) for value in values)])
    promised = []
    for calibrated, sizes in record["promises"].items():
        for size, rates in sizes.items():
            for rate, found in rates.items():
                if rate in ("0.01", "0.1"):
                    promised.append([f"{int(calibrated):,}", f"{int(size):,}", *_promise(rate, found)])
    queries = [
        [number, *_promise(rate, found)]
        for number, rates in record["by_queries"].items()
        for rate, found in rates.items()
    ]
    curves = []
    for size, of_size in record["reliability"].items():
        for which, bins in of_size.items():
            by_tenth = {
                int(BINS * one["probability"]): f"{100 * one['probability']:.0f} → {100 * one['share']:.0f}"
                for one in bins
            }
            curves.append([f"{int(size):,}", which, *(by_tenth.get(tenth, "") for tenth in range(BINS))])
    promise = ["promised", "false alarms (%)", "worst pair of worlds", "right answers, DIR (%)", "without the size"]
    parts = [
        "# When nobody matches: false alarms and probabilities on painted worlds",
        f"{record['date']}, {record['processor']}, torch {record['torch']}: `{record['command']}`. "
        f"Seeds {', '.join(map(str, record['seeds']))}; {record['cpu_minutes']} CPU-minutes after painting. Model: "
        f"checkpoints/tiny, which saw none of these people. {len(record['seeds'])} worlds of {NUM_QUERIES} queries and "
        f"{NUM_IMAGES:,} images; what is in them, and who calibrates whom, says the head of `benchmarks/open_set.py`. "
        "The figures are of painted people: of real photographs the method carries over, the numbers do not.",
        "![False alarms promised and measured; probabilities and what came of them](open_set.png)",
        "## Does it know when nobody matches?",
        "DIR at a false-alarm rate, percent: of the queries with a match, those whose best image is one and above the "
        "threshold that this share of the queries without a match exceeds (measured on the test itself, all worlds "
        "together). AUROC: how often the best score with a match is above that without one. In brackets 95 % over "
        "queries. `standardised`: the score less its mean over up to 1,024 images of the gallery, by its standard "
        "deviation there. With image and caption the plain score is better, elsewhere neither; so that is what "
        "`fafa.retrieval.calibration` calibrates.",
        markdown_table(["query", "statistic", "images", "DIR at 1 %", "DIR at 10 %", "AUROC"], table),
        "## Are promised false-alarm rates kept in a gallery ten times larger?",
        "Cut-offs from another world: calibrated on so many images, used in a gallery of so many. In brackets 95 % "
        f"intervals in which calibrating worlds and queries are sampled, both (with {len(record['seeds'])} worlds they "
        "are somewhat too narrow); `without the size`: the false alarms if the cut-off of the calibration's own size "
        "were kept.",
        markdown_table(["calibrated on", "gallery", *promise], promised),
        "## How many queries a calibration needs",
        f"On {CALIBRATED} images, used in a gallery of {NUM_IMAGES:,}. Fewer queries make cut-offs higher, not alarms "
        "more frequent; where they are too few for a rate, it is refused.",
        markdown_table(["queries", *promise], queries),
        "## Do probabilities come true?",
        f"Calibrated on {CALIBRATED} images of another world. For each tenth of the way from 0 to 100 %: the mean "
        "probability → the share that were matches, percent; of all first ten results of every query, and of the best "
        "ones alone. Best results are matches somewhat more often than their probability says: the same score further "
        "down means that something scored higher.",
        markdown_table(["gallery", "of", *(f"{10 * tenth} to {10 * tenth + 10} %" for tenth in range(BINS))], curves),
        "## Galleries unlike the calibration's",
        f"Calibrated on all images of the first world, {NUM_IMAGES:,}; promised 10 %. `probes`: of 100 of the "
        f"calibration's queries, how many score the image at rank {PLACE} above the calibration's median; from 20 to "
        "80 nothing is said. What the gallery is full of because users ask for it (more people in the very clothes "
        "asked for) cannot be seen: calibrate on queries like the users'.",
        markdown_table(["gallery", "images", "false alarms (%)", "probes (%)", "told"], record["unlike"]),
    ]
    return "\n\n".join(parts) + "\n"


def _promise(rate: str, found: dict) -> list[str]:
    promised = f"{100 * float(rate):g} %"
    if "refused" in found:
        return [promised, "refused", "", "", ""]
    return [
        promised,
        told(found["far"]),
        f"{found['worst']:.1f}",
        told(found["dir"]),
        f"{found['far_unscaled'][0]:.1f}",
    ]


def draw(record: dict, file: Path) -> None:
    """Left: rates promised and measured by gallery size. Right: reliability."""
    with chart(file, figsize=(10.5, 4.2)) as figure:
        left, right = figure.subplots(1, 2)
        rates = [100 * rate for rate in RATES]
        for shift, (size, colour) in enumerate(zip(SIZES, (TEAL, BLUE, VERMILION), strict=True)):
            found = [record["promises"]["300"][str(size)].get(f"{rate:g}", {}) for rate in RATES]
            kept = [(rate, one["far"]) for rate, one in zip(rates, found, strict=True) if "far" in one]
            places = [rate * 1.05 ** (shift - 1) for rate, _ in kept]  # beside each other
            middle, low, high = zip(*(far for _, far in kept), strict=True)
            low = [max(0.05, end) for end in low]
            left.vlines(places, low, high, color=colour, linewidth=1.5)
            left.plot(places, middle, "o-", color=colour, markersize=4, label=f"{size:,} images")
        unscaled = [record["promises"]["300"]["3000"][f"{rate:g}"]["far_unscaled"][0] for rate in RATES]
        left.plot(rates, unscaled, "x--", color=GREY, linewidth=1, label="3,000, with the cut-off for 300")
        left.plot(rates, rates, color=GREY, linewidth=1, linestyle=":")
        left.set(xscale="log", yscale="log", xlabel="false alarms promised (%)", ylabel="measured (%)")
        left.set_title("Calibrated on 300 images of another world")
        for axis in (left.xaxis, left.yaxis):
            axis.set_major_formatter(lambda share, _: f"{share:g}")
        left.legend(fontsize=8.5, loc="lower right")
        for size, colour in (("300", TEAL), ("3000", VERMILION)):
            bins = record["reliability"][size]["results"]
            points = [(100 * one["probability"], 100 * one["share"]) for one in bins]
            right.plot(*zip(*points, strict=True), "o-", color=colour, markersize=4, label=f"{int(size):,} images")
        right.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle=":")
        right.set(xlabel="probability told (%)", ylabel="results that are matches (%)", xlim=(0, 100), ylim=(0, 100))
        right.set_title("First ten results of every query")
        right.legend(fontsize=8.5, loc="lower right")


def main() -> None:
    """Paint, encode, calibrate, test, write the page."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for worlds and features; a rerun goes on")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the record, the page and its picture")
    parser.add_argument("--seeds", type=int, nargs="+", default=[301, 302, 303, 304], help="of the worlds, two or more")
    arguments = parser.parse_args()
    start = time.process_time()
    model, processor = load_model(TINY_CHECKPOINT)
    worlds = [read_world(arguments.work, str(seed), seed, model, processor) for seed in arguments.seeds]
    record = json.loads(json.dumps(record_of(worlds, arguments, model, processor, start)))  # all keys are texts
    write_pages(arguments.output, "open_set", record, to_markdown, draw)


if __name__ == "__main__":
    main()
