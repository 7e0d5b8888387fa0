"""What a recipe says of a chat model in this process; `chat_model` loads it, which takes torch and transformers."""

from typing import Annotated, Literal

from pydantic import Field

from ..components import TextModel
from ..settings import BatchSize, Count, Free, ModelName, NotNegative, Settings


class ChatModel(Settings):
    """A chat model in this process, by transformers; with images if it is an image-text-to-text model.

    Attributes:
        model: Id on the Hub, or a folder.
        revision: Branch, tag or commit on the Hub.
        dtype: Type of the weights: "float32", "bfloat16" or "float16"; "auto" takes the checkpoint's own.
        max_new_tokens: Longest answer; a longer one is a fault.
        temperature: Temperature of sampling; 0 takes the likeliest token.
        top_p: Share of the probability that is sampled from.
        batch_size: Requests answered at once. A batch is always this large, since the size of a batch can change the
            last bits of its numbers; it is halved when memory runs out.
        image_size: Images are shrunk to this many pixels and padded to a square, so that no crop cuts a person.
        device: "cpu", "cuda:1", or "auto" to spread the weights over all devices; None for the first GPU if there is
            one.
    """

    kind: Literal["transformers"] = "transformers"

    model: ModelName
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_new_tokens: Count = 512
    temperature: NotNegative = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    batch_size: BatchSize = 16
    image_size: Count = 512
    device: Free[str | None] = None

    def load(self) -> TextModel:
        """Loads the weights.

        Raises:
            SynthesisError: there is no such model, it cannot chat, or memory is too small.
        """
        from .chat_model import LoadedChatModel

        return LoadedChatModel(self)
