"""What a recipe adds to a server's requests and leaves out of them: refused by name where it cannot be meant."""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

_KEYS = ("api_key", "apikey", "api-key", "key", "authorization", "token", "access_token", "password", "secret")
_OF_CLIENTS = ("extra_body", "extra_headers", "extra_query")


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
        if name in _OF_CLIENTS:
            raise ValueError(f"{where} is a word of openai's client: write its fields under options themselves")
        if name.lower() in _KEYS:
            raise ValueError(f"{where}: a key never belongs into a recipe: see api_key_variable")
        for word in [name, *(value if name == "chat_template_kwargs" and isinstance(value, Mapping) else [])]:
            close = difflib.get_close_matches(word, [*known, *own], n=1, cutoff=0.85)
            if word not in known and close:
                raise ValueError(f"options: {word} is not known; did you mean {close[0]!r}?")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where} cannot be sent as JSON: {error}") from None
