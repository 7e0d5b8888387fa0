"""`load_dataset("RSTPReid", data_dir=root)`: photographs of people with captions; splits train, validation, test.

    root/data_captions.json
    root/imgs/...                                      as its authors distribute them

data_captions.json is a list of records `{"split", "captions", "img_path", "id"}`, one per image, where other data sets
say `file_path`; `split` is train, val or test, people are numbered from 0.
"""

from .text_image import FEATURES, TextImageBuilder, TextImageFormat, config_of, fields_of

CITATION = """\
@inproceedings{zhu2021dssl,
  title     = {DSSL: Deep Surroundings-person Separation Learning for Text-based Person Retrieval},
  author    = {Aichun Zhu and Zijie Wang and Yifeng Li and Xili Wan and Jing Jin and Tian Wang and Fangqiang Hu
               and Gang Hua},
  booktitle = {ACM Multimedia},
  year      = {2021},
  url       = {https://arxiv.org/abs/2109.05534}
}
"""
COLUMNS = FEATURES
FORMAT = TextImageFormat(
    name="RSTPReid",
    files=(("data_captions.json",),),
    fields=fields_of("img_path"),
    published={"records": 20_505, "captions": 41_010, "people": 4_101},
)


class RSTPReid(TextImageBuilder):
    """Images of people with captions, a row per image.

    Columns: `image` (decoded when asked for), `captions` (a list of texts), `person_id` (int64, as in the file),
    `image_path` (as in the file). `fafa.training.caption_pairs` makes pairs to train on.

    Every record and the existence of every image are checked when the data set is first loaded; what is wrong raises
    `DataFormatError`. Images are not opened before they are used.
    """

    BUILDER_CONFIGS = [config_of(FORMAT)]
    FORMAT = FORMAT
    DESCRIPTION = "RSTPReid: photographs of people from MSMT17, five each, with two captions each."
    HOMEPAGE = "https://arxiv.org/abs/2109.05534"
    CITATION = CITATION
