"""An image model behind a URL at work: many requests at once, patient with the server, sceptical of its answers."""

import base64
import json
import logging
import os
import random
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from itertools import islice
from threading import Event, Lock

import openai
from PIL import Image

from ...image_reading_fafa import open_image
from ..components import ImageModel, ImageRequest, PaintedImage, SynthesisError
from .image_server import ImageServer

logger = logging.getLogger(__name__)

_BUSY = {429, 502, 503, 504}
_WRONG_SET_UP = {401, 403, 404}
_UNSAFE = ("content_policy", "moderation", "safety", "nsfw")
_LONGEST_PAUSE = 30.0  # seconds, unless the server asks for a longer one
_FAILURES_IN_A_ROW = 20  # then it is the server that fails, not the requests


class _Failure(Exception):
    """There is no picture.

    Attributes:
        again: Asking again may help.
        refused: The server will not paint this; it has answered as it should.
        away: The server cannot be reached or is overloaded, whatever the request.
        pause: Seconds to wait that the server asks for.
    """

    def __init__(self, message: str, again: bool = True, refused: bool = False, away: bool = False, pause: float = 0.0):
        super().__init__(message)
        self.again = again
        self.refused = refused
        self.away = away
        self.pause = pause


class ServedImageModel(ImageModel):
    """An image model behind a URL; `ImageServer` says what its settings mean."""

    def __init__(self, settings: ImageServer):
        super().__init__()
        self.settings = settings
        self.about = {"model": settings.model, "base_url": settings.base_url}
        self._client = openai.OpenAI(
            base_url=settings.base_url, api_key=_key(settings), timeout=settings.timeout, max_retries=0
        )
        self._lock = Lock()
        self._last_picture = time.monotonic()
        self._works = False
        try:
            self._client.with_options(timeout=min(30.0, settings.timeout)).models.with_raw_response.list()
        except openai.APIConnectionError as error:
            raise self._gone(str(error)) from error
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                raise self._wrongly_set_up(error) from error
            logger.debug("%s does not list its models: %s", settings.base_url, error)

    def paint(self, requests: Iterable[ImageRequest]) -> Iterator[PaintedImage]:
        """Pictures as they come; `concurrency` requests are under way at once.

        A picture that the server fails to paint, or refuses, is a fault. Faults of failing are held back until it
        paints something again: a server that fails altogether must not use up the items.

        Raises:
            SynthesisError: the server is away for longer than `patience`, refuses the key, the model or every request,
                or cannot do what is asked (another strength than 1 without `strength_field`, editing).
        """
        held: list[PaintedImage] = []
        enough = max(_FAILURES_IN_A_ROW, 2 * self.settings.concurrency)  # failures overtake pictures under way
        with closing(self._paint_all(iter(requests))) as results:
            for painted, failed in results:
                if failed:
                    held.append(painted)
                    if len(held) == enough:
                        raise self._failing(held)
                else:
                    self._works = True
                    yield from held
                    held.clear()
                    yield painted
        if held and not self._works:
            raise self._failing(held)
        yield from held

    def _paint_all(self, requests: Iterator[ImageRequest]) -> Generator[tuple[PaintedImage, bool], None, None]:
        """Every picture, and whether the server failed to paint it."""
        stop = Event()
        under_way: set[Future[tuple[PaintedImage, bool]]] = set()
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            try:
                while True:
                    for request in islice(requests, self.settings.concurrency - len(under_way)):
                        under_way.add(pool.submit(self._paint_one, request, stop))
                    if not under_way:
                        return
                    done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            finally:
                stop.set()  # what is under way is not asked for again

    def _paint_one(self, request: ImageRequest, stop: Event) -> tuple[PaintedImage, bool]:
        self._check(request)
        since, failures, attempts = time.monotonic(), 0, 0
        while True:
            try:
                return PaintedImage(request.id, self._ask(request)), False
            except _Failure as failure:
                if failure.refused:
                    return PaintedImage(request.id, None, str(failure)), False
                waited = time.monotonic() - max(since, self._last_picture)
                if failure.away and waited > self.settings.patience:
                    raise self._gone(f"{failure}, for {waited:.0f} s") from failure
                failures += not failure.away
                if not failure.again or failures > self.settings.max_retries or stop.is_set():
                    return PaintedImage(request.id, None, str(failure)), True
                pause = max(failure.pause, min(_LONGEST_PAUSE, 0.5 * 2**attempts) * random.uniform(0.5, 1.0))
            attempts += 1
            self._count("retries")
            stop.wait(pause)

    def _ask(self, request: ImageRequest) -> Image.Image:
        """One picture, asked for once."""
        settings = self.settings
        fields = {**settings.options, "seed": request.seed % 2**31}  # larger ones overflow in some servers
        if settings.strength_field is not None:
            fields[settings.strength_field] = request.strength
        self._count("requests")
        try:
            answer = self._client.images.with_raw_response.generate(
                model=settings.model,
                prompt=request.prompt,
                n=1,
                size=f"{settings.width}x{settings.height}",
                response_format="b64_json",
                extra_body=fields,
            )
        except openai.APIConnectionError as error:
            raise _Failure(str(error), away=True) from error
        except openai.APIStatusError as error:
            raise self._failure(error) from error
        image = _picture(answer.content)
        if image.size != (settings.width, settings.height):
            raise _Failure(f"painted {image.width}x{image.height} pixels, asked for {settings.width}x{settings.height}")
        if image.getbbox() is None:
            raise _Failure("refused as unsafe (all black)", refused=True)
        with self._lock:
            self._last_picture = time.monotonic()
        self._count("images")
        return image

    def _failure(self, error: openai.APIStatusError) -> Exception:
        status, text = error.status_code, _one_line(error)
        if status in _WRONG_SET_UP:
            return self._wrongly_set_up(error)
        if status in _BUSY:
            return _Failure(text, away=True, pause=_retry_after(error))
        if status < 500 and any(word in f"{error.code} {text}".lower() for word in _UNSAFE):
            return _Failure("refused as unsafe", refused=True)
        return _Failure(text, again=status >= 500)

    def _check(self, request: ImageRequest) -> None:
        if request.source is not None:
            raise SynthesisError(f"{self.settings.base_url}: request {request.id} edits a picture; servers only paint")
        if request.strength != 1 and self.settings.strength_field is None:
            raise SynthesisError(
                f"{self.settings.base_url}: request {request.id} wants strength {request.strength:g} of the adapter; "
                "set strength_field to what the server calls it, or paint at strength 1 only"
            )

    def _count(self, name: str) -> None:
        with self._lock:
            self.usage[name] += 1
            if name == "images" and self.settings.price is not None:
                self.usage["cost"] += self.settings.price

    def _gone(self, problem: str) -> SynthesisError:
        return SynthesisError(
            f"{self.settings.base_url}: the image server does not answer ({problem}); start it, or correct base_url, "
            "or set a longer timeout or patience"
        )

    def _wrongly_set_up(self, error: openai.APIStatusError) -> SynthesisError:
        return SynthesisError(
            f"{self.settings.base_url}: refuses to paint with model {self.settings.model!r} ({_one_line(error)}); "
            "correct model, base_url, or the key that api_key_variable names"
        )

    def _failing(self, failed: list[PaintedImage]) -> SynthesisError:
        return SynthesisError(
            f"{self.settings.base_url}: the last {len(failed)} requests all failed, {failed[-1].id} for: "
            f"{failed[-1].fault}; see to the server or the settings, and start again"
        )


def _picture(content: bytes) -> Image.Image:
    """The picture in a server's answer. `_Failure` if there is none."""
    try:
        code = json.loads(content)["data"][0]["b64_json"]
        return open_image({"bytes": base64.b64decode(code, validate=True)}, name="the answer")
    except (ValueError, LookupError, TypeError) as error:  # no JSON, no such fields, no base64, no picture
        start = content[:80].decode(errors="replace")
        raise _Failure(f"no picture in the answer ({_one_line(error)}): {start}") from error


def _retry_after(error: openai.APIStatusError) -> float:
    """Seconds; 0 if the server names none."""
    try:
        return float(error.response.headers.get("retry-after", 0))
    except ValueError:
        return 0.0


def _key(settings: ImageServer) -> str:
    if settings.api_key_variable is None:
        return "none"  # the client wants one
    key = os.environ.get(settings.api_key_variable)
    if not key:
        raise SynthesisError(f"{settings.base_url}: the environment variable {settings.api_key_variable} is not set")
    return key


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
