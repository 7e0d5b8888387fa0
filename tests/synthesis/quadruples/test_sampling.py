from collections import Counter

import pytest

from fafa.synthesis.quadruples.sampling import Template

POOLS = {"outfit": ["{garment} and {garment}", "{garment}"], "garment": ["coat", "hat", "scarf"]}


def test_slots_are_filled_also_within_phrases_and_never_twice_the_same():
    template = Template('Write {"caption": ...} of a {outfit}.', POOLS)
    sampled = [template.sample(seed) for seed in range(200)]
    texts = {text for text, _ in sampled}
    assert len(texts) == 3 * 2 + 3
    assert all(text.startswith('Write {"caption": ...} of a ') for text in texts)
    assert not any("coat and coat" in text for text in texts)
    text, phrases = template.sample(3)
    assert phrases == {"garment": text.removeprefix('Write {"caption": ...} of a ').rstrip(".").split(" and ")}
    assert template.sample(3) == (text, phrases)


def test_weights_and_excluded_combinations():
    pools = {"season": ["summer", "winter"], "garment": ["parka", "shirt"]}
    template = Template("{season} {garment}", pools, {"season": {"winter": 3}}, [["summer", "parka"]])
    counts = Counter(template.sample(seed)[0] for seed in range(2_000))
    assert set(counts) == {"summer shirt", "winter parka", "winter shirt"}
    assert counts["winter parka"] + counts["winter shirt"] == pytest.approx(2_000 * 6 / 7, rel=0.05)


@pytest.mark.parametrize(
    ("text", "pools", "more", "message"),
    [
        ("{hat}", {}, {}, r"slot \{hat\} of '\{hat\}' needs a pool of 1 phrases"),
        ("{hat} {hat}", {"hat": ["cap"]}, {}, "needs a pool of 2 phrases"),
        ("{hat}", {"hat": ["cap"], "bag": ["tote"]}, {}, "no slot asks for the pools bag"),
        ("{hat}", {"hat": ["{hat}"]}, {}, "the pool hat leads back to itself"),
        ("{hat}", {"hat": ["cap"]}, {"weights": {"hat": {"beret": 2}}}, "'beret' is not in the pool hat"),
        ("{hat}", {"hat": ["cap"]}, {"weights": {"hat": {"cap": 0}}}, "those of hat must be above 0"),
        ("{hat}", {"hat": ["cap"]}, {"excluded": [["cap", "beret"]]}, "'beret' is in no pool"),
        ("{hat}", {"hat": ["cap"]}, {"excluded": [["cap"]]}, "expected two phrases or more"),
    ],
)
def test_templates_that_cannot_be_filled_are_refused(text, pools, more, message):
    with pytest.raises(ValueError, match=message):
        Template(text, pools, **more)


def test_excluding_everything_is_an_error():
    template = Template("{hat} {bag}", {"hat": ["cap"], "bag": ["tote"]}, excluded=[["cap", "tote"]])
    with pytest.raises(ValueError, match="exclude less"):
        template.sample(0)
