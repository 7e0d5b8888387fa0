"""Requests and answers over HTTP: each bounded in bytes, and none with a line in the log.

The transport is the one that openai's client uses, with its limits and the environment's proxies. It was renamed once
(httpx, httpx2), so it is found here and not imported by name. The client itself is not used. It reads answers whole,
however long, fails on servers that follow the protocol only in part, and gives up after a few attempts, where a run of
days has to wait until the server comes back.
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
    """A client for an address, for use on one event loop; it waits at most `timeout` seconds for any part of an answer.

    Raises:
        SynthesisError: the proxies or certificates that the environment names cannot be used.
    """
    for name in (_LIBRARY, _LIBRARY.replace("httpx", "httpcore")):
        if logging.getLogger(name).level == logging.NOTSET:  # nobody has asked for another level
            logging.getLogger(name).setLevel(logging.WARNING)  # at INFO it has a line for every request
    host = f"[{address.host}]" if ":" in address.host else address.host
    mounts = {f"all://{host}": None} if is_local(address.host) else None  # to a proxy, localhost is another machine
    try:
        return openai.DefaultAsyncHttpxClient(
            headers=address.headers,
            timeout=http.Timeout(timeout, connect=min(timeout, _CONNECTING)),
            follow_redirects=False,  # a POST would arrive as a GET, or elsewhere
            limits=http.Limits(),  # none: the caller bounds how many are under way at once
            mounts=mounts,
        )
    except (ValueError, ImportError, OSError, http.InvalidURL) as error:
        raise SynthesisError(
            f"{address.url}: the environment's proxies or certificates (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, "
            f"SSL_CERT_FILE) cannot be used: {address.line(error)}. Correct or unset them."
        ) from error


async def exchange(
    client: Any, address: Address, path: str, body: Mapping[str, Any] | None, timeout: float, most: int
) -> dict[str, Any]:
    """Asks once, and returns the JSON object that is the answer.

    Args:
        client: Made by `connect`.
        address: Address of the server.
        path: What follows the address, such as "/models".
        body: Sent as JSON; None for a GET.
        timeout: Seconds, for the message alone: the caller bounds the whole time.
        most: Bytes that an answer may have.

    Raises:
        Failed, Away, Refused: there is no answer; for SynthesisError see `read_body`.
    """
    request: dict[str, Any] = {"method": "GET", "url": address.url + path}
    if body is not None:
        try:
            content = json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise Refused("a prompt with half a character, which cannot be sent") from None
        request |= {"method": "POST", "content": content, "headers": {"Content-Type": "application/json"}}
    with _explained(address, timeout):
        async with client.stream(**request) as response:
            answer, is_error = bytearray(), response.status_code >= 300
            async for block in response.aiter_bytes():
                answer += block
                if is_error and len(answer) > _MOST_OF_AN_ERROR:
                    break
                if not is_error and len(answer) > most:
                    raise Failed(f"an answer of more than {most:,} bytes")
    return read_body(address, response.status_code, response.headers, bytes(answer))


@contextmanager
def _explained(address: Address, timeout: float) -> Iterator[None]:
    """Turns the transport's errors into `Failed` and `Away`, in words that help."""
    try:
        yield
    except (http.ConnectTimeout, http.PoolTimeout) as error:
        raise Away("cannot be reached", f"not within {min(timeout, _CONNECTING):g} s{_proxy(address)}") from error
    except http.TimeoutException as error:
        raise Failed(f"no answer within {timeout:g} s") from error
    except http.DecodingError as error:
        raise Failed("an answer that cannot be unpacked", address.line(error)) from error
    except (http.TransportError, OSError) as error:
        raise Away("cannot be reached", f"{address.line(_cause(error))}{_proxy(address)}") from error
    except (http.HTTPError, http.InvalidURL, ValueError) as error:
        raise Failed("an answer that breaks the protocol", address.line(error)) from error


def _proxy(address: Address) -> str:
    """Names the proxy in front of a server, if there is one: the proxy may be what fails."""
    if is_local(address.host) or proxy_bypass(address.host):
        return ""
    proxies = getproxies()
    proxy = proxies.get(address.url.partition(":")[0]) or proxies.get("all")
    return f", by way of the environment's proxy {hide_in_urls(proxy)}" if proxy else ""


def _cause(error: BaseException) -> str:
    """The first cause of an error: "Connection refused" rather than "All connection attempts failed"."""
    words = str(error)
    while (error := error.__cause__ or error.__context__) is not None:  # type: ignore[assignment]
        words = str(error) or words
    if "WRONG_VERSION_NUMBER" in words:
        words += " (the server seems to speak http://, not https://)"
    elif "CERTIFICATE_VERIFY_FAILED" in words:
        words += " (SSL_CERT_FILE may name further certificates to trust)"
    return words or "it hung up"
