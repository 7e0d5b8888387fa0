"""Settings of pictures painted by a server; `image_server_model` does the work."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from ..servers.settings import Server, check_options
from ..settings import Free, Pixels

if TYPE_CHECKING:
    from .image_server_model import ServedImageModel

# What a request can do without, and what it cannot.
_FIELDS = ("seed", "response_format", "n", "size")
_OWN = ("model", "prompt", "stream")
# Further fields of the servers that people use, against slips of the pen; a server may know others.
_OPTIONS = ("num_inference_steps", "guidance_scale", "negative_prompt", "true_cfg_scale", "quality", "style", "user")
_OPTIONS += ("background", "output_format", "scheduler", "width", "height", "steps", "strength", "lora")


class ImageServer(Server):
    """Settings of an image model behind a URL that speaks OpenAI's protocol: `POST {base_url}/images/generations`.

    The server must answer with `b64_json` and should take a `seed`; whether the same seed gives the same picture is up
    to it. `Server` says what it has in common with others.

    Attributes:
        width: Of a picture, in pixels.
        height: Of a picture, in pixels.
        options: Further fields of the request's body that the server knows, such as `num_inference_steps`.
        leave_out: Fields that the server does not take: "seed", "response_format", "n", "size". The first three are
            left out anyway if the server refuses them by name, with a warning, and noted in the manifest.
        strength_field: The body's field for the strength of an adapter; None for servers that paint without one.
        price: Of a picture, in any currency; None if the cost need not be counted.
    """

    width: Pixels = 1024
    height: Pixels = 1024
    options: dict[str, Any] = {}
    leave_out: list[Literal[_FIELDS]] | None = None  # None, so that what was begun before there was this can go on
    strength_field: str | None = None
    price: Free[float | None] = None

    @model_validator(mode="after")
    def _check_requests(self) -> "ImageServer":
        own = (*_OWN, *(name for name in _FIELDS if name not in (self.leave_out or ())))
        check_options(self.options, (*_OPTIONS, *([self.strength_field] if self.strength_field else [])), own)
        return self

    def load(self) -> "ServedImageModel":
        """Asks the server which models it has, so that a wrong URL or key shows before any work is done.

        Raises:
            SynthesisError: the server cannot be reached or refuses the key.
        """
        from .image_server_model import ServedImageModel

        return ServedImageModel(self)
