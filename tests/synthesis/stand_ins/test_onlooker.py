"""The judge of painted people sees the faults that the painter makes, and reads both captions and edits."""

from dataclasses import asdict

import numpy as np
import pytest

from fafa.synthesis.components import ImageRequest, seed_of
from fafa.synthesis.splitting import Split, SplitSettings, cut_at_seam
from fafa.synthesis.stand_ins.diptychs import WorldPainter, paint_diptych
from fafa.synthesis.stand_ins.onlooker import Onlooker, read_mentions
from fafa.world.captions import write_quadruple
from fafa.world.people import SLOTS, changed_slots

FAULTS = {
    "other person": "identity",
    "wrong garment": "agreement",
    "bad picture": "quality",
    "nothing changed": "follows",
}


def quadruple(number):
    return write_quadruple(np.random.default_rng([7, number]))


@pytest.fixture(scope="module")
def judge():
    return Onlooker(practice=600).load()


@pytest.fixture(scope="module")
def scored(judge, tmp_path_factory):
    """Scores of some pairs per fault, and of sound ones."""
    folder = tmp_path_factory.mktemp("pairs")

    def records(fault):
        settings = WorldPainter(fault_rate=float(fault is not None), faults=[fault] if fault else [])
        for number in range(24):
            a, b, texts = quadruple(number)
            scene = {"outfits": [asdict(a), asdict(b)]}
            item = f"{number}-{fault}"
            painted = paint_diptych(ImageRequest(item, "", seed_of(number), scene=scene), settings)
            split = cut_at_seam(painted.image, SplitSettings())
            if isinstance(split, Split):
                for side in ("left", "right"):
                    getattr(split, side).save(folder / f"{item}_{side}.png")
                yield texts | {"id": item, "left": f"{item}_left.png", "right": f"{item}_right.png"}

    found = {fault: list(judge.judge(records(fault), folder)) for fault in (None, *FAULTS)}
    assert all(len(judgements) >= 18 for judgements in found.values())
    return found


def worst(judgement, score):
    return min(value for name, value in judgement["scores"].items() if name.startswith(score))


@pytest.mark.parametrize(("fault", "score"), FAULTS.items())
def test_each_fault_lowers_its_score(scored, fault, score):
    sound, faulty = ([worst(judgement, score) for judgement in scored[kind]] for kind in (None, fault))
    # The chance that of a sound and a faulty pair the faulty one scores lower; 0.5 is guessing.
    chance = np.mean([(bad < good) + 0.5 * (bad == good) for good in sound for bad in faulty])
    assert chance > {"wrong garment": 0.75}.get(fault, 0.9)


def test_scores_are_complete_and_within_bounds(judge, scored):
    for judgement in [judgement for judgements in scored.values() for judgement in judgements]:
        assert tuple(judgement["scores"]) == judge.names
        assert all(0 <= score <= 1 for score in judgement.get("scores", {}).values())


def test_captions_are_read_in_full():
    for number in range(300):
        a, _, texts = quadruple(number)
        found = {mention.slot: mention for mention in read_mentions(texts["caption_a"])}
        for slot in SLOTS:
            garment = getattr(a, slot)
            if garment is None:
                assert slot not in found
            elif slot in found:
                assert (found[slot].kind, found[slot].colour) == (garment.kind, garment.colour)
                assert (found[slot].pattern or "plain") == garment.pattern
            else:
                assert slot == "shoes"  # captions may leave them out


def test_edits_are_read_in_full():
    for number in range(300):
        a, b, texts = quadruple(number)
        mentions = read_mentions(texts["edit_ab"])
        assert {mention.slot for mention in mentions} == set(changed_slots(a, b)), texts["edit_ab"]
        for mention in mentions:
            after, before = getattr(b, mention.slot), getattr(a, mention.slot)
            if mention.colour:  # is new
                assert (mention.kind, mention.colour) == (after.kind, after.colour)
            else:  # goes
                assert mention.kind == before.kind


def test_too_little_practice_is_refused():
    with pytest.raises(ValueError, match=r"practice\n.*greater than or equal to 100"):
        Onlooker(practice=3)
