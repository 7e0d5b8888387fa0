"""Deciding from stored scores."""

import math

import pytest
from PIL import Image, ImageFilter

from fafa.synthesis.filtering.clip_gate import ClipGate
from fafa.synthesis.filtering.detectors import PeopleGate
from fafa.synthesis.filtering.gates import AspectGate, BlankGate, BlurGate, SeamGate, TwinGate, open_halves
from fafa.synthesis.filtering.thresholds import Bound, Thresholds
from fafa.synthesis.preflight import paint_pair
from fafa.synthesis.recipes import find_recipe, read_recipe
from fafa.synthesis.settings import RecipeError, read_settings
from fafa.synthesis.triplets.pipeline import TripletRecipe

BOUNDS = {
    "blur_left": {"at_least": 0.2},
    "people_left": {"at_least": 1, "at_most": 1},
    "quality": {"at_least": 0.6},
    "follows_ab": {"at_least": 0.5},
    "follows_ba": {"at_least": 0.5},
}
GOOD = {"blur_left": 0.2, "people_left": 1, "quality": 0.6, "follows_ab": 0.5, "follows_ba": 1.0}


@pytest.fixture
def thresholds():
    return read_settings(Thresholds, {"bounds": BOUNDS}, "recipe.yaml: thresholds")


def test_bounds_themselves_are_good_enough(thresholds):
    assert thresholds.decide(GOOD) == {"ab": [], "ba": []}


def test_a_shared_score_rejects_both_directions_and_a_direction_s_own_score_only_that(thresholds):
    assert thresholds.decide(GOOD | {"quality": 0.59}) == {"ab": ["quality below 0.6"], "ba": ["quality below 0.6"]}
    assert thresholds.decide(GOOD | {"follows_ba": 0.1}) == {"ab": [], "ba": ["follows_ba below 0.5"]}


def test_every_bound_that_is_crossed_is_named(thresholds):
    assert thresholds.decide(GOOD | {"people_left": 2, "follows_ab": 0.4}) == {
        "ab": ["people_left above 1", "follows_ab below 0.5"],
        "ba": ["people_left above 1"],
    }


def test_what_was_not_measured_is_not_kept(thresholds):
    del (scores := dict(GOOD))["quality"]
    assert thresholds.decide(scores) == {"ab": ["not measured: quality"], "ba": ["not measured: quality"]}
    assert thresholds.decide(GOOD | {"quality": math.nan})["ab"] == ["quality below 0.6"]


def test_a_pair_that_failed_a_gate_is_not_blamed_for_not_being_judged(thresholds):
    gates = {"blur_left": 0.1, "people_left": 1}
    assert thresholds.decide(gates) == {"ab": ["blur_left below 0.2"], "ba": ["blur_left below 0.2"]}
    assert thresholds.among(gates).decide(gates | {"blur_left": 0.3}) == {"ab": [], "ba": []}


def test_scores_without_a_bound_do_not_decide():
    assert Thresholds().decide({"quality": 0.0}) == {"ab": [], "ba": []}


@pytest.mark.parametrize(
    ("bound", "message"),
    [({}, "give at_least, at_most or both"), ({"at_least": 2, "at_most": 1}, r"at_least \(2\) is above at_most \(1\)")],
)
def test_a_bound_that_makes_no_sense_is_refused(bound, message):
    with pytest.raises(RecipeError, match=f"recipe.yaml: bounds.blur: {message}"):
        read_settings(Thresholds, {"bounds": {"blur": bound}}, "recipe.yaml")


def test_bounds_read_from_yaml_are_bounds(thresholds):
    assert thresholds.bounds["people_left"] == Bound(at_least=1, at_most=1)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"identity": {"at_least": 6}}, "identity: at_least is 6, and the score goes from 0 to 1: .*so write 0.56"),
        ({"quality": {"at_most": 1.5}}, "quality: at_most is 1.5, and the score goes from 0 to 1"),
        ({"sharpness": {"at_least": 30}}, "sharpness: at_least is 30, and the score goes from 0 to 1"),
        ({"clip_a": {"at_least": 18}}, "clip_a: at_least is 18, and the score goes from -1 to 1"),
        ({"noise": {"at_least": -1}}, "noise: at_least is -1, and the score goes from 0 to 255"),
        ({"height": {"at_least": -5}}, "height: at_least is -5, and the score goes from 0 up"),
    ],
)
def test_a_bound_beyond_the_scale_of_its_score_is_refused_before_work(bounds, message):
    """`identity: {at_least: 6}` on scores of 0 to 1 used to reject every triplet, after all was painted and judged."""
    settings = {
        "quadruples": {"count": 1, "writer": {"kind": "grammar"}},
        "diptychs": {"painter": {"kind": "world"}},
        "gates": [{"kind": "blur"}, {"kind": "aspect"}, {"kind": "clip"}],
        "judge": {"kind": "onlooker"},
    }
    read_settings(TripletRecipe, settings | {"filter": {"bounds": {"identity": {"at_least": 1}}}}, "recipe.yaml")
    with pytest.raises(RecipeError, match=message):
        read_settings(TripletRecipe, settings | {"filter": {"bounds": bounds}}, "recipe.yaml")


@pytest.mark.parametrize("gate", [BlankGate, BlurGate, AspectGate, TwinGate, SeamGate, PeopleGate, ClipGate])
def test_every_gate_tells_the_scale_of_every_score(gate):
    assert len(gate.names) == len(gate.scales) and all(low < high for low, high in gate.scales)


@pytest.mark.parametrize("name", ["syncpr", "cirhs"])
def test_blank_blurred_and_equal_pairs_do_not_reach_a_judge_of_32_billion(name, tmp_path):
    """Every pixel gate that tells a bad picture has a bound in the recipe; a sound painted pair is within them."""
    recipe = read_recipe(find_recipe(name))
    gates = [gate for gate in recipe.gates if gate.kind in ("blank", "blur", "seam", "twin")]
    assert len(gates) == 4 and all(any(score in recipe.filter.bounds for score in gate.names) for gate in gates)
    pair = paint_pair(tmp_path)
    left, right = open_halves(pair, tmp_path)
    flat = Image.new("RGB", left.size, (90, 120, 150))
    blurred = left.filter(ImageFilter.GaussianBlur(6))
    bounds = recipe.filter.among(score for gate in gates for score in gate.names)

    def passes(one, other):
        scores = {}
        for gate in gates:
            scores |= gate.load().score([pair], [(one, other)])[0]
        return [not reasons for reasons in bounds.decide(scores).values()]

    assert passes(left, right) == [True, True]
    mirrored = left.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for one, other in ((flat, right), (blurred, right), (left, left), (left, mirrored)):
        assert passes(one, other) == [False, False]
