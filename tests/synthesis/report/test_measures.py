import numpy as np
import pytest
from PIL import Image
from tiny_vision_models import tiny_clip, tiny_yolos

from fafa.synthesis.components import SynthesisError
from fafa.synthesis.report.measures import (
    ClipMeasures,
    clip_score,
    feature_variance,
    frechet_distance,
    measure_images,
)


def test_the_clip_score_is_the_mean_cosine_in_hundredths_and_never_negative():
    images = np.array([[1.0, 0.0], [0.6, 0.8], [1.0, 0.0]])
    captions = np.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert clip_score(images, captions) == pytest.approx((100 + 60 + 0) / 3)


def test_the_variance_of_equal_features_is_zero_and_of_opposite_ones_known():
    assert feature_variance(np.tile([0.6, 0.8], (5, 1))) == pytest.approx(0)
    assert feature_variance(np.array([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(0.5)


def test_the_frechet_distance_of_gaussians_is_the_known_one():
    """Independent dimensions: the squared distance of the means plus that of the standard deviations."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, (40_000, 4)), rng.normal(0.5, 2, (40_000, 4))
    assert frechet_distance(first, second) == pytest.approx(4 * (0.5**2 + 1**2), rel=0.05)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="at least two"):
        frechet_distance(first[:1], second)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measures")
    tiny_clip(folder / "clip")
    rng = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (48, 24, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        Image.new("RGB", (24, 48), (20 * number, 0, 90)).save(folder / f"plain{number}.png")
    return folder


def test_features_have_length_one_and_do_not_depend_on_their_batch(folder):
    files = [folder / f"{number}.png" for number in range(5)]
    texts = ["a person in red", "blue", "in a " * 60]
    encoder = ClipMeasures(model=str(folder / "clip"), batch_size=3).load()
    images, captions = encoder.encode_images(files), encoder.encode_captions(texts)
    assert images.shape[1] == captions.shape[1] == 16
    assert np.linalg.norm(np.concatenate([images, captions]), axis=1) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(encoder.encode_images(files[3:4]), images[3:4])
    assert np.array_equal(encoder.encode_captions(texts[1:2]), captions[1:2])


def test_all_measures_of_a_set_of_pictures(folder):
    encoder = ClipMeasures(model=str(folder / "clip")).load()
    files = [folder / f"{number}.png" for number in range(6)]
    twice = [file for file in files for _ in range(2)]
    captions = [f"a person in {colour}" for colour in ("red", "blue") for _ in range(6)]
    measures = measure_images(encoder, twice, captions, reference=[folder / f"plain{n}.png" for n in range(6)])
    assert set(measures) == {"clip_score", "feature_variance", "frechet_distance"}
    assert measures["feature_variance"] == pytest.approx(feature_variance(encoder.encode_images(files)))
    assert measures["frechet_distance"] > frechet_distance(encoder.encode_images(files), encoder.encode_images(files))
    assert "frechet_distance" not in measure_images(encoder, twice, captions)
    with pytest.raises(ValueError, match="shorter"):
        measure_images(encoder, twice, captions[:1])


def test_a_model_that_is_no_clip_and_a_damaged_picture_are_named(folder, tmp_path):
    with pytest.raises(SynthesisError, match=r"yolos: .*"):
        ClipMeasures(model=str(tiny_yolos(tmp_path / "yolos"))).load()
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(SynthesisError, match=r"bad.png: cannot be read"):
        ClipMeasures(model=str(folder / "clip")).load().encode_images([tmp_path / "bad.png"])
