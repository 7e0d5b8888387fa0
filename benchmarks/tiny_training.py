"""What a training step of the tiny model costs, and what helps: kept memory, the optimiser, attention, kept images.

    python benchmarks/tiny_training.py [--rounds 5]      # ten minutes on two idle cores

Each row is examples/configs/world.yaml (batches of 128, random weights, whole captions): 4 steps to warm up and 12 that
are measured, by the Trainer in a process of its own. Rows take turns, in the other order in every second round; a ratio
is the median over rounds of a row against "now" in the same round, so that it holds on a machine that others use as
well. torch has one thread: how long several wait for one another depends on what else runs. A last process tells where
the CPU time of a step goes.

Results go to benchmarks/results/tiny_training.json and tiny_training.md.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import mean, median

from scoring import processor_name

RESULTS, ROOT = Path(__file__).parent / "results", Path(__file__).parents[1]
WARM, MEASURED = 4, 12
# Of each row: options of the run, and what is switched off in the package.
ROWS: dict[str, tuple[list[str], list[str]]] = {
    "now": ([], []),
    "memory is given back after every step": ([], ["keep_memory"]),
    "the optimiser takes one tensor after another": (["--optim", "adamw_torch"], []),
    "attention without a fused kernel": (
        ["--model_options", '{"fda_alpha": 0.0, "attn_implementation": "eager"}'],
        [],
    ),
    "images are read and resized anew": (["--cache_images", "false"], []),
}
COSTS = ("CPU seconds", "seconds", "page faults")
PARTS = {"begin": "the batch: images, augmentation, words", "pre": "forward and backward pass, gradient norm",
         "optimised": "optimiser", "end": "schedule, log, callbacks"}  # fmt: skip


def options_of(world: Path, output: Path) -> list[str]:
    """Settings of a run that is only measured."""
    config = ["--config", str(ROOT / "examples/configs/world.yaml"), "--data_dir", str(world / "SynCPR")]
    saved = ["--save_strategy", "no", "--eval_strategy", "no", "--logging_strategy", "no", "--disable_tqdm", "true"]
    steps = ["--max_steps", str(WARM + MEASURED), "--resume_from_checkpoint", "false"]
    return [*config, *saved, *steps, "--output_dir", str(output)]


def spent() -> tuple[float, float, int]:
    """CPU seconds, seconds and page faults of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime, time.perf_counter(), usage.ru_minflt


def measure(options: list[str], switched_off: list[str], is_profiled: bool) -> dict[str, float]:
    """What a step costs, without the first ones; of a profiled run its parts, and what its operations are."""
    from torch.profiler import ProfilerActivity, profile
    from transformers import TrainerCallback

    from fafa.training import run
    from fafa.training.options import read_options

    for name in switched_off:
        setattr(run, name, lambda: None)
    given, training, recipe = read_options(options)
    run.start(given, training)
    sets = run.read_sets(given, training)
    trainer = run.make_trainer(given, training, recipe, *run.make_model(given, sets[0]), *sets)
    noted, profiler = [("end", spent())], profile(activities=[ProfilerActivity.CPU])

    class Note(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            noted.append(("begin", spent()))

        def on_pre_optimizer_step(self, *args, **kwargs):
            noted.append(("pre", spent()))

        def on_optimizer_step(self, *args, **kwargs):
            noted.append(("optimised", spent()))

        def on_step_end(self, args, state, *others, **kwargs):
            noted.append(("end", spent()))
            if is_profiled and state.global_step == WARM + MEASURED - 1:
                profiler.start()

    trainer.add_callback(Note())
    trainer.train()
    if not is_profiled:
        ends = [costs for name, costs in noted if name == "end"]
        found = zip(COSTS, ends[WARM], ends[-1], strict=True)
        memory = {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
        return {name: (last - first) / MEASURED for name, first, last in found} | memory
    profiler.stop()
    steps = range(4 * WARM + 1, 4 * (WARM + MEASURED - 1) + 1)
    parts = {
        part: [noted[i][1][0] - noted[i - 1][1][0] for i in steps if noted[i][0] == name]
        for name, part in PARTS.items()
    }
    kinds = {entry.key: entry for entry in profiler.key_averages() if entry.key.startswith("aten::")}
    products = sum(
        kinds[f"aten::{name}"].self_cpu_time_total for name in ("mm", "addmm", "bmm") if f"aten::{name}" in kinds
    )
    return {part: mean(times) for part, times in parts.items()} | {
        "share of matrix products": products / sum(kind.self_cpu_time_total for kind in kinds.values()),
        "operations": sum(kind.count for kind in kinds.values()),
    }


def call(row: str, world: Path, is_profiled: bool = False) -> dict[str, float]:
    """What a process of its own measures."""
    options, switched_off = ROWS[row]
    with tempfile.TemporaryDirectory(prefix="fafa-training-") as output:
        what = json.dumps([[*options_of(world, Path(output)), *options], switched_off, is_profiled])
        command = [sys.executable, __file__, "--measure", what]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def to_markdown(record: dict) -> str:
    """The record as a page."""
    from fafa.tables import markdown_table

    rows = []
    for name, rounds in record["rows"].items():
        ratios = [
            median(one[cost] / now[cost] for one, now in zip(rounds, record["rows"]["now"], strict=True))
            for cost in COSTS[:2]
        ]
        cells = [f"{median(one[cost] for one in rounds):.2f}" for cost in COSTS[:2]]
        cells += [f"{median(one['page faults'] for one in rounds):,.0f}", f"{max(one['memory'] for one in rounds):.2f}"]
        rows.append([name, cells[0], f"{ratios[0]:.2f}", cells[1], f"{ratios[1]:.2f}", *cells[2:]])
    parts = dict(record["parts"])
    share, operations = parts.pop("share of matrix products"), parts.pop("operations")
    header = ["a step of batch 128", "CPU s", "ratio", "s", "ratio", "page faults", "most memory, GiB"]
    return f"""# What a training step of the tiny model costs

{record["date"]}, {record["processor"]}, {record["cores"]} cores (load average before it began: \
{record["load_average"]:.1f}), torch {record["torch"]} with one thread: `{record["command"]}`

Medians of {len(record["rows"]["now"])} rounds; ratios are medians of those to "now" within a round.

{markdown_table(header, rows)}

Where the CPU time of a step goes now; {share:.0%} of the time of its {operations:,} operations are matrix products:

{markdown_table(["part", "CPU s"], [[part, f"{seconds:.3f}"] for part, seconds in parts.items()])}
"""


def main() -> None:
    """Paint a world, measure, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*json.loads(arguments.measure))))
        return

    import torch

    from fafa.world import make_world

    rows, load = {name: [] for name in ROWS}, os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="fafa-training-") as folder:
        world = make_world(Path(folder, "world"), num_diptychs=300, num_queries=1, gallery_size=10)
        for turn in range(arguments.rounds):
            for name in list(ROWS)[:: -1 if turn % 2 else 1]:
                rows[name].append(call(name, world))
        parts = call("now", world, is_profiled=True)
    record = {
        "date": date.today().isoformat(),
        "command": f"python benchmarks/tiny_training.py --rounds {arguments.rounds}",
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": load,
        "torch": torch.__version__,
        "rows": rows,
        "parts": parts,
    }
    (arguments.output / "tiny_training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (arguments.output / "tiny_training.md").write_text(to_markdown(record), encoding="utf-8")
    print(to_markdown(record))


if __name__ == "__main__":
    main()
