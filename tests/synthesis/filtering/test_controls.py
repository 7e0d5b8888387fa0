"""Spoilt pairs show whether a judge looks."""

import random

import pytest
from pages import unpadded

from fafa.synthesis.components import CONTROL, ImageRequest, SynthesisError
from fafa.synthesis.filtering.controls import (
    JudgeControls,
    check_controls,
    controls_of,
    count_controls,
    doubts_of,
)
from fafa.synthesis.filtering.thresholds import Bound, Thresholds
from fafa.synthesis.images import save_image
from fafa.synthesis.report.page import control_section
from fafa.synthesis.stand_ins.diptychs import WorldPainter
from fafa.synthesis.stand_ins.grammar import GrammarWriter
from fafa.synthesis.stand_ins.onlooker import Onlooker

NAMES = Onlooker.names
BOUNDS = Thresholds(bounds={name: Bound(at_least=0.5) for name in NAMES})
MOST = JudgeControls(per_chunk=1_000)


def pairs(count: int) -> list[dict]:
    """Two pairs of each quadruple."""
    return [
        {
            "id": f"{number // 2}-{number % 2}",
            "quadruple": str(number // 2),
            "left": f"{number}l",
            "right": f"{number}r",
        }
        | {name: f"{name} {number // 2}" for name in ("caption_a", "caption_b", "edit_ab", "edit_ba")}
        for number in range(count)
    ]


def judged(judge, count: int = 160):
    """What a judge, a function of the pair as it is shown, says of pairs and controls."""
    shown = pairs(count)
    controls = controls_of(shown, MOST, 0, NAMES)
    records = [*shown, *controls.values()]
    kept = ("id", CONTROL)
    return [{key: record[key] for key in kept if key in record} | {"scores": judge(record)} for record in records]


def test_controls_are_spoilt_as_they_say_and_a_quarter_of_the_pairs_at_most():
    shown = pairs(64)
    controls = controls_of(shown, MOST, 0, NAMES)
    assert len(controls) == 16 and controls == controls_of(shown[::-1], MOST, 0, NAMES)
    assert list(controls) != list(controls_of(shown, MOST, 1, NAMES))
    by_id = {pair["id"]: pair for pair in shown}
    for name, control in controls.items():
        pair = by_id[name]
        same = {key: value for key, value in control.items() if pair.get(key) == value}
        match control[CONTROL]:
            case "halves swapped":
                assert (control["left"], control["right"]) == (pair["right"], pair["left"])
                assert {"caption_a", "edit_ba"} <= set(same)
            case "another subject":
                assert control["left"] == pair["left"] and int(control["right"][:-1]) // 2 != int(pair["quadruple"])
            case "nothing changed":
                assert control["left"] == control["right"] == pair["left"]
            case "order swapped":
                assert (control["left"], control["caption_a"], control["edit_ab"]) == (
                    *(pair["right"], pair["caption_b"], pair["edit_ba"]),
                )
    assert {control[CONTROL] for control in controls.values()} == {
        *("halves swapped", "another subject", "nothing changed", "order swapped")
    }


def test_a_judge_of_quality_alone_is_not_blamed_for_what_it_is_not_asked():
    controls = controls_of(pairs(64), MOST, 0, ["quality"])
    assert {control[CONTROL] for control in controls.values()} == {"order swapped"}
    one = [pair | {"quadruple": "0"} for pair in pairs(64)]
    assert "another subject" not in {control[CONTROL] for control in controls_of(one, MOST, 0, NAMES).values()}


def test_a_judge_that_always_says_9_is_stopped_after_seven_controls():
    records = judged(lambda record: dict.fromkeys(NAMES, 0.8889))
    controls = [record for record in records if record.get(CONTROL, "order swapped") != "order swapped"]
    pairs_of = {record["id"]: record for record in records}
    for count in range(1, 20):
        some = [entry for one in controls[:count] for entry in (one, pairs_of[one["id"].partition("!")[0]])]
        tally = count_controls(some, BOUNDS)
        assert tally.misses(0.6) == (count >= 7)
    with pytest.raises(SynthesisError, match=r"gave 0 lower marks .* --redo judgements. With `controls:"):
        check_controls(tally, JudgeControls(), "nine")
    assert "the judge (nine) fails its controls" in check_controls(tally, JudgeControls(stop=False), "nine")


def test_a_judge_that_throws_dice_is_stopped_too():
    chance = random.Random(0)
    tally = count_controls(judged(lambda record: {name: chance.randint(0, 9) / 9 for name in NAMES}, 1_600), BOUNDS)
    assert 0.4 < tally.told_apart / tally.shown < 0.55 and tally.misses(0.6)


def test_a_judge_that_looks_passes_though_a_third_of_the_pairs_is_faulty(tmp_path):
    """The stand-in judge sees pixels only; it tells nearly all spoilt pairs apart, and the page says so."""
    writer, painter = GrammarWriter().load(), WorldPainter(height=96, width=102, fault_rate=0.3).load()
    shown = []
    for number, texts in enumerate(writer.write(map(str, range(48)), seed=3)):
        (painted,) = painter.paint([ImageRequest(f"{number}-1", "", number, scene=texts)])
        width, height = painted.image.size
        for side, box in (("left", (0, 0, width // 2, height)), ("right", (width // 2, 0, width, height))):
            save_image(painted.image.crop(box), tmp_path / f"{number}{side}.png", 95)
        paths = {side: f"{number}{side}.png" for side in ("left", "right")}
        shown.append(texts | paths | {"id": f"{number}-1", "quadruple": str(number)})
    controls = controls_of(shown, MOST, 0, NAMES)
    judge = Onlooker(practice=300).load()
    said = judge.judge([*shown, *controls.values()], tmp_path)
    records = list(said)
    tally = count_controls(records, BOUNDS)
    assert tally.shown == 9 and tally.told_apart >= 7 and check_controls(tally, JudgeControls(), "onlooker") is None
    _, told, order = control_section(tally.as_dict())
    assert [row.split("|")[1:3] for row in unpadded(told).splitlines()[2:]] == [
        [f" {kind} ", " 3 "] for kind in ("halves swapped", "another subject", "nothing changed")
    ]
    # It looks at each half alone, so that it cannot mind the order.
    assert "3 of 3 pairs were decided on as before; a mark differed by 0.00" in order


def test_the_order_of_the_pictures_must_not_matter():
    """A judge that likes the picture shown first gives other marks when both are exchanged."""
    biased = dict.fromkeys(NAMES, 0.9) | {"follows_ba": 0.1}
    tally = count_controls(judged(lambda record: biased), BOUNDS)
    assert tally.off == pytest.approx(2 * 0.8 / 6)
    assert tally.turned == (10, 0)
    assert "otherwise on 10 of 10 pairs: it minds which image comes first" in doubts_of(tally)[-1]
    fair = control_section(count_controls(judged(lambda record: {"quality": 0.3}), BOUNDS).as_dict())
    assert fair[-1].endswith("a mark differed by 0.00 in the mean.")


def test_bounds_that_keep_spoilt_pairs_are_warned_of():
    """A judge that tells them apart, by marks that are all above the bounds."""
    mild = judged(lambda record: dict.fromkeys(NAMES, 0.8 if CONTROL in record else 0.9))
    tally = count_controls(mild, BOUNDS)
    assert not tally.misses(0.6)
    assert doubts_of(tally)[0].startswith("the judge's bounds keep 30 of 30 pairs that were spoilt on purpose: raise")
    strict = Thresholds(bounds={"identity": Bound(at_least=0.85)})
    assert doubts_of(count_controls(mild, strict))[:1] != doubts_of(tally)[:1]


def test_without_bounds_nothing_is_said_of_what_they_keep():
    tally = count_controls(judged(lambda record: dict.fromkeys(NAMES, 0.9)), Thresholds())
    told = control_section(tally.as_dict())[1]
    assert all(row.endswith("| no bounds |") for row in unpadded(told).splitlines()[2:])
    assert count_controls([{"id": "0-1", "scores": {"quality": 1.0}}], BOUNDS) is None


def test_controls_without_usable_marks_are_counted_and_told():
    """As a server's answers may all be unusable: the page must not look as if nothing had been asked."""
    records = [
        {key: value for key, value in record.items() if key != "scores"} | {"rejected": "no mark for quality"}
        if CONTROL in record
        else record
        for record in judged(lambda record: dict.fromkeys(NAMES, 0.9))
    ]
    tally = count_controls(records, BOUNDS)
    assert (tally.shown, tally.turned, tally.lost) == (0, (0, 0), 40) and not tally.misses(0.6)
    assert control_section(tally.as_dict())[1:] == [
        "40 more of these pairs say nothing: the judge gave no usable marks, then or for the sound pair."
    ]
    assert doubts_of(tally) == [
        "40 of the judge's 40 controls say nothing, for it gave no usable marks: whether it looks is not known"
    ]
    assert count_controls(records[:1], BOUNDS) is None

    pairs_lost = [
        record | ({} if CONTROL in record else {"scores": None}) for record in judged(lambda _: {"quality": 1.0})
    ]
    assert count_controls(pairs_lost, BOUNDS).lost == 40
