"""Cells of a table over methods: a training run and its report each, kept, so that a stopped table goes on.

A cell is the commands that a user would type, `examples/train.py` and `examples/evaluate_itcpr.py`, on one core. What
is done is not done again; a cell of other commands in the same folder is refused.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scoring import processor_name

from fafa.drawing.palette import AMBER, BLUE, GREEN, PINK, RED, TEAL, VERMILION
from fafa.evaluation import EvaluationReport
from fafa.evaluation.intervals import NUM_RESAMPLES, two_sided_p
from fafa.evaluation.report_folder import read_report
from fafa.files import read_json, write_json, write_whole
from fafa.world import make_world

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
COLOURS = (BLUE, VERMILION, TEAL, PINK, AMBER, GREEN, RED)
# Harder than the world of `make train-world`: a gallery four times as large, three look-alikes for each query instead
# of two, wrong captions in training, and images that are blurred or partly hidden, in training and test.
HARD = {"num_queries": 300, "gallery_size": 2_200, "look_alikes": 3, "spoilt": 0.1, "seed": 0}
NUM_DIPTYCHS, CAPTION_NOISE = 6_000, 0.1


@dataclass(frozen=True)
class Cell:
    """What to run.

    Args:
        name: of its folder.
        stages: settings of `examples/train.py`, one run after the other; "{cell}" stands for the cell's folder. The
            last one's `output_dir` is "{cell}/model", which is evaluated.
        world: name of the world, see `paint`.
        evaluated: whether the model is evaluated on the world's test set.
        more: further commands, from the script on; "{cell}" and "{world}" stand for their folders.
    """

    name: str
    stages: tuple[Mapping[str, Any], ...]
    world: str = "hard"
    evaluated: bool = True
    more: tuple[str, ...] = ()

    def commands(self, work: Path) -> list[list[str]]:
        """As a user would type them, in the folder `work`."""
        folder, world = f"cells/{self.name}", f"worlds/{self.world}"
        typed = []
        for stage in self.stages:
            settings = {"data_dir": f"{world}/SynCPR", **stage}
            options = [[f"--{name}", _typed(value, folder)] for name, value in settings.items()]
            typed.append(["examples/train.py", *(word for option in options for word in option)])
        if self.evaluated:
            options = f"--model {folder}/model --data {world}/ITCPR --output {folder}/results --no-pictures"
            typed.append(["examples/evaluate_itcpr.py", *options.split()])
        return typed + [line.format(cell=folder, world=world).split() for line in self.more]

    def run(self, work: Path) -> None:
        """Runs what has not run yet.

        Raises:
            SystemExit: a command failed, or the folder holds a cell of other commands.
        """
        folder = work / "cells" / self.name
        folder.mkdir(parents=True, exist_ok=True)
        record = folder / "done.json"
        done = read_json(record) if record.exists() else []
        commands = self.commands(work)
        if [entry["command"] for entry in done] != commands[: len(done)]:
            raise SystemExit(
                f"{folder} holds a cell of other commands (done.json): delete it, or choose another --work"
            )
        for number in range(len(done), len(commands)):
            log = folder / f"{number}.log"
            with log.open("w") as stream:
                script, *options = commands[number]
                process = subprocess.Popen(
                    [sys.executable, str(ROOT / script), *options],
                    cwd=work,
                    stdout=stream,
                    stderr=stream,
                    # One thread: a result does not depend on how many cores a machine has.
                    env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_MININTERVAL": "10"},
                )
                _, status, used = os.wait4(process.pid, 0)
            if status:
                last = log.read_text(errors="replace")[-1000:]
                raise SystemExit(f"{self.name}: {' '.join(commands[number])} failed, see {log}:\n{last}")
            done.append({"command": commands[number], "cpu_seconds": round(used.ru_utime + used.ru_stime, 1)})
            write_json(record, done)


def _typed(value: Any, folder: str) -> str:
    text = json.dumps(value) if isinstance(value, Mapping) else str(value)
    return text.replace("{cell}", folder)


def paint(work: Path, name: str = "hard", caption_noise: float = CAPTION_NOISE) -> Path:
    """A hard world in `work`/worlds; their test sets are the same images, whatever the training set."""
    return make_world(work / "worlds" / name, num_diptychs=NUM_DIPTYCHS, caption_noise=caption_noise, **HARD)


def derive_world(work: Path, name: str, base: str, triplets: Sequence[Mapping[str, Any]]) -> Path:
    """Another world of the same images, whose training set is these records."""
    folder, of = work / "worlds" / name, work / "worlds" / base
    for link, target in (("SynCPR/test2", of / "SynCPR/test2"), ("ITCPR", of / "ITCPR")):
        (folder / link).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / link).exists():
            (folder / link).symlink_to(target.resolve())
    write_json(folder / "SynCPR/SynCPR.json", list(triplets))
    return folder


def run_cells(work: Path, cells: Iterable[Cell], jobs: int) -> None:
    """Runs cells, `jobs` at a time; those that fail are told at the end, and the others are kept.

    Raises:
        SystemExit: cells failed.
    """

    def run(cell: Cell) -> str | None:
        try:
            cell.run(work)
        except SystemExit as stop:
            return str(stop)
        print(f"{cell.name}: done", flush=True)
        return None

    with ThreadPoolExecutor(jobs) as pool:
        failed = [message for message in pool.map(run, cells) if message is not None]
    if failed:
        raise SystemExit("\n".join(failed))


def cpu_hours(work: Path, cells: Iterable[Cell]) -> float:
    """Of all commands of these cells."""
    records = [read_json(work / "cells" / cell.name / "done.json") for cell in cells]
    return sum(entry["cpu_seconds"] for done in records for entry in done) / 3600


def read_reports(work: Path, cells: Iterable[Cell], folder: str = "results") -> list[EvaluationReport]:
    """Of cells of the same settings, one for each seed."""
    return [read_report(work / "cells" / cell.name / folder) for cell in cells]


def query_values(reports: Sequence[EvaluationReport], mode: str, metric: str = "mAP") -> np.ndarray:
    """A metric of each query, percent: `(num_reports, num_queries)`, a row for each seed."""
    return 100 * np.stack([report.results(mode).per_query(report.ks)[metric].numpy() for report in reports])


def interval(values: np.ndarray, seed: int = 0) -> list[float]:
    """Mean of `(num_seeds, num_queries)` and both ends of its 95 % interval: seeds and queries are sampled, both.

    So it says what other training runs and other queries of the same kind could give. With few seeds it is too narrow.
    """
    return _rounded([values.mean(), *np.percentile(_resampled(values, seed), [2.5, 97.5])])


def paired_test(first: np.ndarray, second: np.ndarray, seed: int = 0) -> list[float]:
    """The mean of second - first, `(num_seeds, num_queries)` each, both ends of its 95 % interval, and p, two-sided.

    Seeds and queries are sampled with replacement, the same ones for both.
    """
    means = _resampled(second - first, seed)
    return _rounded([(second - first).mean(), *np.percentile(means, [2.5, 97.5]), two_sided_p(means)])


def _rounded(numbers: Iterable[float]) -> list[float]:
    return [round(float(number), 4) for number in numbers]


def _resampled(values: np.ndarray, seed: int) -> np.ndarray:
    """Means of resamples, `(NUM_RESAMPLES,)`."""
    rng = np.random.default_rng(seed)
    num_seeds, num_queries = values.shape
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=NUM_RESAMPLES) / num_seeds
    queries = rng.multinomial(num_queries, np.full(num_queries, 1 / num_queries), size=NUM_RESAMPLES) / num_queries
    return ((seeds @ values) * queries).sum(axis=1)


def told(found: Sequence[float]) -> str:
    """Of `interval`, for a table."""
    return "{:.1f} ({:.1f} to {:.1f})".format(*found)


def told_difference(found: Sequence[float] | None) -> list[str]:
    """Of `paired_test`, two cells of a table: difference with interval, and p; None leaves them empty."""
    if found is None:
        return ["", ""]
    *difference, p = found
    return ["{:+.1f} ({:+.1f} to {:+.1f})".format(*difference), "< 0.001" if p < 0.001 else f"{p:.3f}"]


def facts(script: str, seeds: Sequence[int], hours: float) -> dict[str, Any]:
    """What every record begins with."""
    return {
        "date": date.today().isoformat(),
        "command": f"python benchmarks/{script} --work DIR --seeds {' '.join(map(str, seeds))}",
        "processor": processor_name(),
        "torch": torch.__version__,
        "seeds": list(seeds),
        "cpu_hours": round(hours, 2),
    }


def heading(title: str, record: Mapping[str, Any]) -> list[str]:
    """The first paragraphs of a page."""
    return [
        f"# {title}",
        f"{record['date']}, {record['processor']}, torch {record['torch']}: `{record['command']}`. "
        f"{record['cpu_hours']:.1f} CPU-hours of training and evaluation, on one core a run.",
    ]


def seeds_told(seeds: Sequence[int]) -> str:
    """ "Seeds 0, 1, 2", as a page begins."""
    return f"Seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"


def few(seeds: Sequence[int]) -> str:
    """What a page says of its intervals where seeds are few."""
    if len(seeds) == 1:
        return " (of one seed: they are of queries alone)"
    return " (with so few seeds they are too narrow)" if len(seeds) < 5 else ""


def write_pages(
    folder: Path,
    name: str,
    record: Mapping[str, Any],
    to_markdown: Callable[[Mapping[str, Any]], str],
    draw: Callable[[Mapping[str, Any], Path], None],
) -> None:
    """Writes NAME.png, NAME.json and NAME.md, and prints the page."""
    draw(record, folder / f"{name}.png")
    page = to_markdown(record)
    write_whole(folder / f"{name}.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    write_whole(folder / f"{name}.md", page)
    print(page)


def options(doc: str, seeds: Sequence[int] = (0, 1, 2)) -> argparse.ArgumentParser:
    """Of every script over cells."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for worlds, models and reports; a rerun goes on"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the record, the page and its picture")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cells at a time, one core each")
    return parser
