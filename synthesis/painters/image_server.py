"""Settings of pictures painted by a server; `image_server_model` does the work."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ..components import free
from ..servers.address import check_base_url, check_key_variable
from ..servers.options import check_left_out, check_options

if TYPE_CHECKING:
    from .image_server_model import ServedImageModel

# What a request can do without, and what it cannot.
_FIELDS = ("seed", "response_format", "n", "size")
_OWN = ("model", "prompt", "stream")
# Further fields of the servers that people use, against slips of the pen; a server may know others.
_OPTIONS = ("num_inference_steps", "guidance_scale", "negative_prompt", "true_cfg_scale", "quality", "style", "user")
_OPTIONS += ("background", "output_format", "scheduler", "width", "height", "steps", "strength", "lora")


@dataclass(frozen=True)
class ImageServer:
    """Settings of an image model behind a URL that speaks OpenAI's protocol: `POST {base_url}/images/generations`.

    The server must answer with `b64_json` and should take a `seed`; whether the same seed gives the same picture is up
    to it.

    Attributes:
        model: Name that the server knows it by.
        base_url: Up to and with "/v1".
        api_key_variable: Name of the environment variable that holds the key; None for servers that want none. A key
            goes to the host that its name is known for, to this machine, or to where `FAFA_KEY_HOSTS` says; see
            `fafa.synthesis.servers.address`.
        width: Of a picture, in pixels.
        height: Of a picture, in pixels.
        options: Further fields of the request's body that the server knows, such as `num_inference_steps`.
        leave_out: Fields that the server does not take: "seed", "response_format", "n", "size". The first three are
            left out anyway if the server refuses them by name, with a warning, and noted in the manifest.
        strength_field: The body's field for the strength of an adapter; None for servers that paint without one.
        concurrency: Requests under way at once.
        timeout: Seconds to wait for one picture.
        max_retries: How often a request that failed is sent again before its item is given up.
        patience: Seconds to wait for a server that is away or overloaded, counted from its last picture.
        price: Of a picture, in any currency; None if the cost need not be counted.
    """

    kind: ClassVar[str] = "server"

    model: str
    base_url: str = free("http://localhost:8000/v1")
    api_key_variable: str | None = free(None)
    width: int = 1024
    height: int = 1024
    options: dict[str, Any] = field(default_factory=dict)
    leave_out: list[str] | None = None  # None, so that what was begun before there was this can be gone on with
    strength_field: str | None = None
    concurrency: int = free(8)
    timeout: float = free(300.0)
    max_retries: int = free(5)
    patience: float = free(900.0)
    price: float | None = free(None)

    def __post_init__(self) -> None:
        for name in ("width", "height", "concurrency", "timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0: {getattr(self, name)}")
        for name in ("max_retries", "patience"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be below 0: {getattr(self, name)}")
        check_base_url(self.base_url)
        check_key_variable(self.api_key_variable)
        check_left_out(self.leave_out or [], _FIELDS)
        own = (*_OWN, *(name for name in _FIELDS if name not in (self.leave_out or ())))
        check_options(self.options, (*_OPTIONS, *([self.strength_field] if self.strength_field else [])), own)

    def load(self) -> "ServedImageModel":
        """Asks the server which models it has, so that a wrong URL or key shows before any work is done.

        Raises:
            SynthesisError: the server cannot be reached or refuses the key.
        """
        from .image_server_model import ServedImageModel

        return ServedImageModel(self)
