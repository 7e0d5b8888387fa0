"""Annotation files of composed image retrieval's benchmarks: where they lie, and that they are what they should be."""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from ..files import printable, read_json
from .layout import Layout, list_files
from .records import DataFormatError, read_records

IMAGE_SUFFIXES = (".jpg", ".png", ".jpeg")

# What the first record of an annotation file tells of where it is from: a field that no other of these has.
_KNOWN_BY = {
    "FashionIQ": "candidate",
    "CIRR": "pairid",
    "CIRCO": "reference_img_id",
    "ITCPR": "instance_id",
    "SynCPR": "cpr_id",
    "CIRHS": "tid",
    "SynTBPR": "provenance",
    "CUHK-PEDES, or a relative of it": "captions",  # last: FashionIQ's have captions, too
}


def splits_in(data_dir: str | os.PathLike, split_files: Mapping[str, Sequence[str]]) -> dict[str, Layout]:
    """The splits whose annotation files all lie in a folder.

    Args:
        data_dir: the benchmark's folder.
        split_files: split -> its annotation files, relative to the folder.

    Raises:
        FileNotFoundError: there is no such folder, no split in it, or a split of which files are missing; what lies
            there instead is told.
    """
    root = Path(data_dir).expanduser().resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"data_dir={str(data_dir)!r}: no such folder ({root}). Pass the benchmark's folder.")
    found = {}
    for split, names in split_files.items():
        missing = [name for name in names if not (root / name).is_file()]
        if not missing:
            found[split] = Layout(str(root), {name: str(root / name) for name in names}, (str(root),))
        elif len(missing) < len(names):
            raise FileNotFoundError(
                f"{root}: of the split {split}, there is no {' and no '.join(missing)}. "
                "Fetch the annotation files whole, or take the other files of this split out."
            )
    if found:
        return found
    expected = " or ".join(f"{' and '.join(names)} (split {split})" for split, names in split_files.items())
    others = _annotations_nearby(root, split_files)
    raise FileNotFoundError(
        f"{root}: expected {expected} in this folder"
        + (f". It holds {', '.join(others)}: of another version or benchmark, or in another place." if others else ".")
    )


def _annotations_nearby(root: Path, split_files: Mapping[str, Sequence[str]]) -> list[str]:
    folders = {(root / name).parent for names in split_files.values() for name in names} | {root}
    files = chain.from_iterable(folder.glob("*.json") for folder in sorted(folders) if folder.is_dir())
    return sorted(str(file.relative_to(root)) for file in files)[:5]


def read_benchmark(file: str, benchmark: str, targets: bool) -> Iterator[Any]:
    """The records of an annotation file, of which the first tells whether it is of this benchmark and kind of split.

    Args:
        file: Path of the file.
        benchmark: "FashionIQ", "CIRR" or "CIRCO".
        targets: whether the split has targets, which the organisers keep for themselves of test splits.

    Raises:
        DataFormatError: it is of another benchmark, or of another split.
    """
    records = read_records(file)
    first = next(records)
    if type(first) is dict:
        origin = next((name for name, field in _KNOWN_BY.items() if field in first), None)
        if origin != benchmark:
            holds = f"records of {origin}" if origin else f"records with {', '.join(map(str, list(first)[:6]))}"
            raise DataFormatError(
                f"{file}: holds {holds}, expected those of {benchmark}. Remedy: put {benchmark}'s own file there."
            )
        field = {"FashionIQ": "target", "CIRR": "target_hard", "CIRCO": "target_img_id"}[benchmark]
        if (field in first) != targets:
            kind = "has" if field in first else "lacks"
            raise DataFormatError(
                f"{file}: its first record {kind} {field}, which "
                f"{'a split with targets must have' if targets else 'a test split does not have'}: it is another "
                f"split's file. Remedy: put the file of this split there, as {benchmark} publishes it."
            )
    return chain([first], records)


def read_names(file: str) -> list[str]:
    """A JSON list of image names. Raises `DataFormatError`."""
    names = list(read_records(file))
    if wrong := [name for name in names if type(name) is not str or not name or "/" in name]:
        raise DataFormatError(f"{file}: expected names of images, got {printable(str(wrong[0])):.60}.")
    return names


def read_paths(file: str) -> dict[str, str]:
    """A JSON object of image names and their paths. Raises `DataFormatError`."""
    try:
        paths = read_json(file)
    except ValueError as error:
        raise DataFormatError(f"{error}. Remedy: fetch the file again.") from None
    if type(paths) is not dict or not paths or not all(type(path) is str for path in paths.values()):
        raise DataFormatError(f'{file}: expected {{"name": "path", ...}} of images. Remedy: fetch the file again.')
    return {name: path.removeprefix("./") for name, path in paths.items()}


def images_by_name(folders: Sequence[str]) -> dict[str, str]:
    """Name without suffix -> path of every image file that is not empty, below those of the folders that exist."""
    there = [folder for folder in folders if Path(folder).is_dir()]
    files = list_files(there, lambda name: name.lower().endswith(IMAGE_SUFFIXES))
    return {file.stem: str(file) for file in reversed(files) if file.stat().st_size > 0}


def existing(root: str, *folders: str) -> tuple[str, ...]:
    """Those of the folders below the root that are there, then the root itself."""
    return (*(place for folder in folders if Path(place := f"{root}/{folder}").is_dir()), root)


def refuse_repeated(file: str, field: str, numbers: Sequence[int]) -> None:
    """Refuses an annotation file with one number for two queries. Raises `DataFormatError`."""
    seen: set[int] = set()
    for number in numbers:
        if number in seen:
            raise DataFormatError(
                f"{file}: {field} {number} is given to several records. Remedy: fetch the file again."
            )
        seen.add(number)
