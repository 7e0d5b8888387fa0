"""Deciding from stored scores."""

import math

import pytest

from fafa.synthesis.filtering.thresholds import Bound, Thresholds
from fafa.synthesis.settings import RecipeError, read_settings

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
    with pytest.raises(RecipeError, match=f"recipe.yaml: bounds: blur: {message}"):
        read_settings(Thresholds, {"bounds": {"blur": bound}}, "recipe.yaml")


def test_bounds_read_from_yaml_are_bounds(thresholds):
    assert thresholds.bounds["people_left"] == Bound(1, 1)
