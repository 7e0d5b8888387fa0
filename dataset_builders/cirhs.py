"""`load_dataset("CIRHS", data_dir=root)`: synthetic triplets of everyday scenes to train composed image retrieval on.

    root/CIRHS.json
    root/images/img_left/17-3_left.png                 wherever the records say

CIRHS.json is a list of records
`{"reference_caption", "target_caption", "reference_image_path", "target_image_path", "edit_caption", "tid"}`.

CIRHS (arXiv 2507.05970) was announced with 534 thousand triplets. No file of it is known to us, so this layout is ours:
that of SynCPR, with the triplet identity `tid` in the place of `cpr_id`. `fafa.synthesis` writes it.
"""

import datasets

from . import syncpr
from .base import FolderBuilder, FolderConfig

CITATION = """\
@misc{li2025automaticsynthesis,
  title         = {Automatic Synthesis of High-Quality Triplet Data for Composed Image Retrieval},
  author        = {Haiwen Li and Delong Liu and Zhaohui Hou and Zhicheng Zhao and Fei Su},
  year          = {2025},
  eprint        = {2507.05970},
  archivePrefix = {arXiv},
  primaryClass  = {cs.CV},
  url           = {https://arxiv.org/abs/2507.05970}
}
"""
PUBLISHED: dict[str, int] = {}  # exact counts are not known


def _renamed(columns: dict) -> dict:
    return {"tid" if name == "cpr_id" else name: value for name, value in columns.items()}


FEATURES = datasets.Features(_renamed(syncpr.FEATURES))
FIELDS = _renamed(syncpr.FIELDS)  # fields of a record, in the order of the columns, and how each is read


class CIRHS(FolderBuilder):
    """Triplets of reference image, edit caption and target image; split `train`.

    Columns: `reference_image`, `target_image` (decoded when asked for), `edit_caption`, `reference_caption`,
    `target_caption`, `tid` (int64; the triplets of one quadruple and direction share it), `reference_image_path`,
    `target_image_path` (as written in CIRHS.json).
    """

    HUB_REPO_ID = None  # none is known to us
    SPLIT = datasets.Split.TRAIN
    BUILDER_CONFIGS = [FolderConfig(version="1.0.0", annotation_names=("CIRHS.json",))]

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Synthetic triplets (reference image, edit caption, target image) of everyday scenes, for "
            "composed image retrieval of any object, in the way of CIRHS (arXiv 2507.05970).",
            citation=CITATION,
            homepage="https://arxiv.org/abs/2507.05970",
            license="Whoever made the folder chooses the terms.",
            features=FEATURES,
        )

    def _read_tables(self, layout):
        return syncpr.read_triplets(layout, "CIRHS", FIELDS, FEATURES, PUBLISHED)
