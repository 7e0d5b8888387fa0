"""Why a server gives no answer, and what may be done about it: wait, ask again, give the item up, or end."""

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Any

from ..components import SynthesisError
from .address import Address

# Nginx and its like (502, 504), too many requests (429), overload (503, 529), and Cloudflare before a server that is
# away (520 to 530).
OVERLOADED = {429, 502, 503, 504, *range(520, 531)}
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


@dataclass(eq=False)
class Failed(Exception):
    """No answer came; asking again may help.

    Attributes:
        name: What went wrong, in words that can be counted.
        detail: What else there is to say, on one line.
        status: Of HTTP; None where the server answered, or nothing came at all.
        pause: Seconds for which a server asks for patience; None if it does not, or could not be reached at all.
        filtered: The server will not answer for what the request is about.
        parameter: The field of the request that it is for, where the server says so.
        words: What a server that refuses says, in full length.
        times: How often this was asked in vain.
    """

    name: str
    detail: str = ""
    status: int | None = None
    pause: float | None = None
    filtered: bool = False
    parameter: str | None = None
    words: str = ""
    times: int = 1

    def __str__(self) -> str:
        """What can be counted, then the server's own words."""
        times = f", {self.times} times" if self.times > 1 else ""
        return f"{self.name}{times}: {self.detail}" if self.detail else f"{self.name}{times}"


class Away(Failed):
    """The server cannot be reached, or asks for patience."""

    @property
    def may_be_its_own(self) -> bool:
        """Whether the request may be what brings the server down, if others are answered meanwhile."""
        return self.status in (None, 502, 504)


class Refused(Failed):
    """The server will not answer this request; asking again would not help."""


# A server has something against a field as such, rather than against its value.
_UNKNOWN = re.compile(
    r"unsupported|n[o']t (currently )?support|unknown|unrecogni[sz]ed|unexpected|extra_forbidden|extra (input|field)"
    r"|not (permitted|allowed|accepted|available)|cannot (both|find|be (used|set|specified))|can't be (used|set)"
    r"|only one of|no longer|deprecated|(invalid|not a valid) (field|parameter|argument|property|key)",
    re.IGNORECASE,
)


def failure_of(address: Address, status: int, headers: Mapping[str, str], content: bytes) -> Failed | SynthesisError:
    """What an error of HTTP means; a SynthesisError if the work has to end.

    Args:
        address: Of the server.
        status: Of HTTP, or the one that a server puts into an answer.
        headers: Of HTTP.
        content: The answer.
    """
    message, code, parameter = error_in(content)
    words = f"{code} {message}"
    name, detail = f"error {status}", address.line(message or "without a word")
    line = f"{name}: {detail}"
    # "check your plan and billing" is also what some say who mean the quota of a minute; they tell when to come back.
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
    if status in OVERLOADED:
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
    """The mapping that an answer consists of.

    Raises:
        Failed, Away, Refused: it is something else, or an error.
        SynthesisError: it is an error with which the work has to end.
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
        shown = page_title(content) or content[:2000].decode(errors="replace")
        raise Failed("an answer that is no JSON", address.line(shown, 120)) from None  # no part of a key may be left
    if isinstance(body, list) and len(body) == 1 and isinstance(body[0], dict) and "error" in body[0]:  # Gemini
        body = body[0]
    if not isinstance(body, dict):
        raise Failed("an answer that is no JSON object", f"it is {kind_of(body)}")
    if error := body.get("error"):
        code = str(error.get("code") or error.get("status")) if isinstance(error, dict) else ""
        message, *_ = error_in(content)
        if code.isdecimal() and 400 <= int(code) < 500:
            raise failure_of(address, int(code), headers, content)
        if _CONTENT.search(f"{code} {message}") or _BILLING.search(f"{code} {message}"):
            raise failure_of(address, 400, headers, content)
        raise Failed("an error in place of an answer", address.line(message))
    return body


def refused_field(error: Failed, sent: Sequence[str]) -> str | None:
    """The first of the fields that are sent of which a server says that it does not take them; None if it says no such.

    Words like "seed" may come from the request itself, so whether this is so has to be tried out.
    """
    if error.filtered or not _UNKNOWN.search(error.words):
        return None
    if error.parameter is not None:
        return error.parameter if error.parameter in sent else None
    return next((name for name in sent if re.search(rf"(?<!\w){name}(?!\w)", error.words)), None)


def is_unknown(words: str) -> bool:
    """Whether a server says that it does not know or take something."""
    return bool(_UNKNOWN.search(words))


def error_in(content: bytes) -> tuple[str, str, str | None]:
    """Message, code and refused parameter of an error, in any of the forms that servers give it."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return page_title(content) or content[:2000].decode(errors="replace").strip(), "", None
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


def page_title(content: bytes) -> str | None:
    """What a web page calls itself; None for anything else."""
    start = content[:4096].decode(errors="replace")
    if not re.match(r"\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body)", start, re.IGNORECASE | re.DOTALL):
        return None
    title = re.search(r"<title[^>]*>(.*?)</title>", start, re.IGNORECASE | re.DOTALL)
    return f'a web page, "{" ".join(title[1].split())}"' if title else "a web page"


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait, given in milliseconds, seconds or as a date; 0 for what is none of these."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        seconds = _seconds_of(headers.get(name, "")) * unit
        if not math.isnan(seconds):
            return max(0.0, seconds)
    return 0.0


def _seconds_of(text: str) -> float:
    """From now, by a number or a date; NaN for what is neither."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp() - time.time()
    except (ValueError, TypeError, IndexError, OverflowError):
        return math.nan


def kind_of(value: Any) -> str:
    """What a value of JSON is, in a word."""
    names = {dict: "a mapping", list: "a list", str: "a text", type(None): "nothing", bool: "true or false"}
    return names.get(type(value), "a number")


def _text(message: Any) -> str:
    return message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)[:2000]
