"""`load_dataset("FashionIQ", "query" | "gallery", data_dir=root, split="val")`: garments and how another one differs.

    root/captions/cap.dress.val.json                   also shirt, toptee; train, test
    root/image_splits/split.dress.val.json
    root/images/B005X4PL1G.jpg                         anywhere below images/, .jpg, .jpeg or .png

A caption file is a list of `{"target", "candidate", "captions": [two texts]}`, in `test` without the target; an image
split a list of names. Files: github.com/XiaoxiaoGuo/fashion-iq; the images come from shops, and many can no longer be
had (74,381 of 77,684 were found last).

**Missing images are left out, counted and named**: they are not in the gallery, nor are the queries whose candidate or
target they are. What is then measured is another, smaller test: the gallery holds fewer rivals, so recall tends to be
higher than on the whole, and figures are comparable only over the same images. `missing_images` tells what is missing,
and `fafa evaluate cir` writes it beside the figures.
"""

import logging

import datasets

from ..captions_fafa import has_word
from .benchmark_files import images_by_name, read_benchmark, read_names, splits_in
from .benchmark_splits import BenchmarkBuilder
from .layout import Layout
from .records import BadRecord, Problems, check_records, field_of, text_field, wrong_type

logger = logging.getLogger(__name__)

CATEGORIES = ("dress", "shirt", "toptee")
SPLITS = ("train", "val", "test")
SPLIT_FILES = {
    split: tuple(
        name
        for category in CATEGORIES
        for name in (f"captions/cap.{category}.{split}.json", f"image_splits/split.{category}.{split}.json")
    )
    for split in SPLITS
}
PUBLISHED = {
    "query": {
        "train": {"records": 18_000, "dress": 5_985, "shirt": 5_988, "toptee": 6_027},
        "val": {"records": 6_016, "dress": 2_017, "shirt": 2_038, "toptee": 1_961},
    },
    "gallery": {"val": {"records": 15_536, "dress": 3_817, "shirt": 6_346, "toptee": 5_373}},
}
CITATION = """\
@inproceedings{wu2021fashioniq,
  title     = {Fashion {IQ}: A New Dataset Towards Retrieving Images by Natural Language Feedback},
  author    = {Hui Wu and Yupeng Gao and Xiaoxiao Guo and Ziad Al-Halah and Steven Rennie and Kristen Grauman and
               Rogerio Feris},
  booktitle = {CVPR},
  year      = {2021}
}
"""
_FEW = 10  # missing images named in the log
_UNLISTED = "names an image that the split does not list"


class FashionIQ(BenchmarkBuilder):
    """Queries (a garment's image and two captions) and the gallery of each category; splits as files are there.

    Columns of queries: `image` (of the candidate, which is FashionIQ's name for the reference image), `captions` (two
    texts), `category`, `reference` and `target` (names of images; no target in `test`). Of the gallery: `image`,
    `name`, `category`. Missing images are left out with a warning, see the module; all else that is wrong raises
    `DataFormatError`.
    """

    SPLIT_FILES = SPLIT_FILES
    WHERE_IMAGES_GO = "Copy them to images in it, named as in the image splits."
    PUBLISHED = PUBLISHED
    BUILDER_CONFIGS = BenchmarkBuilder.configs(SPLIT_FILES)
    FEATURES = {
        "query": datasets.Features(
            {
                "image": datasets.Image(),
                "captions": datasets.List(datasets.Value("string")),
                "category": datasets.Value("string"),
                "reference": datasets.Value("string"),
                "target": datasets.Value("string"),
            }
        ),
        "gallery": datasets.Features(
            {"image": datasets.Image(), "name": datasets.Value("string"), "category": datasets.Value("string")}
        ),
    }

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Images of dresses, shirts and tops, and two captions that say how a wanted one differs.",
            citation=CITATION,
            homepage="https://github.com/XiaoxiaoGuo/fashion-iq",
            license="CDLA-Permissive-1.0 (annotations); the images are their shops'.",
            features=self.FEATURES[self.config.name],
        )

    def has_images(self, layout: Layout, split: str) -> bool:
        """Whether one of a split's images is there, at least."""
        images = images_in(layout.root)
        names = (
            name
            for category in CATEGORIES
            for name in read_names(layout.annotations[f"image_splits/split.{category}.{split}.json"])
        )
        return any(name in images for name in names)

    def count(self, rows: list[tuple]) -> dict[str, int]:
        """Of all, and of each category."""
        categories = [row[2] for row in rows]
        return {"records": len(rows), **{name: categories.count(name) for name in CATEGORIES}}

    def read_queries(self, layout: Layout, split: str) -> list[tuple]:
        """Rows of the queries both of whose images are there."""
        rows, _, num_left_out = _read(layout, split)
        if num_left_out:
            _tell(layout, split)
        return rows

    def read_gallery(self, layout: Layout, split: str) -> list[tuple]:
        """Rows of the images that are there."""
        images, rows = images_in(layout.root), []
        for category in CATEGORIES:
            for name in read_names(layout.annotations[f"image_splits/split.{category}.{split}.json"]):
                if name in images:
                    rows.append((images[name], name, category))
        _tell(layout, split)
        return rows


def missing_images(data_dir: str, split: str) -> dict:
    """What is missing of a split, and so left out.

    Returns:
        `{"images": [names, in order], "num_images": of all, "num_queries_left_out": ..., "num_queries": of all}`.

    Raises:
        FileNotFoundError, DataFormatError: as `load_dataset`.
    """
    layouts = splits_in(data_dir, SPLIT_FILES)
    if split not in layouts:
        raise ValueError(f"{data_dir}: there is no split {split!r}; it holds {', '.join(layouts)}")
    return _missing(layouts[split], split)


def _missing(layout: Layout, split: str) -> dict:
    rows, names, num_left_out = _read(layout, split)
    images = images_in(layout.root)
    return {
        "images": [name for name in dict.fromkeys(names) if name not in images],
        "num_images": len(set(names)),
        "num_queries_left_out": num_left_out,
        "num_queries": len(rows) + num_left_out,
    }


def _tell(layout: Layout, split: str) -> None:
    missing = _missing(layout, split)
    if missing["images"]:
        logger.warning(
            "FashionIQ (%s) at %s: %d of %d images are missing (%s%s); they are left out, and %d of %d queries with "
            "them. What is measured on the rest is not comparable with figures over all images.",
            *(split, layout.root, len(missing["images"]), missing["num_images"], ", ".join(missing["images"][:_FEW])),
            ", ..." if len(missing["images"]) > _FEW else "",
            *(missing["num_queries_left_out"], missing["num_queries"]),
        )


def images_in(root: str) -> dict[str, str]:
    """Name -> path of every image that is there."""
    return images_by_name([f"{root}/images"])


def _read(layout: Layout, split: str) -> tuple[list[tuple], list[str], int]:
    """Rows of queries with both images, all names of the split's images, and how many queries were left out."""
    images, rows, all_names, num_left_out = images_in(layout.root), [], [], 0
    has_targets = split != "test"
    for category in CATEGORIES:
        names = read_names(layout.annotations[f"image_splits/split.{category}.{split}.json"])
        file, known = layout.annotations[f"captions/cap.{category}.{split}.json"], set(names)

        def read_row(record: dict, category=category, known=known) -> tuple:
            return query_row(record, category, known, has_targets)

        records = read_benchmark(file, "FashionIQ", targets=has_targets)
        found = check_records(records, read_row, Problems(file, remedies(category)))
        kept = [row for row in found if row[3] in images and (row[4] is None or row[4] in images)]
        rows += [(images[row[3]], *row[1:]) for row in kept]
        num_left_out += len(found) - len(kept)
        all_names += names
    return rows, all_names, num_left_out


def query_row(record: dict, category: str, known: set[str], has_targets: bool) -> tuple:
    """The row of a query, without its image.

    Args:
        record: of a caption file.
        category: of the file.
        known: names of the images that the image split lists.
        has_targets: whether the split has them.

    Raises:
        BadRecord: the record is not as documented.
    """
    reference = _listed(record, "candidate", known)
    target = _listed(record, "target", known) if has_targets else None
    return ("", _captions(record), category, reference, target)


def remedies(category: str) -> dict[str, str]:
    """What to do about bad records of this benchmark."""
    return {_UNLISTED: f"the captions and the image split of {category} must be of one version and split"}


def _listed(record: dict, field: str, known: set[str]) -> str:
    name = text_field(record, field)
    if name not in known:
        raise BadRecord(_UNLISTED, f"{field} {name}")
    return name


def _captions(record: dict) -> list[str]:
    """Both captions; one of the two may say nothing, as some published ones do."""
    value = field_of(record, "captions")
    if type(value) is not list or len(value) != 2 or not all(type(text) is str for text in value):
        raise wrong_type("captions", value, "a list of two texts")
    if not any(map(has_word, value)):
        raise BadRecord("has a caption without a word", f"captions {value}")
    return value


__all__ = ["CATEGORIES", "FashionIQ", "missing_images"]
