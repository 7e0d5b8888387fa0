import json
import logging
import os
import shutil

import pytest

from fafa.dataset_builders import itcpr
from fafa.dataset_builders.records import DataFormatError


def rewrite(root, name, records):
    (root / f"{name}.json").write_text(json.dumps(records))


def test_queries(load, itcpr_root):
    dataset = load("ITCPR", "query", data_dir=itcpr_root, split="test")
    assert dataset.column_names == ["image", "caption", "instance_id", "person_id", "source", "image_path"]
    rows = [{name: value for name, value in row.items() if name != "image"} for row in dataset]
    assert rows[0] == {
        "caption": "In a green coat, no bag",
        "instance_id": 0,
        "person_id": 1,
        "source": "Celeb-reID",
        "image_path": "Celeb-reID/001/1_1_0.jpg",
    }
    assert rows[1]["caption"] == "穿红色外套，背包"
    assert dataset[0]["image"].size == (4, 8)


def test_gallery(load, itcpr_root):
    dataset = load("ITCPR", "gallery", data_dir=itcpr_root, split="test")
    assert dataset.column_names == ["image", "instance_id", "person_id", "source", "image_path"]
    assert dataset["instance_id"][:] == [0, 1, 1, -1]
    assert dataset["source"][:] == ["Celeb-reID", "LAST", "LAST", "Celeb-reID"]


@pytest.mark.parametrize("name", ["query", "gallery"])
@pytest.mark.parametrize("images_move_along", [True, False])
def test_the_layout_of_the_released_loader(load, itcpr_root, name, images_move_along):
    """Its JSON files lie in datasets/, unlike those of its README."""
    (itcpr_root / "datasets").mkdir()
    for entry in ["query.json", "gallery.json"] + ["Celeb-reID", "LAST"] * images_move_along:
        (itcpr_root / entry).rename(itcpr_root / "datasets" / entry)
    dataset = load("ITCPR", name, data_dir=itcpr_root, split="test")
    assert dataset[1]["image"].size == (4, 8)


@pytest.mark.parametrize("name", ["query", "gallery"])
def test_streaming(load, itcpr_root, name):
    stream = load("ITCPR", name, data_dir=itcpr_root, split="test", streaming=True)
    assert [row["instance_id"] for row in stream][:2] == [0, 1]


def test_the_configuration_must_be_named(load, itcpr_root):
    with pytest.raises(ValueError, match='"query" or "gallery"'):
        load("ITCPR", data_dir=itcpr_root)
    with pytest.raises(ValueError, match=r"\['query', 'gallery'\]"):
        load("ITCPR", "train", data_dir=itcpr_root)


def test_a_query_without_a_match_is_named(load, itcpr_root, itcpr_records):
    _, gallery = itcpr_records
    rewrite(itcpr_root, "gallery", [record for record in gallery if record["instance_id"] != 1])
    with pytest.raises(DataFormatError, match=r"query.json.*\n.*without a match.*record 1 \(instance_id 1\)"):
        load("ITCPR", "query", data_dir=itcpr_root)


def test_a_changed_gallery_is_noticed_by_the_queries(load, itcpr_root, itcpr_records):
    load("ITCPR", "query", data_dir=itcpr_root)
    rewrite(itcpr_root, "gallery", itcpr_records[1][:1])
    with pytest.raises(DataFormatError, match="without a match"):
        load("ITCPR", "query", data_dir=itcpr_root)


@pytest.mark.parametrize(("name", "instance_id"), [("query", -1), ("gallery", -2)])
def test_instance_ids_out_of_range_are_refused(load, itcpr_root, itcpr_records, name, instance_id):
    """A query of -1 would match every distractor."""
    records = itcpr_records[name == "gallery"]
    records[1]["instance_id"] = instance_id
    rewrite(itcpr_root, name, records)
    with pytest.raises(DataFormatError, match=rf"out of range \(1\): record 1 \(instance_id {instance_id}"):
        load("ITCPR", name, data_dir=itcpr_root)


@pytest.mark.parametrize("name", ["query", "gallery"])
@pytest.mark.parametrize("field", ["file_path", "datasets", "person_id", "instance_id"])
def test_a_record_without_a_field_is_named(load, itcpr_root, itcpr_records, name, field):
    records = itcpr_records[name == "gallery"]
    del records[1][field]
    rewrite(itcpr_root, name, records)
    with pytest.raises(DataFormatError, match=rf"{name}.json.*\n.*lacks a field \(1\): record 1 \(no {field}\)"):
        load("ITCPR", name, data_dir=itcpr_root)


@pytest.mark.parametrize("name", ["query", "gallery"])
def test_missing_images_are_counted_and_the_expected_layout_told(load, itcpr_root, name):
    shutil.rmtree(itcpr_root / "LAST")
    with pytest.raises(DataFormatError) as error:
        load("ITCPR", name, data_dir=itcpr_root)
    number = {"query": 1, "gallery": 2}[name]
    message = str(error.value)
    assert f"image file that is missing ({number}): record 1 (LAST/000000/" in message
    assert "must obtain" in message and f"in {itcpr_root} as Celeb-reID/001/1_1_0.jpg, PRCC/rgb/..." in message


def test_missing_annotations_are_told(load, itcpr_root):
    (itcpr_root / "gallery.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected query.json and gallery.json"):
        load("ITCPR", "query", data_dir=itcpr_root)


def test_images_that_occur_twice_in_the_gallery_are_kept_and_counted(load, itcpr_root, itcpr_records, caplog):
    """Two do in the published gallery."""
    _, gallery = itcpr_records
    rewrite(itcpr_root, "gallery", [*gallery, gallery[3]])
    assert load("ITCPR", "gallery", data_dir=itcpr_root, split="test")["instance_id"][:] == [0, 1, 1, -1, -1]
    assert "records name an image that an earlier one names (1)" in caplog.text


def test_repeated_queries_are_refused(load, itcpr_root, itcpr_records):
    queries, _ = itcpr_records
    rewrite(itcpr_root, "query", [*queries, queries[0]])
    with pytest.raises(DataFormatError, match="record 2 repeats record 0"):
        load("ITCPR", "query", data_dir=itcpr_root)


def test_counts_per_source_are_compared_with_the_published_ones(load, itcpr_root, monkeypatch, caplog):
    published = {"records": 2, "Celeb-reID": 1, "LAST": 1, "PRCC": 1, "matches": 4}
    monkeypatch.setitem(itcpr.PUBLISHED, "query", published)
    with caplog.at_level(logging.WARNING, logger="fafa"):
        load("ITCPR", "query", data_dir=itcpr_root)
    assert "0 PRCC (published: 1), 3 matches (published: 4)." in caplog.text


def test_another_test_set_of_the_same_form(load, itcpr_root, itcpr_records, monkeypatch, caplog):
    """TG-CPR, say: other sources and folders, large ids, no distractors. It is not taken for a damaged ITCPR."""
    monkeypatch.setitem(itcpr.PUBLISHED, "query", itcpr.PUBLISHED["query"] | {"records": 3})
    for name, records in zip(("query", "gallery"), itcpr_records, strict=True):
        for record in records:
            path = f"market/{record['file_path']}"
            os.renames(itcpr_root / record["file_path"], itcpr_root / path)
            instance_id = str(10**12 + record["instance_id"] + 1)
            record |= {"file_path": path, "datasets": "Market-1501", "instance_id": instance_id}
        rewrite(itcpr_root, name, records)
    with caplog.at_level(logging.INFO, logger="fafa"):
        queries = load("ITCPR", "query", data_dir=itcpr_root, split="test")
        gallery = load("ITCPR", "gallery", data_dir=itcpr_root, split="test")
    assert queries["instance_id"][:] == [10**12 + 1, 10**12 + 2]
    assert gallery["source"][:] == ["Market-1501"] * 4 and gallery[3]["image"].size == (4, 8)
    assert {record.levelname for record in caplog.records} == {"INFO"}

    (itcpr_root / queries[0]["image_path"]).unlink()
    with pytest.raises(DataFormatError, match=f"image paths are relative to {itcpr_root}. The images of ITCPR are"):
        load("ITCPR", "query", data_dir=itcpr_root, download_mode="force_redownload")
