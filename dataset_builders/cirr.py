"""`load_dataset("CIRR", "query" | "gallery", data_dir=root, split="val")`: pairs of photographs of everyday life.

    root/captions/cap.rc2.val.json                     also train, test1
    root/image_splits/split.rc2.val.json
    root/dev/dev-0-0-img0.png                          where the image split says, or so below img_raw/ or images/

A caption file is a list of `{"pairid", "reference", "target_hard", "target_soft", "caption", "img_set": {"id",
"members": [six names], ...}}`, in `test1` without targets, which a server keeps; an image split an object of names and
paths. Version rc2 alone is read. Files: github.com/Cuberick-Orion/CIRR; images are NLVR2's.
"""

from collections.abc import Callable
from pathlib import Path

import datasets

from .benchmark_files import existing, read_benchmark, read_paths, refuse_repeated
from .benchmark_splits import BenchmarkBuilder
from .layout import ImageFinder, Layout
from .records import (
    BadRecord,
    Problems,
    caption_field,
    check_records,
    field_of,
    integer_field,
    path_field,
    text_field,
    wrong_type,
)

SPLITS = ("train", "val", "test1")
SPLIT_FILES = {split: (f"captions/cap.rc2.{split}.json", f"image_splits/split.rc2.{split}.json") for split in SPLITS}
PUBLISHED = {
    "query": {"val": {"records": 4_181}, "test1": {"records": 4_148}},
    "gallery": {"train": {"records": 16_939}, "val": {"records": 2_297}, "test1": {"records": 2_315}},
}
MEMBERS = 6  # images of a set, the reference among them
CITATION = """\
@inproceedings{liu2021cirr,
  title     = {Image Retrieval on Real-life Images with Pre-trained Vision-and-Language Models},
  author    = {Zheyuan Liu and Cristian Rodriguez-Opazo and Damien Teney and Stephen Gould},
  booktitle = {ICCV},
  year      = {2021}
}
"""
_UNLISTED = "names an image that the split does not list"


class CIRR(BenchmarkBuilder):
    """Queries (reference image and caption) and the gallery of a split; splits as files are there.

    Columns of queries: `image`, `caption`, `pair_id` (int64), `reference`, `target` (names of images; no target in
    `test1`), `members` (names of the six images of the reference's set). Of the gallery: `image`, `name`. The further
    targets of `target_soft` count in no published metric, and are not read. What is wrong raises `DataFormatError`.
    """

    SPLIT_FILES = SPLIT_FILES
    WHERE_IMAGES_GO = "Copy NLVR2's images to train, dev and test1 in it, or in img_raw below it."
    PUBLISHED = PUBLISHED
    BUILDER_CONFIGS = BenchmarkBuilder.configs(SPLIT_FILES)
    FEATURES = {
        "query": datasets.Features(
            {
                "image": datasets.Image(),
                "caption": datasets.Value("string"),
                "pair_id": datasets.Value("int64"),
                "reference": datasets.Value("string"),
                "target": datasets.Value("string"),
                "members": datasets.List(datasets.Value("string")),
            }
        ),
        "gallery": datasets.Features({"image": datasets.Image(), "name": datasets.Value("string")}),
    }

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Photographs of everyday life, and captions that say how a wanted one differs.",
            citation=CITATION,
            homepage="https://github.com/Cuberick-Orion/CIRR",
            license="MIT (annotations, version rc2); the images are NLVR2's, to be requested from its authors.",
            features=self.FEATURES[self.config.name],
        )

    def has_images(self, layout: Layout, split: str) -> bool:
        """Whether one of a split's images is there, at least."""
        folders = _folders(layout)
        return any(Path(folder, path).is_file() for path in _paths(layout, split).values() for folder in folders)

    def read_queries(self, layout: Layout, split: str) -> list[tuple]:
        """Rows of all queries."""
        file, find, paths = layout.annotations[SPLIT_FILES[split][0]], image_finder(layout).find, _paths(layout, split)
        has_targets = split != "test1"

        def read_row(record: dict) -> tuple:
            return query_row(record, paths, find, has_targets)

        records = read_benchmark(file, "CIRR", targets=has_targets)
        rows = check_records(records, read_row, Problems(file, remedies(layout.root)))
        refuse_repeated(file, "pairid", [row[2] for row in rows])
        return rows

    def read_gallery(self, layout: Layout, split: str) -> list[tuple]:
        """Rows of all images."""
        file, find, paths = layout.annotations[SPLIT_FILES[split][1]], image_finder(layout), _paths(layout, split)
        records = [{"name": name} for name in paths]

        def read_row(record: dict) -> tuple:
            return (find.find(path_field(paths, record["name"])), record["name"])

        return check_records(records, read_row, Problems(file, remedies(layout.root)))


def query_row(record: dict, paths: dict[str, str], find: Callable[[str], str], has_targets: bool) -> tuple:
    """The row of a query.

    Args:
        record: of a caption file.
        paths: of its split's images, by name.
        find: gives the file of an image by its path.
        has_targets: whether the split has them.

    Raises:
        BadRecord: the record is not as documented.
    """
    reference = _listed(record, "reference", paths)
    target = _listed(record, "target_hard", paths) if has_targets else None
    members = _members(record, paths)
    for field, name in (("reference", reference), ("target_hard", target)):
        if name is not None and name not in members:
            raise BadRecord("has an img_set without one of its images", f"{field} {name}")
    caption, pair_id = caption_field(record, "caption"), integer_field(record, "pairid")
    return (find(path_field(paths, reference)), caption, pair_id, reference, target, members)


def _paths(layout: Layout, split: str) -> dict[str, str]:
    return read_paths(layout.annotations[SPLIT_FILES[split][1]])


def image_finder(layout: Layout) -> ImageFinder:
    """Finds images by the paths of an image split."""
    return ImageFinder(Layout(layout.root, layout.annotations, _folders(layout)))


def _folders(layout: Layout) -> tuple[str, ...]:
    return existing(layout.root, "img_raw", "images")


def _listed(record: dict, field: str, paths: dict[str, str]) -> str:
    name = text_field(record, field)
    if name not in paths:
        raise BadRecord(_UNLISTED, f"{field} {name}")
    return name


def _members(record: dict, paths: dict[str, str]) -> list[str]:
    img_set = field_of(record, "img_set")
    members = img_set.get("members") if type(img_set) is dict else None
    if type(members) is not list or len(members) != MEMBERS:
        raise wrong_type("img_set", img_set, f"an object with {MEMBERS} members")
    by_name = {f"img_set.members[{number}]": name for number, name in enumerate(members)}
    return [_listed(by_name, name, paths) for name in by_name]


def remedies(root: str) -> dict[str, str]:
    """What to do about bad records of this benchmark in a folder."""
    return {
        _UNLISTED: "captions and image split must be of one version (rc2) and one split",
        "has an img_set without one of its images": "fetch the annotation file again",
        "names an image file that is missing": f"copy NLVR2's images to {root}/train, dev and test1",
    }


__all__ = ["CIRR", "MEMBERS"]
