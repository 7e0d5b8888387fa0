"""Every long command, stopped, starved and doubled: is the result the same, is a process left, is there a traceback?

    python benchmarks/fault_runs.py --work /tmp/faults            # half an hour on two cores
    python benchmarks/fault_runs.py --work /tmp/faults --jobs search verify --faults "full disk"

The commands are those of README on a painted world of 60 people: painting it, training, evaluation, search with an
index, verify, export, and synthesis. Each first runs undisturbed. Then it runs under each fault, and after the fault
the same command runs again to its end; what it made must equal the undisturbed run's.

    kill -9             SIGKILL to the command's first process, at a random moment
    Ctrl-C              SIGINT to all its processes, at a random moment
    SIGTERM             to the first process, at a random moment
    full disk           the output lies on a disk that is full after a part of what it needs; then there is room
    two processes       the same command twice at the same time
    64 descriptors      no more than 64 open files
    no TMPDIR           TMPDIR names a folder that is not there
    64 MB shared        /dev/shm holds 64 MB, as in a container

Full disks and small shared memory need the right to mount (root on Linux); without it those rows say so.
Results go to benchmarks/results/fault_runs.json and fault_runs.md.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import NamedTuple

from scoring import processor_name

import fafa
from fafa.tables import markdown_table
from fafa.workers import num_cores

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
DESCRIPTORS, SHARED_MEMORY = 64, "64m"
DISKS = (0.2, 0.7)  # of what the undisturbed run wrote
PATIENCE = 900  # seconds after which a command counts as hanging
GRACE = 15  # seconds in which processes of a command that ended may end, too
SIGNALS = ("kill -9", "Ctrl-C", "SIGTERM")
NEED_MOUNT = ("full disk", "64 MB shared")
FAULTS = [*SIGNALS, "full disk", "two processes", "64 descriptors", "no TMPDIR", "64 MB shared"]


class Job(NamedTuple):
    """One command.

    Args:
        arguments: of Python, `{out}` being the folder that it writes.
        results: what must come out the same, from the folder and what the command printed.
    """

    arguments: list[str]
    results: Callable[[Path, str], object]


class Outcome(NamedTuple):
    """How one run of a command ended.

    Args:
        status: of the exit; negative for a signal, None if it hung and was killed.
        output: standard output; errors: standard error.
        left: the processes that were still there some seconds after its end.
    """

    status: int | None
    output: str
    errors: str
    left: list[int]

    @property
    def has_traceback(self) -> bool:
        """Whether a user saw one."""
        return "Traceback (most recent call last)" in self.output + self.errors


def files_of(*patterns: str) -> Callable[[Path, str], dict]:
    """A hash of every file of these patterns."""

    def read(root: Path, output: str) -> dict[str, str]:
        files = sorted({path for pattern in patterns for path in root.glob(pattern) if path.is_file()})
        if not files:
            raise FileNotFoundError(f"nothing in {root} is called {patterns}")
        return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return read


def report_in(name: str, *leave_out: str) -> Callable[[Path, str], object]:
    """A JSON report, without what may differ between runs."""
    return lambda root, output: _without(json.loads((root / name).read_text(encoding="utf-8")), set(leave_out))


def printed_table(root: Path, output: str) -> list[str]:
    """The ranked results that a search printed."""
    return [line for line in output.splitlines() if not line.startswith("picture:")]


def _without(value, names: set[str]):
    if isinstance(value, dict):
        return {key: _without(one, names) for key, one in value.items() if key not in names}
    return [_without(one, names) for one in value] if isinstance(value, list) else value


def jobs(world: Path) -> dict[str, Job]:
    """The commands; those after the first read the undisturbed world."""
    tiny, itcpr, syncpr = str(fafa.TINY_CHECKPOINT), str(world / "ITCPR"), str(world / "SynCPR")
    train = {
        "config": ROOT / "examples/configs/world.yaml",
        "data_dir": syncpr,
        "output_dir": "{out}",
        "max_steps": 12,
        "max_validation_triplets": 32,
        "batch_size": 16,
        "per_device_eval_batch_size": 16,
        "caption_steps": 3,
        "contrastive_steps": 6,
        "eval_steps": 3,
        "save_steps": 3,
        "dataloader_num_workers": 2,
        "cache_images": "false",
    }
    options = [text for name, value in train.items() for text in (f"--{name}", str(value))]
    query = ["--model", tiny, "--gallery", itcpr, "--caption", "in a red coat", "--top", "20", "--num-workers", "2"]
    evaluate = ["--model", tiny, "--data", itcpr, "--num-workers", "2", "--no-pictures"]
    export = ["-m", "fafa.dataset_builders.export", "SynCPR"]
    return {
        "world": Job(
            ["examples/make_world.py", "--diptychs", "240", "--queries", "30", "--gallery", "400", "--output", "{out}"],
            files_of("*/**/*"),
        ),
        "evaluation": Job(
            ["examples/evaluate_itcpr.py", *evaluate, "--features", "{out}/features", "--output", "{out}/results"],
            report_in("results/results.json", "date", "seconds", "features_dir"),
        ),
        "search": Job(
            ["examples/query.py", *query, "--index", "{out}/index", "--output", "{out}/result.png"], printed_table
        ),
        "verify": Job(
            ["-m", "fafa.verify", syncpr, "--output", "{out}", "--num-workers", "2"],
            report_in("report.json", "date", "opened"),
        ),
        "export": Job(
            [*export, "--data-dir", syncpr, "--output", "{out}", "--shard-size", "2MB"],
            files_of("data/*"),
        ),
        "synthesis": Job(
            ["-m", "fafa.synthesis", "painter", "--limit", "40", "--quiet", "--output", "{out}"],
            files_of("SynCPR/**/*"),
        ),
        "training": Job(["examples/train.py", *options], files_of("model.safetensors")),
    }


class Runner:
    """Starts one job's command again and again."""

    def __init__(self, job: Job, work: Path):
        self.job, self.work, self.count = job, work, 0

    def start(self, out: Path, prefix: tuple[str, ...] = (), environment: dict | None = None, **options) -> "Run":
        """The command, in a session of its own, so that its processes can be told from others."""
        self.count += 1
        logs = [self.work / f"{self.count:03d}.{kind}" for kind in ("out", "err")]
        arguments = [argument.replace("{out}", str(out)) for argument in self.job.arguments]
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(self.work / "cache")}
        with logs[0].open("w") as output, logs[1].open("w") as errors:
            process = subprocess.Popen(
                [*prefix, sys.executable, *arguments],
                cwd=ROOT,
                env=os.environ | offline | (environment or {}),
                stdout=output,
                stderr=errors,
                start_new_session=True,
                **options,
            )
        return Run(process, logs)


class Run:
    """A command under way."""

    def __init__(self, process: subprocess.Popen, logs: list[Path]):
        self.process, self.logs = process, logs

    def end(self) -> Outcome:
        """Waits for the end of the command and of its processes."""
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            status = None
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        until = time.monotonic() + GRACE
        while (left := _processes_of(self.process.pid)) and time.monotonic() < until:
            time.sleep(0.1)
        for one in left:
            os.kill(one, signal.SIGKILL)
        return Outcome(status, *(log.read_text(errors="replace") for log in self.logs), left)

    def stop_after(self, seconds: float, name: signal.Signals) -> Outcome:
        """Gets a signal after some seconds; Ctrl-C reaches all its processes."""
        time.sleep(seconds)
        if self.process.poll() is None:
            (os.killpg if name == signal.SIGINT else os.kill)(self.process.pid, name)
        return self.end()


def _processes_of(session: int) -> list[int]:
    """The processes of a session that are not dead."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its_session) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[], object]]:
    """A disk of its own in a folder; gives what makes it large."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=4g", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def disturb(fault: str, runner: Runner, out: Path, seconds: float) -> list[Outcome]:
    """The disturbed runs of one trial, which write `out`; a signal comes after so many seconds."""
    match fault:
        case "kill -9":
            return [runner.start(out).stop_after(seconds, signal.SIGKILL)]
        case "Ctrl-C":
            return [runner.start(out).stop_after(seconds, signal.SIGINT)]
        case "SIGTERM":
            return [runner.start(out).stop_after(seconds, signal.SIGTERM)]
        case "two processes":
            return [run.end() for run in [runner.start(out), runner.start(out)]]
        case "64 descriptors":
            limit = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
            return [runner.start(out, preexec_fn=limit).end()]
        case "no TMPDIR":
            return [runner.start(out, environment={"TMPDIR": str(out / "no such folder")}).end()]
        case "64 MB shared":
            mount = f'mount -t tmpfs -o size={SHARED_MEMORY} tmpfs /dev/shm && exec "$@"'
            return [runner.start(out, prefix=("unshare", "-m", "sh", "-c", mount, "sh")).end()]
    raise ValueError(f"no fault is called {fault!r}")


def try_out(fault: str, runner: Runner, folder: Path, clean: dict, moments: list[float]) -> dict:
    """All trials of one job under one fault: how the disturbed runs ended, and what a last run made of it."""
    row = {"trials": 0, "disturbed": 0, "tracebacks": 0, "left": 0, "hung": 0, "equal": 0, "messages": []}
    for number, share in enumerate(DISKS if fault == "full disk" else moments):
        place = folder / f"{fault.replace(' ', '-')}-{number}"
        out = place / "out"
        if fault == "full disk":
            with small_disk(place, max(1 << 14, int(share * clean["bytes"]))) as make_room:
                outcomes = [runner.start(out).end()]
                make_room()
                last = runner.start(out).end()
                equal = _is_equal(runner, out, last, clean)
        else:
            place.mkdir(parents=True)
            outcomes = disturb(fault, runner, out, share * clean["seconds"])
            last = runner.start(out).end()
            equal = _is_equal(runner, out, last, clean)
        row["trials"] += 1
        row["equal"] += equal
        row["disturbed"] += any(outcome.status != 0 for outcome in outcomes)
        row["tracebacks"] += sum(outcome.has_traceback for outcome in [*outcomes, last])
        row["left"] += sum(len(outcome.left) for outcome in [*outcomes, last])
        row["hung"] += sum(outcome.status is None for outcome in [*outcomes, last])
        for outcome in outcomes:
            if outcome.status and outcome.status > 0 and (lines := outcome.errors.strip().splitlines()):
                row["messages"].append(lines[-1].replace(str(folder), "…")[:300])
        if equal and not any(outcome.has_traceback or outcome.left for outcome in [*outcomes, last]):
            shutil.rmtree(place)
        else:
            print(f"  see {place}, {[str(log) for log in sorted(runner.work.glob('*.err'))[-3:]]}", flush=True)
    row["messages"] = sorted(set(row["messages"]))[:4]
    return row


def _is_equal(runner: Runner, out: Path, last: Outcome, clean: dict) -> bool:
    if last.status != 0:
        return False
    try:
        return runner.job.results(out, last.output) == clean["results"]
    except (OSError, ValueError):
        return False


def run_clean(runner: Runner, out: Path) -> dict:
    """The undisturbed run: what it made, how long it took, how much it wrote."""
    start = time.monotonic()
    outcome = runner.start(out).end()
    seconds = time.monotonic() - start
    if outcome.status != 0:
        raise SystemExit(f"{' '.join(runner.job.arguments)} fails undisturbed:\n{outcome.errors}")
    num_bytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {"results": runner.job.results(out, outcome.output), "seconds": seconds, "bytes": num_bytes}


def to_markdown(record: dict) -> str:
    """The page."""
    lines = [
        "# Faults: every long command stopped, starved and doubled",
        "",
        "`python benchmarks/fault_runs.py --work DIR`. After each disturbed run the same command ran to its end;",
        "*equal* counts how often it then had made what an undisturbed run makes. *Disturbed* are runs that ended with",
        "another status than 0; what they said stands below.",
        "",
    ]
    rows, columns = [], ("trials", "disturbed", "equal", "tracebacks", "left", "hung")
    for name, job in record["jobs"].items():
        for fault, row in job["faults"].items():
            told = f"{fault} ({row['skipped']})" if "skipped" in row else fault
            rows.append([name, told, *(row.get(column, "") for column in columns)])
    machines = [[name, job["date"], job["processor"], job["cores"]] for name, job in record["jobs"].items()]
    header = ["command", "fault", "trials", "disturbed", "equal", "tracebacks", "processes left", "hung"]
    lines += [markdown_table(header, rows), ""]
    lines += [markdown_table(["command", "date", "processor", "cores"], machines), ""]
    for name, job in record["jobs"].items():
        for fault, row in job["faults"].items():
            lines += [f"- {name}, {fault}: {message}" for message in row.get("messages", ())]
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="an empty or new folder")
    parser.add_argument("--jobs", nargs="+", help="some of the commands; default: all")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS, metavar="FAULT")
    parser.add_argument("--trials", type=int, default=1, help="of a command under a signal")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the record and the page")
    return parser.parse_args()


def main() -> None:
    """Run everything, write the record and the page."""
    arguments = parse_arguments()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, as would their own
    if arguments.work.exists() and any(arguments.work.iterdir()):
        raise SystemExit(f"{arguments.work} is not empty: give a new folder")
    chance = random.Random(arguments.seed)
    world = arguments.work / "clean" / "world"
    chosen = {
        name: job for name, job in jobs(world).items() if not arguments.jobs or name in (*arguments.jobs, "world")
    }
    record_file = arguments.results / "fault_runs.json"
    record = json.loads(record_file.read_text(encoding="utf-8")) if record_file.exists() else {"jobs": {}}
    for name, job in chosen.items():
        work = arguments.work / name
        work.mkdir(parents=True)
        runner = Runner(job, work)
        (arguments.work / "clean").mkdir(exist_ok=True)
        clean = run_clean(runner, arguments.work / "clean" / name)
        print(f"{name}: {clean['seconds']:.0f} s undisturbed, {clean['bytes']:,} bytes", flush=True)
        if arguments.jobs and name not in arguments.jobs:
            continue
        found = {}
        for fault in arguments.faults:
            moments = [chance.uniform(0.2, 0.9) for _ in range(arguments.trials if fault in SIGNALS else 1)]
            if fault in NEED_MOUNT and os.geteuid() != 0:
                found[fault] = {"skipped": "needs the right to mount"}
                continue
            row = found[fault] = try_out(fault, runner, work, clean, moments)
            print(f"  {fault}: { ({key: value for key, value in row.items() if key != 'messages'}) }", flush=True)
        record["jobs"][name] = {
            "date": date.today().isoformat(),
            "processor": processor_name(),
            "cores": num_cores(),
            "faults": found,
        }
        arguments.results.mkdir(parents=True, exist_ok=True)  # job by job: one that is repeated replaces its rows
        record_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        record_file.with_suffix(".md").write_text(to_markdown(record), encoding="utf-8")


if __name__ == "__main__":
    main()
