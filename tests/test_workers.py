"""Worker processes: results in order, and an end with whatever they serve or lose."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fafa.workers import in_processes


def test_results_come_in_order():
    assert list(in_processes(abs, range(-100, 0), num_workers=2)) == list(range(100, 0, -1))


def test_a_killed_worker_ends_the_run_with_a_remedy_instead_of_hanging_it():
    with pytest.raises(RuntimeError, match=r"worker process died.*fewer workers"):
        list(in_processes(_die, range(8), num_workers=2, per_task=1))


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    """They used to wait for work for ever, of the world painter above all."""
    script = (
        "import sys, time; from fafa.workers import in_processes; from pathlib import Path\n"
        "import test_workers\n"
        "if __name__ == '__main__': list(in_processes(test_workers.note_and_wait, [sys.argv[1]] * 4, 2, per_task=1))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    run = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env=environment)
    workers = wait_for(lambda: [int(file.name) for file in tmp_path.iterdir()], "no worker started")
    run.kill()
    run.wait()
    wait_for(lambda: not any(map(runs, workers)), "workers are left behind")


def test_workers_that_are_starting_leave_ctrl_c_to_their_parent(tmp_path):
    """Every worker used to print a traceback when Ctrl-C came while it was importing."""
    script = (
        "from fafa.workers import in_processes\nif __name__ == '__main__': print(*in_processes(abs, [-1, -2], 2, 1))"
    )
    (tmp_path / "script.py").write_text(f"import time\ntime.sleep(__name__ != '__main__')\n{script}", encoding="utf-8")
    run = subprocess.Popen([sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, start_new_session=True)
    started = wait_for(lambda: _workers_of(run.pid), "no worker started")
    for worker in started:
        os.kill(worker, signal.SIGINT)
    assert run.communicate(timeout=60)[0].split() == [b"1", b"2"]


def note_and_wait(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)


def _die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _workers_of(process: int) -> list[int]:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(look, message: str, seconds: float = 60):
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, message
        time.sleep(0.05)
    return found
