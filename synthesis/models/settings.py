"""What a recipe says of a language model. Loading it imports torch or openai; reading the recipe does not."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ..components import TextModel
from ..servers.settings import Server, check_options
from ..settings import BatchSize, Concurrency, Count, Free, ModelName, NotNegative, Positive, Settings

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


_TopP = Annotated[float, Field(gt=0, le=1)]


class ChatModel(Settings):
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

    kind: Literal["transformers"] = "transformers"

    model: ModelName
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_new_tokens: Count = 512
    temperature: NotNegative = 1.0
    top_p: _TopP = 0.95
    batch_size: BatchSize = 16
    image_size: Count = 512
    device: Free[str | None] = None

    def load(self) -> TextModel:
        """Loads the weights.

        Raises:
            SynthesisError: there is no such model, it cannot chat, or memory is too small.
        """
        from .chat import LoadedChatModel

        return LoadedChatModel(self)


class ServerModel(Server):
    """A model behind a URL that speaks the chat-completions protocol of OpenAI: vLLM and the like; see `Server`.

    Attributes:
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
        input_price: Of a million tokens read, in any currency; None if the cost need not be counted.
        output_price: Of a million tokens written.
    """

    max_tokens: Count = 512
    temperature: NotNegative = 1.0
    top_p: _TopP = 0.95
    # None, so that what was begun before there were these settings can be gone on with.
    options: dict[str, Any] | None = None
    leave_out: list[Literal[FIELDS]] | None = None
    image_size: Count = 768
    concurrency: Free[Concurrency] = 32
    requests_per_minute: Free[Positive | None] = None
    input_price: Free[float | None] = None
    output_price: Free[float | None] = None

    @model_validator(mode="after")
    def _check_requests(self) -> "ServerModel":
        own = [*_BODY_IS_READ, *FIELDS]
        if "max_tokens" not in (self.leave_out or ()):
            own.append("max_completion_tokens")
        check_options(self.options or {}, _OPTIONS, tuple(own))
        return self

    def load(self) -> TextModel:
        """Asks the server one thing, so that a wrong URL, name or key shows before any work is done.

        Raises:
            SynthesisError: the server cannot be reached, refuses the key, or does not know the model; or nobody but the
                recipe says that the server gets the key.
        """
        from .server import LoadedServerModel

        return LoadedServerModel(self)


LanguageModel = Annotated[ChatModel | ServerModel, Field(discriminator="kind")]
