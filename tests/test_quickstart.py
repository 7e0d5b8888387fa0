"""`make quickstart`, command by command on small worlds: it runs as written, and ends with a table."""

import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from fafa.cli import app
from fafa.model_folder import load_model

ROOT = Path(__file__).parents[1]
SMALL = {
    "make_world.py": "--diptychs 24 --queries 6 --gallery 40 --workers 1",
    "train.py": "--max_steps 2 --new_words 2 --batch_size 8 --validation_fraction 0.2 --disable_tqdm true",
}


def recipe(target: str, out: Path) -> tuple[list[list[str]], str]:
    """The commands of a target as lists of words, and all that it would do."""
    told = subprocess.run(
        ["make", "-n", target, "VENV=venv", f"OUT={out}"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.replace("\\\n", " ")
    runs = [line for line in told.splitlines() if line.startswith(("venv/bin/python ", "venv/bin/fafa "))]
    return [shlex.split(line)[1:] if "/python " in line else shlex.split(line) for line in runs], told


def run(words: list[str], monkeypatch) -> None:
    """A command of the recipe, in this process and at a small size."""
    program, *arguments = [*words, *shlex.split(SMALL.get(Path(words[0]).name, ""))]
    if program.endswith("fafa"):
        result = CliRunner().invoke(app, arguments, prog_name="fafa")
        assert result.exit_code == 0, result.output
    else:
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        runpy.run_path(program, run_name="__main__")


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """Where a person would stand; commands set up logging for the rest of their process."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)


def test_quickstart(tmp_path, monkeypatch, capsys, at_home):
    commands, told = recipe("quickstart", tmp_path / "out")
    for words in commands:
        run(words, monkeypatch)
    printed = capsys.readouterr().out
    assert "rank of the first correct image" in printed and "of these 6 queries correct at rank 1" in printed
    with Image.open(tmp_path / "out/results/sheet.png") as sheet:
        assert sheet.width > 500
    gain = (tmp_path / "out/results/gain.md").read_text(encoding="utf-8").partition("\n## ")[0]
    assert "model checkpoints/tiny" in gain and "| rank-1" in gain and "B - A" in gain
    _, processor = load_model(tmp_path / "out/model")
    assert processor.tokenizer.tokenize("a lime poncho") == ["a", "lime", "poncho"]
    assert "fafa serve --demo" in told.partition("Try next")[2]
    queries = [shlex.split(line)[1] for line in told.splitlines() if line.startswith("echo") and "query.py" in line]
    photo = shlex.split(queries[0])[shlex.split(queries[0]).index("--image") + 1]
    assert Path(photo).is_file()


def test_training_from_random_weights_has_a_folder_of_its_own():
    commands, _ = recipe("train-world", Path("elsewhere"))
    assert all("elsewhere/" in " ".join(words) for words in commands)
    told = subprocess.run(["make", "-n", "train-world"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "train-world/world" in told and "quickstart" not in told
