"""Every setting that transformers' processors take is honoured by FafaProcessor, or refused by name."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_processor
from transformers.image_utils import ChannelDimension
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, TextKwargs
from transformers.utils import PaddingStrategy, TensorType

from fafa import FafaImageProcessor, FafaProcessor, retriever
from fafa.image_processing_fafa import FafaImageProcessorKwargs

CAPTIONS = ["a red coat", "a bag"]  # 5 and 4 ids with [CLS] and [SEP]
LONG = "a red coat with a blue bag"  # 9


def ids(processor, captions=CAPTIONS, **settings):
    return processor(text=captions, **settings)["input_ids"]


def picture_of(colour="red"):
    return Image.new("RGB", (48, 96), colour)


def pixels(processor, **settings):
    return processor(images=picture_of(), **settings)["pixel_values"]


# Setting -> what shows that it is honoured.
HONOURED_TEXT = {
    "padding": lambda p: (
        [len(row) for row in ids(p, padding=False)] == [5, 4]
        and {len(row) for row in ids(p, padding="max_length")} == {32}
        and {len(row) for row in ids(p, padding=PaddingStrategy.LONGEST)} == {5}
        and {len(row) for row in ids(p, padding=True)} == {5}
    ),
    "truncation": lambda p: (
        [len(ids(p, LONG, max_length=6, truncation=cut)[0]) for cut in (True, False, "longest_first")] == [6, 9, 6]
    ),
    "max_length": lambda p: len(ids(p, LONG, max_length=4)[0]) == 4,
    "pad_to_multiple_of": lambda p: {len(row) for row in ids(p, pad_to_multiple_of=8)} == {8},
    "padding_side": lambda p: ids(p, padding_side="left")[1][0] == 0 and ids(p)[1][-1] == 0,
    "return_attention_mask": lambda p: "attention_mask" not in p(text="a coat", return_attention_mask=False),
    "return_special_tokens_mask": lambda p: (
        p(text=CAPTIONS, return_special_tokens_mask=True)["special_tokens_mask"] == [[1, 0, 0, 0, 1], [1, 0, 0, 1, 1]]
    ),
    "return_offsets_mapping": lambda p: (
        p(text="a coat", return_offsets_mapping=True)["offset_mapping"] == [[(0, 0), (0, 1), (2, 6), (0, 0)]]
    ),
    "return_length": lambda p: p(text="a coat", return_length=True)["length"] == [4],
    "verbose": lambda p: ids(p, verbose=False) == ids(p),
    "return_tensors": lambda p: (
        isinstance(ids(p, return_tensors="pt"), torch.Tensor)
        and isinstance(ids(p, return_tensors=TensorType.NUMPY), np.ndarray)
        and isinstance(ids(p), list)
    ),
}
HONOURED_IMAGES = {
    "size": lambda p: pixels(p, size=48).shape == (1, 3, 48, 48),
    "resample": lambda p: (pixels(p, size=48, resample=0) == pixels(p, size=48)).mean() < 1,
    "do_rescale": lambda p: pixels(p, do_rescale=False).max() > 255,
    "rescale_factor": lambda p: pixels(p, rescale_factor=1 / 510, do_normalize=False).max() == np.float32(0.5),
    "do_normalize": lambda p: pixels(p, do_normalize=False).max() == 1,
    "image_mean": lambda p: pixels(p, image_mean=0.5).min() < pixels(p, image_mean=0.4).min(),
    "image_std": lambda p: pixels(p, image_std=1.0).max() < pixels(p, image_std=0.5).max(),
    "input_data_format": lambda p: layouts_are_told(p),
    "device": lambda p: pixels(p, device="meta", return_tensors="pt").device.type == "meta",
    "return_tensors": lambda p: isinstance(pixels(p, return_tensors="pt"), torch.Tensor),
    "disable_grouping": lambda p: (pixels(p, disable_grouping=True) == pixels(p)).all(),
}
# Setting -> values that ask for what is so anyway, and values that are refused.
FIXED_TEXT = {
    "text_pair": ([None], ["a hat"]),
    "text_target": ([None], ["a hat"]),
    "text_pair_target": ([None], ["a hat"]),
    "add_special_tokens": ([True, None], [False]),
    "stride": ([0, None], [2]),
    "is_split_into_words": ([False], [True]),
    "return_token_type_ids": ([False], [True]),
    "return_overflowing_tokens": ([False], [True]),
    "return_mm_token_type_ids": ([False], [True]),
    "return_text_replacement_offsets": ([False], [True]),
    "sanitize_control_tokens": ([False], [True]),
}
FIXED_IMAGES = {
    "do_convert_rgb": ([True, None], [False]),
    "do_resize": ([True, None], [False]),
    "default_to_square": ([True], [False]),
    "crop_size": ([None], [96]),
    "do_pad": ([None], [True, False]),
    "pad_size": ([None], [{"height": 96, "width": 96}]),
    "do_center_crop": ([False, None], [True]),
    "data_format": (["channels_first", ChannelDimension.FIRST], ["channels_last", ChannelDimension.LAST]),
    "image_seq_length": ([None], [32]),
}
OWN = {"do_person_resize", "person_size", "do_pad_square", "draft_photographs"}  # see the image processor's tests


def layouts_are_told(processor):
    """An array of three rows and three channels may be either; a tensor, too."""
    array = np.zeros((3, 5, 3), dtype=np.uint8)
    array[0] = 255  # a white row on top, or a red picture
    rows = processor(images=array, input_data_format="channels_last")["pixel_values"][0]
    red = processor(images=array, input_data_format=ChannelDimension.FIRST)["pixel_values"][0]
    tensor = processor(images=torch.from_numpy(array), input_data_format="channels_last")["pixel_values"][0]
    middle = red[:, 40:56, 40:56]
    return (rows == tensor).all() and middle[0].min() > 1 and middle[1:].max() < 0 and not (rows == red).all()


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def test_the_tables_name_all_that_transformers_has():
    assert HONOURED_TEXT.keys() | FIXED_TEXT.keys() == TextKwargs.__annotations__.keys()
    assert HONOURED_IMAGES.keys() | FIXED_IMAGES.keys() == ImagesKwargs.__annotations__.keys()
    assert FafaImageProcessorKwargs.__annotations__.keys() - ImagesKwargs.__annotations__.keys() == OWN
    assert ProcessingKwargs.__annotations__.keys() == {
        *("text_kwargs", "images_kwargs", "videos_kwargs", "audio_kwargs"),
        *("return_mm_token_type_ids", "return_text_replacement_offsets"),
    }


@pytest.mark.parametrize(("name", "honoured"), [*HONOURED_TEXT.items(), *HONOURED_IMAGES.items()])
def test_setting_is_honoured(processor, name, honoured):
    assert honoured(processor)


@pytest.mark.parametrize(("name", "values"), FIXED_TEXT.items())
def test_text_setting_that_is_no_choice(processor, name, values):
    plain, (so_anyway, refused) = ids(processor), values
    for value in so_anyway:
        assert ids(processor, **{name: value}) == plain
        assert ids(processor, text_kwargs={name: value}) == plain
    for value in refused:
        for settings in ({name: value}, {"text_kwargs": {name: value}}, {"common_kwargs": {name: value}}):
            with pytest.raises(TypeError, match=f"^{name}=.* cannot be honoured: "):
                ids(processor, **settings)


@pytest.mark.parametrize(("name", "values"), FIXED_IMAGES.items())
def test_image_setting_that_is_no_choice(processor, name, values):
    plain, (so_anyway, refused) = pixels(processor), values
    for value in so_anyway:
        assert (pixels(processor, **{name: value}) == plain).all()
        assert (FafaImageProcessor(size=96, **{name: value})(picture_of())["pixel_values"].shape) == plain.shape
    for value in refused:
        with pytest.raises(
            TypeError, match=f"^{name}=.* cannot be honoured: .*FafaImageProcessor has do_person_resize"
        ):
            pixels(processor, images_kwargs={name: value})
        with pytest.raises(TypeError, match=f"^{name}=.* cannot be honoured: "):
            FafaImageProcessor(**{name: value})


@pytest.mark.parametrize("name", ["return_tensors", "device", "input_data_format"])
def test_what_is_for_a_call_is_not_kept(name):
    with pytest.raises(TypeError, match=f"^{name} is an option of a call, and is not saved"):
        FafaImageProcessor(**{name: "channels_last"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"truncatoin": True}, "^truncatoin: unknown setting of FafaProcessor; did you mean 'truncation'"),
        ({"text_kwargs": {"paddding": True}}, "^paddding: .*did you mean 'padding'"),
        ({"images_kwargs": {"do_normalise": False}}, "^do_normalise: .*did you mean 'do_normalize'"),
        ({"images_kwargs": {"max_length": 3}}, "^max_length: unknown"),
        ({"common_kwargs": {"return_tensor": "pt"}}, "^return_tensor: .*did you mean 'return_tensors'"),
        ({"text_kwarg": {}}, "^text_kwarg: .*did you mean 'text_kwargs'"),
        ({"videos": [0]}, "^videos: FafaProcessor takes images and captions only"),
        ({"audio_kwargs": {"sampling_rate": 8}}, "^audio_kwargs: FafaProcessor takes"),
    ],
)
def test_a_setting_that_nobody_knows_is_refused_by_name(processor, settings, message):
    with pytest.raises(TypeError, match=message):
        processor(images=picture_of(), text="a coat", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 2}, "^max_length: expected a whole number from 3 .*, got 2"),
        ({"max_length": 0}, "^max_length: expected a whole number from 3 .*, got 0"),
        ({"max_length": True}, "^max_length: .*got True"),
        ({"padding": "longst"}, "longst"),
        ({"truncation": "longst"}, "longst"),
        ({"padding_side": "top"}, "top|side"),
        ({"return_tensors": "tf"}, "tf"),
        ({"input_data_format": "rows"}, "^input_data_format: expected 'channels_first' or"),
        ({"device": "cpu"}, "^device='cpu' is for tensors"),
        ({"padding": False, "text_kwargs": {"padding": True}}, "^padding: given twice, by itself and in text_kwargs"),
        ({"size": 8, "images_kwargs": {"size": 8}}, "^size: given twice, by itself and in images_kwargs"),
        ({"names": ["one", "two", "three"]}, "^names: 3 for 2 "),
    ],
)
def test_an_impossible_value_is_refused(processor, settings, message):
    with pytest.raises(ValueError, match=message):
        processor(images=[picture_of()] * 2, text=CAPTIONS, **settings)


def test_a_caption_without_a_mask_must_not_be_padded(processor):
    """The model would read the padding as words."""
    with pytest.raises(ValueError, match=r"^return_attention_mask=False: some captions were padded"):
        processor(text=CAPTIONS, return_attention_mask=False)


def test_settings_for_each_kind_beat_those_for_both(processor):
    inputs = processor(
        images=picture_of(),
        text="a coat",
        common_kwargs={"return_tensors": "np"},
        text_kwargs={"padding": "max_length", "max_length": 7},
        images_kwargs={"return_tensors": "pt", "size": 32},
    )
    assert isinstance(inputs["input_ids"], np.ndarray) and inputs["input_ids"].shape == (1, 7)
    assert isinstance(inputs["pixel_values"], torch.Tensor) and inputs["pixel_values"].shape == (1, 3, 32, 32)


class TestWhatACaptionSays:
    @pytest.fixture
    def fresh(self):
        return tiny_processor()

    @pytest.mark.parametrize("caption", ["红色外套", "красное пальто", "\N{BEAR FACE}", "xyz qrs", "[UNK]"])
    def test_a_caption_of_unknown_words_alone_is_refused(self, fresh, caption):
        """All such captions had the same feature."""
        with pytest.raises(ValueError, match=r"^text\[1\]: no word of the caption .* is among the 15 of this model's"):
            fresh(text=["a coat", caption])
        with pytest.raises(ValueError, match=r"^query 7: no word"):
            fresh(text=[caption], names=["query 7"], padding="max_length")

    def test_unknown_words_are_told_of_once_with_the_caption(self, fresh, caplog):
        for _ in range(3):
            fresh(text=["a red coat", "a turquoise coat and hat", "a purple hat"], names=["one", "two", "three"])
        (record,) = caplog.records
        assert record.message.startswith("two: words of the caption 'a turquoise coat and hat' are not in this model's")
        assert "ignored: turquoise, and. " in record.message

    def test_a_caption_that_is_cut_is_told_of_once(self, fresh, caplog):
        fresh(text=[LONG], max_length=9)
        assert not caplog.records
        for _ in range(3):
            fresh(text=["a coat", LONG, LONG], names=["one", "two", "three"], max_length=6)
        (record,) = caplog.records
        assert record.message.startswith(
            f"two: the caption '{LONG}' has 9 tokens, and is cut after 6 (max_text_length)"
        )

    def test_only_the_first_of_several_workers_tells(self, fresh, caplog, monkeypatch):
        monkeypatch.setattr(retriever, "get_worker_info", lambda: SimpleNamespace(id=1))
        fresh(text=["a turquoise coat", LONG], max_length=6)
        assert not caplog.records
        monkeypatch.setattr(retriever, "get_worker_info", lambda: SimpleNamespace(id=0))
        fresh(text=["a turquoise coat", LONG], max_length=6)
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2

    @pytest.mark.parametrize(
        ("caption", "error", "message"),
        [
            ("...", ValueError, "^record 99 of SynCPR.json: the caption '...' holds no word"),
            ("\ud800", ValueError, "^record 99 of SynCPR.json: the caption .* holds bytes that are no text"),
            (None, TypeError, r"^record 99 of SynCPR.json: expected a caption \(str\), got NoneType"),
        ],
    )
    def test_a_bad_caption_is_called_by_the_callers_name(self, fresh, caption, error, message):
        with pytest.raises(error, match=message):
            fresh(text=["a coat", caption], names=["record 98", "record 99 of SynCPR.json"])

    def test_a_bad_picture_is_called_by_the_callers_name(self, fresh):
        with pytest.raises(FileNotFoundError, match=r"^query 7: no file 'absent\.png'"):
            fresh(images=[picture_of(), "absent.png"], names=["query 6", "query 7"])

    def test_a_caption_by_itself_has_no_number(self, fresh):
        with pytest.raises(ValueError, match=r"^text: the caption '!' holds no word"):
            fresh(text="!")


def test_a_saved_processor_is_the_same(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = FafaProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict() and again.vocabulary_hash.startswith("15:")
    assert ids(again, return_tensors="pt").tolist() == ids(processor)
