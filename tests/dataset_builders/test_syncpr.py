import json
import logging
import os
import unicodedata

import pytest
from datasets import Image, load_dataset_builder

from fafa.dataset_builders import base, syncpr
from fafa.dataset_builders.layout import ImageFinder, Layout
from fafa.dataset_builders.records import BadRecord, DataFormatError


def rewrite(root, records):
    (root / "SynCPR.json").write_text(json.dumps(records))


def test_columns_and_values(load, syncpr_root, syncpr_records):
    dataset = load("SynCPR", data_dir=syncpr_root)["train"]
    assert dataset.column_names == [
        "reference_image",
        "target_image",
        "edit_caption",
        "reference_caption",
        "target_caption",
        "cpr_id",
        "reference_image_path",
        "target_image_path",
    ]
    for row, record in zip(dataset, syncpr_records, strict=True):
        reference, target = row.pop("reference_image"), row.pop("target_image")
        assert row == record
        number = int(record["edit_caption"].rstrip(".").split()[-1])
        assert reference.getpixel((0, 0)) == (number, 0, 0)
        assert target.getpixel((0, 0)) == (100 + number, 0, 0)


def test_ids_and_paths_are_read_without_opening_images(load, syncpr_root):
    for file in syncpr_root.rglob("*.png"):
        file.write_bytes(b"not an image")
    dataset = load("SynCPR", data_dir=syncpr_root, split="train")
    assert dataset["cpr_id"][:] == [0, 0, 1, 1, 2, 2]
    image = dataset.cast_column("target_image", Image(decode=False))["target_image"][0]
    assert image == {"bytes": None, "path": str(syncpr_root / "test2/sub_img/img_right/0-1_right.png")}
    with pytest.raises(OSError, match="cannot identify image file"):
        dataset[0]


def test_streaming_gives_the_same_rows_without_a_cache(load, syncpr_root, tmp_path):
    stream = load("SynCPR", data_dir=syncpr_root, split="train", streaming=True)
    assert [row["cpr_id"] for row in stream.select_columns(["cpr_id"])] == [0, 0, 1, 1, 2, 2]
    assert next(iter(stream.skip(3)))["reference_image"].getpixel((0, 0)) == (3, 0, 0)
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_slices_and_processes(load, syncpr_root):
    assert load("SynCPR", data_dir=syncpr_root, split="train[:50%]", num_proc=2)["cpr_id"][:] == [0, 0, 1]


def test_files_larger_than_one_table(load, syncpr_root, monkeypatch):
    monkeypatch.setattr(base, "_RECORDS_PER_TABLE", 4)
    assert load("SynCPR", data_dir=syncpr_root, split="train")["cpr_id"][:] == [0, 0, 1, 1, 2, 2]


def test_the_second_load_reads_the_cache_whatever_happens_to_images(load, syncpr_root, monkeypatch):
    first = load("SynCPR", data_dir=syncpr_root, split="train")
    for file in syncpr_root.rglob("*.png"):
        os.utime(file, (1, 1))
    monkeypatch.setattr(base, "read_records", None)  # to parse again would raise
    monkeypatch.chdir(syncpr_root.parent)
    second = load("SynCPR", data_dir="SynCPR", split="train")
    assert second.cache_files == first.cache_files


def test_a_changed_annotation_file_is_noticed(load, syncpr_root, syncpr_records):
    """Also when size and time of the file stay the same."""
    file = syncpr_root / "SynCPR.json"
    before = file.stat()
    assert load("SynCPR", data_dir=syncpr_root, split="train")["cpr_id"][0] == 0
    syncpr_records[0]["cpr_id"] = 9
    rewrite(syncpr_root, syncpr_records)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert load("SynCPR", data_dir=syncpr_root, split="train")["cpr_id"][0] == 9


def test_equal_annotations_in_two_folders_keep_their_own_images(load, syncpr_root, tmp_path):
    other = tmp_path / "other"
    os.renames(syncpr_root, other)
    copy = load("SynCPR", data_dir=other, split="train")
    os.renames(other, syncpr_root)
    assert copy.cache_files != load("SynCPR", data_dir=syncpr_root, split="train").cache_files


@pytest.mark.parametrize("images_move_along", [True, False])
def test_annotations_in_the_subfolder_datasets(load, syncpr_root, images_move_along):
    (syncpr_root / "datasets").mkdir()
    for name in ["SynCPR.json"] + ["test2"] * images_move_along:
        (syncpr_root / name).rename(syncpr_root / "datasets" / name)
    assert load("SynCPR", data_dir=syncpr_root, split="train")[5]["target_image"].getpixel((0, 0)) == (105, 0, 0)


def test_image_folders_may_be_symbolic_links(load, syncpr_root, tmp_path):
    (syncpr_root / "test2").rename(tmp_path / "elsewhere")
    (syncpr_root / "test2").symlink_to(tmp_path / "elsewhere")
    assert load("SynCPR", data_dir=syncpr_root, split="train")[1]["reference_image"].getpixel((0, 0)) == (1, 0, 0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"edit_caption": None}, r"lacks a field \(1\): record 3 \(no edit_caption\)"),
        ({"edit_caption": 5}, r"wrong type \(1\): record 3 \(edit_caption is a number: 5, expected a text\)"),
        ({"target_caption": " "}, r"empty text \(1\): record 3 \(target_caption\)"),
        ({"cpr_id": "left"}, r"wrong type \(1\): record 3 \(cpr_id is a text: 'left', expected a 64-bit integer\)"),
        ({"cpr_id": True}, r"record 3 \(cpr_id is a truth value: True"),
        ({"target_image_path": "/etc/passwd"}, r"not below the folder \(1\): record 3 \(target_image_path: '/etc/pass"),
        ({"reference_image_path": "test2/../../x.png"}, r"not below the folder \(1\): record 3 \(reference_image_path"),
        ({"reference_image_path": "test2/none.png"}, r"file that is missing \(1\): record 3 \(test2/none.png\)"),
        ({"reference_image_path": "none/img_left/3-1_left.png"}, r"file that is missing \(1\): record 3"),
        ({"reference_image_path": "test2/sub_img"}, r"file that is missing \(1\): record 3 \(test2/sub_img\)"),
    ],
)
def test_a_bad_record_is_one_error_with_file_number_and_remedy(load, syncpr_root, syncpr_records, changes, expected):
    syncpr_records[3].update(changes)
    syncpr_records[3] = {field: value for field, value in syncpr_records[3].items() if value is not None}
    rewrite(syncpr_root, syncpr_records)
    for streaming in (False, True):
        with pytest.raises(DataFormatError, match=expected) as error:
            list(load("SynCPR", data_dir=syncpr_root, split="train", streaming=streaming))
        assert str(syncpr_root / "SynCPR.json") in str(error.value) and "Remedy:" in str(error.value)


def test_an_empty_image_file_is_an_error(load, syncpr_root):
    (syncpr_root / "test2/sub_img/img_left/4-1_left.png").write_bytes(b"")
    with pytest.raises(DataFormatError, match=r"0 bytes \(1\): record 4 \(test2/sub_img/img_left/4-1_left.png\)"):
        load("SynCPR", data_dir=syncpr_root)


def test_one_error_tells_all_problems_with_their_counts(load, syncpr_root, syncpr_records):
    syncpr_records = [*syncpr_records, "text", {}] + [syncpr_records[0] | {"edit_caption": ""}] * 7
    rewrite(syncpr_root, syncpr_records)
    with pytest.raises(DataFormatError) as error:
        load("SynCPR", data_dir=syncpr_root)
    message = str(error.value)
    assert "9 of the 15 records" in message
    assert "not a JSON object (1): record 6 (it is a text: 'text')" in message
    assert "empty text (7): record 8 (edit_caption)" in message and "and 2 more" in message


def test_a_failed_load_leaves_no_cache_behind(load, syncpr_root, syncpr_records):
    rewrite(syncpr_root, [*syncpr_records, {}])
    for _ in range(2):
        with pytest.raises(DataFormatError):
            load("SynCPR", data_dir=syncpr_root)


def test_integer_texts_are_accepted_as_cpr_id(load, syncpr_root, syncpr_records):
    rewrite(syncpr_root, [record | {"cpr_id": str(record["cpr_id"])} for record in syncpr_records])
    assert load("SynCPR", data_dir=syncpr_root, split="train")["cpr_id"][:] == [0, 0, 1, 1, 2, 2]


def test_repeated_records_are_refused(load, syncpr_root, syncpr_records, monkeypatch):
    monkeypatch.setattr(base, "_RECORDS_PER_TABLE", 2)
    rewrite(syncpr_root, [*syncpr_records, syncpr_records[1]])
    with pytest.raises(DataFormatError, match="record 6 repeats record 1"):
        load("SynCPR", data_dir=syncpr_root)


def test_repeated_records_of_the_published_file_are_kept(load, syncpr_root, syncpr_records, monkeypatch, caplog):
    """The published file is what it is: a user could not load it otherwise."""
    monkeypatch.setattr(syncpr, "PUBLISHED", {"records": 7, "groups": 3})
    rewrite(syncpr_root, [*syncpr_records, syncpr_records[1]])
    assert len(load("SynCPR", data_dir=syncpr_root, split="train")) == 7
    assert "record 6 repeats record 1" in caplog.text and "published data set" not in caplog.text


@pytest.mark.parametrize(("published", "level"), [(8, logging.WARNING), (1000, logging.INFO)])
def test_missing_records_are_warned_of_unless_the_data_is_clearly_other(
    load, syncpr_root, monkeypatch, caplog, published, level
):
    monkeypatch.setattr(syncpr, "PUBLISHED", {"records": published, "groups": 3})
    with caplog.at_level(logging.INFO, logger="fafa"):
        load("SynCPR", data_dir=syncpr_root)
    (message,) = [record for record in caplog.records if "published" in record.message]
    assert message.levelno == level
    assert f"6 records (published: {published:,})" in message.message and "groups" not in message.message


def test_a_wrong_folder_is_an_error_that_names_what_was_expected(load, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load("SynCPR", data_dir=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"expected SynCPR.json in this folder or in its subfolder datasets/"):
        load("SynCPR", data_dir=tmp_path)


def test_the_builder_carries_reference_homepage_and_licence(syncpr_root):
    info = load_dataset_builder("SynCPR", data_dir=str(syncpr_root)).info
    assert "2311.16515" in info.citation and "a1557811266/SynCPR" in info.homepage and info.license


def test_a_name_that_differs_in_case_is_told_with_the_name_that_is_there(load, syncpr_root, syncpr_records):
    image = syncpr_root / syncpr_records[0]["reference_image_path"]
    image.rename(image.with_name(image.name.upper()))
    folder = syncpr_root / "test2/sub_img/img_right"
    folder.rename(folder.with_name("IMG_right"))
    with pytest.raises(DataFormatError, match="in another case") as error:
        load("SynCPR", data_dir=syncpr_root)
    message = str(error.value)
    assert f"0-1_left.png: the folder {image.parent} holds '0-1_LEFT.PNG'" in message
    assert f"1-1_right.png: the folder {folder.parent} holds 'IMG_right'" in message
    assert "upper and lower case count" in message and "unpack all" not in message


@pytest.mark.parametrize("written", ["NFC", "NFD"])
def test_names_of_one_text_are_one_name_however_it_is_written(load, syncpr_root, syncpr_records, written):
    """macOS and its archives write an é as two characters, annotation files mostly as one."""
    on_disk = {"NFC": "NFD", "NFD": "NFC"}[written]
    for record in syncpr_records:
        for side in ("reference_image_path", "target_image_path"):
            path = record[side].replace("test2", "Émile").replace("-1_", "-é_")
            (syncpr_root / unicodedata.normalize(on_disk, path)).parent.mkdir(parents=True, exist_ok=True)
            (syncpr_root / record[side]).rename(syncpr_root / unicodedata.normalize(on_disk, path))
            record[side] = unicodedata.normalize(written, path)
    (syncpr_root / "SynCPR.json").write_text(json.dumps(syncpr_records))
    dataset = load("SynCPR", data_dir=syncpr_root, split="train")
    assert [row["reference_image"].getpixel((0, 0))[0] for row in dataset] == [0, 1, 2, 3, 4, 5]
    assert dataset["reference_image_path"][0] == syncpr_records[0]["reference_image_path"], "as in the records"


def test_folders_are_listed_once_however_many_images_are_missing(tmp_path, monkeypatch):
    listed = []
    list_folder = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: (listed.append(folder), list_folder(folder))[1])
    (tmp_path / "a").mkdir()
    (tmp_path / "a/0.png").write_bytes(b"x")
    finder = ImageFinder(Layout(str(tmp_path), {}, (str(tmp_path),)))
    for number in range(1, 50):
        with pytest.raises(BadRecord, match="missing"):
            finder.find(f"a/{number}.png")
    assert finder.find("a/0.png") == f"{tmp_path}/a/0.png"
    assert len(listed) == len(set(listed)) <= 2
