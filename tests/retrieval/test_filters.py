"""Filters let exactly those images through that Python itself would, and say in one line what they cannot do."""

import pytest
import torch

from fafa.retrieval.conversion import state_of
from fafa.retrieval.filters import parse_where
from fafa.retrieval.metadata import Entry

TAGGED = [
    Entry(
        "trip/a.jpg", camera="gate 3", taken="2024-05-01T10:30:00", tags={"colour": "red", "age": 30, "indoor": True}
    ),
    Entry("trip/b.jpg", camera="gate 4", taken="2024-04-30T23:59:59", tags={"colour": "blue", "age": 7}),
    Entry("home/c.jpg", camera="gate 3", time=12.5, box=(1, 2, 30, 40), tags={"indoor": False, "age": 0}),
    Entry(None, taken="2023", tags={"colour": "", "size": "L"}),
    Entry("home/é.jpg", tags={"size": 7, "colour": "red"}),
]
LATIN_1 = "caf\udce9.jpg"  # a file's name whose last letter is a byte that is no UTF-8


@pytest.fixture(scope="module")
def state():
    features = torch.nn.functional.normalize(torch.ones(len(TAGGED), 4, 8), dim=-1)
    settings = {"model": {}, "features": {"kind": "target", "dtype": "float32", "shape": [4, 8]}}
    return state_of(features, TAGGED, settings)


FILTERS = {
    'camera == "gate 3"': [0, 2],
    '"gate 3" == camera': [0, 2],
    'camera != "gate 3"': [1, 3, 4],
    'not camera == "gate 3"': [1, 3, 4],
    'taken >= "2024-05-01"': [0],
    'taken >= "2024-05-01 10:30"': [0],
    'taken < "2024-05-01"': [1, 3],
    'not taken < "2024-05-01"': [0, 2, 4],
    '"2024-04" <= taken < "2024-05-01"': [1],
    'colour in ("red", "blue")': [0, 1, 4],
    'colour not in ("red", "blue")': [2, 3],
    'not colour in ["red"]': [1, 2, 3],
    'camera == "gate 3" and taken >= "2024-05-01" and not colour in ("green",)': [0],
    'camera == "gate 4" or time > 12 or size == "L"': [1, 2, 3],
    "3 < age < 30": [1],
    "3 < age <= 30": [0, 1],
    "age == 0": [2],
    "age": [0, 1],
    "not age": [2, 3, 4],
    "age == None": [3, 4],
    "age is not None": [0, 1, 2],
    "camera == None and path != None": [4],
    "indoor": [0],
    "indoor == False": [2],
    "not indoor": [1, 2, 3, 4],
    "colour": [0, 1, 4],
    '"trip/" in path': [0, 1],
    '"é" in path': [4],
    '"trip/" not in path': [2, 3, 4],
    "left >= 1 and bottom < 41": [2],
    "time > -1.5": [2],
    "size < 8": [4],
    'size < "M"': [3],
    "age in ()": [],
    '(camera == "gate 3" or colour == "red") and not (age > 20 or age == 0)': [4],
}


@pytest.mark.parametrize(("where", "expected"), FILTERS.items(), ids=FILTERS)
def test_what_a_filter_lets_through(state, where, expected):
    assert state.matching(where).nonzero()[:, 0].tolist() == expected


ODD = {
    f"path == {LATIN_1!r}": [5],  # by an escape
    f'path == "{LATIN_1}"': [5],
    f'path != "{LATIN_1}"': [0, 1, 2, 3, 4],
    'path == "caf\udcea.jpg"': [],
    '"\udce9.j" in path': [5],
    f'path in ("trip/a.jpg", "{LATIN_1}", "none.jpg")': [0, 5],
    f'path in ("{LATIN_1}", "\udcff")': [5],
    'path >= "caf\udce8"': [0, 1, 2, 4, 5],
    'colour == "\udce9"': [],
}


@pytest.mark.parametrize(("where", "expected"), ODD.items(), ids=map(ascii, ODD))
def test_paths_that_are_not_utf_8_are_found(where, expected):
    """They ended a search with a UnicodeEncodeError."""
    entries = [*TAGGED, Entry(LATIN_1)]
    features = torch.nn.functional.normalize(torch.ones(len(entries), 4, 8), dim=-1)
    settings = {"model": {}, "features": {"kind": "target", "dtype": "float32", "shape": [4, 8]}}
    assert state_of(features, entries, settings).matching(where).nonzero()[:, 0].tolist() == expected


WRONG = {
    r"path == '\ud800.jpg'": "holds half of a character",
    "path == '\ud800.jpg'": "half of a character",
    "colr == 'red'": "there is no field colr; did you mean 'colour'",
    "cam == 'gate 3'": "there is no field cam; did you mean 'camera'",
    "zzz > 1": "there is no field zzz; known: path, time, camera",
    "camera == 3": "camera is text, which 3 is not",
    "age > 'old'": "age is number, which 'old' is not",
    "taken >= '1 May'": "compared with a date or the beginning of one, .* not '1 May'",
    "taken >= '2024-13-45'": "compared with a date",
    "taken >= 2024-05-01": 'cannot be read: .*; write it as Python does, such as .*taken >= "2024-05-01"',
    "camera == gate": "gate is no text, number, True, False or None; write text in quotes: 'gate'",
    "3 in age": "only a text can be part of a field",
    "age in 3": r"expected several values in brackets: age in \(…, …\)",
    "age + 1 == 2": "is no field|is no text",
    "1 == 1": "1 is no field",
    "age < None": "cannot be < None",
    "print('x')": "is no condition",
    "path.upper() == 'X'": "is no field|is no text",
    "[x for x in age]": "is no condition",
    "age == 10**99": "is no text, number",
    f"age == {10**99}": "too large a number",
    "age ==": "cannot be read: invalid syntax",
    "camera = 'a = b'": "cannot be read: .*; write == instead of =$",
    "age <> 3": "; write != instead of <>$",
    "age > 3 && !(age == 7)": "; write not instead of !, and instead of &$",
    "(age == 3) & (age == 7) | (age == 8)": "is no condition.*; write and instead of &, or instead of \\|$",
    "age == 3 AND NOT age == 7": "; write and, or, not, in, is instead of AND, OR, NOT, IN, IS$",
    "camera == null": "; write None instead of null$",
    "path like 'trip%'": '; write "part" in path instead of like$',
    "age between 3 and 7": "; write 3 <= time <= 7 instead of between$",
    "age == old": "text in quotes: 'old'$",
    "": "cannot be read",
    "(" * 500 + "age" + ")" * 500: "cannot be read",
    "age == 1 or " * 20_000 + "age": "characters, expected",
    "lambda: age": "is no condition",
    "age == 1; import os": "cannot be read",
}


@pytest.mark.parametrize(("where", "message"), WRONG.items(), ids=[where[:30] for where in WRONG])
def test_what_is_no_filter_is_refused_in_one_line(state, where, message):
    with pytest.raises(ValueError, match=rf"^where[^\n]*({message})[^\n]*$"):
        state.matching(where)


def test_a_filter_of_another_kind_is_refused(state):
    with pytest.raises(TypeError, match="where is a dict, expected text"):
        state.matching({"camera": "gate 3"})


def test_values_never_become_sql(state):
    assert state.matching('camera == "x\' OR 1=1 --"').sum() == 0
    with pytest.raises(ValueError, match=r"is no field|is no condition|cannot be read"):
        parse_where("camera' == 'x'", {})


def test_many_terms_are_taken_or_refused(state):
    where = " or ".join(["age == 7"] * 3000)
    assert state.matching(where).nonzero()[:, 0].tolist() == [1]
