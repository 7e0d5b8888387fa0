import json
import subprocess
import sys

import pytest

from fafa.dataset_builders import records
from fafa.dataset_builders.records import (
    BadRecord,
    DataFormatError,
    Problems,
    check_records,
    integer_field,
    path_field,
    read_records,
    text_field,
)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("piece", [300, 301, 337, 10_000])
def test_reading_in_pieces_equals_json_loads(tmp_path, monkeypatch, indent, encoding, piece):
    """Records, escapes and separators that lie across the border of two pieces come out whole."""
    monkeypatch.setattr(records, "_PIECE", piece)
    monkeypatch.setattr(records, "_LONGEST_RECORD", 300)
    content = [{"a": 'brackets ]}, [{ and "quotes" \\', "b": [number, None, -1.5e3]} for number in range(20)]
    content += [{"ü": "上衣 \U0001f9e5", "long": "x" * 100}, 7, "text", [1, 2], {}]
    file = tmp_path / "list.json"
    for ascii_only in (True, False):
        file.write_text(f" \n{json.dumps(content, indent=indent, ensure_ascii=ascii_only)}\n\n", encoding=encoding)
        assert list(read_records(str(file))) == content


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected a JSON list"),
        ('{"a": 1}', "expected a JSON list"),
        ("file not found", "expected a JSON list"),
        ("[]", "the list is empty"),
        ('[{"a": 1}, {"a"', "record 1"),
        ('[{"a": 1}', "record 0 .*where the file ends"),
        ('[{"a": 1} {"a": 2}]', "record 0 .*expected , or ]"),
        ('[{"a": 1},]', "record 1"),
        ('[{"a": 1}, {a: 2}]', "record 1"),
        ('[{"a": 1}] [', "nothing after the list"),
        ('[{"a": ' + "[" * 100_000 + "]", "record 0"),
        ('[{"a": ' + "1" * 10_000 + "}]", "record 0"),
        ('[{"a": 1}, {"a": 1, "a": 2}]', "record 1 .*'a' is in it twice"),
        ('[{"a": {"b": 1, "b": 1}}]', "record 0 .*'b' is in it twice"),
        ('{"a": ' * 100_000, "expected a JSON list"),
        ("[" * 100_000, "record 0"),
        ("NaN", "expected a JSON list"),
        ("\0" * 100, "expected a JSON list"),
        (" " * 10_000_000, "expected a JSON list"),
        ("[" + " " * 10_000_000, "record 0"),
        ('[{"a": "' + "x" * 9_000_000, "record 0 .*more than 1,048,576 characters"),
    ],
)
def test_broken_files_are_one_error_that_names_file_and_record(tmp_path, text, expected):
    file = tmp_path / "list.json"
    file.write_text(text)
    with pytest.raises(DataFormatError, match=expected) as error:
        list(read_records(str(file)))
    assert str(file) in str(error.value) and "Remedy:" in str(error.value)


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "list.json").write_bytes('[{"a": "grün"}]'.encode("latin-1"))
    with pytest.raises(DataFormatError, match="not UTF-8"):
        list(read_records(str(tmp_path / "list.json")))
    (tmp_path / "list.json").write_text('[{"a": 1}]', encoding="utf-16")
    with pytest.raises(DataFormatError, match="not UTF-8"):
        list(read_records(str(tmp_path / "list.json")))


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999", "1" * 4_000, "[" * 900 + "]" * 900])
def test_a_number_that_is_none_is_refused_by_its_record(text):
    """However large or deep it is: its text is not written out."""
    (record,) = json.loads(f'[{{"cpr_id": {text}}}]')
    with pytest.raises(DataFormatError, match=r"record 7 .*cpr_id is") as error:
        check_records([record], lambda record: (integer_field(record, "cpr_id"),), Problems("list.json"), first=7)
    assert len(str(error.value)) < 500


def test_a_string_of_gigabytes_is_refused_in_bounded_memory(tmp_path):
    file = tmp_path / "list.json"
    with file.open("wb") as stream:
        stream.write(b'[{"a": "x')
        stream.truncate(4 << 30)  # zeros, which take no room on the disk
    code = f"""
import resource
from fafa.dataset_builders.records import read_records
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)
try:
    list(read_records({str(file)!r}))
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "broken JSON at record 0" in done.stdout, done.stderr


@pytest.mark.parametrize(("value", "expected"), [(7, 7), ("7", 7), ("-1", -1), ("007", 7)])
def test_integers_may_be_written_as_texts(value, expected):
    assert integer_field({"id": value}, "id") == expected


@pytest.mark.parametrize("value", [True, 1.0, None, "", "1.5", "a7", "٣", [1], 2**63, "99999999999999999999"])
def test_what_is_no_integer_is_refused(value):
    with pytest.raises(BadRecord, match="wrong type"):
        integer_field({"id": value}, "id")


@pytest.mark.parametrize("path", ["a.png", "a/b.png", "./a.png", "a..b/c..png", "ä/b.png"])
def test_paths_below_the_folder_are_accepted_as_they_are(path):
    assert path_field({"path": path}, "path") == path


@pytest.mark.parametrize("path", ["/a.png", "../a.png", "a/../../b.png", "a/..", "C:/a.png", "..\\a.png", "a\0.png"])
def test_paths_that_could_leave_the_folder_are_refused(path):
    with pytest.raises(BadRecord, match="not below the folder"):
        path_field({"path": path}, "path")


@pytest.mark.parametrize("path", ["n" * 300, "衣" * 86, "a/" * 1_600 + "b.png", "a/" + "n" * 5_000])
def test_paths_longer_than_files_can_have_are_refused(path):
    with pytest.raises(BadRecord, match="too long") as error:
        path_field({"path": path}, "path")
    assert len(str(error.value)) < 200
    assert path_field({"path": "衣" * 85}, "path") and path_field({"path": "n/" * 127 + "n" * 255}, "path")


@pytest.mark.parametrize("value", ["", "  \n"])
def test_blank_texts_are_refused(value):
    with pytest.raises(BadRecord, match="empty text"):
        text_field({"caption": value}, "caption")


def test_half_a_surrogate_pair_is_refused():
    """JSON can spell it, Arrow cannot store it."""
    with pytest.raises(BadRecord, match="surrogate"):
        text_field(json.loads('{"caption": "coat \\ud83e"}'), "caption")
