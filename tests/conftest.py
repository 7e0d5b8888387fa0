"""What holds for all tests."""

import logging

import pytest


def _level_of_messages():
    """Commands and examples that run in this process set it for the rest of theirs."""
    logger = logging.getLogger("fafa")
    before = logger.level
    yield
    logger.setLevel(before)


level_before_a_module = pytest.fixture(_level_of_messages, autouse=True, scope="module")
level_before_a_test = pytest.fixture(_level_of_messages, autouse=True)
