"""Cut-offs keep what they promise in galleries of any size; probabilities come true; what cannot be told is refused."""

import json
import math
import re

import pytest
import torch

from fafa.evaluation.open_set import reliability_curve
from fafa.retrieval.calibration import (
    PLACE,
    TOP,
    Calibration,
    HighestScores,
    ScoreCalibration,
    _extreme_value_fit,
    fit_probabilities,
)


def made_up(num_queries, num_images, seed):
    """Scores of queries with one match each, image 0: cosines of random vectors, some directions fuller than others."""
    rng = torch.Generator().manual_seed(seed)
    vectors = (torch.randn(number, 12, generator=rng) + 0.2 for number in (num_queries, num_images))
    queries, images = (torch.nn.functional.normalize(of, dim=1) for of in vectors)
    scores = queries @ images.T
    scores[:, 0] = torch.tanh(1.1 + 0.25 * torch.randn(num_queries, generator=rng))
    is_match = torch.zeros(num_queries, num_images, dtype=torch.bool)
    is_match[:, 0] = True
    return scores, is_match


def highest_of(scores, is_match, rows=64, left_out=None):
    highest = HighestScores(scores.shape[1])
    for start in range(0, len(scores), rows):
        of = slice(start, start + rows)
        highest.add(scores[of], is_match[of], None if left_out is None else left_out[of])
    return highest


@pytest.fixture(scope="module")
def calibration():
    return ScoreCalibration.fit(highest_of(*made_up(300, 400, seed=0)))


def test_the_highest_scores_are_those_of_each_row_sorted():
    scores, is_match = made_up(9, 500, seed=1)
    left_out = torch.zeros_like(is_match)
    left_out[3, scores[3, 1:].argmax() + 1] = True
    highest = highest_of(scores, is_match, rows=4, left_out=left_out)

    assert highest.parts == [500, 125]
    for query in range(9):
        impostors = scores[query][~(is_match | left_out)[query]].sort(descending=True).values
        assert highest.impostors[query].tolist() == impostors[:TOP].tolist()
        assert highest.matches[query].tolist() == [scores[query, 0].item()] + [-math.inf] * (TOP - 1)
        assert highest.best_impostors[query, 0] == impostors[0]
        assert highest.best_impostors[query, 1] <= impostors[0]
    third = scores.masked_fill(is_match | left_out, -1).topk(PLACE).values[:, -1]
    assert highest.levels[0] == pytest.approx(third.median().item())

    shown, are_matches = highest.shown()
    with_match = torch.cat([scores[:, :1], highest.impostors], 1).sort(descending=True).values[:, :TOP]
    assert shown.tolist() == [*with_match.tolist(), *highest.impostors.tolist()]
    assert (shown[:9][are_matches[:9]] == scores[:, 0]).all() and not are_matches[9:].any()


def test_a_gallery_with_few_images_has_fewer_highest_scores():
    highest = highest_of(*made_up(5, 3, seed=0))
    assert highest.impostors.shape == (5, 3) and highest.impostors[:, 2].isneginf().all()
    assert highest.parts == [3]


@pytest.mark.parametrize("shape", [0.3, 0.0, -0.1])
def test_the_extreme_value_fit_finds_what_samples_were_drawn_from(shape):
    uniform = torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    reduced = -(-uniform.log()).log()
    sample = 0.7 + 0.04 * (reduced if shape == 0 else (1 - torch.exp(-shape * reduced)) / shape)
    location, scale, found = _extreme_value_fit(sample)
    assert location == pytest.approx(0.7, abs=1e-3)
    assert scale == pytest.approx(0.04, rel=0.03)
    assert found == pytest.approx(shape, abs=0.01)


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("size", [100, 400, 4000])
def test_the_promised_false_alarm_rate_is_kept_in_galleries_smaller_and_ten_times_larger(calibration, size, rate):
    best = highest_of(*made_up(1500, size + 1, seed=2)).impostors[:, 0]
    measured = (best > calibration.cut_off(rate, size)).double().mean().item()
    assert rate / 2 < measured < (2 if rate > 0.05 else 4) * rate


def test_a_larger_gallery_and_a_lower_rate_make_the_cut_off_higher(calibration):
    cut_offs = [calibration.cut_off(0.1, size) for size in (100, 400, 4000, 40_000)]
    assert cut_offs == sorted(cut_offs)
    assert calibration.cut_off(0.01, 400) > calibration.cut_off(0.1, 400)
    best = highest_of(*made_up(500, 4001, seed=2)).impostors[:, 0]
    assert (best > cut_offs[1]).double().mean() > 0.4, "without the size, promises are broken"


def test_the_cut_off_is_where_the_false_alarm_rate_is_the_promised_one(calibration):
    assert calibration.false_alarm_rate(calibration.cut_off(0.05, 1000), 1000) == pytest.approx(0.05, abs=1e-6)
    assert calibration.false_alarm_rate(-1.0, 400) == 1.0


def test_few_queries_make_the_cut_off_for_a_far_larger_gallery_higher():
    """The tail is known less well, so the rate is averaged over fits to resampled queries, not taken from the one."""
    few = [ScoreCalibration.fit(highest_of(*made_up(60, 400, seed=10 + seed))) for seed in range(4)]
    careful = [of.cut_off(0.05, 4000) for of in few]
    for of in few:
        of.__dict__["_fits"] = [tuple(fit[None] for fit in _extreme_value_fit(best.atanh())) for best in of.best.T]
    assert sum(careful) > sum(of.cut_off(0.05, 4000) for of in few)


@pytest.mark.parametrize("size", [400, 4000])
def test_probabilities_come_true_in_galleries_of_other_sizes(calibration, size):
    scores, is_match = highest_of(*made_up(1500, size + 1, seed=3)).shown()
    curve = reliability_curve(calibration.probability(scores, size).flatten(), is_match.flatten())
    for of_bin in curve:
        if of_bin["number"] > 100:
            assert of_bin["share"] == pytest.approx(of_bin["probability"], abs=0.15)
    assert calibration.probability(torch.tensor([0.9]), 400) > calibration.probability(torch.tensor([0.9]), 4000)


def test_probabilities_are_fitted_where_the_likelihood_is_highest():
    """Smoothed targets: even scores that separate matches wholly get a finite slope."""
    scores = torch.tensor([0.1, 0.2, 0.3, 0.7, 0.8], dtype=torch.double)
    is_match = torch.tensor([False, False, False, True, True])
    intercept, slope = fit_probabilities(scores, is_match)
    wanted = torch.tensor([1 / 5] * 3 + [3 / 4] * 2, dtype=torch.double)
    missing = wanted - (intercept + slope * scores).sigmoid()
    assert missing.sum().abs() < 1e-6 and (missing * scores).sum().abs() < 1e-6
    assert 1 < slope < 50


def test_scores_that_are_lower_for_matches_tell_nothing():
    intercept, slope = fit_probabilities(torch.arange(10).double(), torch.arange(10) < 5)
    assert slope == 0 and intercept == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, math.nan, True, "1 %", None])
def test_a_false_alarm_rate_that_is_none_is_refused(calibration, rate):
    with pytest.raises(ValueError, match=re.escape(f"false_alarm_rate is {rate!r}, expected a number between 0 and 1")):
        calibration.cut_off(rate, 400)


def test_too_few_queries_for_a_rate_are_refused():
    calibration = ScoreCalibration.fit(highest_of(*made_up(60, 400, seed=0)))
    calibration.cut_off(0.02, 400)
    with pytest.raises(ValueError, match=r"1 % needs at least 100 queries .* has 60: ask for 1\.7 % or more"):
        calibration.cut_off(0.01, 400)
    with pytest.raises(ValueError, match="40 queries to calibrate with, expected at least 50"):
        ScoreCalibration.fit(highest_of(*made_up(40, 400, seed=0)))


def test_a_rate_that_no_score_can_keep_is_refused():
    """Cosines end at 1: a heavy tail promises nothing in a gallery of a billion."""
    best = torch.arange(50).double().unsqueeze(1)
    heavy = ScoreCalibration(400, (400,), torch.tanh(0.2 * (1 / (1 - best / 50) ** 0.9)), 0.0, 1.0)
    with pytest.raises(ValueError, match="2 % cannot be promised over 1,000,000,000 images"):
        heavy.cut_off(0.02, 10**9)


def test_no_negatives_and_equal_scores_are_refused():
    scores, is_match = made_up(60, 30, seed=0)
    is_match[7] = True
    with pytest.raises(ValueError, match=r"1 of 60 queries have no image that does not match .*query 7 .*negatives"):
        ScoreCalibration.fit(highest_of(scores, is_match))
    with pytest.raises(ValueError, match="alike for 60 different queries"):
        ScoreCalibration.fit(highest_of(torch.full((60, 30), 0.5), is_match & False))


@pytest.mark.parametrize("size", [0, -1, 2.5, True])
def test_a_gallery_size_that_is_none_is_refused(calibration, size):
    with pytest.raises(ValueError, match=r"gallery_size is .*expected a whole number from 1"):
        calibration.cut_off(0.1, size)
    with pytest.raises(ValueError, match="gallery_size"):
        calibration.probability(torch.tensor([0.5]), size)


SETTINGS = {
    "model": {"fingerprint": "abc", "name": "x"},
    "features": {"shape": [2, 4], "dtype": "float32"},
    "image_processor": {"size": 8},
}


@pytest.fixture(scope="module")
def kept(calibration):
    highest = highest_of(*made_up(300, 400, seed=0))
    probes = torch.nn.functional.normalize(torch.randn(5, 4), dim=1).half()
    kind = "image+caption"
    return Calibration(SETTINGS, {kind: calibration}, {kind: probes}, {kind: highest.levels})


def test_a_record_in_json_says_the_same(kept):
    kind = "image+caption"
    record = json.loads(json.dumps(kept.to_record()))
    read = Calibration.from_record(record)
    for size, rate in ((100, 0.1), (400, 0.01), (4000, 0.01)):
        assert read.kinds[kind].cut_off(rate, size) == pytest.approx(kept.kinds[kind].cut_off(rate, size), abs=1e-4)
    scores = torch.linspace(-1, 1, 9)
    expected = kept.kinds[kind].probability(scores, 1000)
    torch.testing.assert_close(read.kinds[kind].probability(scores, 1000), expected)
    torch.testing.assert_close(read.probes[kind].float(), kept.probes[kind].float(), atol=1e-3, rtol=0)
    assert read.settings == SETTINGS and read.levels[kind] == pytest.approx(kept.levels[kind], abs=1e-6)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda record: record.update(version=2), "of version 2, this fafa reads version 1"),
        (lambda record: record.pop("kinds"), "damaged"),
        (lambda record: record["kinds"]["image+caption"].pop("best"), "damaged"),
        (lambda record: record["kinds"]["image+caption"].update(slope=math.nan), "damaged"),
        (lambda record: record["kinds"]["image+caption"]["best"].__setitem__(0, [0.5]), "damaged"),
        (lambda record: record["kinds"]["image+caption"].update(num_images="many"), "damaged"),
        (lambda record: record["kinds"]["image+caption"]["levels"].pop(), "damaged"),
    ],
)
def test_a_damaged_or_newer_record_is_refused(kept, damage, told):
    record = json.loads(json.dumps(kept.to_record()))
    damage(record)
    with pytest.raises(ValueError, match=f"the calibration is .*{told}.*calibrate"):
        Calibration.from_record(record)


def test_a_calibration_of_another_model_is_refused(kept):
    kept.check({**SETTINGS, "features": {"shape": [2, 4], "dtype": "float16"}})
    with pytest.raises(ValueError, match=r"another model or processor \(model fingerprint differ\)"):
        kept.check({**SETTINGS, "model": {"fingerprint": "def"}})
    with pytest.raises(ValueError, match="image_processor size differ"):
        kept.check({**SETTINGS, "image_processor": {"size": 16}})


def test_a_kind_of_query_that_was_not_calibrated_is_refused_by_name(kept):
    with pytest.raises(ValueError, match=r"for queries of image\+caption, not of caption, .*calibrate it anew"):
        kept.of_kind("caption")
    with pytest.raises(ValueError, match="can be promised for queries of several terms: leave it out"):
        kept.of_kind("several terms")


def test_a_gallery_unlike_the_calibration_is_told(kept):
    kind = "image+caption"
    assert kept.probed_images(kind, 50) == 0
    assert kept.probed_images(kind, 350) == 100
    assert kept.probed_images(kind, 5000) == 400
    impostors = made_up(100, 401, seed=5)[0][:, 1:]
    assert kept.tell_unlike(kind, impostors) is None
    assert kept.tell_unlike(kind, impostors[:, :100]) is None
    assert "false alarms will be more frequent than promised" in kept.tell_unlike(kind, impostors + 0.15)
    assert "stricter than need be" in kept.tell_unlike(kind, impostors - 0.15)
    matched = impostors.clone()
    matched[:, :1] = 0.99
    assert kept.tell_unlike(kind, matched) is None, "the probes' own matches make no other kind of gallery"
