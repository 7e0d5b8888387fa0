"""Why a server gives no answer, and what may be done about it: wait, ask again, give the item up, or end."""

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Any

from ..components import SynthesisError
from .address import Address

# Gateways such as nginx (502, 504), too many requests (429), overload (503, 529), and Cloudflare in front of a server
# that is away (520 to 530).
_OVERLOADED = {429, 502, 503, 504, *range(520, 531)}
_AGAIN = {408, 409, 425}
_CONTENT = re.compile(
    r"content[ _-]?filter|content[ _-]?policy|content management policy|responsible ?ai|moderation|unsafe|nsfw"
    r"|safety[ _](system|filter|polic|violation)"
    r"|data_inspection_failed|inappropriate content|flagged|sensitive content",
    re.IGNORECASE,
)
_BILLING = re.compile(
    r"insufficient[ _](quota|balance|credit|fund)|billing_(hard_limit|not_active)|credit balance|out of credit"
    r"|not enough credit|account (is )?(deactivated|suspended)|arrearage|check your plan and billing",
    re.IGNORECASE,
)


# What servers say when they refuse a field as such, rather than its value.
UNKNOWN = re.compile(
    r"unsupported|n[o']t (currently )?support|unknown|unrecogni[sz]ed|unexpected|extra_forbidden|extra (input|field)"
    r"|not (permitted|allowed|accepted|available)|cannot (both|find|be (used|set|specified))|can't be (used|set)"
    r"|only one of|no longer|deprecated|(invalid|not a valid) (field|parameter|argument|property|key)",
    re.IGNORECASE,
)


@dataclass(eq=False)
class Failed(Exception):
    """No answer came; asking again may help."""

    name: str  # what went wrong, in words that can be counted
    detail: str = ""  # what else there is to say, on one line
    status: int | None = None  # of HTTP; None where the server answered, or nothing came at all
    pause: float | None = None  # seconds that the server asks to wait; None if it asks for no patience
    filtered: bool = False  # the server refuses the contents of the request
    parameter: str | None = None  # the field of the request that is at fault, if the server names it
    words: str = ""  # the whole message of a server that refuses
    times: int = 1  # how often this was asked in vain

    def __str__(self) -> str:
        """What can be counted, then the server's own words."""
        times = f", {self.times} times" if self.times > 1 else ""
        return f"{self.name}{times}: {self.detail}" if self.detail else f"{self.name}{times}"


class Away(Failed):
    """The server cannot be reached, or asks for patience."""


class Refused(Failed):
    """The server will not answer this request; asking again would not help."""


def failure_of(address: Address, status: int, headers: Mapping[str, str], content: bytes) -> Failed | SynthesisError:
    """What an error means; a SynthesisError if the work has to end.

    The status is HTTP's, or the one that a server puts into an answer.
    """
    message, code, parameter = error_in(content)
    words = f"{code} {message}"
    name, detail = f"error {status}", address.line(message or "without a word")
    line = f"{name}: {detail}"
    # Some also say "check your plan and billing" of a quota per minute; they tell when to come back.
    comes_back = "retry-after" in headers or re.search(r"retry in|try again in|per[ _-]?minute", words, re.IGNORECASE)
    if status == 402 or (400 <= status < 500 and not comes_back and _BILLING.search(words)):
        return SynthesisError(
            f"{address.url}: the account of this key has nothing left to spend ({line}). Waiting would not help: top "
            "it up, or take another key, and run again: what is done stays."
        )
    if status == 401:
        return SynthesisError(
            f"{address.url}: refuses the key ({line}). {address.key_remedy}, and run again: what is done stays."
        )
    if status in _OVERLOADED:
        return Away(name, detail, status, retry_after(headers))
    if status < 500 and _CONTENT.search(words):
        return Refused("refused by the server", line, status, filtered=True, words=words)
    if status in _AGAIN or (status >= 500 and status != 501):
        return Failed(name, detail, status)
    if 300 <= status < 400:
        place = address.line(headers.get("location", "?").partition("?")[0])
        return Refused(name, f"it sends on to {place}; set base_url to where the server is", status)
    return Refused(name, detail, status, parameter=parameter, words=words)


def read_body(address: Address, status: int, headers: Mapping[str, str], content: bytes) -> dict[str, Any]:
    """The JSON object in an answer.

    Raises:
        Failed, Away, Refused: the answer is something else, or an error.
        SynthesisError: after this error the work has to end.
    """
    if status >= 300:
        raise failure_of(address, status, headers, content)
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        if not content.strip():
            raise Failed("an answer without a word") from None
        if content.lstrip().startswith((b"data:", b"event:")):
            raise Failed("an answer in pieces (a stream), which was not asked for") from None
        raise Failed("an answer that is no JSON", address.line(_shown(content), 120)) from None
    if isinstance(body, list) and len(body) == 1 and isinstance(body[0], dict) and "error" in body[0]:  # Gemini
        body = body[0]
    if not isinstance(body, dict):
        raise Failed("an answer that is no JSON object", f"it is {kind_of(body)}")
    if error := body.get("error"):
        code = str(error.get("code") or error.get("status")) if isinstance(error, dict) else ""
        message, *_ = error_in(content)
        is_status = code.isdecimal() and 400 <= int(code) < 500
        if is_status or any(pattern.search(f"{code} {message}") for pattern in (_CONTENT, _BILLING)):
            raise failure_of(address, int(code) if is_status else 400, headers, content)
        raise Failed("an error in place of an answer", address.line(message))
    return body


def refused_field(error: Failed, sent: Sequence[str]) -> str | None:
    """The first of the fields sent that the server says it does not take; None if it names none.

    Words like "seed" may come from the request itself, so this has to be tried out.
    """
    if error.filtered or not UNKNOWN.search(error.words):
        return None
    if error.parameter is not None:
        return error.parameter if error.parameter in sent else None
    return next((name for name in sent if re.search(rf"(?<!\w){name}(?!\w)", error.words)), None)


def error_in(content: bytes) -> tuple[str, str, str | None]:
    """Message, code and refused parameter of an error, in any of the forms that servers use."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return _shown(content), "", None
    if isinstance(body, list) and len(body) == 1:  # Gemini
        body = body[0]
    found = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(found, dict):
        return _text(found), "", None
    message = next((found[name] for name in ("message", "detail", "msg", "error") if found.get(name)), found)
    if isinstance(message, list) and len(message) == 1 and isinstance(message[0], dict) and "msg" in message[0]:
        entry = message[0]  # FastAPI
        return f"{_text(entry.get('loc', ''))} {entry['msg']}".strip(), _text(entry.get("type", "")), None
    code = " ".join(str(found[name]) for name in ("code", "type", "status") if isinstance(found.get(name), (str, int)))
    parameter = found.get("param")
    return _text(message), code, parameter if isinstance(parameter, str) else None


def _shown(content: bytes) -> str:
    """The title of a web page, in words; the beginning of anything else."""
    start = content[:4096].decode(errors="replace")
    if not re.match(r"\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body)", start, re.IGNORECASE | re.DOTALL):
        return content[:2000].decode(errors="replace").strip()
    title = re.search(r"<title[^>]*>(.*?)</title>", start, re.IGNORECASE | re.DOTALL)
    return f'a web page, "{" ".join(title[1].split())}"' if title else "a web page"


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait, given in milliseconds, seconds or as a date; 0 for what is none of these."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        text, seconds = headers.get(name, ""), math.nan
        with suppress(ValueError):
            seconds = float(text) * unit
        with suppress(ValueError, TypeError, IndexError, OverflowError):
            date = parsedate_to_datetime(text)
            seconds = (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp() - time.time()
        if not math.isnan(seconds):
            return max(0.0, seconds)
    return 0.0


def kind_of(value: Any) -> str:
    """What a value of JSON is, in a word."""
    names = {dict: "a mapping", list: "a list", str: "a text", type(None): "nothing", bool: "true or false"}
    return names.get(type(value), "a number")


def _text(message: Any) -> str:
    return message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)[:2000]
