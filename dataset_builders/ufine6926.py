"""`load_dataset("UFine6926", data_dir=root)`: photographs of people with very detailed captions.

    root/UFine6926.json                                or reid_raw.json, data_captions.json, with the same records
    root/imgs/...

The file is a list of records `{"split", "id", "file_path", "captions"}`, one per image; `split` is train, val or test.
Under which name it is distributed is not known to us. Many captions are longer than a CLIP reads.
"""

from .text_image import FEATURES, TextImageBuilder, TextImageFormat, config_of, fields_of

CITATION = """\
@inproceedings{zuo2024ufinebench,
  title     = {UFineBench: Towards Text-based Person Retrieval with Ultra-fine Granularity},
  author    = {Jialong Zuo and Hanyu Zhou and Ying Nie and Feng Zhang and Tianyu Guo and Nong Sang and Yunhe Wang
               and Changxin Gao},
  booktitle = {CVPR},
  year      = {2024},
  url       = {https://arxiv.org/abs/2312.03441}
}
"""
COLUMNS = FEATURES
FORMAT = TextImageFormat(
    name="UFine6926",
    files=(("UFine6926.json",), ("reid_raw.json",), ("data_captions.json",)),
    fields=fields_of(),
    splits=(),  # not known to us: those that there are
)


class UFine6926(TextImageBuilder):
    """Images of people with captions, a row per image.

    Columns: `image` (decoded when asked for), `captions` (a list of texts), `person_id` (int64, as in the file),
    `image_path` (as in the file). `fafa.training.caption_pairs` makes pairs to train on.

    Every record and the existence of every image are checked when the data set is first loaded; what is wrong raises
    `DataFormatError`. Images are not opened before they are used.
    """

    BUILDER_CONFIGS = [config_of(FORMAT)]
    FORMAT = FORMAT
    DESCRIPTION = "UFine6926: photographs of people with ultra-fine-grained captions."
    HOMEPAGE = "https://arxiv.org/abs/2312.03441"
    CITATION = CITATION
