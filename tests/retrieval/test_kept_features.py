"""Features that an earlier version wrote are still found, to the byte: fingerprints and manifests stay what they were.

`python tests/retrieval/test_kept_features.py` writes them anew, which takes a good reason: everybody else's are then
refused as well.
"""

import shutil
from pathlib import Path

import numpy as np
from datasets import Dataset

from fafa import TINY_CHECKPOINT, FafaModel
from fafa.evaluation import encode_queries
from fafa.model_folder import load_model
from fafa.retrieval import Gallery, encode_images, verify_store

KEPT = Path(__file__).parents[1] / "fixtures" / "features"
MODES = ("image+caption", "caption")


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 12, 3), dtype=np.uint8)
    return {"bytes": b"P6 12 24 255\n" + pixels.tobytes(), "path": None}  # which no version of a library changes


def write(folder):
    model, processor = load_model(TINY_CHECKPOINT)
    model.config._name_or_path = "fafa/tiny"
    options = {"batch_size": 2, "progress": False}
    gallery = [picture(seed) for seed in range(3)]
    encode_images(model, processor, gallery, features_dir=folder / "gallery", **options)
    queries = Dataset.from_dict({"image": [picture(3), picture(4)], "caption": ["a red coat", "in blue jeans"]})
    encode_queries(model, processor, queries, MODES, features_dir=folder / "queries", **options)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_features_written_before_are_found_and_nothing_is_encoded(tmp_path, monkeypatch):
    monkeypatch.setattr(FafaModel, "get_target_features", None)
    monkeypatch.setattr(FafaModel, "get_query_features", None)
    kept = shutil.copytree(KEPT, tmp_path / "features")
    write(kept)
    assert files(kept) == files(KEPT)
    for part in ("gallery", *(f"queries/{mode}" for mode in MODES)):
        assert verify_store(kept / part) == []
    assert len(Gallery.load(kept / "gallery", *load_model(TINY_CHECKPOINT))) == 3


def test_what_is_written_now_has_their_names_and_manifests(tmp_path):
    """Values of features may differ in the last digit, by the processor that they were computed on."""
    write(tmp_path)
    now, before = files(tmp_path), files(KEPT)
    assert now.keys() == before.keys()
    for path in now:
        if path.suffix != ".safetensors":
            assert now[path] == before[path], path


if __name__ == "__main__":
    write(KEPT)
