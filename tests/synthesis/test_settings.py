"""Recipes: what cannot be used is refused with one line that says where and what to do."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from fafa.synthesis import __main__ as synthesis_command
from fafa.synthesis import train_adapter
from fafa.synthesis.adapters.training import AdapterTraining
from fafa.synthesis.recipes import FOLDER, find_recipe, read_recipe
from fafa.synthesis.settings import RecipeError, differences, read_settings, read_yaml
from fafa.synthesis.train_adapter import AdapterRecipe
from fafa.synthesis.triplets.pipeline import TripletRecipe

RECIPE = """
kind: triplets
quadruples:
  count: 40
  writer:
    kind: language-model
    model: {kind: server, model: some-model}
    prompt: Write about a {thing}.
    pools: {thing: [coat, hat]}
    checks: {edit_words: [2, 20]}
diptychs:
  painter: {kind: diffusers, model: some-pipeline, options: {true_cfg_scale: 2}}
gates:
  - kind: blank
  - {kind: people, detector: {model: some-detector}}
judge:
  kind: language-model
  model: {kind: transformers, model: some-judge}
  questions: [{prompt: "{caption_a} and {caption_b}?", scores: [quality]}]
filter: {bounds: {quality: {at_least: 0.5}}}
"""
MISSING = object()
PACKAGED = sorted(file for file in FOLDER.glob("*.yaml"))


def changed(path: str, value: Any) -> dict[str, Any]:
    """The recipe with another value at a path such as "gates.1.kind"; `MISSING` takes it out."""
    content = yaml.safe_load(RECIPE)
    *above, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place = content
    for key in above:
        place = place[key]
    if value is MISSING:
        del place[last]
    else:
        place[last] = value
    return content


def write(file: Path, content: Any) -> Path:
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return file


def settings_of(file: Path) -> dict[str, Any]:
    """What decides the results of each stage."""
    return {stage.name: stage.settings for stage in read_recipe(file).stages()}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        # An unknown key, at every depth
        ("seeed", 1, ": there is no setting 'seeed'; did you mean 'seed'?"),
        ("quadruples.cuont", 1, ": quadruples: there is no setting 'cuont'; did you mean 'count'?"),
        (
            "quadruples.writer.prompts",
            "",
            ": quadruples.writer: there is no setting 'prompts'; did you mean 'prompt'?",
        ),
        (
            "quadruples.writer.model.temprature",
            1.0,
            ": quadruples.writer.model: there is no setting 'temprature'; did you mean 'temperature'?",
        ),
        (
            "quadruples.writer.checks.edit_word",
            [1, 2],
            ": quadruples.writer.checks: there is no setting 'edit_word'; did you mean 'edit_words'?",
        ),
        (
            "gates.1.detector.treshold",
            0.5,
            ": gates[1].detector: there is no setting 'treshold'; did you mean 'threshold'?",
        ),
        ("gates.0.zzz", 1, ": gates[0]: there is no setting 'zzz'; known: "),
        (
            "judge.questions.0.score",
            [],
            ": judge.questions[0]: there is no setting 'score'; did you mean 'scores'?",
        ),
        (
            "filter.bounds.quality.at_lest",
            0.1,
            ": filter.bounds.quality: there is no setting 'at_lest'; did you mean 'at_least'?",
        ),
        # Something missing
        ("diptychs", MISSING, ": add diptychs"),
        ("quadruples.count", MISSING, ": quadruples: add count"),
        ("gates.1.detector.model", MISSING, ": gates[1].detector: add model"),
        # A kind that there is not
        ("kind", "tripels", ": expected kind: triplets or text-image; found 'tripels'; did you mean 'triplets'?"),
        ("kind", ["triplets"], ": expected kind: triplets or text-image; found \"['triplets']\""),
        ("quadruples.writer.model.kind", {"a": 1}, ": quadruples.writer.model: expected kind: "),
        (
            "diptychs.painter.kind",
            "difusers",
            ": diptychs.painter: expected kind: diffusers or server or world; found 'difusers'; "
            "did you mean 'diffusers'?",
        ),
        ("gates.0.kind", MISSING, ": gates[0]: expected kind: blank or blur or aspect"),
        # A value of another type
        ("quadruples.count", "40", ": quadruples.count: expected a whole number, found a text ('40')"),
        ("quadruples.count", 40.0, ": quadruples.count: expected a whole number, found a number (40.0)"),
        ("quadruples.count", True, ": quadruples.count: expected a whole number, found bool (True)"),
        ("quadruples", [1], ": quadruples: expected a mapping of settings, found a list"),
        ("gates", {"kind": "blank"}, ": gates: expected "),
        ("quadruples.writer.pools.thing", "coat", ": quadruples.writer.pools.thing: expected "),
        (
            "quadruples.writer.checks.edit_words",
            [2, "many"],
            ": quadruples.writer.checks.edit_words[1]: expected a whole number, found a text ('many')",
        ),
        ("judge.model.revision", 7, ": judge.model.revision: expected a text, found a whole number (7)"),
        (
            "quadruples.writer.model.temperature",
            "1e-4",
            "found a text ('1e-4'); YAML takes 1e-4 for a text: write 1.0e-4",
        ),
        ("judge.model.revision", False, "YAML takes yes, no, on and off for true or false: write the text in quotes"),
        (
            "diptychs.painter.offload",
            "modle",
            "expected 'none', 'model' or 'sequential', found 'modle'; did you mean 'model'?",
        ),
        # A value that makes no sense
        ("quadruples.count", 0, ": quadruples.count: expected at least 1, found 0"),
        # An absurd one used to plan without end
        (
            "quadruples.count",
            10**18,
            ": quadruples.count: expected at most 100,000,000, found 1000000000000000000",
        ),
        ("quadruples.count", 60_000_000, "make 120,000 files a stage, expected at most 100,000: raise chunk_size"),
        ("diptychs.realistic", 10**18, ": diptychs.realistic: expected at most 1,000"),
        ("diptychs.painter.height", 60_000, ": diptychs.painter.height: expected at most 8,192"),
        ("chunk_size", 10**18, ": chunk_size: expected at most 1,000,000"),
        (
            "diptychs.prompt",
            "{caption_c}",
            ": diptychs.prompt: there is no field {caption_c}; did you mean '{caption_b}'?",
        ),
        ("filter.bounds.quality", {}, ": filter.bounds.quality: give at_least, at_most or both"),
        ("quadruples.writer.prompt", "a {place}", "the slot {place} of 'a {place}' needs a pool of 1 phrases or more"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_place(tmp_path, path, value, message):
    file = write(tmp_path / "mine.yaml", changed(path, value))
    with pytest.raises(RecipeError) as raised:
        read_recipe(file)
    assert str(raised.value).startswith(f"{file}, line ") and message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("kind: [triplets", "is no YAML"),
        ("- kind: triplets", "expected a mapping of settings, found a list"),
        ("", "expected a mapping of settings, found nothing"),
    ],
)
def test_what_is_no_recipe_at_all_is_named(tmp_path, content, message):
    file = write(tmp_path / "mine.yaml", content)
    with pytest.raises(RecipeError, match=message) as raised:
        read_recipe(file)
    assert str(file) in str(raised.value) and "\n" not in str(raised.value)


def test_the_line_of_what_is_wrong_is_told(tmp_path):
    file = write(tmp_path / "mine.yaml", RECIPE.replace("- kind: blank", "- kind: blank\n    sharp: 1"))
    with pytest.raises(RecipeError, match=r"mine.yaml, line 15: gates\[0\]: there is no setting 'sharp'"):
        read_recipe(file)


def test_a_whole_number_will_do_where_a_number_is_expected(tmp_path):
    recipe = read_recipe(write(tmp_path / "mine.yaml", changed("quadruples.writer.model.temperature", 1)))
    assert recipe.quadruples.writer.model.temperature == 1.0
    assert recipe.diptychs.painter.options == {"true_cfg_scale": 2}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("quadruples.count", 80),
        ("quadruples.writer.model.base_url", "http://elsewhere/v1"),
        ("quadruples.writer.model.concurrency", 64),
        ("quadruples.writer.model.input_price", 0.4),
        ("diptychs.painter.device", "cuda:1"),
        ("diptychs.painter.offload", "model"),
        ("gates.1.detector.device", "cpu"),
        ("judge.model.device", "cuda:1"),
        ("estimates", {"gpu_hour_price": 2.5}),
    ],
)
def test_where_and_how_fast_may_change(tmp_path, path, value):
    before = settings_of(write(tmp_path / "before.yaml", RECIPE))
    assert settings_of(write(tmp_path / "after.yaml", changed(path, value))) == before


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("quadruples.writer.model.model", "another", ["quadruples.writer.model.model: 'some-model' -> 'another'"]),
        ("diptychs.painter.steps", 20, ["diptychs.painter.steps: 28 -> 20"]),
        ("judge.questions.0.prompt", "Well?", [None]),
        ("filter.bounds.quality.at_least", 0.6, ["filter.bounds.quality.at_least: 0.5 -> 0.6"]),
        ("seed", 1, ["quadruples.seed: 0 -> 1", "diptychs.seed: 0 -> 1"]),
    ],
)
def test_what_decides_the_results_counts_as_a_change(tmp_path, path, value, expected):
    before = settings_of(write(tmp_path / "before.yaml", RECIPE))
    found = differences(before, settings_of(write(tmp_path / "after.yaml", changed(path, value))))
    assert len(found) == len(expected)
    assert all(line is None or line in found for line in expected)


@pytest.mark.parametrize("file", PACKAGED, ids=lambda file: file.stem)
def test_recipes_of_the_package_can_be_read_and_planned(file):
    assert find_recipe(file.stem) == file
    recipe = read_recipe(file)
    plan = recipe.plan()
    texts = recipe.quadruples if recipe.kind == "triplets" else recipe.prompts
    assert f"{texts.count:,}" in plan and "GPU-hours" in plan
    assert all(stage.settings is not None for stage in recipe.stages())


def test_the_recipe_of_the_adapter_can_be_read():
    file = FOLDER.parent / "adapters" / "flux.yaml"
    assert isinstance(read_settings(AdapterRecipe, read_yaml(file), str(file)).training, AdapterTraining)


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(
        RecipeError, match=r"paiter: no such file, and no recipe of that name; did you mean 'painter'\?"
    ):
        find_recipe("paiter")
    with pytest.raises(RecipeError, match=r"known: .*painter"):
        find_recipe("xyz")


WORLD = {"quadruples": {"count": 4, "writer": {"kind": "grammar"}}, "diptychs": {"painter": {"kind": "world"}}}
DIFFUSERS = {"kind": "diffusers", "model": "a/pipeline"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gates": [{"kind": "blur"}, {"kind": "blur"}]}, "measured twice: noise, sharpness"),
        (
            {"diptychs": {"painter": {"kind": "world"}, "image_quality": 500}},
            "diptychs.image_quality: expected at most 100, found 500",
        ),
        ({"diptychs": {"painter": DIFFUSERS | {"model": ""}}}, "painter.model: expected a folder, or an id on the Hub"),
        ({"diptychs": {"painter": DIFFUSERS | {"adapter_revision": "v1"}}}, "needs an adapter"),
        (
            {"diptychs": {"painter": DIFFUSERS | {"max_sequence_length": 0}}},
            "max_sequence_length: expected at least 1, found 0",
        ),
        ({"split": {"margin": 50}}, "split.margin: expected at most 2.0, found 50"),
        ({"brakes": {"preflght": False}}, "no setting 'preflght'; did you mean 'preflight'"),
        ({"controls": {"per_chnk": 1}}, "no setting 'per_chnk'; did you mean 'per_chunk'"),
        ({"controls": {"told_apart": 60}}, "controls.told_apart: expected less than 1.0, found 60"),
    ],
)
def test_settings_that_contradict_one_another_are_refused_before_work(changes, message):
    """Each of these used to show at the first picture, or never."""
    read_settings(TripletRecipe, WORLD, "recipe.yaml")
    with pytest.raises(RecipeError, match=message):
        read_settings(TripletRecipe, WORLD | changes, "recipe.yaml")


@pytest.mark.parametrize("recipe", ["filter: {}\nfilter: {bounds: {}}\n", "filter:\n  bounds:\n    a: 1\n    a: 2\n"])
def test_a_second_filter_is_refused_by_every_command_of_synthesis(recipe, tmp_path, capsys):
    """It used to win silently over the first."""
    file = tmp_path / "recipe.yaml"
    file.write_text("kind: triplets\n" + recipe)
    for command in (synthesis_command, train_adapter):
        try:
            assert command.main([str(file), "--output", str(tmp_path / "made")]) == 1
            told = capsys.readouterr().err
        except SystemExit as error:
            told = str(error)
        assert "is given twice: remove one" in told
    assert not (tmp_path / "made").exists()
