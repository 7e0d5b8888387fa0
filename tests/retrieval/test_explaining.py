"""Why a result was found: heat maps that land where the content is, words left out, the picture of both."""

import numpy as np
import pytest
import torch
from PIL import Image
from second_model import second_model, second_processor
from tiny import tiny_batch
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil

from fafa import TINY_CHECKPOINT, FafaImageProcessor, FafaModel, FafaProcessor
from fafa.drawing.heat import heated
from fafa.drawing.palette import VERMILION
from fafa.files import read_json
from fafa.retrieval import draw_explanation, heat_map, word_drops
from fafa.retrieval.explaining import _placement
from fafa.world import make_world

SPOT = (0.6, 0.15)  # its middle, as shares of width and height


@pytest.fixture
def spotted(tmp_path):
    """Photographs that are black but for one white spot, by their sizes."""

    def make(width: int, height: int, orientation: int = 1):
        pixels = np.zeros((height, width, 3), np.uint8)
        left, top = round(SPOT[0] * width), round(SPOT[1] * height)
        half = max(2, min(width, height) // 12)
        pixels[top - half : top + half, left - half : left + half] = 255
        image, path = Image.fromarray(pixels), tmp_path / f"{width}x{height}-{orientation}.png"
        if orientation == 6:  # as a camera held upright stores it
            image = image.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(path, exif=exif)
        return path

    return make


def middle_of(heat: np.ndarray) -> tuple[float, float]:
    rows, columns = np.indices(heat.shape) + 0.5
    weights = heat / heat.sum()
    return (weights * columns).sum() / heat.shape[1], (weights * rows).sum() / heat.shape[0]


def attend_to_brightness(model, monkeypatch, pad: float = 0.0):
    """Attention that follows the brightness of what the model is given, in cells of 4 pixels."""

    def brightness(pixel_values):
        dark = pixel_values.amin(dim=(2, 3), keepdim=True)
        return F.avg_pool2d((pixel_values - dark).mean(dim=1, keepdim=True), 4).expand(-1, 32, -1, -1) + pad

    monkeypatch.setattr(model, "target_attention", brightness)


@pytest.mark.parametrize("size", [(60, 120), (300, 140), (97, 501)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_heat_lands_on_the_only_content(model, processor, spotted, monkeypatch, size, orientation):
    """The processor squeezes a photograph to a person's shape and pads it to a square."""
    attend_to_brightness(model, monkeypatch)
    heat = heat_map(model, processor, spotted(*size, orientation), caption="a red coat")
    assert heat.image.size == size and heat.heat.shape == size[::-1]
    assert middle_of(heat.heat) == pytest.approx(SPOT, abs=0.02)
    assert heat.heat.max() > 10 and np.median(heat.heat) < 0.1 and heat.beside < 0.01
    assert 0 < len(set(heat.tokens)) == model.num_top_tokens


@pytest.mark.parametrize(
    ("image_processor", "size", "expected"),
    [
        # 384 x 192 becomes 224 x 112 in the middle of 224 x 224.
        (FafaImageProcessor(), (60, 180), ((112, 56), (224, 0))),
        (FafaImageProcessor(do_person_resize=False), (200, 100), ((224, 0), (112, 56))),
        (FafaImageProcessor(do_pad_square=False), (200, 100), ((224, 0), (224, 0))),
        # The shorter side becomes 224, and the middle of the longer one is kept.
        (CLIPImageProcessorPil(), (200, 100), ((448, -112), (224, 0))),
        (CLIPImageProcessorPil(), (500, 4000), ((224, 0), (1792, -784))),
    ],
    ids=["released", "padded", "stretched", "middle", "middle of a strip"],
)
def test_where_a_processor_puts_an_image_is_found_by_trying(processor, image_processor, size, expected):
    tried = FafaProcessor(FafaImageProcessor(), processor.tokenizer)
    tried.image_processor = image_processor
    if isinstance(image_processor, CLIPImageProcessorPil):
        tried = second_processor()
        tried.image_processor = image_processor
    *axes, inside = _placement(tried, size)
    for (scale, offset), (expected_scale, expected_offset) in zip(axes, expected, strict=True):
        assert scale == pytest.approx(expected_scale, rel=0.01)
        assert offset == pytest.approx(expected_offset, abs=1 + 0.005 * expected_scale)
    assert inside.mean() == pytest.approx(min(1, expected[0][0] / 224) * min(1, expected[1][0] / 224), abs=0.01)


def test_attention_on_padding_is_counted_and_the_unseen_has_no_heat(model, processor, spotted, monkeypatch):
    attend_to_brightness(model, monkeypatch, pad=100.0)
    heat = heat_map(model, processor, spotted(60, 120), caption="a red coat")
    assert heat.beside == pytest.approx(0.5, abs=0.02)  # half of the square is padding
    second = second_processor()
    second.image_processor = CLIPImageProcessorPil(size={"shortest_edge": 96}, crop_size={"height": 96, "width": 96})
    second.tokenizer = processor.tokenizer
    second.image_processor.do_center_crop = True
    monkeypatch.setattr(type(second), "misfit", lambda self, model: None)
    heat = heat_map(model, second, spotted(400, 100), caption="a red coat").heat
    assert not heat[:, :140].any() and not heat[:, 260:].any() and heat[:, 160:240].all()


def test_a_processor_that_does_more_is_refused(model, processor, spotted, monkeypatch):
    monkeypatch.setattr(type(processor), "resize_crop", lambda self, crop: np.rot90(crop.resize((96, 96))))
    with pytest.raises(ValueError, match="FafaProcessor does more to images than resizing"):
        heat_map(model, processor, spotted(60, 120), caption="a red coat")


def test_attention_is_that_of_the_winning_tokens_over_all_layers(model, processor, spotted):
    """Against what `forward` records: weights of self-attention stand among those of cross-attention elsewhere."""
    pixels = tiny_batch(2)["pixel_values"]
    attention = model.target_attention(pixels)
    model.set_attn_implementation("eager")
    output = model(**{**tiny_batch(2), "target_pixel_values": pixels}, output_attentions=True, return_loss=False)
    model.set_attn_implementation("sdpa")
    expected = torch.stack(output.target_cross_attentions).mean(dim=(0, 2))[..., 1:]
    torch.testing.assert_close(attention.flatten(2), expected.detach())


def test_what_is_hot_carries_the_score(tmp_path):
    """On people painted by the world: hiding the hottest quarter costs far more than hiding the coldest."""
    world = make_world(tmp_path / "world", num_diptychs=1, num_queries=8, gallery_size=40, seed=7, num_workers=1)
    model, processor = FafaModel.from_pretrained(TINY_CHECKPOINT), FafaProcessor.from_pretrained(TINY_CHECKPOINT)
    folder, falls = world / "ITCPR", {"hottest": [], "coldest": []}
    matches = {entry["instance_id"]: folder / entry["file_path"] for entry in read_json(folder / "gallery.json")}
    for query in read_json(folder / "query.json"):
        path, asked = matches[query["instance_id"]], (folder / query["file_path"], query["caption"])
        heat, image = heat_map(model, processor, path, *asked), np.asarray(Image.open(path).convert("RGB"))
        low, high = np.quantile(heat.heat, (0.25, 0.75))
        for which, hidden in {"hottest": heat.heat >= high, "coldest": heat.heat <= low}.items():
            painted = Image.fromarray(np.where(hidden[..., None], np.uint8(122), image))
            falls[which].append(heat.score - heat_map(model, processor, painted, *asked).score)
    assert np.mean(falls["hottest"]) > 0.15 > 3 * abs(np.mean(falls["coldest"]))


def test_a_model_that_does_not_tell_is_refused_by_name_but_words_are_told(spotted):
    model, processor = second_model(), second_processor()
    with pytest.raises(NotImplementedError, match=r"SumModel does not tell where in an image.*write its target_att"):
        heat_map(model, processor, spotted(60, 120), caption="a red coat")
    drops = word_drops(model, processor, spotted(60, 120), "a red coat")
    assert [drop.word for drop in drops] == ["a", "red", "coat"]


def test_each_word_is_left_out_in_one_batch(model, processor, spotted, monkeypatch):
    target, image, caption = spotted(60, 120), spotted(50, 99), "Red coat , with a blue bag!"
    texts = [caption, *("coat , with a blue bag!", "Red , with a blue bag!", "Red coat , a blue bag!")]
    pixels = [processor.to_pixels([processor.resize_crop(processor.open_crop(path))]) for path in (target, image)]
    targets = model.get_target_features(pixels[0])
    one_by_one = [
        model.score(model.get_query_features(pixels[1], **processor.encode_captions([text])), targets).item()
        for text in texts
    ]
    asked, answer = [], model.get_query_features
    monkeypatch.setattr(model, "get_query_features", lambda **given: asked.append(given) or answer(**given))
    drops = word_drops(model, processor, target, caption, image)
    assert len(asked) == 1 and len(asked[0]["input_ids"]) == 7
    assert [drop.word for drop in drops] == ["Red", "coat", "with", "a", "blue", "bag!"]
    expected = [one_by_one[0] - score for score in one_by_one[1:]]
    assert [drop.drop for drop in drops[:3]] == pytest.approx(expected, abs=1e-5)


def test_without_its_last_word_a_query_is_the_image_alone_or_nothing(model, processor, spotted):
    target, image = spotted(60, 120), spotted(50, 99)
    (drop,) = word_drops(model, processor, target, "coat -", image)
    with_image = heat_map(model, processor, target, image, "coat -").score
    assert drop.drop == pytest.approx(with_image - heat_map(model, processor, target, image).score, abs=1e-5)
    with pytest.raises(ValueError, match="one word to search by, so none can be left out"):
        word_drops(model, processor, target, "coat")
    drops = word_drops(model, processor, target, "zebra coat")  # of which the model knows the second
    assert [drop.drop is None for drop in drops] == [False, True]
    with pytest.raises(ValueError, match="no word"):
        word_drops(model, processor, target, "?!")
    with pytest.raises(ValueError, match="needs an image, a caption or both"):
        heat_map(model, processor, target)


def test_heat_glows_fades_and_leaves_the_average_alone():
    image = Image.new("RGB", (3, 1), (40, 80, 120))
    cold, same, hot = heated(image, np.array([[0.0, 1.0, 9.0]], np.float32)).get_flattened_data()
    assert same == (40, 80, 120) and min(cold) > 180 and hot[0] > 120 > hot[2]
    assert np.abs(np.array(hot) - Image.new("RGB", (1, 1), VERMILION).getpixel((0, 0))).sum() < 180


def test_the_picture_is_written_and_the_photograph_left_as_it_was(model, processor, spotted, tmp_path):
    target, image, caption = spotted(600, 1200), spotted(50, 99), "a red coat with a " + "blue bag now " * 6
    heat = heat_map(model, processor, target, image, caption)
    words = word_drops(model, processor, target, caption, image)
    drawn = draw_explanation(tmp_path / "pictures" / "why.png", heat, words, image)
    assert Image.open(tmp_path / "pictures" / "why.png").size == drawn.size and heat.image.size == (600, 1200)
    narrow = draw_explanation(None, heat)
    assert narrow.width < drawn.width and len(narrow.getcolors(1 << 24)) > 100
    with pytest.raises(ValueError, match="says no format for a picture"):
        draw_explanation(tmp_path / "why.txt", heat)
