"""Images of people with captions, in the annotation formats of their authors: loaded, refused by name, verified."""

import json

import pytest
from tiny_text_image import CUHK, ICFG, RSTP, SETS, TBPS, UFINE, write_set

from fafa.dataset_builders import export
from fafa.dataset_builders.records import DataFormatError
from fafa.dataset_builders.verify import verify_dataset
from fafa.training import caption_pairs
from fafa.verify import main


@pytest.mark.parametrize("name", SETS)
def test_every_format_loads_with_its_splits(load, tmp_path, name, caplog):
    write_set(tmp_path, name)
    dataset = load(name, data_dir=tmp_path)
    records = SETS[name].records()
    by_split = {"train": "train", "val": "validation", "test": "test"}
    assert set(dataset) == {by_split[record["split"]] for record in records}
    for split, rows in dataset.items():
        own = [record for record in records if by_split[record["split"]] == split]
        assert [row["person_id"] for row in rows] == [record["id"] for record in own]
        assert [row["captions"] for row in rows] == [record["captions"] for record in own]
        assert [row["image_path"] for row in rows] == [record[SETS[name].path] for record in own]
        assert [row["image"].getpixel((0, 0))[0] for row in rows] == [record["shade"] for record in own]
    pairs = caption_pairs(dataset["train"])
    assert len(pairs) == sum(len(record["captions"]) for record in records if record["split"] == "train")


def test_an_underscore_in_the_name_of_icfg_is_taken(load, tmp_path):
    write_set(tmp_path, ICFG)
    (tmp_path / "ICFG-PEDES.json").rename(tmp_path / "ICFG_PEDES.json")
    assert len(load(ICFG, data_dir=tmp_path, split="test")) == 2
    assert verify_dataset(tmp_path, num_workers=1, show_progress=False)["format"] == ICFG


def test_translations_come_with_their_captions(load, tmp_path):
    write_set(tmp_path, TBPS)
    assert load(TBPS, data_dir=tmp_path, split="train")[0]["captions_bt"] == ["somebody 0"]


@pytest.mark.parametrize("given", SETS)
@pytest.mark.parametrize("asked", [CUHK, ICFG, RSTP, UFINE])
def test_the_file_of_another_data_set_is_refused_with_its_name(load, tmp_path, given, asked):
    """In its own name, and renamed to that of the data set that is asked for."""
    if given == asked:
        return
    write_set(tmp_path, given)
    own, wanted = SETS[given].file, SETS[asked].file
    if given != TBPS:
        with pytest.raises((DataFormatError, FileNotFoundError), match=given if wanted != own else "looks like"):
            load(asked, data_dir=tmp_path)
    (tmp_path / own).rename(tmp_path / wanted)
    with pytest.raises(DataFormatError, match=f"looks like an annotation file of {given}, not of {asked}"):
        load(asked, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"pairid": 1, "reference": "a", "caption": "b"}, "CIRR"),
        ({"candidate": "a", "target": "b", "captions": ["c", "d"]}, "FashionIQ"),
        ({"file_path": "a", "instance_id": 3, "caption": "b"}, "ITCPR"),
        ({"file_path": "a.png", "id": 3, "captions": ["b"]}, "an older CUHK-PEDES, without splits"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_of_other_tasks_and_versions_are_told(load, tmp_path, record, name):
    (tmp_path / "reid_raw.json").write_text(json.dumps([record]))
    with pytest.raises(DataFormatError, match=f"looks like an annotation file of {name}"):
        load(CUHK, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "training"}, r"record 2 \(split is a text: 'training', expected 'train' or 'val' or 'test'\)"),
        ({"id": -1}, r"an id out of range \(1\): record 2 \(id -1\)"),
        ({"captions": []}, r"record 2 \(captions is a list: \[\], expected a list of texts\)"),
        ({"captions": ["!"]}, r"caption without a word \(1\): record 2"),
        ({"file_path": "cam_a/none.png"}, r"missing \(1\): record 2 .*\n.*get the images from the data set's authors"),
        ({"file_path": "CUHK01/0.png"}, "record 1 repeats record 0|repeats"),
    ],
    ids=str,
)
def test_a_bad_record_is_one_error_with_file_number_and_remedy(load, tmp_path, change, message):
    write_set(tmp_path, CUHK, {2: change})
    with pytest.raises(DataFormatError, match=message):
        load(CUHK, data_dir=tmp_path)


def test_a_missing_split_is_told_with_those_that_are_there(load, tmp_path):
    write_set(tmp_path, CUHK, keep=lambda record: record["split"] != "test")
    with pytest.raises(
        DataFormatError, match=r"no record is of the split 'test' \(records by split: train: 3, val: 1\)"
    ):
        load(CUHK, data_dir=tmp_path)
    report = verify_dataset(tmp_path, num_workers=1, show_progress=False)
    assert not report["sound"] and "none was of a split" in str(report["files"])


def test_counts_are_compared_with_the_published_ones_and_not_enforced(load, tmp_path, caplog):
    write_set(tmp_path, CUHK)
    with caplog.at_level("INFO"):
        load(CUHK, data_dir=tmp_path)
    assert "6 records (published: 40,206), 11 captions (published: 80,412), 5 people (published: 13,003)" in caplog.text


def test_a_split_is_read_from_its_own_image_folder_and_never_from_anothers(load, tmp_path):
    """As released, code for these files reads training images from the test folder."""
    write_set(tmp_path, TBPS)  # the same names in images/train and images/test, of other colours
    (tmp_path / "images/train/0.png").unlink()
    with pytest.raises(DataFormatError, match=r"missing \(1\): record 0 \(0.png\)"):
        load(TBPS, data_dir=tmp_path)
    records = json.loads((tmp_path / "train.json").read_text())
    (tmp_path / "train.json").write_text(json.dumps([records[0] | {"file_path": "test/0.png"}, *records[1:]]))
    with pytest.raises(DataFormatError, match=r"another split \(1\): record 0 \(test/0.png, in a record of train\)"):
        load(TBPS, data_dir=tmp_path)
    (tmp_path / "train.json").write_text(json.dumps([records[1] | {"file_path": "train/1.png"}]))
    assert load(TBPS, data_dir=tmp_path, split="train")[0]["image"].getpixel((0, 0))[0] == 1


def test_only_the_splits_that_there_are(load, tmp_path):
    write_set(tmp_path, TBPS)
    (tmp_path / "train.json").unlink()
    assert set(load(TBPS, data_dir=tmp_path)) == {"validation", "test"}
    with pytest.raises(ValueError, match='Unknown split "train"'):
        load(TBPS, data_dir=tmp_path, split="train")


def test_streams_and_processes_read_the_same(load, tmp_path):
    write_set(tmp_path, CUHK)
    rows = load(CUHK, data_dir=tmp_path, split="train").select_columns(["captions", "person_id"])[:]
    stream = load(CUHK, data_dir=tmp_path, split="train", streaming=True).select_columns(["captions", "person_id"])
    assert {name: [row[name] for row in stream] for name in rows} == rows


def test_an_export_has_every_split_and_its_images(load, tmp_path):
    write_set(tmp_path / "data", TBPS)
    export.export_dataset(TBPS, data_dir=tmp_path / "data", output_dir=tmp_path / "out", show_progress=False)
    rows = load(str(tmp_path / "out"))
    assert {split: len(part) for split, part in rows.items()} == {"train": 3, "validation": 1, "test": 2}
    assert rows["train"][1]["image"].getpixel((0, 0))[0] == 1
    assert "translated to another language and back" in (tmp_path / "out" / "README.md").read_text()


def test_without_a_folder_it_says_what_to_pass(load):
    with pytest.raises(ValueError, match=r"CUHK_PEDES: no repository .* reid_raw.json, as its authors publish it"):
        load(CUHK)


@pytest.mark.parametrize("name", SETS)
def test_every_format_is_verified(tmp_path, name, capsys):
    write_set(tmp_path, name)
    assert main([str(tmp_path), "--num-workers", "1"]) == 0
    report = json.loads((tmp_path / "verify/report.json").read_text())
    assert report["format"] == name and report["images"]["sound"] == len(SETS[name].records())
    first = sorted((tmp_path / ("images" if name == TBPS else "imgs")).rglob("*.png"))[0]
    first.write_bytes(b"no image")
    assert main([str(tmp_path), "--num-workers", "1"]) == 1
    assert "names an image file that is broken" in capsys.readouterr().out
