"""One consistent state of a gallery: what was searched yesterday is found today, whatever is written meanwhile."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .filters import Condition, parse_where, to_sql
from .metadata import Entry
from .parts import Part
from .segments import Segment, living_rows, rows_of


@dataclass(frozen=True, eq=False)
class GalleryState:
    """The images of a gallery at one time, in memory or mapped from a folder. It never changes.

    Row = place among all images of all segments, deleted ones too. Place = place among those that are not deleted.

    Args:
        settings: what made the features, see `fingerprint.feature_settings`.
        images_folder: what the entries' paths are relative to, or None.
        skipped: the images that could not be read: each with its `path`, in the same way, or else a `name`.
        calibration: what makes probabilities of scores, if it is known.
        films: how far each was read, by its contents: `until`, in seconds, None for its end; and how many `entries` it
            has then.
        generation: counts what was written to the folder.
    """

    segments: tuple[Segment, ...]
    settings: dict[str, Any]
    images_folder: Path | None = None
    skipped: tuple[dict[str, str], ...] = ()
    calibration: dict[str, Any] | None = None
    generation: int = 0
    films: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(segment.num_living for segment in self.segments)

    @cached_property
    def parts(self) -> list[Part]:
        """The segments' features, in order."""
        return [segment.part for segment in self.segments]

    @cached_property
    def starts(self) -> np.ndarray:
        """The first row of each segment, and the number of all rows."""
        return np.cumsum([0, *map(len, self.parts)])

    @property
    def num_rows(self) -> int:
        """The number of all rows."""
        return int(self.starts[-1])

    @cached_property
    def alive(self) -> Tensor | None:
        """`(num_rows,)`, bool: not deleted; None where all are."""
        if all(part.alive is None for part in self.parts):
            return None
        return torch.cat(
            [torch.ones(len(part), dtype=torch.bool) if part.alive is None else part.alive for part in self.parts]
        )

    @cached_property
    def ids(self) -> Tensor:
        """`(len,)`, int64, ascending: of the images that are not deleted."""
        ids = [part.ids.cpu() if part.alive is None else part.ids.cpu()[part.alive] for part in self.parts]
        return torch.cat(ids) if ids else torch.empty(0, dtype=torch.int64)

    @property
    def features(self) -> Tensor:
        """`(len, num_tokens, dim)`, of the images that are not deleted; several segments are copied together."""
        blocks = [
            _tokens(part) if part.alive is None else _tokens(rows_of(part, torch.from_numpy(living_rows(part))))
            for part in self.parts
        ]
        if len(blocks) == 1:
            return blocks[0]
        return torch.cat(blocks) if blocks else torch.empty(0, *self.settings["features"]["shape"])

    @cached_property
    def paths(self) -> list[Path | None]:
        """The file of each image that is not deleted; read when it is asked for."""
        stored = (
            path
            for segment in self.segments
            for path, is_alive in zip(segment.metadata.paths(), _is_alive(segment), strict=True)
            if is_alive
        )
        return [self.path_of(path) for path in stored]

    @property
    def skipped_names(self) -> list[str]:
        """Paths, or else names, of the images that could not be read."""
        return [image["name"] if "name" in image else str(self.path_of(image["path"])) for image in self.skipped]

    @property
    def tags(self) -> dict[str, set[str]]:
        """The kinds of values of each tag: name -> "text", "number"."""
        found: dict[str, set[str]] = {}
        for segment in self.segments:
            for name, kinds in segment.record["tags"].items():
                found.setdefault(name, set()).update(kinds)
        return found

    @property
    def device(self) -> torch.device:
        """Where the features are."""
        return self.parts[0].means.device if self.parts else torch.device("cpu")

    def to(self, device: torch.device) -> "GalleryState":
        """The same with the features on another device."""
        return replace(self, segments=tuple(_moved(segment, device) for segment in self.segments))

    def living_rows(self, places: Tensor) -> Tensor:
        """Places among the images that are not deleted -> their rows."""
        return places if self.alive is None else self._living[places]

    def places_of(self, rows: Tensor) -> Tensor:
        """Rows of images that are not deleted -> their places among those."""
        return rows if self.alive is None else torch.searchsorted(self._living, rows)

    def rows_of_ids(self, ids: Sequence[int]) -> Tensor:
        """The rows of images that are not deleted.

        Raises:
            ValueError: there is no image with such an id.
        """
        if strange := [number for number in ids if abs(number) >= 2**63]:
            raise ValueError(f"the gallery holds no image with id {strange[0]}")
        wanted = torch.as_tensor(list(ids), dtype=torch.int64)
        places = torch.searchsorted(self.ids, wanted)
        found = places < len(self.ids)
        found[found.clone()] = self.ids[places[found]] == wanted[found]
        if not found.all():
            raise ValueError(f"the gallery holds no image with id {wanted[~found][0].item()}")
        return self.living_rows(places)

    def entries(self, rows: Tensor | Sequence[int]) -> list[Entry]:
        """What is known of images, in order of the rows; paths are absolute."""
        found = self.stored_entries(rows)
        paths = (self.path_of(entry.path) for entry in found)
        return [replace(entry, path=path and str(path)) for entry, path in zip(found, paths, strict=True)]

    def stored_entries(self, rows: Tensor | Sequence[int]) -> list[Entry]:
        """What is known of images, paths as they are stored."""
        rows = np.asarray(rows, dtype=np.int64)
        found: list[Entry | None] = [None] * len(rows)
        for number, places, own in self.by_segment(rows):
            for place, entry in zip(places, self.segments[number].metadata.read(own), strict=True):
                found[place] = entry
        return found

    def tokens(self, rows: Tensor | Sequence[int]) -> Tensor:
        """`(m, num_tokens, dim)`, fp32, on the CPU: the features of some images.

        Raises:
            ValueError: they are damaged.
        """
        rows = np.asarray(rows, dtype=np.int64)
        found = torch.empty(len(rows), *self.settings["features"]["shape"])
        for number, places, own in self.by_segment(rows):
            tokens = _tokens(rows_of(self.parts[number], torch.from_numpy(own)))
            found[torch.from_numpy(places)] = tokens.float().cpu()
        return found

    def matching(self, where: str | Condition, rows: Tensor | None = None) -> Tensor:
        """The images, deleted ones too, that a filter lets through, see `filters`: `(num_rows,)`, bool.

        Args:
            where: as text, or as it was read.
            rows: `(m,)`, to look at these alone: `(m,)`, bool.

        Raises:
            ValueError, TypeError: it is no filter, or names an unknown field.
        """
        condition = where if isinstance(where, Condition) else parse_where(where, self.tags)
        question, parameters = to_sql(condition)
        if rows is None:
            return self._rows_that(f"SELECT row FROM entries WHERE {question}", parameters)
        found = torch.zeros(len(rows), dtype=torch.bool)
        among = f"SELECT row FROM entries WHERE row IN (SELECT value FROM json_each(?)) AND ({question})"
        for number, places, own in self.by_segment(rows.numpy()):
            metadata = self.segments[number].metadata
            matched = [row for (row,) in metadata.ask(among, [json.dumps(own.tolist()), *parameters])]
            found[torch.from_numpy(places[np.isin(own, matched)])] = True
        return found

    def living_rows_matching(self, where: str) -> Tensor:
        """The rows of images that are not deleted and that a filter lets through; errors as for `matching`."""
        matching = self.matching(where)
        return (matching if self.alive is None else matching & self.alive).nonzero().flatten()

    def rows_with(self, field: str, value: str) -> list[int]:
        """The rows of images that are not deleted with a stored `path`, or with `contents`."""
        return [
            int(start) + row
            for start, segment in zip(self.starts, self.segments, strict=False)
            for row in segment.metadata.rows_of(field, value)
            if segment.part.alive is None or segment.part.alive[row]
        ]

    def ids_of(self, rows: Tensor) -> Tensor:
        """The ids of images, in order of the rows: `(m,)`, int64."""
        found = torch.empty(len(rows), dtype=torch.int64)
        for number, places, own in self.by_segment(rows.numpy()):
            found[torch.from_numpy(places)] = self.parts[number].ids[torch.from_numpy(own)]
        return found

    def by_segment(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """The number of each segment with some of the rows, their places among `rows`, and the segment's own rows."""
        numbers = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(numbers).tolist():
            places = np.flatnonzero(numbers == number)
            yield number, places, rows[places] - self.starts[number]

    def whereabouts(self) -> Iterator[tuple[int, Entry]]:
        """The row, and the stored path, contents, stamp and time, of each image that is not deleted."""
        for start, segment in zip(self.starts.tolist(), self.segments, strict=False):
            for (row, entry), is_alive in zip(segment.metadata.whereabouts(), _is_alive(segment), strict=True):
                if is_alive:
                    yield start + row, entry

    def stored_path(self, file: str | Path) -> str:
        """How an entry names a file."""
        path, folder = Path(file).absolute(), self.images_folder
        return path.relative_to(folder).as_posix() if folder and path.is_relative_to(folder) else str(path)

    def path_of(self, path: str | None) -> Path | None:
        """The file that an entry names.

        Raises:
            ValueError: it leads out of the images' folder: the gallery is damaged, or means harm.
        """
        if path is None:
            return None
        if self.images_folder is not None and (PurePath(path).anchor or ".." in PurePath(path).parts):
            raise ValueError(f"the gallery names the file {path!r:.200}, which leads out of the images' folder")
        return Path(self.images_folder or "", path)

    @cached_property
    def _living(self) -> Tensor:
        return self.alive.nonzero().flatten()

    def _rows_that(self, question: str, parameters: Sequence[Any]) -> Tensor:
        found = torch.zeros(self.num_rows, dtype=torch.bool)
        for start, segment in zip(self.starts, self.segments, strict=False):
            rows = np.fromiter((row for (row,) in segment.metadata.ask(question, parameters)), dtype=np.int64)
            found[torch.from_numpy(rows) + int(start)] = True
        return found


def skipped_image(path: str | None, name: str) -> dict[str, str]:
    """An image that could not be read, as `GalleryState.skipped` has it: by its stored path, or else by a name."""
    return {"name": name} if path is None else {"path": path}


def _tokens(part: Part) -> Tensor:
    return part.codes * part.scales[:, None, None] if part.tokens is None else part.tokens


def _moved(segment: Segment, device: torch.device) -> Segment:
    part = segment.part
    arrays = ("tokens", "means", "codes", "scales", "errors", "alive")
    there = {name: None if getattr(part, name) is None else getattr(part, name).to(device) for name in arrays}
    return segment._replace(part=replace(part, **there, row_checksums=None, check=None))


def _is_alive(segment: Segment) -> Sequence[bool]:
    return [True] * len(segment.part) if segment.part.alive is None else segment.part.alive.tolist()
