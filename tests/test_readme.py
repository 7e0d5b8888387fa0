"""The README's Python runs as printed, over a model and a world where the quickstart leaves them."""

import re
from pathlib import Path

import pytest
from tiny import tiny_model, tiny_processor

from fafa.world import make_world

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = dict(re.findall(r"<!-- snippet: (\w+) -->\n```python\n(.*?)```", README, re.S))


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    make_world(folder / "quickstart/world", num_diptychs=4, num_queries=6, gallery_size=40, num_workers=1)
    tiny_model().save_pretrained(folder / "quickstart/model")
    tiny_processor().save_pretrained(folder / "quickstart/model")
    return folder


def test_readme_has_snippets_of_all_kinds():
    assert set(SNIPPETS) == {"model", "data", "metric", "search"}


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippet_runs(name, quickstart, monkeypatch, capsys):
    monkeypatch.chdir(quickstart)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(quickstart / "cache"))
    names: dict = {}
    exec(SNIPPETS[name], names)
    if name == "model":
        assert names["scores"].shape == (1, 2) and names["targets"].shape == (2, 8, 64)
    if name == "search":
        wrong = names["query"].wrong
        assert len(names["results"]) == 5 and not {result.id for result in names["results"]} & set(wrong)
        assert Path("why.png").stat().st_size > 10_000
    if name == "metric":
        assert eval(SNIPPETS[name].splitlines()[-1].removeprefix("# ")) == eval(capsys.readouterr().out)


def test_no_command_writes_into_a_folder_of_the_package():
    """Whoever deleted such a folder of their own making would delete code."""
    rooms = [folder.parent.name for folder in ROOT.glob("*/__init__.py")]
    path = re.compile(rf"(?<![\w/.<])(?:{'|'.join(rooms)})/[\w./-]+")
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.yaml"), *ROOT.glob("examples/*.py")]
    texts += [file for room in rooms for suffix in ("py", "yaml") for file in (ROOT / room).rglob(f"*.{suffix}")]
    named = {(file.name, found.rstrip(".")) for file in texts for found in path.findall(file.read_text("utf-8"))}
    assert {(file, found) for file, found in named if not (ROOT / found).exists()} == set()
