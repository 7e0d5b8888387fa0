"""A gallery of small pictures with a tiny model, the service over it, and clients of its app."""

import pytest
from encoding_spy import paint
from starlette.testclient import TestClient
from tiny import tiny_model, tiny_processor

pytest.importorskip("fastapi", reason="the page and its API need the extra app")

from fafa.app.server import create_app
from fafa.app.service import SearchService
from fafa.retrieval import Gallery

NUM_PHOTOS = 9


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of pictures, each of its own, and beside it a file that is nobody's business."""
    folder = tmp_path_factory.mktemp("served") / "photos"
    folder.mkdir()
    for number in range(NUM_PHOTOS):
        paint(folder / f"{number}.png", number)
    (folder.parent / "secret.txt").write_text("secret")
    return folder


@pytest.fixture(scope="session")
def gallery(photos):
    return Gallery.from_folder(tiny_model(), tiny_processor(), photos, progress=False)


@pytest.fixture
def service(gallery):
    service = SearchService(gallery)
    yield service
    service.close()


@pytest.fixture
def client_of():
    """Makes a client of an app, as a browser on this machine would reach it."""
    opened = []

    def make(app, address="http://127.0.0.1:7860", **options):
        client = TestClient(app, base_url=address, raise_server_exceptions=False, **options)
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def client(service, client_of):
    return client_of(create_app(service, page=False))
