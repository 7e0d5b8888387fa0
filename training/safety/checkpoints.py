"""Checkpoint folders that count only when complete, whatever ends the run that writes them.

A checkpoint is written into `_unfinished/`, gets a manifest of its files, is flushed to disk, and appears as
`checkpoint-<step>` by one rename. One that is to be deleted is renamed before. So no kill leaves a half-written or
half-deleted folder under that name, and other tools see complete ones only.

The manifest holds a checksum of every file, and one of itself: a checkpoint that was damaged later is not resumed.
"""

import hashlib
import json
import logging
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ...files import DISK_FULL, faults_of, flush, is_sealed, read_json, record_files, says_disk_full, sealed

logger = logging.getLogger(__name__)

# Trainer.push_to_hub leaves out names that begin with an underscore.
UNFINISHED, SET_ASIDE, LOCK = "_unfinished", "_set_aside", "_lock"
MANIFEST = "manifest.json"
IDENTITY_COLUMNS = ("reference_image_path", "target_image_path", "edit_caption")  # after the group


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or resumed, or the output folder is not this run's."""


def step_of(checkpoint: Path) -> int:
    """The optimiser step in the name of a checkpoint folder."""
    return int(checkpoint.name.rpartition("-")[2])


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoint folders in an output folder, complete or not, by step."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted((path for path in found if path.is_dir()), key=step_of)


def read_manifest(checkpoint: Path) -> dict[str, Any] | None:
    """What `publish` recorded; None if there is nothing of it that can be read.

    Raises:
        OSError: it is there, but cannot be read now.
    """
    try:
        manifest = read_json(checkpoint / MANIFEST)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    is_whole = isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) and is_sealed(manifest)
    return manifest if is_whole else None


def faults_in(checkpoint: Path, contents: bool = True, show_progress: bool = False) -> Iterator[str]:
    """What is wrong with a checkpoint by its manifest, file by file.

    Args:
        contents: whether to read every file for its checksum, or only to look for it and its size.

    Raises:
        OSError: a file is there, but cannot be read now.
    """
    manifest = read_manifest(checkpoint)
    if manifest is not None:
        yield from faults_of(checkpoint, manifest["files"], contents, show_progress)
    elif (checkpoint / MANIFEST).exists():
        yield f"{MANIFEST} is damaged, or of an earlier version, which wrote no checksums"
    else:
        yield f"no readable {MANIFEST}"


def fault_of(checkpoint: Path, contents: bool = True) -> str | None:
    """The first of `faults_in` a checkpoint; None if it is complete and sound."""
    return next(faults_in(checkpoint, contents), None)


def newest_complete(folder: Path, at_most: float = math.inf) -> Path | None:
    """The complete checkpoint of the highest step up to `at_most`; None if there is none.

    Files are not read, so that a run may ask after every checkpoint; see `newest_sound`.
    """
    found = [checkpoint for checkpoint in reversed(checkpoints_in(folder)) if step_of(checkpoint) <= at_most]
    return next((checkpoint for checkpoint in found if fault_of(checkpoint, contents=False) is None), None)


def newest_sound(folder: Path, at_most: float = math.inf) -> tuple[Path | None, dict[Path, str]]:
    """The newest checkpoint whose files are all as they were written, and why none of the later ones is taken.

    Args:
        at_most: the highest step that may be taken.

    Raises:
        OSError: a file is there, but cannot be read now.
    """
    passed_over = {}
    for checkpoint in reversed(checkpoints_in(folder)):
        is_late = step_of(checkpoint) > at_most
        fault = fault_of(checkpoint, contents=not is_late)
        if fault is None and not is_late:
            return checkpoint, passed_over
        passed_over[checkpoint] = fault or f"beyond step {at_most}, the last known to be good"
    return None, passed_over


def publish(written: Path, folder: Path, about: dict[str, Any]) -> Path:
    """Makes a checkpoint count that was written to its end, and returns its place; one that was there is replaced.

    Args:
        written: `folder/_unfinished/checkpoint-<step>`, its files closed.
        folder: the output folder.
        about: further entries of the manifest.
    """
    files = sorted(path for path in written.rglob("*") if path.is_file() and path.name != MANIFEST)
    for path in files:
        flush(path)
    recorded = record_files(written, [path.relative_to(written).as_posix() for path in files])
    manifest = sealed({"files": recorded, **about})
    # Last: a folder with a manifest is complete on the disk, also after a power cut.
    (written / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    flush(written / MANIFEST)
    for path in [*(path for path in written.rglob("*") if path.is_dir()), written]:
        flush(path)
    return _put_in_place(written, folder)


def recover(folder: Path) -> None:
    """Tidies up after a run that was killed: finishes or removes what it was writing, and what it was deleting."""
    for written in checkpoints_in(folder / UNFINISHED):
        if fault := fault_of(written):
            logger.warning("%s was being written when the run was stopped (%s): passed over", written, fault)
        else:
            logger.info("%s was complete when the run was stopped: put in its place", _put_in_place(written, folder))
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def rotate(folder: Path, limit: int | None, kept: Iterable[Path]) -> None:
    """Removes the oldest checkpoints above `limit`, never the newest or one of `kept`."""
    found = checkpoints_in(folder)
    names = {path.name for path in kept if path.parent.resolve() == folder.resolve()} | {found[-1].name}
    spare = [path for path in found if path.name not in names]
    num_surplus = max(len(found) - limit, 0) if limit else 0
    for checkpoint in spare[:num_surplus]:
        _discard(checkpoint)


def set_aside_after(folder: Path, step: int) -> None:
    """Moves checkpoints beyond a step out of the way of a run that goes on from there."""
    for checkpoint in reversed(checkpoints_in(folder)):
        if step_of(checkpoint) > step:
            target = folder / SET_ASIDE / checkpoint.name
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            checkpoint.replace(target)
            logger.warning("%s is beyond the step this run goes on from: moved to %s", checkpoint, target.parent)


def _put_in_place(written: Path, folder: Path) -> Path:
    place = folder / written.name
    if place.exists():  # `recover` mends a kill after this line
        _discard(place)
    written.replace(place)
    flush(folder)
    return place


def _discard(checkpoint: Path) -> None:
    gone = checkpoint.parent / UNFINISHED / f"discarded-{checkpoint.name}"
    shutil.rmtree(gone, ignore_errors=True)
    gone.parent.mkdir(exist_ok=True)
    checkpoint.replace(gone)
    shutil.rmtree(gone, ignore_errors=True)


def disk_is_full(folder: Path, error: BaseException) -> bool:
    """Whether a write into a folder failed because the disk is full; the partial file must still be there.

    torch hides the operating system's error number, and its text.
    """
    if says_disk_full(error):
        return True
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(1 << 20))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as failed:
        return failed.errno in DISK_FULL
    return False


def data_identity(dataset, group_column: str = "cpr_id") -> dict[str, Any]:
    """Number of rows and a hash of the groups, images and captions in their order.

    It takes a second or two for 1.15 million rows.
    """
    columns = [name for name in (group_column, *IDENTITY_COLUMNS) if name in dataset.column_names]
    digest = hashlib.blake2b(digest_size=8)
    for name in columns:
        column = dataset.data.column(name)
        if dataset._indices is not None:  # far quicker than through the data set, which gathers row by row
            column = column.take(dataset._indices.column(0))
        for start in range(0, len(column), 100_000):
            digest.update("\n".join(map(str, column.slice(start, 100_000).to_pylist())).encode())
    return {"rows": len(dataset), "content of the rows": digest.hexdigest()}
