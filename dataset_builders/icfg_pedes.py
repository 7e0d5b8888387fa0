"""`load_dataset("ICFG-PEDES", data_dir=root)`: photographs of people with a caption each; splits train, test.

    root/ICFG-PEDES.json                               or ICFG_PEDES.json
    root/imgs/train/..., root/imgs/test/...            as its authors distribute them

The file is a list of records `{"split", "captions", "file_path", "processed_tokens", "id"}`, one per image; `split` is
train or test, people are numbered from 0. The words in `processed_tokens` are not read.
"""

from .text_image import FEATURES, TextImageBuilder, TextImageFormat, config_of, fields_of

CITATION = """\
@misc{ding2021semantically,
  title         = {Semantically Self-Aligned Network for Text-to-Image Part-aware Person Re-identification},
  author        = {Zefeng Ding and Changxing Ding and Zhiyin Shao and Dacheng Tao},
  year          = {2021},
  eprint        = {2107.12666},
  archivePrefix = {arXiv}
}
"""
COLUMNS = FEATURES
FORMAT = TextImageFormat(
    name="ICFG-PEDES",
    files=(("ICFG-PEDES.json",), ("ICFG_PEDES.json",)),
    fields=fields_of(),
    splits=("train", "test"),
    published={"records": 54_522, "captions": 54_522, "people": 4_102, "train": 34_674, "test": 19_848},
)


class ICFG_PEDES(TextImageBuilder):
    """Images of people with captions, a row per image.

    Columns: `image` (decoded when asked for), `captions` (a list of texts), `person_id` (int64, as in the file),
    `image_path` (as in the file). `fafa.training.caption_pairs` makes pairs to train on.

    Every record and the existence of every image are checked when the data set is first loaded; what is wrong raises
    `DataFormatError`. Images are not opened before they are used.
    """

    BUILDER_CONFIGS = [config_of(FORMAT)]
    FORMAT = FORMAT
    DESCRIPTION = "ICFG-PEDES: photographs of people from MSMT17, with one long caption each."
    HOMEPAGE = "https://arxiv.org/abs/2107.12666"
    CITATION = CITATION
