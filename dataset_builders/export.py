"""A data set as Parquet or WebDataset shards with the images in them: what one pushes to the Hub.

    python -m fafa.dataset_builders.export SynCPR --data-dir quickstart/world/SynCPR --output exports/syncpr
    python -m fafa.dataset_builders.export ITCPR --data-dir /data/ITCPR --output exports/itcpr --format webdataset

Of ITCPR both configurations are written, unless one is named. Whoever has `datasets` reads the folder without this
package, streaming or not: `load_dataset("exports/syncpr", split="train")`,
`load_dataset("exports/itcpr", "query", split="test")`.

    <output>/README.md                    the data-set card: what load_dataset needs, statistics, licence note, limits
    <output>/data/train-00000.parquet     the shards; in query/ and gallery/ for ITCPR's configurations
    <output>/export.json                  what is done already, with checksums; stays here

Images keep the bytes of their files. A file that several records name is embedded with each of them, so that every
record stands alone: SynCPR, where an image is reference and target in turn, doubles in size. The card has both sizes.

Parquet has the data set's columns. WebDataset has a column per image, which ends in the suffix of the files
(`reference_image.png`), one called `json` with all other columns as its fields, and `__key__`, the record's number:

    00000012.reference_image.png, 00000012.target_image.png, 00000012.json

`datasets` reads ahead in Parquet: to stream shards of 500 MB, it took 1 GB of memory, and from tars a third of that.

An export that was stopped, even by kill -9 or a full disk, goes on after the last finished shard when the same command
is given again. Images are checked on the way, as training and `fafa verify` judge them. The first broken one
stops the export; `verify` finds all of them beforehand.
"""

import argparse
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
from datasets.utils.py_utils import convert_file_size_to_int
from huggingface_hub.errors import HTTPError

from ..commands import command
from ..files import locked, sha256_of, some, write_whole
from . import BUILDERS, register_builders
from .dataset_card import make_dataset_card, read_about
from .shards import (
    MANIFEST,
    SUFFIXES,
    faults_of_shards,
    finished_parts,
    read_manifest,
    shard_pattern,
    write_manifest,
    write_split,
)

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1

_CARD, _LOCK = "README.md", ".export.lock"


def export_dataset(
    name: str,
    config: str | None = None,
    *,
    data_dir: str | os.PathLike | None,
    output_dir: str | os.PathLike,
    format: str = "parquet",
    shard_size: int | str = "500MB",
    about: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
    show_progress: bool = True,
) -> list[Path]:
    """Write a data set as shards with embedded images, and its card; see the module's docstring.

    The same call again goes on where it was stopped, and does nothing once all is done. Other configurations may follow
    into the same folder. A card that was edited by hand is kept. Finished shards are held to their checksums, and
    damaged ones written anew; a source that was copied or touched is known by its contents.

    Args:
        name: A data set of this package, for instance "SynCPR".
        config: One of its configurations; None for all.
        data_dir: Its folder; None for the authors' repository on the Hub.
        output_dir: Folder to write; absent, empty, or an export of this data set that was begun.
        format: "parquet" or "webdataset".
        shard_size: Largest size of a shard, in bytes or like "500MB". A larger record makes a shard of its own.
        about: A Markdown file for the card: how the data set was made. YAML at its head (`license:`, `language:`,
            `pretty_name:`, ...) goes to the card's head.
        cache_dir: Where `load_dataset` keeps its tables of records.
        show_progress: Whether to show progress bars.

    Returns:
        The shards, in order.

    Raises:
        ValueError: an argument is not as described.
        DataFormatError: a record or an image cannot be used.
        FileExistsError: `output_dir` holds something else, or its source has changed since.
        BlockingIOError: another process is writing there.
        OSError: the disk is full, say. Finished shards stay.
    """
    if name not in BUILDERS or format not in SUFFIXES:
        raise ValueError(
            f"expected a data set among {', '.join(BUILDERS)} and a format among {', '.join(SUFFIXES)}: got {name!r} "
            f"and {format!r}"
        )
    try:
        settings = {"dataset": name, "format": format, "shard_size": convert_file_size_to_int(shard_size)}
    except ValueError:
        raise ValueError(f"shard_size is {shard_size!r}, expected a size such as '500MB' or '2GB'") from None
    if settings["shard_size"] <= 0:
        raise ValueError(f"shard_size must be above 0: {shard_size}")
    about_text, about_metadata = read_about(about) if about is not None else ("", {})

    register_builders()
    output_dir = Path(output_dir)
    with _open_manifest(output_dir, settings) as manifest:
        for one in datasets.get_dataset_config_names(name) if config is None else [config]:
            source = datasets.load_dataset(
                name, one, data_dir=data_dir and str(data_dir), cache_dir=cache_dir and str(cache_dir)
            )
            for split, dataset in source.items():
                write_split(dataset, one, str(split), output_dir, manifest, show_progress)
        _write_card(
            make_dataset_card(manifest, dataset.info, data_dir, about_text, about_metadata), output_dir, manifest
        )
        return [output_dir / shard["file"] for part in manifest["parts"] for shard in part["shards"]]


def push_to_hub(output_dir: str | os.PathLike, repo_id: str) -> str:
    """Upload a finished export to a data-set repository; a new one is private. Calling it again goes on.

    Args:
        output_dir: That of `export_dataset`.
        repo_id: "owner/name".

    Returns:
        The repository's address.

    Raises:
        FileNotFoundError: there is no finished export.
        ValueError: a shard is missing or damaged.
        ConnectionError: the Hub cannot be reached, or refuses.
    """
    output_dir, api = Path(output_dir), huggingface_hub.HfApi()
    if not (output_dir / _CARD).is_file():
        raise FileNotFoundError(
            f"{output_dir} holds no finished export: there is no {_CARD}. Run export_dataset first."
        )
    manifest = read_manifest(output_dir)
    parts = finished_parts(manifest)
    if fault := next(faults_of_shards(output_dir, manifest), None):
        raise ValueError(f"{output_dir}: {fault}. Give the export command again, which writes it anew.")
    try:
        url = api.create_repo(repo_id, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            repo_type="dataset",
            folder_path=str(output_dir),
            commit_message="Upload data set",
            ignore_patterns=[MANIFEST, _LOCK, "*.part"],
            delete_patterns=[shard_pattern(part) for part in parts],  # what an earlier, larger export left there
        )
    except (OSError, HTTPError) as error:
        raise ConnectionError(
            f"{output_dir} could not be uploaded to {repo_id}: {error}\nRemedy: check the connection, HF_HUB_OFFLINE "
            "and `hf auth login`, and give the same command again; shards that are written are not written again."
        ) from error
    return str(url)


def verify_export(output_dir: str | os.PathLike, show_progress: bool = False) -> list[str]:
    """What is wrong with an export: a line for every shard, card or manifest that is not as it was written.

    Raises:
        OSError: a file cannot be read now.
    """
    output_dir = Path(output_dir)
    try:
        manifest = read_manifest(output_dir)
    except FileExistsError as error:
        return [str(error)]
    faults = list(faults_of_shards(output_dir, manifest, show_progress))
    if unfinished := [part["split"] for part in manifest["parts"] if "statistics" not in part]:
        faults.append(f"{MANIFEST}: {', '.join(unfinished)} is not finished: give the export command again")
    card = output_dir / _CARD
    if not card.is_file():
        faults.append(f"{_CARD} is missing: give the export command again, which writes it")
    elif sha256_of(card) not in (manifest["card"], manifest.get("card by hand")):
        faults.append(
            f"{_CARD} is not as it was written. If you edited it, give the export command again, which takes your card "
            "over; if not, delete it first"
        )
    return faults


@contextmanager
def _open_manifest(output_dir: Path, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The manifest of an export, begun or new, locked against other processes.

    Its parts are splits, {"config", "split", "suffixes", "shards"}, and once all shards are there, what the card needs:
    "statistics", "features", "example". Its "card" is the hash of the card as last written.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    found = sorted(path.name for path in output_dir.iterdir() if path.name != _LOCK)
    if found and MANIFEST not in found:
        raise FileExistsError(
            f"{output_dir} is not empty and holds no {MANIFEST} of an export, but {some(found)}: choose "
            "another folder, or empty it"
        )
    with locked(output_dir / _LOCK, f"{output_dir} is being written by another process: wait for its end"):
        settings = {"version": FORMAT_VERSION, **settings}
        manifest = {"settings": settings, "card": None, "parts": []}
        if (output_dir / MANIFEST).exists():
            manifest = read_manifest(output_dir)
        before = manifest["settings"]
        if different := [
            f"{key} {before.get(key)} and not {settings[key]}" for key in settings if before.get(key) != settings[key]
        ]:
            raise FileExistsError(
                f"{output_dir} holds an export with {', '.join(different)}: choose another folder, or delete this one"
            )
        yield manifest


def _write_card(card: str, output_dir: Path, manifest: dict) -> None:
    """Write the card, unless there is one that was edited since it was last written."""
    file, digest = output_dir / _CARD, hashlib.sha256(card.encode()).hexdigest()
    found = sha256_of(file) if file.exists() else digest
    if found in (digest, manifest["card"]):
        write_whole(file, card)
        manifest["card"] = digest
    else:
        logger.warning("%s was edited and is kept as it is; delete it to have it written anew.", file)
        manifest["card by hand"] = found
    write_manifest(output_dir, manifest)


def main(arguments: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m fafa.dataset_builders.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", choices=BUILDERS, help=" or ".join(BUILDERS))
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="ITCPR has query and gallery; default: both")
    parser.add_argument(
        "--data-dir", metavar="ROOT", help="folder of the data set; default: the authors', from the Hub"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--format", choices=SUFFIXES, default="parquet")
    parser.add_argument("--shard-size", default="500MB", metavar="SIZE", help="largest size of a file; default: 500MB")
    parser.add_argument("--about", metavar="FILE.md", help="for the card: how the data was made, and YAML for its head")
    parser.add_argument("--push-to-hub", metavar="REPO", help="upload it to owner/name; a new repository is private")
    options = parser.parse_args(arguments)
    with command(kept="Finished shards stay: the same command goes on from there."):
        shards = export_dataset(
            options.name,
            options.config,
            data_dir=options.data_dir,
            output_dir=options.output,
            format=options.format,
            shard_size=options.shard_size,
            about=options.about,
        )
        num_bytes = sum(file.stat().st_size for file in shards)
        print(f"{options.output}: a card, and shards: {len(shards):,}, {num_bytes:,} bytes")
        if options.push_to_hub:
            print(f"uploaded: {push_to_hub(options.output, options.push_to_hub)}")


if __name__ == "__main__":
    main()
