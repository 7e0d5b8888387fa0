"""An image model behind a URL at work: many requests at once, patient with the server, sceptical of its answers."""

import base64
import itertools
import logging
import random
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from itertools import islice
from threading import Event, Lock
from typing import Any

import openai
from PIL import Image

from ...image_reading_fafa import open_image
from ..components import ImageModel, ImageRequest, PaintedImage, SynthesisError
from ..servers.address import Address
from ..servers.connection import Answer, connect, exchange_blocking
from ..servers.failures import Away, Failed, Refused, kind_of, read_body, refused_field
from .image_server import ImageServer

logger = logging.getLogger(__name__)

_WRONG_SET_UP = {403, 404}
_NOT_NEEDED = ("seed", "response_format", "n")  # to paint; without a size it would be another picture
_LONGEST_PAUSE = 30.0  # seconds, unless the server asks for a longer one
_FAILURES_IN_A_ROW = 20  # then it is the server that fails, not the requests
_MOST_BYTES_PER_PIXEL, _MOST_OTHER_BYTES = 8, 2**20  # of an answer: PNG in base64 takes 5.4 of a pixel at worst


class ServedImageModel(ImageModel):
    """An image model behind a URL; `ImageServer` says what its settings mean."""

    def __init__(self, settings: ImageServer):
        super().__init__()
        self.settings = settings
        self.about = {"model": settings.model, "base_url": settings.base_url}
        self._address = Address(settings.base_url, settings.api_key_variable)
        self._client = connect(self._address, settings.timeout, openai.DefaultHttpxClient)
        self._most_bytes = _MOST_OTHER_BYTES + _MOST_BYTES_PER_PIXEL * settings.width * settings.height
        self._left_out = frozenset(settings.leave_out or ())
        self._lock = Lock()
        self._last_picture = time.monotonic()
        self._works = False
        self._check_address()

    def paint(self, requests: Iterable[ImageRequest]) -> Iterator[PaintedImage]:
        """Pictures as they come; `concurrency` requests are under way at once.

        A picture that the server fails to paint, or refuses, is a fault. Faults of failing are held back until it
        paints something again: a server that fails altogether must not use up the items.

        Raises:
            SynthesisError: the server is away for longer than `patience`, refuses the key, the model or every request,
                has nothing left to spend, or cannot do what is asked (another strength than 1 without
                `strength_field`, editing).
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
        settings, since, failures = self.settings, time.monotonic(), 0
        refused: frozenset[str] = frozenset()  # fields that the server seems not to take, until it paints without
        for attempt in itertools.count():
            asked, left_out = time.monotonic(), self._left_out | refused
            try:
                image = self._ask(request, left_out)
                self._adopt(left_out)
                return PaintedImage(request.id, image), False
            except Failed as caught:
                error = caught
            if isinstance(error, Refused) and error.filtered:
                return PaintedImage(
                    request.id, None, error.name if error.status is None else "refused as unsafe"
                ), False
            if name := refused_field(error, [name for name in _NOT_NEEDED if name not in left_out]):
                refused |= {name}
                self._count("retries")
                continue
            if error.status in _WRONG_SET_UP:
                raise self._wrongly_set_up(error)
            pause = min(_LONGEST_PAUSE, 0.5 * 2 ** min(attempt, 10)) * random.uniform(0.5, 1.0)
            if isinstance(error, Away) and not (error.may_be_its_own and self._last_picture > asked):
                waited = time.monotonic() - max(since, self._last_picture)
                if max(waited, error.pause or 0.0) > settings.patience:
                    raise self._gone(error, waited) from error
                pause = max(error.pause or 0.0, pause)
            else:
                failures += 1
            if isinstance(error, Refused) or failures > settings.max_retries or stop.is_set():
                return PaintedImage(request.id, None, str(error)), True
            self._count("retries")
            stop.wait(pause)

    def _ask(self, request: ImageRequest, left_out: frozenset[str]) -> Image.Image:
        """One picture, asked for once."""
        settings = self.settings
        fields = {
            "model": settings.model,
            "prompt": request.prompt,
            "n": 1,
            "size": f"{settings.width}x{settings.height}",
            "response_format": "b64_json",
            **settings.options,
            "seed": request.seed % 2**31,  # larger ones overflow in some servers
        }
        if settings.strength_field is not None:
            fields[settings.strength_field] = request.strength
        self._count("requests")
        sent = {name: value for name, value in fields.items() if name not in left_out}
        answer = self._exchange("/images/generations", sent, settings.timeout)
        image = self._picture(read_body(self._address, *answer))
        if image.size != (settings.width, settings.height):
            raise Failed(
                "a picture of another size",
                f"painted {image.width}x{image.height} pixels, asked for {settings.width}x{settings.height}",
            )
        if image.getbbox() is None:
            raise Refused("refused as unsafe (all black)", filtered=True)
        with self._lock:
            self._last_picture = time.monotonic()
        self._count("images")
        return image

    def _exchange(self, path: str, body: Mapping[str, Any] | None, timeout: float) -> Answer:
        return exchange_blocking(self._client, self._address, path, body, timeout, self._most_bytes)

    def _picture(self, body: Mapping[str, Any]) -> Image.Image:
        """The picture in an answer, of the formats of photographs only."""
        if not isinstance(entries := body.get("data"), list) or not entries:
            raise Failed("no picture in the answer", "it should be in data")
        if not isinstance(entry := entries[0], dict):
            raise Failed("no picture in the answer", f"the first entry is {kind_of(entry)}")
        code, url = entry.get("b64_json"), entry.get("url")
        if not isinstance(code, str) or not code:
            if not isinstance(url, str) or not url:
                raise Failed("no picture in the answer", "the first entry has no b64_json")
            if not url.startswith("data:"):  # to follow it, wherever it leads, is not what was asked for
                raise Failed("a URL in place of the picture", "have the server answer with b64_json")
            code = url
        try:
            content = base64.b64decode(
                code.partition(";base64,")[2] if code.startswith("data:") else code, validate=True
            )
            return open_image({"bytes": content}, name="the answer")
        except ValueError as error:  # no base64, no picture
            raise Failed("no picture in the answer", self._address.line(error)) from error

    def _adopt(self, left_out: frozenset[str]) -> None:
        """Leaves out from now on what the server painted without, and says so once."""
        with self._lock:
            if not (new := sorted(left_out - self._left_out)):
                return
            self._left_out |= left_out
            own = self._left_out - frozenset(self.settings.leave_out or ())
            self.about["changes of the request"] = [f"{name} is left out" for name in sorted(own)]
        seed = ". A picture can therefore not be painted again as it was" if "seed" in new else ""
        logger.warning(
            "%s does not take %s, left out from now on, and noted in the manifest%s",
            self.settings.base_url,
            " and ".join(new),
            seed,
        )

    def _check_address(self) -> None:
        """Asks for the list of models, which hardly any server lacks."""
        url, timeout = self.settings.base_url.rstrip("/"), min(30.0, self.settings.timeout)
        try:
            if "data" in read_body(self._address, *self._exchange("/models", None, timeout)):
                return
        except Away as error:
            if error.pause is None:
                raise self._gone(error, 0.0) from error
        except Failed as error:
            if error.status == 403:
                raise self._wrongly_set_up(error) from error
        if not url.endswith("/v1"):
            try:
                found = "data" in read_body(self._address, *self._exchange("/v1/models", None, timeout))
            except Failed:
                found = False
            if found:
                raise SynthesisError(f"{url}: no image server is at this address. Did you mean base_url: {url}/v1?")
        logger.debug("%s does not list its models", url)

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

    def _gone(self, error: Away, waited: float) -> SynthesisError:
        since = f", for {waited:.0f} s" if waited >= 1 else ""
        asks = f", and asks to wait for {error.pause:.0f} s" if error.pause else ""
        return SynthesisError(
            f"{self.settings.base_url}: the image server does not answer ({error}{since}{asks}); start it, or correct "
            "base_url, or set a longer timeout or patience"
        )

    def _wrongly_set_up(self, error: Failed) -> SynthesisError:
        return SynthesisError(
            f"{self.settings.base_url}: refuses to paint with model {self.settings.model!r} ({error}); "
            "correct model, base_url, or the key that api_key_variable names"
        )

    def _failing(self, failed: list[PaintedImage]) -> SynthesisError:
        return SynthesisError(
            f"{self.settings.base_url}: the last {len(failed)} requests all failed, {failed[-1].id} for: "
            f"{failed[-1].fault}; see to the server or the settings, and start again"
        )
