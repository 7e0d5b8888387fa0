"""What can be asked, by the page and by programs alike: all lengths and numbers are bounded."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ..retrieval.queries import MINUS_WEIGHT

MOST_TERMS, MOST_MARKS, MOST_RESULTS = 16, 200, 500
MOST_CHARACTERS = 1_000  # of a sentence; models read some 30 to 80 words
RESULT = "result:"  # begins the name of an image of the gallery

_Sentence = Annotated[str, Field(max_length=MOST_CHARACTERS)]
_Marks = Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(max_length=MOST_MARKS)]


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Term(_Checked):
    """One thing wanted; image and caption together are one composed query."""

    image: Annotated[str, Field(max_length=100)] | None = Field(
        None, description="id of an upload, or result:ID for an image of the gallery"
    )
    box: tuple[float, float, float, float] | None = Field(
        None, description="left, top, right, bottom of the person in the image, in pixels of the upright picture"
    )
    caption: _Sentence | None = Field(None, description="what the person looks like, or what differs from the image")
    weight: float = Field(1.0, ge=-100, le=100, description="how much it counts beside other terms")


class Minus(_Checked):
    """What is not wanted."""

    caption: _Sentence = Field(description="such as 'a backpack'")
    weight: float = Field(MINUS_WEIGHT, gt=0, le=100)


class Question(_Checked):
    """All that is asked in one search."""

    terms: list[Term] = Field(min_length=1, max_length=MOST_TERMS)
    minus: list[Minus] = Field([], max_length=MOST_TERMS)
    where: Annotated[str, Field(max_length=4_000)] | None = Field(
        None, description="""which images may be found, such as camera == "gate 3" and taken >= "2024-05-01" """.strip()
    )
    top: int = Field(20, ge=1, le=MOST_RESULTS, description="how many results at most")
    false_alarm_rate: float | None = Field(
        None, gt=0, lt=1, description="share of queries without a match that may have results; of a calibrated gallery"
    )
    least_score: float | None = Field(None, ge=-1, le=1, description="leaves out what scores less")
    right: _Marks = Field([], description="ids of results marked right, in all rounds so far")
    wrong: _Marks = Field([], description="ids of results marked wrong")
    exclude_query: bool = Field(True, description="whether the query's own photographs and their copies are left out")


class Likeness(_Checked):
    """A search for images like one of the gallery."""

    id: int = Field(ge=0, lt=2**63)
    where: Annotated[str, Field(max_length=4_000)] | None = None
    top: int = Field(20, ge=1, le=MOST_RESULTS)

    def question(self) -> Question:
        """The same as a question."""
        return Question(terms=[Term(image=f"{RESULT}{self.id}")], where=self.where, top=self.top)
