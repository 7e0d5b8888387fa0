"""`load_dataset("TBPS-CLIP", data_dir=root)`: images of people with captions, in a file for each split.

    root/train.json, root/val.json, root/test.json     those that there are
    root/images/train/..., root/images/test/...        or images/, imgs/, or the root itself

Each file is a list of records `{"file_path", "id", "captions", "captions_bt"}`, one per image; `captions_bt` are the
same captions translated to another language and back. TBPS-CLIP and SynTBPR keep all data sets in this form.

The images of a split are read from its own folder, where there is one, and never from another split's.
"""

import datasets

from .syntbpr import captions_field
from .text_image import FEATURES, TextImageBuilder, TextImageFormat, config_of, fields_of

CITATION = """\
@inproceedings{cao2024empiricalstudy,
  title     = {An Empirical Study of CLIP for Text-Based Person Search},
  author    = {Min Cao and Yang Bai and Ziyin Zeng and Mang Ye and Min Zhang},
  booktitle = {AAAI},
  year      = {2024},
  url       = {https://arxiv.org/abs/2308.10045}
}
"""
COLUMNS = datasets.Features(
    {"image": FEATURES["image"], "captions": FEATURES["captions"], "captions_bt": FEATURES["captions"], **FEATURES}
)
FORMAT = TextImageFormat(
    name="TBPS-CLIP",
    files=(
        ("train.json", "val.json", "test.json"),
        ("train.json", "test.json"),
        ("train.json", "val.json"),
        ("val.json", "test.json"),
        ("train.json",),
        ("val.json",),
        ("test.json",),
    ),
    fields={"captions": captions_field, "captions_bt": captions_field, **fields_of()},
    by_file=True,
)


class TBPS_CLIP(TextImageBuilder):
    """Images of people with captions, a row per image.

    Columns: `image` (decoded when asked for), `captions` (a list of texts), `captions_bt` (the same, translated back),
    `person_id` (int64, as in the file), `image_path` (as in the file). `fafa.training.caption_pairs` makes pairs.

    Every record and the existence of every image are checked when the data set is first loaded; what is wrong raises
    `DataFormatError`. Images are not opened before they are used.
    """

    BUILDER_CONFIGS = [config_of(FORMAT)]
    FORMAT = FORMAT
    COLUMNS = COLUMNS
    DESCRIPTION = "Images of people with captions, in the per-split files of TBPS-CLIP and SynTBPR."
    HOMEPAGE = "https://arxiv.org/abs/2308.10045"
    CITATION = CITATION
