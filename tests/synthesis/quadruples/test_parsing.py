import json

import pytest

from fafa.synthesis.quadruples.parsing import parse_quadruple
from fafa.synthesis.replies.answering import UnusableAnswer

TEXTS = {
    "caption_a": "A woman in a red coat.",
    "caption_b": "A woman in a blue coat.",
    "edit_ab": "Make the coat blue.",
    "edit_ba": "Make the coat red.",
}
A, B, AB, BA = TEXTS.values()
SOUND = json.dumps(TEXTS)
OTHER = SOUND.replace("blue", "pink")


@pytest.mark.parametrize(
    "answer",
    [
        SOUND,
        f"Sure! Here it is [1]:\n```json\n{SOUND}\n```\nI hope {{this}} helps.",
        f'<think>Maybe {{"caption_a": "A cat."}}</think>\n{SOUND}',
        f"Let me think: {OTHER} or another?\n</think>\n\n{SOUND}",  # the template had begun the thought
        SOUND[:-1] + ",\n}",
        SOUND.replace('"', "'"),
        "```python\nanswer = " + SOUND.replace('"', "'") + "\n```",
        SOUND.replace('", "', '"\n "'),  # commas missing
        SOUND.replace('"caption_a"', "caption_a").replace('"edit_ab"', "edit_ab"),
        SOUND.replace('"', "“").replace("“", '"', 2).replace(": “", ': "').replace("“, “", '", "').replace("“}", '"}'),
        SOUND.replace("red coat", "red\n   coat"),
        SOUND[:-1] + ', "notes": "As you asked."}',
        f"{SOUND}\nOnce more:\n{SOUND}",
        f"[{SOUND}]",
        json.dumps({"quadruple": TEXTS}),
        json.dumps({"result": {"data": [TEXTS]}}),
        json.dumps([{name: text} for name, text in TEXTS.items()]),
        json.dumps({"captions": {"A": A, "B": B}, "edits": {"A_to_B": AB, "b_to_a": BA}}),
        json.dumps({"imageA": {"caption": A}, "imageB": {"caption": B}, "edit": {"aToB": AB, "bToA": BA}}),
        json.dumps({"A": A, "B": B, "A→B": AB, "B -> A": BA}),
        json.dumps(
            {"edit_target_to_reference": BA, "target_caption": B, "reference_caption": A, "edit reference→target": AB}
        ),
    ],
)
def test_reads_what_can_be_read_in_one_way(answer):
    assert parse_quadruple(answer) == TEXTS


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty answer"),
        (f"<think>{SOUND}", "empty answer"),  # never got to an answer
        ("I'm sorry, but I can't describe people.", "refused"),
        ("A woman changes her coat.", "no JSON in the answer"),
        (json.dumps([A, B, AB, BA]), "no JSON in the answer"),  # which is which?
        (SOUND[:-8], "broken JSON"),  # cut off: the last edit would be a half
        (SOUND[:70], "broken JSON"),
        (SOUND.replace('", "edit', '", // the edit\n "edit', 1), "broken JSON"),
        (f"[{SOUND}, {OTHER}]", "several quadruples in the answer"),
        (f"First {SOUND}, or rather {OTHER}", "several quadruples in the answer"),
        (SOUND.replace('"caption_b"', '"caption_a"'), "several quadruples in the answer"),
        (json.dumps({"caption_a": A, "caption_b": B, "edit": AB}), "fields are missing"),
        (json.dumps({"a": {"caption": A, "edit": AB}, "b": {"caption": B, "edit": BA}}), "fields are missing"),
        (json.dumps({"captions": {"a": A, "b": B}, "edits": {"a": AB, "b": BA}}), "fields are missing"),
        (json.dumps({"A": A, "B": B, "A <- B": AB, "B <- A": BA}), "fields are missing"),
        (SOUND.replace(f'"{BA}"', "null"), "a field is not text"),
        (SOUND.replace(BA, " "), "a field is empty"),
    ],
)
def test_refuses_what_it_would_have_to_guess(answer, reason):
    with pytest.raises(UnusableAnswer, match=f"^{reason}$"):
        parse_quadruple(answer)


def test_no_cut_off_answer_gives_half_a_text():
    for length in range(len(SOUND)):
        with pytest.raises(UnusableAnswer):
            parse_quadruple(SOUND[:length])


def test_a_repaired_answer_keeps_its_inner_quotes():
    answer = SOUND.replace("red coat", 'so-called "red" coat')
    assert parse_quadruple(answer)["caption_a"] == 'A woman in a so-called "red" coat.'
