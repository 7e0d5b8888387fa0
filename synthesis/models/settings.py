"""What a recipe says of a language model. Loading it imports torch or openai; reading the recipe does not."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..components import TextModel, free
from ..servers.address import check_base_url, check_key_variable
from ..servers.options import check_left_out, check_options

# What a request can do without, and a recipe can therefore leave out.
FIELDS = ("temperature", "top_p", "seed", "max_tokens", "response_format")
_BODY_IS_READ = ("model", "messages", "prompt", "n", "best_of", "stream", "stream_options", "tools", "tool_choice")
_BODY_IS_READ += ("functions", "function_call", "modalities", "audio", "echo")
# Further fields of the servers that people use, against slips of the pen; a server may know others.
_OPTIONS = ("frequency_penalty", "presence_penalty", "repetition_penalty", "top_k", "min_p", "typical_p", "stop")
_OPTIONS += ("stop_token_ids", "logit_bias", "logprobs", "min_tokens", "max_completion_tokens", "ignore_eos")
_OPTIONS += ("reasoning_effort", "reasoning", "thinking", "thinking_budget", "enable_thinking", "include_reasoning")
_OPTIONS += ("separate_reasoning", "chat_template_kwargs", "verbosity", "service_tier", "store", "user", "metadata")
_OPTIONS += ("provider", "models", "route", "transforms", "structured_outputs", "guided_decoding_backend")
_OPTIONS += ("mm_processor_kwargs", "cache_prompt", "keep_alive", "num_ctx", "safe_prompt", "prompt_cache_key")


def _check_positive(settings: Any, *names: str) -> None:
    """Raises ValueError, with the kind and the field, unless each of these is above 0; None counts as left out."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and value <= 0:
            raise ValueError(f"{settings.kind}: {name} is {value}, and must be above 0")


def _check_sampling(settings: Any) -> None:
    """Raises ValueError unless temperature and top_p can be sampled with."""
    if settings.temperature < 0:
        raise ValueError(
            f"{settings.kind}: temperature is {settings.temperature}, and must be 0 (the likeliest) or more"
        )
    if not 0 < settings.top_p <= 1:
        raise ValueError(f"{settings.kind}: top_p is {settings.top_p}, and must be above 0 and at most 1")


@dataclass(frozen=True)
class ChatModel:
    """A chat model in this process, by transformers; with pictures if it is an image-text-to-text model.

    Attributes:
        model: Id on the Hub, or a folder.
        revision: Branch, tag or commit on the Hub.
        dtype: Of the weights: "float32", "bfloat16" or "float16"; "auto" takes the checkpoint's own.
        max_new_tokens: The longest answer; what is longer is a fault.
        temperature: Of sampling; 0 takes the likeliest token.
        top_p: Share of the probability that is sampled from.
        batch_size: Requests answered at once. A batch is always this large, since the size of a batch can change the
            last bits of its numbers; it is halved when memory runs out.
        image_size: Pictures are shrunk to this many pixels and padded to a square, so that no crop cuts a person.
        device: "cpu", "cuda:1", or "auto" to spread the weights over all devices; None for the first GPU if there is
            one.
    """

    kind: ClassVar[str] = "transformers"

    model: str
    revision: str | None = None
    dtype: str = "auto"
    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 0.95
    batch_size: int = 16
    image_size: int = 512
    device: str | None = free(None)

    def __post_init__(self) -> None:
        _check_positive(self, "max_new_tokens", "batch_size", "image_size")
        _check_sampling(self)
        if self.dtype not in (known := ("auto", "float32", "bfloat16", "float16")):
            raise ValueError(f'{self.kind}: dtype is "{self.dtype}", and must be one of {", ".join(known)}')

    def load(self) -> TextModel:
        """Loads the weights.

        Raises:
            SynthesisError: there is no such model, it cannot chat, or memory is too small.
        """
        from .chat import LoadedChatModel

        return LoadedChatModel(self)


@dataclass(frozen=True)
class ServerModel:
    """A model behind a URL that speaks the chat-completions protocol of OpenAI: vLLM and the like.

    Attributes:
        model: Name that the server knows it by.
        base_url: Up to and with "/v1".
        api_key_variable: Name of the environment variable that holds the key; None for servers that want none. A key
            goes to the host that its name is known for, to this machine, or to where `FAFA_KEY_HOSTS` says; see
            `fafa.synthesis.servers.address`.
        max_tokens: The longest answer; what is longer is a fault.
        temperature: Of sampling.
        top_p: Share of the probability that is sampled from.
        options: Further fields of every request that the server knows, such as `reasoning_effort: low` or
            `chat_template_kwargs: {enable_thinking: false}`.
        leave_out: Fields that the server does not take: "temperature", "top_p", "seed", "max_tokens" (name another
            under `options`, or none), "response_format" (schemas are put into words). What a server refuses by name is
            left out anyway, with a warning, and noted in the manifest.
        image_size: Pictures are shrunk until no side has more pixels than this.
        concurrency: Requests under way at once.
        requests_per_minute: At most so many are sent, repeats included; None for as many as the server takes.
        timeout: Seconds to wait for one answer.
        max_retries: How often a request that failed is sent again before its item is given up.
        patience: Seconds to wait for a server that is away or says 429, counted from its last answer.
        input_price: Of a million tokens read, in any currency; None if the cost need not be counted.
        output_price: Of a million tokens written.
    """

    kind: ClassVar[str] = "server"

    model: str
    base_url: str = free("http://localhost:8000/v1")
    api_key_variable: str | None = free(None)
    max_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 0.95
    # None, so that what was begun before there were these settings can be gone on with.
    options: dict[str, Any] | None = None
    leave_out: list[str] | None = None
    image_size: int = 768
    concurrency: int = free(32)
    requests_per_minute: float | None = free(None)
    timeout: float = free(300.0)
    max_retries: int = free(5)
    patience: float = free(900.0)
    input_price: float | None = free(None)
    output_price: float | None = free(None)

    def __post_init__(self) -> None:
        _check_positive(self, "max_tokens", "image_size", "concurrency", "requests_per_minute", "timeout", "patience")
        _check_sampling(self)
        if self.max_retries < 0:
            raise ValueError(f"{self.kind}: max_retries is {self.max_retries}, and must be 0 or more")
        own = [*_BODY_IS_READ, *FIELDS]
        if "max_tokens" not in (self.leave_out or ()):
            own.append("max_completion_tokens")
        try:
            check_base_url(self.base_url)
            check_key_variable(self.api_key_variable)
            check_left_out(self.leave_out or [], FIELDS)
            check_options(self.options or {}, _OPTIONS, tuple(own))
        except ValueError as error:
            raise ValueError(f"{self.kind}: {error}") from None

    def load(self) -> TextModel:
        """Asks the server one thing, so that a wrong URL, name or key shows before any work is done.

        Raises:
            SynthesisError: the server cannot be reached, refuses the key, or does not know the model; or nobody but the
                recipe says that the server gets the key.
        """
        from .server import LoadedServerModel

        return LoadedServerModel(self)
