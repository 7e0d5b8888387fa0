"""The command `fafa search`. What takes long to import is imported within it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_galleries import AsJson, Device, Milvus, Model, Modules, begin_log, check_milvus, load_model_of, settings_of
from .cli_people import box_told, person_in
from .commands import command
from .files import printable
from .names import clock, counted

if TYPE_CHECKING:
    from .retrieval import Entry, RankedImage, SearchResult


def search(
    gallery: Annotated[Path, typer.Argument(metavar="GALLERY", help="folder that `fafa index` wrote")],
    image: Annotated[list[str] | None, typer.Option(metavar="PHOTO", help="reference photo of the person")] = None,
    person: Annotated[
        int | None,
        typer.Option(min=1, help="search for one of several people in the photo, counted from the left (default: all)"),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="who finds people in the photo, 'hog' too (default: the gallery's)"),
    ] = None,
    caption: Annotated[
        list[str] | None,
        typer.Option(metavar="SENTENCE", help="what the person looks like, or what differs from the photo"),
    ] = None,
    minus: Annotated[
        list[str] | None, typer.Option(metavar="SENTENCE", help="what is not wanted, such as 'a backpack'")
    ] = None,
    right: Annotated[
        list[int] | None, typer.Option(metavar="ID", help="a result of the same search, by its id, that is right")
    ] = None,
    wrong: Annotated[
        list[int] | None, typer.Option(metavar="ID", help="one that is wrong: it is not found again")
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="search only what a filter matches, such as 'taken >= \"2024-05-01\"'")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="how many results")] = 10,
    exact: Annotated[
        bool, typer.Option("--exact", help="look at every image, without a first choice by means")
    ] = False,
    false_alarm_rate: Annotated[
        float | None,
        typer.Option(help="find nobody where nobody matches, but for this share of such queries; needs --calibrate"),
    ] = None,
    exclude: Annotated[
        list[Path] | None, typer.Option(metavar="PHOTO", help="leave out a photo and copies of it")
    ] = None,
    keep_query_photo: Annotated[
        bool, typer.Option("--keep-query-photo", help="show it and its copies among the results")
    ] = False,
    sheet: Annotated[Path | None, typer.Option(help="draw the results, such as result.png")] = None,
    collection: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="find candidates in this collection of Milvus"),
    ] = None,
    milvus: Milvus = None,
    model: Model = None,
    import_modules: Modules = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Search a gallery by photos, sentences, or both.

    Of several, given by several --image, --caption and --minus, each photo is asked together with each sentence. One
    that counts more or less than the others has its weight behind a ^: 'in a red coat^2', 'a hat^0.1'. By itself each
    weighs 1, after --minus 0.3.
    """
    if not image and not caption:
        raise typer.BadParameter("a query needs --image, --caption or both")
    if person is not None and len(image or ()) != 1:
        raise typer.BadParameter("--person says who in the photo is meant: it takes one --image")
    if detector is not None and person is None:
        raise typer.BadParameter("--detector finds people in the photo: say by --person who of them is meant")
    check_milvus(milvus, collection)
    begin_log()
    with command():
        from .retrieval import Gallery, MilvusGallery, Query, RankedQuery, draw_contact_sheet
        from .retrieval.searching import entries_of

        _check_sheet(sheet, top)
        settings = settings_of(gallery)
        photos = [_weighted(photo) if not Path(photo).exists() else photo for photo in image or ()]
        own = [photo[0] if isinstance(photo, tuple) else photo for photo in photos]
        shown_query = own[0] if own else None
        if person is not None:
            shown_query = person_in(Path(own[0]), person, settings, detector, device)
            photos = [shown_query]
        elif photos and "people" in settings:
            typer.echo("searched by the whole photo; --person N takes the Nth person in it, from the left", err=True)
        words, unwanted = ([_weighted(sentence) for sentence in of or ()] for of in (caption, minus))
        query = Query.of(photos or None, words or None, unwanted or None).marked(right or (), wrong or ())
        made = load_model_of(settings, model, import_modules, device)
        if collection is None:
            found = Gallery.load(gallery, *made)
        else:
            found = MilvusGallery.load(gallery, *made, collection=collection, uri=milvus)
        left_out = [*([] if keep_query_photo else own), *(exclude or ())]
        [results] = found.search_many([query], top, left_out, where, exact, false_alarm_rate=false_alarm_rate)
        known = list(zip(results, entries_of(results), strict=True))
        if as_json:
            records = [_record(*pair) for pair in known]
            print(json.dumps({"gallery": str(gallery), "images": len(found), "results": records}, indent=1))
        else:
            match = "   match" if results and results[0].probability is not None else ""
            print(f"{'rank':>4}  {'score':>6}{match}  {'id':>6}  image")
            for result, entry in known:
                probability = f"{result.probability:8.1%}" if match else ""
                name = _name(result.path, entry, found.folder)
                print(f"{result.rank:>4}  {result.score:>6.3f}{probability}  {result.id:>6}  {name}")
        shown = [_shown(one, entry) for one, entry in known if one.path is not None and one.path.is_file()]
        if not results:
            passes = "" if false_alarm_rate is None else f" well enough for a false-alarm rate of {false_alarm_rate:g}"
            typer.echo(f"nothing is found: no image matches{passes}, apart from those left out", err=True)
        elif sheet is not None and shown:
            asked = "".join([" + ".join(caption or ()), *(f", not {sentence}" for sentence in minus or ())])
            row = RankedQuery(shown_query, asked or None, shown)
            hidden = found.state.rows_of_ids(query.wrong)
            num_searched = found.allowed(where, left_out).without(hidden).count()
            title, searched = f"Search in {gallery.name}", f"{counted(num_searched, 'image')} searched"
            draw_contact_sheet([row], sheet, title=title, subtitle=searched, max_results=top)
            missing = len(results) - len(shown)
            without = f", without {counted(missing, 'result')} whose files are gone or have changed" if missing else ""
            typer.echo(f"picture: {printable(sheet)}{without}", err=True)
        elif sheet is not None:
            typer.echo(
                "no picture: the files of all results are gone or have changed since they were indexed", err=True
            )


def _weighted(term: str) -> str | tuple[str, float]:
    """'a red coat^0.5' with its weight; a term without one as it is."""
    words, sign, weight = term.rpartition("^")
    try:
        return (words, float(weight)) if sign else term
    except ValueError:
        raise typer.BadParameter(f"{printable(term)}: what stands behind a ^ is a weight, such as 0.5") from None


def _check_sheet(sheet: Path | None, top: int) -> None:
    """Refuses, before the search, a picture that cannot be written, or would take a photograph's place."""
    if sheet is None:
        return
    from .drawing.sheet import check_replaced
    from .retrieval import check_sheet

    check_sheet(sheet, max_results=top)
    check_replaced(sheet)


def _name(path: Path | None, entry: "Entry", folder: Path | None) -> str:
    """As it is shown: relative to the gallery's folder, with the moment of a film and the person's box."""
    if path is None:
        return "(its file has changed since)"
    name = printable(path.relative_to(folder) if folder and path.is_relative_to(folder) else path)
    name += "" if entry.time is None else f" at {clock(entry.time)}"
    return name if entry.box is None else f"{name}  ({box_told(entry.box)})"


def _shown(result: "SearchResult", entry: "Entry") -> "RankedImage":
    from .retrieval import RankedImage

    return RankedImage(result.path, result.score, rank=result.rank, box=entry.box, time=entry.time)


def _record(result: "SearchResult", entry: "Entry") -> dict[str, Any]:
    path = None if result.path is None else str(result.path)
    known = {name: getattr(entry, name) for name in ("box", "time", "camera", "taken", "tags")}
    return {
        "rank": result.rank,
        "score": result.score,
        "path": path,
        "id": result.id,
        "probability": result.probability,
        **known,
    }
