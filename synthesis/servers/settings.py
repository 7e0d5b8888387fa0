"""What a recipe says of any server: where it is, how patient to be with it, and what is added to its requests."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ...names import meant
from ..settings import Concurrency, CountOrZero, Free, ModelName, NotNegative, Positive, Settings
from .address import BaseUrl, KeyVariable

_KEYS = ("api_key", "apikey", "api-key", "key", "authorization", "token", "access_token", "password", "secret")


class Server(Settings):
    """A server that speaks OpenAI's protocol.

    Attributes:
        model: Name that the server knows it by.
        base_url: Up to and with "/v1".
        api_key_variable: Name of the environment variable that holds the key; None for servers that want none. A key
            goes to the host that its name is known for, to this machine, or to where `FAFA_KEY_HOSTS` says; see
            `fafa.synthesis.servers.address`.
        concurrency: Requests under way at once.
        timeout: Seconds to wait for one answer.
        max_retries: How often a request that failed is sent again before its item is given up.
        patience: Seconds to wait for a server that is away or asks to wait, counted from its last answer.
    """

    kind: Literal["server"] = "server"

    model: ModelName
    base_url: Free[BaseUrl] = "http://localhost:8000/v1"
    api_key_variable: Free[KeyVariable | None] = None
    concurrency: Free[Concurrency] = 8
    timeout: Free[Positive] = 300.0
    max_retries: Free[CountOrZero] = 5
    patience: Free[NotNegative] = 900.0


def check_options(options: Mapping[str, Any], known: Sequence[str], own: Sequence[str]) -> None:
    """Refuse further fields of a request that cannot be meant.

    Args:
        options: By name, as the recipe gives them.
        known: Names of which a similar one is a slip.
        own: Names that have a setting, or are decided here.

    Raises:
        ValueError: the message begins with "options".
    """
    for name, value in options.items():
        where = f"options: {name}"
        if name in own:
            raise ValueError(f"{where} is decided elsewhere: use the setting of that name, if there is one")
        if name in ("extra_body", "extra_headers", "extra_query"):
            raise ValueError(f"{where} is a word of openai's client: write its fields under options themselves")
        if name.lower() in _KEYS:
            raise ValueError(f"{where}: a key never belongs in a recipe: see api_key_variable")
        for word in [name, *(value if name == "chat_template_kwargs" and isinstance(value, Mapping) else [])]:
            if word not in known and (hint := meant(word, [*known, *own], likeness=0.85)):
                raise ValueError(f"options: {word} is not known; {hint}")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where} cannot be sent as JSON: {error}") from None
