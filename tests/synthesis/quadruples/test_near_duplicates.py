import pytest

from fafa.synthesis.quadruples.near_duplicates import NearDuplicateSettings, reject_near_duplicates
from fafa.synthesis.stand_ins.grammar import GrammarWriter

SETTINGS = NearDuplicateSettings()
A = "A young man in a grey hooded sweatshirt and black joggers walks past a bakery."
B = "A young man in a mustard raincoat and black joggers walks past a bakery."


def record(number: int, caption_a: str = A, caption_b: str = B, edit_ab: str = "Now in a raincoat.") -> dict:
    return {"id": str(number), "caption_a": caption_a, "caption_b": caption_b, "edit_ab": edit_ab, "edit_ba": "No."}


@pytest.mark.parametrize(
    ("caption_a", "caption_b"),
    [
        (A, B),
        (A.upper(), B.replace(".", " !")),
        (B, A),
        (A.replace("A young", "The young"), B.replace("A young", "The young")),
        (A, B.replace(" past a bakery", " past the bakery")),
    ],
)
def test_near_duplicates_name_the_earlier_one(caption_a, caption_b):
    later = record(5, caption_a, caption_b, "Words that were not there before.")
    assert reject_near_duplicates([record(2), later], SETTINGS) == {"5": "2"}


@pytest.mark.parametrize(
    ("caption_a", "caption_b"),
    [
        (A.replace("grey", "pink"), B),
        (A, B.replace("mustard", "pink")),
        (A.replace("joggers", "shorts"), B.replace("joggers", "shorts")),
        (A, A.replace("grey", "green")),
    ],
)
def test_another_colour_or_garment_is_another_quadruple(caption_a, caption_b):
    assert reject_near_duplicates([record(2), record(5, caption_a, caption_b)], SETTINGS) == {}


def test_only_what_is_kept_counts_and_the_end_does_not_change_the_beginning():
    # A chain of small steps: each is near to the one before it, and to no other.
    tail = ["on", "a", "cold", "bright", "winter", "morning", "with", "many"]
    steps = [record(number, " ".join([A, *tail[: 2 * number]])) for number in range(5)]
    settings = NearDuplicateSettings(threshold=0.88)
    found = reject_near_duplicates(steps, settings)
    assert found == {"1": "0", "3": "2"}
    for end in range(5):
        start = reject_near_duplicates(steps[:end], settings)
        assert start == {later: earlier for later, earlier in found.items() if int(later) < end}


def test_planted_ones_are_found_among_many_and_nothing_else():
    many = list(GrammarWriter().load().write(map(str, range(600)), seed=0))
    planted = [
        record | {"id": f"{record['id']}x", "caption_a": f"{record['caption_a']} Outdoors", "edit_ab": "Other words."}
        for record in many[::10]
    ]
    found = reject_near_duplicates([*many, *planted], SETTINGS)
    assert len(found) >= 0.95 * len(planted)
    assert all(later == f"{earlier}x" for later, earlier in found.items())


def test_thresholds_that_the_bands_cannot_serve_are_refused():
    with pytest.raises(ValueError, match=r"threshold\n.*equal to 0\.75"):
        NearDuplicateSettings(threshold=0.5)
