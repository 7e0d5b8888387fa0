"""The server: page, API and pictures behind one set of doors."""

import asyncio
import errno
import importlib
import ipaddress
import logging
import os
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse

from ..names import printable
from .api import add_fault_handlers, api_router, media_router
from .api_page import api_page
from .doors import Doors, check_token, user_of
from .exports import exports_router
from .service import SearchService

logger = logging.getLogger(__name__)

_ENDS_WITHIN = 3  # seconds, whatever is open then
_STUCK_AFTER = 15.0  # seconds after which threads are not waited for that read from a drive that does not answer
_FORGETS_EVERY = 60.0  # seconds: uploads that are old


def create_app(
    service: SearchService,
    *,
    names: Sequence[str] = (),
    token: str | None = None,
    framed_by: str | None = None,
    remembers: bool = False,
    page: bool = True,
) -> FastAPI:
    """The app of a service, for any ASGI server.

    Args:
        names, token, framed_by, remembers: see `Doors`.
        page: whether to serve the page, too.

    Raises:
        ValueError: the token is too short. ModuleNotFoundError: gradio is missing.
    """

    if token is not None:
        check_token(token)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        forgetting = asyncio.create_task(_forget_old_uploads(service))
        yield
        forgetting.cancel()
        service.close()

    app = FastAPI(
        title="Composed person retrieval",
        description="Find a person in a gallery by a photograph and a sentence.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    add_fault_handlers(app)
    app.include_router(api_router(service))
    app.include_router(media_router(service))
    app.include_router(exports_router(service))

    @app.get("/docs", include_in_schema=False)
    def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(api_page(app.openapi(), str(request.base_url)))

    if page:
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        importlib.import_module(".page", __package__).mount_page(app, service, user_of)
    app.add_middleware(Doors, names=names, token=token, framed_by=framed_by, remembers=remembers)
    return app


async def _forget_old_uploads(service: SearchService) -> None:
    while True:
        await asyncio.sleep(_FORGETS_EVERY)
        service.uploads.forget_old()


def open_socket(host: str, port: int) -> socket.socket:
    """Takes the port, before anything that takes long.

    Raises:
        OSError: it is in use, or cannot be had; the message says what to do.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise OSError(f"--host {printable(host)} is no address of this machine ({error.strerror})") from error
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind(address)
        opened.listen(512)
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            raise OSError(
                f"port {port} of {host} is in use: end what uses it, or give another, --port {port + 1}"
            ) from error
        raise OSError(f"port {port} of {printable(host)} cannot be opened ({error.strerror}): give another") from error
    return opened


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches a server at this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(24)


def server_of(app: FastAPI) -> uvicorn.Server:
    """What serves an app, `.run([socket])`, until it is interrupted; connections that stay open end a little later.

    No request is logged: addresses hold questions. `Audit` notes them where that is asked for.
    """
    logging.getLogger("uvicorn.error").addFilter(_is_told)
    return _Server(
        uvicorn.Config(
            app,
            ws="none",
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_ENDS_WITHIN,
        )
    )


class _Server(uvicorn.Server):
    """Ends when it is told to, even if a thread never comes back: nothing that counts is held in memory."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        stuck = threading.Timer(_STUCK_AFTER, os._exit, [128 + sig])
        stuck.daemon = True
        stuck.start()


def _is_told(record: logging.LogRecord) -> bool:
    """Whether a message is shown: that the end of the server cut a request off is no fault."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
