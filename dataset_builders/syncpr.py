"""`load_dataset("SynCPR")`: synthetic triplets to train composed person retrieval on.

    root/SynCPR.json                                   or root/datasets/SynCPR.json
    root/test2/sub_img/img_left/10732-1_left.png
    root/test2/sub_img/img_right/10732-1_right.png

SynCPR.json is a list of records
`{"reference_caption", "target_caption", "reference_image_path", "target_image_path", "edit_caption", "cpr_id"}`.
Source: arXiv 2311.16515 and the authors' README.
"""

from collections.abc import Callable, Iterator
from typing import Any

import datasets
import pyarrow as pa

from ..citation_fafa import CITATION
from .base import FolderBuilder, FolderConfig, read_tables
from .layout import ImageFinder, Layout
from .records import caption_field, integer_field, path_field, read_fields

PUBLISHED = {"records": 1_153_230, "groups": 177_530}  # counted in the published file; the paper says 1,153,220

FEATURES = datasets.Features(
    {
        "reference_image": datasets.Image(),
        "target_image": datasets.Image(),
        "edit_caption": datasets.Value("string"),
        "reference_caption": datasets.Value("string"),
        "target_caption": datasets.Value("string"),
        "cpr_id": datasets.Value("int64"),
        "reference_image_path": datasets.Value("string"),
        "target_image_path": datasets.Value("string"),
    }
)

FIELDS = {  # fields of a record, in the order of the columns, and how each is read
    "edit_caption": caption_field,
    "reference_caption": caption_field,
    "target_caption": caption_field,
    "cpr_id": integer_field,
    "reference_image_path": path_field,
    "target_image_path": path_field,
}


class SynCPR(FolderBuilder):
    """Triplets of reference image, edit caption and target image; split `train`.

    Columns: `reference_image`, `target_image` (decoded when asked for), `edit_caption`, `reference_caption`,
    `target_caption`, `cpr_id` (int64; the triplets of one quadruple and direction share it),
    `reference_image_path`, `target_image_path` (as written in SynCPR.json).
    """

    HUB_REPO_ID = "a1557811266/SynCPR"
    SPLIT = datasets.Split.TRAIN
    BUILDER_CONFIGS = [FolderConfig(version="1.0.0", annotation_names=("SynCPR.json",))]

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Synthetic triplets (reference image, edit caption, target image) for composed person "
            "retrieval: 1.15 million triplets of 177,530 groups, painted by a diffusion model and filtered.",
            citation=CITATION,
            homepage="https://huggingface.co/datasets/a1557811266/SynCPR",
            license="Released for research; see the data-set page for the authors' terms.",
            features=FEATURES,
        )

    def _read_tables(self, layout):
        return read_triplets(layout, "SynCPR", FIELDS, FEATURES, PUBLISHED)


def read_triplets(
    layout: Layout,
    name: str,
    fields: dict[str, Callable[[dict, str], Any]],
    features: datasets.Features,
    published: dict[str, int],
) -> Iterator[tuple[int, pa.Table]]:
    """The records of <name>.json as tables; see `read_tables`.

    Args:
        layout: Where the data set lies.
        name: Name of the data set.
        fields: Fields of a record, in the order of the columns without images: the id of the group is the fourth, the
            paths of both images are the last two.
        features: The columns: both images, then the fields.
        published: Counts of "records" and "groups" in the published file; empty if they are not known.
    """

    def read_row(record: dict, finder: ImageFinder) -> tuple:
        values = read_fields(record, fields)
        return (finder.find(values[-2]), finder.find(values[-1]), *values)

    remedy = f"unpack all image archives of {name}"
    return read_tables(layout, name, read_row, features, published, group=("groups", 5), remedy=remedy)
