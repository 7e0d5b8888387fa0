"""Comparing pictures and captions by CLIP."""

import pytest
import torch
from PIL import Image
from tiny_vision_models import tiny_clip, tiny_yolos
from transformers import AutoProcessor, CLIPModel

from fafa.synthesis.components import SynthesisError
from fafa.synthesis.filtering.clip import ClipGate

CAPTIONS = ("a person in red", "a person in blue, a red bag, a blue hat", "in blue " * 40)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    for number in range(4):
        pixels = torch.randint(0, 256, (4, 4, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).resize((30 + 9 * number, 64), 0).save(folder / f"{number}.png")
    pairs = [(0, 1, 0, 1), (2, 3, 0, 1), (1, 0, 2, 0)]
    return folder, [
        {"id": f"1-{n}", "left": f"{a}.png", "right": f"{b}.png", "caption_a": CAPTIONS[c], "caption_b": CAPTIONS[d]}
        for n, (a, b, c, d) in enumerate(pairs)
    ]


def test_scores_are_cosines_of_clip_itself(clip, records):
    folder, pairs = records
    gate = ClipGate(str(clip), batch_size=2).load()
    scores = gate.score(pairs, folder)[0]
    assert tuple(scores) == gate.names

    model, processor = CLIPModel.from_pretrained(clip).eval(), AutoProcessor.from_pretrained(clip)
    inputs = processor(
        images=[Image.open(folder / name) for name in ("0.png", "1.png")],
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


def test_a_score_does_not_depend_on_neighbours_and_long_captions_are_cut(clip, records):
    folder, pairs = records
    gate = ClipGate(str(clip), batch_size=4).load()
    together = gate.score(pairs, folder)
    assert together == [gate.score([pair], folder)[0] for pair in pairs]
    assert together[0] != together[1]


def test_a_model_that_is_no_clip_is_refused(tmp_path):
    with pytest.raises(SynthesisError, match="expected CLIP, found Yolos"):
        ClipGate(str(tiny_yolos(tmp_path))).load()
