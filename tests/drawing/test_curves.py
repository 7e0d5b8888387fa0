"""Charts are written whole or not at all, and matplotlib is imported by nothing before one is drawn."""

import subprocess
import sys

import pytest
from PIL import Image

from fafa.drawing.curves import bars, chart, log_ticks


def test_a_chart_is_written_whole_or_not_at_all(tmp_path):
    with chart(tmp_path / "a.png") as figure:
        axes = figure.subplots()
        bars(axes, ["a", "b"], [25.0, 75.0], "red")
        assert [text.get_text() for text in axes.texts] == ["25.0", "75.0"]
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG" and picture.size == (960, 570)
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(RuntimeError), chart(tmp_path / "a.png"):
        raise RuntimeError
    assert (tmp_path / "a.png").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_ticks_of_a_logarithmic_axis_are_whole_numbers(tmp_path):
    with chart(tmp_path / "a.png") as figure:
        axes = figure.subplots()
        axes.plot([1, 20_000], [0, 1])
        log_ticks(axes, [1, 100, 20_000])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "100", "20,000"]


def test_matplotlib_is_imported_only_for_a_chart():
    code = "import sys, fafa.drawing.curves, fafa.drawing.sheet, fafa.retrieval; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
