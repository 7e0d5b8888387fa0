"""`load_dataset("SynTBPR", data_dir=root)`: synthetic images and captions to train text-based person retrieval on.

    root/SynTBPR.json
    root/images/generated/000/17-3.png                 wherever the records say
    root/images/edited/000/17-3-e1.png

SynTBPR.json is a list of records `{"image_path", "captions", "person_id", "provenance"}`, one per image. `captions` is
a list of texts; images of one person share `person_id`. `provenance` is an object whose `source` is "generated" or
"edited"; `fafa.synthesis` adds the model, the prompt, the seed, the edit, and the `parent` that was edited.

There is one record per image, not per caption, as in other data sets of this task (CUHK-PEDES, ICFG-PEDES, RSTPReid):
galleries need every image once, exports hold it once, and trainers make pairs of it in one line, see `SynTBPR`. SynTBPR
(arXiv 2503.22171) is released as scripts and images in a form of its own; this layout is ours.
"""

import json

import datasets

from ..citation_fafa import SYNTBPR_CITATION
from .base import FolderBuilder, FolderConfig, read_tables
from .layout import ImageFinder
from .records import (
    caption_field,
    field_of,
    integer_field,
    path_field,
    read_fields,
    require_unicode,
    wrong_type,
)

PUBLISHED: dict[str, int] = {}  # the published images have another layout
SOURCES = ("generated", "edited")

FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "source": datasets.Value("string"),
        "captions": datasets.List(datasets.Value("string")),
        "person_id": datasets.Value("int64"),
        "provenance": datasets.Value("string"),
        "image_path": datasets.Value("string"),
    }
)


def captions_field(record: dict, field: str) -> tuple[str, ...]:
    """The captions of a field, at least one. Raises `BadRecord`."""
    value = field_of(record, field)
    if type(value) is not list or not value:
        raise wrong_type(field, value, "a list of texts")
    by_name = {f"{field}[{number}]": text for number, text in enumerate(value)}
    return tuple(caption_field(by_name, name) for name in by_name)


def provenance_field(record: dict, field: str) -> str:
    """The object of a field as JSON; it has a source. Raises `BadRecord`."""
    value = field_of(record, field)
    source = value.get("source") if type(value) is dict else None
    if source not in SOURCES:
        raise wrong_type(field, value, f"an object whose source is {' or '.join(SOURCES)}")
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise wrong_type(field, value, "an object without NaN and infinity, which JSON does not know") from None
    require_unicode(field, text)
    return text


FIELDS = {  # fields of a record, in the order of the columns, and how each is read
    "captions": captions_field,
    "person_id": integer_field,
    "provenance": provenance_field,
    "image_path": path_field,
}


class SynTBPR(FolderBuilder):
    """Images of people with captions; split `train`.

    Columns: `image` (decoded when asked for), `source` ("generated", or "edited": the person of another image),
    `captions` (a list of texts), `person_id` (int64), `provenance` (JSON: what made the image), `image_path` (as
    written in SynTBPR.json).

    Pairs of image and caption, for trainers that want them:

        dataset.map(
            lambda rows: {
                "image_path": [path for path, texts in zip(rows["image_path"], rows["captions"]) for _ in texts],
                "person_id": [one for one, texts in zip(rows["person_id"], rows["captions"]) for _ in texts],
                "caption": [text for texts in rows["captions"] for text in texts],
            },
            batched=True,
            remove_columns=dataset.column_names,
        )
    """

    HUB_REPO_ID = None  # no repository in this layout is known to us
    SPLIT = datasets.Split.TRAIN
    BUILDER_CONFIGS = [FolderConfig(version="1.0.0", annotation_names=("SynTBPR.json",))]

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Synthetic pictures of people with captions and identities for text-based person retrieval, in "
            "the way of SynTBPR (arXiv 2503.22171): painted, filtered by pose, edited, and captioned by models.",
            citation=SYNTBPR_CITATION,
            homepage="https://arxiv.org/abs/2503.22171",
            license="Whoever made the folder chooses the terms.",
            features=FEATURES,
        )

    def _read_tables(self, layout):
        # An image comes once, with all its captions: its path may not repeat.
        remedy, people = "copy the image folders", ("people", 3)
        return read_tables(layout, "SynTBPR", _read_row, FEATURES, PUBLISHED, people, remedy, key=-1)


def _read_row(record: dict, finder: ImageFinder) -> tuple:
    values = read_fields(record, FIELDS)
    return (finder.find(values[-1]), record["provenance"]["source"], *values)
