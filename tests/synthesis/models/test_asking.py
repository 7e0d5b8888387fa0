from dataclasses import replace

import pytest
from scripted_model import ScriptedModel

from fafa.synthesis.components import SynthesisError, TextRequest
from fafa.synthesis.models.asking import ask
from fafa.synthesis.replies.answering import UnusableAnswer, answer_part, is_refusal


def request(item, attempt):
    return TextRequest(item, [{"role": "user", "content": item}], seed=attempt)


def read(item, text):
    if len(text.split()) < 3:
        raise UnusableAnswer("too short")
    return f"{item}: {text}"


def test_items_are_asked_again_until_their_answer_can_be_used():
    """ "a" at once, "b" at the third attempt, "c" never; nothing is lost and nothing asked in vain."""
    right = {"a": 0, "b": 2, "c": 9}
    model = ScriptedModel(lambda r: "a man in red" if r.seed >= right[r.id] else "no")
    answers = {answer.item: answer for answer in ask(model, iter("abc"), request, read, attempts=3)}
    assert {item: (answer.value, answer.attempts) for item, answer in answers.items()} == {
        "a": ("a: a man in red", 1),
        "b": ("b: a man in red", 3),
        "c": (None, 3),
    }
    assert answers["c"].faults == ["too short"] * 3 and answers["c"].refused == ["no"] * 3
    assert len(model.asked) == 7


def test_a_models_own_fault_is_kept():
    """Without a server's own words, so that reasons can be counted; these are with the refused answers."""
    model = ScriptedModel(lambda r: "FAULT refused by the server: request 17 is bad")
    (answer,) = ask(model, ["a"], request, read, attempts=2)
    assert answer.value is None and answer.faults == ["refused by the server"] * 2
    assert answer.refused == ["refused by the server: request 17 is bad"] * 2


def test_an_answer_that_was_cut_off_is_none_whoever_gives_it():
    class CutOff(ScriptedModel):
        def answer(self, requests):
            return (replace(reply, finish_reason="length") for reply in super().answer(requests))

    (answer,) = ask(CutOff(lambda r: "a man in red and"), ["a"], request, read, attempts=1)
    assert answer.value is None and answer.faults == ["no whole answer (length)"]


def test_a_model_that_leaves_out_an_answer_is_an_error():
    class Forgetful(ScriptedModel):
        def answer(self, requests):
            yield next(super().answer(requests))

    with pytest.raises(SynthesisError, match="left 1 requests unanswered, one of 'a'"):
        list(ask(Forgetful(lambda r: "a man in red"), ["a", "b"], request, read, attempts=2))


def test_half_a_character_is_no_answer():
    """The first half of an escaped emoji; no file could hold it."""
    model = ScriptedModel(lambda r: "a man in \ud83d")
    (answer,) = ask(model, ["a"], request, read, attempts=1)
    assert answer.faults == ["broken characters"]
    assert answer.refused[0].encode()


@pytest.mark.parametrize(
    "answer",
    [
        " a coat ",
        "<think>red? blue?</think>a coat",
        "<Reasoning>\nred?\n</Reasoning>\n\na coat",
        "begun by the template\n</think>\na coat",
        "<think>red?</think>\na coat<think>or not",
    ],
)
def test_thoughts_are_no_part_of_an_answer(answer):
    assert answer_part(answer) == "a coat"


def test_an_answer_of_thoughts_alone_is_empty():
    with pytest.raises(UnusableAnswer, match="empty answer"):
        answer_part("<think>a coat, I would say, and then")


def test_refusals_are_known_by_their_words():
    assert is_refusal("I'm sorry, but I can’t describe people.") and not is_refusal("A man who cannot be seen.")
