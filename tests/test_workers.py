"""Worker processes: results in order, and an end with whatever they serve or lose."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
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
    environment = os.environ | {"PYTHONPATH": os.path.dirname(__file__)}  # noqa: PTH120
    run = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env=environment)
    workers = _wait_for(lambda: [int(file.name) for file in tmp_path.iterdir()], "no worker started")
    run.kill()
    run.wait()
    _wait_for(lambda: not any(map(_runs, workers)), "workers are left behind")


COMMANDS = {
    "world": ["examples/make_world.py", "--diptychs", "5000", "--workers", "2", "--output"],
    "verify": ["-m", "fafa.verify", "--num-workers", "2"],
    "verify data set": ["-m", "fafa.dataset_builders.verify", "--num-workers", "2"],
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
    workers = _wait_for(lambda: _children_of(run.pid), "no worker started")
    run.kill()
    run.wait()
    _wait_for(lambda: not any(map(_runs, workers)), "workers are left behind")


def _children_of(process: int) -> list[int]:
    """Workers, not the process that tidies up shared memory, once there are two."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(status.parent.name))
    workers = [number for number in found if b"spawn_main" in _command_of(number)]
    return workers if len(workers) == 2 else []


def _command_of(process: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


def note_and_wait(folder: str) -> None:
    open(f"{folder}/{os.getpid()}", "w").close()  # noqa: PTH123
    time.sleep(600)


def _die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _runs(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait_for(look, message: str, seconds: float = 60):
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, message
        time.sleep(0.05)
    return found
