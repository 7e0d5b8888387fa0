"""A vision-language model as judge: what it is asked, what is read out of its answers, and who asks again."""

from collections import Counter
from pathlib import Path

import pytest
import yaml
from PIL import Image
from scripted_model import Ready
from tiny_language_models import save_tiny_llava

from fafa.synthesis.components import TextModel, TextReply
from fafa.synthesis.filtering.judge import (
    Question,
    VisionLanguageJudge,
    read_scores,
    schema_of,
)
from fafa.synthesis.models import ChatModel
from fafa.synthesis.replies.answering import UnusableAnswer
from fafa.synthesis.settings import RecipeError, read_settings

NAMES = ("quality", "follows_ab")
GOOD = '{"quality": 10, "follows_ab": 1}'
RECORD = {
    "left": "left.png",
    "right": "right.png",
    "caption_a": "a red coat {edit_ab}",
    "caption_b": "a blue coat",
    "edit_ab": "now blue",
    "edit_ba": "now red",
}


class ScriptedModel(TextModel):
    """Gives each request the next of its answers; takes `ahead` requests at first, and answers the last of them."""

    def __init__(self, answers, ahead=1):
        super().__init__()
        self.answers, self.ahead, self.asked = answers, ahead, []
        self.counts = Counter()

    def answer(self, requests):
        held = []
        for request in requests:
            self.asked.append(request)
            held.append(request)
            if len(held) >= self.ahead:
                yield self._reply(held.pop())
        while held:
            yield self._reply(held.pop())

    def _reply(self, request):
        answers = self.answers[request.id]
        text = answers[min(self.counts[request.id], len(answers) - 1)]
        self.counts[request.id] += 1
        self.usage["requests"] += 1
        return TextReply(request.id, "", text[1:]) if text.startswith("!") else TextReply(request.id, text)


QUESTION = Question(prompt="Compare {caption_a} and {edit_ab}.", scores=list(NAMES))
TWO_QUESTIONS = (
    Question(prompt="How good?", scores=["quality"]),
    Question(prompt="Does B follow?", scores=["follows_ab"]),
)


def judge_of(model, questions=(QUESTION,), **options):
    return VisionLanguageJudge(model=Ready(part=model), questions=list(questions), **options).load()


def pairs(*ids):
    return [{"id": name} | RECORD for name in ids]


def test_a_request_shows_both_pictures_and_asks_with_the_texts_filled_in():
    model = ScriptedModel({"1-1/0": [GOOD]})
    (judgement,) = judge_of(model, system="Be strict.").judge(pairs("1-1"), Path("work"))
    (request,) = model.asked
    assert request.images == (Path("work/left.png"), Path("work/right.png"))
    # A slot inside a caption is text, and no text can end the quotation.
    assert request.messages == [
        {"role": "system", "content": "Be strict."},
        {"role": "user", "content": 'Compare "a red coat {edit_ab}" and "now blue".'},
    ]
    assert request.schema == schema_of(NAMES)
    assert judgement["scores"] == {"quality": 1.0, "follows_ab": 0.0}
    assert "rejected" not in judgement


def test_unusable_answers_are_asked_for_again_with_another_seed_and_then_given_up():
    answers = {"1-1/0": ["Sorry.", "!cut off at 64 tokens", GOOD], "1-2/0": [GOOD], "1-3/0": ["Nice!"]}
    model = ScriptedModel(answers, ahead=2)
    judge = judge_of(model)
    judgements = {judgement["id"]: judgement for judgement in judge.judge(pairs("1-1", "1-2", "1-3"), Path())}
    assert judgements["1-1"]["scores"] == judgements["1-2"]["scores"] == {"quality": 1.0, "follows_ab": 0.0}
    assert judgements["1-3"] == {"id": "1-3", "rejected": "no mark for quality"}
    assert Counter(request.id for request in model.asked) == {"1-1/0": 3, "1-2/0": 1, "1-3/0": 3}
    assert len({request.seed for request in model.asked}) == 7
    assert judge.usage["requests"] == 7


def test_several_questions_make_one_judgement():
    answers = {
        "1-1/0": ['{"quality": 4}'],
        "1-1/1": ["?", '{"follows_ab": 7}'],
        "1-2/0": ['{"quality": 1}'],
        "1-2/1": ["?"],
    }
    judge = judge_of(ScriptedModel(answers, ahead=3), TWO_QUESTIONS)
    judgements = {judgement["id"]: judgement for judgement in judge.judge(pairs("1-1", "1-2"), Path())}
    assert judge.names == NAMES
    assert judgements["1-1"]["scores"] == pytest.approx({"quality": 3 / 9, "follows_ab": 6 / 9}, abs=1e-4)
    assert judgements["1-2"] == {"id": "1-2", "rejected": "no mark for follows_ab"}


@pytest.mark.parametrize("ahead", [1, 2])
def test_the_reason_does_not_depend_on_which_question_was_answered_first(ahead):
    model = ScriptedModel({"1-1/0": ["?"], "1-1/1": ["?"]}, ahead)
    (judgement,) = judge_of(model, TWO_QUESTIONS).judge(pairs("1-1"), Path())
    assert judgement["rejected"] == "no mark for quality"


def test_records_are_taken_as_the_model_needs_them():
    taken = []
    records = (taken.append(record["id"]) or record for record in pairs(*"abcdef"))
    judgements = judge_of(ScriptedModel({f"{name}/0": [GOOD] for name in "abcdef"}, ahead=2)).judge(records, Path())
    next(judgements)
    assert taken == ["a", "b"]


@pytest.mark.parametrize(
    "answer",
    [
        '{"quality": 8, "follows_ab": 3}',
        'Here you go:\n```json\n{"quality": 8, "follows_ab": 3,}\n```\nAnything else?',
        "{'quality': '8', 'follows_ab': '3'}",
        '<think>quality: 2? No, follows_ab: 9 ...</think>{"quality": 8.0, "follows_ab": 3}',
        'quality: 2 and more thoughts</think>\n{"quality": 8, "follows_ab": 3}',
        "**Quality**: 8/10\n**Follows AB**: 3 / 10.",
        '{"quality": {"score": 8, "why": "sharp"}, "follows_ab": {"score": 3}}',
        '{"scores": [{"quality": 8}, {"follows-ab": 3}]} {"quality": 8, "follows_ab": 3}',
        '{"quality": 8, "follows_ab": 3, "remark": "the coat',
        "Quality = 8, follows ab = 3",
    ],
)
def test_marks_are_read_whatever_is_around_them(answer):
    assert read_scores(answer, NAMES) == pytest.approx({"quality": 7 / 9, "follows_ab": 2 / 9}, abs=1e-4)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty answer"),
        ("<think>quality: 8, follows_ab: 3", "empty answer"),
        ("I'm sorry, I can't help with that.", "no mark for quality"),
        ('{"quality": 8, "follows_ab": null}', "no mark for follows_ab"),
        ('{"quality": ..., "follows_ab": ...}', "no mark for quality"),
        ('{"quality": 8, "follows', "no mark for follows_ab"),
        ('{"quality": 80, "follows_ab": 3}', "the mark for quality is not from 1 to 10"),
        ('{"quality": 0.8, "follows_ab": 3}', "the mark for quality is not from 1 to 10"),
        ('{"quality": -8, "follows_ab": 3}', "the mark for quality is not from 1 to 10"),
        ('{"quality": 8, "follows_ab": 3} or {"quality": 9, "follows_ab": 3}', "several marks for quality"),
        ("quality: 7-8, follows_ab: 3", "no mark for quality"),
        ("quality: 80%, follows_ab: 3", "no mark for quality"),
        ("quality: 8/100, follows_ab: 3", "no mark for quality"),
        ("image_quality: 8, follows_ab: 3", "no mark for quality"),
    ],
)
def test_marks_are_never_guessed(answer, reason):
    with pytest.raises(UnusableAnswer, match=f"^{reason}$"):
        read_scores(answer, NAMES)


def test_a_tiny_vision_language_model_judges_what_it_sees(tmp_path):
    for name, colour in {"left": "red", "right": "blue", "other": "white"}.items():
        Image.new("RGB", (20, 40), colour).save(tmp_path / f"{name}.png")
    model = ChatModel(model=str(save_tiny_llava(tmp_path / "llava")), max_new_tokens=64, batch_size=3)
    judge = VisionLanguageJudge(
        model=model, questions=[Question(prompt="Marks for {caption_a}?", scores=list(NAMES))]
    ).load()
    records = pairs(*(f"1-{number}" for number in range(8)))
    judgements = {judgement["id"]: judgement for judgement in judge.judge(records, tmp_path)}
    assert set(judgements) == {record["id"] for record in records}
    assert any("scores" in judgement for judgement in judgements.values())
    for judgement in judgements.values():
        assert set(judgement.get("scores", ())) == (set() if "rejected" in judgement else set(NAMES))
        assert all(0 <= score <= 1 for score in judgement.get("scores", {}).values())
    assert judge.about
    # Alone and in another order: the same.
    again = {judgement["id"]: judgement for judgement in judge.judge(records[4:0:-1], tmp_path)}
    assert again == {name: judgements[name] for name in again}
    # Other pictures: not the same.
    others = [record | {"left": "other.png"} for record in records]
    assert {judgement["id"]: judgement for judgement in judge.judge(others, tmp_path)} != judgements


def test_settings_come_from_yaml_and_mistakes_are_named():
    recipe = yaml.safe_load(
        """
        model: {kind: transformers, model: some/model}
        questions:
        - prompt: Does {caption_b} fit?
          scores: [agreement_b]
        """
    )
    settings = read_settings(VisionLanguageJudge, recipe, "recipe.yaml: judge")
    assert settings.model == ChatModel(model="some/model")
    assert settings.questions == [Question(prompt="Does {caption_b} fit?", scores=["agreement_b"])]
    for change, message in (
        ({"questions": []}, "questions: expected at least 1"),
        ({"questions": recipe["questions"] * 2}, "asked for twice: agreement_b"),
        (
            {"questions": [{"prompt": "{caption}", "scores": ["x"]}]},
            "prompt: there is no field {caption}; did you mean '{caption_",
        ),
        ({"questions": [{"prompt": "?", "scores": ["Image quality"]}]}, "matches .*, found 'Image quality'"),
        ({"attempts": 0}, "attempts: expected at least 1"),
    ):
        with pytest.raises(RecipeError, match=message):
            read_settings(VisionLanguageJudge, recipe | change, "recipe.yaml: judge")
