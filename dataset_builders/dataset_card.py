"""Writes the card of an exported data set."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import yaml
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from ..files import read_json
from ..markdown_text import Markdown, block, plain
from ..tables import markdown_table
from ..yaml_files import parse_yaml
from .counting import describe_counts, listing, span
from .shards import finished_parts, shard_pattern

_MEANINGS = {
    "reference_image": "the person as they are",
    "target_image": "the same person as the edit caption asks for",
    "image": "of a query: its reference image; of the gallery: the image to find",
    "edit_caption": "what differs in the target image (the relative caption)",
    "caption": "what differs in the image to find (the relative caption)",
    "reference_caption": "describes the reference image",
    "target_caption": "describes the target image",
    "captions": "what is said of the image",
    "captions_bt": "the same captions, translated to another language and back",
    "provenance": "JSON: what made the image, from which prompt and seed, and by which edit of which image",
    "tid": "quadruple and direction of change, shared by the triplets painted from them",
    "cpr_id": "quadruple and direction of change, shared by the triplets painted from them",
    "instance_id": "a gallery image is correct when its `instance_id` equals the query's; -1 marks distractors",
    "person_id": "the person; where there is an instance_id, counted within one source",
    "source": "the data set that the image is from",
    "reference_image_path": "the image's path in the original folder",
    "target_image_path": "the image's path in the original folder",
    "image_path": "the image's path in the original folder",
}
_TAGS = ["composed-person-retrieval", "composed-image-retrieval", "person-re-identification"]
_SIZE_CATEGORIES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}

_CARD = """---
{metadata}
---

# {title}

For composed person retrieval: a query is a reference image of a person and a caption of what differs, and the images to
find are those of the same person that fit the caption.

```python
from datasets import load_dataset

{snippet}
```

The path may be the name of the Hub repository, and `streaming=True` works.

{layout}

## Statistics

{statistics}

Words are runs of letters and digits, in lower case. Images keep the bytes of their files; a file is embedded once for
every record that names it, so that each record stands alone.

## Columns

{columns}

The first record of {example_of}:

{example}

## How it was made

{made}

## Licence

{license}

## Limits of use

For research on retrieval, on images that one may lawfully use. This is technology that finds people: neither the data
nor models trained on it may serve to track, identify or profile people without their consent or a legal basis. Captions
can be wrong, and whom the images show, and whom not, was not balanced across groups of people.

## Citation

```bibtex
{citation}
```
"""
_LAYOUTS = {
    "parquet": "The files are Parquet.",
    "webdataset": "The files are WebDataset tars: an image's column ends in the suffix of its files, all other\n"
    "columns are fields of the column `json`, and `__key__` is the record's number in its split.",
}
_PAINTED = """Painted by a program, `fafa.world`: nobody in these pictures exists. They have the format
of {name}, and show that code works, not what people look like. The parameters:

{parameters}"""
_DESCRIBED = """{description} See <{homepage}>.

That describes the published data set; this export is of that or of other data in its format, and the statistics above
are this export's."""
_PAINTED_LICENSE = "The pictures are painted by a program and depict no one."
_CHOOSE_LICENSE = "Whoever publishes them chooses the terms."


def read_about(file: str | os.PathLike) -> tuple[str, dict[str, Any]]:
    """The text of a Markdown file, and the YAML at its head.

    Raises:
        ValueError: the head is not YAML.
    """
    text = Path(file).read_text(encoding="utf-8")
    if not text.startswith("---"):
        return text.strip(), {}
    head = REGEX_YAML_BLOCK.match(text)
    try:
        parse_yaml(head[2] if head else text.split("---", 2)[1], "the head")  # DatasetCard's reader has no bounds
        card = DatasetCard(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: expected YAML between the two lines of --- at its head, but {error}") from None
    return card.text.strip(), card.data.to_dict()


def make_dataset_card(
    manifest: dict[str, Any],
    info: datasets.DatasetInfo,
    data_dir: str | os.PathLike | None,
    about: str = "",
    metadata: dict[str, Any] | None = None,
) -> str:
    """The text of README.md for an exported folder.

    Args:
        manifest: That of the export; see shards.py.
        info: That of the data set, for description, licence and citation.
        data_dir: Where it was exported from. A world.json there or beside it says that a program painted it.
        about: Markdown on how the data was made; by default the data set's description.
        metadata: YAML for the head of the card.

    Raises:
        ValueError: world.json is not JSON.
    """
    metadata = metadata or {}
    name, format = manifest["settings"]["dataset"], manifest["settings"]["format"]
    parts = finished_parts(manifest)
    world = _find_world(data_dir)
    title = metadata.get("pretty_name", f"A painted world in the format of {name}" if world else name)
    if world:
        painted = _PAINTED.format(name=name, parameters=block(json.dumps(world), "json"))
        about = "\n\n".join(filter(None, [about, painted]))
    terms = [f"Licence: {plain(metadata['license'])}."] if "license" in metadata else [_CHOOSE_LICENSE] if world else []
    return _CARD.format(
        metadata=_make_metadata(parts, format, {"pretty_name": title, **metadata}, painted=world is not None),
        title=plain(title),
        snippet="\n".join(_load_line(part) for part in parts),
        layout=_LAYOUTS[format],
        statistics=_statistics_table(parts),
        columns=markdown_table(["column", "type", "meaning"], _column_rows(parts, format)),
        example_of=_place(parts[0]),
        example=block(json.dumps(parts[0]["example"], indent=2, ensure_ascii=False), "json"),
        made=about or _DESCRIBED.format(description=info.description, homepage=info.homepage),
        license=" ".join([_PAINTED_LICENSE if world else info.license, *terms]),
        citation=info.citation.strip(),
    )


def _find_world(data_dir: str | os.PathLike | None) -> dict[str, Any] | None:
    """The parameters of the painted world that a folder belongs to; None if it belongs to none."""
    if data_dir is None:
        return None
    folder = Path(data_dir).resolve()
    file = next((file for file in (folder / "world.json", folder.parent / "world.json") if file.is_file()), None)
    try:
        return file and {key: value for key, value in read_json(file).items() if key != "finished"}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file}: expected the JSON object that make_world writes, but {error}") from None


def _make_metadata(parts: list[dict], format: str, given: dict[str, Any], painted: bool) -> str:
    """The card's YAML head. `load_dataset` reads `configs`, and checks the counts in `dataset_info`."""
    total = sum(part["statistics"]["records"] for part in parts)
    data = DatasetCardData(
        **{
            "license": "other",
            "task_categories": ["image-feature-extraction"],
            "size_categories": [next((name for size, name in _SIZE_CATEGORIES.items() if total < size), "1M<n<10M")],
            **given,
            "tags": [*_TAGS, *["synthetic"] * painted, *given.get("tags", [])],
        }
    )
    configs, infos = {}, DatasetInfosDict()
    for part in parts:
        config, split, shards = part["config"], part["split"], part["shards"]
        files = configs.setdefault(config, {"data_files": []})["data_files"]
        files.append({"split": split, "path": shard_pattern(part)})
        info = infos.setdefault(config, datasets.DatasetInfo(splits=datasets.SplitDict()))
        if format == "parquet":  # the reader of tars finds the columns itself
            info.features = datasets.Features.from_dict(part["features"])
        size = sum(shard["bytes"] for shard in shards)
        info.splits.add(datasets.SplitInfo(split, size, part["statistics"]["records"]))
        info.download_size = info.dataset_size = (info.dataset_size or 0) + size
    MetadataConfigs(configs).to_dataset_card_data(data)
    infos.to_dataset_card_data(data)
    return str(data)


def _place(part: dict) -> str:
    return part["split"] if part["config"] == "default" else f"{part['config']}, {part['split']}"


def _load_line(part: dict) -> str:
    config = "" if part["config"] == "default" else f'"{part["config"]}", '
    variable = part["split"] if part["config"] == "default" else part["config"]
    return f'{variable} = load_dataset("path/to/this/folder", {config}split="{part["split"]}")'


def _statistics_table(parts: list[dict]) -> str:
    cells = [_statistics_cells(part) for part in parts]
    names = dict.fromkeys(name for column in cells for name in column)  # in order, once
    rows = [[name, *(column.get(name, "") for column in cells)] for name in names]
    return markdown_table(["", *map(_place, parts)], rows)


def _statistics_cells(part: dict) -> dict[str, str]:
    """Name -> value, for one split."""
    counts = part["statistics"]
    cells = describe_counts(counts)
    for name in part["suffixes"]:
        seen = [shard["images"][name] for shard in part["shards"]]
        formats = sum((Counter(one["formats"]) for one in seen), Counter())
        width, height = (span([edge for one in seen for edge in one[side]]) for side in ("width", "height"))
        cells[Markdown(f"`{name}`")] = f"{listing(formats)}; {width} pixels wide, {height} high"
    images = counts["images"]
    cells["image files"] = f"{images['files']:,}, {_megabytes(images['file_bytes'])}"
    cells["images embedded"] = f"{images['embedded']:,}, {_megabytes(images['embedded_bytes'])}"
    cells["shards"] = f"{len(part['shards']):,}, {_megabytes(sum(shard['bytes'] for shard in part['shards']))}"
    return cells


def _column_rows(parts: list[dict], format: str) -> list[list[str]]:
    holders: dict[str, list[dict]] = {}
    for part in parts:
        for name in part["features"]:
            holders.setdefault(name, []).append(part)
    rows = []
    for name, found in holders.items():
        feature, suffix = found[0]["features"][name], found[0]["suffixes"].get(name)
        shown = name if format == "parquet" else f"{name}{suffix}" if suffix else f"json: {name}"
        only = f" ({found[0]['config']} only)" if len(found) < len(parts) else ""
        meaning = Markdown(_MEANINGS.get(name, "") + only)
        rows.append([Markdown(f"`{shown}`"), feature.get("dtype", feature["_type"].lower()), meaning])
    return rows


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
