"""Gathers the image files that a data set's records name, and opens them."""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tqdm.auto import tqdm

from ..files import full_disk_told, stamp_of
from ..workers import in_processes
from .image_checks import ImageCheck, as_line, look_at, read_lines
from .layout import ImageFinder
from .records import BadRecord

logger = logging.getLogger(__name__)


class NamedImages:
    """The image files that the records name, each once, and what opening them showed.

    Attributes:
        paths: As written in the records, in order of appearance.
        absent: Number of a missing or empty image -> what is wrong.
        broken: Number of an image -> why it cannot be decoded.
        inaccessible: Number of an image -> why it cannot be read now.
        changed: Numbers of the images whose contents changed since they were found sound.
    """

    def __init__(self, finder: ImageFinder):
        self.paths: list[str] = []
        self.absent: dict[int, BadRecord] = {}
        self.broken: dict[int, str] = {}
        self.inaccessible: dict[int, str] = {}
        self.changed: list[int] = []
        self.num_opened = self.num_sound = self.num_bytes = 0
        self.widths: Counter[int] = Counter()
        self.heights: Counter[int] = Counter()
        self._finder = finder
        self._files: list[str] = []
        self._numbers: dict[str, int] = {}
        self._contents: dict[int, int] = {}  # hash -> number of the first image with that content
        self._copies: dict[int, list[int]] = defaultdict(list)  # number of that image -> the others

    def look_up(self, path: str) -> int:
        """The number of an image; a new one is looked for on the disk."""
        number = self._numbers.setdefault(path, len(self.paths))
        if number == len(self.paths):
            self.paths.append(path)
            try:
                self._files.append(self._finder.find(path))
            except BadRecord as bad:
                self._files.append("")
                self.absent[number] = bad
        return number

    def check(self, state: Path, num_workers: int, show_progress: bool) -> None:
        """Open all images that are there, except those that are sound by `state`; note in it those found sound."""
        todo = bytearray(bool(file) for file in self._files)
        known: dict[int, ImageCheck] = {}  # of files with another stamp than before
        for number, check, is_unchanged in self._read_state(state):
            if is_unchanged and todo[number]:
                todo[number] = False
                self._add(number, check)
            elif todo[number]:
                known[number] = check
        numbers = [number for number, is_to_do in enumerate(todo) if is_to_do]
        bar = tqdm(
            desc="Opening images",
            total=sum(map(bool, self._files)),
            initial=self.num_sound,
            unit=" images",
            disable=not show_progress,
        )
        # Buffered by lines: a killed run keeps them.
        with bar, full_disk_told(state), state.open("a", encoding="utf-8", buffering=1) as stream:
            stream.write("\n")  # ends a line that a killed run left unfinished
            tasks = [(self._files[number], known.get(number)) for number in numbers]
            everything_found = in_processes(look_at, tasks, num_workers)
            with closing(everything_found):
                for number, found in zip(numbers, everything_found, strict=True):
                    self.num_opened += found.was_opened
                    if number in known and found.check.content not in ("", known[number].content):
                        self.changed.append(number)
                    if found.is_inaccessible:
                        self.inaccessible[number] = found.check.error
                    else:
                        self._add(number, found.check)
                    if not found.check.error and found.stamp:
                        stream.write(as_line(self.paths[number], found))
                    bar.update()

    def _read_state(self, state: Path) -> Iterator[tuple[int, ImageCheck, bool]]:
        """What an earlier check found sound, and whether the file is unchanged."""
        num_unread = 0
        for line in read_lines(state):
            if line is None:
                num_unread += 1
                continue
            path, check, stamp = line
            number = self._numbers.get(path)
            if number is None or not self._files[number]:
                continue
            try:
                now = stamp_of(os.stat(self._files[number]))  # noqa: PTH116 - there are millions, and Path takes longer
            except OSError:
                continue
            yield number, check, now == stamp
        if num_unread:
            logger.warning(
                "%s: %d lines are broken, or of an earlier version; their images are opened again.", state, num_unread
            )

    def _add(self, number: int, check: ImageCheck) -> None:
        if check.error:
            self.broken[number] = check.error
            return
        self.num_sound += 1
        self.num_bytes += check.size
        self.widths[check.width] += 1
        self.heights[check.height] += 1
        first = self._contents.setdefault(int(check.content, 16), number)
        if first != number:
            self._copies[first].append(number)

    def copies(self) -> list[list[str]]:
        """Paths of the images with the same content, group by group."""
        return [[self.paths[number] for number in (first, *others)] for first, others in sorted(self._copies.items())]
