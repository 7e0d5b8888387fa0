"""examples/evaluate_itcpr.py, launched as a person launches it."""

import json
import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "evaluate_itcpr.py"


def test_evaluates_a_folder_with_the_evaluate_library(model, processor, itcpr_root, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    options = ["--model", tmp_path / "model", "--data", itcpr_root, "--output", tmp_path / "results"]
    done = subprocess.run(
        [sys.executable, EXAMPLE, *options, "--modes", "image+caption", "caption", "--dtype", "bfloat16"],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr

    table = (tmp_path / "results" / "results.md").read_text(encoding="utf-8")
    assert table in done.stdout
    assert "| image+caption |" in table and "| chance " in table and "PRCC, 3 queries:" in table
    record = json.loads((tmp_path / "results" / "results.json").read_text(encoding="utf-8"))
    assert list(record["metrics"]) == ["image+caption", "caption"]
    assert list(record["metrics"]["caption"]["overall"]) == ["rank-1", "rank-5", "rank-10", "mAP", "mINP"]
    assert record["settings"]["dtype"] == "bfloat16"
