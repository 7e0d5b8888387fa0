"""The training example on CIRHS-format triplets, for two steps, resumed, on both backbones."""

import importlib.util
import json
import sys
from pathlib import Path

import datasets
import pytest

from fafa.model_folder import load_model

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "examples" / "configs" / "coalign_world.yaml"


@pytest.fixture(scope="module")
def cirhs(triplets, tmp_path_factory):
    """The handful of triplets as a folder of CIRHS.json; images of two quadruples are told apart by their names."""
    root = tmp_path_factory.mktemp("cirhs")
    records = []
    for row in triplets:
        for side in ("reference", "target"):
            name = root / row[f"{side}_image_path"]
            name.write_bytes(Path(row[f"{side}_image"]["path"]).read_bytes())
        record = {name: value for name, value in row.items() if not name.endswith("_image")}
        records.append({"tid" if name == "cpr_id" else name: value for name, value in record.items()})
    (root / "CIRHS.json").write_text(json.dumps(records))
    return root


@pytest.fixture
def train(cirhs, tmp_path, monkeypatch):
    """`examples/train.py` as a person would run it, but in this process."""
    spec = importlib.util.spec_from_file_location("train_example", ROOT / "examples/train.py")
    example = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "train_example", example)
    spec.loader.exec_module(example)
    monkeypatch.setattr("datasets.load_dataset", _with_cache(datasets.load_dataset, tmp_path / "cache"))

    def run(*options):
        given = ["train.py", "--config", CONFIG, "--dataset", "CIRHS", "--data_dir", cirhs]
        given += ["--output_dir", tmp_path / "model", "--validation_fraction", "0.34", "--batch_size", "4"]
        given += ["--logging_steps", "1", "--eval_strategy", "no", "--disable_tqdm", "true", "--use_cpu", "true"]
        monkeypatch.setattr(sys, "argv", list(map(str, [*given, *options])))
        example.main(*example.parse_arguments())
        return tmp_path / "model"

    return run


def _with_cache(load, folder):
    return lambda *names, **options: load(*names, cache_dir=str(folder), **options)


@pytest.mark.parametrize("method", ["CoAlign", "CoAlignClip"])
def test_two_steps_and_a_resume(train, method):
    options = ("--method", method, "--group_size", "1", "--save_strategy", "steps", "--save_steps", "1")
    train(*options, "--max_steps", "2")
    folder = train(*options, "--max_steps", "3")  # goes on: the recipe resumes
    state = json.loads((folder / "trainer_state.json").read_text())
    lines = [entry for entry in state["log_history"] if "loss" in entry]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all({"loss_gca", "loss_lcr", "loss_itc"} <= line.keys() for line in lines)
    model, _ = load_model(folder)
    assert type(model).__name__ == f"{method}Model" and model.config.gca_divergence == "reverse"
    card = (folder / "README.md").read_text(encoding="utf-8")
    for part in (f"random weights (`{method}Config.tiny`)", "our reading of arXiv", "loss_gca"):
        assert part in card, part


def test_what_the_example_cannot_start_is_told(train, capsys):
    for options, message in (
        (("--method", "CoAlgn"), "there is no method 'CoAlgn'; did you mean 'CoAlign'?"),
        (("--model", "runs/1"), "method CoAlign is of model 'tiny'; runs/1 says itself what it is"),
        (("--model_options", '{"gca_bata": 1}'), "did you mean 'gca_beta'"),
    ):
        with pytest.raises(SystemExit):
            train(*options)
        assert message in capsys.readouterr().err
