"""Milvus lets those images through that the folder does; what it cannot tell is refused, or left to the folder."""

import pytest
import torch
from torch.nn import functional as F

from fafa.retrieval.conversion import state_of
from fafa.retrieval.filters import parse_where
from fafa.retrieval.metadata import Entry
from fafa.retrieval.milvus_collection import MilvusCollection
from fafa.retrieval.milvus_filters import fields_of, to_milvus

KNOWN = [
    Entry(
        "trip/a.jpg", camera="gate 3", taken="2024-05-01T10:30:00", tags={"colour": "red", "age": 30, "indoor": True}
    ),
    Entry("trip/b.jpg", camera='gate "4"', taken="2024-04-30", tags={"colour": "blue", "age": 7, "big": 2**60}),
    Entry("home/c.jpg", camera="gate 3", time=12.5, box=(1, 2, 30, 40), tags={"indoor": False, "age": 0}),
    Entry(None, taken="2023", tags={"colour": "", "size": "L", "age": 1e300}),
    Entry("home/é.jpg", tags={"size": 7, "colour": "red"}),
    Entry("50%/a_b.jpg"),
    Entry('50x/a\\b"\n.jpg'),
    Entry("\udcff.jpg"),
]
FILTERS = [
    'camera == "gate 3"',
    'camera != "gate 3"',
    "camera == 'gate \"4\"'",
    'taken >= "2024-05-01 10:30"',
    'not taken < "2024-05-01"',
    '"2024-04" <= taken < "2024-05-01"',
    'colour in ("red", "blue")',
    'colour not in ("red", "blue")',
    'not (camera == "gate 3" and age > 20) and not colour == "blue"',
    'camera == \'gate "4"\' or time > 12 or size == "L"',
    "not (3 < age < 30)",
    "age",
    "not age",
    "age == None",
    "age != None",
    "size == None",
    "size",
    "not size",
    "indoor == True",
    "indoor == False",
    "not indoor",
    '"trip/" in path',
    '"trip/" not in path',
    '"é" in path',
    '"\\n" in path',
    "left >= 1 and bottom < 41",
    "time > -1.5",
    "size < 8",
    'size < "M"',
    'size in (7, "L")',
    'size not in (7, "L")',
    "age in ()",
    "age not in ()",
    "not camera in ()",
    "big == 1152921504606846976",
    "big != 1152921504606846977",
    "age > 1e+200",
    "age <= 1e300",
    "age != 1e16",
]


@pytest.fixture(scope="module")
def state():
    features = F.normalize(torch.ones(len(KNOWN), 4, 8), dim=-1)
    return state_of(features, KNOWN, {"model": {}, "features": {"kind": "target", "dtype": "float32", "shape": [4, 8]}})


@pytest.fixture(scope="module")
def collection(milvus):
    collection = MilvusCollection("known", milvus)
    collection.create(8, {}, "FLAT", {})
    collection.write([{"id": i, "mean": [1.0] * 8, "checksum": 0, **fields_of(entry)} for i, entry in enumerate(KNOWN)])
    return collection


def found(collection, state, where):
    expression = to_milvus(parse_where(where, state.tags))
    return sorted(collection.nearest(torch.ones(1, 8), 100, expression)[0].tolist())


@pytest.mark.parametrize("where", FILTERS)
def test_it_lets_the_same_images_through(collection, state, where):
    assert found(collection, state, where) == state.matching(where).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("where", ['"50%" in path', '"a_b" in path', '"a\\\\b" in path'])
def test_signs_that_no_pattern_takes_literally_let_more_through(collection, state, where):
    """Milvus has `%` and `_` for any signs, and its versions do not agree on a sign before them."""
    rows = state.matching(where).nonzero()[:, 0].tolist()
    assert rows and set(rows) <= set(found(collection, state, where))


@pytest.mark.parametrize("where", ['"50%" not in path', 'not ("a_b" in path and age > 3)', "age < 1e999"])
def test_what_milvus_cannot_tell_is_refused_by_name(state, where):
    with pytest.raises(
        ValueError, match=r"where: Milvus (cannot tell in which path there is no|has no number inf).*exact"
    ):
        to_milvus(parse_where(where, state.tags))


def test_an_infinite_number_is_told_before_milvus_makes_null_of_it():
    with pytest.raises(ValueError, match="the tag age is inf, and Milvus has no infinite numbers"):
        fields_of(Entry(tags={"age": float("inf")}))
