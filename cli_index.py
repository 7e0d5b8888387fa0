"""The command `fafa index`. What takes long to import is imported within it."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .cli_galleries import AsJson, Device, Milvus, Model, Modules, begin_log, check_milvus, load_model_of, settings_of
from .cli_people import check_film_alone, find_material, finder, index_films_too
from .commands import MODEL_OPTIONS, command, termination_told
from .files import printable
from .names import counted
from .workers import check_num_workers, is_first_process


def index(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="photographs; with --people also films, or one film; to change it or put it into Milvus, a gallery",
        ),
    ],
    model: Model = None,
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
    import_modules: Modules = None,
    device: Device = None,
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
    milvus: Milvus = None,
    as_json: AsJson = False,
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
    check_milvus(milvus, collection)
    begin_log()
    if any(chosen.values()) or (collection is not None and _is_gallery(folder)):
        whole = "is what it was" if collection is None else "is whole: the same command brings the collection in step"
        with command(kept=f"{printable(folder)} {whole}."):
            _look_at(collection, milvus)
            if calibrate is None:
                changed = _changed(folder, delete, compact)
            else:
                changed = _calibrated(
                    folder, calibrate, load_model_of(settings_of(folder), model, import_modules, device)
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
        if folder.is_file():
            check_film_alone(output, *films)
        try:
            settings = settings_of(output)
        except FileNotFoundError:  # a new gallery
            settings = {}
        made = load_model_of(settings, model, import_modules, device, dtype, exact_pixels)
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


def _check_workers(number: int | None) -> None:
    try:
        check_num_workers(number or 0)
    except ValueError as error:
        raise typer.BadParameter(f"--num-workers: {error}") from None


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
