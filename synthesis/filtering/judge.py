"""A vision-language model as judge: it looks at both images, reads the four texts, and gives marks."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ..components import REJECTED, AskingPart, Judge, Record, TextRequest, seed_of
from ..models import LanguageModel
from ..models.asking import as_messages, ask_parts
from ..quadruples.writing import FIELDS
from ..replies.answering import quoted
from ..replies.marks import read_marks
from ..settings import Count, Settings
from ..templates import fill_template, with_fields

LOWEST, HIGHEST = 1, 10  # marks; scores are these brought to 0 ... 1

_ScoreName = Annotated[str, Field(pattern=r"^[a-z][a-z_]*$")]  # small letters and underscores


class Question(Settings):
    """One request about a pair.

    Attributes:
        prompt: What is asked; {caption_a}, {caption_b}, {edit_ab} and {edit_ba} are filled in, between quotation marks
            that no text can close. The model sees the left image first, then the right one, then this.
        scores: Names of the marks that the answer must hold.
    """

    prompt: Annotated[str, with_fields(*FIELDS, needed=[], other_braces=True)]
    scores: Annotated[list[_ScoreName], Field(min_length=1)]


class VisionLanguageJudge(Settings):
    """Settings of a vision-language model that judges pairs.

    It is asked for whole marks from 1 to 10, as JSON. Scores are these brought to 0 ... 1.

    Attributes:
        model: What answers; it must take two images.
        questions: What it is asked about each pair. One question with all the marks is cheapest; several questions,
            each about one thing, are sometimes answered with more care.
        system: How the model is told to behave; empty for no such message.
        attempts: How often a question is asked until the answer can be used. More than one needs a `temperature` above
            0, since otherwise the answer stays the same.
    """

    kind: Literal["language-model"] = "language-model"

    model: LanguageModel
    questions: Annotated[list[Question], Field(min_length=1)]
    system: str = ""
    attempts: Count = 3

    @model_validator(mode="after")
    def _check_names(self) -> "VisionLanguageJudge":
        if twice := {name for name in self.names if self.names.count(name) > 1}:
            raise ValueError(f"asked for twice: {', '.join(sorted(twice))}")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scores."""
        return tuple(name for question in self.questions for name in question.scores)

    def load(self) -> Judge:
        """The judge.

        Raises:
            SynthesisError: the model cannot be loaded or reached.
        """
        return _VisionLanguageJudge(self, self.model.load())


class _VisionLanguageJudge(AskingPart, Judge):
    @property
    def names(self) -> tuple[str, ...]:
        return self.settings.names

    def judge(self, records: Iterable[Record], folder: Path) -> Iterator[Record]:
        settings = self.settings

        def request(item: tuple[Record, int], attempt: int) -> TextRequest:
            record, number = item
            question = settings.questions[number]
            prompt = fill_template(question.prompt, {name: quoted(record[name]) for name in FIELDS})
            return TextRequest(
                id=f"{record['id']}/{number}",
                messages=as_messages(settings.system, prompt),
                seed=seed_of("judge", record["id"], number, attempt),
                images=(folder / record["left"], folder / record["right"]),
                schema=schema_of(question.scores),
            )

        def read(item: tuple[Record, int], text: str) -> dict[str, float]:
            record, number = item
            return read_scores(text, settings.questions[number].scores, [record[name] for name in FIELDS])

        count = len(settings.questions)
        for record, answers in ask_parts(self.model, records, count, request, read, settings.attempts):
            faults = [answer.faults[-1] for answer in answers if answer.value is None]
            scores = {name: score for answer in answers for name, score in (answer.value or {}).items()}
            said = {REJECTED: faults[0]} if faults else {"scores": {name: scores[name] for name in self.names}}
            yield {"id": record["id"], **said}


def schema_of(names: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of an object with these marks."""
    # A list of all marks, since some servers ignore or refuse a lowest and a highest number.
    mark = {"type": "integer", "enum": list(range(LOWEST, HIGHEST + 1))}
    properties, required = dict.fromkeys(names, mark), list(names)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def read_scores(answer: str, names: Sequence[str], given: Sequence[str] = ()) -> dict[str, float]:
    """The marks of these names in an answer, brought from 1 ... 10 to 0 ... 1; see `read_marks`.

    The model was `given` some texts, from which no mark is read.

    Raises:
        UnusableAnswer: a mark is missing, is not from 1 to 10, or is given twice with two values.
    """
    marks = read_marks(answer, names, LOWEST, HIGHEST, given)
    return {name: round((mark - LOWEST) / (HIGHEST - LOWEST), 4) for name, mark in marks.items()}
