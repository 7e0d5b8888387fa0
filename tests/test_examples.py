"""The training example, launched as a person would: two steps, a resume, its card, and its mistakes."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_model, tiny_processor

from fafa import FafaModel, FafaProcessor
from fafa.registration import classes_of
from fafa.world import make_world

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "examples" / "configs"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(
        tmp_path_factory.mktemp("example") / "world", num_diptychs=24, num_queries=6, gallery_size=40, num_workers=1
    )


def train(world, output, *arguments, check=True):
    command = [sys.executable, str(ROOT / "examples" / "train.py"), "--config", str(CONFIGS / "world.yaml")]
    command += ["--data_dir", str(world / "SynCPR"), "--output_dir", str(output), "--validation_fraction", "0.2"]
    command += ["--batch_size", "8", "--logging_steps", "1", "--disable_tqdm", "true", *arguments]
    run = subprocess.run(command, cwd=output.parent, capture_output=True, text=True, check=False)
    assert not check or run.returncode == 0, run.stderr
    return run


def test_training_example_trains_resumes_and_writes_a_card(world, tmp_path):
    output = tmp_path / "model"
    train(world, output, "--max_steps", "2", "--save_strategy", "steps", "--save_steps", "1")
    first = FafaModel.from_pretrained(output).state_dict()
    resume = ("--resume_from_checkpoint", "true", "--data_seed=3", "--allow_changed_data", "true")
    train(world, output, "--max_steps", "4", "--save_strategy", "steps", *resume)
    state = json.loads((output / "trainer_state.json").read_text())
    logged_steps = [entry["step"] for entry in state["log_history"] if "loss" in entry]
    assert state["global_step"] == 4 and logged_steps == [1, 2, 3, 4]
    second = FafaModel.from_pretrained(output).state_dict()
    assert any((first[name] != second[name]).any() for name in first)
    assert FafaProcessor.from_pretrained(output).image_processor.person_size["width"] == 96
    card = (output / "README.md").read_text(encoding="utf-8")
    settings = ("max_steps: 4", "save_strategy: steps", "fda_alpha: 0.0", "data_seed: 3")
    for part in (*settings, "rank-1", "loss_fda", "must not be", "2311.16515"):
        assert part in card, part


def test_saved_model_is_a_start_for_training(world, tmp_path):
    """What the real SynCPR needs: weights from a folder, a frozen vision tower stored in half precision."""
    start = tiny_model().to(torch.bfloat16)  # in which updates of this size would round away
    start.save_pretrained(tmp_path / "start")
    tiny_processor().save_pretrained(tmp_path / "start")
    options = ["--model", str(tmp_path / "start"), "--vision_dtype", "bfloat16", "--max_steps", "2", "--group_size=1"]
    options += ["--learning_rate", "2e-6", "--warmup_steps", "0"]
    train(world, tmp_path / "model", *options, "--model_options", json.dumps({"fda_alpha": 0.25}))
    trained = FafaModel.from_pretrained(tmp_path / "model")
    assert trained.config.freeze_vision and trained.config.fda_alpha == 0.25
    weights = load_file(tmp_path / "model" / "model.safetensors")
    name = "text_projection.weight"
    assert weights[name].dtype == torch.float32
    assert (weights[name] != start.state_dict()[name]).float().mean() > 0.9
    assert weights["vision_model.encoder.layers.0.mlp.fc1.weight"].dtype == torch.bfloat16


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """What the script makes of its arguments, before it reads a model or data."""
    spec = importlib.util.spec_from_file_location("train_example", ROOT / "examples/train.py")
    example = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "train_example", example)  # where its dataclasses look for their types
    spec.loader.exec_module(example)

    def call(*arguments):
        given = ["train.py", "--output_dir", str(tmp_path / "model"), "--report_to", "none", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", given)
        return example.parse_arguments()

    return call


@pytest.fixture
def refused(parse, capsys):
    """What the script says of arguments that it does not take."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            parse(*arguments)
        assert stopped.value.code == 2
        return capsys.readouterr().err

    return call


def test_unknown_setting_is_refused_with_the_nearest(world, tmp_path):
    config = tmp_path / "typo.yaml"
    config.write_text("lerning_rate: 0.1\n")
    run = train(world, tmp_path / "model", "--config", str(config), check=False)
    assert run.returncode != 0 and "no setting 'lerning_rate'; did you mean 'learning_rate'?" in run.stderr
    assert "Traceback" not in run.stderr


def test_settings_that_cannot_be_used_are_told(tmp_path, refused):
    """Integer keys, bytes and deep nesting in a configuration used to end in tracebacks from deep inside."""
    config = tmp_path / "mine.yaml"
    config.write_text("max_steps: 2\n1: 2\n")
    assert f"{config}, line 2: YAML reads the key 1 as no text" in refused("--config", config)
    config.write_text("model_options: 5\n")
    assert "model_options is 5, expected fields of the configuration" in refused("--config", config)
    assert "model_options is no JSON" in refused("--model_options", "[" * 100_000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data_dir: [1]", "mine.yaml: data_dir is [1], expected str"),
        ("max_steps: 1.5", "mine.yaml: max_steps is 1.5, expected int"),
        ("cache_images: 2", "mine.yaml: cache_images is 2, expected bool"),
        ("learning_rate: {a: 1}", "mine.yaml: learning_rate is {'a': 1}, expected float"),
        ("learning_rate: 'nan'", "learning_rate is nan, expected a finite number"),
        ("model_options: {fda_aplha: 1.0}", "model_options: there is no 'fda_aplha'; did you mean 'fda_alpha'?"),
        (
            "model_options: {vision_config: {pach_size: 8}}",
            "vision_config: there is no 'pach_size'; did you mean 'patch",
        ),
        (
            "{method: DualEncoder, model_options: {backbone_config: {text_config: {hiden_size: 8}}}}",
            "backbone_config: text_config: there is no 'hiden_size'; did you mean 'hidden_size'?",
        ),
        ("lr_scheduler_type: constnt", "constnt is not a valid SchedulerType"),
        ("accelerator_config: {even_batch: true}", "no 'even_batch'; did you mean 'even_batches'?"),
        ("do_train: false", "do_train is false, but this trains"),
        ("lora_rank: -1", "lora_rank is -1, expected a number from 0"),
        ("new_words: 5", "new_words is for a model that has learnt; a tiny one has the words of its captions"),
        ("{model: a/folder, new_words: 5, lora_rank: 2}", "leave out new_words"),
        ("vision_dtype: int8", "vision_dtype is 'int8', expected such as float32"),
        (f"seed: {2**40}", f"seed is {2**40}, expected a whole number from 0 to 4,294,967,295"),
    ],
)
def test_values_of_another_kind_are_refused_by_name_before_data_is_read(tmp_path, refused, text, message):
    """A list as folder, half a step and a seed that numpy does not take ended in tracebacks, some after minutes."""
    (tmp_path / "mine.yaml").write_text(text)
    assert message in refused("--config", tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("method", "part", "tower"),
    [
        ("Fafa", "vision_config", None),
        ("Word4Per", "clip_config", "text_config"),
        ("CoAlignClip", "clip_config", "text_config"),
        ("DualEncoder", "backbone_config", "text_config"),
    ],
)
def test_a_setting_within_a_part_of_a_tiny_model_leaves_the_rest_tiny(parse, method, part, tower):
    """A change of one size put the library's defaults in the place of all others: 12 layers of 512."""
    inner = {"num_hidden_layers": 1} if tower is None else {tower: {"num_hidden_layers": 1}}
    script, _, _ = parse("--method", method, "--model_options", json.dumps({part: inner}), "--bf16", "false")
    configs = [classes_of(method)[0].tiny(**options) for options in (script.model_options, {})]
    changed, tiny = (
        getattr(config, part) if tower is None else getattr(getattr(config, part), tower) for config in configs
    )
    assert changed.num_hidden_layers == 1 < tiny.num_hidden_layers
    assert changed.hidden_size == tiny.hidden_size < 200


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_have_only_known_settings(config, parse):
    script, training, _ = parse("--config", config, "--data_dir", "nowhere", "--bf16", "false")
    assert script.data_dir == "nowhere" and training.learning_rate > 0
