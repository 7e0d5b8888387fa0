"""What a server's answer says: sceptical of every field, for few servers keep to the whole of OpenAI's protocol."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..servers.failures import Failed, kind_of

# Why an answer ended, in the protocol's words, by the words that other servers use.
_REASONS = {
    **dict.fromkeys(("eos", "eos_token", "end_turn", "stop_sequence", "stop_str"), "stop"),
    **dict.fromkeys(("max_tokens", "max_new_tokens", "model_length"), "length"),
    **dict.fromkeys(("safety", "recitation", "prohibited_content", "blocklist", "refusal"), "content_filter"),
}


@dataclass(frozen=True)
class ChatAnswer:
    """An answer of the chat-completions protocol."""

    text: str  # what the model wrote; may be empty
    finish_reason: str | None  # in the protocol's words; None if the server names none
    refusal: str | None = None  # what the server says if it refuses to answer
    reported: str | None = None  # the model's name, if the server reports it
    tokens: dict[str, int] = field(default_factory=dict)  # "input tokens" and "output tokens" that the server counts


def read_answer(body: Mapping[str, Any]) -> ChatAnswer:
    """Reads the JSON object of an answer.

    Raises:
        Failed: there is no answer in it; the reason is in words that can be counted.
    """
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        raise Failed("an answer without choices", _short(body))
    if not isinstance(message := choice.get("message"), dict):
        pieces = "a piece of a stream" if "delta" in choice else kind_of(message)
        raise Failed("an answer without a message", f"in its place is {pieces}")
    text, refusal = _text_of(message.get("content"))
    said, reason = message.get("refusal"), choice.get("finish_reason")
    refusal = refusal or (said if isinstance(said, str) and said.strip() else None)
    reason = reason.strip().lower() if isinstance(reason, str) else ""
    model, usage = body.get("model"), body.get("usage")
    tokens = {
        name: count
        for name, key in (("input tokens", "prompt_tokens"), ("output tokens", "completion_tokens"))
        if isinstance(usage, dict) and type(count := usage.get(key)) is int and count >= 0
    }
    reported = model if isinstance(model, str) and model else None
    return ChatAnswer(text, _REASONS.get(reason, reason) or None, refusal, reported, tokens)


def _text_of(content: Any) -> tuple[str, str | None]:
    """Text and refusal of a message's content, which is a text or a list of parts; thoughts are left out."""
    if content is None or isinstance(content, str):
        return content or "", None
    if not isinstance(content, list):
        raise Failed("an answer whose content is no text", f"it is {kind_of(content)}")
    texts, refusal = [], None
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else None
        if isinstance(part, str):
            texts.append(part)
        elif kind in ("text", "output_text") and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "refusal" and isinstance(part.get("refusal"), str):
            refusal = part["refusal"]
        elif kind not in ("thinking", "reasoning", "redacted_thinking"):
            raise Failed("an answer with a part that is no text", f"of type {_short(kind or kind_of(part))}")
    return "".join(texts), refusal


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split())  # `Address.line` cuts it once the key is taken out
