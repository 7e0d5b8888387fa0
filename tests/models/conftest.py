"""A handful of triplets with images on disk."""

import pytest
from tiny_triplets import make_triplets


@pytest.fixture(scope="session")
def triplets(tmp_path_factory):
    return make_triplets(tmp_path_factory.mktemp("triplets"))
