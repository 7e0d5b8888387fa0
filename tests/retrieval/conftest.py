"""A tiny model with random weights and its processor, in memory and in a folder."""

import os

import pytest
from encoding_spy import NUM_IMAGES, Spy, paint
from tiny import tiny_model, tiny_processor


@pytest.fixture(scope="session")
def model():
    return tiny_model()


@pytest.fixture(scope="session")
def processor():
    return tiny_processor()


@pytest.fixture(scope="session")
def model_folder(model, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    """Small pictures, each of its own, in a folder."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(NUM_IMAGES):
        paint(folder / f"{number:02d}.png", number)
    return sorted(folder.iterdir())


@pytest.fixture
def spy(model, monkeypatch):
    """Counts what the test's model encodes."""
    return Spy(model, monkeypatch)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """A crash of the machine is not tested, and a busy disk would take most of the tests' time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def milvus(tmp_path_factory):
    """The URI of a Milvus within this process."""
    for library in ("pymilvus", "milvus_lite"):
        pytest.importorskip(library, reason="a gallery over Milvus is tested with milvus-lite, which is not installed")
    from milvus_lite.server_manager import server_manager_instance

    uri = str(tmp_path_factory.mktemp("milvus") / "milvus.db")
    yield uri
    server_manager_instance.release_server(uri)
