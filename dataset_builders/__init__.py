"""SynCPR, ITCPR and their relatives for `datasets.load_dataset`.

    import fafa
    from datasets import load_dataset

    load_dataset("SynCPR", data_dir=root)              # split train
    load_dataset("ITCPR", "query", data_dir=root)      # split test
    load_dataset("ITCPR", "gallery", data_dir=root)    # split test
    load_dataset("CIRHS", data_dir=root)               # split train: triplets of everyday scenes
    load_dataset("SynTBPR", data_dir=root)             # split train: images of people with captions
    load_dataset("FashionIQ", "query", data_dir=root)  # benchmarks of composed image retrieval, in their authors'
    load_dataset("CIRR", "gallery", data_dir=root)     # layouts; their images are the user's to obtain. "query" or
    load_dataset("CIRCO", "query", data_dir=root)      # "gallery"; splits as their files are there

`fafa.synthesis` makes data sets of the last two forms. Without `data_dir` the authors' repository on the Hub is fetched
and unpacked (another one with `repo_id=`, `revision=`).
An annotation file is one shard: it is read and checked by one process (half a minute for SynCPR's 1.15 million records,
once). For a stream that several workers share, cut what was loaded: `dataset.to_iterable_dataset(num_shards=64)`.

    python -m fafa.dataset_builders.prepare_itcpr      # arranges Celeb-reID, LaST and PRCC for ITCPR
    fafa verify ROOT        # checks every record and opens every image
    python -m fafa.dataset_builders.export NAME        # Parquet or WebDataset with the images in it
"""

import functools
import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

# Name for load_dataset -> module of the builder, and the last folder of its cache: raise it when columns change.
BUILDERS = {
    "SynCPR": (f"{__name__}.syncpr", "1"),
    "ITCPR": (f"{__name__}.itcpr", "1"),
    "CIRHS": (f"{__name__}.cirhs", "1"),
    "SynTBPR": (f"{__name__}.syntbpr", "1"),
    "CUHK-PEDES": (f"{__name__}.cuhk_pedes", "1"),
    "ICFG-PEDES": (f"{__name__}.icfg_pedes", "1"),
    "RSTPReid": (f"{__name__}.rstpreid", "1"),
    "UFine6926": (f"{__name__}.ufine6926", "1"),
    "TBPS-CLIP": (f"{__name__}.tbps_clip", "1"),
    "FashionIQ": (f"{__name__}.fashioniq", "1"),
    "CIRR": (f"{__name__}.cirr", "1"),
    "CIRCO": (f"{__name__}.circo", "1"),
}
TEXT_IMAGE = ("CUHK-PEDES", "ICFG-PEDES", "RSTPReid", "UFine6926", "TBPS-CLIP")  # images of people with captions


def register_builders() -> None:
    """Make `datasets.load_dataset` know the names in `BUILDERS`. Calling it again changes nothing.

    `datasets` has no plug-ins (5.2). Every way from a name to its builder leads through `dataset_module_factory`, so
    that is wrapped for our names. This also keeps the stock code from listing millions of image files in `data_dir`.
    A path to a folder in our layout is refused, with the call that loads it: the stock code would misread it.
    """
    import datasets.inspect
    import datasets.load

    stock = datasets.load.dataset_module_factory
    if hasattr(stock, "fafa_builders"):
        return

    @functools.wraps(stock)
    def dataset_module_factory(path, revision=None, *args, data_files=None, **kwargs):
        if path not in BUILDERS:
            _refuse_our_folder(path, kwargs.get("data_dir"))
            return stock(path, revision, *args, data_files=data_files, **kwargs)
        if data_files is not None:
            raise ValueError(
                f"{path} takes data_dir=, a folder of annotations and images, and no data_files=. "
                f"Load it with {_right_call(path, _folder_of(data_files))}"
            )
        module, schema = BUILDERS[path]
        return datasets.load.DatasetModule(module, schema, {"dataset_name": path, "revision": revision})

    dataset_module_factory.fafa_builders = BUILDERS
    datasets.load.dataset_module_factory = dataset_module_factory
    datasets.inspect.dataset_module_factory = dataset_module_factory


def _refuse_our_folder(path: str, data_dir: str | None) -> None:
    """Raise `ValueError` if a path, with `data_dir` below it, leads to annotation files of ours.

    Folders whose card tells `load_dataset` what is in them, as `export` writes them, are left to the stock code.
    """
    place = Path(path, data_dir or "")
    is_file = place.suffix == ".json" and os.path.isfile(place)  # noqa: PTH113 - Path raises over names of any length
    if not (is_file or os.path.isdir(place)):  # noqa: PTH112
        return
    folder = place.parent if is_file else place
    if _has_configs(folder / "README.md"):
        return
    for name in BUILDERS:
        names = _configs(name)[0].annotation_names
        if (is_file and place.name not in names) or not _is_ours(folder, names):
            continue
        raise ValueError(
            f"{path} holds {' and '.join(names)}: it is in the layout of {name}, which is loaded by name; from its "
            f"path alone, datasets would make another data set. Load it with {_right_call(name, str(folder.resolve()))}"
        )


def _configs(name: str) -> list:
    return getattr(importlib.import_module(BUILDERS[name][0]), name.replace("-", "_")).BUILDER_CONFIGS


def _is_ours(folder: Path, names: tuple[str, ...]) -> bool:
    from .layout import annotated_folder

    found = annotated_folder(folder, names) if names else None  # those of several splits have none of all
    if found is None or len(names) == 1:  # SynCPR.json and its like are names of ours alone
        return found is not None
    with (found / names[0]).open("rb") as stream:
        return b'"instance_id"' in stream.read(1 << 16)


def _has_configs(card: Path) -> bool:
    if not card.is_file():
        return False
    with card.open(encoding="utf-8", errors="replace") as stream:
        head = re.match(r"---\n(.*?)\n---", stream.read(1 << 20), re.DOTALL)
    return head is not None and re.search(r"^configs:", head[1], re.MULTILINE) is not None


def _folder_of(data_files: object) -> str:
    while isinstance(data_files, Mapping | list | tuple):
        values = data_files.values() if isinstance(data_files, Mapping) else data_files
        data_files = next(iter(values), None)
    is_path = isinstance(data_files, str | Path) and str(data_files) and "*" not in str(data_files)
    return str(Path(data_files).resolve().parent) if is_path else "FOLDER"


def _right_call(name: str, folder: str) -> str:
    configs = _configs(name)
    choices = [f'"{config.name}", ' for config in configs] if len(configs) > 1 else [""]
    return " or ".join(f'load_dataset("{name}", {choice}data_dir="{folder}")' for choice in choices)
