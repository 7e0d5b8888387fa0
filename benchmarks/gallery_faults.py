"""A gallery's folder under faults: killed writers, readers beside one, full disks. Is anything lost, doubled, torn?

    python benchmarks/gallery_faults.py --work /tmp/gallery-faults             # about five minutes on two cores
    python benchmarks/gallery_faults.py --work /tmp/gallery-faults --points 3 --seconds 5

    kill -9       SIGKILL to a writer at a random moment, while it appends, deletes, replaces (upsert) or compacts. What
                  it had acknowledged must be there once, and at most the one step that it was in besides; all files
                  must be sound, and the next writer goes on.
    readers       8 processes read the gallery again and again while one writes. Each commit replaces two images
                  together: a reader that sees them differ, or other features than an image's, has seen a torn gallery.
    full disk     each kind of write meets a limit on the size of files, 5 limits each. It must fail with an error of
                  the system, the gallery must be what it was, and with room the same write succeeds.

Features are made from numbers, so each image is known by its features. Results go to
benchmarks/results/gallery_faults.json and gallery_faults.md.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import torch

from fafa.retrieval.metadata import Entry
from fafa.retrieval.segment_list import GalleryFolder
from fafa.retrieval.segment_writer import GalleryWriter
from fafa.tables import markdown_table

RESULTS = Path(__file__).parent / "results"
SHAPE = (4, 16)
SETTINGS = {
    "model": {"fingerprint": "numbers", "dtype": "float32"},
    "features": {"kind": "target", "dtype": "float16", "shape": list(SHAPE)},
}
FILLED = 24  # images that are there before deleting, replacing, compacting
OPERATIONS = ("append", "delete", "upsert", "compact")
WRITES = (*OPERATIONS, "change", "save")


def tokens_of(number: int, version: int = 0) -> torch.Tensor:
    """`(1, 4, 16)`: those that no other number or version has."""
    generator = torch.Generator().manual_seed(1000 * number + version)
    return torch.nn.functional.normalize(torch.randn(1, *SHAPE, generator=generator), dim=-1)


def put(writer: GalleryWriter, number: int, version: int = 0) -> None:
    """Adds an image, or replaces an earlier version of it."""
    writer.delete(writer.state.rows_with("path", f"{number}.png"))
    entry = Entry(f"{number}.png", f"{number} {version}", tags={"number": number, "version": version})
    writer.append(tokens_of(number, version), [entry])


def fill(path: Path, count: int) -> GalleryFolder:
    """A gallery of images of version 0, in a few segments."""
    folder = GalleryFolder.create(path, SETTINGS, "float16")
    for start in range(0, count, 5):
        with folder.writing() as writer:
            for number in range(start, min(count, start + 5)):
                put(writer, number)
            writer.commit()
    return folder


def held(folder: GalleryFolder) -> list[tuple[int, int]]:
    """Number and version of each image, by its entry; its features must be its own."""
    state = folder.read()
    rows = state.living_rows(torch.arange(len(state)))
    found = [(entry.tags["number"], entry.tags["version"]) for entry in state.entries(rows)]
    if found:
        expected = torch.cat([tokens_of(*each) for each in found])
        torch.testing.assert_close(state.tokens(rows), expected, atol=1e-3, rtol=0)
    return found


def write_for_ever(operation: str, folder: GalleryFolder, acknowledge: Callable[[int], None]) -> None:
    """Does one kind of change again and again, and says each as soon as it counts."""
    for step in range(10**6):
        with folder.writing() as writer:
            match operation:
                case "append":
                    put(writer, FILLED + step)
                case "delete":
                    if step >= FILLED:
                        return
                    writer.delete(writer.state.rows_with("path", f"{step}.png"))
                case "upsert":
                    put(writer, step % FILLED, 1 + step // FILLED)
                case "compact":
                    put(writer, step % 3, 1 + step // 3)
                    writer.commit()
                    writer.compact()
            writer.commit()
        acknowledge(step)


def wrong_after(operation: str, folder: GalleryFolder, done: int) -> list[str]:
    """What is lost or doubled once a writer that had acknowledged `done` steps was killed."""
    found = held(folder)
    wrong = [f"{number} is there {found.count((number, version))} times" for number, version in found]
    wrong = [line for line in wrong if not line.endswith(" 1 times")]

    def expected(steps: int) -> dict[int, int]:
        images = dict.fromkeys(range(FILLED), 0)
        for step in range(steps):
            match operation:
                case "append":
                    images[FILLED + step] = 0
                case "delete":
                    images.pop(step, None)
                case "upsert":
                    images[step % FILLED] = 1 + step // FILLED
                case "compact":
                    images[step % 3] = 1 + step // 3
        return images

    if len(found) != len(dict(found)) or dict(found) not in (expected(done), expected(done + 1)):
        wrong.append(f"after {done} steps there are {sorted(found)}")
    return wrong + folder.faults()


def forked(work: Callable[[], None]) -> int:
    """Starts a process that does something and ends; returns its id."""
    sys.stdout.flush()
    if process := os.fork():
        return process
    status = 1
    try:
        torch.set_num_threads(1)
        work()
        status = 0
    finally:
        os._exit(status)


def kill_a_writer(operation: str, path: Path, seconds: float) -> list[str]:
    """Kills a writer after so many seconds from its first step; returns what is wrong then."""
    folder = fill(path, FILLED)
    reading, writing = os.pipe()
    process = forked(lambda: write_for_ever(operation, folder, lambda step: os.write(writing, b"x")))
    os.close(writing)
    done = len(os.read(reading, 1))
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    while piece := os.read(reading, 1 << 16):
        done += len(piece)
    os.close(reading)
    wrong = wrong_after(operation, folder, done)
    with folder.writing() as writer:  # whatever was left of the killed one is no hindrance
        put(writer, 999)
        writer.commit()
    if (999, 0) not in held(folder):
        wrong.append("the next writer's image is not there")
    return wrong


def read_beside_a_writer(path: Path, seconds: float, num_readers: int = 8) -> dict:
    """Readers in processes beside one writer; counts reads, and those that were torn, wrong or failed."""
    folder = fill(path, 2 * FILLED)
    end, reports = time.monotonic() + seconds, []

    def read() -> None:
        counts = {"reads": 0, "torn or wrong": 0, "failed": 0, "what": ""}
        while time.monotonic() < end:
            try:
                found = dict(held(folder))
                is_whole = len(found) == 2 * FILLED and all(found[n] == found[n + 1] for n in range(0, 2 * FILLED, 2))
                counts["torn or wrong"] += not is_whole
            except Exception as error:
                counts["torn or wrong" if isinstance(error, AssertionError) else "failed"] += 1
                counts["what"] = f"{type(error).__name__}: {str(error)[:200]}"
            counts["reads"] += 1
        report.write_text(json.dumps(counts))

    processes = []
    for number in range(num_readers):
        report = path.with_name(f"reader-{number}.json")
        reports.append(report)
        processes.append(forked(read))
    commits = 0
    while time.monotonic() < end:
        with folder.writing() as writer:
            pair = 2 * (commits % FILLED)
            for number in (pair, pair + 1):
                put(writer, number, 1 + commits)
            writer.commit()
            if commits % 50 == 49:
                writer.compact()
        commits += 1
    for process in processes:
        os.waitpid(process, 0)
    found = [json.loads(report.read_text()) for report in reports]
    sums = {name: sum(each[name] for each in found) for name in ("reads", "torn or wrong", "failed")}
    return {"readers": num_readers, "seconds": seconds, "commits": commits, **sums, "what": [f["what"] for f in found]}


@contextmanager
def files_no_larger_than(num_bytes: int) -> Iterator[None]:
    """What a full disk looks like to a program that writes, without filling one."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def write_once(operation: str, folder: GalleryFolder, target: Path) -> None:
    """One write of each kind."""
    if operation == "save":
        GalleryFolder.create(target, SETTINGS, "float16")
        with GalleryFolder(target).writing() as writer:
            writer.replace(folder.read())
        return
    with folder.writing() as writer:
        match operation:
            case "append":
                put(writer, 500)
            case "delete":
                writer.delete(writer.state.rows_with("path", "3.png"))
            case "upsert":
                put(writer, 3, 1)
            case "compact":
                writer.compact()
            case "change":
                (row,) = writer.state.rows_with("path", "3.png")
                writer.change({row: Entry("moved.png", "3 0", tags={"number": 3, "version": 0})})
        writer.commit()


def sizes_written(operation: str, path: Path) -> list[int]:
    """The sizes of the files that a write writes, ascending."""
    folder = fill(path / "sizes", FILLED)
    before = {file for file in path.rglob("*") if file.is_file()} - {folder.path / "gallery.json"}
    write_once(operation, folder, path / "target")
    sizes = sorted({file.stat().st_size for file in path.rglob("*") if file.is_file() and file not in before} - {0})
    shutil.rmtree(path)
    return sizes


def write_on_a_full_disk(operation: str, path: Path, limit: int) -> list[str]:
    """Writes while no file may be larger than a limit; returns what is wrong then."""
    folder = fill(path / "g", FILLED)
    before, wrong = held(folder), []
    try:
        with files_no_larger_than(limit):
            write_once(operation, folder, path / "target")
        wrong.append("it did not fail")
    except OSError:
        pass
    if held(folder) != before or folder.faults():
        wrong.append(f"the gallery is another: {folder.faults() or sorted(held(folder))}")
    names = {segment.record["name"] for segment in folder.read().segments}
    if left := {entry.name for entry in folder.segments.iterdir()} - names:
        wrong.append(f"files are left: {left}")
    write_once(operation, folder, path / "target")
    return wrong + folder.faults()


def to_markdown(record: dict) -> str:
    """The page."""
    kills = [[name, row["points"], row["wrong"]] for name, row in record["kill -9"].items()]
    full = [[name, row["points"], row["wrong"]] for name, row in record["full disk"].items()]
    readers = record["readers"]
    names = ["readers", "seconds", "commits", "reads", "torn or wrong", "failed"]
    return "\n".join(
        [
            "# A gallery's folder under faults",
            "",
            f"`python benchmarks/gallery_faults.py --work DIR`, {record['date']}. *Wrong* counts points after which",
            "anything acknowledged was lost or doubled, a file was damaged or left over, or the next writer could not",
            "go on.",
            "",
            "A writer killed (`kill -9`) at random moments:",
            "",
            markdown_table(["while it", "points", "wrong"], kills),
            "",
            "Readers beside a writer:",
            "",
            markdown_table(names, [[readers[name] for name in names]]),
            "",
            "A full disk:",
            "",
            markdown_table(["while it would", "points", "wrong"], full),
            "",
        ]
    )


def main() -> None:
    """Run everything, write the record and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="an empty or new folder")
    parser.add_argument("--points", type=int, default=20, help="at which each operation is killed")
    parser.add_argument("--full-disks", type=int, default=5, help="limits that each write meets")
    parser.add_argument("--seconds", type=float, default=60, help="of reading beside a writer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the record and the page")
    arguments = parser.parse_args()
    if arguments.work.exists() and any(arguments.work.iterdir()):
        raise SystemExit(f"{arguments.work} is not empty: give a new folder")
    torch.set_num_threads(1)  # processes that are forked cannot go on with threads
    chance, wrong_ones = random.Random(arguments.seed), []
    record = {"date": date.today().isoformat(), "kill -9": {}, "full disk": {}}

    def note(kind: str, operation: str, results: list[list[str]]) -> None:
        record[kind][operation] = {"points": len(results), "wrong": sum(map(bool, results))}
        wrong_ones.extend(line for lines in results for line in lines)
        print(f"{kind}, {operation}: {record[kind][operation]}", flush=True)

    for operation in OPERATIONS:
        places = [arguments.work / f"{operation}-{number}" for number in range(arguments.points)]
        note("kill -9", operation, [kill_a_writer(operation, place, chance.uniform(0, 0.5)) for place in places])
    record["readers"] = read_beside_a_writer(arguments.work / "readers", arguments.seconds)
    print(f"readers: {record['readers']}", flush=True)
    for operation in WRITES:
        sizes = sizes_written(operation, arguments.work / f"sizes-{operation}")
        limits = [chance.randrange(sizes[0] // 2, sizes[-1]) for _ in range(arguments.full_disks)]
        places = [arguments.work / f"full-{operation}-{number}" for number in range(len(limits))]
        results = [write_on_a_full_disk(operation, *each) for each in zip(places, limits, strict=True)]
        note("full disk", operation, results)
    record["wrong"] = wrong_ones
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "gallery_faults.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (arguments.results / "gallery_faults.md").write_text(to_markdown(record), encoding="utf-8")
    if wrong_ones or record["readers"]["torn or wrong"] or record["readers"]["failed"]:
        raise SystemExit("\n".join(["wrong:", *wrong_ones, *record["readers"]["what"]]))


if __name__ == "__main__":
    main()
