"""Reads folders of FashionIQ, CIRR and CIRCO for `verify`: several annotation files a split, images without a folder.

Records are held to what their builders ask of them. What `load_dataset` leaves out is no problem, but is told: a split
of which there is no image, as annotations come for all splits and images are fetched one by one; and images of
FashionIQ that can no longer be had, with the queries that need them. If there are no images at all, all are missing.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import datasets

from ..names import counted
from . import circo, cirr, fashioniq
from .base import describe_differences
from .benchmark_files import read_benchmark, read_names, read_paths, splits_in
from .counting import Statistics
from .findings import CORRUPT, REPEAT, UNREADABLE, Findings
from .layout import ImageFinder, Layout
from .named_images import NamedImages
from .records import INACCESSIBLE, REMEDIES, BadRecord, DataFormatError, path_field, require_object

_MISSING, _EMPTY = "names an image file that is missing", "names an image file of 0 bytes"
_UNLISTED = "Not checked, as no image could be read from {}."
_CAPTION = datasets.Features({"caption": datasets.Value("string")})
_CAPTIONS = datasets.Features({"captions": datasets.List(datasets.Value("string"))})


class BenchmarkFindings(Findings):
    """What is found in one annotation file of a benchmark. Images that are not there are gathered apart.

    Attributes:
        absent: Number of a record, and what is wrong with the image that it names.
    """

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.absent: list[tuple[int, BadRecord]] = []

    @property
    def num_there(self) -> int:
        """How many of the images that the records name are there."""
        return len(self._named_images) - len(self.absent)

    def see_image(self, number: int, path: str) -> str:
        """Note that record `number` names an image, be it there or not; the result serves a builder as its file."""
        try:
            super().see_image(number, path)
        except BadRecord as bad:
            self.absent.append((number, bad))
        return path

    def add_absent(self) -> None:
        """Add the images that are not there to the problems."""
        for number, bad in self.absent:
            self.add(number, bad)

    def read(
        self,
        read_records: Callable[[], Iterable[Any]],
        read_row: Callable[[int, Any], Any],
        published: dict[str, int],
    ) -> list[tuple[int, Any]]:
        """Rows of the records that are as documented, each with its record's number; what is wrong is added."""
        rows = []
        try:
            for number, record in enumerate(read_records()):
                self.num_records = number + 1
                try:
                    rows.append((number, read_row(number, record)))
                except BadRecord as bad:
                    self.add(number, bad)
        except DataFormatError as error:
            self.add(self.num_records, BadRecord(UNREADABLE, str(error)))
        else:
            if different := describe_differences({"records": self.num_records}, published):
                self.notes.append(f"Not the published file, or not all of it: {different}.")
        return rows

    def refuse_repeated(self, field: str, numbers: Iterable[tuple[int, int]]) -> None:
        """Add records whose number of a query, the second of each pair, an earlier one has."""
        first: dict[int, int] = {}
        for number, query in numbers:
            if (earlier := first.setdefault(query, number)) != number:
                self.add(number, BadRecord(REPEAT, f"record {earlier} ({field} {query})"))


class FolderFindings(BenchmarkFindings):
    """What is found in a folder whose images no annotation file lists."""

    of = "image"
    _PROBLEMS = {CORRUPT: "is broken", _EMPTY: "has 0 bytes", INACCESSIBLE: "cannot be read now"}

    def __init__(self, images: NamedImages):
        again = "copy or unpack the file again"
        super().__init__(images, {own: REMEDIES.get(usual, again) for usual, own in self._PROBLEMS.items()})

    def add(self, number: int, bad: BadRecord) -> None:
        """Note what is wrong with image `number`."""
        super().add(number, BadRecord(self._PROBLEMS.get(bad.problem, bad.problem), bad.detail))


class Split(NamedTuple):
    """What is found in the files of one split."""

    images: list[BenchmarkFindings]  # in those that list images
    queries: list[BenchmarkFindings]
    num_images: int
    num_queries: int
    missing: Sequence[str] = ()  # names of images that may be left out, as they can no longer be had
    num_left_out: int = 0  # queries that need them


def read_benchmark_folder(name: str, root: str) -> tuple[dict[str, Findings], NamedImages, dict[str, list[str]]]:
    """Reads and checks all annotation files of a benchmark, without opening images.

    Args:
        name: "FashionIQ", "CIRR" or "CIRCO".
        root: The benchmark's folder, absolute.

    Returns:
        name of each file -> what is found in it; the images; what is left out -> names of images.
    """
    everywhere = Layout(root, {}, (root,))
    if name == "FashionIQ":
        finder, split_files = _FilesByName(root), fashioniq.SPLIT_FILES
        read = partial(_read_fashioniq, there=finder.paths)
    elif name == "CIRR":
        finder, split_files, read = cirr.image_finder(everywhere), cirr.SPLIT_FILES, _read_cirr
    else:
        finder, split_files, read = ImageFinder(circo.with_images(everywhere)), circo.SPLIT_FILES, _read_circo
    images, files, splits = NamedImages(finder), {}, {}
    for split, names in split_files.items():
        there = [file for file in names if Path(root, file).is_file()]
        if there == list(names):
            splits[split] = read(splits_in(root, {split: names})[split], split, images, files)
        elif there:
            _tell_incomplete(root, split, names, images, files)
    if name == "CIRCO":
        _read_circo_folder(everywhere, images, files)
    return files, images, _leave_out(splits)


def _leave_out(splits: dict[str, Split]) -> dict[str, list[str]]:
    """Adds images that are not there to the problems, unless they are left out; the result says which are."""
    left_out = {}
    some_there = any(findings.num_there for split in splits.values() for findings in split.images)
    for name, split in splits.items():
        absent = [bad.problem for findings in split.images for _, bad in findings.absent]
        is_there = any(findings.num_there for findings in split.images)
        if some_there and absent and not is_there and set(absent) == {_MISSING}:
            left_out[f"split {name}, as none of its {counted(split.num_images, 'image')} is there"] = []
        elif some_there and split.missing:
            left_out[
                f"{len(split.missing):,} of {counted(split.num_images, 'image')} of split {name}, which are missing, "
                f"and {split.num_left_out:,} of {counted(split.num_queries, 'query')}, which need them"
            ] = list(split.missing)
        else:
            for findings in (*split.images, *split.queries):
                findings.add_absent()
    return left_out


def _tell_incomplete(root: str, split: str, names: tuple[str, ...], images: NamedImages, files: dict) -> None:
    """Adds the annotation files that a split lacks to the problems."""
    try:
        splits_in(root, {split: names})
    except FileNotFoundError as error:
        for file in names:
            if not Path(root, file).is_file():
                files[file] = BenchmarkFindings(images)
                files[file].add(0, BadRecord(UNREADABLE, str(error)))


class _FilesByName:
    """Finds FashionIQ's images, which records name without folder and suffix.

    Attributes:
        paths: Name -> path of each image that is there, relative to the benchmark's folder.
    """

    def __init__(self, root: str):
        files = fashioniq.images_in(root)
        self.paths = {name: os.path.relpath(file, root) for name, file in files.items()}
        self._files = {self.paths[name]: file for name, file in files.items()}

    def find(self, path: str) -> str:
        """The file of a path; any other text is the name of an image that is missing. Raises `BadRecord`."""
        if path not in self._files:
            raise BadRecord(_MISSING, path)
        return self._files[path]


def _read_fashioniq(
    layout: Layout, split: str, images: NamedImages, files: dict[str, Findings], there: dict[str, str]
) -> Split:
    galleries, all_queries, all_names, rows, has_targets = [], [], {}, [], split != "test"
    for category in fashioniq.CATEGORIES:
        queries_file, gallery_file = (
            f"captions/cap.{category}.{split}.json",
            f"image_splits/split.{category}.{split}.json",
        )
        remedies = fashioniq.remedies(category) | {_MISSING: f"copy the images to {layout.root}/images"}
        gallery, queries = (
            BenchmarkFindings(images, remedies),
            BenchmarkFindings(images, remedies, Statistics(_CAPTIONS)),
        )
        files[queries_file], files[gallery_file] = queries, gallery
        galleries.append(gallery)
        all_queries.append(queries)

        def read_name(number: int, name: str, gallery=gallery) -> str:
            gallery.see_image(number, there.get(name, name))
            return name

        read = partial(read_names, layout.annotations[gallery_file])
        names = [name for _, name in gallery.read(read, read_name, _published(fashioniq, "gallery", split, category))]
        all_names |= dict.fromkeys(names)
        if not names:
            queries.notes.append(_UNLISTED.format(gallery_file))
            continue

        def read_row(number: int, record: Any, category=category, known=frozenset(names), queries=queries) -> tuple:
            require_object(record)
            row = fashioniq.query_row(record, category, known, has_targets)
            queries.see_image(number, there.get(row[3], row[3]))
            queries.statistics.add({"captions": row[1]}, ())
            return row

        read = partial(read_benchmark, layout.annotations[queries_file], "FashionIQ", has_targets)
        rows += queries.read(read, read_row, _published(fashioniq, "query", split, category))
    missing = [name for name in all_names if name not in there]
    num_left_out = sum(any(name is not None and name not in there for name in row[3:5]) for _, row in rows)
    return Split(galleries, all_queries, len(all_names), len(rows), missing, num_left_out)


def _read_cirr(layout: Layout, split: str, images: NamedImages, files: dict[str, Findings]) -> Split:
    queries_file, gallery_file = cirr.SPLIT_FILES[split]
    remedies, has_targets = cirr.remedies(layout.root), split != "test1"
    gallery, queries = BenchmarkFindings(images, remedies), BenchmarkFindings(images, remedies, Statistics(_CAPTION))
    files[queries_file], files[gallery_file] = queries, gallery
    paths: dict[str, str] = {}

    def read_path(number: int, item: tuple[str, str]) -> None:
        paths.update([item])
        gallery.see_image(number, path_field(paths, item[0]))

    def read_row(number: int, record: Any) -> tuple:
        require_object(record)
        row = cirr.query_row(record, paths, partial(queries.see_image, number), has_targets)
        queries.statistics.add({"caption": row[1]}, ())
        return row

    def read_items() -> Iterable[tuple[str, str]]:
        return read_paths(layout.annotations[gallery_file]).items()

    gallery.read(read_items, read_path, _published(cirr, "gallery", split))
    if not paths:
        queries.notes.append(_UNLISTED.format(gallery_file))
        return Split([gallery], [queries], 0, 0)
    read = partial(read_benchmark, layout.annotations[queries_file], "CIRR", has_targets)
    rows = queries.read(read, read_row, _published(cirr, "query", split))
    queries.refuse_repeated("pairid", ((number, row[2]) for number, row in rows))
    return Split([gallery], [queries], len(paths), len(rows))


def _read_circo(layout: Layout, split: str, images: NamedImages, files: dict[str, Findings]) -> Split:
    (file,) = circo.SPLIT_FILES[split]
    queries, has_targets = BenchmarkFindings(images, circo.remedies(layout.root), Statistics(_CAPTION)), split != "test"
    files[file] = queries

    def read_row(number: int, record: Any) -> tuple:
        require_object(record)
        row = circo.query_row(record, partial(queries.see_image, number), has_targets)
        for image in row[6]:
            queries.see_image(number, circo.file_name(image))
        queries.statistics.add({"caption": row[1]}, ())
        return row

    read = partial(read_benchmark, layout.annotations[file], "CIRCO", has_targets)
    rows = queries.read(read, read_row, _published(circo, "query", split))
    queries.refuse_repeated("id", ((number, row[3]) for number, row in rows))
    return Split([], [queries], 0, len(rows))


def _read_circo_folder(layout: Layout, images: NamedImages, files: dict[str, Findings]) -> None:
    """The gallery is all images of the folder, also those that no record names."""
    folder, findings = circo.with_images(layout).image_folders[0], FolderFindings(images)
    files[os.path.relpath(folder, layout.root)] = findings
    for file in circo.image_files(layout):
        findings.num_records += 1
        findings.see_image(int(file.stem), os.path.relpath(file, folder))
    findings.add_absent()
    if different := describe_differences({"images": findings.num_records}, {"images": circo.NUM_IMAGES}):
        findings.notes.append(f"Not the whole gallery, or not it alone: {different}.")


def _published(module: ModuleType, configuration: str, split: str, category: str = "records") -> dict[str, int]:
    counts = module.PUBLISHED[configuration].get(split)
    return {"records": counts[category]} if counts else {}
