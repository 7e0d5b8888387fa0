"""The command `fafa`: index, search, train, evaluate, convert, synthesize, verify.

    fafa index photos/ --model pretrained/fafa
    fafa search photos.index --image me.jpg --caption "in a red coat"

What takes long to import is imported within the commands: help and completion answer at once. Commands of modules that
parse their own options are passed on to them, so that no list of options stands twice.
"""

import json
import logging
from argparse import Namespace
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer
from typer.core import TyperGroup

from .commands import DTYPES, MODEL_OPTIONS, command, default_device, fault_of_device, load_given_model
from .files import printable
from .names import counted
from .workers import check_num_workers

if TYPE_CHECKING:
    from .retrieval import SearchResult


class _Kinds(TyperGroup):
    """A group of commands whose first one is meant where none is named: `fafa evaluate --model M --data D`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Puts the first command's name before what belongs to it."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)


def _example(line: str) -> str:
    return f"\b\nExample:\n  {line}"


_STYLE = {"rich_markup_mode": None, "no_args_is_help": True}
app = typer.Typer(
    help="Find a person by a photo and a sentence: search, train, evaluate, make data sets.",
    epilog=_example("fafa search photos.index --image me.jpg --caption 'in a red coat'"),
    pretty_exceptions_enable=False,
    **_STYLE,
)


class _Passed(NamedTuple):
    """A command that a module of the package parses and runs."""

    name: str
    module: str
    help: str
    function: str = "main"


def _pass_on(group: typer.Typer, passed: _Passed) -> None:
    """Adds a command that hands its arguments on, `--help` among them."""

    def run(context: typer.Context) -> None:
        with command():
            module = import_module(passed.module, __package__)
            status = getattr(module, passed.function)(context.args, context.command_path)
        raise typer.Exit(status or 0)

    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    group.command(passed.name, help=passed.help, context_settings=settings)(run)


def _add_kinds(name: str, help: str, example: str, *kinds: _Passed) -> None:
    group = typer.Typer(
        cls=_Kinds, help=f"{help} Without a COMMAND: {kinds[0].name}.", epilog=_example(example), **_STYLE
    )
    for kind in kinds:
        _pass_on(group, kind)
    app.add_typer(group, name=name)


_Modules = Annotated[
    list[str] | None, typer.Option("--import-modules", metavar="MODULE", help=MODEL_OPTIONS["import_modules"])
]
_Device = Annotated[str | None, typer.Option(help=MODEL_OPTIONS["device"])]
_AsJson = Annotated[bool, typer.Option("--json", help="print what was found as JSON")]


@app.command(epilog=_example("fafa index photos/ --model pretrained/fafa --output photos.index"))
def index(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="photographs; with --delete, --compact or --convert a gallery"),
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
    on_error: Annotated[Literal["skip", "raise"], typer.Option(help="at a photo that cannot be read")] = "skip",
    import_modules: _Modules = None,
    device: _Device = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help=f"{MODEL_OPTIONS['dtype']} (default: float32)")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help=MODEL_OPTIONS["batch_size"])] = 64,
    num_workers: Annotated[
        int | None, typer.Option(help=f"{MODEL_OPTIONS['num_workers']} (default: one per core, up to 8)")
    ] = None,
    delete: Annotated[
        str | None, typer.Option(metavar="WHERE", help="delete what a filter matches, such as 'taken < \"2020\"'")
    ] = None,
    compact: Annotated[bool, typer.Option("--compact", help="merge all segments and drop what is deleted")] = False,
    convert: Annotated[
        bool, typer.Option("--convert", help="give the index of an earlier version its new form")
    ] = False,
    as_json: _AsJson = False,
) -> None:
    """Encode a folder of photographs into a gallery to search.

    Of a gallery that is there only new and changed photographs are encoded, and those that are gone are dropped.
    """
    chosen = {"--delete": delete is not None, "--compact": compact, "--convert": convert}
    if sum(chosen.values()) > 1:
        raise typer.BadParameter(f"{' and '.join(name for name in chosen if chosen[name])}: give one at a time")
    _log()
    if any(chosen.values()):
        with command(kept=f"{printable(folder)} is what it was."):
            _tell_gallery(folder, _changed(folder, delete, compact), as_json)
        return
    output = output or Path(f"{folder.absolute().name or 'photos'}.index")
    with command(kept=f"What was encoded is kept in {printable(output)}: the same command goes on from there."):
        _check_workers(num_workers)
        from .retrieval import Gallery, find_images

        images = find_images(folder.absolute(), exclude or (), include_rubbish)
        try:
            settings = _settings_of(output)
        except FileNotFoundError:  # a new gallery
            settings = {}
        made = _load_model(settings, model, import_modules, device, dtype, exact_pixels)
        gallery = Gallery.from_images(
            *made,
            images,
            batch_size=batch_size,
            on_error=on_error,
            num_workers=num_workers,
            features_dir=output,
            folder=folder.absolute(),
        )
        _tell_gallery(output, {"images": len(gallery), "skipped": list(gallery.skipped)}, as_json)


@app.command(epilog=_example("fafa search photos.index --image me.jpg --caption 'in a red coat' --sheet result.png"))
def search(
    gallery: Annotated[Path, typer.Argument(metavar="GALLERY", help="folder that `fafa index` wrote")],
    image: Annotated[list[Path] | None, typer.Option(metavar="PHOTO", help="reference photo of the person")] = None,
    caption: Annotated[
        list[str] | None,
        typer.Option(metavar="SENTENCE", help="what the person looks like, or what differs from the photo"),
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="search only what a filter matches, such as 'taken >= \"2024-05-01\"'")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="how many results")] = 10,
    exact: Annotated[
        bool, typer.Option("--exact", help="look at every image, without a first choice by means")
    ] = False,
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
    """Search a gallery by a photo and a sentence, a sentence alone, or a photo alone."""
    if not image and not caption:
        raise typer.BadParameter("a query needs --image, --caption or both")
    _log()
    with command():
        from .retrieval import Gallery, RankedImage, RankedQuery, draw_contact_sheet

        _check_sheet(sheet, top)
        found = Gallery.load(gallery, *_load_model(_settings_of(gallery), model, import_modules, device))
        own = [] if keep_query_photo else image or []
        query = {"image": _one_or_all(image), "caption": _one_or_all(caption)}
        results = found.search(**query, top=top, exclude=[*own, *(exclude or ())], where=where, exact=exact)
        if as_json:
            records = [_record(result) for result in results]
            print(json.dumps({"gallery": str(gallery), "images": len(found), "results": records}, indent=1))
        else:
            print(f"{'rank':>4}  {'score':>6}  image")
            for result in results:
                print(f"{result.rank:>4}  {result.score:>6.3f}  {_name(result.path, found.folder)}")
        shown = [RankedImage(result.path, result.score) for result in results if result.path is not None]
        if sheet is not None and shown:
            row = RankedQuery(image[0] if image else None, caption[0] if caption else None, shown)
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

    return FeatureStore.open(gallery).settings if is_store(gallery) else GalleryFolder(gallery).manifest()["settings"]


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
            matching, alive = writer.state.matching(delete), writer.state.alive
            writer.delete((matching if alive is None else matching & alive).nonzero().flatten())
            state = writer.commit()
    return {"images": len(state)} if compact else {"images": len(state), "deleted": before - len(state)}


def _tell_gallery(folder: Path, told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"gallery": str(folder), **told}, indent=1))
        return
    skipped = f", {len(told['skipped']):,} unreadable and left out" if told.get("skipped") else ""
    deleted = f", {told['deleted']:,} deleted" if "deleted" in told else ""
    print(f"{printable(folder)}: {counted(told['images'], 'image')}{skipped}{deleted}")


def _check_sheet(sheet: Path | None, top: int) -> None:
    """Refuses, before the search, a picture that cannot be written, or would take a photograph's place."""
    if sheet is None:
        return
    from .drawing.sheet import is_sheet
    from .retrieval import check_sheet

    check_sheet(sheet, max_results=top)
    if sheet.is_file() and not is_sheet(sheet):
        raise ValueError(f"--sheet {printable(sheet)} is a file, and none of these pictures: choose another name")


def _one_or_all(terms: list | None) -> Any:
    return terms[0] if terms and len(terms) == 1 else terms or None


def _name(path: Path | None, folder: Path | None) -> str:
    """As it is shown: relative to the gallery's folder of photographs."""
    if path is None:
        return "(its file has changed since)"
    return printable(path.relative_to(folder) if folder and path.is_relative_to(folder) else path)


def _record(result: "SearchResult") -> dict[str, Any]:
    path = None if result.path is None else str(result.path)
    known = {name: getattr(result.entry, name) for name in ("box", "time", "camera", "taken", "tags")}
    return {"rank": result.rank, "score": result.score, "path": path, "id": result.id, **known}


_pass_on(app, _Passed("train", ".training.run", "Train a model, or go on with a run that was stopped."))
_add_kinds(
    "evaluate",
    "Evaluate a model: figures with intervals, pictures, reports.",
    "fafa evaluate --model runs/paper --data /data/ITCPR --output results/paper",
    _Passed("itcpr", ".evaluation.run", "On ITCPR, a test set of its form, or images with captions.", "itcpr"),
    _Passed("cir", ".evaluation.run", "On FashionIQ, CIRR or CIRCO (composed image retrieval).", "cir"),
    _Passed("robustness", ".evaluation.run", "With queries that are spoilt, contradicted or reworded.", "robustness"),
    _Passed("embedder", ".evaluation.run", "Another model instead: one of sentence-transformers.", "embedder"),
    _Passed("compare", ".evaluation.compare", "Compare two reports, query by query."),
)
_add_kinds(
    "convert",
    "Make a model folder of published weights.",
    "fafa convert fafa.pt pretrained/fafa",
    _Passed("fafa", ".convert_fafa_checkpoint", "FAFA, of the authors' file or BLIP-2."),
    _Passed("coalign", ".models.coalign.convert", "CoAlign, of BLIP-2 or CLIP."),
    _Passed("word4per", ".models.word4per.__main__", "Word4Per, of the authors' files or CLIP."),
    _Passed("dual-encoder", ".models.dual_encoder.__main__", "A dual encoder, of CLIP or SigLIP."),
)
_add_kinds(
    "synthesize",
    "Make a data set by a recipe.",
    "fafa synthesize painter --output data/painter",
    _Passed("recipe", ".synthesis.__main__", "By a recipe of the package, or of your own."),
    _Passed("calibrate", ".synthesis.calibrate", "Find the bounds of a recipe's filter from a person's verdicts."),
    _Passed("adapter", ".synthesis.train_adapter", "Train the adapter that paints both captions as one person."),
)
_pass_on(app, _Passed("verify", ".verify", "Check folders by their checksums, data sets by every image."))


def main() -> None:
    """The console script."""
    app(prog_name="fafa")


if __name__ == "__main__":
    main()
