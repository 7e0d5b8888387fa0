"""What is answered, to the page and to programs alike. No path of this machine stands in it."""

from pydantic import BaseModel, Field

Value = str | bool | int | float


class Hit(BaseModel):
    """One result."""

    id: int = Field(description="of the image; it keeps it")
    rank: int
    score: float
    probability: float | None = Field(None, description="that it is a match, where the gallery is calibrated")
    name: str = Field(description="of its file, within the gallery's folder")
    box: tuple[float, float, float, float] | None = Field(None, description="left, top, right, bottom of the person")
    time: float | None = Field(None, description="seconds from the beginning of the film")
    camera: str | None = None
    taken: str | None = None
    tags: dict[str, Value] = {}
    thumbnail: str = Field(description="URL of a small picture of the person")
    photo: str | None = Field(None, description="URL of the photograph, or of the film's frame, with the person's box")
    film: str | None = Field(None, description="URL of the film, which opens at the moment")


class Answer(BaseModel):
    """The results of one search, best first."""

    hits: list[Hit]
    searched: int = Field(description="images that the filter let through")
    milliseconds: float = Field(description="from the question to the answer, waiting included")
    notes: list[str] = Field([], description="sentences to show beside the results")
    generation: int = Field(description="of the gallery's contents")


class FilterField(BaseModel):
    """What filters can ask about."""

    name: str
    kind: str = Field(description="text, number, or either")
    values: list[Value] = Field([], description="all that occur, unless they are many")
    least: Value | None = None
    most: Value | None = None


class Example(BaseModel):
    """Something to begin with."""

    image: str = Field(description="as Term.image takes it")
    caption: str | None = None
    description: str = Field(description="of the picture, for who cannot see it")
    thumbnail: str


class Facts(BaseModel):
    """Who answers, and from what."""

    model: str
    gallery: str
    images: int
    generation: int
    is_calibrated: bool
    has_detector: bool
    has_films: bool
    notes: list[str]
    fields: list[FilterField]
