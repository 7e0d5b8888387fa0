"""`python -m fafa.synthesis`: exit status, messages, and what it leaves on disk."""

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_pipelines import tiny_flux

from fafa.synthesis import __main__ as command
from fafa.synthesis.__main__ import main
from fafa.synthesis.recipes import FOLDER
from fafa.synthesis.report import page as statistics_page

RECIPE = {
    "kind": "triplets",
    "quadruples": {"count": 4, "writer": {"kind": "grammar"}},
    "diptychs": {
        "realistic": 2,
        "diverse": 0,
        "painter": {"kind": "world", "height": 64, "width": 68, "fault_rate": 0.5, "faults": ["no seam"]},
    },
    "gates": [{"kind": "blank"}],
    "chunk_size": 3,
}
WRITER = {
    "kind": "language-model",
    "prompt": "Write about a {colour} coat.",
    "pools": {"colour": ["red"]},
    "system": "You write.",
}


def write(file: Path, **changes: Any) -> str:
    """The recipe with other top-level values; returns its path."""
    file.write_text(yaml.safe_dump(RECIPE | changes), encoding="utf-8")
    return str(file)


def writer(**model: Any) -> dict[str, Any]:
    return {"count": 4, "writer": WRITER | {"model": model}}


def painter(**settings: Any) -> dict[str, Any]:
    return {"painter": {"kind": "diffusers", **settings}}


@pytest.fixture(autouse=True)
def no_charts(monkeypatch):
    """They take a second, and have tests of their own."""
    monkeypatch.setattr(statistics_page, "draw_charts", lambda folder, charts: None)


@pytest.fixture
def recipe(tmp_path):
    return write(tmp_path / "recipe.yaml")


@pytest.fixture
def output(tmp_path):
    return tmp_path / "made"


def fails(capsys, *arguments: object) -> str:
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as raised:
        main([str(argument) for argument in arguments])
    capsys.readouterr()
    return str(raised.value)


def contents(root: Path) -> dict[str, bytes]:
    """All results; not locks and other hidden files, nor the notes on runs, which hold times."""
    files = {str(file.relative_to(root)): file for file in root.rglob("*") if file.is_file()}
    return {
        name: file.read_bytes()
        for name, file in files.items()
        if name != "runs.jsonl" and not any(part.startswith(".") for part in Path(name).parts)
    }


def test_the_summary_counts_and_says_what_to_do_next(recipe, output, capsys):
    assert main([recipe, "--output", str(output), "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    counts = {line.split()[0]: line.split()[1:] for line in lines[1:-1]}
    assert counts["quadruples"] == ["4", "4"]
    items, kept, *rejected = counts["split"]
    lost = [int(word) for word in rejected if word.isdecimal()]
    assert int(items) == 8 == int(kept) + sum(lost) and 0 < int(kept) < 8
    assert "no seam found" in " ".join(rejected)
    assert counts["filter"] == [str(2 * int(kept)), str(2 * int(kept))]
    assert counts["assemble"][:3] == [str(2 * int(kept)), "SynCPR", "triplets,"]
    assert "judgements" not in counts
    assert f'load_dataset("SynCPR", data_dir="{output / "SynCPR"}")' in lines[-1]


def test_first_a_few_and_then_all_make_the_same_as_all(recipe, output, tmp_path, capsys):
    assert main([recipe, "--output", str(output), "--limit", "2", "--quiet"]) == 0
    assert len((output / "quadruples" / "00000.jsonl").read_text().splitlines()) == 2
    assert not (output / "quadruples" / "00001.jsonl").exists()
    some = json.loads((output / "SynCPR" / "SynCPR.json").read_text())
    assert main([recipe, "--output", str(output), "--quiet"]) == 0
    assert json.loads((output / "SynCPR" / "SynCPR.json").read_text())[: len(some)] == some

    again = [json.loads(line) for line in (output / "runs.jsonl").read_text().splitlines()]
    assert sum(run["items"] for run in again if run["stage"] == "diptychs") == 8
    assert main([recipe, "--output", str(tmp_path / "whole"), "--quiet"]) == 0
    assert contents(output) == contents(tmp_path / "whole")


def test_a_dry_run_shows_prompt_and_plan_and_writes_nothing(tmp_path, output, capsys):
    model = {"kind": "server", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    recipe = write(tmp_path / "recipe.yaml", quadruples=writer(**model), estimates={"picture_seconds": 3600})
    before = sorted(tmp_path.rglob("*"))
    assert main([recipe, "--output", str(output), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "[system]\nYou write." in shown and "Write about a red coat." in shown
    assert "Each is painted by: {caption_a} {caption_b}" in shown
    (row,) = [line.split() for line in shown.splitlines() if line.startswith("diptychs")]
    assert row == ["diptychs", "8", "0", "0", "8.0", "0.0"]
    assert sorted(tmp_path.rglob("*")) == before

    assert main([recipe, "--output", str(output), "--dry-run", "--limit", "1"]) == 0
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("diptychs")]
    assert row[1] == "2"


def test_the_stages_of_cirhs_run_over_painted_people(output, tmp_path, capsys):
    command = ["cirhs_painter", "--output", str(output), "--limit", "3", "--quiet"]
    assert main(command) == 0
    triplets = json.loads((output / "CIRHS" / "CIRHS.json").read_text())
    assert len(triplets) > 12 and {triplet["tid"] for triplet in triplets} == set(range(6))

    # A folder, or a recipe, with a kind that earlier versions had and this one lacks.
    manifest = output / "quadruples" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"grammar"', '"things"'))
    error = fails(capsys, *command)
    assert "another recipe (quadruples.writer.kind: 'things' -> 'grammar')" in error and "--redo quadruples" in error
    earlier = (FOLDER / "cirhs_painter.yaml").read_text().replace("kind: grammar", "kind: things")
    (tmp_path / "earlier.yaml").write_text(earlier)
    error = fails(capsys, tmp_path / "earlier.yaml", *command[1:])
    assert "quadruples.writer: expected kind: grammar or language-model; found 'things'" in error


def test_an_unknown_recipe_gets_the_nearest_name(output, capsys):
    assert "paintr: no such file, and no recipe of that name; did you mean 'painter'?" in fails(
        capsys, "paintr", "--output", output
    )
    assert not output.exists()


def test_another_recipe_is_refused_with_the_difference(recipe, output, tmp_path, capsys):
    assert main([recipe, "--output", str(output), "--limit", "2", "--quiet"]) == 0
    before = contents(output)
    changed = write(tmp_path / "changed.yaml", diptychs=RECIPE["diptychs"] | {"realistic": 3})
    message = fails(capsys, changed, "--output", output, "--limit", "2", "--quiet")
    assert f"{output / 'diptychs'} was begun with another recipe (diptychs.realistic: 2 -> 3)" in message
    assert "--redo diptychs" in message
    assert contents(output) == before

    assert main([changed, "--output", str(output), "--limit", "2", "--quiet", "--redo", "diptychs"]) == 0
    assert len((output / "diptychs" / "00000.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"quadruples": writer(kind="transformers", model="/no/such/model")}, "/no/such/model"),
        ({"diptychs": painter(model="/no/such/pipeline")}, "/no/such/pipeline"),
        ({"gates": [{"kind": "clip", "model": "/no/such/clip"}]}, "/no/such/clip"),
        (
            {"quadruples": writer(kind="server", model="m", base_url="http://127.0.0.1:9/v1")},
            "http://127.0.0.1:9/v1: no answer",
        ),
    ],
    ids=["chat model", "pipeline", "clip", "server"],
)
def test_a_model_that_is_not_there_is_one_line(tmp_path, output, changes, place, capsys):
    recipe = write(tmp_path / "recipe.yaml", **changes)
    assert place in fails(capsys, recipe, "--output", output, "--quiet")


def test_settings_that_a_model_does_not_take_are_one_line(tmp_path, output, capsys):
    model = str(tiny_flux(tmp_path / "flux"))
    recipe = write(tmp_path / "recipe.yaml", diptychs=painter(model=model, options={"gidance": 2}))
    message = fails(capsys, recipe, "--output", output, "--quiet")
    assert "stage diptychs: " in message and "FluxPipeline takes no gidance" in message


def test_an_unknown_stage_names_the_stages(recipe, output, capsys):
    message = fails(capsys, recipe, "--output", output, "--redo", "filtr")
    assert "there is no stage 'filtr'; the stages are quadruples, distinct, diptychs, split, gates, filter" in message


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"filter": {"bounds": {"contrats": {"at_least": 5}}}}, "measures 'contrats'; did you mean 'contrast'?"),
        ({"filter": {"bounds": {"identity": {"at_least": 0.5}}}}, "measures 'identity'; known: contrast, entropy"),
        ({"gates": [{"kind": "blank"}, {"kind": "blank"}]}, "measured twice: contrast, entropy"),
    ],
)
def test_bounds_of_what_nothing_measures_are_refused(tmp_path, output, capsys, changes, problem):
    """They would reject every triplet, after all the work."""
    assert problem in fails(capsys, write(tmp_path / "odd.yaml", **changes), "--output", output)


def test_until_stops_after_a_stage_and_the_rest_follows(recipe, output, capsys):
    assert main([recipe, "--output", str(output), "--quiet", "--until", "distinct"]) == 0
    assert "distinct" in capsys.readouterr().out and not (output / "diptychs").exists()
    assert main([recipe, "--output", str(output), "--quiet"]) == 0
    assert "SynCPR is ready" in capsys.readouterr().out


def test_fewer_texts_than_are_there_are_refused(recipe, output, capsys):
    assert main([recipe, "--output", str(output), "--quiet", "--limit", "2"]) == 0
    before = contents(output)
    assert "holds 2 texts, and 1 are asked for" in fails(capsys, recipe, "--output", output, "--limit", "1")
    assert contents(output) == before
    assert main([recipe, "--output", str(output), "--quiet"]) == 0  # more is no trouble


def test_a_data_set_that_was_not_made_here_stays(recipe, output, capsys):
    (output / "SynCPR").mkdir(parents=True)
    message = fails(capsys, recipe, "--output", output)
    assert f"{output / 'SynCPR'} exists already, and was not made here" in message
    assert not (output / "quadruples").exists()


def test_redo_leaves_nothing_of_the_data_sets_before(recipe, output, tmp_path, capsys):
    """A validation set of a former recipe would be a part of the training set now."""
    shared = write(tmp_path / "shared.yaml", assemble={"validation_share": 0.5})
    assert main([shared, "--output", str(output), "--quiet"]) == 0
    assert (output / "SynCPR-validation").exists()
    assert main([recipe, "--output", str(output), "--quiet", "--redo", "assemble"]) == 0
    assert (output / "SynCPR").exists() and not (output / "SynCPR-validation").exists()


def test_a_shard_is_divided_among_launched_processes(recipe, output, monkeypatch):
    """Process 1 of 2 with the first of two shards takes the third of four parts, and waits for nobody before that."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    shards = []
    monkeypatch.setattr(command, "run_stages", lambda stages, work, wait: shards.append((work.shard, wait)))
    assert main([recipe, "--output", str(output), "--quiet", "--shard", "0/2"]) == 0
    assert shards == [((2, 4), True)]


def test_a_later_shard_may_not_discard_what_others_made(recipe, output, capsys):
    with pytest.raises(SystemExit):
        main([recipe, "--output", str(output), "--redo", "filter", "--shard", "1/2"])
    assert "give it to shard 0" in capsys.readouterr().err


def test_no_permission_is_one_line(recipe, output, monkeypatch, capsys):
    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert f"{output}: Permission denied" in fails(capsys, recipe, "--output", output)


def test_an_output_that_is_a_file_is_one_line(recipe, capsys):
    assert f"{recipe} is no folder" in fails(capsys, recipe, "--output", recipe)


@pytest.mark.parametrize("options", [["--shard", "4/4"], ["--shard", "one"], ["--limit", "0"], ["--limit", "few"], []])
def test_options_that_make_no_sense_end_with_status_2(options, capsys):
    with pytest.raises(SystemExit) as raised:
        main(["painter", *(["--output", "x", *options] if options else [])])
    assert raised.value.code == 2
    assert (options[0] if options else "--output") in capsys.readouterr().err.splitlines()[-1]


def test_the_module_is_a_command(output):
    command = [sys.executable, "-m", "fafa.synthesis", "nothing", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("nothing: no such file")
    assert len(done.stderr.splitlines()) == 1
