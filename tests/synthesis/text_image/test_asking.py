import pytest
from scripted_model import ScriptedModel

from fafa.synthesis.components import SynthesisError, TextRequest
from fafa.synthesis.quadruples.parsing import UnusableAnswer
from fafa.synthesis.text_image.asking import ask, plain_sentence


def request(item, attempt):
    return TextRequest(item, [{"role": "user", "content": item}], seed=attempt)


def test_items_are_asked_again_until_their_answer_can_be_used():
    """ "a" at once, "b" at the third attempt, "c" never; nothing is lost and nothing asked in vain."""
    right = {"a": 0, "b": 2, "c": 9}
    model = ScriptedModel(lambda r: "a man in red" if r.seed >= right[r.id] else "no")
    answers = {answer.item: answer for answer in ask(model, iter("abc"), request, attempts=3, words=(3, 9))}
    assert {item: (answer.text, answer.attempts) for item, answer in answers.items()} == {
        "a": ("a man in red", 1),
        "b": ("a man in red", 3),
        "c": (None, 3),
    }
    assert answers["c"].fault == "too short" and answers["c"].refused == ["no"] * 3
    assert len(model.asked) == 7


def test_a_models_own_fault_is_kept():
    """Without a server's own words, so that reasons can be counted."""
    model = ScriptedModel(lambda r: "FAULT refused by the server: request 17 is bad")
    (answer,) = ask(model, ["a"], request, attempts=2, words=(1, 9))
    assert answer.text is None and answer.fault == "refused by the server"


def test_a_model_that_leaves_out_an_answer_is_an_error():
    class Forgetful(ScriptedModel):
        def answer(self, requests):
            yield next(super().answer(requests))

    with pytest.raises(SynthesisError, match="left 1 requests unanswered, one of 'a'"):
        list(ask(Forgetful(lambda r: "a man in red"), ["a", "b"], request, attempts=2, words=(1, 9)))


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
    assert plain_sentence(answer, (3, 9)) == "A man wears a red coat."


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
        plain_sentence(answer, (3, 9))
