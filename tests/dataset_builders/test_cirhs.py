import json

import pytest

from fafa.dataset_builders import BUILDERS
from fafa.dataset_builders.records import DataFormatError


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(BUILDERS, "CIRHS", ("fafa.dataset_builders.cirhs", "1"))


@pytest.fixture
def cirhs_root(syncpr_root, syncpr_records):
    """The triplets of the SynCPR fixture with a `tid` each."""
    for record in syncpr_records:
        record["tid"] = record.pop("cpr_id")
    (syncpr_root / "SynCPR.json").unlink()
    (syncpr_root / "CIRHS.json").write_text(json.dumps(syncpr_records))
    return syncpr_root


def test_columns_are_those_of_syncpr_with_tid(load, cirhs_root, syncpr_records):
    dataset = load("CIRHS", data_dir=cirhs_root, split="train")
    assert dataset.column_names[:6] == [
        "reference_image",
        "target_image",
        "edit_caption",
        "reference_caption",
        "target_caption",
        "tid",
    ]
    for number, (row, record) in enumerate(zip(dataset, syncpr_records, strict=True)):
        assert row.pop("reference_image").getpixel((0, 0)) == (number, 0, 0)
        assert row.pop("target_image").getpixel((0, 0)) == (100 + number, 0, 0)
        assert row == record


def test_streaming_gives_the_same_rows(load, cirhs_root):
    stream = load("CIRHS", data_dir=cirhs_root, split="train", streaming=True)
    assert [row["tid"] for row in stream.select_columns(["tid"])] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tid": "left"}, r"CIRHS.json.*\n.*wrong type \(1\): record 3 \(tid is a text"),
        ({"target_image_path": "none.png"}, r"missing \(1\): record 3 \(none.png\).*\n.*image archives of CIRHS"),
    ],
)
def test_a_bad_record_is_named(load, cirhs_root, syncpr_records, changes, expected):
    syncpr_records[3].update(changes)
    (cirhs_root / "CIRHS.json").write_text(json.dumps(syncpr_records))
    with pytest.raises(DataFormatError, match=expected):
        load("CIRHS", data_dir=cirhs_root)


def test_repeated_records_are_refused(load, cirhs_root, syncpr_records):
    (cirhs_root / "CIRHS.json").write_text(json.dumps([*syncpr_records, syncpr_records[1]]))
    with pytest.raises(DataFormatError, match="record 6 repeats record 1"):
        load("CIRHS", data_dir=cirhs_root)


def test_another_data_set_in_the_format_is_nothing_to_warn_of(load, cirhs_root, caplog):
    load("CIRHS", data_dir=cirhs_root)
    assert "published" not in caplog.text


def test_without_a_folder_it_says_that_no_repository_is_known(load):
    with pytest.raises(ValueError, match=r"CIRHS: no repository of its authors in this layout is known.*data_dir="):
        load("CIRHS")


def test_a_folder_of_syncpr_is_not_taken_for_cirhs(load, syncpr_root):
    with pytest.raises(FileNotFoundError, match=r"expected CIRHS.json"):
        load("CIRHS", data_dir=syncpr_root)
