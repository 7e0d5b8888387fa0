"""Worker processes: results in order, and an end with whatever they serve or lose."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from fafa.workers import in_processes

ROOT = Path(__file__).parent.parent
CAPTIONS = ("reference_caption", "target_caption", "edit_caption")


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


COMMANDS = {
    "world": ["examples/make_world.py", "--diptychs", "5000", "--workers", "2", "--output"],
    "verify": ["-m", "fafa.verify", "--num-workers", "2"],
    "verify data set": ["-m", "fafa.verify", "--num-workers", "2"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_leaves_no_process_behind(name, tmp_path):
    """The painter of the world, above all, used to leave its workers waiting for ever."""
    folder = tmp_path / "data"
    if name != "world":
        (folder / "images").mkdir(parents=True)
        records = []
        for number in range(200):  # more than one task each, and too many to be done within a moment
            Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / f"images/{number + 1}.png")
            paths = dict.fromkeys(("reference_image_path", "target_image_path"), f"images/{number + 1}.png")
            records.append(paths | dict.fromkeys(CAPTIONS, f"text {number}") | {"cpr_id": number})
        (folder / "SynCPR.json").write_text(json.dumps(records))
    run = subprocess.Popen([sys.executable, *COMMANDS[name], str(folder)], cwd=ROOT, stderr=subprocess.DEVNULL)
    workers = wait_for(lambda: len(found := _workers_of(run.pid)) == 2 and found, "no two workers started")
    run.kill()
    run.wait()
    wait_for(lambda: not any(map(runs, workers)), "workers are left behind")


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
