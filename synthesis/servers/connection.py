"""Requests and answers over HTTP: each bounded in bytes, and none with a line in the log.

The transport is the one that openai's client uses, with its limits and the environment's proxies. It was renamed once
(httpx, httpx2), so it is found here and not imported by name. The client itself is not used: it reads answers whole,
however long, makes objects of them that break where a server keeps to the protocol in part only, and asks again so many
times, where a run of days has to wait for as long as a server takes to come back.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.request import getproxies, proxy_bypass

import openai

from ..components import SynthesisError
from .address import Address, hide_in_urls, is_local
from .failures import Away, Failed, Refused, read_body

_LIBRARY = next(
    cls.__module__ for cls in openai.DefaultAsyncHttpxClient.__mro__ if not cls.__module__.startswith("openai")
).partition(".")[0]
http: Any = sys.modules[_LIBRARY]

_CONNECTING = 30.0  # seconds to reach a server, at most
_MOST_OF_AN_ERROR = 2**16  # bytes; what follows is not read


def connect(address: Address, timeout: float) -> Any:
    """A client for an address, for use on one event loop.

    Args:
        address: Of the server; the key goes into every request.
        timeout: Seconds to wait for anything.

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
        return openai.DefaultAsyncHttpxClient(
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
) -> dict[str, Any]:
    """Asks once; the caller bounds the time of all.

    Args:
        client: Made by `connect`.
        address: Of the server.
        path: Behind the address, such as "/models".
        body: Sent as JSON; None for a GET.
        timeout: Seconds, for the message.
        most: Bytes that an answer may have.

    Returns:
        The mapping that the answer consists of.

    Raises:
        Failed, Away, Refused: there is no answer.
        SynthesisError: it is an error with which the work has to end.
    """
    with _telling(address, timeout):
        async with client.stream(**_request(address, path, body)) as response:
            content, is_error = bytearray(), response.status_code >= 300
            async for block in response.aiter_bytes():
                content += block
                if is_error and len(content) > _MOST_OF_AN_ERROR:
                    break
                if not is_error and len(content) > most:
                    raise Failed(f"an answer of more than {most:,} bytes")
    return read_body(address, response.status_code, response.headers, bytes(content))


def _request(address: Address, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
    url = address.url + path
    if body is None:
        return {"method": "GET", "url": url}
    try:
        content = json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Refused("a prompt with half a character, which cannot be sent") from None
    return {"method": "POST", "url": url, "content": content, "headers": {"Content-Type": "application/json"}}


@contextmanager
def _telling(address: Address, timeout: float) -> Iterator[None]:
    """Turns what the transport raises into what is to be done about it."""
    try:
        yield
    except (http.ConnectTimeout, http.PoolTimeout) as error:
        raise Away("cannot be reached", f"not within {min(timeout, _CONNECTING):g} s{_way(address)}") from error
    except http.TimeoutException as error:
        raise Failed(f"no answer within {timeout:g} s") from error
    except http.DecodingError as error:
        raise Failed("an answer that cannot be unpacked", address.line(error)) from error
    except (http.TransportError, OSError) as error:
        raise Away("cannot be reached", f"{address.line(_cause(error))}{_way(address)}") from error
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
