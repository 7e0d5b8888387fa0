"""Data-set cards: what an exported folder says about itself, computed from its data."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import yaml
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from ..files import read_json
from ..markdown_text import block, plain
from ..yaml_files import parse_yaml

_MEANINGS = {
    "reference_image": "the person as they are",
    "target_image": "the same person as the edit caption asks for",
    "image": "of a query: its reference image; of the gallery: the image to find",
    "edit_caption": "what differs in the target image (the relative caption)",
    "caption": "what differs in the image to find (the relative caption)",
    "reference_caption": "describes the reference image",
    "target_caption": "describes the target image",
    "captions": "what is said of the image",
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
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_NO_MATCH = -1
_MAX_VALUES = 20  # a text column with more values is not counted by value
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


class Statistics:
    """What is counted of a split, record by record.

    Texts are counted by column: those named `...caption`, and lists named `captions`, by their words, others with few
    values by value. Integers are taken as ids; in ITCPR's form, which has an instance_id, too, a person_id is one
    within its source.

    Args:
        features: of the split.
    """

    def __init__(self, features: datasets.Features):
        types = {name: getattr(feature, "dtype", None) for name, feature in features.items()}
        texts = [name for name, dtype in types.items() if dtype == "string" and not name.endswith("_path")]
        self.records = 0
        self.ids = {name: Counter() for name, dtype in types.items() if dtype == "int64"}
        self.values = {name: Counter() for name in texts if not name.endswith("caption")}
        captions = [name for name in features if name == "captions" or (name in texts and name.endswith("caption"))]
        self.captions = {name: Counter() for name in captions}  # lengths
        self.distinct = {name: set() for name in self.captions}  # hashes
        self.words = {name: set() for name in self.captions}
        self.files: dict[int, int] = {}  # hash of the path -> bytes
        self.images, self.image_bytes = 0, 0

    def add(self, record: dict[str, Any], images: Iterable[tuple[str, int]]) -> None:
        """Count a record.

        Args:
            record: its columns other than images.
            images: path of each of its images, and the size of the file in bytes.
        """
        self.records += 1
        for name, counter in self.ids.items():
            by_source = name == "person_id" and "instance_id" in record
            counter[(record["source"], record[name]) if by_source else record[name]] += 1
        for name, counter in self.values.items():
            if len(counter) <= _MAX_VALUES:
                counter[record[name]] += 1
        for name, lengths in self.captions.items():
            for caption in record[name] if name == "captions" else (record[name],):
                words = _WORD.findall(caption.lower())
                lengths[len(words)] += 1
                self.distinct[name].add(hash(caption))
                self.words[name].update(words)
        for path, size in images:
            self.files[hash(path)] = size
            self.images += 1
            self.image_bytes += size

    def to_dict(self) -> dict[str, Any]:
        """The results, as JSON can hold them."""
        return {
            "records": self.records,
            "ids": {name: _count_groups(counter, name == "instance_id") for name, counter in self.ids.items()},
            "values": {name: counter for name, counter in self.values.items() if len(counter) <= _MAX_VALUES},
            "captions": {
                name: {
                    "distinct": len(self.distinct[name]),
                    "shortest": min(lengths),
                    "longest": max(lengths),
                    "mean": sum(length * count for length, count in lengths.items()) / lengths.total(),
                    "words": len(self.words[name]),
                }
                for name, lengths in self.captions.items()
            },
            "words": len(set().union(*self.words.values())),
            "images": {
                "files": len(self.files),
                "file_bytes": sum(self.files.values()),
                "embedded": self.images,
                "embedded_bytes": self.image_bytes,
            },
        }


def _count_groups(counter: Counter, has_distractors: bool) -> dict[str, Any]:
    sizes = [count for value, count in counter.items() if not (has_distractors and value == _NO_MATCH)]
    return {
        "groups": len(sizes),
        "records": sum(sizes),
        "sizes": {str(size): count for size, count in sorted(Counter(sizes).items())},
        "distractors": counter[_NO_MATCH] if has_distractors else 0,
    }


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
        parse_yaml(
            head[2] if head else text.split("---", 2)[1], "the head"
        )  # bounds what the card's own reader would follow without end
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
        manifest: of the export; see export.py.
        info: of the data set, for description, licence and citation.
        data_dir: where it was exported from. A world.json there or beside it tells that a program painted it.
        about: Markdown on how the data was made; by default the data set's description.
        metadata: for the head of the card.

    Raises:
        ValueError: world.json is no JSON.
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
        statistics=_table(["", *map(_place, parts)], _statistics_rows(parts)),
        columns=_table(["column", "type", "meaning"], _column_rows(parts, format)),
        example_of=_place(parts[0]),
        example=block(json.dumps(parts[0]["example"], indent=2, ensure_ascii=False), "json"),
        made=about or _DESCRIBED.format(description=info.description, homepage=info.homepage),
        license=" ".join([_PAINTED_LICENSE if world else info.license, *terms]),
        citation=info.citation.strip(),
    )


def _find_world(data_dir: str | os.PathLike | None) -> dict[str, Any] | None:
    """The parameters of the painted world that a folder belongs to."""
    folder = Path(data_dir).resolve() if data_dir is not None else None
    for file in [folder / "world.json", folder.parent / "world.json"] if folder else []:
        if file.is_file():
            try:
                return {key: value for key, value in read_json(file).items() if key != "finished"}
            except (ValueError, AttributeError) as error:
                raise ValueError(f"{file}: expected the JSON object that make_world writes, but {error}") from None
    return None


def _make_metadata(parts: list[dict], format: str, given: dict[str, Any], painted: bool) -> str:
    """The card's YAML head. `configs` is what `load_dataset` goes by; it also checks the counts in `dataset_info`."""
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
        if format == "parquet":  # a tar's columns are found by its reader
            info.features = datasets.Features.from_dict(part["features"])
        size = sum(shard["bytes"] for shard in shards)
        info.splits.add(datasets.SplitInfo(split, size, part["statistics"]["records"]))
        info.download_size = info.dataset_size = (info.dataset_size or 0) + size
    MetadataConfigs(configs).to_dataset_card_data(data)
    infos.to_dataset_card_data(data)
    return str(data)


def finished_parts(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The splits of an export whose shards are all there."""
    return [part for part in manifest["parts"] if "statistics" in part]


def shard_pattern(part: dict[str, Any]) -> str:
    """What the names of a split's shards have in common, for `load_dataset` and the Hub."""
    first = Path(part["shards"][0]["file"])
    return f"{first.parent}/{part['split']}-*{first.suffix}"


def _place(part: dict) -> str:
    return part["split"] if part["config"] == "default" else f"{part['config']}, {part['split']}"


def _load_line(part: dict) -> str:
    config = "" if part["config"] == "default" else f'"{part["config"]}", '
    variable = part["split"] if part["config"] == "default" else part["config"]
    return f'{variable} = load_dataset("path/to/this/folder", {config}split="{part["split"]}")'


def _statistics_rows(parts: list[dict]) -> list[list[str]]:
    cells = [_statistics_cells(part) for part in parts]
    names = dict.fromkeys(name for column in cells for name in column)  # in order, once
    return [[name, *(column.get(name, "") for column in cells)] for name in names]


def _statistics_cells(part: dict) -> dict[str, str]:
    """Name -> value, of one split."""
    counts = part["statistics"]
    cells = {"records": f"{counts['records']:,}"}
    for name, ids in counts["ids"].items():
        sizes = list(map(int, ids["sizes"]))
        each = f"; records each: {_span(sizes)}, mean {ids['records'] / ids['groups']:.2f}" if sizes else ""
        distractors = f"; -1 in {ids['distractors']:,} records" if ids["distractors"] else ""
        cells[f"`{name}`"] = f"{ids['groups']:,} distinct{each}{distractors}"
        if len(sizes) <= _MAX_VALUES:
            cells[f"records each: number of `{name}`"] = _listing(ids["sizes"])
    for name, values in counts["values"].items():
        cells[f"`{name}`"] = _listing(values)
    for name, caption in counts["captions"].items():
        cells[f"`{name}`"] = (
            f"{caption['distinct']:,} distinct; words each: {_span([caption['shortest'], caption['longest']])}, mean "
            f"{caption['mean']:.1f}; {caption['words']:,} distinct words"
        )
    if len(counts["captions"]) > 1:
        cells["words of all captions"] = f"{counts['words']:,} distinct"
    for name in part["suffixes"]:
        seen = [shard["images"][name] for shard in part["shards"]]
        formats = sum((Counter(one["formats"]) for one in seen), Counter())
        width, height = (_span([edge for one in seen for edge in one[side]]) for side in ("width", "height"))
        cells[f"`{name}`"] = f"{_listing(formats)}; {width} pixels wide, {height} high"
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
        rows.append([f"`{shown}`", feature.get("dtype", feature["_type"].lower()), _MEANINGS.get(name, "") + only])
    return rows


def _span(numbers: Iterable[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _listing(counts: dict[str, int]) -> str:
    return ", ".join(f"{plain(name)}: {count:,}" for name, count in counts.items())


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rows])
