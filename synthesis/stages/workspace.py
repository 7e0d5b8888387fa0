"""The folder of a synthesis.

    DIR/<stage>/00000.jsonl        the finished records of a chunk, in order; rejected ones with "rejected": reason
    DIR/<stage>/00000.part.jsonl   the records of an unfinished chunk, in any order
    DIR/<stage>/00000.sums.json    checksums of the finished chunk and its images, for `fafa verify DIR`
    DIR/<stage>/manifest.json      settings, models, versions of libraries; counts once all chunks are there
    DIR/runs.jsonl                 a line per chunk and run: when, how long, how many items, what it cost
    DIR/braked-<stage>.jsonl       what was rejected before a brake stopped the stage, until it goes on

The recipe alone decides the cut into chunks. A shard `i/n` takes every n-th chunk, so files are the same whatever the
number of shards. A record counts once its line is whole; a kill costs the items under way and no more.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files import faults_of, is_sealed, read_json, record_files, sealed, sha256_of, write_json, write_whole
from ..brakes import Brakes
from ..components import CONTROL, REJECTED, Record, SynthesisError

MANIFEST, RUNS = "manifest.json", "runs.jsonl"


@dataclass
class Workspace:
    """The folder of one synthesis, and the part of its chunks that this process works on.

    Attributes:
        root: The folder; made when something is written.
        num_chunks: Into how many chunks the recipe is cut.
        shard: `(i, n)`: this process takes the chunks whose number leaves i when divided by n.
        show_progress: Whether to show progress bars.
        brakes: When to stop a stage that rejects everything.
    """

    root: Path
    num_chunks: int
    shard: tuple[int, int] = (0, 1)
    show_progress: bool = True
    brakes: Brakes = Brakes()  # noqa: RUF009 - it cannot be changed

    @property
    def own_chunks(self) -> range:
        """The chunks of this shard."""
        return range(self.shard[0], self.num_chunks, self.shard[1])

    def folder(self, stage: str) -> Path:
        """Where a stage writes."""
        return self.root / stage

    def file(self, stage: str, chunk: int) -> Path:
        """The file of a chunk's finished records."""
        return self.root / stage / f"{chunk:05d}.jsonl"

    def files(self, stage: str) -> list[Path]:
        """The files of all chunks, also of those that are missing."""
        return [self.file(stage, chunk) for chunk in range(self.num_chunks)]

    def part(self, stage: str, chunk: int) -> Path:
        """The file of an unfinished chunk's records."""
        return self.file(stage, chunk).with_suffix(".part.jsonl")

    def sums(self, stage: str, chunk: int) -> Path:
        """The file of a finished chunk's checksums."""
        return self.file(stage, chunk).with_suffix(".sums.json")

    def braked(self, stage: str) -> Path:
        """The file of what was rejected before a brake stopped a stage."""
        return self.root / f"braked-{stage}.jsonl"

    def has_bytes(self, name: str) -> bool:
        """Whether a file below the workspace exists, and is not empty."""
        file = self.root / name
        return file.is_file() and file.stat().st_size > 0

    def read(self, stage: str, chunk: int) -> list[Record]:
        """All records of a finished chunk, including rejected ones.

        Raises:
            SynthesisError: it is not finished, or the file is damaged.
        """
        file = self.file(stage, chunk)
        try:
            records, damaged = read_lines(file)
        except FileNotFoundError:
            raise SynthesisError(f"{file} is not there yet: run stage {stage} first, in all its shards") from None
        if damaged:
            raise SynthesisError(f"{file}: {damaged} of its lines are damaged; run stage {stage} again to mend it")
        return records

    def kept(self, stage: str, chunk: int) -> list[Record]:
        """The records of a finished chunk that were not rejected."""
        return [record for record in self.read(stage, chunk) if REJECTED not in record]

    def by_id(self, stage: str, chunk: int) -> dict[str, Record]:
        """As `kept`, by their ids."""
        return {record["id"]: record for record in self.kept(stage, chunk)}

    def records(self, stage: str) -> Iterator[Record]:
        """All records of a stage in order, including rejected ones."""
        for chunk in range(self.num_chunks):
            yield from self.read(stage, chunk)

    def write(self, stage: str, chunk: int, records: Iterable[Record]) -> None:
        """Write the finished records of a chunk, whole or not at all."""
        write_whole(self.file(stage, chunk), "".join(map(as_line, records)))

    def write_sums(self, stage: str, chunk: int, files: Iterable[str]) -> None:
        """Note the checksums of a finished chunk and of these files, which lie below the workspace."""
        names = dict.fromkeys([f"{stage}/{chunk:05d}.jsonl", *files])
        write_json(self.sums(stage, chunk), sealed({"files": record_files(self.root, names)}))

    def manifest(self, stage: str) -> dict[str, Any]:
        """The manifest of a stage; empty before its first run."""
        file = self.folder(stage) / MANIFEST
        try:
            manifest = read_json(file)
        except FileNotFoundError:
            return {}
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict) or "settings" not in manifest:
            raise SynthesisError(f"{file} is damaged: restore it, or --redo {stage}")
        return manifest

    def counts(self, stage: str) -> dict[str, Any]:
        """How many items a finished stage has, and how many it rejected for which reason."""
        items = [record.get(REJECTED) for record in self.records(stage) if CONTROL not in record]
        reasons = Counter(reason for reason in items if reason is not None)
        return {"items": len(items), "rejected": dict(sorted(reasons.items(), key=lambda entry: (-entry[1], entry[0])))}


def fingerprint(files: Iterable[Path]) -> str | None:
    """A hash of what is in these files; None if one is missing."""
    try:
        return sha256_of(*files)
    except FileNotFoundError:
        return None


def read_lines(file: Path) -> tuple[list[Record], int]:
    """The records in a file of JSON lines, and how many lines are damaged."""
    records, damaged = [], 0
    with file.open("rb") as stream:
        for line in stream:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if isinstance(record, dict) and line.endswith(b"\n"):
                records.append(record)
            else:
                damaged += 1
    return records, damaged


def as_line(record: Record) -> str:
    """A record as a line of JSON."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def verify_workspace(root: Path, show_progress: bool = False) -> list[str]:
    """What is wrong with the finished chunks of all stages: a line for every file that is not as it was made.

    Raises:
        OSError: a file cannot be read now.
    """
    root, faults = Path(root), []
    for folder in sorted(path.parent for path in root.glob(f"*/{MANIFEST}")):
        try:
            manifest = Workspace(root, 0).manifest(folder.name)
        except SynthesisError as error:
            faults.append(str(error).removeprefix(f"{root}/"))
            continue
        chunks = [file for file in sorted(folder.glob("[0-9]*.jsonl")) if not file.name.endswith(".part.jsonl")]
        if "made" in manifest:  # by a stage that makes all at once
            if chunks and fingerprint(chunks) != manifest["made"]:
                faults.append(f"{folder.name}/{chunks[0].name} to {chunks[-1].name} are not as they were made")
            continue
        for file in (chunk.with_suffix(".sums.json") for chunk in chunks):
            name = f"{folder.name}/{file.name}"
            try:
                sums = read_json(file)
                if not is_sealed(sums):
                    raise ValueError
                faults += faults_of(root, sums["files"], show_progress=show_progress)
            except FileNotFoundError:
                faults.append(f"{name} is missing: the chunk is of an earlier version, or was moved here")
            except (ValueError, KeyError, TypeError, AttributeError):
                faults.append(f"{name} is damaged")
    return faults
