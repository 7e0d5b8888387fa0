"""Language models that look at images or only read: in this process, or behind a URL."""

from typing import Annotated

from pydantic import Field

from .chat import ChatModel
from .server import ServerModel

LanguageModel = Annotated[ChatModel | ServerModel, Field(discriminator="kind")]

__all__ = ["ChatModel", "LanguageModel", "ServerModel"]
