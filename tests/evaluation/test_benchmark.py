"""benchmarks/scoring.py compares ways that give the same metrics, and says so in its page."""

import runpy
from pathlib import Path

import pytest
from pages import unpadded

scoring = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "scoring.py"))


@pytest.mark.parametrize("way", ["released", "matmul"])
def test_the_plain_ways_give_the_metrics_of_the_package(way):
    features = scoring["make_features"](101, 130)  # 101 queries: one of them has two matches
    expected = scoring["fafa_metrics"](*features)
    assert 0 < expected["rank-1"] < 100
    assert expected["mAP"] != expected["mINP"]
    assert scoring["WAYS"][way](*features) == pytest.approx(expected, abs=1e-4)


def test_the_page_says_what_was_found():
    idle, busy = (scoring["measure_in_turns"](8, 24, number) for number in (0, 1))
    runs = [scoring["measure"](way, 4, 16) for way, *_ in scoring["RUNS"]]
    record = scoring["summarize"](runs, idle, busy, load=0.5)
    assert record["equal_metrics_on_slice"]
    page = scoring["to_markdown"](record)
    assert "are equal" in page
    assert page.count("\n| fafa ") == 2
    assert page.count("\n| no busy processes |") == unpadded(page).count("\n| 1 busy processes |") == 3
    assert scoring["processor_name"]() in page
    runs[1]["metrics"]["mAP"] += 1
    assert "NOT EQUAL" in scoring["to_markdown"](scoring["summarize"](runs, idle, busy, load=0.5))
