"""The cheap gates tell sound pairs from blank, blurred, noisy, uneven and unchanged ones."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from fafa.synthesis.components import SynthesisError
from fafa.synthesis.filtering.gates import AspectGate, BlankGate, BlurGate, SeamGate, TwinGate, noise, sharpness
from fafa.synthesis.world.painter import paint_person
from fafa.synthesis.world.people import sample_identity, sample_outfit, sample_scene


def picture(seed, height=192):
    rng = np.random.default_rng(seed)
    arguments = sample_identity(rng, False), sample_outfit(rng, False), sample_scene(rng)
    return paint_person(*arguments, (height, height // 2))


def grainy(image, deviation):
    grain = np.random.default_rng(0).normal(0, deviation, (image.height, image.width, 1))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


@pytest.fixture
def measure(tmp_path):
    """Scores of one pair by a gate, through files."""

    def measure(gate, left, right):
        left.save(tmp_path / "left.png")
        right.save(tmp_path / "right.png")
        loaded = gate.load()
        (scores,) = loaded.score([{"id": "1-1", "left": "left.png", "right": "right.png"}], tmp_path)
        assert tuple(scores) == loaded.names
        return scores

    return measure


def test_flat_and_smooth_pictures_are_blank(measure):
    gradient = Image.fromarray(np.tile(np.linspace(20, 230, 192).astype(np.uint8)[:, None, None], (1, 96, 3)))
    for blank in (Image.new("RGB", (96, 192), (200, 190, 180)), gradient):
        for pair in ((picture(0), blank), (blank, picture(0))):
            scores = measure(BlankGate(), *pair)
            assert scores["contrast"] < 2
            assert scores["entropy"] < 1
    for seed in range(5):
        scores = measure(BlankGate(), picture(seed), picture(seed + 10))
        assert scores["contrast"] > 10
        assert scores["entropy"] > 3


def test_blurred_and_noisy_halves_stand_out(measure):
    for seed in range(5):
        sound, other = picture(seed), picture(seed + 10)
        blurred, noisy = other.filter(ImageFilter.GaussianBlur(3)), grainy(other, 40)
        assert measure(BlurGate(), sound, blurred)["sharpness"] < 0.3 < measure(BlurGate(), sound, other)["sharpness"]
        assert measure(BlurGate(), noisy, sound)["noise"] > 10 > measure(BlurGate(), other, sound)["noise"]


def test_sharpness_and_noise_do_not_depend_on_the_resolution():
    for seed in range(3):
        large = picture(seed, height=512)
        for change in (lambda image: image, lambda image: image.filter(ImageFilter.GaussianBlur(image.height / 64))):
            few, many = change(large.resize((128, 256), Image.Resampling.BOX)), change(large)
            assert sharpness(few) == pytest.approx(sharpness(many), abs=0.08)
            assert noise(few) == pytest.approx(noise(many), abs=1.5)


def test_sizes(measure):
    left, right = Image.new("RGB", (100, 200)), Image.new("RGB", (50, 160))
    assert measure(AspectGate(), left, right) == {"height": 160, "aspect": 0.5, "evenness": 0.4}


def test_twins_are_found_also_in_the_mirror_and_under_grain(measure):
    for seed in range(5):
        one, other = picture(seed), picture(seed + 10)
        for twin in (one, one.transpose(Image.Transpose.FLIP_LEFT_RIGHT), grainy(one, 6)):
            assert measure(TwinGate(), one, twin)["difference"] < 2
        assert measure(TwinGate(), one, other)["difference"] > 10


def test_a_further_seam_is_found(measure):
    framed = picture(0)
    framed.paste(picture(1).crop((0, 0, 30, 192)), (66, 0))
    assert measure(SeamGate(), framed, picture(2))["seam"] > 0.7
    for seed in range(5):
        assert measure(SeamGate(), picture(seed), picture(seed + 10))["seam"] < 0.65


def test_a_damaged_picture_names_the_file_and_the_remedy(tmp_path):
    picture(0).save(tmp_path / "left.png")
    (tmp_path / "right.png").write_bytes(b"no picture")
    with pytest.raises(SynthesisError, match=r"right\.png: cannot be read as a picture .* Delete it"):
        BlurGate().load().score([{"id": "7-2", "left": "left.png", "right": "right.png"}], tmp_path)
