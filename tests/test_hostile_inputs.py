"""What the benchmark of hostile inputs calls good and what a fault; its rows themselves run in benchmarks/."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRIALS = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, "benchmarks")
from hostile_inputs import Trial, classify, run

work = Path(sys.argv[1])

def ends(status, text="a.png is bad"):
    (work / "script.py").write_text(f"print({text!r}); raise SystemExit({status!r})")
    return [str(work / "script.py")]

def show(trial, name="a.png", patience=60):
    print(classify(trial, name, run(trial, work / "log", patience))[0])

show(Trial({}, ends(2)))
show(Trial({}, ends("a.png is bad", "")))
show(Trial({}, ends(0)))
show(Trial({}, ends(0), "skipped"))
show(Trial({}, ends(0), "accepted"), "")
show(Trial({}, ends(1), "accepted"), "")
show(Trial({}, ends(1, "an error")))
show(Trial({}, ends(1, "a.png" * 1000)))
show(Trial({}, ends(2), harm=work))
show(Trial({}, ["-m", "no_such_module"][:1]))
show(Trial({}, lambda: 1 / 0), "division")
show(Trial({}, lambda: bytes(10**12)), "there is too little memory")
show(Trial({}, lambda: os.kill(os.getpid(), 9)), "")
show(Trial({}, lambda: time.sleep(60)), "", patience=0.5)
"""
VERDICTS = [
    *("refused, named", "refused, named", "wrongly accepted", "skipped, named", "accepted rightly", "wrongly refused"),
    *("not named", "a line of 5,000 characters", "harm done", "traceback", "traceback", "refused, named"),
    *("killed by signal 9", "hang"),
]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the benchmark forks")
def test_every_way_in_which_a_command_may_end_is_told(tmp_path):
    command = [sys.executable, "-c", TRIALS, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert ended.stdout.splitlines() == VERDICTS, ended.stderr
