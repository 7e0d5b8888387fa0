"""What the builders of images of people with captions share; such a set has one list of records for all its splits.

    root/reid_raw.json             or whatever its authors call it
    root/imgs/...                  image paths are relative to imgs/, images/ or the root

Formats as their authors publish them; the images are to be had from the authors.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import datasets

from . import base
from .layout import ImageFinder, Layout, SplitImageFinder, files_in, present_annotations, with_image_folders
from .recognition import refuse_another
from .records import (
    BadRecord,
    DataFormatError,
    Problems,
    Repeats,
    check_records,
    field_of,
    integer_field,
    path_field,
    read_fields,
    read_records,
    wrong_type,
)
from .syntbpr import captions_field

logger = logging.getLogger(__name__)

SPLITS = {"train": datasets.Split.TRAIN, "val": datasets.Split.VALIDATION, "test": datasets.Split.TEST}
FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "captions": datasets.List(datasets.Value("string")),
        "person_id": datasets.Value("int64"),
        "image_path": datasets.Value("string"),
    }
)
# File -> the data set that usually calls it so, for the error where another is asked for.
USUAL_NAMES = {
    "reid_raw.json": "CUHK-PEDES",
    "caption_all.json": "an older CUHK-PEDES, without splits",
    "ICFG-PEDES.json": "ICFG-PEDES",
    "ICFG_PEDES.json": "ICFG-PEDES",
    "data_captions.json": "RSTPReid",
    "UFine6926.json": "UFine6926",
    "SynTBPR.json": "SynTBPR",
    "SynCPR.json": "SynCPR",
}


def id_field(record: dict, name: str) -> int:
    """The person of a record, from 0 on. Raises `BadRecord`."""
    value = integer_field(record, name)
    if value < 0:
        raise BadRecord("has an id out of range", f"{name} {value}")
    return value


def split_field(record: dict, name: str = "split") -> str:
    """The split of a record. Raises `BadRecord`."""
    value = field_of(record, name)
    if not isinstance(value, str) or value not in SPLITS:
        raise wrong_type(name, value, " or ".join(map(repr, SPLITS)))
    return value


@dataclass(frozen=True)
class TextImageFormat:
    """How a data set of images with captions is annotated.

    Attributes:
        name: Of the data set.
        files: The sets of annotation files that it is met in, the usual one first.
        fields: Field of a record -> how it is read, in the order of the columns.
        splits: Those that it has.
        published: Counts of the published file; empty if they are not known.
        by_file: Whether each split has a file of its own, with the name of the split.
    """

    name: str
    files: tuple[tuple[str, ...], ...]
    fields: dict[str, Callable]
    splits: tuple[str, ...] = tuple(SPLITS)
    published: dict[str, int] = field(default_factory=dict)
    by_file: bool = False


def fields_of(path: str = "file_path") -> dict[str, Callable]:
    """The fields of a record whose image is named in `path`."""
    return {"captions": captions_field, "id": id_field, path: path_field}


@dataclass
class TextImageConfig(base.FolderConfig):
    """Where a data set is read from; `files` are the builder's `TextImageFormat.files`, and its name."""

    files: tuple[tuple[str, ...], ...] = ()
    of: str = ""

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """Finds which of the annotation files are there, then keys the cache by their contents."""
        if self.data_dir is not None:
            present = present_annotations(self.data_dir, self.files)
            self.annotation_names = present or self.files[0]
            others = [name for name in files_in(self.data_dir) if name in USUAL_NAMES]
            if others and not present:
                other = min(others)
                raise DataFormatError(
                    f"{self.data_dir}: expected {' and '.join(self.annotation_names)} of {self.of}, but the folder "
                    f"holds {other}, which looks like an annotation file of {USUAL_NAMES[other]}. Remedy: load it by "
                    f"its own name, or pass the folder of {self.of}."
                )
        return super().create_config_id(config_kwargs, custom_features)


class TextImageBuilder(base.FolderBuilder):
    """Images of people with captions, in the splits that their authors made."""

    BUILDER_CONFIG_CLASS = TextImageConfig
    HUB_REPO_ID = None  # the images are the user's
    WRITTEN_BY = ", as its authors publish it, and the images"
    FORMAT: TextImageFormat
    COLUMNS = FEATURES
    DESCRIPTION: str
    HOMEPAGE: str
    CITATION: str

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description=self.DESCRIPTION,
            citation=self.CITATION,
            homepage=self.HOMEPAGE,
            license="Annotations and images are under the terms of their authors, from whom they are to be had.",
            features=self.COLUMNS,
        )

    def _split_generators(self, dl_manager):
        layout = with_image_folders(self._find_layout(dl_manager))
        return [
            datasets.SplitGenerator(name=SPLITS[split], gen_kwargs={"layouts": [layout], "split": split})
            for split in check_format(layout, self.FORMAT)
        ]

    def _generate_tables(self, layouts, split):
        for layout in layouts:
            rows = read_split(layout, self.FORMAT, split)
            yield 0, base.to_table(rows, self.COLUMNS)


def config_of(format: TextImageFormat) -> TextImageConfig:
    """The one configuration of a builder."""
    return TextImageConfig(version="1.0.0", annotation_names=format.files[0], files=format.files, of=format.name)


def check_format(layout: Layout, format: TextImageFormat) -> list[str]:
    """Looks through the annotation files: whose they are, which splits there are, how many records.

    Returns:
        the splits, in the order of `SPLITS`.

    Raises:
        DataFormatError: a file is of another data set, has unknown splits, or lacks one that the data set has.
    """
    counts: Counter[str] = Counter()
    people: set = set()
    for name, file in layout.annotations.items():
        problems = Problems(file)
        for number, record in enumerate(read_records(file)):
            if number == 0:
                refuse_another(file, record, format.name)
            try:
                counts[name.removesuffix(".json") if format.by_file else split_field(record)] += 1
                counts["captions"] += len(record["captions"])
                people.add(record["id"])
            except BadRecord as bad:
                problems.add(number, bad)
            except (KeyError, TypeError):
                continue  # what is wrong with it is told when its split is read
        problems.raise_if_any(number + 1)
    found = {split: counts[split] for split in SPLITS if counts[split]}
    missing = [] if format.by_file else [split for split in format.splits if split not in found]
    if missing:
        files = " and ".join(layout.annotations.values())
        there = ", ".join(f"{split}: {count:,}" for split, count in found.items()) or "none"
        raise DataFormatError(
            f"{files}: no record is of the split {' or '.join(map(repr, missing))} (records by split: {there}); "
            f"{format.name} has {', '.join(format.splits)}. Remedy: fetch the file again; it may have been cut off, or "
            "be of another version."
        )
    totals = {"records": sum(found.values()), "captions": counts["captions"], "people": len(people)}
    base.report_counts(layout, format.name, totals, format.published)
    return list(found)


def read_split(layout: Layout, format: TextImageFormat, split: str) -> list[tuple]:
    """The rows of a split, checked: image, then the columns of the format's fields.

    Raises:
        DataFormatError: records are not as documented, name an image twice, or images that are not there.
    """
    file = layout.annotations[f"{split}.json" if format.by_file else next(iter(layout.annotations))]
    finder = SplitImageFinder(layout, list(SPLITS)) if format.by_file else ImageFinder(layout)
    prefix = f"{split}/" if format.by_file else ""
    remedy = f"get the images from the data set's authors; their paths are relative to {layout.image_folders[0]}"
    problems = Problems(file, {"names an image file that is missing": remedy})
    read_row = partial(_read_row, format=format, split=split, find=lambda path: finder.find(prefix + path))
    rows, repeats = check_records(read_records(file), read_row, problems), Repeats()
    for number, row in enumerate(rows):
        if row is not None:
            repeats.see(number, row[-1:])
    repeats.report(file, format.published.get("records", 0))
    return [row for row in rows if row is not None]


def _read_row(record: dict, format: TextImageFormat, split: str, find: Callable[[str], str]) -> tuple | None:
    if not format.by_file and split_field(record) != split:
        return None
    values = read_fields(record, format.fields)
    return (find(values[-1]), *values)
