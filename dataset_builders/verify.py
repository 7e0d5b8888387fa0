"""Checks a data set on disk: every record, every image, and what groups and captions look like.

    fafa verify /data/SynCPR
    fafa verify /data/ITCPR --output reports/itcpr --num-workers 16

The folder is what `load_dataset` takes as data_dir=: SynCPR.json, CIRHS.json, SynTBPR.json, the files of CUHK-PEDES,
ICFG-PEDES, RSTPReid, UFine6926 or TBPS-CLIP, query.json and gallery.json, or the layouts of FashionIQ, CIRR and CIRCO
(`verify_benchmarks` reads these), with images. Records are held to what
`load_dataset` asks of them, but all problems are reported, and every image is decoded once.

    <output>/report.md, report.json    what was found; report.json lists every record with a problem
    <output>/checked.jsonl             the images found sound: path, bytes, time, hash, width, height, stamp

A check that was stopped, even by kill -9, goes on when the same command is given again. An image that was found sound
is opened again only if its contents have changed. They are compared wherever anything about the file differs, even the
time of its entry in the folder, which no program sets back. So an image that was changed with size and time kept is
noticed, and a copy of the data set is not decoded anew. Images of the same content and other remarkable things are
listed, but are no problems: `load_dataset` accepts them.

Exit status: 0 if all is sound, 1 if there are problems, 2 if the check, or a part of it, could not be done.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from tqdm.auto import tqdm

from ..files import locked, write_json, write_whole
from ..markdown_text import plain
from ..names import counted
from ..tables import markdown_table
from ..workers import num_cores
from . import cirhs, cuhk_pedes, icfg_pedes, itcpr, rstpreid, syncpr, syntbpr, tbps_clip, text_image, ufine6926
from .base import describe_differences
from .benchmark_signs import WHERE_THEY_ARE, benchmarks_in
from .counting import Statistics, describe_counts, span
from .findings import NO_SPLIT, REPEAT, UNREADABLE, Findings
from .layout import ImageFinder, Layout, SplitImageFinder, local_layout, with_image_folders
from .named_images import NamedImages
from .recognition import recognise
from .records import BadRecord, DataFormatError, Repeats, path_field, read_records, require_object
from .verify_benchmarks import read_benchmark_folder

logger = logging.getLogger(__name__)

_REPORT, _STATE, _LOCK = "report", "checked.jsonl", ".lock"
_FEW = 10  # examples in report.md


class Annotations(NamedTuple):
    """What an annotation file of a data set holds."""

    file: str  # its name
    fields: dict[str, Callable]  # field of a record -> how it is read
    features: datasets.Features  # those of the data set; its last columns are the fields
    published: dict[str, int]  # the counts of the published file
    images_repeat: bool = False  # whether records may name an image twice, as in a gallery
    key: str | None = None  # the column that may not repeat; None for all of them together
    other_names: tuple[str, ...] = ()  # what the file is called elsewhere
    of: str = ""  # the data set that `recognition` must not take for another; "" for none
    split: str = ""  # of per-split files: the split whose image folder is meant; "" for others
    splits: tuple[str, ...] = ()  # those of which there must be records


def _source_field(record: dict, field: str) -> str:
    """The source that a provenance names, which can be counted. Raises `BadRecord`."""
    syntbpr.provenance_field(record, field)
    return record[field]["source"]


def _of_text_and_image(module) -> list[Annotations]:
    """What the files of images with captions hold; every file is one of several that there may be."""
    kind = module.FORMAT
    columns = datasets.Features({name: one for name, one in module.COLUMNS.items() if name != "image"})
    if kind.by_file:
        options = {"key": "image_path", "of": kind.name}
        return [
            Annotations(f"{split}.json", kind.fields, columns, {}, split=split, **options)
            for split in text_image.SPLITS
        ]
    (first,), *others = kind.files
    fields = {"split": text_image.split_field, **kind.fields}
    columns = datasets.Features({"split": datasets.Value("string"), **columns})
    names = tuple(name for (name,) in others)
    options = {"key": "image_path", "other_names": names, "of": kind.name, "splits": kind.splits}
    return [Annotations(first, fields, columns, kind.published, **options)]


FORMATS = {
    "SynCPR": [Annotations("SynCPR.json", syncpr.FIELDS, syncpr.FEATURES, syncpr.PUBLISHED)],
    "CIRHS": [Annotations("CIRHS.json", cirhs.FIELDS, cirhs.FEATURES, cirhs.PUBLISHED)],
    "SynTBPR": [
        Annotations(
            "SynTBPR.json",
            syntbpr.FIELDS | {"provenance": _source_field},
            datasets.Features({field: syntbpr.FEATURES[field] for field in syntbpr.FIELDS}),
            syntbpr.PUBLISHED,
            key="image_path",
        )
    ],
    "CUHK-PEDES": _of_text_and_image(cuhk_pedes),
    "ICFG-PEDES": _of_text_and_image(icfg_pedes),
    "RSTPReid": _of_text_and_image(rstpreid),
    "UFine6926": _of_text_and_image(ufine6926),
    "TBPS-CLIP": _of_text_and_image(tbps_clip),
    "ITCPR": [  # the gallery first, because queries must have a match there
        Annotations(f"{name}.json", itcpr.FIELDS[name], itcpr.FEATURES[name], itcpr.PUBLISHED[name], name == "gallery")
        for name in ("gallery", "query")
    ],
}


def verify_dataset(
    root: str | os.PathLike,
    output_dir: str | os.PathLike | None = None,
    num_workers: int | None = None,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Check every record and every image of a data set, and write a report; see the module's docstring.

    Args:
        root: The data set's folder.
        output_dir: Folder for the report and for notes of what is done; by default `verify` in `root`.
        num_workers: Processes that open images; by default one per core. With more than one, call this under
            `if __name__ == "__main__":`, as with any multiprocessing.
        show_progress: Whether to show progress bars.

    Returns:
        What report.json holds. `sound` tells whether there are no problems.

    Raises:
        FileNotFoundError: no such folder, or no annotation files in it.
        BlockingIOError: another process is checking with the same `output_dir`.
        OSError: `output_dir` cannot be written.
        RuntimeError: a worker process died.
    """
    name, parts, layout = _recognise(root)
    output_dir = Path(layout.root, "verify") if output_dir is None else Path(output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{output_dir}: cannot be made ({error.strerror}). Pass another folder as --output.") from error
    in_use = f"{output_dir}: another process is checking into this folder. Wait for it, or pass another --output."
    with locked(output_dir / _LOCK, in_use):
        if parts:
            readings, images, left_out = *_read_all(parts, layout, show_progress), {}
        else:
            readings, images, left_out = read_benchmark_folder(name, layout.root)
        images.check(output_dir / _STATE, num_workers or num_cores(), show_progress)
        for reading in readings.values():
            reading.note_broken_images()
        report = _make_report(name, layout.root, readings, images, left_out)
        write_json(output_dir / f"{_REPORT}.json", report)
        write_whole(output_dir / f"{_REPORT}.md", to_markdown(report))
    return report


def _read_all(
    parts: list[Annotations], layout: Layout, show_progress: bool
) -> tuple[dict[str, "Reading"], NamedImages]:
    """Reads the annotation files, the gallery's before the queries'."""
    by_split = any(annotations.split for annotations in parts)
    images = NamedImages(SplitImageFinder(layout, list(text_image.SPLITS)) if by_split else ImageFinder(layout))
    readings: dict[str, Reading] = {}
    for annotations in parts:
        gallery = readings.get("gallery.json")
        reading = Reading(layout.annotations[annotations.file], annotations, images, gallery)
        reading.read(show_progress)
        readings[annotations.file] = reading
    return readings, images


def _recognise(root: str | os.PathLike) -> tuple[str, list[Annotations], Layout]:
    """The format of a data set, by its annotation files, what is there of them, and where they lie.

    Of a benchmark of composed image retrieval there are no `Annotations`: `verify_benchmarks` knows its files.
    """
    found = {}
    for name, parts in FORMATS.items():
        with suppress(FileNotFoundError):
            there = _present(root, parts)
            found[name] = there, local_layout(root, [annotations.file for annotations in there])
            if there[0].of:
                found[name] = there, with_image_folders(found[name][1])
    folder = Path(root).expanduser().resolve()
    found |= {name: ([], Layout(str(folder), {}, (str(folder),))) for name in benchmarks_in(folder)}
    if len(found) > 1:
        logger.warning("%s holds %s: only the first is checked. Give each its own folder.", root, " and ".join(found))
    for name, (parts, layout) in found.items():
        return name, parts, layout
    *files, last = (" and ".join(annotations.file for annotations in parts) for parts in FORMATS.values())
    expected = f"expected {', '.join(files)}, or {last}, here or in the subfolder datasets/; or {WHERE_THEY_ARE}"
    is_there = folder.is_dir()
    raise FileNotFoundError(f"{folder}: {expected if is_there else 'no such folder'}. Pass the data set's folder.")


def _present(root: str | os.PathLike, parts: list[Annotations]) -> list[Annotations]:
    """Which files of a format to read: all; of images with captions those that are there, unless they are another's.

    Raises:
        FileNotFoundError: none is there.
    """
    if not parts[0].of:
        return parts
    there = []
    for part in parts:
        for file in (part.file, *part.other_names):
            with suppress(FileNotFoundError):
                path = local_layout(root, [file]).annotations[file]
                whose = _whose(path)
                if whose == part.of or (not part.split and (whose not in FORMATS or part.of in whose.split(" or "))):
                    there.append(part._replace(file=file))
                    break
    if not there:
        raise FileNotFoundError
    return there


def _whose(path: str) -> str:
    """The data set that an annotation file looks like, by its first record; "" if it cannot be told."""
    try:
        record = next(read_records(path))
    except DataFormatError:
        return ""
    return (recognise(record) if isinstance(record, dict) else None) or ""


class Reading(Findings):
    """One annotation file, read record by record; problems of a record are told field by field.

    Args:
        path: The file.
        annotations: What it holds.
        images: Gathers the images.
        gallery: For queries, the reading of the gallery.
    """

    def __init__(self, path: str, annotations: Annotations, images: NamedImages, gallery: "Reading | None"):
        super().__init__(images, statistics=Statistics(annotations.features))
        self.path, self.annotations, self.gallery = path, annotations, gallery
        self.instances: Counter[int] = Counter()
        self._columns = list(annotations.features)[-len(annotations.fields) :]
        self._repeats = Repeats()

    def read(self, show_progress: bool) -> None:
        """Read the file and check every record, without opening images."""
        records = tqdm(
            read_records(self.path), f"Reading {self.annotations.file}", unit=" records", disable=not show_progress
        )
        try:
            for record in records:
                self._check(self.num_records, record)
                self.num_records += 1
        except DataFormatError as error:
            self.add(self.num_records, BadRecord(UNREADABLE, str(error)))
        self._look_for_repetitions()
        if lists := self.statistics.captions.get("captions"):
            num_people, num_captions = len(self.statistics.ids["person_id"]), lists.total()
            self.notes.append(
                f"{counted(num_captions, 'caption')} of {counted(self.statistics.records, 'image')} of "
                f"{'1 person' if num_people == 1 else f'{num_people:,} people'}."
            )
        for split in self.annotations.splits:
            if self.num_records and split not in self.statistics.values["split"]:
                self.add(self.num_records, BadRecord(NO_SPLIT, split))
        if self.num_records and (different := describe_differences(self.counts(), self.annotations.published)):
            self.notes.append(f"Not the published file, or not all of it: {different}.")

    def _check(self, number: int, record: Any) -> None:
        try:
            require_object(record)
        except BadRecord as bad:
            self.add(number, bad)
            return
        values = {}
        for (field, read), column in zip(self.annotations.fields.items(), self._columns, strict=True):
            try:
                values[column] = read(record, field)
                if read is path_field:
                    split = self.annotations.split
                    self.see_image(number, f"{split}/{values[column]}" if split else values[column])
                if column == "instance_id":
                    self.instances[values[column]] += 1
                    if self.gallery is not None:
                        itcpr.require_match(values[column], self.gallery.instances)
            except BadRecord as bad:
                self.add(number, bad)
        if len(values) == len(self._columns):
            self.statistics.add(values, {})
            key = self.annotations.key
            self._repeats.see(number, (values[key],) if key else tuple(values.values()))

    def _look_for_repetitions(self) -> None:
        repeats = self._repeats.found
        if self.annotations.images_repeat:
            if repeated := self.num_repeated_images:
                self.notes.append(f"Records that name an image that an earlier one names: {repeated:,}.")
        elif repeats and self.num_records == self.annotations.published.get("records"):
            self.notes.append(f"Records that repeat an earlier one, as published: {len(repeats):,}.")
        else:
            for number, earlier in repeats:
                self.add(number, BadRecord(REPEAT, f"record {earlier}"))

    def counts(self) -> dict[str, int]:
        """The counts to compare with the published ones."""
        counts = {"records": self.num_records, **self.statistics.values.get("source", {})}
        if self.gallery is not None:
            counts["matches"] = sum(count * self.gallery.instances[one] for one, count in self.instances.items())
        elif self.instances:
            counts["distractors"] = self.instances[-1]
        elif "cpr_id" in self.statistics.ids:
            counts["groups"] = len(self.statistics.ids["cpr_id"])
        elif lists := self.statistics.captions.get("captions"):
            counts |= {"captions": lists.total(), "people": len(self.statistics.ids["person_id"])}
            counts |= self.statistics.values.get("split", {})
        return counts


def _make_report(
    name: str, root: str, readings: dict[str, Findings], images: NamedImages, left_out: dict[str, list[str]]
) -> dict[str, Any]:
    copies = images.copies()
    return {
        "root": root,
        "date": date.today().isoformat(),
        "format": name,
        "sound": not any(reading.problems for reading in readings.values()),
        "files": {file: reading.to_dict() for file, reading in readings.items()},
        "left out": left_out,
        "images": {
            "named": len(images.paths),
            "missing or empty": len(images.absent),
            "broken": len(images.broken),
            "cannot be read now": len(images.inaccessible),
            "sound": images.num_sound,
            "opened": images.num_opened,
            "bytes": images.num_bytes,
            "width": [min(images.widths), max(images.widths)] if images.widths else [],
            "height": [min(images.heights), max(images.heights)] if images.heights else [],
            "changed since they were found sound": [images.paths[number] for number in images.changed],
            "of the same content": copies,
        },
    }


def to_markdown(report: dict[str, Any]) -> str:
    """The report as a page, with the beginnings of long lists."""
    images, copies = report["images"], report["images"]["of the same content"]
    verdict = "All is sound." if report["sound"] else "**There are problems.**"
    lines = [
        f"# Check of {plain(report['root'])}",
        "",
        f"{report['date']}, a data set of {report['format']}'s format. {verdict}",
        "",
        "## Problems",
        "",
    ]
    for file, found in report["files"].items():
        for problem, where in found["problems"].items():
            number = counted(where["records"], found["of"])
            lines.append(f"- {file}: {number}, each of which {problem}. Remedy: {where['remedy']}.")
            lines += [f"  - {found['of']} {one['record']}: {plain(one['detail'])}" for one in where["found"][:_FEW]]
            lines += _and_more(where["found"], indent="  ")
    if report["sound"]:
        lines.append("None.")
    if report["left out"]:
        lines += ["", "## Left out, as by `load_dataset`", ""]
    for what, names in report["left out"].items():
        lines += [f"- {plain(what)}.", *(f"  - {plain(name)}" for name in names[:_FEW])]
        lines += _and_more(names, indent="  ")

    changed = images["changed since they were found sound"]
    rows = {key: f"{images[key]:,}" for key in ("named", "missing or empty", "broken", "cannot be read now", "sound")}
    rows["megabytes"] = f"{images['bytes'] / 1e6:,.1f}"
    rows |= {f"{side}, pixels": span(images[side]) for side in ("width", "height") if images[side]}
    rows["changed since they were found sound"] = f"{len(changed):,}"
    rows["of the same content as another"] = f"{sum(map(len, copies)):,} in {counted(len(copies), 'group')}"
    lines += ["", "## Images", "", markdown_table(["", ""], list(rows.items()))]
    if changed:
        lines += ["", "Changed since they were found sound:", "", *(f"- {plain(path)}" for path in changed[:_FEW])]
        lines += _and_more(changed)
    if copies:
        groups = [", ".join([*map(plain, group[:_FEW]), *["..."] * (len(group) > _FEW)]) for group in copies[:_FEW]]
        lines += ["", "Of the same content:", "", *(f"- {group}" for group in groups)]
        lines += _and_more(copies)

    lines += ["", "## Records", ""]
    for file, found in report["files"].items():
        lines += [f"### {file}", "", f"{counted(found['records'], found['of'])}.", *found["notes"], ""]
        if found["statistics"]:
            lines += [markdown_table(["", ""], list(describe_counts(found["statistics"]).items())), ""]
    return "\n".join(lines)


def _and_more(found: Sequence, indent: str = "") -> list[str]:
    return [f"{indent}- and {len(found) - _FEW:,} more; see report.json"] if len(found) > _FEW else []
