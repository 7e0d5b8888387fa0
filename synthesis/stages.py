"""What every stage has in common: chunks, resuming after any stop, manifests, progress.

    DIR/<stage>/00000.jsonl        the finished records of a chunk, in order; rejected ones with "rejected": reason
    DIR/<stage>/00000.part.jsonl   records of a chunk that is being worked on, in any order
    DIR/<stage>/00000.sums.json    checksums of the finished chunk and its pictures, for `python -m fafa.verify DIR`
    DIR/<stage>/manifest.json      settings, models, versions of libraries; counts once all chunks are there
    DIR/runs.jsonl                 a line per chunk and run: when, how long, how many items, what it cost
    DIR/braked-<stage>.jsonl       what was rejected when a stage was stopped for it, until it goes on

The cut into chunks follows from the recipe alone. A shard `i/n` takes every n-th chunk, so that files come out the same
whatever the number of shards. A record counts once its line is whole; a kill costs the items in flight and no more.
"""

import errno
import gc
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ..files import DISK_FULL, faults_of, is_sealed, read_json, record_files, sealed
from .brakes import Brake, Braked, Brakes, check_usable
from .components import CONTROL, REJECTED, ImageRequest, PaintedImage, Record, SynthesisError, seed_of
from .pictures import is_one_colour, save_picture
from .settings import deciding, differences, uses_models

logger = logging.getLogger(__name__)

MANIFEST, RUNS = "manifest.json", "runs.jsonl"
_LIBRARIES = ("fafa", "numpy", "pillow", "torch", "transformers", "diffusers", "peft", "openai", "rensa")
_WAIT = 2.0  # seconds between looks at what other shards have done

Given, Made = TypeVar("Given"), TypeVar("Made")


class Workspace:
    """The folder of one synthesis, and the part of its chunks that this process works on.

    Args:
        root: The folder; made if need be.
        num_chunks: Into how many chunks the recipe is cut.
        shard: `(i, n)`: this process takes the chunks whose number leaves i when divided by n.
        show_progress: Whether to show progress bars.
        brakes: When to stop a stage that rejects everything.
    """

    def __init__(
        self,
        root: Path,
        num_chunks: int,
        shard: tuple[int, int] = (0, 1),
        show_progress: bool = True,
        brakes: Brakes | None = None,
    ):
        self.root, self.num_chunks, self.shard, self.show_progress = Path(root), num_chunks, shard, show_progress
        self.brakes = brakes or Brakes()
        with reporting_files(self.root):
            try:
                self.root.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise SynthesisError(f"{self.root}: a file is in the way. Give another --output.") from None
            except FileNotFoundError:  # though parents are made: /proc and its like
                raise SynthesisError(f"{self.root}: no folder can be made there. Give another --output.") from None

    @property
    def own_chunks(self) -> range:
        """The chunks of this shard."""
        return range(self.shard[0], self.num_chunks, self.shard[1])

    def folder(self, stage: str) -> Path:
        """Where a stage writes."""
        return self.root / stage

    def file(self, stage: str, chunk: int) -> Path:
        """The finished records of a chunk."""
        return self.root / stage / f"{chunk:05d}.jsonl"

    def missing(self, stage: str) -> list[int]:
        """The chunks that a stage has not finished."""
        return [chunk for chunk, file in enumerate(self.files(stage)) if not file.exists()]

    def read(self, stage: str, chunk: int) -> list[Record]:
        """All records of a finished chunk, rejected ones, too.

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

    def records(self, stage: str) -> Iterator[Record]:
        """All records of a stage in order, rejected ones, too."""
        for chunk in range(self.num_chunks):
            yield from self.read(stage, chunk)

    def write(self, stage: str, chunk: int, records: Iterable[Record]) -> None:
        """Put down the finished records of a chunk, whole or not at all."""
        write_whole(self.file(stage, chunk), "".join(map(as_line, records)))

    def files(self, stage: str) -> list[Path]:
        """The finished records of all chunks, those that are missing, too."""
        return [self.file(stage, chunk) for chunk in range(self.num_chunks)]

    def braked(self, stage: str) -> Path:
        """Where what was rejected lies to be looked at while a stage is stopped for it."""
        return self.root / f"braked-{stage}.jsonl"

    def manifest(self, stage: str) -> dict[str, Any]:
        """The manifest of a stage; empty before its first run."""
        try:
            manifest = read_json(self.folder(stage) / MANIFEST)
            if not isinstance(manifest, dict) or "settings" not in manifest:
                raise ValueError
        except FileNotFoundError:
            return {}
        except ValueError:
            raise SynthesisError(f"{self.folder(stage) / MANIFEST} is damaged: restore it, or --redo {stage}") from None
        return manifest

    def counts(self, stage: str) -> dict[str, Any]:
        """Of a finished stage: items, and how many were rejected for which reason."""
        reasons, items = Counter(), 0
        for record in self.records(stage):
            if CONTROL in record:
                continue
            items += 1
            if REJECTED in record:
                reasons[record[REJECTED]] += 1
        return {"items": items, "rejected": dict(sorted(reasons.items(), key=lambda entry: (-entry[1], entry[0])))}


class Stage(ABC):
    """A stage of a pipeline.

    Attributes:
        name: Of the stage and its folder.
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
        """The settings of what it loads for its work; None if that is nothing."""
        return None

    def try_out(self, pair: Record, folder: Path) -> None:  # noqa: B027 - most stages have nothing to try
        """Load what it works with, and try that on something small; for stages with models, before the first item.

        Args:
            pair: A painted pair with its texts, see `preflight.paint_pair`.
            folder: What its paths are relative to.

        Raises:
            SynthesisError: it cannot be loaded, or gives nothing that can be used.
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
        """Delete what was made, by all shards."""
        folder = work.folder(self.name)
        shutil.rmtree(folder, ignore_errors=not folder.exists())

    def _write_manifest(self, work: Workspace, more: dict[str, Any]) -> None:
        with FileLock(work.root / f".{self.name}.lock"):
            old = work.manifest(self.name)
            content = {"stage": self.name, "settings": self.settings, "versions": _versions()} | old | more
            if self.about:
                content["about"] = self.about
            write_whole(work.folder(self.name) / MANIFEST, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


class ItemStage(Stage):
    """A stage that makes one record of each item, chunk by chunk."""

    has_brake: bool = True  # False where many items on end are rejected for good cause

    def __init__(self) -> None:
        super().__init__()
        self._noted: Counter[str] = Counter()  # of what was spent, what stands in notes; loading is in the first

    @abstractmethod
    def items(self, work: Workspace, chunk: int) -> list[Record]:
        """The items of a chunk, in order, each with its `"id"`."""

    @abstractmethod
    def process(self, items: Sequence[Record], work: Workspace, chunk: int) -> Iterator[Record]:
        """One record with the `"id"` of each item, in any order; what an item becomes depends on that item alone."""

    def prepare(self) -> None:
        """Load what the stage works with; called once, when there is something to make."""

    def release(self) -> None:
        """Let go of it: the next stage's models need the memory."""

    def _let_go(self) -> None:
        self.release()
        if uses_models(self.works_with):
            free_memory()

    def files(self, record: Record) -> list[str]:
        """The files that belong to a record, relative to the workspace."""
        return []

    def usage(self) -> Counter[str]:
        """What was spent since the stage began; "cost" is in the currency of the recipe's prices."""
        return Counter()

    def run(self, work: Workspace) -> None:
        """Make the records that this shard lacks.

        Raises:
            SynthesisError: the recipe changed, another process works on one of the chunks, the disk is full.
        """
        with reporting_files(work.folder(self.name)):
            work.folder(self.name).mkdir(parents=True, exist_ok=True)
            self.check_settings(work)
            self._write_manifest(work, {})
            to_do = {
                chunk: len(items) for chunk in work.own_chunks if (items := self._lacking(work, chunk)) is not None
            }
            for chunk in set(work.own_chunks).difference(to_do):
                self._tell_of_changes(work, chunk)
            if any(to_do.values()):
                self.prepare()
            if to_do:
                try:
                    self._run_chunks(work, to_do)
                finally:
                    self._let_go()
                work.braked(self.name).unlink(missing_ok=True)
            if not work.missing(self.name) and (to_do or "counts" not in work.manifest(self.name)):
                self._write_manifest(work, {"counts": work.counts(self.name)})

    def _run_chunks(self, work: Workspace, to_do: Mapping[int, int]) -> None:
        """Make what these chunks lack, so many items of each.

        Raises:
            SynthesisError: also if the brake stopped it. What was rejected on the way there is forgotten, so that it is
                tried again, and the data set becomes what it would have been without the mishap.
        """
        brake = Brake(self.name, work.brakes if self.has_brake else Brakes(in_a_row=0, window=0))
        try:
            with self._progress(work, sum(to_do.values())) as advance:
                for chunk in to_do:
                    self._run_chunk(work, chunk, brake, advance)
        except Braked as error:
            records = self._forget(work, error.stretch)
            write_whole(work.braked(self.name), "".join(map(as_line, records)))
            raise SynthesisError(
                f"{error} What was rejected lies in {work.braked(self.name)}. Then give the same command again: what "
                "was kept stays, and these are tried again. When a stage is stopped, `brakes:` in the recipe says."
            ) from None

    def _forget(self, work: Workspace, stretch: Sequence[tuple[int, Record]]) -> list[Record]:
        """Take these records out of their chunks, which are unfinished then; returns them."""
        forgotten: dict[int, set[str]] = {}
        for chunk, record in stretch:
            forgotten.setdefault(chunk, set()).add(record["id"])
        for chunk, names in forgotten.items():
            file = work.file(self.name, chunk)
            with FileLock(file.with_name(f".{file.stem}.lock")):
                stored, _ = self._stored(work, chunk)
                left = [record for name, record in stored.items() if name not in names]
                write_whole(_part(file), "".join(map(as_line, left)))
                for finished in (file, _sums(file)):
                    finished.unlink(missing_ok=True)
        return [record for _, record in stretch]

    def is_done(self, work: Workspace) -> bool:
        """Whether there is nothing left to do for this shard."""
        if any(not work.file(self.name, chunk).exists() for chunk in work.own_chunks):
            return False
        return all(self._lacking(work, chunk) is None for chunk in work.own_chunks)

    def is_complete(self, work: Workspace) -> bool:
        """Whether every chunk, of all shards, holds a record of every item."""
        # Files are looked for first: to read them all is dear, and without them the items may not be known yet.
        if work.missing(self.name):
            return False
        return all(self._lacking(work, chunk) is None for chunk in range(work.num_chunks))

    def _lacking(self, work: Workspace, chunk: int) -> list[Record] | None:
        """The items of a chunk that have no record yet; None if the chunk is finished."""
        items = self.items(work, chunk)
        stored, is_damaged = self._stored(work, chunk)
        lacking = [item for item in items if item["id"] not in stored]
        return lacking if lacking or is_damaged or not work.file(self.name, chunk).exists() else None

    def _stored(self, work: Workspace, chunk: int) -> tuple[dict[str, Record], bool]:
        """The records that a chunk has already, finished or not, with all their files; whether lines are damaged."""
        found: dict[str, Record] = {}
        is_damaged = False
        for file in (work.file(self.name, chunk), _part(work.file(self.name, chunk))):
            with suppress(FileNotFoundError):
                records, damaged = read_lines(file)
                if damaged:
                    is_damaged = True
                    logger.warning("%s: %d damaged lines are made again", file, damaged)
                for record in records:
                    if all(_has_bytes(work.root / needed) for needed in self.files(record)):
                        found.setdefault(record["id"], record)
                    else:
                        logger.warning("%s: the files of item %s are gone: made again", file, record["id"])
        return found, is_damaged

    def _tell_of_changes(self, work: Workspace, chunk: int) -> None:
        """Warns of a finished chunk that somebody edited, or that is damaged: it is taken as it is."""
        file = work.file(self.name, chunk)
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            name = f"{self.name}/{file.name}"
            if fault := next(faults_of(work.root, {name: read_json(_sums(file))["files"][name]}), None):
                logger.warning("%s: taken as it is; --redo %s would make it anew", fault, self.name)

    def _run_chunk(self, work: Workspace, chunk: int, brake: Brake, advance: Callable[[], None]) -> None:
        file = work.file(self.name, chunk)
        try:
            lock = FileLock(file.with_name(f".{file.stem}.lock"), timeout=0)
            lock.acquire()
        except Timeout:
            raise SynthesisError(
                f"{file}: another process works on this chunk; wait for it, or give every process its own --shard i/n"
            ) from None
        started, clock, count = datetime.now(timezone.utc), time.monotonic(), 0
        try:
            items = self.items(work, chunk)
            stored, _ = self._stored(work, chunk)
            lacking = [item for item in items if item["id"] not in stored]
            if lacking:
                _cut_torn_line(_part(file))
                brake.begin(chunk, [item["id"] for item in lacking])
                made = (record for record in self.process(lacking, work, chunk))  # it can be closed, whatever it is
                with _part(file).open("a", encoding="utf-8") as journal, closing(made):
                    for record in made:
                        journal.write(as_line(record))
                        journal.flush()
                        stored[record["id"]] = record
                        count += 1
                        advance()
                        brake.add(record)
            if absent := [item["id"] for item in items if item["id"] not in stored]:
                raise SynthesisError(f"{file}: stage {self.name} made no record of {', '.join(absent[:5])}")
            # What was made of items not asked for today (a judge's scores under other bounds) stays, at the end.
            asked_for = [stored.pop(item["id"]) for item in items]
            records = [*asked_for, *stored.values()]
            work.write(self.name, chunk, records)
            names = [f"{self.name}/{file.name}", *(name for record in records for name in self.files(record))]
            sums = sealed({"files": record_files(work.root, dict.fromkeys(names))})
            write_whole(_sums(file), json.dumps(sums, indent=1, ensure_ascii=False) + "\n")
            _part(file).unlink(missing_ok=True)
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

    @contextmanager
    def _progress(self, work: Workspace, total: int) -> Iterator[Callable[[], None]]:
        """A bar with rate and time left, and with the cost so far and to come where there is one."""
        spent, count = self.usage()["cost"], 0
        with tqdm(total=total, desc=self.name, unit="item", mininterval=1, disable=not work.show_progress) as bar:

            def advance() -> None:
                nonlocal count
                count += 1
                bar.update()
                if cost := self.usage()["cost"] - spent:
                    left = cost / count * (total - count)
                    bar.set_postfix_str(f"cost {cost:,.2f}, {left:,.2f} to go", refresh=False)

            yield advance


class PartStage(ItemStage):
    """A stage whose work one part does.

    Args:
        settings: Of the part; it is loaded when there is something to do.
    """

    most_trials: ClassVar[int] = 8  # one of which must be usable: some answers are not, of the best models, too

    def __init__(self, settings: Any):
        super().__init__()
        self.has_brake = settings is not None
        self._part_settings = settings
        self._part: Any = None

    @property
    def part(self) -> Any:
        """The part, loaded on first use."""
        if self._part is None:
            try:
                self._part = self._part_settings.load()
            except ValueError as error:  # the model does not take these settings
                raise SynthesisError(f"stage {self.name}: {error}. Correct the recipe.") from error
            self.about = self._part.about
        return self._part

    @property
    def works_with(self) -> Any:
        """The settings of the part."""
        return self._part_settings

    def try_out(self, pair: Record, folder: Path) -> None:
        """See `Stage.try_out`."""
        tried: list[Record] = []
        try:
            while len(tried) < self.most_trials and all(REJECTED in record for record in tried):
                tried.append(self.trial(pair | {"id": f"preflight-{len(tried)}"}, folder))
        finally:
            self._let_go()
        check_usable(self.name, tried)

    def trial(self, pair: Record, folder: Path) -> Record:
        """What the part makes of a painted pair, or of nothing but its id: a record, maybe a rejected one."""
        _ = self.part
        return {"id": pair["id"]}

    def prepare(self) -> None:
        """Load the part."""
        _ = self.part

    def release(self) -> None:
        """Let go of the part."""
        self._part = None

    def usage(self) -> Counter[str]:
        """What the part has spent."""
        return Counter(self._part.usage if self._part else {})


class WritingStage(PartStage):
    """The first stage: a writer makes a text of every number.

    Args:
        writer: Settings of the writer, whose part has `write(ids, seed)`.
        count: Of the texts. It does not decide what they are, so that more may be asked for later.
        chunk_size: Texts per file.
        seed: Of the texts.
    """

    source = None

    def __init__(self, writer: Any, count: int, chunk_size: int, seed: int):
        super().__init__(writer)
        self._count, self._chunk_size, self._seed = count, chunk_size, seed
        self.settings = {"writer": deciding(writer), "seed": seed, "chunk_size": chunk_size}

    def check_settings(self, work: Workspace) -> None:
        """See `Stage.check_settings`.

        Raises:
            SynthesisError: also if more texts were made than are asked for: all that follows would be made of fewer.
        """
        super().check_settings(work)
        last = self._count // self._chunk_size  # earlier chunks cannot hold too many
        files = [
            file for file in work.folder(self.name).glob("[0-9]*.jsonl") if int(file.name.partition(".")[0]) >= last
        ]
        stored = max((int(record["id"]) + 1 for file in files for record in read_lines(file)[0]), default=0)
        if stored > self._count:
            raise SynthesisError(
                f"{work.folder(self.name)} holds {stored:,} texts, and {self._count:,} are asked for: give another "
                "--output for fewer"
            )

    def items(self, work: Workspace, chunk: int) -> list[Record]:
        """The numbers of a chunk."""
        first = chunk * self._chunk_size
        return [{"id": str(number)} for number in range(first, min(first + self._chunk_size, self._count))]

    def process(self, items: Sequence[Record], work: Workspace, chunk: int) -> Iterator[Record]:
        """Their texts."""
        return self.part.write((item["id"] for item in items), self._seed)

    def trial(self, pair: Record, folder: Path) -> Record:
        """A text of another number than any item has."""
        (record,) = self.part.write([pair["id"]], self._seed)
        return record


class PaintingStage(PartStage):
    """A stage that paints a picture of every item.

    Items have `prompt`, `seed`, `scene` (a record of the stage before), and maybe a `strength`; all but the scene goes
    into the picture's record.

    Args:
        painter: Settings of an image model.
        image_format: "png" or "jpg".
        image_quality: Of JPEG.
    """

    most_trials = 3

    def __init__(self, painter: Any, image_format: str, image_quality: int):
        super().__init__(painter)
        self._format, self._quality = image_format, image_quality

    def files(self, record: Record) -> list[str]:
        """The picture."""
        return [record["image"]] if "image" in record else []

    def request(self, item: Record, work: Workspace) -> ImageRequest:
        """What the image model is asked for."""
        return ImageRequest(item["id"], item["prompt"], item["seed"], item.get("strength", 1.0), item["scene"])

    def trial_request(self, pair: Record, folder: Path) -> ImageRequest:
        """What it is asked for before the first item."""
        return ImageRequest(pair["id"], pair["caption_a"], seed_of(self.name, pair["id"]), scene=pair)

    def trial(self, pair: Record, folder: Path) -> Record:
        """See `PartStage.trial`."""
        (painted,) = self.part.paint([self.trial_request(pair, folder)])
        fault = fault_of(painted)
        return {"id": pair["id"]} | ({REJECTED: fault} if fault else {})

    def process(self, items: Sequence[Record], work: Workspace, chunk: int) -> Iterator[Record]:
        """The pictures, saved, and a record of each."""
        records = {item["id"]: {key: value for key, value in item.items() if key != "scene"} for item in items}
        for painted in self.part.paint(self.request(item, work) for item in items):
            record = records[painted.id]
            if fault := fault_of(painted):
                yield record | {REJECTED: fault}
                continue
            image = f"{self.name}/images/{chunk:05d}/{painted.id}.{self._format}"
            save_picture(painted.image, work.root / image, self._quality)
            yield record | {"image": image} | painted.facts


def fault_of(painted: PaintedImage) -> str | None:
    """Why a picture cannot be used, whoever painted it; None if it can."""
    if painted.image is None:
        return painted.fault or "no picture"
    # Of an adapter or a model that is broken in a way that no fault tells of.
    return "a picture of one colour" if is_one_colour(painted.image) else None


class WholeStage(Stage):
    """A stage that needs all records of the stage before; it runs in one process, and again when they changed."""

    @abstractmethod
    def make(self, work: Workspace) -> dict[str, Any]:
        """Do it. Returns the counts for the manifest."""

    def sources(self) -> list[str]:
        """The stages whose records decide the result."""
        return [self.source]

    def results(self, work: Workspace) -> list[Path]:
        """The files by which to see whether what was made is still there."""
        return work.files(self.name)

    def run(self, work: Workspace) -> None:
        """Do it, unless it was done with just these records, and the result is there as it was made.

        Raises:
            SynthesisError: the recipe changed, or records are missing.
        """
        with reporting_files(work.folder(self.name)):
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


class DataSetStage(WholeStage):
    """A stage that makes data sets: folders of the workspace, beside those of the stages."""

    @abstractmethod
    def data_sets(self, settings: Mapping[str, Any]) -> list[Path]:
        """Their annotation files below the workspace, by the stage's settings; each in the folder of a data set."""

    def results(self, work: Workspace) -> list[Path]:
        """The annotation files."""
        return [work.root / file for file in self.data_sets(self.settings)]

    def check_settings(self, work: Workspace) -> None:
        """See `Stage.check_settings`.

        Raises:
            SynthesisError: also if a folder of that name is there that this stage did not make: it would be replaced.
        """
        super().check_settings(work)
        if not work.manifest(self.name):
            for folder in (file.parent for file in self.results(work)):
                if folder.exists():
                    raise SynthesisError(f"{folder} is there already, and was not made here: give another --output")

    def discard(self, work: Workspace) -> None:
        """Delete the data sets, too."""
        if found := work.manifest(self.name):
            for file in self.data_sets(found["settings"]):
                shutil.rmtree(work.root / file.parent, ignore_errors=True)
        super().discard(work)


def run_stages(stages: Sequence[Stage], work: Workspace, wait: bool = False) -> str | None:
    """Run stages one after the other, each as far as this shard goes.

    Args:
        stages: In order.
        work: Where, and which shard.
        wait: Whether to wait for other shards where a stage needs all of them, or to stop there.

    Returns:
        Why it stopped early; None when all stages are done.

    Raises:
        SynthesisError: as `Stage.run`.
    """
    by_name = {stage.name: stage for stage in stages}
    for stage in stages:
        if isinstance(stage, WholeStage):
            needed = [by_name[name] for name in stage.sources() if isinstance(by_name[name], ItemStage)]
            is_told = False
            while unfinished := [source.name for source in needed if not source.is_complete(work)]:
                if wait and not is_told:
                    logger.info("waiting for other shards to finish %s", ", ".join(unfinished))
                    is_told = True
                if not wait:
                    shard = "{}/{}".format(*work.shard)
                    return (
                        f"shard {shard} has done its part of {', '.join(unfinished)}; {stage.name} needs all shards: "
                        "when they are through, start every shard again"
                    )
                time.sleep(_WAIT)
        stage.run(work)
    return None


def discard_from(name: str, stages: Sequence[Stage], work: Workspace) -> None:
    """Delete what a stage and the later ones made.

    Raises:
        SynthesisError: there is no such stage.
    """
    with reporting_files(work.root):
        for stage in stages[position_of(name, stages) :]:
            stage.discard(work)


def position_of(name: str, stages: Sequence[Stage]) -> int:
    """Which of the stages has this name, from 0.

    Raises:
        SynthesisError: none has.
    """
    names = [stage.name for stage in stages]
    if name not in names:
        raise SynthesisError(f"there is no stage {name!r}; the stages are {', '.join(names)}")
    return names.index(name)


@contextmanager
def reporting_files(folder: Path) -> Iterator[None]:
    """Turns a full disk and missing rights into one clear line.

    Raises:
        SynthesisError: instead of these OSErrors.
    """
    try:
        yield
    except OSError as error:
        place = error.filename or folder
        if error.errno in DISK_FULL:
            raise SynthesisError(
                f"{place}: the disk is full. Make room and give the same command again: what is finished stays."
            ) from error
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise SynthesisError(f"{place}: no permission to write there. Give another --output.") from error
        raise


def fingerprint(files: Iterable[Path]) -> str | None:
    """A hash of what is in these files; None if one is missing."""
    digest = hashlib.sha256()
    try:
        for file in files:
            with file.open("rb") as stream:
                while block := stream.read(2**20):
                    digest.update(block)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


def free_memory() -> None:
    """Give back what nobody holds any more, a GPU's memory too; torch keeps it for itself otherwise."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        torch.cuda.empty_cache()


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


def write_whole(file: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, whatever happens in between."""
    part = file.with_name(f".{file.name}")  # one name, so that what a kill leaves behind is written over
    try:
        with part.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def as_json_list(records: Iterable[Record], file: Path) -> int:
    """Write records as a JSON list, one to a line; returns how many."""
    count = 0
    with file.open("w", encoding="utf-8", newline="\n") as stream:
        for record in records:
            stream.write(",\n " if count else "[\n ")
            json.dump(record, stream, ensure_ascii=False)
            count += 1
        stream.write("\n]\n" if count else "[]\n")
    return count


def _part(file: Path) -> Path:
    return file.with_suffix(".part.jsonl")


def _sums(file: Path) -> Path:
    return file.with_suffix(".sums.json")


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
        for file in chunks:
            name = _sums(file).relative_to(root).as_posix()
            try:
                sums = read_json(_sums(file))
                if not is_sealed(sums):
                    raise ValueError
                faults += faults_of(root, sums["files"], show_progress=show_progress)
            except FileNotFoundError:
                faults.append(f"{name} is missing: the chunk is of an earlier version, or was moved here")
            except (ValueError, KeyError, TypeError, AttributeError):
                faults.append(f"{name} is damaged")
    return faults


def _cut_torn_line(file: Path) -> None:
    """Cut off what follows the last whole line: a kill may have torn it, and nothing may be written behind it."""
    with suppress(FileNotFoundError):
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            os.truncate(file, whole)


def _has_bytes(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:
        return False


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
