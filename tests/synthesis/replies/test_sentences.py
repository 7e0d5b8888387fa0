import pytest

from fafa.synthesis.replies.answering import UnusableAnswer
from fafa.synthesis.replies.sentences import read_sentence


@pytest.mark.parametrize(
    "answer",
    [
        "A man wears a red coat.",
        "  A man\n wears a red   coat. ",
        '"A man wears a red coat."',
        "“A man wears a red coat.”",
        "**A man wears a red coat.**",
        "Caption: A man wears a red coat.",
        'Prompt: "A man wears a red coat."',
        "```\nA man wears a red coat.\n```",
        "<think>What is it? [1] a coat</think>\n\nA man wears a red coat.",
        "thinking, begun by the template</think>A man wears a red coat.",
    ],
)
def test_a_sentence_is_read_out_of_what_is_around_it(answer):
    assert read_sentence(answer, 3, 9) == "A man wears a red coat."


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty answer"),
        ("<think>never ended, a man in red", "empty answer"),
        ("I'm sorry, I can't describe people.", "refused"),
        ("A man wears [clothing] and a hat.", "a slot is not filled"),
        ("A man in {outline} goes by.", "a slot is not filled"),
        ("- a man\n- a red coat\n- a hat", "a list and not a sentence"),
        ("1. A man wears a red coat.", "a list and not a sentence"),
        ("Red coat.", "too short"),
        ("A man wears a red coat and a hat and boots.", "too long"),
    ],
)
def test_answers_that_cannot_be_used_have_a_reason(answer, reason):
    with pytest.raises(UnusableAnswer, match=reason):
        read_sentence(answer, 3, 9)
