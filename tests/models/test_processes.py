"""Two processes equal one for every method: losses, embeddings, gradients, on a batch that does not divide evenly."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from every_model import EVERY_MODEL
from every_model_process import one_step
from safetensors.torch import load_file, save_file

from fafa.training import TripletCollator


@pytest.fixture(scope="module")
def steps(tmp_path_factory, triplets):
    """Name -> what one process, and each of two, made of five triplets."""
    folder = tmp_path_factory.mktemp("processes")
    alone = {}
    for name, row in EVERY_MODEL.items():
        torch.manual_seed(0)  # classes that a model makes for its data
        collator = TripletCollator(row.processor(), with_captions=row.model(0).reads_target_captions)
        batch = collator([triplets[number] for number in range(5)])
        save_file(batch, folder / f"{name}.safetensors")
        alone[name] = one_step(row, batch)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    tests = Path(__file__).parents[1]
    shared["PYTHONPATH"] = str(tests)
    command = [sys.executable, str(tests / "every_model_process.py"), str(folder)]
    processes = [
        subprocess.Popen(command, env=shared | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [process.communicate()[1] for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(errors)
    return {
        name: (step, *(load_file(folder / f"{name}-{rank}.safetensors") for rank in range(2)))
        for name, step in alone.items()
    }


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_two_processes_have_the_loss_and_the_gradients_of_one(steps, name):
    alone, *parts = steps[name]
    assert len(alone["target_embeds"]) == 5
    for part in parts:
        assert part.keys() == alone.keys()
        for key, expected in alone.items():
            torch.testing.assert_close(part[key], expected, rtol=1e-3, atol=1e-4, msg=lambda m, k=key: f"{k}: {m}")
