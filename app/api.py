"""The JSON API, its errors, and the pictures that answers name."""

import asyncio
import logging
import mimetypes
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from typing import Annotated, TypeVar

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response

from ..image_reading_fafa import open_image
from ..workers import num_cores
from .answers import Answer, Facts
from .doors import UPLOADS, user_of
from .faults import Refused
from .media import PHOTO, THUMBNAIL, as_webp, film_of, open_person, readable, with_box
from .questions import Likeness, Question
from .saved import NewSearch, SavedSearch
from .service import FAILED, SearchService

logger = logging.getLogger(__name__)

One = TypeVar("One")

_KEPT_BY_BROWSERS = "private, max-age=86400"
_UPLOAD_SECONDS = 120
_SENT_AS_IT_IS = {"requestBody": {"required": True, "content": {"image/*": {"schema": {"format": "binary"}}}}}


class Kept(BaseModel):
    """An upload, which its user can ask by."""

    id: str
    width: int = Field(description="of the upright picture, in pixels")
    height: int
    url: str


class Fault(BaseModel):
    """What every error is."""

    detail: str = Field(description="one sentence: what is wrong, and what to do")


class MapAsked(BaseModel):
    """Which heat map is wanted."""

    question: Question
    id: int = Field(ge=0, lt=2**63, description="of the image to look at")


def api_router(service: SearchService) -> APIRouter:
    """What programs ask."""
    faults = {
        400: "it cannot be answered",
        401: "a token is needed",
        404: "there is no such thing",
        422: "it is no such question",
        503: "too many are waiting; Retry-After says for how long",
    }
    router = APIRouter(responses={code: {"model": Fault, "description": what} for code, what in faults.items()})

    @router.post("/api/search", summary="Search the gallery")
    async def search(question: Question, request: Request) -> Answer:
        return await _while_connected(request, service.search(question, user_of(request)))

    @router.get("/api/similar", summary="Find images like one of the gallery")
    async def similar(likeness: Annotated[Likeness, Query()], request: Request) -> Answer:
        return await _while_connected(request, service.similar(likeness, user_of(request)))

    @router.get("/api/facts", summary="Which model and gallery answer, and what filters can ask")
    def facts() -> Facts:
        return service.facts()

    @router.get("/health", summary="Whether questions are answered")
    def health() -> dict[str, str | int]:
        if not service.is_alive:
            raise Refused("The thread that answers has ended: start the server again.", 503)
        return {"status": "ok", "images": len(service.gallery)}

    @router.post(UPLOADS, status_code=201, openapi_extra=_SENT_AS_IT_IS, summary="Upload a photograph: its bytes alone")
    async def upload(request: Request) -> Kept:
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise Refused("A form was sent. Send the photograph's bytes alone, as the body of the request.", 415)
        with service.uploads.receiving(request.headers.get("content-length")):
            data = await asyncio.wait_for(request.body(), _UPLOAD_SECONDS)
            one = await asyncio.to_thread(service.uploads.keep, user_of(request), data)
        return Kept(id=one.id, width=one.width, height=one.height, url=f"/media/upload/{one.id}.webp")

    @router.delete(UPLOADS + "/{number}", status_code=204, summary="Forget a photograph at once")
    def forget(number: str, request: Request) -> None:
        service.uploads.forget(user_of(request), number)

    @router.get("/api/people/{image}", summary="The boxes of the people in an upload, or in a result's photograph")
    async def people(image: str, request: Request) -> list[tuple[float, float, float, float]]:
        return await _while_connected(request, service.people_in(image, user_of(request)))

    @router.post("/api/heat-map", response_class=_Webp, summary="Where in an image the model found what was asked")
    async def heat_map(asked: MapAsked, request: Request) -> Response:
        work = service.heat_map(asked.question, asked.id, user_of(request))
        drawn = await _while_connected(request, work)
        return _Webp(await asyncio.to_thread(as_webp, drawn, PHOTO))

    @router.get("/api/saved", summary="Your saved searches")
    def list_saved(request: Request) -> list[SavedSearch]:
        return service.saved.of(user_of(request))

    @router.post("/api/saved", status_code=201, summary="Save a search")
    def save(new: NewSearch, request: Request) -> SavedSearch:
        return service.saved.keep(user_of(request), new.name, new.question)

    @router.get("/api/saved/{number}", summary="One of your saved searches")
    def get_saved(number: str, request: Request) -> SavedSearch:
        return service.saved.get(user_of(request), number)

    @router.delete("/api/saved/{number}", status_code=204, summary="Delete a saved search")
    def drop_saved(number: str, request: Request) -> None:
        service.saved.drop(user_of(request), number)

    return router


def media_router(service: SearchService) -> APIRouter:
    """Pictures of images and uploads, by their numbers alone; few are decoded at a time."""
    router = APIRouter(include_in_schema=False)
    decoding = asyncio.Semaphore(num_cores())

    @lru_cache(maxsize=1_000)  # some 20 MB
    def thumbnail(number: int, version: str) -> bytes:
        return as_webp(readable(partial(open_person, longest=THUMBNAIL), service.result(number)), THUMBNAIL)

    async def drawn(draw: Callable[..., bytes], *given: object, kept: str = _KEPT_BY_BROWSERS) -> Response:
        async with decoding:
            return _Webp(await asyncio.to_thread(draw, *given), headers={"Cache-Control": kept})

    @router.get("/media/{number:int}/crop.webp")
    async def crop(number: int, v: Annotated[str, Query(max_length=16)] = "") -> Response:
        return await drawn(thumbnail, number, v)

    @router.get("/media/{number:int}/photo.webp")
    async def photo(number: int) -> Response:
        return await drawn(lambda: as_webp(readable(with_box, service.result(number)), PHOTO))

    @router.get("/media/{number:int}/film")
    def film(number: int) -> Response:
        file = readable(film_of, service.result(number))
        kind = mimetypes.guess_type(file.name)[0] or ""
        return FileResponse(file, media_type=kind if kind.startswith("video/") else "video/mp4")

    @router.get("/media/upload/{number}.webp")
    async def upload(number: str, request: Request) -> Response:
        one = service.uploads.of(user_of(request), number)
        photo = {"bytes": one.data}
        return await drawn(lambda: as_webp(open_image(photo, at_least=(PHOTO, PHOTO)), PHOTO), kept="no-store")

    return router


def add_fault_handlers(app: FastAPI) -> None:
    """Every error leaves as one sentence, never as a traceback."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        headers = {"Retry-After": str(error.retry_after)} if error.retry_after else None
        return JSONResponse({"detail": error.sentence}, error.status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": sentence_of(error.errors()[0])}, 422)

    @app.exception_handler(HTTPException)
    async def told(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"detail": error.detail}, error.status_code, error.headers)

    @app.exception_handler(TimeoutError)
    async def late(_: Request, error: TimeoutError) -> JSONResponse:
        return JSONResponse({"detail": "What was sent came too slowly, and is not kept: send it again."}, 408)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": FAILED}, 500)


def sentence_of(fault: dict) -> str:
    """One of pydantic's errors as a sentence: which value, and what was expected of it."""
    if isinstance(fault.get("input"), (str, bytes)) and fault.get("loc") == ("body",):
        return "the question is to be sent as JSON, under the header Content-Type: application/json"
    places = [place for place in fault.get("loc", ()) if place not in ("body", "query", "path")]
    name = "".join(f"[{place}]" if isinstance(place, int) else f".{place}" for place in places).lstrip(".")
    return f"{name or 'the request'}: {fault['msg']}"


class _Webp(Response):
    media_type = "image/webp"


async def _while_connected(request: Request, work: Awaitable[One]) -> One:
    """What work gives; when the client goes away, the work is cancelled."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_is_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refused("The client has gone away.", 499)
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _is_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
