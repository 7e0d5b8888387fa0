"""Diptychs of the small world: the same request gives the same picture, and faults are what their facts say."""

from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest

from fafa.synthesis.components import ImageRequest, SynthesisError, seed_of
from fafa.synthesis.splitting import SplitSettings, cut_at_seam
from fafa.synthesis.stand_ins.diptychs import FAULTS, WorldPainter, paint_diptych
from fafa.world.people import Garment, Outfit

A = Outfit(
    Garment("t-shirt", "green"), Garment("trousers", "grey"), Garment("sneakers", "red"), hat=Garment("cap", "red")
)
B = replace(A, upper=Garment("coat", "purple"))


def request(item="1-1", **changes):
    scene = {"outfits": [asdict(A), asdict(B)]}
    return ImageRequest(item, "a diptych", seed_of("test", item), **({"scene": scene} | changes))


def pixels(painted):
    return np.asarray(painted.image).astype(int)


def faulty(kind, number=0):
    return WorldPainter(fault_rate=1, faults=[kind]), request(f"{number}-1")


def test_a_request_gives_the_same_picture_whatever_is_painted_with_it():
    painter = WorldPainter(fault_rate=0.5).load()
    requests = [request(f"{number}-1") for number in range(6)]
    together = {painted.id: painted for painted in painter.paint(requests)}
    for wanted in reversed(requests):
        (alone,) = WorldPainter(fault_rate=0.5).load().paint([wanted])
        assert np.array_equal(pixels(alone), pixels(together[wanted.id]))
        assert alone.facts == together[wanted.id].facts


def test_pictures_have_the_size_of_the_settings():
    for fault_rate in (0, 1):
        settings = WorldPainter(height=128, width=150, fault_rate=fault_rate)
        sizes = {painted.image.size for painted in settings.load().paint(request(f"{n}-1") for n in range(20))}
        # A picture of three parts may lack a column or two.
        assert all(height == 128 and 148 <= width <= 150 for width, height in sizes)
        if not fault_rate:
            assert sizes == {(150, 128)}


def test_faults_come_at_the_rate_of_the_settings_and_equally_often():
    painter = WorldPainter(height=64, width=68, fault_rate=0.3).load()
    faults = Counter(painted.facts["fault"] for painted in painter.paint(request(f"{n}-1") for n in range(250)))
    assert set(faults) == {None, *FAULTS}
    assert 0.22 < 1 - faults[None] / 250 < 0.38
    assert min(faults[kind] for kind in FAULTS) > 4


def test_no_faults_unless_asked_for():
    painter = WorldPainter(height=64, width=68).load()
    assert {painted.facts["fault"] for painted in painter.paint(request(f"{n}-1") for n in range(20))} == {None}


@pytest.mark.parametrize("kind", ["other person", "wrong garment", "bad picture", "nothing changed"])
def test_a_fault_changes_the_faulty_side_and_no_other(kind):
    sides = set()
    for number in range(6):
        settings, wanted = faulty(kind, number)
        wrong, sound = paint_diptych(wanted, settings), paint_diptych(wanted, WorldPainter())
        sides.add(wrong.facts["faulty_side"])
        changed = np.flatnonzero((pixels(wrong) != pixels(sound)).any(axis=(0, 2)))
        seam = cut_at_seam(sound.image, SplitSettings()).seam
        assert len(changed)
        assert (changed < seam + 8).all() if wrong.facts["faulty_side"] == "left" else (changed > seam - 8).all()
    assert sides == {"left", "right"}


def test_without_a_seam_no_fault_has_a_side():
    details = set()
    for number in range(15):
        settings, wanted = faulty("no seam", number)
        facts = paint_diptych(wanted, settings).facts
        assert facts["faulty_side"] is None
        details.add(facts["fault_detail"])
    assert details == {"one person", "run together", "third person"}


def test_a_quadruple_without_outfits_is_refused_in_one_line():
    with pytest.raises(SynthesisError, match=r"5-2: painted people need an outfit.*kind: grammar"):
        paint_diptych(request("5-2", scene={}), WorldPainter())
    wrong = {"outfits": [asdict(A), asdict(B) | {"hat": {"kind": "crown", "colour": "red", "pattern": "plain"}}]}
    with pytest.raises(SynthesisError, match=r"5-2: .*crown"):
        paint_diptych(request("5-2", scene=wrong), WorldPainter())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 20}, "height\n.*equal to 64"),
        ({"fault_rate": 1.5}, "fault_rate\n.*equal to 1"),
        ({"faults": ["third arm"]}, "faults.0\n.*should be 'other person'"),
        ({"fault_rate": 0.1, "faults": []}, "at least one"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        WorldPainter(**settings)
