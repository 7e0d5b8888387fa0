"""The form of a request: which fields a server takes, and how a schema is sent to it.

Servers that speak OpenAI's protocol refuse one field or another, mostly with an error that names it. A recipe can leave
fields out from the start. Otherwise the form is found by trying: if a server refuses a question of ours in one form and
answers it in another, the other form is used from then on.
"""

import base64
import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ..components import TextRequest
from ..images import open_rgb
from ..servers.failures import UNKNOWN, Failed, refused_field

# Fields that a request can do without, so that a recipe can leave them out.
FIELDS = ("temperature", "top_p", "seed", "max_tokens", "response_format")
DECIDED_HERE = ("model", "messages", "prompt", "n", "best_of", "stream", "stream_options", "tools", "tool_choice")
DECIDED_HERE += ("functions", "function_call", "modalities", "audio", "echo")
# Further fields of common servers, to find slips of the pen; a server may know others.
OPTIONS = ("frequency_penalty", "presence_penalty", "repetition_penalty", "top_k", "min_p", "typical_p", "stop")
OPTIONS += ("stop_token_ids", "logit_bias", "logprobs", "min_tokens", "max_completion_tokens", "ignore_eos")
OPTIONS += ("reasoning_effort", "reasoning", "thinking", "thinking_budget", "enable_thinking", "include_reasoning")
OPTIONS += ("separate_reasoning", "chat_template_kwargs", "verbosity", "service_tier", "store", "user", "metadata")
OPTIONS += ("provider", "models", "route", "transforms", "structured_outputs", "guided_decoding_backend")
OPTIONS += ("mm_processor_kwargs", "cache_prompt", "keep_alive", "num_ctx", "safe_prompt", "prompt_cache_key")

_SCHEMAS = ("json_schema", "json_object", "in words")
# Statuses at which another form may help. Some servers answer 500 to what they do not know.
_FORM_STATUSES = {400, 404, 405, 415, 422, 500, 501}


@dataclass(frozen=True)
class Form:
    """The form of a request."""

    left_out: frozenset[str] = frozenset()  # of `FIELDS`: those that are not sent
    length_field: str = "max_tokens"  # the name under which the longest answer is sent
    schemas: str = "json_schema"  # of `_SCHEMAS`: how a schema is sent; "json_object" has it in words, too

    @classmethod
    def without_fields(cls, names: Collection[str]) -> "Form":
        """The form for a recipe that leaves these fields out."""
        return cls(frozenset(names), schemas="in words" if "response_format" in names else "json_schema")

    def body(
        self, fields: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], schema: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """The body of a request in this form."""
        body = {name: value for name, value in fields.items() if name not in self.left_out}
        if "max_tokens" in body:
            body[self.length_field] = body.pop("max_tokens")
        body["messages"] = list(messages)
        if schema is None:
            return body
        if self.schemas == "json_schema":
            named = {"name": "answer", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
            return body
        if self.schemas == "json_object":
            body["response_format"] = {"type": "json_object"}
        words = f"Answer with one JSON object only, by this JSON schema:\n{json.dumps(schema)}"
        *earlier, last = messages
        content = last["content"]
        content = f"{content}\n\n{words}" if isinstance(content, str) else [*content, {"type": "text", "text": words}]
        body["messages"] = [*earlier, {**last, "content": content}]
        return body

    def without(self, error: Failed, schema: bool) -> "Form | None":
        """The form without the field that an error is about; None if it is about none.

        `schema` says whether the error may be about the schema without naming it.
        """
        if error.status not in _FORM_STATUSES or error.filtered:
            return None
        if name := self._refused_field(error):
            if name != self.length_field:
                return replace(self, left_out=self.left_out | {name})
            if name == "max_tokens":
                return replace(self, length_field="max_completion_tokens")
            return replace(self, left_out=self.left_out | {"max_tokens"})
        if schema and self.schemas != _SCHEMAS[-1]:
            words = error.words
            is_field = "response_format" in words and "json" not in words.lower() and UNKNOWN.search(words)
            return replace(self, schemas=_SCHEMAS[-1 if is_field else _SCHEMAS.index(self.schemas) + 1])
        return None

    def changes(self, before: "Form") -> list[str]:
        """How this form differs from an earlier one, a sentence each."""
        found = [f"{name} is left out" for name in sorted(self.left_out - before.left_out)]
        if self.length_field != before.length_field and "max_tokens" not in self.left_out:
            found.append(f"{before.length_field} is sent as {self.length_field}")
        if self.schemas != before.schemas:
            how = "as a wish for JSON, and put into words" if self.schemas == "json_object" else "in words"
            found.append(f"JSON schemas are sent {how}")
        return found

    def _refused_field(self, error: Failed) -> str | None:
        """The first field that is sent and that the server says it does not take."""
        sent = [name for name in ("seed", "top_p", "temperature") if name not in self.left_out]
        if "max_tokens" in self.left_out:
            return refused_field(error, sent)
        if name := refused_field(error, [*sent, self.length_field]):
            return name
        # Some servers only name the field that they would take.
        other = self.length_field == "max_tokens" and refused_field(error, ["max_completion_tokens"])
        return "max_tokens" if other else None


def as_messages_with_images(request: TextRequest, image_size: int) -> list[dict[str, Any]]:
    """The messages as the protocol wants them, with images before the text of the last one."""
    *earlier, last = [dict(message) for message in request.messages]
    if request.images:
        images = [{"type": "image_url", "image_url": {"url": _data_url(image, image_size)}} for image in request.images]
        last["content"] = [*images, {"type": "text", "text": last["content"]}]
    return [*earlier, last]


def _data_url(image: Path | Image.Image, longest: int) -> str:
    """An image as JPEG in a URL, shrunk until no side has more than `longest` pixels."""
    image = open_rgb(image)
    image.thumbnail((longest, longest))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
