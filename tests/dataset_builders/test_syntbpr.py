import json

import pytest
from PIL import Image

from fafa.dataset_builders import BUILDERS, base, export, syntbpr
from fafa.dataset_builders.records import DataFormatError


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(BUILDERS, "SynTBPR", ("fafa.dataset_builders.syntbpr", "1"))


@pytest.fixture
def records():
    """Three people: two pictures of the first, the second of which is edited, and one each of the others."""
    return [_record("generated/0", 0), _record("edited/0-e1", 0), _record("generated/1", 1), _record("generated/2", 2)]


def _record(name, person):
    source = name.split("/")[0]
    return {
        "image_path": f"images/{name}.png",
        "captions": [f"A person in a red coat {name}.", "Eine Person im roten Mantel, größer."],
        "person_id": person,
        "provenance": {"source": source, "prompt": "a person", "seed": 2**62 + person, "edit": None},
    }


@pytest.fixture
def root(tmp_path, records):
    for number, record in enumerate(records):
        file = tmp_path / "SynTBPR" / record["image_path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 8), (number, 0, 0)).save(file)
    write(tmp_path / "SynTBPR", records)
    return tmp_path / "SynTBPR"


def write(root, records):
    (root / "SynTBPR.json").write_text(json.dumps(records))


def test_columns_and_values(load, root, records):
    dataset = load("SynTBPR", data_dir=root, split="train")
    assert dataset.column_names == ["image", "source", "captions", "person_id", "provenance", "image_path"]
    for number, (row, record) in enumerate(zip(dataset, records, strict=True)):
        assert row.pop("image").getpixel((0, 0)) == (number, 0, 0)
        assert row.pop("source") == record["provenance"]["source"]
        assert row | {"provenance": json.loads(row["provenance"])} == record


def test_streaming_and_files_larger_than_one_table(load, root, monkeypatch):
    monkeypatch.setattr(base, "_RECORDS_PER_TABLE", 3)
    stream = load("SynTBPR", data_dir=root, split="train", streaming=True)
    assert [row["person_id"] for row in stream.select_columns(["person_id"])] == [0, 0, 1, 2]


def test_the_documented_line_makes_pairs_of_picture_and_caption(load, root, records):
    dataset = load("SynTBPR", data_dir=root, split="train")
    lines = syntbpr.SynTBPR.__doc__.splitlines()
    start = next(number for number, line in enumerate(lines) if "dataset.map(" in line)
    end = next(number for number, line in enumerate(lines) if number > start and line.strip() == ")")
    pairs = eval("\n".join(line.strip() for line in lines[start : end + 1]), {"dataset": dataset, "zip": zip})
    expected = [(r["image_path"], r["person_id"], text) for r in records for text in r["captions"]]
    assert [(row["image_path"], row["person_id"], row["caption"]) for row in pairs] == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"captions": None}, r"lacks a field \(1\): record 3 \(no captions\)"),
        ({"captions": []}, r"wrong type \(1\): record 3 \(captions is a list: \[\], expected a list of texts"),
        ({"captions": "A person."}, r"record 3 \(captions is a text: 'A person.', expected a list of texts"),
        ({"captions": ["A person.", " "]}, r"empty text \(1\): record 3 \(captions\[1\]\)"),
        ({"captions": [7]}, r"record 3 \(captions\[0\] is a number: 7, expected a text"),
        ({"person_id": "one"}, r"record 3 \(person_id is a text: 'one'"),
        (
            {"provenance": "painted"},
            r"record 3 \(provenance is a text: 'painted', expected an object whose source is generated",
        ),
        ({"provenance": {"source": "found"}}, r"record 3 \(provenance is an object: {'source': 'found'}, expected"),
        ({"provenance": {"source": ["generated"]}}, r"record 3 \(provenance is .*, expected"),
        ({"image_path": "../x.png"}, r"not below the folder \(1\): record 3"),
        ({"image_path": "images/none.png"}, r"missing \(1\): record 3 \(images/none.png\).*\n.*copy the image folders"),
    ],
)
def test_a_bad_record_is_one_error_with_file_number_and_remedy(load, root, records, changes, expected):
    records[3].update(changes)
    records[3] = {field: value for field, value in records[3].items() if value is not None}
    write(root, records)
    with pytest.raises(DataFormatError, match=expected) as error:
        load("SynTBPR", data_dir=root)
    assert str(root / "SynTBPR.json") in str(error.value) and "Remedy:" in str(error.value)


def test_a_picture_named_twice_is_refused(load, root, records):
    write(root, [*records, records[1] | {"captions": ["Another."]}])
    with pytest.raises(DataFormatError, match="record 4 repeats record 1"):
        load("SynTBPR", data_dir=root)


def test_without_a_folder_or_a_repository_it_says_what_to_pass(load):
    with pytest.raises(ValueError, match=r"SynTBPR: no repository .* Pass as data_dir="):
        load("SynTBPR")


def test_it_is_exported_as_other_data_sets_are(load, root, records, tmp_path):
    """Each picture is stored once, with its list of captions."""
    export.export_dataset("SynTBPR", data_dir=root, output_dir=tmp_path / "out", show_progress=False)
    rows = load("parquet", data_files=[str(file) for file in (tmp_path / "out").rglob("*.parquet")], split="train")
    assert [row["captions"] for row in rows] == [record["captions"] for record in records]
    assert rows[2]["image"].getpixel((0, 0)) == (2, 0, 0)
