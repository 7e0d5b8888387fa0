"""`load_dataset("CUHK-PEDES", data_dir=root)`: photographs of people with captions; splits train, validation, test.

    root/reid_raw.json
    root/imgs/CUHK03/..., root/imgs/cam_a/...          as its authors distribute them

reid_raw.json is a list of records `{"split", "captions", "file_path", "processed_tokens", "id"}`, one per image;
`split` is train, val or test, people are numbered from 1. The words in `processed_tokens` are not read.
"""

from .text_image import FEATURES, TextImageBuilder, TextImageFormat, config_of, fields_of

CITATION = """\
@inproceedings{li2017personsearch,
  title     = {Person Search with Natural Language Description},
  author    = {Shuang Li and Tong Xiao and Hongsheng Li and Bolei Zhou and Dayu Yue and Xiaogang Wang},
  booktitle = {CVPR},
  year      = {2017},
  url       = {https://arxiv.org/abs/1702.05729}
}
"""
COLUMNS = FEATURES
FORMAT = TextImageFormat(
    name="CUHK-PEDES",
    files=(("reid_raw.json",),),
    fields=fields_of(),
    published={"records": 40_206, "captions": 80_412, "people": 13_003},
)


class CUHK_PEDES(TextImageBuilder):
    """Images of people with captions, a row per image.

    Columns: `image` (decoded when asked for), `captions` (a list of texts), `person_id` (int64, as in the file),
    `image_path` (as in the file). `fafa.training.caption_pairs` makes pairs to train on.

    Every record and the existence of every image are checked when the data set is first loaded; what is wrong raises
    `DataFormatError`. Images are not opened before they are used.
    """

    BUILDER_CONFIGS = [config_of(FORMAT)]
    FORMAT = FORMAT
    DESCRIPTION = (
        "CUHK-PEDES: photographs of people in five sets for person re-identification, with two sentences each."
    )
    HOMEPAGE = "https://arxiv.org/abs/1702.05729"
    CITATION = CITATION
