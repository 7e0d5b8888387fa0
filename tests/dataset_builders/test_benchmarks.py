"""Annotation files of FashionIQ, CIRR and CIRCO as published load; others are refused by name."""

import json
import shutil

import pytest
from benchmark_folders import make_circo, make_cirr, make_fashioniq, write_json

from fafa.dataset_builders.fashioniq import missing_images
from fafa.dataset_builders.records import DataFormatError

MAKE = {"FashionIQ": make_fashioniq, "CIRR": make_cirr, "CIRCO": make_circo}


def change(file, **changes) -> None:
    records = json.loads(file.read_text())
    records[1] |= changes
    file.write_text(json.dumps(records))


def test_fashioniq(load, tmp_path):
    root = make_fashioniq(tmp_path / "fiq", ("val", "test"))
    queries = load("FashionIQ", "query", data_dir=root, split="val")
    gallery = load("FashionIQ", "gallery", data_dir=root, split="val")
    assert len(queries) == 6 and len(gallery) == 12
    row = queries[3]
    assert row.pop("image").size == (12, 16)
    assert row == {
        "captions": ["is a red coat", "a blue bag."],
        "category": "shirt",
        "reference": "Bvalshirt1",
        "target": "Bvalshirt3",
    }
    assert gallery.remove_columns("image")[5] == {"name": "Bvalshirt1", "category": "shirt"}
    assert load("FashionIQ", "query", data_dir=root, split="test")["target"][:] == [None] * 6


def test_missing_images_of_fashioniq_are_counted_and_named(load, tmp_path, caplog):
    """Of the published 77,684 images, three thousand can no longer be had: an error would make the rest useless."""
    root = make_fashioniq(tmp_path / "fiq", missing=("Bvaldress2", "Bvaltoptee0"))
    (root / "images" / "Bvalshirt3.png").write_bytes(b"")  # as failed downloads leave them
    assert len(load("FashionIQ", "gallery", data_dir=root, split="val")) == 9
    queries = load("FashionIQ", "query", data_dir=root, split="val")
    assert queries["reference"][:] == ["Bvaldress1", "Bvalshirt0", "Bvaltoptee1"]
    assert (
        "3 of 12 images are missing (Bvaldress2, Bvalshirt3, Bvaltoptee0); they are left out, and 3 of 6 queries with "
        "them. What is measured on the rest is not comparable" in caplog.text
    )
    assert missing_images(root, "val") == {
        "images": ["Bvaldress2", "Bvalshirt3", "Bvaltoptee0"],
        "num_images": 12,
        "num_queries_left_out": 3,
        "num_queries": 6,
    }


def test_cirr(load, tmp_path, caplog):
    root = make_cirr(tmp_path / "cirr")
    make_cirr(root, "test1")
    queries = load("CIRR", "query", data_dir=root, split="val")
    row = queries[1]
    assert row.pop("image").size == (12, 16)
    assert row == {
        "caption": "a blue bag",
        "pair_id": 101,
        "reference": "dev-6-0-img0",
        "target": "dev-7-0-img0",
        "members": [f"dev-{number}-0-img0" for number in range(6, 12)],
    }
    assert load("CIRR", "gallery", data_dir=root, split="val")["name"][:3] == [f"dev-{n}-0-img0" for n in range(3)]
    assert load("CIRR", "query", data_dir=root, split="test1")["target"][:] == [None] * 3
    shutil.rmtree(root / "test1")  # annotations come for all splits, images are fetched one by one
    (root / "captions/cap.rc2.val.json").write_bytes((root / "captions/cap.rc2.val.json").read_bytes() + b"\n")
    assert len(load("CIRR", "query", data_dir=root, split="val")) == 3
    assert "none of the images of the split test1 is there, so it is left out" in caplog.text


def test_circo(load, tmp_path):
    root = make_circo(tmp_path / "circo")
    make_circo(root, "test")
    row = load("CIRCO", "query", data_dir=root, split="val")[1]
    assert row.pop("image").size == (12, 16)
    assert row == {
        "caption": "a blue bag",
        "shared_concept": "a coat",
        "query_id": 1,
        "reference": 78,
        "target": 85,
        "ground_truth": [85, 92],
        "semantic_aspects": ["negation", "cardinality"],
    }
    assert load("CIRCO", "gallery", data_dir=root, split="test")["image_id"][:2] == [8, 15]
    assert load("CIRCO", "query", data_dir=root, split="test")[0]["ground_truth"] == []


@pytest.mark.parametrize("name", MAKE)
def test_a_missing_split_is_told_with_its_files(load, tmp_path, name):
    root = MAKE[name](tmp_path / name)
    other = {"FashionIQ": "captions/cap.dress.test.json", "CIRR": "captions/cap.rc2.test1.json", "CIRCO": "test.json"}
    split = "test1" if name == "CIRR" else "test"
    with pytest.raises(ValueError, match=f"no split '{split}'; it needs .*{other[name]}.*The folder holds val"):
        load(name, "query", data_dir=root, split=split)
    with pytest.raises(ValueError, match=r"no split 'validation'; .* has .*val"):
        load(name, "query", data_dir=root, split="validation")


def test_another_version_is_refused(load, tmp_path):
    root = make_cirr(tmp_path / "cirr")
    (root / "captions/cap.rc2.val.json").rename(root / "captions/cap.rc1.val.json")
    with pytest.raises(FileNotFoundError, match=r"of the split val, there is no captions/cap.rc2.val.json"):
        load("CIRR", "query", data_dir=root)
    (root / "image_splits/split.rc2.val.json").rename(root / "image_splits/split.rc1.val.json")
    with pytest.raises(FileNotFoundError, match=r"It holds captions/cap.rc1.val.json, .*: of another version"):
        load("CIRR", "query", data_dir=root)


@pytest.mark.parametrize(("name", "other"), [("CIRR", "CIRCO"), ("CIRCO", "CIRR"), ("FashionIQ", "CIRCO")])
def test_another_benchmarks_file_is_refused_by_name(load, tmp_path, name, other):
    root, foreign = MAKE[name](tmp_path / name), MAKE[other](tmp_path / other)
    files = {
        "FashionIQ": "captions/cap.dress.val.json",
        "CIRR": "captions/cap.rc2.val.json",
        "CIRCO": "annotations/val.json",
    }
    shutil.copy(foreign / files[other], root / files[name])
    with pytest.raises(DataFormatError, match=f"holds records of {other}, expected those of {name}"):
        load(name, "query", data_dir=root)


@pytest.mark.parametrize(("name", "test"), [("FashionIQ", "test"), ("CIRR", "test1"), ("CIRCO", "test")])
def test_another_splits_file_is_refused(load, tmp_path, name, test):
    if name == "FashionIQ":
        root = make_fashioniq(tmp_path / name, ("val", "test"))
    else:
        root = MAKE[name](MAKE[name](tmp_path / name), test)
    files = {
        "FashionIQ": "captions/cap.dress.{}.json",
        "CIRR": "captions/cap.rc2.{}.json",
        "CIRCO": "annotations/{}.json",
    }
    val, of_test = (root / files[name].format(split) for split in ("val", test))
    kept = val.read_bytes()
    shutil.copy(of_test, val)
    with pytest.raises(DataFormatError, match=r"its first record lacks .*another split's file"):
        load(name, "query", data_dir=root)
    val.write_bytes(kept)
    shutil.copy(val, of_test)
    with pytest.raises(DataFormatError, match=r"its first record has .*another split's file"):
        load(name, "query", data_dir=root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "train-1-0-img0"}, "names an image that the split does not list .*reference train-1"),
        ({"pairid": 100}, "pairid 100 is given to several records"),
        ({"caption": "..."}, "caption without a word"),
        ({"img_set": {"members": ["dev-6-0-img0"]}}, "expected an object with 6 members"),
        ({"target_hard": "dev-40-0-img0"}, "img_set without one of its images .*target_hard dev-40"),
    ],
)
def test_a_bad_record_of_cirr_is_named(load, tmp_path, changes, message):
    root = make_cirr(tmp_path / "cirr")
    change(root / "captions/cap.rc2.val.json", **changes)
    with pytest.raises(DataFormatError, match=message):
        load("CIRR", "query", data_dir=root)


def test_bad_records_of_the_others_are_named(load, tmp_path):
    root = make_circo(tmp_path / "circo")
    change(root / "annotations/val.json", gt_img_ids=[92])
    with pytest.raises(DataFormatError, match=r"record 1 \(target_img_id 85, gt_img_ids \[92\]\)"):
        load("CIRCO", "query", data_dir=root)
    root = make_fashioniq(tmp_path / "fiq")
    change(root / "captions/cap.shirt.val.json", captions=["", "."])
    with pytest.raises(DataFormatError, match=r"cap.shirt.val.json.*\n.*caption without a word"):
        load("FashionIQ", "query", data_dir=root)
    write_json(root / "image_splits/split.shirt.val.json", ["a/b.jpg"])
    with pytest.raises(DataFormatError, match=r"split.shirt.val.json: expected names of images, got a/b.jpg"):
        load("FashionIQ", "query", data_dir=root)


def test_what_load_dataset_cannot_honour_is_refused(load, tmp_path):
    with pytest.raises(ValueError, match="CIRR: its images are the user's to obtain"):
        load("CIRR", "query")
    with pytest.raises(ValueError, match='"query" or "gallery"'):
        load("CIRR", data_dir=make_cirr(tmp_path / "cirr"))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load("CIRCO", "query", data_dir=tmp_path / "none")
