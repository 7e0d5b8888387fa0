"""`load_dataset("CIRCO", "query" | "gallery", data_dir=root, split="val")`: COCO images with several targets a query.

    root/annotations/val.json                          and test.json
    root/COCO2017_unlabeled/unlabeled2017/000000000008.jpg    or so below unlabeled2017/

An annotation file is a list of `{"id", "reference_img_id", "target_img_id", "relative_caption", "shared_concept",
"gt_img_ids": [...], "semantic_aspects": [...]}`, in `test` without targets, truths and aspects, which a server keeps.
The gallery is all of COCO's unlabeled images of 2017 (123,403), by number. Files: github.com/miccunifi/CIRCO.
"""

from collections.abc import Callable
from pathlib import Path

import datasets

from .benchmark_files import existing, read_benchmark, refuse_repeated
from .benchmark_splits import BenchmarkBuilder
from .layout import ImageFinder, Layout, list_files
from .records import BadRecord, Problems, caption_field, check_records, field_of, integer_field, text_field, wrong_type

SPLIT_FILES = {split: (f"annotations/{split}.json",) for split in ("val", "test")}
NUM_IMAGES = 123_403
_GALLERY = {"records": NUM_IMAGES}
PUBLISHED = {
    "query": {"val": {"records": 220}, "test": {"records": 800}},
    "gallery": {"val": _GALLERY, "test": _GALLERY},
}
CITATION = """\
@inproceedings{baldrati2023circo,
  title     = {Zero-Shot Composed Image Retrieval with Textual Inversion},
  author    = {Alberto Baldrati and Lorenzo Agnolucci and Marco Bertini and Alberto Del Bimbo},
  booktitle = {ICCV},
  year      = {2023}
}
"""
_TRUTHS = "has ground truths without its target"


class CIRCO(BenchmarkBuilder):
    """Queries (reference image and caption) and the gallery; splits as files are there.

    Columns of queries: `image`, `caption` (the record's relative_caption), `shared_concept`, `query_id`, `reference`,
    `target` (int64, numbers of COCO images; no target in `test`), `ground_truth` (numbers of all targets, none in
    `test`), `semantic_aspects` (texts, none in `test`). Of the gallery, which is one for both splits: `image`,
    `image_id`. What is wrong raises `DataFormatError`.
    """

    SPLIT_FILES = SPLIT_FILES
    WHERE_IMAGES_GO = "Copy COCO's unlabeled images of 2017 to COCO2017_unlabeled/unlabeled2017 in it."
    PUBLISHED = PUBLISHED
    BUILDER_CONFIGS = BenchmarkBuilder.configs(SPLIT_FILES)
    FEATURES = {
        "query": datasets.Features(
            {
                "image": datasets.Image(),
                "caption": datasets.Value("string"),
                "shared_concept": datasets.Value("string"),
                "query_id": datasets.Value("int64"),
                "reference": datasets.Value("int64"),
                "target": datasets.Value("int64"),
                "ground_truth": datasets.List(datasets.Value("int64")),
                "semantic_aspects": datasets.List(datasets.Value("string")),
            }
        ),
        "gallery": datasets.Features({"image": datasets.Image(), "image_id": datasets.Value("int64")}),
    }

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="COCO images, captions that say how wanted ones differ, and all targets of each query.",
            citation=CITATION,
            homepage="https://github.com/miccunifi/CIRCO",
            license="CC BY-NC 4.0 (annotations); images: COCO's terms.",
            features=self.FEATURES[self.config.name],
        )

    def has_images(self, layout: Layout, split: str) -> bool:
        """Whether one of COCO's images is there, at least."""
        return bool(image_files(layout))

    def read_queries(self, layout: Layout, split: str) -> list[tuple]:
        """Rows of all queries."""
        file, find = layout.annotations[SPLIT_FILES[split][0]], ImageFinder(with_images(layout)).find
        has_targets = split != "test"

        def read_row(record: dict) -> tuple:
            return query_row(record, find, has_targets)

        records = read_benchmark(file, "CIRCO", targets=has_targets)
        rows = check_records(records, read_row, Problems(file, remedies(layout.root)))
        refuse_repeated(file, "id", [row[3] for row in rows])
        return rows

    def read_gallery(self, layout: Layout, split: str) -> list[tuple]:
        """Rows of all images, by number."""
        return sorted(((str(file), int(file.stem)) for file in image_files(layout)), key=lambda row: row[1])


def query_row(record: dict, find: Callable[[str], str], has_targets: bool) -> tuple:
    """The row of a query.

    Args:
        record: of an annotation file.
        find: gives the file of an image by its name.
        has_targets: whether the split has them.

    Raises:
        BadRecord: the record is not as documented.
    """
    reference = integer_field(record, "reference_img_id")
    row = (
        find(file_name(reference)),
        caption_field(record, "relative_caption"),
        text_field(record, "shared_concept"),
        integer_field(record, "id"),
        reference,
    )
    if not has_targets:
        return (*row, None, [], [])
    target, truths = integer_field(record, "target_img_id"), _numbers(record, "gt_img_ids")
    if target not in truths or len(set(truths)) < len(truths):
        raise BadRecord(_TRUTHS, f"target_img_id {target}, gt_img_ids {truths[:5]}")
    return (*row, target, truths, _texts(record, "semantic_aspects"))


def file_name(number: int) -> str:
    """The name of a COCO image's file."""
    return f"{number:012d}.jpg"


def with_images(layout: Layout) -> Layout:
    """The layout with the folder of images, which is its first; the root, if there is none."""
    folders = existing(layout.root, "COCO2017_unlabeled/unlabeled2017", "unlabeled2017")
    return Layout(layout.root, layout.annotations, folders)


def image_files(layout: Layout) -> list[Path]:
    """The files of the gallery."""
    folder = with_images(layout).image_folders[0]
    return list_files([folder], lambda name: name.endswith(".jpg") and name.removesuffix(".jpg").isdecimal())


def _numbers(record: dict, field: str) -> list[int]:
    value = field_of(record, field)
    if type(value) is not list or not value or not all(type(number) is int for number in value):
        raise wrong_type(field, value, "a list of numbers of images")
    return value


def _texts(record: dict, field: str) -> list[str]:
    value = field_of(record, field)
    if type(value) is not list or not all(type(text) is str for text in value):
        raise wrong_type(field, value, "a list of texts")
    return value


def remedies(root: str) -> dict[str, str]:
    """What to do about bad records of this benchmark in a folder."""
    images = f"copy COCO's unlabeled images of 2017 to {root}/COCO2017_unlabeled/unlabeled2017"
    return {_TRUTHS: "fetch the annotation file again", "names an image file that is missing": images}


__all__ = ["CIRCO"]
