"""A stage of a pipeline, which makes items one by one or all at once. Stopped anywhere, it goes on from there."""

import logging
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ...files import faults_of, read_json, write_json, write_whole
from ..brakes import Brake, Braked, Brakes
from ..components import Record, SynthesisError
from ..settings import differences, uses_models
from .workspace import MANIFEST, RUNS, Workspace, as_line, fingerprint, read_lines

logger = logging.getLogger(__name__)

_LIBRARIES = ("fafa", "numpy", "pillow", "torch", "transformers", "diffusers", "peft", "openai", "rensa")
_WAIT = 2.0  # seconds between looks at what other shards have done


class Stage(ABC):
    """A stage of a pipeline.

    Attributes:
        name: Name of the stage and its folder.
        source: The stage before it whose records it reads; None for the first.
        settings: What decides its results, as plain JSON values.
        about: What made the results, for the manifest: models and their revisions. Known once something was made.
    """

    name: str
    source: str | None
    settings: dict[str, Any]

    def __init__(self) -> None:
        self.about: dict[str, Any] = {}

    @property
    def works_with(self) -> Any:
        """The settings of what it loads for its work; None if it loads nothing."""
        return None

    def try_out(self, pair: Record, folder: Path) -> None:  # noqa: B027 - most stages have nothing to try
        """Load what it works with, and try it on something small; called before the first item of stages with models.

        Args:
            pair: A painted pair with its texts, see `preflight.paint_pair`.
            folder: What its paths are relative to.

        Raises:
            SynthesisError: it cannot be loaded, or gives nothing usable.
        """

    @abstractmethod
    def run(self, work: Workspace) -> None:
        """Do what is left to do for this shard."""

    def check_settings(self, work: Workspace) -> None:
        """Compare the settings with those in the manifest, if the stage was begun.

        Raises:
            SynthesisError: the stage was begun with others.
        """
        found = work.manifest(self.name)
        changed = differences(found["settings"], self.settings, self.name) if found else []
        if changed:
            raise SynthesisError(
                f"{work.folder(self.name)} was begun with another recipe ({'; '.join(changed)}). Restore the recipe, "
                f"give another --output, or discard this stage and what follows from it with --redo {self.name}."
            )

    def discard(self, work: Workspace) -> None:
        """Delete what all shards made."""
        folder = work.folder(self.name)
        shutil.rmtree(folder, ignore_errors=not folder.exists())

    def _write_manifest(self, work: Workspace, more: dict[str, Any]) -> None:
        with FileLock(work.root / f".{self.name}.lock"):
            old = work.manifest(self.name)
            content = {"stage": self.name, "settings": self.settings, "versions": _versions()} | old | more
            write_json(work.folder(self.name) / MANIFEST, content | ({"about": self.about} if self.about else {}))


class ItemStage(Stage):
    """A stage that makes one record of each item, chunk by chunk."""

    has_brake: bool = True  # False where many items in a row are rejected for good cause

    def __init__(self) -> None:
        super().__init__()
        self._noted: Counter[str] = Counter()  # how much of what was spent is noted; the first note includes loading

    @abstractmethod
    def items(self, work: Workspace, chunk: int) -> list[Record]:
        """The items of a chunk, in order, each with its `"id"`."""

    @abstractmethod
    def process(self, items: Sequence[Record], work: Workspace, chunk: int) -> Iterator[Record]:
        """One record with the `"id"` of each item, in any order; a record depends on its item alone."""

    def release(self) -> None:
        """Let go of what the stage works with: the next stage's models need the memory."""
        if uses_models(self.works_with):  # torch keeps the memory for itself otherwise
            from accelerate.utils.memory import clear_device_cache

            clear_device_cache(garbage_collection=True)

    def files(self, record: Record) -> list[str]:
        """The files that belong to a record, relative to the workspace."""
        return []

    def usage(self) -> Counter[str]:
        """What was spent since the stage began; "cost" is in the currency of the recipe's prices."""
        return Counter()

    def run(self, work: Workspace) -> None:
        """Make the records that this shard lacks.

        Raises:
            SynthesisError: the recipe changed, or another process works on one of the chunks.
            OSError: the disk is full.
        """
        work.folder(self.name).mkdir(parents=True, exist_ok=True)
        self.check_settings(work)
        self._write_manifest(work, {})
        to_do = {chunk: len(items) for chunk in work.own_chunks if (items := self._lacking(work, chunk)) is not None}
        for chunk in set(work.own_chunks).difference(to_do):
            self._tell_of_changes(work, chunk)
        if to_do:
            try:
                self._run_chunks(work, to_do)
            finally:
                self.release()
            work.braked(self.name).unlink(missing_ok=True)
        is_complete = all(file.exists() for file in work.files(self.name))
        if is_complete and (to_do or "counts" not in work.manifest(self.name)):
            self._write_manifest(work, {"counts": work.counts(self.name)})

    def _run_chunks(self, work: Workspace, to_do: Mapping[int, int]) -> None:
        """Make the items that these chunks lack.

        Raises:
            SynthesisError: also if the brake stopped it. What was rejected on the way there is forgotten, so it is
                tried again, and the data set becomes what it would have been without the mishap.
        """
        brake = Brake(self.name, work.brakes if self.has_brake else Brakes(in_a_row=0, window=0))
        total, spent = sum(to_do.values()), self.usage()["cost"]
        try:
            with tqdm(total=total, desc=self.name, unit="item", mininterval=1, disable=not work.show_progress) as bar:
                for chunk in to_do:
                    with closing(self._run_chunk(work, chunk, brake)) as made:
                        for record in made:
                            bar.update()
                            if cost := self.usage()["cost"] - spent:
                                left = cost / max(1, bar.n) * (total - bar.n)
                                bar.set_postfix_str(f"cost {cost:,.2f}, {left:,.2f} to go", refresh=False)
                            brake.add(record)
        except Braked as error:
            records = self._forget(work, error.stretch)
            write_whole(work.braked(self.name), "".join(map(as_line, records)))
            raise SynthesisError(
                f"{error} What was rejected lies in {work.braked(self.name)}. Then give the same command again: what "
                "was kept stays, and these are tried again. `brakes:` in the recipe decides when a stage is stopped."
            ) from None

    def _forget(self, work: Workspace, stretch: Sequence[tuple[int, Record]]) -> list[Record]:
        """Take these records out of their chunks, which become unfinished; returns the records."""
        forgotten: dict[int, set[str]] = {}
        for chunk, record in stretch:
            forgotten.setdefault(chunk, set()).add(record["id"])
        for chunk, names in forgotten.items():
            with self._lock(work, chunk):
                stored, _ = self._stored(work, chunk)
                left = [record for name, record in stored.items() if name not in names]
                write_whole(work.part(self.name, chunk), "".join(map(as_line, left)))
                for finished in (work.file(self.name, chunk), work.sums(self.name, chunk)):
                    finished.unlink(missing_ok=True)
        return [record for _, record in stretch]

    def is_done(self, work: Workspace, chunks: Sequence[int]) -> bool:
        """Whether these chunks hold a record of every item."""
        # Files are looked for first: reading them all is slow, and without them the items may not be known yet.
        are_there = all(work.file(self.name, chunk).exists() for chunk in chunks)
        return are_there and all(self._lacking(work, chunk) is None for chunk in chunks)

    def _lacking(self, work: Workspace, chunk: int) -> list[Record] | None:
        """The items of a chunk that have no record yet; None if the chunk is finished."""
        items = self.items(work, chunk)
        stored, is_damaged = self._stored(work, chunk)
        lacking = [item for item in items if item["id"] not in stored]
        is_finished = work.file(self.name, chunk).exists() and not work.part(self.name, chunk).exists()  # it goes last
        return lacking if lacking or is_damaged or not is_finished else None

    def _stored(self, work: Workspace, chunk: int) -> tuple[dict[str, Record], bool]:
        """The records of a chunk whose files are there, finished or not; and whether lines are damaged."""
        found: dict[str, Record] = {}
        is_damaged = False
        for file in (work.file(self.name, chunk), work.part(self.name, chunk)):
            with suppress(FileNotFoundError):
                records, damaged = read_lines(file)
                if damaged:
                    is_damaged = True
                    logger.warning("%s: %d damaged lines are made again", file, damaged)
                for record in records:
                    if all(map(work.has_bytes, self.files(record))):
                        found.setdefault(record["id"], record)
                    else:
                        logger.warning("%s: the files of item %s are gone: made again", file, record["id"])
        return found, is_damaged

    def _tell_of_changes(self, work: Workspace, chunk: int) -> None:
        """Warn of a finished chunk that somebody edited, or that is damaged: it is used as it is."""
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            name = work.file(self.name, chunk).relative_to(work.root).as_posix()
            sums = read_json(work.sums(self.name, chunk))["files"]
            if fault := next(faults_of(work.root, {name: sums[name]}), None):
                logger.warning("%s: used as it is; --redo %s would make it anew", fault, self.name)

    def _lock(self, work: Workspace, chunk: int) -> FileLock:
        return FileLock(work.folder(self.name) / f".{chunk:05d}.lock")

    def _run_chunk(self, work: Workspace, chunk: int, brake: Brake) -> Iterator[Record]:
        """Make what a chunk lacks, yield each record once it is written, and finish the chunk."""
        file, part = work.file(self.name, chunk), work.part(self.name, chunk)
        lock = self._lock(work, chunk)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise SynthesisError(
                f"{file}: another process works on this chunk; wait for it, or give every process its own --shard i/n"
            ) from None
        started, clock, count = datetime.now(timezone.utc), time.monotonic(), 0
        try:
            items = self.items(work, chunk)
            stored, _ = self._stored(work, chunk)
            if lacking := [item for item in items if item["id"] not in stored]:
                _cut_torn_line(part)
                brake.begin(chunk, [item["id"] for item in lacking])
                made = (record for record in self.process(lacking, work, chunk))  # a generator, which can be closed
                with part.open("a", encoding="utf-8") as journal, closing(made):
                    for count, record in enumerate(made, start=1):  # noqa: B007 - for the note
                        journal.write(as_line(record))
                        journal.flush()
                        stored[record["id"]] = record
                        yield record
            if absent := [item["id"] for item in items if item["id"] not in stored]:
                raise SynthesisError(f"{file}: stage {self.name} made no record of {', '.join(absent[:5])}")
            # Records of items that are not asked for now (a judge's scores under other bounds) stay, at the end.
            asked_for = [stored.pop(item["id"]) for item in items]
            records = [*asked_for, *stored.values()]
            work.write(self.name, chunk, records)
            work.write_sums(self.name, chunk, (name for record in records for name in self.files(record)))
            part.unlink(missing_ok=True)
        finally:
            lock.release()
            spent = Counter(self.usage())
            usage = spent - self._noted
            self._noted = spent
            note = {
                "stage": self.name,
                "chunk": chunk,
                "started": started.isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - clock, 1),
                "items": count,
                "usage": {name: round(amount, 6) for name, amount in usage.items()},
            }
            with suppress(OSError), (work.root / RUNS).open("a", encoding="utf-8") as stream:
                stream.write(as_line(note))


class WholeStage(Stage):
    """A stage that needs all records of the stage before. One process runs it, and again when they changed."""

    @abstractmethod
    def make(self, work: Workspace) -> dict[str, Any]:
        """Do it. Returns the counts for the manifest."""

    def sources(self) -> list[str]:
        """The stages whose records decide the result."""
        return [self.source]

    def results(self, work: Workspace) -> list[Path]:
        """The files that show whether its result is still there."""
        return work.files(self.name)

    def run(self, work: Workspace) -> None:
        """Do it, unless it was done with just these records, and the result is there unchanged.

        Raises:
            SynthesisError: the recipe changed, or records are missing.
            OSError: the disk is full.
        """
        work.folder(self.name).mkdir(parents=True, exist_ok=True)
        with FileLock(work.root / f".{self.name}.run.lock"):
            self.check_settings(work)
            self._write_manifest(work, {})
            made_of = {source: fingerprint(work.files(source)) for source in self.sources()}
            old = work.manifest(self.name)
            if old.get("made of") == made_of and old.get("made") == fingerprint(self.results(work)):
                return
            counts = self.make(work)
            made = fingerprint(self.results(work))
            self._write_manifest(work, {"made of": made_of, "made": made, "counts": counts})


def run_stages(stages: Sequence[Stage], work: Workspace, wait: bool = False) -> str | None:
    """Run stages one after the other, each as far as this shard goes.

    Args:
        stages: In order.
        work: Where, and which shard.
        wait: Whether to wait for other shards where a stage needs all of them; otherwise it stops there.

    Returns:
        Why it stopped early; None when all stages are done.

    Raises:
        SynthesisError: as `Stage.run`.
    """
    by_name = {stage.name: stage for stage in stages}
    for stage in stages:
        needed = [by_name[name] for name in stage.sources()] if isinstance(stage, WholeStage) else []
        needed = [source for source in needed if isinstance(source, ItemStage)]
        is_logged = False
        while unfinished := [source.name for source in needed if not source.is_done(work, range(work.num_chunks))]:
            if not wait:
                return (
                    f"shard {work.shard[0]}/{work.shard[1]} has done its part of {', '.join(unfinished)}; {stage.name} "
                    "needs all shards: when they are through, start every shard again"
                )
            if not is_logged:
                logger.info("waiting for other shards to finish %s", ", ".join(unfinished))
                is_logged = True
            time.sleep(_WAIT)
        stage.run(work)
    return None


def discard_from(name: str, stages: Sequence[Stage], work: Workspace) -> None:
    """Delete what a stage and the later ones made; see `position_of`."""
    for stage in stages[position_of(name, stages) :]:
        stage.discard(work)


def position_of(name: str, stages: Sequence[Stage]) -> int:
    """Which of the stages has this name, from 0.

    Raises:
        SynthesisError: there is no such stage.
    """
    names = [stage.name for stage in stages]
    if name not in names:
        raise SynthesisError(f"there is no stage {name!r}; the stages are {', '.join(names)}")
    return names.index(name)


def _cut_torn_line(file: Path) -> None:
    """Cut off what follows the last whole line: a kill may have torn it, and nothing may be written after it."""
    with suppress(FileNotFoundError):
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            os.truncate(file, whole)


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
