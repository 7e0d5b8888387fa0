"""Files of settings: what is no plain, unambiguous YAML is refused at once, by file and line."""

import os
from pathlib import Path

import pytest

from fafa.synthesis.recipes import FOLDER, read_recipe
from fafa.synthesis.settings import RecipeError
from fafa.yaml_files import SettingsFileError, read_yaml

CONFIGS = Path(__file__).parent.parent / "examples" / "configs"
LAUGHS = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
)
REFUSED = {
    "billion laughs": (LAUGHS, "line 5: stands for more than 50,000 values"),
    "itself": ("a: &a [1, *a]", "line 1: the value holds itself"),
    "deep flow": ("a: " + "[" * 100_000, "nested more than 40 levels deep"),
    "deep blocks": ("\n".join(f"{'  ' * level}a:" for level in range(60)), "nested more than 40 levels deep"),
    "deep lists": ("- " * 100_000, "nested more than 40 levels deep"),
    "bytes": ("a: 1\nb: !!binary aGVsbG8=", "line 2: '!!binary' is not taken"),
    "python object": ("a: !!python/object/apply:os.system ['true']", "line 1: '!!python/object/apply:os.system'"),
    "own tag": ("a: !mine 1", "line 1: '!mine' is not taken"),
    "set": ("a: !!set {b, c}", "'!!set' is not taken"),
    "whole number as key": ("a: 1\n1: 2", 'line 2: YAML reads the key 1 as no text: write "1", in quotes'),
    "true as key": ("on: 1", "YAML reads the key on as no text"),
    "list as key": ("? [1, 2]\n: 3", "YAML reads the key a list or mapping as no text"),
    "key given twice": ("a: 1\nb: {c: 1, c: 2}", "line 2: the key 'c' is given twice"),
    "octal or not": ("a: 010", "line 1: 010 may be read in two ways"),
    "time or not": ("a: 1:30", "line 1: 1:30 may be read in two ways"),
    "not a number": ("a: .nan", "line 1: .nan is no finite number"),
    "infinite": ("a: -.inf", "-.inf is no finite number"),
    "too large to be finite": ("a: 1.0e+999", "is no finite number"),
    "beyond 64 bits": ("a: 99999999999999999999", "too large: expected a whole number within 64 bits"),
    "a million digits": ("a: " + "9" * 200_000, "a whole number of so many digits is no setting"),
    "large": ("a: '" + "x" * 300_000 + "'", "is larger than 262,144 bytes"),
    "binary": (b"\x89PNG\r\n\x1a\n\0\0", "cannot be read: it is no text in UTF-8"),
    "control characters": (b"a: \0", "is no YAML"),
    "broken": ("a: 1\nb: [1", "line 2: is no YAML"),
    "two documents": ("a: 1\n---\nb: 2", "line 2: is no YAML"),
    "tabs": ("a:\n\tb: 1", "line 2: is no YAML"),
    "unknown alias": ("a: *b", "line 1: is no YAML: found undefined alias"),
    "merge of no mapping": ("a: 1\n<<: 3", "is no YAML"),
    "list": ("- a", "expected a mapping of settings, found a list"),
    "nothing": ("# a comment", "expected a mapping of settings, found nothing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_and_ambiguous_yaml_is_refused_at_once_by_file_and_line(tmp_path, name):
    text, message = REFUSED[name]
    file = tmp_path / "mine.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsFileError) as raised:
        read_yaml(file)
    assert str(raised.value).startswith(str(file)) and message in str(raised.value)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400
    with pytest.raises(RecipeError):  # by the same reader
        read_recipe(file)


@pytest.mark.parametrize("kind", ["folder", "pipe", "absent", "device"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, kind):
    place = Path("/dev/zero") if kind == "device" else tmp_path / "config.yaml"
    if kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    with pytest.raises(SettingsFileError, match=rf"{place}: (expected a file of settings|cannot be read)"):
        read_yaml(place)


def test_what_people_write_is_taken_as_it_stands(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "base: &base {rate: 1.0e-4, 'on': 'yes'}\n"
        + "mine: {<<: *base, rate: 2.0e-4}\nwhen: 2024-05-01\nflag: true\nnone: null\nzero: 0\nlong: [1, -2.5, 0x10]\n",
        encoding="utf-8-sig",
    )
    assert read_yaml(file) == {
        "base": {"rate": 1e-4, "on": "yes"},
        "mine": {"rate": 2e-4, "on": "yes"},
        "when": "2024-05-01",
        "flag": True,
        "none": None,
        "zero": 0,
        "long": [1, -2.5, 16],
    }


@pytest.mark.parametrize(
    "file", [*sorted(FOLDER.glob("*.yaml")), *sorted(CONFIGS.glob("*.yaml"))], ids=lambda f: f.stem
)
def test_shipped_files_are_read(file):
    assert read_yaml(file)
