"""Results to take along: a table and a contact sheet of a search, which a link's text names."""

import asyncio
import csv
import io
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from PIL import Image
from starlette.responses import Response

from ..drawing.palette import FAINT
from ..drawing.sheet import THUMB_WIDTH
from ..names import counted
from ..retrieval.contact_sheet import RankedImage, RankedQuery, draw_contact_sheet, open_ranked
from . import links
from .answers import Answer, Hit
from .doors import user_of
from .faults import Refused
from .media import GONE, THUMBNAIL, cropped, open_person, readable
from .questions import RESULT, Question, Term
from .service import SearchService

_MOST_ON_A_SHEET, _SHARPNESS = 100, 2  # results; pixels for each that is drawn
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # begin what a spreadsheet would run


def exports_router(service: SearchService) -> APIRouter:
    """Downloads: `q` is the text of a link, whose question is asked anew."""
    router = APIRouter(include_in_schema=False)

    @router.get("/export/results.csv")
    async def results(q: Annotated[str, Query()], request: Request) -> Response:
        answer = await service.search(links.question_of(q), user_of(request))
        table = table_of(answer).encode("utf-8-sig")  # without its mark, spreadsheets take names for Latin-1
        return _download(table, "text/csv; charset=utf-8", "results.csv")

    @router.get("/export/sheet.png")
    async def sheet(q: Annotated[str, Query()], request: Request) -> Response:
        question, user = links.question_of(q), user_of(request)
        fewer = question.model_copy(update={"top": min(question.top, _MOST_ON_A_SHEET)})
        answer = await service.search(fewer, user)
        if not answer.hits:
            raise Refused("Nobody is found, so there is nothing to draw.", 404)
        drawn = await asyncio.to_thread(sheet_of, service, question, answer, user)
        return _download(drawn, "image/png", "results.png")

    return router


def table_of(answer: Answer) -> str:
    """The hits as CSV, a column for each tag at the end.

    A text that a spreadsheet would take for a formula, such as a file's name that begins with "=", gets an apostrophe
    before it.
    """
    known = ["rank", "score", "probability", "id", "name", "time", "camera", "taken"]
    tags = sorted({name for hit in answer.hits for name in hit.tags})
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*known, "left", "top", "right", "bottom", *tags])
    for hit in answer.hits:
        cells = [
            *(getattr(hit, name) for name in known),
            *(hit.box or [None] * 4),
            *(hit.tags.get(tag) for tag in tags),
        ]
        writer.writerow([_cell(value) for value in cells])
    return stream.getvalue()


def sheet_of(service: SearchService, question: Question, answer: Answer, user: str) -> bytes:
    """The hits as a PNG, beside what was asked; those marked right are framed as such, and what is gone is left blank.

    Raises:
        Refused: the photo that was asked by is not kept any more.
    """
    marked = set(question.right)
    ranked = [_ranked(service, hit, True if hit.id in marked else None) for hit in answer.hits]
    words = " + ".join(term.caption for term in question.terms if term.caption)
    words += "".join(f", not {unwanted.caption}" for unwanted in question.minus)
    asked = next((term for term in question.terms if term.image is not None), None)
    row = RankedQuery(asked and _picture(service, asked, user), words or None, ranked)
    subtitle = f"{counted(answer.searched, 'image')} searched"
    if len(answer.hits) == _MOST_ON_A_SHEET < question.top:
        subtitle += f"; the first {_MOST_ON_A_SHEET} results"
    sheet = draw_contact_sheet([row], None, f"Search in {service.name}", subtitle, len(ranked))
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def _picture(service: SearchService, term: Term, user: str) -> Image.Image:
    """What a term asks by."""
    if term.image.startswith(RESULT) and term.box is None:
        number = int(term.image.removeprefix(RESULT))  # the search has refused what is no number
        return readable(partial(open_person, longest=THUMBNAIL), service.result(number))
    photo = service.photo(term.image, user)
    return photo if term.box is None else cropped(photo, term.box)


def _ranked(service: SearchService, hit: Hit, correct: bool | None) -> RankedImage:
    """A result as the sheet shows it: the person, and below it the photograph or the film's frame with the box."""
    ranked = RankedImage("", hit.score, correct, hit.rank, hit.box, hit.time)
    try:
        if (result := service.result(hit.id)).path is None:
            raise Refused(GONE, 404)
        picture = readable(lambda _: open_ranked(replace(ranked, image=result.path), _SHARPNESS), result)
    except Refused:
        picture = Image.new("RGB", (THUMB_WIDTH, 2 * THUMB_WIDTH), FAINT)
    return replace(ranked, image=picture, box=None)


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value


def _download(contents: bytes, kind: str, name: str) -> Response:
    return Response(contents, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})
