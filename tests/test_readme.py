"""The README's Python runs as printed, over a model and a world where the quickstart leaves them."""

import re
from pathlib import Path

import pytest
from tiny import tiny_model, tiny_processor

from fafa.world import make_world

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SNIPPETS = dict(re.findall(r"<!-- snippet: (\w+) -->\n```python\n(.*?)```", README, re.S))


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    make_world(folder / "quickstart/world", num_diptychs=4, num_queries=6, gallery_size=40, num_workers=1)
    tiny_model().save_pretrained(folder / "quickstart/model")
    tiny_processor().save_pretrained(folder / "quickstart/model")
    return folder


def test_readme_has_snippets_of_all_kinds():
    assert set(SNIPPETS) == {"model", "data", "metric"}


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippet_runs(name, quickstart, monkeypatch, capsys):
    monkeypatch.chdir(quickstart)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(quickstart / "cache"))
    names: dict = {}
    exec(SNIPPETS[name], names)
    if name == "model":
        assert names["scores"].shape == (1, 2) and names["targets"].shape == (2, 8, 64)
    if name == "metric":
        assert eval(SNIPPETS[name].splitlines()[-1].removeprefix("# ")) == eval(capsys.readouterr().out)
