"""Films in a gallery: the people of each, by the best crops of each of their tracks, with box and time.

A film is read in pieces of ten minutes. What a piece gave counts once the next one begins, together with a note of how
far the film was read; so a killed run goes on there, and finds what it would have found: tracks end with their piece. A
film whose contents are known and that was read to its end is not read again. What its file is called does not matter.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import xxhash
from filelock import FileLock
from torch import Tensor
from tqdm.auto import tqdm

from ..checks_fafa import AlikeFeatures, check_features
from ..film_reading import Film, Frame, UnreadableFilmError, check_rate
from ..image_reading_fafa import InaccessibleImageError
from ..names import clock, counted, printable, some
from ..retrieval.forward import forward
from ..retrieval.identity import describe_absent, describe_image
from ..retrieval.metadata import Entry, entry_of
from ..retrieval.shards import lock_of, remove_lock
from ..retrieval.state import GalleryState
from ..workers import is_first_process
from .crops import MARGIN, check_margin
from .detectors import Detector
from .scenes import SCORE
from .tracks import CROPS, follow_people

if TYPE_CHECKING:
    from PIL import Image

    from ..retrieval import Gallery

logger = logging.getLogger(__name__)

RATE = 5.0  # frames looked at in a second
PIECE = 600.0  # seconds
_TRACK = "track"  # the tag that numbers the tracks of a film


@dataclass
class FilmsTold:
    """What became of films.

    Args:
        read: films that were read, or gone on with. known: those that were in the gallery already.
        tracks, crops: of people, that were added.
        without_people: films in which nobody was found: some of their frames are in the gallery, whole.
        skipped: films that could not be read.
    """

    read: int = 0
    known: int = 0
    tracks: int = 0
    crops: int = 0
    without_people: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


class FilmCount(NamedTuple):
    """What a gallery holds of films.

    Args:
        films: how many there are. tracks: of people in them. crops: images of these.
    """

    films: int
    tracks: int
    crops: int


class _Piece(NamedTuple):
    """What one piece of a film gave: features `(n, num_tokens, dim)` and an entry for each."""

    features: list[Tensor]
    entries: list[Entry]


def index_films(
    gallery: "Gallery",
    films: Sequence[str | Path],
    detector: Detector,
    margin: float = MARGIN,
    rate: float | None = None,
    num_crops: int | None = None,
    batch_size: int = 64,
    on_error: str = "raise",
    progress: bool = True,
) -> FilmsTold:
    """Makes the films in a gallery exactly these; its photographs stay what they are.

    Each crop is an entry with the film's path, the crop's box, its time, and the tags `track` and `detector_score`. Of
    a film without people, some whole frames are.

    Args:
        gallery: one that lies in a folder.
        films: files; if the gallery has a folder of images, they lie within it.
        detector: who finds people; `margin`: around them, see `choose_people`.
        rate: frames looked at in a second; `num_crops`: of each track. Films that were read otherwise are read anew.
            None: as a film was read, or else `RATE` and `CROPS`.
        batch_size: crops encoded at a time.
        on_error: `"raise"` stops at a film that cannot be read; `"skip"` leaves it out, lists it and warns,
            and so it does with one that vanishes meanwhile.

    Raises:
        ValueError: the gallery lies in memory, or a setting is none. UnreadableFilmError: see `Film`.
        FileNotFoundError: a film is missing. OSError: the gallery cannot be written; what counted before still counts.
        ModuleNotFoundError: PyAV or supervision is missing.
    """
    if gallery.place is None:
        raise ValueError("films are added to a gallery in a folder, and this one lies in memory: save it first")
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}, expected 'raise' or 'skip'")
    if (num_crops is not None and num_crops < 1) or batch_size < 1:
        raise ValueError(f"num_crops is {num_crops}, batch_size {batch_size}, expected whole numbers from 1")
    check_margin(margin)
    check_rate(RATE if rate is None else rate)
    reading = _Reading(gallery, detector, margin, rate, num_crops, batch_size, progress and is_first_process())
    films, told = [Path(film).absolute() for film in films], reading.told
    lines = reading.bring_into_line(films)
    for film, line in zip(films, lines, strict=True):
        try:
            reading.read(film, line)
        except (UnreadableFilmError, PermissionError, FileNotFoundError) as error:
            if on_error == "raise" or (isinstance(error, FileNotFoundError) and film.exists()):
                raise
            logger.warning("left out: %s", error)
            told.skipped.append(str(film))
    if told.without_people:
        logger.warning(
            "nobody was found in %s: whole frames of them are in the gallery: %s",
            *(counted(len(told.without_people), "film"), some(told.without_people)),
        )
    gallery.refresh()
    return told


def count_films(gallery: "Gallery") -> FilmCount:
    """How many people went through a gallery's films."""
    state = gallery.state
    entries = state.stored_entries(state.living_rows_matching("time != None"))
    tracks = Counter((entry.path, entry.tags[_TRACK]) for entry in entries if _TRACK in entry.tags)
    return FilmCount(len({entry.path for entry in entries}), len(tracks), tracks.total())


class _Reading:
    """Reads films one after another."""

    def __init__(
        self,
        gallery: "Gallery",
        detector: Detector,
        margin: float,
        rate: float | None,
        num_crops: int | None,
        batch_size: int,
        is_shown: bool,
    ):
        self.model, self.processor = gallery.model, gallery.processor
        self.place, self.state = gallery.place, gallery.place.read()
        self.detector, self.margin = detector, margin
        self.asked = {name: value for name, value in (("rate", rate), ("crops", num_crops)) if value is not None}
        self.rate, self.num_crops = RATE, CROPS  # of the film that is being read
        self.batch_size, self.is_shown, self.told = batch_size, is_shown, FilmsTold()
        self.alike = AlikeFeatures()

    def bring_into_line(self, films: Sequence[Path]) -> list[dict[str, Any]]:
        """Follows renamed films and drops those that are gone, in one step; returns a description of each that is left.

        What a changed film had before goes when it is read.
        """
        with self.place.writing(wait=None, before=self.state) as writer:
            state = writer.state
            rows = state.living_rows_matching("time != None").tolist()
            entries = dict(zip(rows, state.stored_entries(rows), strict=True))
            known = {entry.path: entry.description() for entry in entries.values()}
            lines = [_described(film, state.images_folder, known) for film in films]
            there, held = {_key(line) for line in lines}, defaultdict(list)
            for row, entry in entries.items():
                held[entry.path, entry.contents].append(row)
            free = {key: rows for key, rows in held.items() if key not in there}
            for line in lines:
                if _key(line) in held:
                    continue
                moved = next((key for key in free if key[1] == line["contents"]), None)
                if moved is not None:
                    writer.change({row: replace(entries[row], **_lying(line)) for row in free.pop(moved)})
            paths = {line["path"] for line in lines}
            writer.delete([row for (path, _), rows in free.items() if path not in paths for row in rows])
            self.state = writer.commit()
        if gone := sorted({path for path, _ in free} - paths):
            logger.info("%s gone, and left out: %s", counted(len(gone), "film"), some(gone))
        return lines

    def read(self, film: Path, line: dict[str, Any]) -> None:
        """Reads what was not read yet of a film, unless another process is just reading it: then it waits."""
        lock: FileLock = lock_of(self.place.path, f"film-{xxhash.xxh3_64_hexdigest(ascii(_key(line)).encode())}")
        with lock:
            self.state = self.place.read(self.state)
            start, note = _read_until(self.state, line, self.asked), self.state.films.get(line["contents"], {})
            self.rate, self.num_crops = itemgetter("rate", "crops")({"rate": RATE, "crops": CROPS} | note | self.asked)
            if start is None or self._copied(line):
                self.told.known += 1
            else:
                try:
                    self._read_from(film, line, start)
                except UnreadableFilmError:  # what was read of it before cannot be relied on
                    self._forget(line)
                    raise
                self.told.read += 1
            remove_lock(lock)

    def _read_from(self, path: Path, line: dict[str, Any], start: float) -> None:
        name, tracks, crops, ended, held = printable(path), self.told.tracks, self.told.crops, start, None
        num_kept = len(_rows_of(self.state, line)) if start else 0  # entries of the pieces before
        if start:
            logger.info("%s: going on at %s", name, clock(start))
        with Film(path) as film, _bar(path, film, start, self.is_shown) as bar:

            def watched() -> Iterator[Frame]:
                nonlocal ended
                for frame in film.frames(self.rate, start):
                    ended = frame.time
                    bar.update(min(ended, film.seconds or ended) - bar.n)  # beyond its total tqdm forgets that
                    yield frame

            for number, frames in groupby(watched(), lambda frame: int(frame.time // PIECE)):
                if held is not None:
                    num_kept = self._commit(line, held, number * PIECE, num_kept)
                held = self._people(line, frames)
            if num_kept == 0 and not (held and held.entries):
                held = self._whole_frames(line, film, ended)
                self.told.without_people.append(str(path))
            self._commit(line, held or _Piece([], []), None, num_kept)
            tracks, crops = self.told.tracks - tracks, self.told.crops - crops
            logger.info("%s: %s of people, %s", name, counted(tracks, "track"), counted(crops, "crop"))

    def _copied(self, line: dict[str, Any]) -> bool:
        """Whether another file of the same contents was read to its end: what was found in it is noted of this one."""
        with self.place.writing(wait=None, before=self.state) as writer:
            state, of_path = writer.state, defaultdict(list)
            rows = state.rows_with("contents", line["contents"])
            entries = dict(zip(rows, state.stored_entries(rows), strict=True))
            for row, entry in entries.items():
                of_path[entry.path].append(row)
            for path, twin in of_path.items():
                if _read_until(state, {**line, "path": path}, self.asked) is None:
                    writer.delete(state.rows_with("path", line["path"]))
                    writer.copy(twin, [replace(entries[row], **_lying(line)) for row in twin])
                    self.state = writer.commit()
                    return True
        return False

    def _forget(self, line: dict[str, Any]) -> None:
        if rows := _rows_of(self.state, line):
            with self.place.writing(wait=None, before=self.state) as writer:
                writer.delete(rows)
                self.state = writer.commit()

    def _people(self, line: dict[str, Any], frames: Iterator[Frame]) -> _Piece:
        piece, crops = _Piece([], []), []
        before = self.state.stored_entries(_rows_of(self.state, line))
        first = 1 + max((entry.tags[_TRACK] for entry in before), default=0)
        for track in follow_people(frames, self.detector, self.rate, self.margin, self.num_crops, first):
            self.told.tracks += 1
            for seen in track.crops:
                tags = {_TRACK: track.number, SCORE: round(seen.score, 4)}
                piece.entries.append(entry_of(line, box=seen.box, time=seen.time, tags=tags))
                crops.append(seen.image)
            while len(crops) >= self.batch_size:
                piece.features.append(self._encode(crops[: self.batch_size]))
                del crops[: self.batch_size]
        if crops:
            piece.features.append(self._encode(crops))
        self.told.crops += len(piece.entries)
        return piece

    def _whole_frames(self, line: dict[str, Any], film: Film, seconds: float) -> _Piece:
        times = sorted({seconds * (number + 0.5) / self.num_crops for number in range(self.num_crops)})
        images = [film.frame_at(time) for time in times]
        return _Piece([self._encode(images)], [entry_of(line, time=time) for time in times])

    def _encode(self, crops: Sequence["Image.Image"]) -> Tensor:
        pixels = self.processor.to_pixels(
            [self.processor.resize_crop(self.processor.open_crop(crop)) for crop in crops]
        )
        features = forward(self.model, self.model.get_target_features, pixel_values=pixels.to(self.model.device))
        self.alike.check(features, pixels)
        check_features(features, "crop", range(len(crops)))
        return features.cpu()

    def _commit(self, line: dict[str, Any], piece: _Piece, until: float | None, num_kept: int) -> int:
        """Adds a piece, the first one in place of what was there; the film is read `until` there, or to its end.

        Args:
            num_kept: entries of the pieces before, which the list forgets where another process notes films meanwhile.

        Returns:
            how many there are now.
        """
        num_kept_now = num_kept + len(piece.entries)
        with self.place.writing(wait=None, before=self.state) as writer:
            state = writer.state
            if num_kept == 0:
                writer.delete(state.rows_with("path", line["path"]))
            if piece.entries:
                writer.append(torch.cat(piece.features), piece.entries)
            notes = {of: note for of, note in state.films.items() if state.rows_with("contents", of)}
            read = {"until": until, "entries": num_kept_now, "rate": self.rate, "crops": self.num_crops}
            writer.note(films=notes | {line["contents"]: read})
            self.state = writer.commit()
        return num_kept_now


def _bar(path: Path, film: Film, start: float, is_shown: bool) -> tqdm:
    """Seconds of a film that are read."""
    shape = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]" if film.seconds else None
    return tqdm(
        total=film.seconds, initial=start, unit="s", desc=printable(path.name), disable=not is_shown, bar_format=shape
    )


def _described(film: Path, folder: Path | None, known: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    try:
        return describe_image(film, "film", folder, known=known)
    except InaccessibleImageError:  # told when it is read
        return describe_absent(film, "film", folder)


def _read_until(state: GalleryState, line: Mapping[str, Any], asked: Mapping[str, float]) -> float | None:
    """How far a film was read, in seconds; None: to its end.

    Where entries of it are gone, or another rate or number of crops is asked for, it is read anew.
    """
    note = state.films.get(line["contents"])
    if note is None or note["entries"] != len(_rows_of(state, line)):
        return 0.0
    return note["until"] if all(note.get(name) == value for name, value in asked.items()) else 0.0


def _lying(line: dict[str, Any]) -> dict[str, Any]:
    """What an entry says of the file."""
    return {name: getattr(entry_of(line), name) for name in ("path", "stamp", "is_fresh")}


def _key(line: Mapping[str, Any]) -> tuple[str, str | None]:
    return line["path"], line["contents"]


def _rows_of(state: GalleryState, line: Mapping[str, Any]) -> list[int]:
    """The rows of a film's entries."""
    rows = state.rows_with("path", line["path"])
    entries = state.stored_entries(rows)
    return [row for row, entry in zip(rows, entries, strict=True) if entry.contents == line["contents"]]
