"""Tiny data sets in the formats of SynCPR and ITCPR, and `load_dataset` with a cache of its own."""

import json
from functools import partial
from pathlib import Path

import datasets
import pytest
from PIL import Image

import fafa  # noqa: F401 - registers the builders


def write_json(file: Path, content) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def write_image(file: Path, shade: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 8), (shade, 0, 0)).save(file)


@pytest.fixture
def load(tmp_path):
    return partial(datasets.load_dataset, cache_dir=str(tmp_path / "cache"))


@pytest.fixture
def syncpr_records():
    """Six triplets in three groups."""
    return [
        {
            "reference_caption": f"A man in a red coat {number}.",
            "target_caption": f"A man in a blue coat {number}.",
            "reference_image_path": f"test2/sub_img/img_left/{number}-1_left.png",
            "target_image_path": f"test2/sub_img/img_right/{number}-1_right.png",
            "edit_caption": f"Now in blue {number}.",
            "cpr_id": number // 2,
        }
        for number in range(6)
    ]


@pytest.fixture
def syncpr_root(tmp_path, syncpr_records):
    root = tmp_path / "SynCPR"
    write_syncpr_images(root, syncpr_records)
    write_json(root / "SynCPR.json", syncpr_records)
    return root


def write_syncpr_images(root: Path, records: list[dict]) -> None:
    for number, record in enumerate(records):
        write_image(root / record["reference_image_path"], shade=number)
        write_image(root / record["target_image_path"], shade=100 + number)


@pytest.fixture
def itcpr_records():
    """Two queries; a gallery with one match for the first, two for the second, and a distractor."""
    queries = [
        _itcpr_record("Celeb-reID/001/1_1_0.jpg", "Celeb-reID", 1, 0) | {"caption": "In a green coat, no bag"},
        _itcpr_record("LAST/000000/a.jpg", "LAST", 1, 1) | {"caption": "穿红色外套，背包"},
    ]
    gallery = [
        _itcpr_record("Celeb-reID/001/1_2_0.jpg", "Celeb-reID", 1, 0),
        _itcpr_record("LAST/000000/b.jpg", "LAST", 1, 1),
        _itcpr_record("LAST/000000/c.jpg", "LAST", 1, 1),
        _itcpr_record("Celeb-reID/002/2_1_0.jpg", "Celeb-reID", 2, -1),
    ]
    return queries, gallery


def _itcpr_record(path: str, source: str, person_id: int, instance_id: int) -> dict:
    return {"file_path": path, "datasets": source, "person_id": person_id, "instance_id": instance_id}


@pytest.fixture
def itcpr_root(tmp_path, itcpr_records):
    root = tmp_path / "ITCPR"
    queries, gallery = itcpr_records
    for record in queries + gallery:
        write_image(root / record["file_path"])
    write_json(root / "query.json", queries)
    write_json(root / "gallery.json", gallery)
    return root
