"""What the commands over a gallery share: options, and the model that made it."""

import logging
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from .commands import DTYPES, MODEL_OPTIONS, default_device, fault_of_device, load_given_model
from .files import printable

Modules = Annotated[
    list[str] | None, typer.Option("--import-modules", metavar="MODULE", help=MODEL_OPTIONS["import_modules"])
]
Model = Annotated[str | None, typer.Option(help=f"{MODEL_OPTIONS['model']} (default: the one that made the gallery)")]
Device = Annotated[str | None, typer.Option(help=MODEL_OPTIONS["device"])]
AsJson = Annotated[bool, typer.Option("--json", help="print what was found as JSON")]
Milvus = Annotated[
    str | None, typer.Option(metavar="URI", help="of Milvus, or a local file .db (default: MILVUS_URI; MILVUS_TOKEN)")
]


def begin_log() -> None:
    """Lets the package say what it does."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("fafa").setLevel(logging.INFO)


def check_milvus(uri: str | None, collection: str | None) -> None:
    """Refuses one of the two without the other."""
    if uri is not None and collection is None:
        raise typer.BadParameter("--milvus: which collection of it? Give --collection NAME, too")
    if collection is not None and not (uri or os.environ.get("MILVUS_URI")):
        raise typer.BadParameter("--collection: of which Milvus? Give --milvus URI, too, or set MILVUS_URI")


def settings_of(gallery: Path) -> dict[str, Any]:
    """What made a gallery's features, of either form.

    Raises:
        FileNotFoundError: there is no gallery. ValueError: it is damaged.
    """
    from .retrieval.conversion import is_store
    from .retrieval.segment_list import GalleryFolder
    from .retrieval.store import FeatureStore

    return FeatureStore.open(gallery).settings if is_store(gallery) else GalleryFolder(gallery).settings()


def load_model_of(
    settings: Mapping[str, Any],
    model: str | None,
    import_modules: list[str] | None,
    device: str | None,
    dtype: str | None = None,
    exact_pixels: bool = False,
) -> tuple[Any, Any]:
    """A model and its processor, by default as `settings` of a gallery name them: there, a fingerprint tells."""
    from .retrieval.fingerprint import read_as_noted

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
    read_as_noted(processor, {"image_processor": {"draft_photographs": False}} if exact_pixels else settings)
    return made, processor
