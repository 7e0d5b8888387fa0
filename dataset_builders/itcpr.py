"""`load_dataset("ITCPR", "query")`, `load_dataset("ITCPR", "gallery")`: the test set of composed person retrieval.

    root/query.json, root/gallery.json                 or both in root/datasets/
    root/Celeb-reID/001/1_1_0.jpg                      file N_*.jpg lies in folder N, three digits
    root/PRCC/rgb/...
    root/LAST/000000/...                               the numeric folders of LaST, by name

query.json is a list of `{"file_path", "datasets", "person_id", "instance_id", "caption"}`; gallery.json the same
without the caption. A gallery image matches a query when their `instance_id` are equal; -1 marks distractors.
`person_id` is unique within one source only. Other test sets of the same form (TG-CPR) load as well.
Source: arXiv 2311.16515 and the authors' README.
"""

import logging
from collections import Counter
from functools import partial

import datasets

from ..citation_fafa import CITATION
from .base import FolderBuilder, FolderConfig, report_counts, to_table
from .layout import ImageFinder, Layout
from .records import (
    BadRecord,
    Problems,
    Repeats,
    caption_field,
    check_records,
    integer_field,
    path_field,
    read_fields,
    read_records,
    text_field,
)

logger = logging.getLogger(__name__)

PUBLISHED = {  # counted in the published files
    "query": {"records": 2_202, "Celeb-reID": 1_151, "LAST": 905, "PRCC": 146, "matches": 2_225},
    "gallery": {"records": 20_510, "Celeb-reID": 19_459, "LAST": 905, "PRCC": 146, "distractors": 18_285},
}

_DISTRACTOR = -1
_COLUMNS = {
    "image": datasets.Image(),
    "caption": datasets.Value("string"),
    "instance_id": datasets.Value("int64"),
    "person_id": datasets.Value("int64"),
    "source": datasets.Value("string"),
    "image_path": datasets.Value("string"),
}
FEATURES = {
    "query": datasets.Features(_COLUMNS),
    "gallery": datasets.Features({name: kind for name, kind in _COLUMNS.items() if name != "caption"}),
}


def _instance(record: dict, field: str, lowest: int) -> int:
    value = integer_field(record, field)
    if value < lowest:
        raise BadRecord("has an instance_id out of range", f"{field} {value}")
    return value


_GALLERY_FIELDS = {
    "instance_id": partial(_instance, lowest=_DISTRACTOR),
    "person_id": integer_field,
    "datasets": text_field,
    "file_path": path_field,
}
FIELDS = {  # fields of a record, in the order of the columns, and how each is read
    "query": {"caption": caption_field} | _GALLERY_FIELDS | {"instance_id": partial(_instance, lowest=0)},
    "gallery": _GALLERY_FIELDS,
}


class ITCPR(FolderBuilder):
    """Queries (reference image and caption) and the gallery to find their targets in; split `test`.

    Columns: `image` (decoded when asked for), `caption` (of queries), `instance_id`, `person_id` (int64), `source`
    (the record's `datasets`: Celeb-reID, PRCC or LAST), `image_path` (the record's `file_path`).

    It is also checked that each query has a match in the gallery.
    """

    HUB_REPO_ID = "a1557811266/ITCPR"
    SPLIT = datasets.Split.TEST
    BUILDER_CONFIGS = [
        FolderConfig(name=name, version="1.0.0", annotation_names=("query.json", "gallery.json"))
        for name in ("query", "gallery")
    ]

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Test set of composed person retrieval: 2,202 queries (reference image and caption) over a "
            "gallery of 20,510 images of three person re-identification data sets.",
            citation=CITATION,
            homepage="https://huggingface.co/datasets/a1557811266/ITCPR",
            license="The images are those of Celeb-reID, PRCC and LaST, each under its own licence, to be obtained "
            "from its authors; see the data-set page for the annotations' terms.",
            features=FEATURES[self.config.name],
        )

    def _read_tables(self, layout):
        yield 0, to_table(_read_rows(layout, self.config.name), FEATURES[self.config.name])


def _read_rows(layout: Layout, name: str) -> list[tuple]:
    """The rows of "query" or "gallery"; the last columns of both are instance, person, source and path."""
    num_matches: Counter[int] = Counter()
    if name == "query":
        file = layout.annotations["gallery.json"]
        read_instance = partial(_instance, field="instance_id", lowest=_DISTRACTOR)
        num_matches.update(check_records(read_records(file), read_instance, Problems(file)))
    file, finder = layout.annotations[f"{name}.json"], ImageFinder(layout)

    def read_row(record: dict) -> tuple:
        fields = read_fields(record, FIELDS[name])
        if name == "query":
            require_match(fields[-4], num_matches)
        return (finder.find(fields[-1]), *fields)

    rows = check_records(read_records(file), read_row, Problems(file, _remedies(layout)))
    found = {**Counter(row[-2] for row in rows), "records": len(rows)}
    if name == "query":
        repeats = Repeats()
        for number, row in enumerate(rows):
            repeats.see(number, row)
        repeats.report(file, PUBLISHED["query"]["records"])
        found["matches"] = sum(num_matches[row[-4]] for row in rows)
    else:
        if num_repeated := len(rows) - len({row[-1] for row in rows}):  # two in the published gallery
            logger.warning(
                "%s: records name an image that an earlier one names (%d); they are kept.", file, num_repeated
            )
        found["distractors"] = sum(row[-4] == _DISTRACTOR for row in rows)
    report_counts(layout, f"ITCPR {name}", found, PUBLISHED[name])
    return rows


def require_match(instance_id: int, num_matches: Counter) -> None:
    """Refuse a query that no image of the gallery matches. Raises `BadRecord`.

    Args:
        instance_id: That of the query.
        num_matches: instance_id -> number of images in the gallery.
    """
    if not num_matches[instance_id]:
        raise BadRecord("is a query without a match in the gallery", f"instance_id {instance_id}")


def _remedies(layout: Layout) -> dict[str, str]:
    folder = layout.image_folders[0] if layout.repo_id is None else "a folder"
    remedy = (
        f"image paths are relative to {folder}. The images of ITCPR are those of Celeb-reID, PRCC and LaST, which you "
        f"must obtain from their authors; `python -m fafa.dataset_builders.prepare_itcpr` arranges them in {folder} as "
        "Celeb-reID/001/1_1_0.jpg, PRCC/rgb/..., LAST/000000/... beside query.json and gallery.json; then pass that "
        "folder as data_dir="
    )
    return {"names an image file that is missing": remedy}
