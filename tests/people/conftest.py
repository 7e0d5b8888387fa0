"""A tiny model with random weights and its processor; nothing waits for the disk."""

import os

import pytest
from tiny import tiny_model, tiny_processor


@pytest.fixture(scope="session")
def model():
    return tiny_model()


@pytest.fixture(scope="session")
def processor():
    return tiny_processor()


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """A crash of the machine is not tested, and a busy disk would take most of the tests' time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
