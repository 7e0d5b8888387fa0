"""The commands `fafa index` and `fafa search`. What takes long to import is imported within them."""

import json
import logging
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .cli_people import box_told, find_material, finder, index_films_too, person_in
from .commands import DTYPES, MODEL_OPTIONS, command, default_device, fault_of_device, load_given_model
from .files import printable
from .names import clock, counted
from .workers import check_num_workers, is_first_process

if TYPE_CHECKING:
    from .retrieval import RankedImage, SearchResult

_Modules = Annotated[
    list[str] | None, typer.Option("--import-modules", metavar="MODULE", help=MODEL_OPTIONS["import_modules"])
]
_Device = Annotated[str | None, typer.Option(help=MODEL_OPTIONS["device"])]
_AsJson = Annotated[bool, typer.Option("--json", help="print what was found as JSON")]


def index(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="photographs; with --people also films in it, or one film; with --delete, --compact or --convert a "
            "gallery",
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help=f"{MODEL_OPTIONS['model']} (default: the one that made the gallery)")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="folder of the gallery (default: FOLDER's name with .index, here)")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="leave out files or folders, such as '*_small*'")
    ] = None,
    include_rubbish: Annotated[
        bool, typer.Option("--include-rubbish", help="take previews, waste baskets and the like, too")
    ] = False,
    exact_pixels: Annotated[
        bool, typer.Option("--exact-pixels", help="decode large photographs in full: slower, scores differ a little")
    ] = False,
    people: Annotated[
        bool, typer.Option("--people", help="find the people in photographs that show several: an entry for each")
    ] = False,
    detector: Annotated[
        str | None,
        typer.Option(
            help="what finds people: folder or Hub name of a detector of transformers; or hog, which needs no download "
            "and is weak (default: the gallery's, or PekingU/rtdetr_r50vd)"
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="around a person, as a share of the height (default: the gallery's, or 0.05)"),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.01, max=240, help="frames of a film looked at in a second (default: 5)")
    ] = None,
    crops: Annotated[
        int | None, typer.Option(min=1, help="images of each person that walks through a film (default: 3)")
    ] = None,
    on_error: Annotated[Literal["skip", "raise"], typer.Option(help="at a photo or film that cannot be read")] = "skip",
    import_modules: _Modules = None,
    device: _Device = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help=f"{MODEL_OPTIONS['dtype']} (default: float32)")
    ] = None,
    keep: Annotated[
        Literal["float16", "float32", "int8"] | None,
        typer.Option(
            help="precision in the gallery; int8 takes a third, scores differ by some 0.001 (default: float16)"
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help=MODEL_OPTIONS["batch_size"])] = 64,
    num_workers: Annotated[
        int | None, typer.Option(help=f"{MODEL_OPTIONS['num_workers']} (default: one per core, up to 8)")
    ] = None,
    delete: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="delete what a filter matches, such as 'taken < \"2020\"'; indexing brings it back if it is there",
        ),
    ] = None,
    compact: Annotated[bool, typer.Option("--compact", help="merge all segments and drop what is deleted")] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="learn what scores mean, from a test set of ITCPR's form or triplets that the model has not seen",
        ),
    ] = None,
    convert: Annotated[
        bool, typer.Option("--convert", help="give the index of an earlier version its new form")
    ] = False,
    as_json: _AsJson = False,
) -> None:
    """Encode a folder of photographs into a gallery to search.

    Of a gallery that is there only new and changed photographs are encoded, and those that are gone are dropped.
    """
    chosen = {
        "--delete": delete is not None,
        "--compact": compact,
        "--calibrate": calibrate is not None,
        "--convert": convert,
    }
    if sum(chosen.values()) > 1:
        raise typer.BadParameter(f"{' and '.join(name for name in chosen if chosen[name])}: give one at a time")
    of_people = {"--detector": detector, "--margin": margin, "--rate": rate, "--crops": crops}
    if not people and (given := [name for name, value in of_people.items() if value is not None]):
        raise typer.BadParameter(f"{' and '.join(given)}: that is about people in photographs and films: give --people")
    _log()
    if any(chosen.values()):
        with command(kept=f"{printable(folder)} is what it was."):
            if calibrate is None:
                changed = _changed(folder, delete, compact)
            else:
                changed = _calibrated(
                    folder, calibrate, _load_model(_settings_of(folder), model, import_modules, device)
                )
            _tell_gallery(folder, changed, as_json)
        return
    output = output or Path(f"{folder.absolute().name or 'photos'}.index")
    with command(kept=f"What was encoded is kept in {printable(output)}: the same command goes on from there."):
        _check_workers(num_workers)
        import torch

        from .retrieval import Gallery

        source, images, films = find_material(folder.absolute(), exclude or (), include_rubbish, people)
        try:
            settings = _settings_of(output)
        except FileNotFoundError:  # a new gallery
            settings = {}
        made = _load_model(settings, model, import_modules, device, dtype, exact_pixels)
        options = {"batch_size": batch_size, "on_error": on_error, "dtype": keep and getattr(torch, keep)}
        options |= {"num_workers": num_workers, "features_dir": output, "folder": source}
        told = {}
        if people:
            from .people import index_people

            found, room = finder(settings, detector, margin, device)
            gallery = index_people(*made, images, found, margin=room, **options)
            told = index_films_too(gallery, films, found, room, rate, crops, batch_size, on_error)
        else:
            gallery = Gallery.from_images(*made, images, **options)
        if is_first_process():  # of the processes of `accelerate launch`, which share the images
            skipped = [*gallery.skipped, *told.pop("skipped", ())]
            _tell_gallery(output, {"images": len(gallery), "skipped": skipped, **told}, as_json)


def search(
    gallery: Annotated[Path, typer.Argument(metavar="GALLERY", help="folder that `fafa index` wrote")],
    image: Annotated[list[Path] | None, typer.Option(metavar="PHOTO", help="reference photo of the person")] = None,
    person: Annotated[
        int | None,
        typer.Option(min=1, help="search for one of several people in the photo, counted from the left (default: all)"),
    ] = None,
    caption: Annotated[
        list[str] | None,
        typer.Option(metavar="SENTENCE", help="what the person looks like, or what differs from the photo"),
    ] = None,
    minus: Annotated[
        list[str] | None, typer.Option(metavar="SENTENCE", help="what is not wanted, such as 'a backpack'")
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
    model: Annotated[
        str | None, typer.Option(help=f"{MODEL_OPTIONS['model']} (default: the one that made the gallery)")
    ] = None,
    import_modules: _Modules = None,
    device: _Device = None,
    as_json: _AsJson = False,
) -> None:
    """Search a gallery by photos, sentences, or both.

    Of several, given by several --image, --caption and --minus, each photo is asked together with each sentence.
    """
    if not image and not caption:
        raise typer.BadParameter("a query needs --image, --caption or both")
    if person is not None and len(image or ()) != 1:
        raise typer.BadParameter("--person says who in the photo is meant: it takes one --image")
    _log()
    with command():
        from .retrieval import Gallery, RankedQuery, draw_contact_sheet

        _check_sheet(sheet, top)
        settings = _settings_of(gallery)
        asked = image if person is None else [person_in(image[0], person, settings, device)]
        found = Gallery.load(gallery, *_load_model(settings, model, import_modules, device))
        if image and person is None and "people" in settings:
            typer.echo("searched by the whole photo; --person N takes the Nth person in it, from the left", err=True)
        own = [] if keep_query_photo else image or []
        left_out = [*own, *(exclude or ())]
        options = {"minus": minus or None, "false_alarm_rate": false_alarm_rate}
        results = found.search(asked or None, caption or None, top, left_out, where, exact, **options)
        if as_json:
            records = [_record(result) for result in results]
            print(json.dumps({"gallery": str(gallery), "images": len(found), "results": records}, indent=1))
        else:
            match = "   match" if results and results[0].probability is not None else ""
            print(f"{'rank':>4}  {'score':>6}{match}  image")
            for result in results:
                probability = f"{result.probability:8.1%}" if match else ""
                print(f"{result.rank:>4}  {result.score:>6.3f}{probability}  {_name(result, found.folder)}")
        shown = [_shown(result) for result in results if result.path is not None]
        if not results:
            typer.echo("nothing is found: no image, but those left out, matches", err=True)
        elif sheet is not None and shown:
            words = "".join([" + ".join(caption or ()), *(f" − {unwanted}" for unwanted in minus or ())])
            row = RankedQuery(asked[0] if asked else None, words or None, shown)
            title, searched = f"Search in {gallery.name}", f"{counted(len(found), 'image')} searched"
            draw_contact_sheet([row], sheet, title=title, subtitle=searched, max_results=top)
            typer.echo(f"picture: {printable(sheet)}", err=True)


def _log() -> None:
    logging.basicConfig(format="%(message)s")
    logging.getLogger("fafa").setLevel(logging.INFO)


def _check_workers(number: int | None) -> None:
    try:
        check_num_workers(number or 0)
    except ValueError as error:
        raise typer.BadParameter(f"--num-workers: {error}") from None


def _settings_of(gallery: Path) -> dict[str, Any]:
    """What made a gallery's features, of either form.

    Raises:
        FileNotFoundError: there is no gallery. ValueError: it is damaged.
    """
    from .retrieval.conversion import is_store
    from .retrieval.segment_list import GalleryFolder
    from .retrieval.store import FeatureStore

    return FeatureStore.open(gallery).settings if is_store(gallery) else GalleryFolder(gallery).settings()


def _load_model(
    settings: Mapping[str, Any],
    model: str | None,
    import_modules: list[str] | None,
    device: str | None,
    dtype: str | None = None,
    exact_pixels: bool = False,
) -> tuple[Any, Any]:
    """A model and its processor, by default as `settings` of a gallery name them: there, a fingerprint tells."""
    noted = settings.get("model", {})
    name = model or noted.get("name")
    if not name:
        raise typer.BadParameter("--model is missing: no gallery is there that says what made it")
    if model is None and Path(name).is_absolute() and not Path(name).exists():
        raise ValueError(
            f"the gallery was made by the model in {printable(name)}, which is gone: give its place, --model"
        )
    if fault := fault_of_device(device := device or default_device()):
        raise typer.BadParameter(fault)
    if Path(name).is_dir():
        name = str(Path(name).absolute())  # a gallery notes it, and is searched from other folders
    dtype = dtype or (noted["dtype"] if noted.get("dtype") in DTYPES else "float32")
    made, processor = load_given_model(
        Namespace(model=name, import_modules=import_modules or [], device=device, dtype=dtype)
    )
    if hasattr(processor.image_processor, "draft_photographs"):  # photographs are larger than crops of people
        drafts = settings.get("image_processor", {}).get("draft_photographs", True)
        processor.image_processor.draft_photographs = drafts and not exact_pixels
    return made, processor


def _changed(folder: Path, delete: str | None, compact: bool) -> dict[str, Any]:
    """Changes a gallery without a model; returns what to tell of it."""
    from .retrieval import convert_store
    from .retrieval.segment_list import GalleryFolder

    if delete is None and not compact:
        convert_store(folder)
        return {"images": len(GalleryFolder(folder).read())}
    with GalleryFolder(folder).writing() as writer:
        before = len(writer.state)
        if compact:
            state = writer.compact()
        else:
            writer.delete(writer.state.living_rows_matching(delete))
            state = writer.commit()
    return {"images": len(state)} if compact else {"images": len(state), "deleted": before - len(state)}


def _calibrated(folder: Path, data: Path, model: tuple[Any, Any]) -> dict[str, Any]:
    """Calibrates a gallery; returns what to tell of it."""
    from datasets import load_dataset

    from .retrieval import Gallery

    gallery = Gallery.load(folder, *model)
    if (data / "SynCPR.json").is_file():
        gallery.calibrate(load_dataset("SynCPR", split="train", data_dir=str(data)))
    else:
        parts = (load_dataset("ITCPR", part, split="test", data_dir=str(data)) for part in ("query", "gallery"))
        gallery.calibrate(*parts)
    return {"images": len(gallery), "calibrated": True}


def _tell_gallery(folder: Path, told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"gallery": str(folder), **told}, indent=1))
        return
    skipped = f", {len(told['skipped']):,} unreadable and left out" if told.get("skipped") else ""
    deleted = f", {told['deleted']:,} deleted" if "deleted" in told else ""
    calibrated = ", calibrated" if "calibrated" in told else ""
    held = counted(told["images"], "image")
    if "people" in told:
        held = f"{counted(told['people'], 'person')} in {counted(told['photographs'], 'photograph')}"
        held += f", nobody found in {len(told['whole']):,} of them" if told["whole"] else ""
    if told.get("films"):
        held = f"{held}, " if told["photographs"] else ""
        held += f"{counted(told['tracks'], 'track')} of people in {counted(told['films'], 'film')}"
    print(f"{printable(folder)}: {held}{skipped}{deleted}{calibrated}")


def _check_sheet(sheet: Path | None, top: int) -> None:
    """Refuses, before the search, a picture that cannot be written, or would take a photograph's place."""
    if sheet is None:
        return
    from .drawing.sheet import check_replaced
    from .retrieval import check_sheet

    check_sheet(sheet, max_results=top)
    check_replaced(sheet)


def _name(result: "SearchResult", folder: Path | None) -> str:
    """As it is shown: relative to the gallery's folder, with the moment of a film and the person's box."""
    path = result.path
    if path is None:
        return "(its file has changed since)"
    name = printable(path.relative_to(folder) if folder and path.is_relative_to(folder) else path)
    entry = result.entry
    name += "" if entry.time is None else f" at {clock(entry.time)}"
    return name if entry.box is None else f"{name}  ({box_told(entry.box)})"


def _shown(result: "SearchResult") -> "RankedImage":
    from .retrieval import RankedImage

    entry = result.entry
    return RankedImage(result.path, result.score, box=entry.box, time=entry.time)


def _record(result: "SearchResult") -> dict[str, Any]:
    path = None if result.path is None else str(result.path)
    known = {name: getattr(result.entry, name) for name in ("box", "time", "camera", "taken", "tags")}
    return {
        "rank": result.rank,
        "score": result.score,
        "path": path,
        "id": result.id,
        "probability": result.probability,
        **known,
    }
