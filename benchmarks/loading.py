"""How long SynCPR at its full size takes to load, and how much memory; then rows by index and rows with images.

    python benchmarks/loading.py

Writes a SynCPR.json of 1,153,230 records in 177,530 groups of 1 to 10 triplets, whose captions have 13.3 words on
average out of 4,370, with paths like the published ones. Its 4,000 images (384 x 192, PNG) are few and reused; every
record still has its two files looked up. Three processes, one after the other, measure:

  first     `load_dataset` with nothing cached: hashes and parses the file, checks every record, writes the Arrow cache
  second    `load_dataset` again, from the cache
  rows      rows by index, without images, from the first and from the last 10,000 and from all; then 10,000 rows in
            order with both images decoded

Seconds are those of `load_dataset` itself, imports left out. Peak memory is the process's resident set, in which pages
of the memory-mapped cache count as long as the system has no better use for them; "own" leaves mapped files out.

Takes about two minutes and 2.5 GB of disk (a temporary folder, removed at the end). Results go to
benchmarks/results/loading.json and loading.md.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path

import numpy as np
from PIL import Image

RECORDS, GROUPS = 1_153_230, 177_530  # of the published file
WORDS, MEAN_WORDS = 4_370, 13.3
DIPTYCHS = 2_000
IMAGE_SIZE = (192, 384)  # width, height
LOOKUPS, SPAN, DECODED_ROWS = 2_000, 10_000, 10_000
TARGETS = {"first": (60, 2_000), "second": (3, 2_000)}  # seconds of wall time, MB
RESULTS = Path(__file__).parent / "results"


def write_data_set(root: Path) -> None:
    """Annotations and images of SynCPR's form and size."""
    rng = np.random.default_rng(0)
    sizes = rng.binomial(9, (RECORDS / GROUPS - 1) / 9, GROUPS) + 1
    while difference := RECORDS - sizes.sum():
        change = np.sign(difference)
        able = np.flatnonzero((sizes < 10) if change > 0 else (sizes > 1))
        sizes[rng.choice(able, min(abs(difference), len(able)), replace=False)] += change
    letters = np.array(list("aeioulnrst"))
    words = ["".join(rng.choice(letters, size)) + str(number) for number, size in enumerate(rng.integers(1, 6, WORDS))]

    def caption() -> str:
        count = min(max(3, rng.poisson(MEAN_WORDS)), 32)
        return " ".join(words[index] for index in rng.integers(0, WORDS, count)).capitalize() + "."

    with (root / "SynCPR.json").open("w", encoding="utf-8") as stream:
        record = {}
        for number, group in enumerate(np.repeat(np.arange(GROUPS), sizes).tolist()):
            if group != record.get("cpr_id"):  # the triplets of a group share their captions
                captions = {name: caption() for name in ("reference_caption", "target_caption", "edit_caption")}
            name = f"{number % DIPTYCHS}-1"
            paths = {
                "reference_image_path": f"test2/sub_img/img_left/{name}_left.png",
                "target_image_path": f"test2/sub_img/img_right/{name}_right.png",
            }
            record = captions | paths | {"cpr_id": group}
            stream.write(f"{', ' if number else '['}{json.dumps(record)}")
        stream.write("]\n")

    noise = Image.fromarray(rng.integers(0, 256, (48, 24, 3), dtype=np.uint8)).resize(IMAGE_SIZE)  # 130 kB as PNG
    for side in ("left", "right"):
        folder = root / f"test2/sub_img/img_{side}"
        folder.mkdir(parents=True)
        noise.save(folder / f"0-1_{side}.png")
        content = (folder / f"0-1_{side}.png").read_bytes()
        for number in range(1, DIPTYCHS):
            (folder / f"{number}-1_{side}.png").write_bytes(content)


def measure_load(root: Path) -> dict:
    """`load_dataset` in this process."""
    import datasets

    import fafa  # noqa: F401 - registers the builders

    own = OwnMemory()
    wall, cpu = time.perf_counter(), time.process_time()
    dataset = datasets.load_dataset("SynCPR", data_dir=str(root), split="train")
    return {
        "wall_seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,  # kB on Linux
        "own_peak_mb": own.stop(),
        "rows": len(dataset),
    }


def measure_rows(root: Path) -> dict:
    """Rows by index from three places, and rows with images, in this process."""
    import datasets

    import fafa  # noqa: F401 - registers the builders

    own = OwnMemory()
    dataset = datasets.load_dataset("SynCPR", data_dir=str(root), split="train")
    without_images = dataset.remove_columns(["reference_image", "target_image"])
    rng, last = np.random.default_rng(0), len(dataset)
    places = {"first": (0, SPAN), "last": (last - SPAN, last), "any": (0, last)}
    microseconds = {}
    for place, (start, stop) in places.items():
        indices = rng.integers(start, stop, LOOKUPS).tolist()
        without_images[indices[0]]
        begin = time.perf_counter()
        for index in indices:
            without_images[index]
        microseconds[place] = (time.perf_counter() - begin) / LOOKUPS * 1e6

    wall, cpu = time.perf_counter(), time.process_time()
    num_pixels = 0
    for row in dataset.select(range(DECODED_ROWS)):
        num_pixels += sum(row[side].width * row[side].height for side in ("reference_image", "target_image"))
    if num_pixels != 2 * DECODED_ROWS * IMAGE_SIZE[0] * IMAGE_SIZE[1]:
        raise RuntimeError(f"{num_pixels} pixels were decoded, which is not those of {DECODED_ROWS} rows")
    return {
        "microseconds_per_row_by_index": microseconds,
        "decoded_rows": DECODED_ROWS,
        "decoded_wall_seconds": time.perf_counter() - wall,
        "decoded_cpu_seconds": time.process_time() - cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "own_peak_mb": own.stop(),
    }


class OwnMemory:
    """Watches this process's resident memory without mapped files (Linux), twenty times a second."""

    def __init__(self):
        self._peak, self._stopped = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stopped.wait(0.05):
            status = Path("/proc/self/status").read_text()
            self._peak = max(self._peak, int(status.split("RssAnon:")[1].split()[0]))

    def stop(self) -> float:
        """The most there was, in MB."""
        self._stopped.set()
        self._thread.join()
        return self._peak / 1e3


MEASURES = {"first": measure_load, "second": measure_load, "rows": measure_rows}


def measure_in_subprocess(name: str, root: Path) -> dict:
    """One of `MEASURES` in a fresh process, with a cache beside the data."""
    environment = os.environ | {"HF_DATASETS_CACHE": str(root.parent / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--measure", name, str(root)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)


def summarize(root: Path, results: dict[str, dict]) -> dict:
    """The record of one benchmark: conditions, sizes and what was measured."""
    import datasets
    from scoring import processor_name  # imports torch, which is not to count as memory of loading

    cache = sum(file.stat().st_size for file in (root.parent / "cache").rglob("*.arrow"))
    return {
        "date": date.today().isoformat(),
        "command": "python benchmarks/loading.py",
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "datasets": datasets.__version__,
        "records": RECORDS,
        "groups": GROUPS,
        "annotation_mb": (root / "SynCPR.json").stat().st_size / 1e6,
        "cache_mb": cache / 1e6,
        **results,
    }


def to_markdown(record: dict) -> str:
    """The record as a page."""
    from fafa.tables import markdown_table

    rows = record["rows"]
    by_index = rows["microseconds_per_row_by_index"]
    lines = [
        "# Loading SynCPR at its full size",
        "",
        f"{record['date']}, {record['processor']}, {record['cores']} cores (load average {record['load_average']:.1f}: "
        f"1 is this benchmark alone), datasets {record['datasets']}: `{record['command']}`",
        "",
        f"SynCPR.json of {record['records']:,} records in {record['groups']:,} groups, {record['annotation_mb']:,.0f} "
        f"MB; Arrow cache {record['cache_mb']:,.0f} MB.",
        "",
    ]
    measured = []
    for name, (seconds, megabytes) in TARGETS.items():
        run = record[name]
        memory = f"{run['peak_mb']:,.0f}", f"{run['own_peak_mb']:,.0f}"
        times = f"{run['wall_seconds']:.1f}", f"{run['cpu_seconds']:.1f}"
        measured.append([name, *times, *memory, f"{seconds} s, {megabytes:,} MB"])
    lines += [
        markdown_table(["load_dataset", "wall s", "CPU s", "peak MB", "of it own MB", "target"], measured),
        "",
        f"- A row by index, without images: {by_index['first']:.0f} µs among the first {SPAN:,}, "
        f"{by_index['last']:.0f} µs among the last, {by_index['any']:.0f} µs among all.",
        f"- {rows['decoded_rows']:,} rows in order with both images decoded ({IMAGE_SIZE[1]} x {IMAGE_SIZE[0]}, PNG): "
        f"{rows['decoded_wall_seconds']:.0f} s, {rows['decoded_cpu_seconds']:.0f} CPU s, "
        f"peak {rows['peak_mb']:,.0f} MB.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the data, measure, write the results; with --measure, one measure of data that is there, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for loading.json and loading.md")
    parser.add_argument("--work", type=Path, help="where to make the temporary folder; by default the system's place")
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "ROOT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, root = arguments.measure
        print(json.dumps(MEASURES[name](Path(root))))
        return

    with tempfile.TemporaryDirectory(prefix="fafa-loading-", dir=arguments.work) as folder:
        root = Path(folder, "SynCPR")
        root.mkdir()
        write_data_set(root)
        record = summarize(root, {name: measure_in_subprocess(name, root) for name in MEASURES})
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "loading.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (arguments.output / "loading.md").write_text(to_markdown(record), encoding="utf-8")
    print(to_markdown(record))


if __name__ == "__main__":
    main()
