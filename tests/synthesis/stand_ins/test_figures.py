import pytest

from fafa.synthesis.components import ImageRequest
from fafa.synthesis.stand_ins.figures import FigureFilter, find_figure
from fafa.synthesis.stand_ins.grammar import WorldPrompts
from fafa.synthesis.stand_ins.portraits import WorldPortrait


@pytest.fixture(scope="module")
def portraits():
    prompts = WorldPrompts().load().write(map(str, range(160)), seed=5)
    asked = [ImageRequest(prompt["id"], "", seed=int(prompt["id"]), scene=prompt) for prompt in prompts]
    return list(WorldPortrait(fault_rate=0.4).load().paint(asked))


def test_painted_figures_are_told_from_faulty_ones(portraits):
    """Measured on 1,500: 0.99 of the kept are sound, 0.97 of the sound are kept."""
    sound = [picture for picture in portraits if picture.facts["fault"] is None]
    kept = [picture for picture in portraits if not isinstance(find_figure(picture.image), str)]
    right = [picture for picture in kept if picture.facts["fault"] is None]
    assert len(right) >= 0.97 * len(kept) and len(right) >= 0.93 * len(sound)


def test_reasons_name_the_fault(portraits):
    expected = {
        "nobody": "no person",
        "two people": "several people",
        "no head": "head not visible",
        "no legs": "knees and ankles not visible",
    }
    for fault, reason in expected.items():
        reasons = [find_figure(picture.image) for picture in portraits if picture.facts["fault"] == fault]
        assert len(reasons) >= 8 and reasons.count(reason) >= 0.85 * len(reasons)


def test_a_figure_is_cut_out_whole(tmp_path, portraits):
    sound = next(picture for picture in portraits if picture.facts["fault"] is None)
    sound.image.save(tmp_path / "a.png")
    (found,) = FigureFilter(margin=0.1).load().find([("a", tmp_path / "a.png")])
    left, top, right, bottom = found.facts["box"]
    assert found.image.tobytes() == sound.image.crop((left, top, right, bottom)).tobytes()
    assert 0.2 * 144 * 192 < (right - left) * (bottom - top) < 0.8 * 144 * 192
    again = find_figure(found.image)  # nothing of the figure reaches the edges of its cut
    assert again[1] > 0 and again[3] < bottom - top


def test_large_pictures_are_judged_alike(portraits):
    for picture in portraits[:12]:
        large = picture.image.resize((288, 384))
        assert isinstance(find_figure(large), str) == isinstance(find_figure(large.resize((144, 192))), str)
