"""The tables over methods: what a cell runs and when, intervals and tests, and what is chosen to train on."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from caption_noise import own_share
from cells import Cell, derive_world, interval, paired_test
from triplet_quality import choose, wrong_share


def test_a_cell_that_is_done_is_not_run_again_and_one_of_other_settings_is_refused(tmp_path):
    cell = Cell("a", ({"max_steps": 1, "output_dir": "{cell}/model"},))
    train, evaluate = cell.commands(tmp_path)
    assert train[:3] == ["examples/train.py", "--data_dir", "worlds/hard/SynCPR"] and train[-1] == "cells/a/model"
    assert evaluate[:3] == ["examples/evaluate_itcpr.py", "--model", "cells/a/model"]
    folder = tmp_path / "cells/a"
    folder.mkdir(parents=True)
    done = [{"command": command, "cpu_seconds": 1.0} for command in (train, evaluate)]
    (folder / "done.json").write_text(json.dumps(done))
    cell.run(tmp_path)
    assert [file.name for file in folder.iterdir()] == ["done.json"]  # nothing ran: there is no log
    with pytest.raises(SystemExit, match="holds a cell of other commands"):
        Cell("a", ({"max_steps": 2, "output_dir": "{cell}/model"},)).run(tmp_path)


def test_a_command_that_fails_stops_its_cell_with_the_last_lines_of_its_log(tmp_path):
    cell = Cell("a", (), evaluated=False, more=("examples/make_world.py --seed x",))
    with pytest.raises(SystemExit, match=r"a: examples/make_world.py .* failed, see .*0.log:\n(.|\n)*--seed"):
        cell.run(tmp_path)
    assert not (tmp_path / "cells/a/done.json").exists()


def test_intervals_hold_what_seeds_and_queries_vary_by():
    rng = np.random.default_rng(0)
    same_seeds = np.tile(rng.normal(50, 10, size=(1, 400)), (4, 1))
    other_seeds = same_seeds + np.array([[-6.0], [-2.0], [2.0], [6.0]])
    (mean, low, high), (_, lower, higher) = interval(same_seeds), interval(other_seeds)
    assert low == pytest.approx(mean - 1.96 * 10 / 20, abs=0.2) and high == pytest.approx(mean + 0.98, abs=0.2)
    assert lower < low - 2 and higher > high + 2


def test_a_paired_test_sees_the_difference_and_nothing_else():
    values = np.random.default_rng(0).normal(50, 30, size=(3, 100))
    difference, low, high, p = paired_test(values, values + 1)
    assert (difference, low, high) == pytest.approx((1, 1, 1)) and p < 0.001
    assert paired_test(values, values)[3] == 1


def test_a_derived_world_has_the_images_of_another_and_records_of_its_own(tmp_path):
    base = tmp_path / "worlds/base"
    (base / "SynCPR/test2").mkdir(parents=True)
    (base / "ITCPR").mkdir()
    (base / "SynCPR/test2/a.png").touch()
    for records in ([{"cpr_id": 1}], [{"cpr_id": 2}]):
        folder = derive_world(tmp_path, "new", "base", records)
        assert json.loads((folder / "SynCPR/SynCPR.json").read_text()) == records
    assert (folder / "SynCPR/test2/a.png").exists() and (folder / "ITCPR").is_dir()


def test_a_strict_filter_keeps_the_best_and_takes_as_many_of_them_as_asked():
    triplets = [{"number": number, "caption_is_wrong": number < 40} for number in range(100)]
    scores = np.arange(100.0)
    chosen = choose(triplets, scores, 0.3, 20, seed=0)
    assert len(chosen) == 20 and all(triplet["number"] >= 70 for triplet in chosen) and wrong_share(chosen) == 0
    assert wrong_share(choose(triplets, scores, 1.0, 100, seed=0)) == 40
    assert choose(triplets, scores, 1.0, 20, seed=0) != choose(triplets, scores, 1.0, 20, seed=1)


def test_the_own_caption_keeps_the_share_of_its_label_that_the_released_settings_leave_it():
    assert own_share(320, 0.005, 1.0) == pytest.approx(0.385, abs=0.001)
    assert own_share(320, 0.0, 1.0) == 1
