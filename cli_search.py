"""The commands `fafa index` and `fafa search`. What takes long to import is imported within them."""

import json
import logging
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .cli_people import box_told, find_material, finder, index_films_too, person_in
from .commands import (
    DTYPES,
    MODEL_OPTIONS,
    command,
    default_device,
    fault_of_device,
    load_given_model,
    termination_told,
)
from .files import printable
from .names import clock, counted
from .workers import check_num_workers, is_first_process

if TYPE_CHECKING:
    from .retrieval import Entry, RankedImage, SearchResult

_Modules = Annotated[
    list[str] | None, typer.Option("--import-modules", metavar="MODULE", help=MODEL_OPTIONS["import_modules"])
]
_Device = Annotated[str | None, typer.Option(help=MODEL_OPTIONS["device"])]
_AsJson = Annotated[bool, typer.Option("--json", help="print what was found as JSON")]
_Milvus = Annotated[
    str | None, typer.Option(metavar="URI", help="of Milvus, or a local file .db (default: MILVUS_URI; MILVUS_TOKEN)")
]


def index(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="photographs; with --people also films, or one film; to change it or put it into Milvus, a gallery",
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
    collection: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="put it into this collection of Milvus, too, or bring that in step with it"),
    ] = None,
    milvus: _Milvus = None,
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
    _check_milvus(milvus, collection)
    _log()
    if any(chosen.values()) or (collection is not None and _is_gallery(folder)):
        whole = "is what it was" if collection is None else "is whole: the same command brings the collection in step"
        with command(kept=f"{printable(folder)} {whole}."):
            _look_at(collection, milvus)
            if calibrate is None:
                changed = _changed(folder, delete, compact)
            else:
                changed = _calibrated(
                    folder, calibrate, _load_model(_settings_of(folder), model, import_modules, device)
                )
            _tell_gallery(folder, changed | _published(folder, collection, milvus), as_json)
        return
    output = output or Path(f"{folder.absolute().name or 'photos'}.index")
    kept = f"What was encoded is kept in {printable(output)}: the same command goes on from there."
    with command(kept), termination_told():
        _check_workers(num_workers)
        _look_at(collection, milvus)
        import torch

        from .retrieval import Gallery

        if _is_gallery(folder):
            name = printable(folder)
            raise ValueError(f"{name} is a gallery: give the folder of its photographs, and --output {name}")

        source, images, films = find_material(folder.absolute(), exclude or (), include_rubbish, people)
        try:
            settings = _settings_of(output)
        except FileNotFoundError:  # a new gallery
            settings = {}
        made = _load_model(settings, model, import_modules, device, dtype, exact_pixels)
        options = {"batch_size": batch_size, "on_error": on_error, "dtype": keep and getattr(torch, keep)}
        options |= {"num_workers": num_workers, "features_dir": output, "folder": source}
        counts: dict[str, Any] = {}
        if people:
            from .people import index_people

            found, room = finder(settings, detector, margin, device, output)
            gallery = index_people(*made, images, found, margin=room, **options)
            counts = index_films_too(gallery, films, found, room, rate, crops, batch_size, on_error)
        else:
            gallery = Gallery.from_images(*made, images, **options)
        if is_first_process():  # of the processes of `accelerate launch`, which share the images
            skipped = [*gallery.skipped, *counts.pop("skipped", ())]
            told = {"images": len(gallery), "skipped": skipped, **counts}
            _tell_gallery(output, told | _published(output, collection, milvus), as_json)


def search(
    gallery: Annotated[Path, typer.Argument(metavar="GALLERY", help="folder that `fafa index` wrote")],
    image: Annotated[list[str] | None, typer.Option(metavar="PHOTO", help="reference photo of the person")] = None,
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
    milvus: _Milvus = None,
    model: Annotated[
        str | None, typer.Option(help=f"{MODEL_OPTIONS['model']} (default: the one that made the gallery)")
    ] = None,
    import_modules: _Modules = None,
    device: _Device = None,
    as_json: _AsJson = False,
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
    _check_milvus(milvus, collection)
    _log()
    with command():
        from .retrieval import Gallery, MilvusGallery, Query, RankedQuery, draw_contact_sheet
        from .retrieval.searching import entries_of

        _check_sheet(sheet, top)
        settings = _settings_of(gallery)
        photos = [_weighted(photo) if not Path(photo).exists() else photo for photo in image or ()]
        own = [photo[0] if isinstance(photo, tuple) else photo for photo in photos]
        shown_query = own[0] if own else None
        if person is not None:
            shown_query = person_in(Path(own[0]), person, settings, device)
            photos = [shown_query]
        elif photos and "people" in settings:
            typer.echo("searched by the whole photo; --person N takes the Nth person in it, from the left", err=True)
        words, unwanted = ([_weighted(sentence) for sentence in of or ()] for of in (caption, minus))
        query = Query.of(photos or None, words or None, unwanted or None).marked(right or (), wrong or ())
        made = _load_model(settings, model, import_modules, device)
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
            typer.echo("nothing is found: no image matches, apart from those left out", err=True)
        elif sheet is not None and shown:
            asked = "".join([" + ".join(caption or ()), *(f" − {sentence}" for sentence in minus or ())])
            row = RankedQuery(shown_query, asked or None, shown)
            title, searched = f"Search in {gallery.name}", f"{counted(len(found), 'image')} searched"
            draw_contact_sheet([row], sheet, title=title, subtitle=searched, max_results=top)
            missing = len(results) - len(shown)
            without = f", without {counted(missing, 'result')} whose files are gone or have changed" if missing else ""
            typer.echo(f"picture: {printable(sheet)}{without}", err=True)
        elif sheet is not None:
            typer.echo(
                "no picture: the files of all results are gone or have changed since they were indexed", err=True
            )


def _log() -> None:
    logging.basicConfig(format="%(message)s")
    logging.getLogger("fafa").setLevel(logging.INFO)


def _check_workers(number: int | None) -> None:
    try:
        check_num_workers(number or 0)
    except ValueError as error:
        raise typer.BadParameter(f"--num-workers: {error}") from None


def _weighted(term: str) -> str | tuple[str, float]:
    """'a red coat^0.5' with its weight; a term without one as it is."""
    words, sign, weight = term.rpartition("^")
    try:
        return (words, float(weight)) if sign else term
    except ValueError:
        raise typer.BadParameter(f"{printable(term)}: what stands behind a ^ is a weight, such as 0.5") from None


def _check_milvus(uri: str | None, collection: str | None) -> None:
    if uri is not None and collection is None:
        raise typer.BadParameter("--milvus: which collection of it? Give --collection NAME, too")
    if collection is not None and not (uri or os.environ.get("MILVUS_URI")):
        raise typer.BadParameter("--collection: of which Milvus? Give --milvus URI, too, or set MILVUS_URI")


def _is_gallery(folder: Path) -> bool:
    from .retrieval.conversion import is_store
    from .retrieval.segment_list import GalleryFolder

    place = GalleryFolder(folder)  # ITCPR has a gallery.json, too
    return (place.exists() and place.segments.is_dir()) or is_store(folder)


def _look_at(collection: str | None, uri: str | None) -> None:
    """Refuses, before long work, a Milvus that does not answer, and a collection that holds no gallery."""
    from .retrieval.milvus_collection import MilvusCollection

    if collection is not None and is_first_process() and (target := MilvusCollection(collection, uri)).exists():
        target.notes()


def _published(gallery: Path, collection: str | None, uri: str | None) -> dict[str, Any]:
    """Puts a gallery into a collection, if one is given; returns what to tell of it."""
    from .retrieval import publish_gallery

    if collection is None:
        return {}
    return {"collection": collection, "published": publish_gallery(gallery, collection, uri)}


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
    published = f", {counted(told['published'], 'change')} written to Milvus" if "published" in told else ""
    print(f"{printable(folder)}: {held}{skipped}{deleted}{calibrated}{published}")


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

    return RankedImage(result.path, result.score, box=entry.box, time=entry.time)


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
