"""The cheap gates tell sound pairs from blank, blurred, noisy, uneven and unchanged ones."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from fafa.synthesis.components import SynthesisError
from fafa.synthesis.filtering import gates
from fafa.synthesis.filtering.gates import (
    AspectGate,
    BlankGate,
    BlurGate,
    SeamGate,
    TwinGate,
    noise,
    open_halves,
    sharpness,
)
from fafa.synthesis.images import open_rgb
from fafa.synthesis.settings import read_settings
from fafa.synthesis.stages import Workspace
from fafa.synthesis.triplets import stages
from fafa.synthesis.triplets.pipeline import TripletRecipe
from fafa.world.painter import paint_person
from fafa.world.people import sample_identity, sample_outfit, sample_scene


def picture(seed, height=192):
    rng = np.random.default_rng(seed)
    arguments = sample_identity(rng, False), sample_outfit(rng, False), sample_scene(rng)
    return paint_person(*arguments, (height, height // 2))


def grainy(image, deviation):
    grain = np.random.default_rng(0).normal(0, deviation, (image.height, image.width, 1))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def measure(gate, left, right):
    """Scores of one pair by a gate."""
    (scores,) = gate.load().score([{"id": "1-1"}], [(left, right)])
    assert tuple(scores) == gate.names
    return scores


def test_flat_and_smooth_pictures_are_blank():
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


def test_blurred_and_noisy_halves_stand_out():
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


def test_sizes():
    left, right = Image.new("RGB", (100, 200)), Image.new("RGB", (50, 160))
    assert measure(AspectGate(), left, right) == {"height": 160, "aspect": 0.5, "evenness": 0.4}


def test_twins_are_found_also_in_the_mirror_and_under_grain():
    for seed in range(5):
        one, other = picture(seed), picture(seed + 10)
        for twin in (one, one.transpose(Image.Transpose.FLIP_LEFT_RIGHT), grainy(one, 6)):
            assert measure(TwinGate(), one, twin)["difference"] < 2
        assert measure(TwinGate(), one, other)["difference"] > 10


def test_a_further_seam_is_found():
    framed = picture(0)
    framed.paste(picture(1).crop((0, 0, 30, 192)), (66, 0))
    assert measure(SeamGate(), framed, picture(2))["seam"] > 0.7
    for seed in range(5):
        assert measure(SeamGate(), picture(seed), picture(seed + 10))["seam"] < 0.65


def test_a_damaged_picture_names_the_file_and_the_remedy(tmp_path):
    picture(0).save(tmp_path / "left.png")
    (tmp_path / "right.png").write_bytes(b"no picture")
    with pytest.raises(SynthesisError, match=r"right\.png: cannot be read as an image.* delete it"):
        open_halves({"id": "7-2", "left": "left.png", "right": "right.png"}, tmp_path)


def test_gates_of_a_recipe_look_at_pictures_opened_once(tmp_path, monkeypatch):
    """Batch after batch, all at the same time, they find what each finds alone."""
    kinds = (BlankGate(), BlurGate(), AspectGate(), SeamGate(), TwinGate())
    settings = {
        "quadruples": {"count": 1, "writer": {"kind": "grammar"}},
        "diptychs": {"painter": {"kind": "world"}},
        "gates": [{"kind": gate.kind} for gate in kinds],
    }
    items, expected = [], []
    for number in range(5):
        pair = {side: picture(number + shift) for side, shift in (("left", 0), ("right", 10))}
        items.append({"id": f"0-{number}"} | {side: f"{number}_{side}.png" for side in pair})
        for side, half in pair.items():
            half.save(tmp_path / items[-1][side])
        expected.append({name: score for gate in kinds for name, score in measure(gate, *pair.values()).items()})

    opened = []
    monkeypatch.setattr(gates, "open_rgb", lambda file: opened.append(file.name) or open_rgb(file))
    monkeypatch.setattr(stages, "_AT_ONCE", 2)
    recipe = read_settings(TripletRecipe, settings, "recipe.yaml")
    (stage,) = [stage for stage in recipe.stages() if stage.name == "gates"]
    records = list(stage.process(items, Workspace(tmp_path, 1), 0))
    assert records == [{"id": item["id"], "scores": scores} for item, scores in zip(items, expected, strict=True)]
    assert sorted(opened) == sorted(item[side] for item in items for side in ("left", "right"))
