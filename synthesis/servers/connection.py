"""Requests and answers over HTTP: each bounded in time and bytes, and none with a line in the log.

The transport is the one that openai's client uses, with its limits and the environment's proxies. It was renamed once
(httpx, httpx2), so it is found here and not imported by name. The client itself is not used: it reads answers whole,
however long, and makes objects of them that break where a server keeps to the protocol in part only.
"""

import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.request import getproxies, proxy_bypass

import openai

from ..components import SynthesisError
from .address import Address, hide_in_urls, is_local
from .failures import Away, Failed, Refused

_LIBRARY = next(
    cls.__module__ for cls in openai.DefaultAsyncHttpxClient.__mro__ if not cls.__module__.startswith("openai")
).partition(".")[0]
http: Any = sys.modules[_LIBRARY]

_CONNECTING = 30.0  # seconds to reach a server, at most
_MOST_OF_AN_ERROR = 2**16  # bytes; what follows is not read


class Answer(NamedTuple):
    """What a server sent.

    Attributes:
        status: Of HTTP.
        headers: Of HTTP.
        content: Bytes, decoded if they were compressed.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes


def connect(address: Address, timeout: float, kind: type) -> Any:
    """A client for an address.

    Args:
        address: Of the server; the key goes into every request.
        timeout: Seconds to wait for anything.
        kind: `openai.DefaultHttpxClient` or `openai.DefaultAsyncHttpxClient`.

    Raises:
        SynthesisError: the proxies or certificates that the environment names cannot be used.
    """
    for name in (_LIBRARY, _LIBRARY.replace("httpx", "httpcore")):
        if logging.getLogger(name).level == logging.NOTSET:  # else somebody wants it so
            logging.getLogger(name).setLevel(logging.WARNING)  # or it tells of every single request
    options: dict[str, Any] = {}
    if is_local(address.host):  # to a proxy, localhost would be another machine
        options["mounts"] = {f"all://{f'[{address.host}]' if ':' in address.host else address.host}": None}
    try:
        return kind(
            headers=address.headers,
            timeout=http.Timeout(timeout, connect=min(timeout, _CONNECTING)),
            follow_redirects=False,  # a POST would arrive as a GET, or elsewhere
            limits=http.Limits(),  # none: who asks knows how many are under way at once
            **options,
        )
    except (ValueError, ImportError, OSError, http.InvalidURL) as error:
        raise SynthesisError(
            f"{address.url}: the environment's proxies or certificates (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, "
            f"SSL_CERT_FILE) cannot be used: {address.line(error)}. Correct or unset them."
        ) from error


async def exchange(
    client: Any, address: Address, path: str, body: Mapping[str, Any] | None, timeout: float, most: int
) -> Answer:
    """Asks once, on an event loop; the caller bounds the time of all.

    Args:
        client: Made by `connect`.
        address: Of the server.
        path: Behind the address, such as "/models".
        body: Sent as JSON; None for a GET.
        timeout: For the message.
        most: Bytes that an answer may have.

    Raises:
        Failed, Away, Refused: there is no answer.
    """
    with _telling(address, timeout):
        async with client.stream(**_request(address, path, body)) as response:
            return Answer(response.status_code, response.headers, await _joined(response, most))


def exchange_blocking(
    client: Any, address: Address, path: str, body: Mapping[str, Any] | None, timeout: float, most: int
) -> Answer:
    """Asks once, in this thread; otherwise as `exchange`, and `timeout` bounds all of it."""
    until = time.monotonic() + timeout
    with _telling(address, timeout), client.stream(**_request(address, path, body)) as response:
        content, limit = bytearray(), _limit(response.status_code, most)
        for block in response.iter_bytes():
            content += block
            if len(content) > limit:
                _check_length(response.status_code, most)
                break
            if time.monotonic() > until:
                raise Failed(f"no answer within {timeout:g} s")
        return Answer(response.status_code, response.headers, bytes(content[:limit]))


async def _joined(response: Any, most: int) -> bytes:
    content, limit = bytearray(), _limit(response.status_code, most)
    blocks: AsyncIterator[bytes] = response.aiter_bytes()
    async for block in blocks:
        content += block
        if len(content) > limit:
            _check_length(response.status_code, most)
            break
    return bytes(content[:limit])


def _limit(status: int, most: int) -> int:
    return most if status < 300 else _MOST_OF_AN_ERROR


def _check_length(status: int, most: int) -> None:
    if status < 300:
        raise Failed(f"an answer of more than {most:,} bytes")


def _request(address: Address, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
    if body is None:
        return {"method": "GET", "url": address.url + path}
    try:
        content = json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Refused("a prompt with half a character, which cannot be sent") from None
    return {
        "method": "POST",
        "url": address.url + path,
        "content": content,
        "headers": {"Content-Type": "application/json"},
    }


@contextmanager
def _telling(address: Address, timeout: float) -> Iterator[None]:
    """Turns what the transport raises into what is to be done about it."""
    try:
        yield
    except (http.ConnectTimeout, http.PoolTimeout) as error:
        raise Away("cannot be reached", None, f"not within {min(timeout, _CONNECTING):g} s{_way(address)}") from error
    except http.TimeoutException as error:
        raise Failed(f"no answer within {timeout:g} s") from error
    except http.DecodingError as error:
        raise Failed("an answer that cannot be unpacked", address.line(error)) from error
    except (http.TransportError, OSError) as error:
        raise Away("cannot be reached", None, f"{address.line(_cause(error))}{_way(address)}") from error
    except (http.HTTPError, http.InvalidURL, ValueError) as error:
        raise Failed("an answer that breaks the protocol", address.line(error)) from error


def _way(address: Address) -> str:
    """The proxy that lies before a server, if there is one: it may be the one that fails."""
    if is_local(address.host) or proxy_bypass(address.host):
        return ""
    proxies = getproxies()
    proxy = proxies.get(address.url.partition(":")[0]) or proxies.get("all")
    return f", by way of the environment's proxy {hide_in_urls(proxy)}" if proxy else ""


def _cause(error: BaseException) -> str:
    """What went wrong at the bottom: "Connection refused" rather than "All connection attempts failed"."""
    words = str(error)
    while (error := error.__cause__ or error.__context__) is not None:  # type: ignore[assignment]
        words = str(error) or words
    if "WRONG_VERSION_NUMBER" in words:
        words += " (the server seems to speak http://, not https://)"
    elif "CERTIFICATE_VERIFY_FAILED" in words:
        words += " (SSL_CERT_FILE may name further certificates to trust)"
    return words or "it hung up"
