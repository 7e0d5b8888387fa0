"""A handful of triplets with images on disk."""

import pytest
from tiny_triplets import make_triplets


@pytest.fixture
def triplets(tmp_path):
    return make_triplets(tmp_path)


@pytest.fixture(scope="module")
def triplets_of_module(tmp_path_factory):
    return make_triplets(tmp_path_factory.mktemp("triplets"))
