"""Comparing pictures and captions by CLIP."""

import pytest
import torch
from PIL import Image
from tiny_vision_models import tiny_clip, tiny_yolos
from transformers import AutoProcessor, CLIPModel

from fafa.synthesis.components import SynthesisError
from fafa.synthesis.filtering.clip_gate import ClipGate

CAPTIONS = ("a person in red", "a person in blue, a red bag, a blue hat", "in blue " * 40)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def pairs():
    """Records and pictures of three pairs."""
    images = []
    for number in range(4):
        pixels = torch.randint(0, 256, (4, 4, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        images.append(Image.fromarray(pixels.numpy()).resize((30 + 9 * number, 64), 0))
    captions = [(0, 1), (0, 1), (2, 0)]
    records = [
        {"id": f"1-{n}", "caption_a": CAPTIONS[a], "caption_b": CAPTIONS[b]} for n, (a, b) in enumerate(captions)
    ]
    return records, [(images[left], images[right]) for left, right in ((0, 1), (2, 3), (1, 0))]


def test_scores_are_cosines_of_clip_itself(clip, pairs):
    records, pictures = pairs
    settings = ClipGate(model=str(clip), batch_size=2)
    scores = settings.load().score(records, pictures)[0]
    assert tuple(scores) == settings.names

    model, processor = CLIPModel.from_pretrained(clip).eval(), AutoProcessor.from_pretrained(clip)
    inputs = processor(
        images=list(pictures[0]),
        text=list(CAPTIONS[:2]),
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        found = model(**inputs)
    similarity = found.image_embeds @ found.text_embeds.T
    assert scores["clip_a"] == pytest.approx(similarity[0, 0].item(), abs=1e-4)
    assert scores["clip_b"] == pytest.approx(similarity[1, 1].item(), abs=1e-4)
    assert scores["clip_pair"] == pytest.approx((found.image_embeds[0] @ found.image_embeds[1]).item(), abs=1e-4)
    crossed = (similarity[0, 1] + similarity[1, 0]).item()
    assert scores["clip_margin"] == pytest.approx((similarity.trace().item() - crossed) / 2, abs=1e-4)


def test_a_score_does_not_depend_on_neighbours_and_long_captions_are_cut(clip, pairs):
    records, pictures = pairs
    gate = ClipGate(model=str(clip), batch_size=4).load()
    together = gate.score(records, pictures)
    assert together == [gate.score([record], [pair])[0] for record, pair in zip(records, pictures, strict=True)]
    assert together[0] != together[1]


def test_a_model_that_is_no_clip_is_refused(tmp_path):
    with pytest.raises(SynthesisError, match="expected CLIP, found Yolos"):
        ClipGate(model=str(tiny_yolos(tmp_path))).load()
