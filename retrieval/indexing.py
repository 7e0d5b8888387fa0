"""A gallery's folder brought into line with its images: new ones are encoded, renamed ones followed, others dropped.

Images are told by their contents, wherever they lie, so only those that are new or changed are encoded. What is encoded
counts every few thousand images, or every minute, so an interrupted run goes on. Processes of `accelerate launch`, or
started one by one, share the images: each takes the next few that nobody has, by a lock, and what two of them should
have encoded all the same counts once.
"""

import errno
import logging
import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import xxhash
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm.auto import tqdm

from ..loading import dead_workers_told
from ..names import counted, printable
from ..retriever import Retriever, RetrieverProcessor
from ..workers import is_first_process
from .cutting import Cutter, cut_encoder
from .encoding import target_encoder, warn_of_skipped, watched
from .filling import Encode
from .identity import input_name, input_path
from .metadata import Entry, entry_of, exif_of
from .segment_list import GalleryFolder
from .segment_writer import GalleryWriter
from .shards import lock_of, remove_lock
from .state import GalleryState, skipped_image

logger = logging.getLogger(__name__)

_LOCK = "images"  # how names of locks begin
IMAGES_A_LOCK = 512  # taken at a time by one of several processes
CUT_IMAGES_A_LOCK = 64  # to find what is in an image takes longer than to encode it
IMAGES_A_COMMIT, SECONDS_A_COMMIT = 4096, 60.0
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}


def known_files(state: GalleryState) -> dict[str, dict[str, Any]]:
    """What a gallery knows of files, by path, for `describe_images`."""
    entries = (entry for _, entry in state.whereabouts())
    return {entry.path: entry.description() for entry in entries if entry.path and entry.contents and entry.stamp}


@torch.no_grad()
@dead_workers_told()
def index_images(
    place: GalleryFolder,
    model: Retriever,
    processor: RetrieverProcessor,
    images: Sequence[Any],
    inputs: Sequence[dict[str, Any]],
    folder: Path | None,
    batch_size: int,
    num_workers: int | None,
    on_error: str,
    progress: bool,
    cutter: Cutter | None = None,
) -> GalleryState:
    """Makes a gallery one of exactly these images; arguments and errors as for `Gallery.from_images`.

    Args:
        inputs: a description of each image, see `describe_images`.
        folder: what their paths are relative to, or None.
        cutter: what finds the parts of images that are entries of their own; None: each image is one as a whole.

    Raises:
        ValueError: the gallery is one of other images altogether.
    """
    names = [input_name(line, row, folder) for row, line in enumerate(inputs)]
    try:
        with place.writing(wait=None) as writer:
            missing = _bring_into_line(writer, inputs, folder)
            state = writer.state
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        state = place.read()
        logger.warning(
            "%s cannot be written to (%s): it serves as it is, without what is new or changed among the images",
            *(printable(place.path), error.strerror),
        )
        return state
    passing: set[int] = set()
    facts: dict[int, list[dict[str, Any]]] = {}
    options = (batch_size, num_workers, on_error, passing)
    if cutter is None:
        encode = target_encoder(model, processor, images, *options)
    else:
        encode = cut_encoder(model, processor, images, cutter, *options, facts)
    encode = watched(encode, inputs, names, folder, passing if on_error == "skip" else None)
    is_shown = progress and is_first_process()
    with tqdm(total=len(inputs), desc="encoding gallery", unit="image", disable=not is_shown) as bar:
        bar.update(len(inputs) - len(missing))
        filling = _Filling(place, state, inputs, names, folder, encode, facts, bar)
        size = max(1, IMAGES_A_LOCK // batch_size) * batch_size  # whole batches, as without locks
        if cutter is not None:
            size = min(size, CUT_IMAGES_A_LOCK)
        busy = filling.encode_what_is_free([missing[start : start + size] for start in range(0, len(missing), size)], 0)
        if busy:
            logger.warning(
                "%s: waiting for other processes to finish %d of %d images",
                *(printable(place.path), sum(map(len, busy)), len(inputs)),
            )
            filling.encode_what_is_free(busy, -1)
    _remove_free_locks(place)
    state = place.read(filling.state)
    left_out = [names[row] for row in sorted(filling.left_out)]
    warn_of_skipped(left_out, [names[row] for row in sorted(passing & filling.left_out)], len(images))
    if len(state) == 0 and len(images):
        raise ValueError(f"none of {counted(len(images), 'image')} can be read: {', '.join(left_out[:5])}")
    return state


def _remove_free_locks(place: GalleryFolder) -> None:
    """Removes the locks of processes that were killed."""
    for file in place.path.glob(f".{_LOCK}-*.lock"):
        with suppress(OSError, Timeout), FileLock(file, timeout=0) as lock:
            remove_lock(lock)


class _Filling:
    """Encodes images, and commits them now and then."""

    def __init__(
        self,
        place: GalleryFolder,
        state: GalleryState,
        inputs: Sequence[dict[str, Any]],
        names: Sequence[str],
        folder: Path | None,
        encode: Encode,
        facts: dict[int, list[dict[str, Any]]],
        bar: tqdm,
    ):
        self.place, self.state, self.inputs, self.names, self.folder = place, state, inputs, names, folder
        self.encode, self.facts, self.bar, self.left_out = encode, facts, bar, set()
        self.planned = state.generation  # as of which nobody has encoded what is missing
        self.wanted = Counter(_key(line) for line in inputs)
        self._forget()

    def _forget(self) -> None:
        self.rows: list[int] = []
        self.parts: list[Tensor] = []
        self.skipped: list[int] = []
        self.since = time.monotonic()

    def encode_what_is_free(self, shares: Iterable[list[int]], timeout: float) -> list[list[int]]:
        """Encodes the shares of images that no other process has taken; returns the others."""
        taken: deque[tuple[FileLock, set[int]]] = deque()
        busy = []

        def take() -> Iterator[list[int]]:
            for rows in shares:
                name = xxhash.xxh3_64_hexdigest(ascii(_key(self.inputs[rows[0]])).encode())
                lock = lock_of(self.place.path, f"{_LOCK}-{name}")
                try:
                    lock.acquire(timeout=timeout)
                except Timeout:
                    busy.append(rows)
                    continue
                if self.place.generation() != self.state.generation:
                    self.state = self.place.read(self.state)
                lacking = self._lacking(self.state, rows)
                self.bar.update(len(rows) - len(lacking))
                if lacking:
                    taken.append((lock, set(lacking)))
                    yield lacking
                else:
                    remove_lock(lock)
                    lock.release()

        given = take()
        try:
            if (first := next(given, None)) is None:  # nothing to do: start no workers
                return busy
            for rows, left_out, features in self.encode(chain([first], given)):
                self.rows += rows
                self.skipped += left_out
                self.parts.append(features.cpu())
                self.bar.update(len({*rows, *left_out}))
                if len(self.rows) >= IMAGES_A_COMMIT or time.monotonic() - self.since >= SECONDS_A_COMMIT:
                    self._commit(taken)
            self._commit(taken)
        except BaseException:
            with suppress(OSError, ValueError):  # what was encoded is kept, whatever stops the rest
                self._commit(taken)
            raise
        finally:
            for lock, _ in taken:
                lock.release()
        return busy

    def _commit(self, taken: deque[tuple[FileLock, set[int]]]) -> None:
        rows, skipped = list(self.rows), list(self.skipped)
        if not rows and not skipped:
            return
        with self.place.writing(wait=None, before=self.state) as writer:
            images = list(dict.fromkeys(rows))  # whose rows come once for each of their entries
            lacking = self._lacking(writer.state, images)
            for row in (*images, *skipped):
                writer.delete(_outdated(writer.state, self.inputs[row]))
            if lacking:
                chosen = set(lacking)
                is_lacking = torch.tensor([row in chosen for row in rows])
                writer.append(torch.cat(self.parts)[is_lacking], self._entries([row for row in rows if row in chosen]))
            self._note_skipped(writer, images, skipped)
            self.state = writer.commit()
        self.left_out.update(skipped)
        for row in images:
            self.facts.pop(row, None)
        self._forget()
        while taken and not (left := taken[0][1].difference(rows, skipped)):
            remove_lock(taken[0][0])
            taken.popleft()[0].release()
        if taken:
            taken[0] = (taken[0][0], left)

    def _entries(self, rows: Sequence[int]) -> list[Entry]:
        known: dict[int, tuple[Entry, Iterator[dict[str, Any]]]] = {}
        entries = []
        for row in rows:
            if row not in known:
                path = input_path(self.inputs[row], self.folder)
                of_file = entry_of(self.inputs[row], **({} if path is None else exif_of(path)))
                known[row] = of_file, iter(self.facts.get(row, [{}]))
            of_file, facts = known[row]
            entries.append(replace(of_file, **next(facts)))
        return entries

    def _note_skipped(self, writer: GalleryWriter, rows: Sequence[int], skipped: Sequence[int]) -> None:
        told, done = (
            [skipped_image(self.inputs[row].get("path"), self.names[row]) for row in of] for of in (skipped, rows)
        )
        noted = [image for image in writer.state.skipped if image not in told and image not in done] + told
        if noted != list(writer.state.skipped):
            writer.note(skipped=noted)

    def _lacking(self, state: GalleryState, rows: Sequence[int]) -> list[int]:
        """Those of the inputs that a gallery does not hold: another process may have encoded them."""
        if state.generation == self.planned:
            return list(rows)
        room = {key: self.wanted[key] - _count(state, *key) for key in {_key(self.inputs[row]) for row in rows}}
        lacking = []
        for row in rows:
            key = _key(self.inputs[row])
            if key[1] is None or room[key] > 0:
                lacking.append(row)
                room[key] -= 1
        return lacking


def _bring_into_line(writer: GalleryWriter, inputs: Sequence[dict[str, Any]], folder: Path | None) -> list[int]:
    """Follows renamed images and drops others, in one step; returns the numbers of those that are to be encoded.

    The entries of one image stay together. Those with a time are of films, and of no concern here.
    """
    state = writer.state
    stored, films = {}, set()
    for row, entry in state.whereabouts():
        if entry.time is None:
            stored[row] = entry
        else:
            films.add(entry.path)
    at_path, of_contents = defaultdict(list), defaultdict(list)
    for row, entry in stored.items():
        at_path[entry.path].append(row)
        of_contents[entry.contents].append(row)
    free, found = dict.fromkeys(stored), {}
    num_at_path = Counter(line.get("path") for line in inputs)
    for number, line in enumerate(inputs):
        path, contents = _key(line)
        if path is None or contents is None:
            continue
        rows = [row for row in at_path[path] if row in free and stored[row].contents == contents]
        if rows := rows if num_at_path[path] == 1 else rows[:1]:
            found[number] = rows
            for row in rows:
                del free[row]
    copied = {}
    for number, line in enumerate(inputs):
        contents = line.get("contents")
        if number in found or contents is None or contents not in of_contents:
            continue
        rows = of_contents[contents]
        is_copy = free.keys().isdisjoint(rows)
        if not is_copy:
            rows = [row for row in rows if row in free]
        rows = [row for row in rows if stored[row].path == stored[rows[0]].path]
        if num_at_path[line.get("path")] != 1:  # an image that was given several times, or has no file
            rows = rows[:1]
        if is_copy:
            copied[number] = rows
        else:
            found[number] = rows
            for row in rows:
                del free[row]
    missing = [number for number in range(len(inputs)) if number not in found and number not in copied]
    num_films_there = sum(os.path.lexists(Path(folder or "", film)) for film in films)  # whatever they hold
    num_found = sum(map(len, found.values())) + num_films_there
    _refuse_another_gallery(writer, inputs, len(stored) + len(films), num_found, folder)
    paths = {inputs[number].get("path") for number in missing} - {None}
    gone = [row for row in free if stored[row].path not in paths]  # others go once something is in their place

    lies = {number: entry_of(inputs[number]) for number in (*found, *copied)}  # where, and what is noted of it
    moved = {row: lies[number] for number, rows in found.items() for row in rows if stored[row] != lies[number]}
    writer.change(_lying(state, moved.keys(), moved.values()))
    writer.delete(gone)
    if copied:
        rows = [row for rows in copied.values() for row in rows]
        places = (lies[number] for number, rows in copied.items() for _ in rows)
        writer.copy(rows, list(_lying(state, rows, places, range(len(rows))).values()))
    is_elsewhere = any(stored[row].path != entry.path for row, entry in moved.items())
    if folder != state.images_folder:
        is_elsewhere = len(state) > 0
        writer.note(images_folder=folder)
    again = [image for image in state.skipped if image.get("path") in paths]
    if again != list(state.skipped):
        writer.note(skipped=again)
    writer.commit()
    if len(state) and (len(missing) > len(again) or gone or copied):
        logger.info(
            "%s: features of %d images reused, %d new or changed images to encode, %d removed images left out%s",
            *(printable(writer.folder.path), len(found) + len(copied), len(missing) - len(again), len(gone)),
            f", {len(again)} that had no features yet to try again" if again else "",
        )
    elif is_elsewhere:
        logger.info(
            "%s: the images were found again by their contents; their features are used", printable(writer.folder.path)
        )
    return missing


def _refuse_another_gallery(
    writer: GalleryWriter, inputs: Sequence[dict[str, Any]], num_stored: int, num_found: int, folder: Path | None
) -> None:
    """Keeps a mistaken folder from costing the features of another.

    In the same folder, all images may change; elsewhere, half of them must be the same, and half of the films there.
    Images without a folder need one in common.

    Args:
        num_stored, num_found: images, and films.
    """
    state = writer.state
    if folder is not None and state.images_folder is not None:
        same = folder == state.images_folder or 2 * num_found >= num_stored
    else:
        same = num_found > 0 or any(line.get("path") and state.rows_with("path", line["path"]) for line in inputs)
    if num_stored and not same:
        kind = "file" if state.films else "image"
        where = f" in {printable(state.images_folder)}" if state.images_folder else ""
        place = printable(writer.folder.path)
        raise ValueError(
            f"{place} holds features of another gallery: of its {counted(num_stored, kind)}{where}, {num_found:,} "
            f"are among the {len(inputs):,} given. Give another folder for these features; or, if this is the same "
            f"gallery with most of its images replaced, delete {place} first."
        )


def _outdated(state: GalleryState, line: dict[str, Any]) -> list[int]:
    """The rows of what lay at an image's path before."""
    path, contents = _key(line)
    if path is None or not (rows := state.rows_with("path", path)):
        return []
    entries = state.stored_entries(rows)
    return [row for row, entry in zip(rows, entries, strict=True) if contents is None or entry.contents != contents]


def _count(state: GalleryState, path: str | None, contents: str | None) -> int:
    rows = [] if contents is None else state.rows_with("contents", contents)
    return sum(entry.path == path for entry in state.stored_entries(rows)) if rows else 0


def _key(line: dict[str, Any]) -> tuple[str | None, str | None]:
    return line.get("path"), line.get("contents")


def _lying(
    state: GalleryState, rows: Collection[int], places: Iterable[Entry], keys: Iterable[int] | None = None
) -> dict[int, Entry]:
    """What is known of images that lie in other places now, by their rows, or by other keys."""
    return {
        key: replace(entry, path=place.path, stamp=place.stamp, is_fresh=place.is_fresh)
        for key, entry, place in zip(keys or rows, state.stored_entries(list(rows)), places, strict=True)
    }
