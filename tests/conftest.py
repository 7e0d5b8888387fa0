"""What holds for all tests."""

import logging
import os

import pytest

# As `make test` has it, for whoever calls pytest: tests run side by side, a forked process cannot use threads of its
# parent, and some tests count how often a model is called. Before torch is imported, which reads it once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _level_of_messages():
    """Commands and examples that run in this process set it for the rest of theirs."""
    logger = logging.getLogger("fafa")
    before = logger.level
    yield
    logger.setLevel(before)


level_before_a_module = pytest.fixture(_level_of_messages, autouse=True, scope="module")
level_before_a_test = pytest.fixture(_level_of_messages, autouse=True)
