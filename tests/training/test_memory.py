"""Freed memory is kept: a step that takes what the last one freed touches no new page."""

import subprocess
import sys

import pytest

from fafa.training.memory import keep_memory

STEPS = """
import resource
import numpy as np
from fafa.training.memory import keep_memory
{kept}
def step():
    tensors = [np.ones(2**20) for _ in range(12)]  # of 8 MB, freed together at the end
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(kept: str) -> int:
    """Pages that five steps touch anew."""
    code = STEPS.format(kept=kept)
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="malloc is glibc's on Linux alone")
def test_steps_touch_no_new_pages():
    usual = faults("")
    if usual < 1_000:
        pytest.skip("this malloc keeps memory by itself")
    assert faults("keep_memory()") < usual / 20


def test_where_malloc_is_another_nothing_happens(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    keep_memory()
