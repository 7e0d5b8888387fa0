"""What tests ask servers of language models, and how long these may pause."""

import pytest

from fafa.synthesis.components import TextRequest
from fafa.synthesis.servers import client

SCHEMA = {
    "type": "object",
    "properties": {"caption": {"type": "string"}, "score": {"type": "integer"}},
    "required": ["caption", "score"],
    "additionalProperties": False,
}


def requests_for(count: int, **options) -> list[TextRequest]:
    """Each about another person."""
    return [
        TextRequest(str(item), [{"role": "user", "content": f"Describe person {item}"}], seed=item, **options)
        for item in range(count)
    ]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Retries that come at once, in every module that imports this."""
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.02)
