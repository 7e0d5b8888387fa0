"""How good the filter is on painted pictures, three in ten of them wrong: precision, and recall of each kind of fault.

    python benchmarks/filtering.py --work /tmp/filtering                # 10 minutes on one core

Two data sets are painted, by seed 0 and by seed 1. Bounds are found on the first, as `fafa.synthesis.calibrate` finds
them, with the painter's truth in place of a person's verdicts; everything that is reported is of the second. Pixel
gates and the stand-in judge look at pixels and captions only. Results go to benchmarks/results/filtering.json and
filtering.md.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
from scoring import processor_name

from fafa.synthesis.components import REJECTED
from fafa.synthesis.filtering.calibration import (
    Outcome,
    Pair,
    Verdict,
    find_thresholds,
    measure,
    read_pairs,
    sample_pairs,
)
from fafa.synthesis.filtering.calibration_report import auc, recipe_of, score_names
from fafa.synthesis.filtering.thresholds import DIRECTIONS, Thresholds, concerns
from fafa.synthesis.settings import read_settings
from fafa.synthesis.stages import Workspace, run_stages
from fafa.synthesis.stand_ins.diptychs import FAULTS
from fafa.synthesis.triplets.pipeline import TripletRecipe
from fafa.tables import markdown_table

RESULTS = Path(__file__).parent / "results"
FAULT_RATE = 0.3
PRECISION, GATES_PRECISION = 0.95, 0.77  # gates see bad pictures alone; to ask more of them costs good ones
FEW_PAIRS = 200  # as many as `calibrate` asks a person to judge


def recipe(seed: int, quadruples: int) -> TripletRecipe:
    """The painter's recipe with all pixel gates and without bounds: every pair is judged."""
    settings = {
        "quadruples": {"count": quadruples, "writer": {"kind": "grammar"}},
        "diptychs": {"realistic": 1, "diverse": 1, "painter": {"kind": "world", "fault_rate": FAULT_RATE}},
        "split": {"aspect": 0.5},
        "gates": [{"kind": kind} for kind in ("blank", "blur", "aspect", "twin", "seam")],
        "judge": {"kind": "onlooker"},
        "seed": seed,
        "chunk_size": 100,
    }
    return read_settings(TripletRecipe, settings, "benchmark")


def make(folder: Path, seed: int, quadruples: int) -> tuple[Workspace, dict[str, float]]:
    """Paint, cut and measure; returns where, and the seconds of each stage (of this call alone: it resumes)."""
    settings = recipe(seed, quadruples)
    work = Workspace(folder, settings.num_chunks)
    stages, seconds = settings.stages(), {}
    for number, stage in enumerate(stages, start=1):
        started = time.perf_counter()
        run_stages(stages[:number], work)
        seconds[stage.name] = round(time.perf_counter() - started, 1)
        if stage.name == "judgements":
            break
    return work, seconds


def truth_of(work: Workspace) -> dict[str, str | None]:
    """By the id of a diptych, what is wrong with it."""
    return {record["id"]: record["fault"] for record in work.records("diptychs")}


def verdicts_of(pairs: Sequence[Pair], truth: dict[str, str | None]) -> list[Verdict]:
    """What somebody would say who knows the truth."""
    return [
        Verdict(pair, direction, truth[pair.record["id"]] is None, truth[pair.record["id"]] or "")
        for pair in pairs
        for direction in DIRECTIONS
    ]


def only(verdicts: Sequence[Verdict], names: Sequence[str]) -> list[Verdict]:
    """The verdicts on pairs that have these scores alone."""
    return [
        Verdict(
            Pair(verdict.pair.record, {name: score for name, score in verdict.pair.scores.items() if name in names}),
            verdict.direction,
            verdict.good,
            verdict.reason,
        )
        for verdict in verdicts
    ]


def summary(outcome: Outcome, lost_good: int) -> dict:
    """Counts and shares; `lost_good`: good triplets that could not be cut apart."""
    return {
        "kept": outcome.kept,
        "precision": outcome.precision,
        "recall": outcome.kept_good / (outcome.good + lost_good),
        "kept_by_fault": {reason: kept for reason, (_, kept) in outcome.by_reason.items()},
    }


def separation(name: str, fault: str, verdicts: Sequence[Verdict]) -> float | None:
    """AUC of a score, good triplets against those of one fault; None if none of these could be cut apart."""
    some = [
        (verdict.pair.scores[name], verdict.good)
        for verdict in verdicts
        if name in verdict.pair.scores and concerns(name, verdict.direction) and verdict.reason in ("", fault)
    ]
    values, good = (np.array(column) for column in zip(*some, strict=True))
    return None if good.all() else auc(values, good)


def run(folder: Path, quadruples: int) -> dict:
    """Make both data sets, find bounds on the first, measure them on the second."""
    first, second = (make(folder / f"seed-{seed}", seed, quadruples) for seed in (0, 1))
    learned = verdicts_of(read_pairs(first[0].root), truth_of(first[0]))
    truth = truth_of(second[0])
    pairs = read_pairs(second[0].root)
    unseen = verdicts_of(pairs, truth)
    uncut = Counter(truth[record["id"]] for record in second[0].records("split") if REJECTED in record)
    gate_names = list(dict.fromkeys(name for record in second[0].records("gates") for name in record["scores"]))

    few = {pair.record["id"] for pair in sample_pairs([verdict.pair for verdict in learned[::2]], FEW_PAIRS)}
    ways = {
        "the cut alone": Thresholds(),
        f"gates, for {GATES_PRECISION:g}": find_thresholds(only(learned, gate_names), GATES_PRECISION),
        f"gates and judge, {2 * FEW_PAIRS} verdicts": find_thresholds(
            [verdict for verdict in learned if verdict.pair.record["id"] in few], PRECISION
        ),
        f"gates and judge, {len(learned):,} verdicts": find_thresholds(learned, PRECISION),
    }
    lost_good = len(DIRECTIONS) * uncut[None]
    return {
        "date": date.today().isoformat(),
        "processor": processor_name(),
        "quadruples": quadruples,
        "diptychs": len(truth),
        "fault_rate": FAULT_RATE,
        "wanted_precision": PRECISION,
        "painted_by_fault": {str(fault): count for fault, count in Counter(truth.values()).items()},
        "uncut_by_fault": {str(fault): count for fault, count in uncut.items()},
        "seconds": second[1],
        "results": {name: summary(measure(bounds, unseen), lost_good) for name, bounds in ways.items()},
        "bounds": {name: recipe_of(bounds) for name, bounds in ways.items()},
        "auc": {name: {fault: separation(name, fault, unseen) for fault in FAULTS} for name in score_names(unseen)},
    }


def to_markdown(record: dict) -> str:
    """The record as a page."""
    painted, uncut, results = record["painted_by_fault"], record["uncut_by_fault"], record["results"]
    num_good, best = 2 * painted["None"], list(results)[-1]
    lines = [
        "# The filter on painted pictures with known faults",
        "",
        f"{record['date']}, {record['processor']}. {record['diptychs']:,} diptychs of {record['quadruples']:,} "
        f"quadruples, {100 * record['fault_rate']:.0f} % painted wrongly on purpose, in five ways. Bounds were found "
        f"for a precision of {record['wanted_precision']:g} on as many other diptychs, of another seed. A triplet is a "
        f"diptych in one direction; {num_good:,} of {2 * record['diptychs']:,} are good.",
        "",
        markdown_table(
            ["", "kept", "precision", "recall"],
            [
                [name, f"{found['kept']:,}", f"{100 * found['precision']:.1f} %", f"{100 * found['recall']:.1f} %"]
                for name, found in results.items()
            ],
        ),
        "",
        "Recall counts the good triplets that could not be cut apart "
        f"({2 * uncut.get('None', 0):,} of {num_good:,}) as lost.",
        "",
        "## By kind of fault",
        "",
        "Share of the faulty triplets that are rejected; in brackets the precision that would be left if this were the "
        "only kind.",
        "",
    ]
    rows = []
    for fault in FAULTS:
        total, cells = 2 * painted.get(fault, 0), []
        for result in results.values():
            kept = result["kept_by_fault"].get(fault, 0)
            good = result["recall"] * num_good
            cells.append(f"{100 * (1 - kept / total):.1f} % ({100 * good / (good + kept):.1f} %)" if total else "-")
        rows.append([fault, f"{total:,}", *cells])
    lines += [markdown_table(["fault", "triplets", *results], rows)]
    lines += ["", "## Scores", "", "AUC against each kind of fault: 1 if every good triplet scores higher.", ""]
    rows = [
        [name, *("-" if value is None else f"{value:.2f}" for value in row.values())]
        for name, row in record["auc"].items()
    ]
    lines.append(markdown_table(["score", *FAULTS], rows))
    lines += ["", f"## Bounds: {best}", "", "```yaml", record["bounds"][best].rstrip(), "```"]
    times = ", ".join(f"{name} {seconds:g}" for name, seconds in record["seconds"].items())
    lines += ["", f"Seconds per stage for the second data set: {times}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run, write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the two data sets; what is there is reused"
    )
    parser.add_argument("--quadruples", type=int, default=500, help="per data set, two diptychs each")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    record = run(arguments.work, arguments.quadruples)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "filtering.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (arguments.output / "filtering.md").write_text(to_markdown(record), encoding="utf-8")
    print(to_markdown(record))


if __name__ == "__main__":
    main()
