"""A language model that answers by a function, for tests of those that ask."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fafa.synthesis.components import TextModel, TextReply, TextRequest
from fafa.synthesis.models import ChatModel
from fafa.synthesis.settings import Free


class Ready(ChatModel):
    """Settings of a language model, `part`, that is loaded already."""

    model: str = "ready"
    part: Free[Any]

    def load(self) -> TextModel:
        return self.part


class ScriptedModel(TextModel):
    """Answers the last request first, as models may; `asked` keeps all requests.

    Args:
        script: The answer to a request; one that starts with "FAULT " is a fault.
    """

    def __init__(self, script: Callable[[TextRequest], str]):
        super().__init__()
        self.script = script
        self.asked: list[TextRequest] = []

    def answer(self, requests: Iterable[TextRequest]) -> Iterator[TextReply]:
        for request in reversed(list(requests)):
            self.asked.append(request)
            text = self.script(request)
            fault = text.removeprefix("FAULT ") if text.startswith("FAULT ") else None
            yield TextReply(request.id, "" if fault else text, fault)
