"""What a server's answer says: sceptical of every field, for few servers keep to the whole of OpenAI's protocol."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..servers.failures import Failed, kind_of

# The words of other servers for "stop" and "length".
_DONE = {"stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_str"}
_CUT_OFF = {"length", "max_tokens", "max_new_tokens", "model_length"}
_FILTERED = {"content_filter", "safety", "recitation", "prohibited_content", "blocklist", "refusal"}


@dataclass(frozen=True)
class ChatAnswer:
    """An answer of the chat-completions protocol.

    Attributes:
        text: What the model wrote; empty if nothing.
        finish_reason: In the protocol's words; None if the server names none.
        refusal: What the server says in place of an answer; None if it does not refuse.
        reported: The model's name as the server has it; None if it does not tell.
        tokens: "input tokens" and "output tokens", as far as the server counts them.
    """

    text: str
    finish_reason: str | None
    refusal: str | None = None
    reported: str | None = None
    tokens: dict[str, int] = field(default_factory=dict)


def read_answer(body: Mapping[str, Any]) -> ChatAnswer:
    """What is in an answer.

    Raises:
        Failed: it is none, said in words that can be counted.
    """
    if not isinstance(choices := body.get("choices"), list) or not choices:
        raise Failed("an answer without choices", _short(body))
    choice = choices[0]
    if not isinstance(choice, dict):
        raise Failed("an answer without choices", f"the first is {kind_of(choice)}")
    if not isinstance(message := choice.get("message"), dict):
        pieces = "a piece of a stream" if "delta" in choice else kind_of(message)
        raise Failed("an answer without a message", f"in its place is {pieces}")
    text, refusal = _text_of(message.get("content"))
    said = message.get("refusal")
    refusal = refusal or (said if isinstance(said, str) and said.strip() else None)
    model, usage = body.get("model"), body.get("usage")
    tokens = {
        name: count
        for name, key in (("input tokens", "prompt_tokens"), ("output tokens", "completion_tokens"))
        if isinstance(usage, dict) and type(count := usage.get(key)) is int and count >= 0
    }
    return ChatAnswer(
        text,
        _reason(choice.get("finish_reason")),
        refusal,
        model if isinstance(model, str) and model else None,
        tokens,
    )


def _text_of(content: Any) -> tuple[str, str | None]:
    """Text and refusal of a message's content: a text, or a list of parts, of which thoughts are left out."""
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


def _reason(reason: Any) -> str | None:
    if not isinstance(reason, str) or not reason.strip():
        return None
    reason = reason.strip().lower()
    for names, word in ((_DONE, "stop"), (_CUT_OFF, "length"), (_FILTERED, "content_filter")):
        if reason in names:
            return word
    return reason


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split())  # cut where the key is taken out of it
