"""Arranges Celeb-reID, LaST and PRCC, as their authors distribute them, into the folders that ITCPR names.

    python -m fafa.dataset_builders.prepare_itcpr --annotations itcpr/ --celeb-reid Celeb-reID/ --last last/ \\
        --prcc prcc/ --output /data/ITCPR --mode hardlink

    query.json, gallery.json                                -> /data/ITCPR/, the same names
    Celeb-reID/{train,query,gallery}/7_1_0.jpg              -> /data/ITCPR/Celeb-reID/007/7_1_0.jpg
    last/{train,.../gallery}/000012/000012_0001.jpg         -> /data/ITCPR/LAST/000012/000012_0001.jpg
    last/.../query/000012_0001.jpg                          -> /data/ITCPR/LAST/000012/000012_0001.jpg
    prcc/rgb/test/A/001/cropped_rgb001.jpg                  -> /data/ITCPR/PRCC/rgb/test/A/001/cropped_rgb001.jpg

The three are licensed; get them from their authors and unpack them. Images may lie anywhere below these folders: those
of Celeb-reID are recognised by their names, those of LaST by their numeric folder and name or, in the flat query
folders, by the identity that the name begins with, those of PRCC by their path from rgb/ on. Images that ITCPR does not
name are left out, unless --all is given.

Sources are only read. A file appears in the output whole or not at all, and what is there already is left alone. So the
same command can be given again: after an interruption, or once another data set is at hand. With --dry-run nothing is
written.

Exit status: 0 if all images that ITCPR names are in the output (in a dry run: can be), 1 if some are missing or two
files contend for one place, 2 if nothing could be done, 130 after Ctrl-C. `fafa verify` then opens them.
"""

import argparse
import errno
import filecmp
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

from tqdm.auto import tqdm

from ..files import whole_file, write_whole
from ..names import counted
from .base import describe_differences
from .itcpr import FIELDS, PUBLISHED
from .layout import Layout, local_layout
from .records import Problems, check_records, read_fields, read_records

MODES = ("copy", "symlink", "hardlink")

_MISSING = "missing.txt"
_FEW = 10  # missing images shown of each source
_REMEDIES = {
    errno.ENOSPC: "make room, or pass --mode symlink",
    errno.EDQUOT: "make room, or pass --mode symlink",
    errno.EXDEV: "pass --mode copy or symlink",
}


def _places_celeb_reid(parts: tuple[str, ...]) -> list[str]:
    match = re.fullmatch(r"(\d+)_\d+_\d+\.\w+", parts[-1])
    return [f"{int(match[1]):03d}/{parts[-1]}"] if match else []


def _places_last(parts: tuple[str, ...]) -> list[str]:
    """By folder (train and gallery), by the identity that the name begins with (query folders are flat), or either."""
    by_folder = ["/".join(parts[-2:])] if len(parts) > 1 and re.fullmatch(r"\d+", parts[-2]) else []
    match = re.match(r"(\d+)_", parts[-1])
    by_name = [f"{match[1]}/{parts[-1]}", f"{int(match[1]):06d}/{parts[-1]}"] if match else []
    return list(dict.fromkeys(by_folder + by_name))


def _places_prcc(parts: tuple[str, ...]) -> list[str]:
    return ["/".join(parts[parts.index("rgb") :])] if "rgb" in parts[:-1] else []


@dataclass(frozen=True)
class Source:
    """One of the three data sets."""

    folder: str  # its folder in ITCPR
    option: str  # the option of the command line that names it
    # parts of a file's path, from the name of the distributed folder on -> the paths below `folder` where it may
    # belong, the likeliest first; none for a file that is not an image of the data set
    places: Callable[[tuple[str, ...]], list[str]]


SOURCES = (
    Source("Celeb-reID", "--celeb-reid", _places_celeb_reid),
    Source("LAST", "--last", _places_last),
    Source("PRCC", "--prcc", _places_prcc),
)
_NAMES = [source.folder for source in SOURCES]


@dataclass
class Plan:
    """What to do."""

    output: Path  # the folder to fill
    steps: list[tuple[Path, Path]] = field(default_factory=list)  # source and target of each file to write
    there: list[str] = field(default_factory=list)  # the paths, relative to `output`, that are there already
    # the path of each annotated image that was not found -> where it was looked for
    missing: dict[str, str] = field(default_factory=dict)
    contended: list[str] = field(default_factory=list)  # what is wrong at each place that two files contend for
    notes: list[str] = field(default_factory=list)  # how the annotations differ from the published ones


def plan_itcpr(
    sources: dict[str, str | os.PathLike],
    annotations: str | os.PathLike,
    output: str | os.PathLike,
    take_all: bool = False,
) -> Plan:
    """Find out what is to be written, without writing anything.

    Args:
        sources: "Celeb-reID", "LAST", "PRCC" -> the folder as distributed, for those at hand.
        annotations: Folder of query.json and gallery.json.
        output: Folder to fill.
        take_all: Whether to take images that the annotations do not name, too.

    Raises:
        FileNotFoundError: a folder or an annotation file is not there.
        DataFormatError: a record of the annotations cannot be read.
        ValueError: output and a source lie one in the other, or a source is not one of the three.
    """
    if unknown := sources.keys() - _NAMES:
        raise ValueError(f"expected sources among {', '.join(_NAMES)}: got {', '.join(unknown)}")
    layout = local_layout(annotations, [f"{name}.json" for name in FIELDS])
    plan = Plan(Path(output).expanduser().absolute())
    folders = {source: Path(sources[source.folder]).expanduser() for source in SOURCES if source.folder in sources}
    for source, folder in folders.items():
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder. Pass {source.folder}'s by {source.option}.")
    _refuse_overlap(folders.values(), [plan.output / source.folder for source in SOURCES])

    wanted = _read_annotations(layout, plan)
    for file in layout.annotations.values():
        _add_step(plan, Path(file).name, [Path(file)])
    for source, folder in folders.items():
        prefix = f"{source.folder}/"
        names = None if take_all else {path for path in wanted if path.startswith(prefix)}
        found = _find_files(source, folder, names, plan)
        wanted -= found.keys()
        for path, files in tqdm(found.items(), f"Comparing {source.folder}", unit=" files"):
            _add_step(plan, path, files)
    for path in sorted(wanted):
        source = next((one for one in SOURCES if path.startswith(f"{one.folder}/")), None)
        if _is_there(plan.output / path):
            plan.there.append(path)
        elif source is None:
            plan.missing[path] = f"belongs to none of {', '.join(_NAMES)}"
        elif source not in folders:
            plan.missing[path] = f"not looked for, because {source.option} is not given"
        else:
            plan.missing[path] = f"not below {folders[source]}"
    _refuse_overlap(folders.values(), {target.parent for _, target in plan.steps} - {plan.output})
    return plan


def _refuse_overlap(sources: Iterable[Path], targets: Iterable[Path]) -> None:
    """A source is never written into, not even through a link."""
    for source, target in product(sources, targets):
        one, other = source.resolve(), target.resolve()
        if one.is_relative_to(other) or other.is_relative_to(one):
            raise ValueError(f"{source} and {target}: one lies in the other. Pass an --output apart from the sources.")


def _read_annotations(layout: Layout, plan: Plan) -> set[str]:
    """The paths that the annotations name."""
    wanted = set()
    for name, fields in FIELDS.items():
        file = layout.annotations[f"{name}.json"]
        rows = check_records(read_records(file), partial(read_fields, fields=fields), Problems(file))
        records = [dict(zip(fields, row, strict=True)) for row in rows]
        wanted |= {record["file_path"] for record in records}
        counts = {"records": len(records), **Counter(record["datasets"] for record in records)}
        published = {key: count for key, count in PUBLISHED[name].items() if key in ("records", *_NAMES)}
        if differences := describe_differences(counts, published):
            plan.notes.append(f"{file} is not the published one, or not all of it: {differences}.")
    return wanted


def _find_files(source: Source, folder: Path, names: set[str] | None, plan: Plan) -> dict[str, list[Path]]:
    """Path in ITCPR -> the files that belong there, for the paths in `names`; None for all."""
    found: dict[str, list[Path]] = {}
    for file in tqdm(_walk(folder), f"Looking through {folder}", unit=" files"):
        places = source.places((folder.resolve().name, *file.relative_to(folder).parts))
        paths = [f"{source.folder}/{place}" for place in places]
        paths = paths[:1] if names is None else [path for path in paths if path in names]
        if not paths or not file.is_file():  # a dangling link
            continue
        if len(paths) > 1:
            plan.contended.append(f"{file}: may be {' or '.join(paths)}; put it into a folder of its identity's number")
            continue
        found.setdefault(paths[0], []).append(file)
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """The files below a folder, by name; links to folders are followed, each folder once."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def _add_step(plan: Plan, path: str, files: list[Path]) -> None:
    """Take the file that belongs to a path, if there is just one, and the path is free."""
    target = plan.output / path
    files = [file for file in files if file.stat().st_size] or files  # 0 bytes are what an interrupted copy leaves
    others = [file for file in files[1:] if not _equal(files[0], file)]
    if _is_there(target) and not _equal(files[0], target):
        others.append(target)
    if others:
        plan.contended.append(f"{path}: {files[0]} and {others[0]} differ; remove the wrong one")
    elif files[0].stat().st_size == 0:
        plan.missing[path] = f"{files[0]} has 0 bytes"
    elif _is_there(target):
        plan.there.append(path)
    else:
        plan.steps.append((files[0], target))


def _is_there(target: Path) -> bool:
    return target.is_file() and target.stat().st_size > 0


def _equal(one: Path, other: Path) -> bool:
    return one.samefile(other) or filecmp.cmp(one, other, shallow=False)


def carry_out(plan: Plan, mode: str = "copy") -> None:
    """Write what is planned, and the list of missing images.

    Args:
        plan: That of `plan_itcpr`.
        mode: "copy", "symlink" or "hardlink". The annotation files are always copied.

    Raises:
        ValueError: `mode` is not one of the three.
        OSError: a file cannot be written; what was written stays.
    """
    if mode not in MODES:
        raise ValueError(f"expected a mode among {', '.join(MODES)}: got {mode!r}")
    for source, target in tqdm(plan.steps, f"Writing ({mode})", unit=" files"):
        try:
            with whole_file(target) as part:
                part.unlink(missing_ok=True)
                if mode == "copy" or target.parent == plan.output:
                    shutil.copy2(source, part)
                elif mode == "symlink":
                    part.symlink_to(source.resolve())
                else:
                    part.hardlink_to(source.resolve())
        except OSError as error:
            remedy = _REMEDIES.get(error.errno, "see to it")
            message = f"{error.strerror}; {remedy}, and give the same command again: what was written stays"
            raise OSError(error.errno, message, str(target)) from error
    if plan.missing:
        write_whole(plan.output / _MISSING, "".join(f"{path}\t{why}\n" for path, why in plan.missing.items()))
    else:
        (plan.output / _MISSING).unlink(missing_ok=True)


def _describe(plan: Plan, is_dry_run: bool) -> Iterator[str]:
    """The plan, line by line."""
    to_write = Counter(target.relative_to(plan.output).parts[0] for _, target in plan.steps)
    there = Counter(path.split("/")[0] for path in plan.there)
    missing = Counter(path.split("/")[0] for path in plan.missing)
    for folder in dict.fromkeys([*_NAMES, *to_write, *there, *missing]):
        written = f"{to_write[folder]:,} {'to write' if is_dry_run else 'written'}"
        yield f"{folder}: {written}, {there[folder]:,} there already, {missing[folder]:,} missing"
        lines = [f"  missing: {path} ({why})" for path, why in plan.missing.items() if path.split("/")[0] == folder]
        yield from lines if is_dry_run else lines[:_FEW]
        if len(lines) > _FEW and not is_dry_run:
            yield f"  and {len(lines) - _FEW:,} more: see {plan.output / _MISSING}"
    yield from (f"Contended: {contended}" for contended in plan.contended)
    yield from plan.notes
    if not is_dry_run:
        return
    images = counted(to_write.total(), "image")
    if plan.contended:
        yield f"Nothing was written. Without --dry-run, {images} would be; settle what is contended first."
    elif to_write:
        yield f"Nothing was written. The same command without --dry-run writes {images} to {plan.output}."
    else:
        yield "Nothing was written, and there is nothing to write."


def main(arguments: Sequence[str] | None = None) -> int:
    """Arrange, print the outcome, and return the exit status."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m fafa.dataset_builders.prepare_itcpr",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for source in SOURCES:
        parser.add_argument(source.option, dest=source.folder, metavar="DIR", help=f"{source.folder} as distributed")
    parser.add_argument("--annotations", required=True, metavar="DIR", help="folder of query.json and gallery.json")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to fill")
    parser.add_argument("--mode", choices=MODES, default="copy", help="how images get there (default: copy)")
    parser.add_argument("--all", action="store_true", help="take all images, not only those that ITCPR names")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be written and what is missing")
    options = parser.parse_args(arguments)
    sources = {name: getattr(options, name) for name in _NAMES if getattr(options, name) is not None}
    if not sources:
        parser.error(f"give at least one of {', '.join(source.option for source in SOURCES)}")
    try:
        plan = plan_itcpr(sources, options.annotations, options.output, options.all)
        if not options.dry_run:
            carry_out(plan, options.mode)
    except (OSError, ValueError) as error:
        print(f"Not done: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted: what was written stays. The same command goes on from here.", file=sys.stderr)
        return 130
    print("\n".join(_describe(plan, options.dry_run)))
    return 1 if plan.missing or plan.contended else 0


if __name__ == "__main__":
    sys.exit(main())
