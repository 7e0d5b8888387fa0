"""A writer that is killed, or whose disk is full, loses and doubles nothing: a few points of the benchmark of it."""

import runpy
from pathlib import Path

import pytest

faults = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "gallery_faults.py"))


@pytest.mark.parametrize("operation", faults["OPERATIONS"])
def test_a_killed_writer_loses_and_doubles_nothing_that_it_acknowledged(tmp_path, operation):
    for number, seconds in enumerate((0.0, 0.013, 0.041)):
        assert faults["kill_a_writer"](operation, tmp_path / str(number), seconds) == []


@pytest.mark.parametrize("operation", faults["WRITES"])
def test_a_full_disk_leaves_the_gallery_as_it_was(tmp_path, operation):
    sizes = faults["sizes_written"](operation, tmp_path / "sizes")
    for number, limit in enumerate((sizes[0] // 2, sizes[-1] - 1)):
        assert faults["write_on_a_full_disk"](operation, tmp_path / str(number), limit) == []


def test_readers_see_whole_galleries_beside_a_writer(tmp_path):
    found = faults["read_beside_a_writer"](tmp_path / "g", 1.0, num_readers=2)
    assert found["torn or wrong"] == found["failed"] == 0 and found["reads"] and found["commits"], found["what"]
