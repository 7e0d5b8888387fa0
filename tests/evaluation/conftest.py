"""A test set in ITCPR's format, with two sources, several matches and distractors, for a tiny model."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_model, tiny_processor

NUM_QUERIES, NUM_DISTRACTORS = 7, 6


@pytest.fixture(scope="session")
def model():
    """Weights so large that scores lie far apart: ranks must not hang on the last digit."""
    model = tiny_model()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10)
    return model


@pytest.fixture(scope="session")
def processor():
    return tiny_processor()


@pytest.fixture
def itcpr_root(tmp_path):
    """Seven queries of sources LAST and PRCC; query 0 has two matches; six distractors."""
    root, rng = tmp_path / "ITCPR", np.random.default_rng(0)

    def record(number, folder, instance_id, source, **caption):
        file_path = f"{source}/{folder}/{number}.png"
        (root / file_path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (3, 2, 3), dtype=np.uint8)).resize((12, 24)).save(root / file_path)
        return {
            "file_path": file_path,
            "datasets": source,
            "person_id": number,
            "instance_id": instance_id,
            **caption,
        }

    sources = ["LAST" if number < 4 else "PRCC" for number in range(NUM_QUERIES)]
    captions = [f"a {colour} {garment}" for colour in ("red", "blue") for garment in ("coat", "hat", "bag", "in red")]
    queries = [record(n, "query", n, source, caption=captions[n]) for n, source in enumerate(sources)]
    gallery = [record(n, "gallery", n, source) for n, source in enumerate(sources)]
    gallery.insert(3, record(99, "gallery", 0, "LAST"))
    gallery += [record(100 + n, "gallery", -1, "PRCC") for n in range(NUM_DISTRACTORS)]
    (root / "query.json").write_text(json.dumps(queries), encoding="utf-8")
    (root / "gallery.json").write_text(json.dumps(gallery), encoding="utf-8")
    return root
