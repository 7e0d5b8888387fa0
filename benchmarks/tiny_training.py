"""What a training step of the tiny model costs, and what helps: kept memory, waiting threads, the optimiser, the loader.

    python benchmarks/tiny_training.py [--before COMMIT] [--rounds 5]      # some minutes on two idle cores

Each row is examples/configs/world.yaml (batches of 128, from random weights, with whole captions), 4 steps to warm up and
12 that are measured, in a process of its own. The rows take turns, in the other order in every second round, and ratios
are medians of those within a round, so that they hold on a machine that others use as well. CPU time is that of all
threads. Before is the package as it was at that commit, taken from git.

A last process tells where the CPU time of a step goes. Results go to benchmarks/results/tiny_training.json and
tiny_training.md.
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from statistics import median

RESULTS, ROOT = Path(__file__).parent / "results", Path(__file__).parents[1]
WARM, MEASURED = 4, 12
PASSIVE = {"OMP_WAIT_POLICY": "passive"}
# Of each row: the environment, options of the run, and what is switched off in the package.
ROWS: dict[str, tuple[dict[str, str], list[str], list[str]]] = {
    "now": (PASSIVE, [], []),
    "memory given back after every step": (PASSIVE, [], ["keep_memory"]),
    "threads that spin while they wait": ({}, [], []),
    "an optimiser that takes tensor after tensor": (PASSIVE, ["--optim", "adamw_torch"], []),
    "images read and resized anew": (PASSIVE, ["--cache_images", "false"], []),
}
COSTS = ("CPU seconds", "seconds", "page faults")


def options_of(world: Path, output: Path) -> list[str]:
    """Settings of a run that is only measured."""
    config = ["--config", str(ROOT / "examples/configs/world.yaml"), "--data_dir", str(world / "SynCPR")]
    saved = ["--save_strategy", "no", "--eval_strategy", "no", "--logging_strategy", "no", "--disable_tqdm", "true"]
    return [*config, *saved, "--output_dir", str(output), "--max_steps", str(WARM + MEASURED)]


def make_run(options: list[str]):
    """A trainer, as `fafa train` makes it."""
    from fafa.training import run
    from fafa.training.options import read_options

    given, training, recipe = read_options(options)
    run.start(given, training)
    sets = run.read_sets(given, training)
    return run.make_trainer(given, training, recipe, *run.make_model(given, sets[0]), *sets)


def spent() -> tuple[float, float, int]:
    """CPU seconds, seconds and page faults of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime, time.perf_counter(), usage.ru_minflt


def measure_steps(options: list[str], switched_off: list[str]) -> dict[str, float]:
    """What a step costs, without the first ones."""
    from transformers import TrainerCallback

    import fafa.training.run as steps

    for name in switched_off:
        setattr(steps, name, lambda: None)
    trainer, noted = make_run(options), []

    class Note(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            noted.append(spent())

    trainer.add_callback(Note())
    trainer.train()
    first, last = noted[WARM - 1], noted[-1]
    return {name: (b - a) / MEASURED for name, a, b in zip(COSTS, first, last, strict=True)}


def measure_parts(options: list[str]) -> dict[str, float]:
    """CPU seconds of the parts of a step: the batch, forward and backward pass with its operations, the optimiser."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    trainer = make_run(options)
    trainer.create_optimizer_and_scheduler(WARM + MEASURED)
    model, batches, parts = trainer.model, iter(trainer.get_train_dataloader()), {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        parts.setdefault(name, []).append(time.process_time() - start)

    def step() -> None:
        with timed("the batch: augmented images, words"):
            batch = next(batches)
        with timed("forward and backward pass"):
            trainer.training_step(model, batch)
        with timed("gradient norm, optimiser"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            trainer.optimizer.step()
            model.zero_grad()

    for _ in range(WARM):
        step()
    parts.clear()
    for _ in range(4):
        step()
    found = {name: median(times) for name, times in parts.items()}
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step()
    operations = {entry.key: entry for entry in profiled.key_averages() if entry.key.startswith("aten::")}
    whole = sum(entry.self_cpu_time_total for entry in operations.values())
    products = sum(operations[name].self_cpu_time_total for name in ("aten::mm", "aten::addmm", "aten::bmm") if name in operations)
    return found | {
        "share of matrix products in operations": products / whole,
        "operations": sum(entry.count for entry in operations.values()),
    }


def call(what: list, package: Path, environment: dict[str, str]) -> dict[str, float]:
    """What a process of its own measures, with the package of a folder."""
    run = subprocess.run(
        [sys.executable, __file__, "--measure", json.dumps(what)],
        env={name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        | environment
        | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(package)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(run.stdout.splitlines()[-1])
