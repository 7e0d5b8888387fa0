"""Language models that look at pictures or only read: in this process, or behind a URL."""

from .settings import ChatModel, ServerModel

__all__ = ["ChatModel", "ServerModel"]
