"""Writes the shards of an export: all are planned first, written whole or not at all, and noted with checksums.

Where an export was begun, only missing and damaged shards are written, if the source is still the same: texts, ids, and
the contents of image files.
"""

import io
import json
import logging
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import pyarrow as pa
import xxhash
from datasets.arrow_writer import ParquetWriter
from tqdm.auto import tqdm

from ..files import faults_of, hash_file, is_sealed, read_json, sealed, some, stamp_of, whole_file, write_whole
from ..image_reading_fafa import UnreadableImageError, inspect_image, read_image_file
from .counting import Statistics
from .records import BadRecord, Problems

logger = logging.getLogger(__name__)

SUFFIXES = {"parquet": ".parquet", "webdataset": ".tar"}  # format -> end of the shards' names
MANIFEST = "export.json"

_ROW_GROUP_BYTES = 32_000_000  # a stream reads a row group at a time, the Hub's viewer takes at most 100 MB
_ROWS_AT_ONCE = 1_000  # read from the source, images not included
_TAR_OVERHEAD = 1_024  # bytes a file at most: a header, and zeros to the next multiple of 512
_TAR_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}  # what readers take for images

_BROKEN = "names a file that is not a whole image"
_REMEDIES = {
    _BROKEN: "export or fetch the file again, or take the record out, and give the same command again: finished shards "
    "stay. `fafa verify` finds all such files",
}


def read_manifest(output_dir: Path) -> dict[str, Any]:
    """What `export_dataset` noted in its folder.

    Raises:
        FileNotFoundError: there is none.
        FileExistsError: it is damaged, or belongs to something else.
    """
    file = output_dir / MANIFEST
    try:
        manifest = read_json(file)
        shards = [shard for part in manifest["parts"] for shard in part["shards"]]
        is_whole = {"settings", "card"} <= manifest.keys() and isinstance(manifest["settings"], dict)
        if not is_whole or not all({"file", "first", "end", "bytes"} <= shard.keys() for shard in shards):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FileExistsError(f"{file} is damaged, or not of an export: choose another folder") from None
    if not is_sealed(manifest):
        raise FileExistsError(
            f"{file} is damaged (checksum), or of an earlier version: restore it from a copy, choose another folder, "
            "or empty this one"
        )
    return manifest


def write_manifest(output_dir: Path, manifest: dict) -> None:
    """Note what is done."""
    write_whole(output_dir / MANIFEST, json.dumps(sealed(manifest), indent=1))


def finished_parts(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The splits of an export whose shards are all there."""
    return [part for part in manifest["parts"] if "statistics" in part]


def shard_pattern(part: dict[str, Any]) -> str:
    """What the names of a split's shards have in common, for `load_dataset` and the Hub."""
    first = Path(part["shards"][0]["file"])
    return f"{first.parent}/{part['split']}-*{first.suffix}"


def faults_of_shards(output_dir: Path, manifest: dict, show_progress: bool = False) -> Iterator[str]:
    """How the shards differ from the manifest's notes, one by one."""
    shards = {shard["file"]: shard for part in manifest["parts"] for shard in part["shards"]}
    yield from faults_of(output_dir, shards, show_progress=show_progress)


def write_split(
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
    suffixes = part["suffixes"]  # those of the shards that are there
    _check_same_source(part["shards"], shards, dataset, list(suffixes), output_dir, show_progress)
    done = {}
    for shard in tqdm(part["shards"], unit="shard", desc="Checking finished shards", disable=not show_progress):
        if fault := next(faults_of(output_dir, {shard["file"]: shard}), None):
            logger.warning("%s: %s: it is written anew", output_dir, fault)
        else:
            done[shard["file"]] = shard
    if missing := [shard for shard in shards if shard["file"] not in done]:
        part.pop("statistics", None)
    num_bytes, free = sum(shard["bytes"] for shard in missing), shutil.disk_usage(output_dir).free
    if num_bytes > free:
        logger.warning("%s: %s needs about %d bytes more, the disk has %d.", output_dir, title, num_bytes, free)

    write_manifest(output_dir, manifest)  # first, so that the folder is recognised as an export if this is stopped
    (output_dir / folder).mkdir(exist_ok=True)
    num_done = sum(shard["end"] - shard["first"] for shard in done.values())
    with tqdm(
        total=len(dataset), initial=num_done, unit="record", desc=f"Writing {title}", disable=not show_progress
    ) as bar:
        for shard in missing:
            file, shard["images"] = output_dir / shard["file"], {name: {} for name in suffixes}
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
            write_manifest(output_dir, manifest)
    part["statistics"] = statistics.to_dict()
    part["features"] = dataset.features.to_dict()
    part["example"] = next(_read_rows(dataset, end=1))
    for name in suffixes:
        # Not by `datasets`, which refuses other images.
        _, width, height = inspect_image(part["example"][name]["path"], decode=False)
        part["example"][name] = f"an image of {width} x {height} pixels"
    write_manifest(output_dir, manifest)


def _plan_shards(
    dataset: datasets.Dataset, title: str, settings: dict, show_progress: bool
) -> tuple[list[dict], Statistics, dict[str, str]]:
    """Look at all records and the sizes of their images, without opening these.

    Returns:
        shards: For each the `first` and `end` record, about how many `bytes`, and hashes of `texts` (with the sizes of
            images) and of the `stamps` of images.
        statistics: Those of the split.
        suffixes: Image column -> the usual suffix of its files.

    Raises:
        DataFormatError: image files are missing or empty; the message counts all of them.
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
            digests = {name: xxhash.xxh3_128() for name in ("texts", "stamps")}
        digests["texts"].update(text + repr([one.st_size for one in status.values()]).encode())
        digests["stamps"].update(repr([stamp_of(one) for one in status.values()]).encode())
        shards[-1] |= {"end": number + 1, "bytes": shards[-1]["bytes"] + size}
        shards[-1] |= {name: digest.hexdigest() for name, digest in digests.items()}
    problems.raise_if_any(num_checked=len(dataset))
    usual = {name: max(counts, key=counts.get) for name, counts in seen.items()}
    return shards, statistics, {name: suffix if suffix in _TAR_SUFFIXES else ".jpg" for name, suffix in usual.items()}


def _read_rows(dataset: datasets.Dataset, first: int = 0, end: int | None = None) -> Iterator[dict[str, Any]]:
    """The records `first` to `end` - 1, with the paths of the images only."""
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
    """Refuse to go on if the written shards would be different ones now.

    Where the stamps of image files differ, after `cp -r` for instance, their contents decide.
    """
    now = {shard["file"]: shard for shard in planned}
    changes = []
    for shard in tqdm(done, unit="shard", desc="Comparing the source", disable=not show_progress):
        new = now.get(shard["file"], {"first": None, "end": None})
        records = f"of records {shard['first']} to {shard['end'] - 1}, which are in {shard['file']}"
        if (new["first"], new["end"]) != (shard["first"], shard["end"]):
            changes.append(f"{shard['file']} would not begin or end with the same record")
        elif new["texts"] != shard["texts"]:
            changes.append(f"captions, ids or the sizes of image files {records}")
        elif new["stamps"] != shard["stamps"]:
            if _contents_of(dataset, images, shard) != shard["contents"]:
                changes.append(f"the contents of image files {records}")
            shard["stamps"] = new["stamps"]
    if changes:
        raise FileExistsError(
            f"{output_dir} was made from another source than the present one: {some(changes, 3)}. Choose another "
            "folder, or delete this one."
        )


def _contents_of(dataset: datasets.Dataset, images: list[str], shard: dict) -> str:
    """The hash of a shard's image files that is noted when it is written."""
    digest = xxhash.xxh3_128()
    for row in _read_rows(dataset, shard["first"], shard["end"]):
        for name in images:
            digest.update(Path(row[name]["path"]).read_bytes())
    return digest.hexdigest()


def _read_records(
    dataset: datasets.Dataset, title: str, shard: dict, bar: tqdm, contents: xxhash.xxh3_128
) -> Iterator[dict[str, Any]]:
    """The records of a shard with their images; formats and sizes go into `shard["images"]`, bytes into `contents`."""
    for number, row in enumerate(_read_rows(dataset, shard["first"], shard["end"]), shard["first"]):
        images = {}
        for name, notes in shard["images"].items():
            file = row[name]["path"]
            try:
                data = read_image_file(file)
                kind, width, height = inspect_image({"bytes": data})
            except (FileNotFoundError, UnreadableImageError) as error:
                problems = Problems(title, _REMEDIES)
                if isinstance(error, UnreadableImageError):
                    problems.add(number, BadRecord(_BROKEN, f"{file}: {error.reason}"))
                else:
                    problems.add(number, BadRecord("names an image file that is missing", file))
                problems.raise_if_any(num_checked=number + 1)
            contents.update(data)
            images[name] = {"bytes": data, "path": os.path.basename(file)}  # noqa: PTH119 - as above
            formats = notes.setdefault("formats", {})
            formats[kind] = formats.get(kind, 0) + 1
            for side, pixels in (("width", width), ("height", height)):
                low, high = notes.get(side, (pixels, pixels))
                notes[side] = [min(low, pixels), max(high, pixels)]
        yield row | images  # a new dictionary: `row` is kept alive by its neighbours
        bar.update()


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
