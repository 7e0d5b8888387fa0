"""A data set as Parquet or WebDataset shards with the images in them: what one pushes to the Hub.

    python -m fafa.dataset_builders.export SynCPR --data-dir world/SynCPR --output exports/syncpr
    python -m fafa.dataset_builders.export ITCPR --data-dir world/ITCPR --output exports/itcpr --format webdataset

Of ITCPR both configurations are written, unless one is named. Whoever has `datasets` reads the folder without this
package, streaming or not: `load_dataset("exports/syncpr", split="train")`,
`load_dataset("exports/itcpr", "query", split="test")`.

    <output>/README.md                    the data-set card: what load_dataset needs, statistics, licence note, limits
    <output>/data/train-00000.parquet     the shards; in query/ and gallery/ for ITCPR's configurations
    <output>/export.json                  what is done already, with checksums; stays here

Images keep the bytes of their files. A file that several records name is embedded with each of them, so that every
record stands alone: SynCPR, where a picture is reference and target in turn, doubles in size. The card has both sizes.

Parquet has the data set's columns. WebDataset has a column per image, which ends in the suffix of the files
(`reference_image.png`), one called `json` with all other columns as its fields, and `__key__`, the record's number:

    00000012.reference_image.png, 00000012.target_image.png, 00000012.json

`datasets` reads ahead in Parquet: streaming shards of 500 MB took it 1 GB of memory, and a third of that from tars.

An export that was stopped, be it by kill -9 or a full disk, goes on after the last finished shard when the same command
is given again. Images are checked on the way, as training and `python -m fafa.verify` judge them. The
first broken one stops the export; `verify` finds all of them beforehand.
"""

import argparse
import hashlib
import io
import json
import logging
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import huggingface_hub
import pyarrow as pa
import xxhash
from datasets.arrow_writer import ParquetWriter
from datasets.utils.py_utils import convert_file_size_to_int
from huggingface_hub.errors import HTTPError
from tqdm.auto import tqdm

from ..commands import command
from ..files import (
    SEAL,
    faults_of,
    hash_file,
    is_sealed,
    locked,
    read_json,
    sealed,
    some,
    stamp_of,
    whole_file,
    write_whole,
)
from ..image_reading_fafa import UnreadableImageError, inspect_image, read_image_file
from . import BUILDERS, register_builders
from .counting import Statistics
from .dataset_card import finished_parts, make_dataset_card, read_about, shard_pattern
from .records import BadRecord, Problems

logger = logging.getLogger(__name__)

SUFFIXES = {"parquet": ".parquet", "webdataset": ".tar"}  # format -> end of the shards' names
FORMAT_VERSION = 1

_CARD, _MANIFEST, _LOCK = "README.md", "export.json", ".export.lock"
_ROW_GROUP_BYTES = 32_000_000  # of images; a stream reads a row group at a time, the Hub's viewer wants at most 100 MB
_ROWS_AT_ONCE = 1_000  # read from the source, images not included
_TAR_OVERHEAD = 1_024  # bytes a file at most: a header, and zeros to the next multiple of 512
_TAR_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}  # what readers take for images

_BROKEN = "names a file that is not a whole image"
_REMEDIES = {
    _BROKEN: "export or fetch the file again, or take the record out, and give the same command again: finished shards "
    "stay. `python -m fafa.verify` finds all such files",
}


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
                _export_split(dataset, one, str(split), output_dir, manifest, show_progress)
        _write_card(
            make_dataset_card(manifest, dataset.info, data_dir, about_text, about_metadata), output_dir, manifest
        )
        return [output_dir / shard["file"] for part in manifest["parts"] for shard in part["shards"]]


def push_to_hub(output_dir: str | os.PathLike, repo_id: str) -> str:
    """Upload a finished export to a data-set repository; a new one is private. Calling it again goes on.

    Args:
        output_dir: of `export_dataset`.
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
    if fault := next(_faults_of_shards(output_dir, manifest), None):
        raise ValueError(f"{output_dir}: {fault}. Give the export command again, which writes it anew.")
    try:
        url = api.create_repo(repo_id, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            repo_type="dataset",
            folder_path=str(output_dir),
            commit_message="Upload data set",
            ignore_patterns=[_MANIFEST, _LOCK, "*.part"],
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

    Args:
        output_dir: of `export_dataset`.

    Raises:
        OSError: a file cannot be read now.
    """
    output_dir = Path(output_dir)
    try:
        manifest = read_manifest(output_dir)
    except FileExistsError as error:
        return [str(error)]
    faults = list(_faults_of_shards(output_dir, manifest, show_progress))
    if unfinished := [part["split"] for part in manifest["parts"] if "statistics" not in part]:
        faults.append(f"{_MANIFEST}: {', '.join(unfinished)} is not finished: give the export command again")
    if not all("xxh3_128" in shard for part in manifest["parts"] for shard in part["shards"]):
        faults.append(f"{_MANIFEST} is of an earlier version, without checksums: give the export command again")
    card = output_dir / _CARD
    if not card.is_file():
        faults.append(f"{_CARD} is missing: give the export command again, which writes it")
    elif hashlib.sha256(card.read_bytes()).hexdigest() not in (manifest["card"], manifest.get("card by hand")):
        faults.append(
            f"{_CARD} is not as it was written. If you edited it, give the export command again, which takes your card "
            "over; if not, delete it first"
        )
    return faults


def _faults_of_shards(output_dir: Path, manifest: dict, show_progress: bool = False) -> Iterator[str]:
    shards = {shard["file"]: shard for part in manifest["parts"] for shard in part["shards"]}
    for has_checksum in (True, False):
        chosen = {file: shard for file, shard in shards.items() if ("xxh3_128" in shard) is has_checksum}
        yield from faults_of(output_dir, chosen, has_checksum, show_progress)


@contextmanager
def _open_manifest(output_dir: Path, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The manifest of an export, begun or new, while no other process can have it.

    Its parts are splits, {"config", "split", "suffixes", "shards"}, and once all shards are there, what the card needs:
    "statistics", "features", "example". Its "card" is the hash of the card as last written.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    found = sorted(path.name for path in output_dir.iterdir() if path.name != _LOCK)
    if found and _MANIFEST not in found:
        raise FileExistsError(
            f"{output_dir} is not empty and holds no {_MANIFEST} of an export, but {some(found)}: choose "
            "another folder, or empty it"
        )
    with locked(output_dir / _LOCK, f"{output_dir} is being written by another process: wait for its end"):
        yield _same_manifest(output_dir, {"version": FORMAT_VERSION, **settings})


def _same_manifest(output_dir: Path, settings: dict[str, Any]) -> dict[str, Any]:
    if not (output_dir / _MANIFEST).exists():
        return {"settings": settings, "card": None, "parts": []}
    manifest = read_manifest(output_dir)
    before = manifest["settings"]
    if differing := [key for key in settings if before.get(key) != settings[key]]:
        difference = ", ".join(f"{key} {before.get(key)} and not {settings[key]}" for key in differing)
        raise FileExistsError(
            f"{output_dir} holds an export with {difference}: choose another folder, or delete this one"
        )
    return manifest


def read_manifest(output_dir: Path) -> dict[str, Any]:
    """What `export_dataset` noted.

    Raises:
        FileNotFoundError: there is none.
        FileExistsError: it is damaged, or of something else.
    """
    file = output_dir / _MANIFEST
    try:
        manifest = read_json(file)
        shards = [shard for part in manifest["parts"] for shard in part["shards"]]
        is_whole = {"settings", "card"} <= manifest.keys() and isinstance(manifest["settings"], dict)
        has_checksums = SEAL in manifest or any("xxh3_128" in shard for shard in shards)
        if not is_whole or not all({"file", "first", "end", "bytes"} <= shard.keys() for shard in shards):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FileExistsError(f"{file} is not of an export, or damaged: choose another folder") from None
    if has_checksums and not is_sealed(manifest):
        raise FileExistsError(
            f"{file} is damaged (checksum): restore it from a copy, choose another folder, or empty this one"
        )
    return manifest


def _export_split(
    dataset: datasets.Dataset, config: str, split: str, output_dir: Path, manifest: dict, show_progress: bool
) -> None:
    """Write what is missing of one split."""
    settings, folder = manifest["settings"], "data" if config == "default" else config
    title = " ".join([settings["dataset"], *([] if config == "default" else [config]), split])
    shards, statistics, suffixes = _plan_shards(dataset, title, settings, show_progress)
    for number, shard in enumerate(shards):
        shard["file"] = f"{folder}/{split}-{number:05d}{SUFFIXES[settings['format']]}"

    part = next((part for part in manifest["parts"] if (part["config"], part["split"]) == (config, split)), None)
    if part is None:
        part = {"config": config, "split": split, "suffixes": suffixes, "shards": []}
        manifest["parts"].append(part)
    suffixes = part["suffixes"]  # of the shards that are there
    _check_same_source(part["shards"], shards, dataset, list(suffixes), output_dir, show_progress)
    done = {shard["file"]: shard for shard in _whole_shards(part["shards"], output_dir, show_progress)}
    if missing := [shard for shard in shards if shard["file"] not in done]:
        part.pop("statistics", None)
    num_bytes, free = sum(shard["bytes"] for shard in missing), shutil.disk_usage(output_dir).free
    if num_bytes > free:
        logger.warning("%s: %s needs about %d bytes more, the disk has %d.", output_dir, title, num_bytes, free)

    _write_manifest(output_dir, manifest)  # first, so that the folder is known for an export if this is stopped
    (output_dir / folder).mkdir(exist_ok=True)
    num_done = sum(shard["end"] - shard["first"] for shard in done.values())
    with tqdm(
        total=len(dataset), initial=num_done, unit="record", desc=f"Writing {title}", disable=not show_progress
    ) as bar:
        for shard in missing:
            file, shard["images"] = output_dir / shard["file"], {name: {} for name in suffixes}
            del shard["sizes and times"]
            contents = xxhash.xxh3_128()
            records = _read_records(dataset, title, shard, bar, contents)
            with whole_file(file) as unfinished, unfinished.open("wb") as stream:
                if settings["format"] == "parquet":
                    _write_parquet(stream, records, dataset.features)
                else:
                    _write_tar(stream, records, suffixes, first=shard["first"])
            shard |= {"contents": contents.hexdigest(), "bytes": file.stat().st_size, "xxh3_128": hash_file(file)}
            done[shard["file"]] = shard
            part["shards"] = [done[each["file"]] for each in shards if each["file"] in done]
            _write_manifest(output_dir, manifest)
    part["statistics"] = statistics.to_dict()
    part["features"] = dataset.features.to_dict()
    part["example"] = {
        name: _describe_image(value["path"]) if name in suffixes else value
        for name, value in next(_read_rows(dataset, end=1)).items()
    }
    _write_manifest(output_dir, manifest)


def _describe_image(file: str) -> str:
    _, width, height = inspect_image(file, decode=False)  # not by `datasets`, which refuses other pictures
    return f"an image of {width} x {height} pixels"


def _plan_shards(
    dataset: datasets.Dataset, title: str, settings: dict, show_progress: bool
) -> tuple[list[dict], Statistics, dict[str, str]]:
    """Look at all records and the sizes of their images, without opening these.

    Returns:
        shards: of each the `first` and `end` record, about how many `bytes`, and hashes of `texts` (with the sizes of
            images), of the `stamps` of images, and, as earlier versions noted it, of texts with `sizes and times`.
        statistics: of the split.
        suffixes: image column -> the usual suffix of its files.

    Raises:
        DataFormatError: image files are missing or empty; it tells all of them.
    """
    images = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    overhead = _TAR_OVERHEAD if settings["format"] == "webdataset" else 0
    problems, statistics, seen = Problems(title, _REMEDIES), Statistics(dataset.features), {name: {} for name in images}
    shards, digests = [], {}
    bar = tqdm(
        _read_rows(dataset), total=len(dataset), unit="record", desc=f"Reading {title}", disable=not show_progress
    )
    for number, row in enumerate(bar):
        files = {name: row.pop(name)["path"] for name in images}
        try:
            status = {name: _stat_image(file) for name, file in files.items()}
        except BadRecord as bad:
            problems.add(number, bad)
            continue
        statistics.add(row, [(files[name], status[name].st_size) for name in images])
        for name, file in files.items():
            suffix = os.path.splitext(file)[1].lower()  # noqa: PTH122 - there are millions, and Path takes far longer
            seen[name][suffix] = seen[name].get(suffix, 0) + 1
        text = json.dumps(row).encode()
        size = len(text) + overhead + sum(one.st_size + overhead for one in status.values())
        if not shards or shards[-1]["bytes"] + size > settings["shard_size"]:
            shards.append({"first": number, "bytes": 0})
            digests = {name: xxhash.xxh3_128() for name in ("texts", "stamps", "sizes and times")}
        digests["texts"].update(text + repr([one.st_size for one in status.values()]).encode())
        digests["stamps"].update(repr([stamp_of(one) for one in status.values()]).encode())
        digests["sizes and times"].update(
            text + repr([(one.st_size, one.st_mtime_ns) for one in status.values()]).encode()
        )
        shards[-1] |= {"end": number + 1, "bytes": shards[-1]["bytes"] + size}
        shards[-1] |= {name: digest.hexdigest() for name, digest in digests.items()}
    problems.raise_if_any(num_checked=len(dataset))
    usual = {name: max(counts, key=counts.get) for name, counts in seen.items()}
    return shards, statistics, {name: suffix if suffix in _TAR_SUFFIXES else ".jpg" for name, suffix in usual.items()}


def _read_rows(dataset: datasets.Dataset, first: int = 0, end: int | None = None) -> Iterator[dict[str, Any]]:
    """The records `first` to `end` - 1; of images the paths alone."""
    dataset, end = dataset.with_format("arrow"), len(dataset) if end is None else end
    for start in range(first, end, _ROWS_AT_ONCE):
        yield from dataset[start : min(start + _ROWS_AT_ONCE, end)].to_pylist()


def _stat_image(file: str) -> os.stat_result:
    try:
        status = os.stat(file)  # noqa: PTH116 - there are millions, and Path takes far longer
    except OSError:
        raise BadRecord("names an image file that is missing", file) from None
    if status.st_size == 0:
        raise BadRecord("names an image file of 0 bytes", file)
    return status


def _check_same_source(
    done: list[dict],
    planned: list[dict],
    dataset: datasets.Dataset,
    images: list[str],
    output_dir: Path,
    show_progress: bool,
) -> None:
    """Refuse to go on if shards that are written would be others now.

    Where image files are not quite as they were, after `cp -r` for instance, their contents decide.
    """
    now = {shard["file"]: shard for shard in planned}
    changes = []
    for shard in tqdm(done, unit="shard", desc="Comparing the source", disable=not show_progress):
        new = now.get(shard["file"], {"first": None, "end": None})
        records = f"of records {shard['first']} to {shard['end'] - 1}, which are in {shard['file']}"
        if (new["first"], new["end"]) != (shard["first"], shard["end"]):
            changes.append(f"{shard['file']} would not begin or end with the same record")
        elif "contents" not in shard:  # of an earlier version
            if new["sizes and times"] != shard["source"]:
                changes.append(f"captions, ids or image files (size, time) {records}")
        elif new["texts"] != shard["texts"]:
            changes.append(f"captions, ids or the sizes of image files {records}")
        elif new["stamps"] != shard["stamps"]:
            if _contents_of(dataset, images, shard) != shard["contents"]:
                changes.append(f"the contents of image files {records}")
            shard["stamps"] = new["stamps"]
    if changes:
        raise FileExistsError(
            f"{output_dir} was made of something else than what is there now: {'; '.join(changes[:3])}"
            f"{f'; and {len(changes) - 3} more' if changes[3:] else ''}. Choose another folder, or delete this one."
        )


def _contents_of(dataset: datasets.Dataset, images: list[str], shard: dict) -> str:
    """The hash of a shard's image files that is noted when it is written."""
    digest = xxhash.xxh3_128()
    for row in _read_rows(dataset, shard["first"], shard["end"]):
        for name in images:
            digest.update(Path(row[name]["path"]).read_bytes())
    return digest.hexdigest()


def _whole_shards(shards: list[dict], output_dir: Path, show_progress: bool) -> Iterator[dict]:
    """Those that are there as they were written; the others are told, and written anew."""
    for shard in tqdm(shards, unit="shard", desc="Checking finished shards", disable=not show_progress):
        if fault := next(faults_of(output_dir, {shard["file"]: shard}, contents="xxh3_128" in shard), None):
            logger.warning("%s: %s: it is written anew", output_dir, fault)
            continue
        if "xxh3_128" not in shard:
            logger.warning("%s has no checksum yet: taken on trust, and noted with one", output_dir / shard["file"])
            shard["xxh3_128"] = hash_file(output_dir / shard["file"])
        yield shard


def _read_records(
    dataset: datasets.Dataset, title: str, shard: dict, bar: tqdm, contents: xxhash.xxh3_128
) -> Iterator[dict[str, Any]]:
    """The records of a shard with their images; formats and sizes go into `shard["images"]`, bytes into `contents`."""
    for number, row in enumerate(_read_rows(dataset, shard["first"], shard["end"]), shard["first"]):
        images = {}
        for name, notes in shard["images"].items():
            file = row[name]["path"]
            try:
                data, kind, width, height = _read_image(file)
            except BadRecord as bad:
                problems = Problems(title, _REMEDIES)
                problems.add(number, bad)
                problems.raise_if_any(num_checked=number + 1)
            contents.update(data)
            images[name] = {"bytes": data, "path": os.path.basename(file)}  # noqa: PTH119 - as above
            formats = notes.setdefault("formats", {})
            formats[kind] = formats.get(kind, 0) + 1
            for side, pixels in (("width", width), ("height", height)):
                low, high = notes.get(side, (pixels, pixels))
                notes[side] = [min(low, pixels), max(high, pixels)]
        yield row | images  # a new one: `row` is kept alive by its neighbours
        bar.update()


def _read_image(file: str) -> tuple[bytes, str, int, int]:
    """An image file's bytes, format, width and height in pixels. Raises `BadRecord` if it is broken."""
    try:
        data = read_image_file(file)
        return data, *inspect_image({"bytes": data})
    except FileNotFoundError:
        raise BadRecord("names an image file that is missing", file) from None
    except UnreadableImageError as error:
        raise BadRecord(_BROKEN, f"{file}: {error.reason}") from error


def _write_parquet(stream: BinaryIO, records: Iterable[dict], features: datasets.Features) -> None:
    schema, group, size = features.arrow_schema, [], 0
    with ParquetWriter(features=features, stream=stream) as writer:
        for record in records:
            record_size = sum(len(value["bytes"]) for value in record.values() if isinstance(value, dict))
            if group and size + record_size > _ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(group, schema), len(group))
                group, size = [], 0
            group.append(record)
            size += record_size
        writer.write_table(pa.Table.from_pylist(group, schema), len(group))
        writer.finalize(close_stream=False)


def _write_tar(stream: BinaryIO, records: Iterable[dict], suffixes: dict[str, str], first: int) -> None:
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, record in enumerate(records, first):
            files = {f"{name}{suffix}": record.pop(name)["bytes"] for name, suffix in suffixes.items()}
            for name, data in {**files, "json": json.dumps(record, ensure_ascii=False).encode()}.items():
                member = tarfile.TarInfo(f"{number:08d}.{name}")  # no dot before: up to the first one, it is the key
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def _write_manifest(output_dir: Path, manifest: dict) -> None:
    write_whole(output_dir / _MANIFEST, json.dumps(sealed(manifest), indent=1))


def _write_card(card: str, output_dir: Path, manifest: dict) -> None:
    """Write the card, unless there is one that was edited since it was last written."""
    file, digest = output_dir / _CARD, hashlib.sha256(card.encode()).hexdigest()
    if file.exists():
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found not in (digest, manifest["card"]):
            logger.warning("%s was edited and is kept as it is; delete it to have it written anew.", file)
            manifest["card by hand"] = found
            _write_manifest(output_dir, manifest)
            return
    write_whole(file, card)
    manifest["card"] = digest
    _write_manifest(output_dir, manifest)


def main(arguments: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m fafa.dataset_builders.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", choices=BUILDERS, help=" or ".join(BUILDERS))
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="of ITCPR: query or gallery; default: both")
    parser.add_argument(
        "--data-dir", metavar="ROOT", help="folder of the data set; default: the authors', from the Hub"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--format", choices=SUFFIXES, default="parquet")
    parser.add_argument("--shard-size", default="500MB", metavar="SIZE", help="at most, of a file; default: 500MB")
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
