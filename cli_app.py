"""The commands `fafa serve` and `fafa space`. What takes long to import is imported within them."""

import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_galleries import Device, Model, Modules, begin_log, load_model_of, settings_of
from .cli_people import finder
from .commands import command
from .files import check_output_file, check_output_folder, printable
from .names import counted

if TYPE_CHECKING:
    from .app.service import SearchService

logger = logging.getLogger(__name__)

_PORT = 7860
_Gallery = Annotated[
    Path | None, typer.Argument(metavar="GALLERY", help="folder that `fafa index` wrote", show_default=False)
]


def serve(
    gallery: _Gallery = None,
    demo: Annotated[bool, typer.Option("--demo", help="serve painted people, by the tiny model")] = False,
    host: Annotated[
        str, typer.Option(help="address to listen at; any but this machine's own asks for a token")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535)] = _PORT,
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="host name by which it is reached, too"),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="the token that clients must show (default: of the environment's FAFA_TOKEN; with --host, a new one)",
        ),
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="keep saved searches there (default: until the server ends)")
    ] = None,
    audit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="note who asked what and got which images, a line of JSON each")
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(help="finds people in uploads: hog, or a folder or Hub name (default: the gallery's, if any)"),
    ] = None,
    model: Model = None,
    import_modules: Modules = None,
    device: Device = None,
) -> None:
    """Search a gallery in the browser, and by a JSON API."""
    _one_of(gallery, demo)
    begin_log()
    with command():
        from .app.audit import Audit
        from .app.doors import check_token
        from .app.saved import SavedSearches
        from .app.server import create_app, is_loopback, new_token, open_socket, server_of

        token = token_file.read_text(encoding="utf-8").strip() if token_file else os.environ.get("FAFA_TOKEN")
        is_new = token is None and not is_loopback(host)
        token = new_token() if is_new else token
        if token is not None:
            check_token(token)
        opened = open_socket(host, port)
        saved = SavedSearches(keep)
        if audit is not None:
            check_output_file(audit)
        service = _service(gallery, model, import_modules, device)
        service.saved, service.audit = saved, Audit(audit) if audit is not None else None
        service.find_people = _people_finder(service.gallery.state.settings, detector, device)
        app = create_app(service, names=name or (), token=token, remembers=keep is not None)
        shown = f"[{host}]" if ":" in host else host
        typer.echo(f"{printable(service.name)}: {counted(len(service.gallery), 'image')}")
        typer.echo(f"Search at http://{shown}:{port}/ (the JSON API: /docs). Ctrl-C ends it.")
        if is_new:
            typer.echo(f"Token, for those who may search: {token}")
        if not is_loopback(host):
            typer.echo("Others on the network can read what is sent: put a server with TLS before it.")
        server_of(app).run([opened])


def space(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="new folder, to push to a Space of Hugging Face")],
    gallery: Annotated[
        Path | None, typer.Option(help="folder that `fafa index` wrote (default: painted people, and the tiny model)")
    ] = None,
    title: Annotated[str, typer.Option(help="of the Space")] = "Find a person by a photo and a sentence",
    model: Model = None,
) -> None:
    """Write a folder that Hugging Face serves as a Space: package, model, gallery and photographs."""
    begin_log()
    with command():
        from . import TINY_CHECKPOINT
        from .app.space import write_space

        check_output_folder(folder)
        service = _service(gallery, model, None, "cpu")
        source = TINY_CHECKPOINT if gallery is None else service.gallery.model.config._name_or_path
        write_space(folder, service.gallery, source, title, gallery is None, service.begin_with)
        typer.echo(
            f"{printable(folder)}: `python app.py` there tries it; `hf upload NAME . --repo-type space` pushes it"
        )


def _one_of(gallery: Path | None, demo: bool) -> None:
    if (gallery is None) != demo:
        raise typer.BadParameter("give a GALLERY or --demo" if gallery is None else "--demo has a gallery of its own")


def _service(
    gallery: Path | None, model: str | None, import_modules: list[str] | None, device: str | None
) -> "SearchService":
    """A service over a gallery, or over painted people."""
    if gallery is None:
        from .app.demo import demo_service

        return demo_service()
    from .app.media import holds_films
    from .app.service import SearchService
    from .retrieval import Gallery

    loaded = Gallery.load(gallery, *load_model_of(settings_of(gallery), model, import_modules, device))
    holds_films(loaded)  # now, and not at the first picture of one
    return SearchService(loaded)


def _people_finder(settings: Mapping[str, Any], detector: str | None, device: str | None) -> Callable | None:
    """What finds people in photographs: the detector that is asked for, or else the gallery's own, if it has one."""
    if detector is None and "people" not in settings:
        return None
    from .people import people_in

    try:
        found, margin = finder(settings, detector, device=device)
    except (OSError, ValueError, ImportError) as error:
        if detector is not None:
            raise
        logger.warning("uploads that show several people are searched by as a whole: %s", error)
        return None
    return partial(people_in, detector=found, margin=margin)
