"""A model that shares nothing with FAFA fills a store and is searched; neither takes the other's features."""

import numpy as np
import pytest
import torch
from PIL import Image
from second_model import second_model, second_processor
from tiny import tiny_model, tiny_processor

from fafa.retrieval import Gallery, encode_images, indexing
from fafa.retrieval.segment_list import GalleryFolder


@pytest.fixture(scope="module")
def pairs():
    """Models with their processors."""
    return {"FAFA": (tiny_model(), tiny_processor()), "second": (second_model(), second_processor())}


@pytest.fixture
def photos(tmp_path):
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for number in range(5):
        coarse = rng.integers(0, 255, (4, 2, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((24, 48)).save(folder / f"{number}.png")
    return folder


def test_a_store_is_filled_opened_renewed_and_searched(pairs, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, "IMAGES_A_COMMIT", 2)
    model, processor = pairs["second"]
    options = {"batch_size": 2, "progress": False, "features_dir": tmp_path / "index", "dtype": torch.float32}
    gallery = Gallery.from_folder(model, processor, photos, num_workers=1, **options)
    assert gallery.features.shape == (5, 1, 8) and GalleryFolder(tmp_path / "index").faults() == []
    settings = GalleryFolder(tmp_path / "index").settings()
    assert settings["features"]["shape"] == [1, 8]
    assert settings["image_processor"]["image_processor_type"].startswith("CLIP")

    with torch.no_grad():
        pixels = [processor.to_pixels([processor.resize_crop(processor.open_crop(path))]) for path in gallery.paths]
        assert pixels[0].shape == (1, 3, 48, 24)
        targets = torch.cat([model.get_target_features(pixel_values=each)[:, 0] for each in pixels])
        query = model.get_query_features(pixels[2], **processor.encode_captions(["a red coat"]))
    cosines = (query @ targets.mT)[0]
    loaded = Gallery.load(tmp_path / "index", model, processor)
    results = loaded.search(image=photos / "2.png", caption="a red coat", top=None)
    assert [result.index for result in results] == cosines.argsort(descending=True).tolist()
    assert [result.score for result in results] == pytest.approx(
        cosines.sort(descending=True).values.tolist(), abs=1e-5
    )

    (photos / "0.png").unlink()
    (photos / "1.png").rename(photos / "9.png")
    encode, encoded = model.get_target_features, []
    monkeypatch.setattr(model, "get_target_features", lambda pixel_values: encoded.append(1) or encode(pixel_values))
    renewed = Gallery.from_folder(model, processor, photos, **options)
    assert encoded == [] and torch.equal(renewed.features, gallery.features[1:])


@pytest.mark.parametrize(("own", "foreign"), [("FAFA", "second"), ("second", "FAFA")])
def test_a_store_of_another_kind_of_model_is_refused(pairs, photos, tmp_path, own, foreign):
    images, options = sorted(photos.iterdir()), {"progress": False, "features_dir": tmp_path / "index"}
    encode_images(*pairs[own], images, **options)
    before = {path: path.read_bytes() for path in (tmp_path / "index").iterdir()}
    with pytest.raises(ValueError, match=r"model fingerprint \w+ of '' \(now \w+ of ''\).*into another folder"):
        Gallery.load(tmp_path / "index", *pairs[foreign])
    with pytest.raises(ValueError, match=r"features shape \[\d, \d+\] \(now \[\d, \d+\]\)"):
        encode_images(*pairs[foreign], images, **options)
    assert {path: path.read_bytes() for path in (tmp_path / "index").iterdir()} == before


def test_a_model_takes_no_other_models_processor(pairs):
    (model, processor), (second, its_processor) = pairs.values()
    features = torch.nn.functional.normalize(torch.ones(1, 8, 64), dim=-1)
    with pytest.raises(ValueError, match="the image processor makes images of 48 x 24 pixels"):
        Gallery(model, its_processor, features, [None])
    with pytest.raises(ValueError, match="and the model reads 48 x 24"):
        Gallery(second, processor, features, [None])
