"""An image model behind a URL, over OpenAI's protocol: what is asked, and what is made of the answer."""

import base64
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from PIL import Image
from pydantic import model_validator

from ...image_reading_fafa import open_image
from ..components import ImageModel, ImageRequest, PaintedImage, SynthesisError
from ..servers.failures import Away, Failed, Refused, refused_field
from ..servers.settings import Server, check_options
from ..settings import Free, Pixels

logger = logging.getLogger(__name__)

_MOST_BYTES_PER_PIXEL, _MOST_OTHER_BYTES = 8, 2**20  # of an answer: PNG in base64 takes at most 5.4 per pixel

# Fields that a recipe may leave out. Without the last one it would be another image, so a refusal does not drop it.
_FIELDS = ("seed", "response_format", "n", "size")
# Further fields of common servers, to find slips of the pen; a server may know others.
_OPTIONS = ("num_inference_steps", "guidance_scale", "negative_prompt", "true_cfg_scale", "quality", "style", "user")
_OPTIONS += ("background", "output_format", "scheduler", "width", "height", "steps", "strength", "lora")


class ImageServer(Server):
    """Settings of an image model behind a URL that speaks OpenAI's protocol: `POST {base_url}/images/generations`.

    The server must answer with `b64_json` and should take a `seed`; whether the same seed gives the same image depends
    on the server. `Server` describes the other settings.

    Attributes:
        width: Width of an image, in pixels.
        height: Height of an image, in pixels.
        options: Further fields of the request's body that the server knows, such as `num_inference_steps`.
        leave_out: Fields that the server does not take: "seed", "response_format", "n", "size". If a server refuses one
            of the first three by name, it is left out anyway, with a warning and a note in the manifest.
        strength_field: The body's field for the strength of an adapter; None for servers that paint without one.
        price: Price of an image, in any currency; None if the cost need not be counted.
    """

    width: Pixels = 1024
    height: Pixels = 1024
    options: dict[str, Any] = {}
    leave_out: list[Literal[_FIELDS]] | None = None  # None, so that work begun before this setting existed can go on
    strength_field: str | None = None
    price: Free[float | None] = None

    @model_validator(mode="after")
    def _check_requests(self) -> "ImageServer":
        own = ("model", "prompt", "stream", *(name for name in _FIELDS if name not in (self.leave_out or ())))
        check_options(self.options, (*_OPTIONS, *([self.strength_field] if self.strength_field else [])), own)
        return self

    def load(self) -> ImageModel:
        """Asks the server for its models, so that a wrong URL or key shows before any work is done.

        Raises:
            SynthesisError: the server cannot be reached or refuses the key.
        """
        return ServedImageModel(self)


class ServedImageModel(ImageModel):
    """An image model behind a URL; `ImageServer` says what its settings mean."""

    def __init__(self, settings: ImageServer):
        from ..servers.client import PatientClient  # imports openai, which reading a recipe does not need

        super().__init__()
        self.settings = settings
        self.about = {"model": settings.model, "base_url": settings.base_url}
        most_bytes = _MOST_OTHER_BYTES + _MOST_BYTES_PER_PIXEL * settings.width * settings.height
        self._client = PatientClient(settings, self.usage, most_bytes)
        self._left_out = frozenset(settings.leave_out or ())
        self._client.run(self._check_address)

    def paint(self, requests: Iterable[ImageRequest]) -> Iterator[PaintedImage]:
        """Images as they come; see `PatientClient.map`. One that is refused, or fails time and again, is a fault.

        Raises:
            SynthesisError: the server is away for longer than `patience`, refuses the key, the model or every request,
                has nothing left to spend, or cannot do what is asked (editing, or another strength than 1 without
                `strength_field`).
        """
        return self._client.map(requests, self._paint)

    async def _paint(self, request: ImageRequest) -> tuple[PaintedImage, bool]:
        """The image or its fault, and whether the server works."""
        if request.source is not None:
            raise SynthesisError(f"{self.settings.base_url}: request {request.id} edits an image; servers only paint")
        if request.strength != 1 and self.settings.strength_field is None:
            raise SynthesisError(
                f"{self.settings.base_url}: request {request.id} wants strength {request.strength:g} of the adapter; "
                "set strength_field to the server's name for it, or paint at strength 1 only"
            )
        refused: frozenset[str] = frozenset()  # fields that the server seems not to take, until it paints without them

        async def ask() -> Image.Image:
            body = self._body(request, self._left_out | refused)
            return await self._client.ask("/images/generations", body, self._image_in)

        async def adapt(error: Failed) -> bool:
            nonlocal refused
            if name := refused_field(error, [name for name in _FIELDS[:3] if name not in self._left_out | refused]):
                refused |= {name}
            elif error.status in (403, 404) and not error.filtered:
                raise self._wrongly_set_up(error)
            return name is not None

        try:
            image = await self._client.insist(request.id, ask, adapt)
        except Failed as error:
            if error.filtered:
                fault = error.name if error.status is None else "refused as unsafe"
                return PaintedImage(request.id, None, fault), True
            return PaintedImage(request.id, None, str(error)), False
        self._adopt(refused)
        self.usage["images"] += 1
        if self.settings.price is not None:
            self.usage["cost"] += self.settings.price
        return PaintedImage(request.id, image), True

    def _body(self, request: ImageRequest, left_out: frozenset[str]) -> dict[str, Any]:
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
        return {name: value for name, value in fields.items() if name not in left_out}

    def _image_in(self, body: Mapping[str, Any]) -> Image.Image:
        """The image in an answer, of the size that was asked for; only formats of photographs are read."""
        entries = body.get("data")
        entry = entries[0] if isinstance(entries, list) and entries else None
        code, url = (entry.get("b64_json"), entry.get("url")) if isinstance(entry, dict) else (None, None)
        if not code and isinstance(url, str) and url and not url.startswith("data:"):  # nobody asked to follow it
            raise Failed("a URL in place of the image", "have the server answer with b64_json")
        code = code or url
        if not isinstance(code, str):
            raise Failed("no image in the answer", "it should be in the first entry of data, as b64_json")
        try:
            code = code.partition(";base64,")[2] if code.startswith("data:") else code
            image = open_image({"bytes": base64.b64decode(code, validate=True)}, name="the answer")
        except ValueError as error:  # no base64, no image
            raise Failed("no image in the answer", str(error)) from error
        width, height = self.settings.width, self.settings.height
        if image.size != (width, height):
            painted = f"painted {image.width}x{image.height} pixels, asked for {width}x{height}"
            raise Failed("an image of another size", painted)
        if image.getbbox() is None:
            raise Refused("refused as unsafe (all black)", filtered=True)
        return image

    def _adopt(self, refused: frozenset[str]) -> None:
        """Leaves out from now on the fields that the server painted without, and says so once."""
        if not (new := sorted(refused - self._left_out)):
            return
        self._left_out |= refused
        own = self._left_out - frozenset(self.settings.leave_out or ())
        self.about["changes of the request"] = [f"{name} is left out" for name in sorted(own)]
        seed = ". Therefore an image cannot be painted again as it was" if "seed" in new else ""
        message = "%s does not take %s, left out from now on, and noted in the manifest%s"
        logger.warning(message, self.settings.base_url, " and ".join(new), seed)

    async def _check_address(self) -> None:
        """Asks for the list of models, which nearly every server has."""
        began, is_listed = time.monotonic(), False
        try:
            body = await self._client.exchange("/models", None, min(30.0, self.settings.timeout))
            is_listed = "data" in body
        except Away as error:
            if error.pause is None:
                self._client.check_patience("which models are there", error, began, 0.0)
        except Failed as error:
            if error.status == 403:
                raise self._wrongly_set_up(error) from error
        if not is_listed and (url := await self._client.address_with_v1()):
            raise SynthesisError(
                f"{self.settings.base_url}: no image server is at this address. Did you mean base_url: {url}?"
            )
        self._client.last_answer = time.monotonic()  # the server is there: from now on the client waits for it

    def _wrongly_set_up(self, error: Failed) -> SynthesisError:
        return SynthesisError(
            f"{self.settings.base_url}: refuses to paint with model {self.settings.model!r} ({error}); "
            "correct model, base_url, or the key that api_key_variable names"
        )
