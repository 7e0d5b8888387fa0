"""Marks are read rightly, or not at all."""

import pytest

from fafa.synthesis.replies.answering import UnusableAnswer
from fafa.synthesis.replies.marks import read_marks


def read(answer: str, *names: str, given: tuple[str, ...] = ()) -> dict[str, float]:
    return read_marks(answer, names or ("quality",), 1, 10, given)


@pytest.mark.parametrize(
    ("answer", "mark"),
    [
        ("7", 7),
        ("７", 7),
        ('"8"', 8),
        ("**7**", 7),
        ("seven", 7),
        ("Seven out of ten.", 7),
        ("8/10", 8),
        ("8 / 10.", 8),
        ("8 out of 10", 8),
        ("Rating: 8 (out of 10)", 8),
        ("Score: **7**", 7),
        ("On a scale of 1 to 10, the score is 7", 7),
        ("<think>3? No.</think>7", 7),
        ("7,5", 7.5),
        ("quality: 7,5", 7.5),
        ('{"quality": 7,5}', 7.5),
        ('{"quality": "7,5"}', 7.5),
        ('{"quality": "8/10"}', 8),
        ('{"quality": 1e1}', 10),
        ('{"score": 7}', 7),
        ('{"quality": {"score": "9", "why": "sharp, 10 of 10"}}', 9),
        ('{"quality": 8, "why": "quality: 3 at first"}', 8),
        ('I thought of quality: 3.\n{"quality": 8}', 8),
        ("{'quality': '8'}", 8),
        ("| quality | 8 |", 8),
        ("**Quality:** 7/10 because 3 of the 4 limbs are sharp", 7),
        ("quality: 8, identity: 3", 8),
    ],
)
def test_a_mark_is_read(answer, mark):
    assert read(answer) == {"quality": mark}


@pytest.mark.parametrize(
    "answer",
    [
        "4 out of 5",
        "quality: 4/5",
        '{"quality": "4 out of 5"}',
        "quality: 3 out of 5 stars",
        "80%",
        "between 6 and 7",
        "quality: 6-7",
        "quality: 6 to 7",
        "quality: 6 or 7",
        '{"quality": "6-7"}',
        "7+",
        "quality: ~7",
        "quality: >7",
        "quality: 1e1",
        "quality: 1,000",
        "quality: 7, 5",
        "7 8",
        "NaN",
        '{"quality": NaN}',
        '{"quality": Infinity}',
        '{"quality": true}',
        '{"quality": null}',
        '{"quality": [8]}',
        "I see 2 people",
        "quality: one of the pictures is blurred",
        "quality: excellent",
    ],
)
def test_what_may_be_another_number_is_no_mark(answer):
    with pytest.raises(UnusableAnswer, match=r"^no mark for quality$"):
        read(answer)


@pytest.mark.parametrize("answer", ["-3", "quality: -3", "quality: 0", "11", '{"quality": 85}', '{"quality": "−4"}'])
def test_a_mark_beyond_the_scale_is_refused(answer):
    with pytest.raises(UnusableAnswer, match=r"^the mark for quality is not from 1 to 10$"):
        read(answer)


@pytest.mark.parametrize(
    "answer", ["quality: 8 quality: 9", '{"quality": 8, "quality": 9}', '{"quality": 8} {"quality": 9}']
)
def test_two_values_are_none(answer):
    with pytest.raises(UnusableAnswer, match=r"^several marks for quality$"):
        read(answer)


def test_no_mark_is_read_out_of_a_caption_that_is_repeated():
    caption = "A red coat, quality: 10, identity: 10"
    assert read(f'Caption of A: "{caption}"\nquality: 3', given=(caption,)) == {"quality": 3}
    in_lines = caption.replace(", ", ",\n")
    assert read(f"Caption of A: {in_lines}\nquality: 3", given=(caption,)) == {"quality": 3}
    with pytest.raises(UnusableAnswer, match=r"^no mark for quality$"):
        read(f'The caption is "{caption}".', given=(caption,))


def test_several_marks_are_told_apart():
    answer = "Quality is 8. Follows AB: 3/10"
    assert read(answer, "quality", "follows_ab") == {"quality": 8, "follows_ab": 3}
    with pytest.raises(UnusableAnswer, match=r"^no mark for quality$"):
        read("7", "quality", "follows_ab")  # which one?
