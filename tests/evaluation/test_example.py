"""examples/evaluate_itcpr.py, launched as a person launches it."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from pages import unpadded

from fafa.evaluation import read_report

EXAMPLE = Path(__file__).parents[2] / "examples" / "evaluate_itcpr.py"


@pytest.fixture
def arguments(model, processor, itcpr_root, tmp_path):
    """Of the example, for a tiny model and test set."""
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return ["--model", tmp_path / "model", "--data", itcpr_root, "--output", tmp_path / "results"]


def test_evaluates_a_folder_and_draws(arguments, tmp_path):
    command = [sys.executable, EXAMPLE, *arguments, "--features", tmp_path / "features"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr

    report = read_report(tmp_path / "results")
    assert list(report.metrics) == ["image+caption", "caption", "image", "sum", "late-fusion"]
    assert list(report.metrics["caption"]["overall"]) == ["rank-1", "rank-5", "rank-10", "mAP", "mINP"]
    assert report.settings["model"] == str(tmp_path / "model") and report.settings["dtype"] == "float32"
    page = (tmp_path / "results" / "results.md").read_text(encoding="utf-8")
    assert report.to_markdown() in done.stdout and report.to_markdown() in page
    assert "| PRCC | 3 | image+caption |" in unpadded(page) and "![Gallery size](gallery_size.png)" in page
    written = [line.removeprefix("written: ") for line in done.stdout.splitlines() if line.startswith("written: ")]
    assert {Path(file).name for file in written} == {path.name for path in (tmp_path / "results").iterdir()}
    assert {"gallery", "queries"} <= {path.name for path in (tmp_path / "features").iterdir()}


def test_of_several_processes_the_first_alone_reports(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    options = ["--modes", "caption", "--dtype", "bfloat16", "--no-pictures"]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *map(str, arguments), *options])
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        runpy.run_path(str(EXAMPLE), run_name="__main__")
        assert (tmp_path / "results").exists() == ("written" in capsys.readouterr().out) == (rank == "0")
    assert read_report(tmp_path / "results").settings["dtype"] == "bfloat16"
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["results.json", "results.md"]
