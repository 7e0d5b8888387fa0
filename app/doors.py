"""Who may come in, and what goes out: hosts, origins, tokens, sizes and headers of every request.

It stands before everything, gradio's own routes included, as ASGI alone, so that bodies are streamed and the end of a
connection is seen. What is not named here does not exist.

- A request must name this server by a name it knows or by an IP address: a foreign name that leads here (DNS
  rebinding) would let a foreign page read answers.
- What changes something must come from this server's own pages, or from a program that is no browser.
- With a token, each request shows it, `Authorization: Bearer TOKEN`, or the cookie that the login page gives for it.
- Bodies are counted as they come: what is too large is refused at its head, or where it gets too large.
- An event of gradio's names no file: a mounted gradio copies any file of the machine that one names into its cache,
  and fetches any address, before the page's own code is asked.
"""

import hashlib
import hmac
import html
import ipaddress
import json
import re
import secrets
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .uploads import MOST_BYTES, too_large

UPLOADS = "/api/uploads"
SHORTEST_TOKEN = 16  # characters
_OTHER_BODY = 2**20  # bytes of what is no upload
_USER, _LOGIN = "fafa_user", "fafa_login"  # cookies
_YEAR = 365 * 24 * 3_600

# Of gradio's own routes, those that the page needs: none that reads or writes files, calls other servers or records.
_GET = re.compile(
    r"/|/(api|media|export)/.+|/health|/docs|/openapi\.json|/login"
    r"|/(config|theme\.css|manifest\.json|favicon\.ico|robots\.txt)|/(assets|static|svelte|page-files)/.+"
    r"|/gradio_api/(info|heartbeat/[\w-]+|startup-events|app_id)/?"
)
_EVENTS = re.compile(r"/gradio_api/(run/predict|reset)/?")
_CHANGING = re.compile(rf"/api/.+|/login|{_EVENTS.pattern}")
_CHANGING_METHODS = ("POST", "DELETE")
_NOT_IN_PATHS = re.compile(r"(^|/)\.\.(/|$)|[\\\x00-\x1f]|//")

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors {}"
)


def user_of(request: HTTPConnection) -> str:
    """Who asks: no name, but the same for all that one browser, or one client that keeps cookies, asks."""
    return request.state.user


def check_token(token: str) -> None:
    """Refuses a token that is too short to be a secret, by a ValueError."""
    if len(token) < SHORTEST_TOKEN:
        raise ValueError(f"the token has {len(token)} characters, expected {SHORTEST_TOKEN} at least")


class Doors:
    """ASGI middleware.

    Args:
        names: host names by which this server is reached, besides localhost and IP addresses.
        token: what clients must show; None lets everybody in who reaches the server.
        framed_by: the origin of a page that may show this one in a frame, such as "https://huggingface.co".
        remembers: whether browsers keep the user's cookie when they are closed.
    """

    def __init__(
        self,
        app: ASGIApp,
        names: Sequence[str] = (),
        token: str | None = None,
        framed_by: str | None = None,
        remembers: bool = False,
    ):
        self._app, self._names = app, {"localhost", *(name.lower() for name in names)}
        self._token = None if token is None else _digest(token)
        self._login = secrets.token_urlsafe(32)  # what the cookie of everybody who has shown the token holds
        self._framed_by, self._remembers = framed_by, remembers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # no page here opens a web socket
        headers, method, path = Headers(scope=scope), scope["method"], scope["path"]
        cookies = _cookies_of(headers)
        secret = cookies.get(_USER, "")
        is_new = not re.fullmatch(r"[\w-]{43}", secret, re.ASCII)
        if is_new:
            secret = secrets.token_urlsafe(32)
        scope.setdefault("state", {})["user"] = _digest(secret).hex()[:32]

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._write_headers(MutableHeaders(scope=message), path, secret if is_new else None)
            await send(message)

        if (refusal := self._refusal(headers, method, path)) is not None:
            await refusal(scope, receive, send_on)
            return
        most = MOST_BYTES if path == UPLOADS else _OTHER_BODY
        if not _fits(headers.get("content-length"), most):
            await _told(413, _size_told(most), close=True)(scope, receive, send_on)
            return
        counted = _counted(receive, most)
        if path == "/login" and method == "POST":
            await (await self._log_in(Request(scope, counted)))(scope, receive, send_on)
        elif self._token is not None and path != "/health" and not self._is_known(headers, cookies):
            await _closed(scope, headers)(scope, receive, send_on)
        elif path == "/login":
            await RedirectResponse("/", 303)(scope, receive, send_on)
        elif _EVENTS.fullmatch(path):
            body = await Request(scope, counted).body()
            if _names_a_file(body):
                await _told(400, "An event names a file or is damaged, and is refused.")(scope, receive, send_on)
            else:
                await self._app(scope, _again(body, counted), send_on)
        else:
            await self._app(scope, counted, send_on)

    def _refusal(self, headers: Headers, method: str, path: str) -> Response | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            return _told(
                421, "This server is not known by that name; start it with --name NAME to reach it by a host name."
            )
        is_reading = method in ("GET", "HEAD")
        known = _GET if is_reading else _CHANGING
        if not is_reading and method not in _CHANGING_METHODS:
            return _told(405, f"{method:.20} is not possible here.")
        if _NOT_IN_PATHS.search(path) or not known.fullmatch(path):
            return _told(404, "There is nothing at this address.")
        site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
        is_foreign = site not in ("same-origin", "none")
        if (
            is_reading
        ):  # a link that leads here is followed; a foreign page that includes something of here is not served
            is_refused = is_foreign and headers.get("sec-fetch-mode") != "navigate"
        else:
            is_refused = is_foreign or (origin is not None and not _is_origin_of(origin, hosts[0]))
        return _told(403, "This request comes from another site's page, and is refused.") if is_refused else None

    def _is_own(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        return name in self._names or _is_address(name)

    def _is_known(self, headers: Headers, cookies: dict[str, str]) -> bool:
        kind, _, shown = headers.get("authorization", "").partition(" ")
        by_header = kind.lower() == "bearer" and self._opens(shown.strip())
        return by_header or hmac.compare_digest(_digest(cookies.get(_LOGIN, "")), _digest(self._login))

    def _opens(self, shown: str) -> bool:
        """Compares digests, all of them, so that the time says nothing of the token."""
        return self._token is not None and hmac.compare_digest(_digest(shown), self._token)

    async def _log_in(self, request: Request) -> Response:
        form = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=4)
        target = form.get("next", ["/"])[0]
        if not target.startswith("/") or target.startswith(("//", "/\\")) or not target.isprintable():
            target = "/"
        if not self._opens(form.get("token", [""])[0].strip()):
            return _login_page(target, "This is not the token.", 401)
        response = RedirectResponse(target, 303)
        response.headers.append("Set-Cookie", self._cookie(_LOGIN, self._login, "Strict"))
        return response

    def _cookie(self, name: str, value: str, sites: str) -> str:
        # Within another site's frame a browser sends no cookie that is not marked so.
        where = f"SameSite={sites}" if self._framed_by is None else "SameSite=None; Secure; Partitioned"
        return f"{name}={value}; Path=/; HttpOnly; {where}"

    def _write_headers(self, headers: MutableHeaders, path: str, new_user: str | None) -> None:
        for name in [name for name in headers if name.startswith("access-control-")]:
            del headers[name]  # gradio's, which let other origins read
        frame = "'none'" if self._framed_by is None else f"'self' {self._framed_by}"
        headers["Content-Security-Policy"] = _POLICY.format(frame)
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "no-referrer"
        headers["Cross-Origin-Resource-Policy"] = "same-origin"
        if self._framed_by is None:
            headers["X-Frame-Options"] = "DENY"
            headers["Cross-Origin-Opener-Policy"] = "same-origin"
        if not path.startswith(("/assets/", "/static/", "/svelte/")):
            headers.setdefault("Cache-Control", "no-store")
        if new_user is not None:
            lasting = f"; Max-Age={_YEAR}" if self._remembers else ""
            headers.append("Set-Cookie", self._cookie(_USER, new_user, "Lax") + lasting)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _cookies_of(headers: Headers) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_origin_of(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def _fits(length: str | None, most: int) -> bool:
    return length is None or (length.isascii() and length.isdigit() and len(length) < 19 and int(length) <= most)


def _size_told(most: int) -> str:
    return too_large().sentence if most == MOST_BYTES else f"What was sent is larger than {most >> 10:,} KB."


def _counted(receive: Receive, most: int) -> Receive:
    """The same, but what is too large ends with an error that the app answers."""
    seen = 0

    async def counting() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise HTTPException(413, _size_told(most), {"Connection": "close"})
        return message

    return counting


def _names_a_file(body: bytes) -> bool:
    """Whether an event is damaged, or holds what gradio takes for a file, wherever in it."""

    def looked_at(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if ("_type", "gradio.FileData") in pairs:  # of two members of one name, too
            raise ValueError
        return dict(pairs)

    try:
        json.loads(body, object_pairs_hook=looked_at)
    except (ValueError, RecursionError):
        return True
    return False


def _again(body: bytes, receive: Receive) -> Receive:
    """The same, but what was read already comes first."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receiving() -> Message:
        return messages.pop() if messages else await receive()

    return receiving


def _told(status: int, sentence: str, close: bool = False) -> Response:
    return JSONResponse({"detail": sentence}, status, {"Connection": "close"} if close else None)


def _closed(scope: Scope, headers: Headers) -> Response:
    """The answer to who has not shown the token."""
    if "text/html" not in headers.get("accept", ""):
        response = _told(401, "This server needs its token: send the header Authorization: Bearer TOKEN.")
        response.headers["WWW-Authenticate"] = "Bearer"
        return response
    query = scope["query_string"].decode("latin-1")
    page = _login_page(scope["path"] + (f"?{query}" if query else ""), "", 401)
    if headers.get("sec-fetch-site") == "cross-site":  # a link from elsewhere comes without the cookie of the login
        page.headers["Refresh"] = "0"
    return page


def _login_page(target: str, fault: str, status: int) -> HTMLResponse:
    told = f'<p role="alert">{html.escape(fault)}</p>' if fault else ""
    return HTMLResponse(
        f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Log in</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<style>body {{ font: 1rem system-ui; max-width: 26rem; margin: 15vh auto; padding: 0 1rem }}
input, button {{ font: inherit; padding: .5rem; width: 100%; box-sizing: border-box; margin: .5rem 0 }}</style></head>
<body><main><h1>Log in</h1><p>This search is open to those who have its token.</p>{told}
<form method="post" action="/login"><input type="hidden" name="next" value="{html.escape(target)}">
<label>Token <input type="password" name="token" autocomplete="current-password" required autofocus></label>
<button>Log in</button></form></main></body></html>""",
        status,
    )
