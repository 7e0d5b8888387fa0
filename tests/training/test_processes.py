"""Several processes equal one, and a batch in chunks a whole one: outputs, losses, gradients, trained weights."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fafa.training.safety.checkpoints import fault_of

TASKS = ("step", "step-2", "train", "train-2", "second", "second-2", "skip", "preempt")


def run(folder: Path, num_processes: int, *tasks: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(num_processes)}
    shared["PYTHONPATH"] = str(Path(__file__).parent.parent)
    command = [sys.executable, str(Path(__file__).with_name("process.py")), str(folder), *tasks]
    processes = [
        subprocess.Popen(
            command, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(num_processes)
    ]
    with ThreadPoolExecutor() as pool:  # all at once: a process that waits for a failed one ends by its own time limit
        errors = list(pool.map(lambda process: process.communicate()[1], processes))
    assert not any(process.returncode for process in processes), "\n".join(errors)


@pytest.fixture(scope="module")
def results(tmp_path_factory, triplets_of_module):
    """Folder with what one process and two processes made of the same tasks."""
    folders = {}
    for num_processes in (1, 2):
        folders[num_processes] = tmp_path_factory.mktemp(f"processes-{num_processes}")
        triplets_of_module.save_to_disk(folders[num_processes] / "triplets")
        run(folders[num_processes], num_processes, *TASKS)
    return folders


def assert_equal(result: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], names=None) -> None:
    assert result.keys() == expected.keys()
    for name in names or expected:
        torch.testing.assert_close(
            result[name], expected[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("chunk", [0, 2], ids=["plain", "gradient cache"])
@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_equal_one_on_an_uneven_batch(results, chunk, rank):
    """Outputs, every term of the loss, every gradient; torch's own differentiable gather fails this on gloo."""
    one = load_file(results[1] / "step-0-0.safetensors")
    assert one["loss"] > 1 and one["loss_itc"] > 0 and len(one["target_embeds"]) == 5
    assert_equal(load_file(results[2] / f"step-{chunk}-{rank}.safetensors"), one)


def test_gradient_cache_equals_the_plain_step(results):
    """Five triplets in chunks of two, the last one smaller; random draws the same."""
    assert_equal(load_file(results[1] / "step-2-0.safetensors"), load_file(results[1] / "step-0-0.safetensors"))


@pytest.mark.parametrize("rank", [0, 1])
def test_an_unreadable_held_out_image_is_left_out_by_every_process(results, rank):
    """One that came with a row less than the others would stop all of them, or leave them waiting."""
    one = load_file(results[1] / "skip-0.safetensors")
    assert_equal(load_file(results[2] / f"skip-{rank}.safetensors"), one)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_processes_stop_after_the_same_step_whoever_is_told_of_the_end(results, num_processes):
    folder = results[num_processes]
    steps = [(folder / f"preempted-{rank}.txt").read_text() for rank in range(num_processes)]
    assert steps == ["2"] * num_processes and fault_of(folder / "preempted" / "checkpoint-2") is None


@pytest.mark.parametrize("run", ["1-2", "2-0", "2-2"])
@pytest.mark.parametrize("kind", ["run", "second"])
def test_training_gives_the_same_model_however_it_is_divided(results, kind, run):
    """Two epochs of uneven, grouped, augmented batches, then held-out metrics over all processes' triplets."""
    one = load_file(results[1] / f"{kind}-1-0.safetensors")
    assert_equal(load_file(results[int(run[0])] / f"{kind}-{run}.safetensors"), one)
