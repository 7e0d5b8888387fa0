"""The commands of the dual encoder: from a backbone's folder to a trained model, on generated and real pairs."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_dual_encoder import tiny_model, tiny_processor
from tiny_text_image import CUHK, write_set
from transformers import AutoModel

from fafa.model_folder import load_model
from fafa.training.adapters import add_lora, merge_lora

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def train(monkeypatch):
    """Runs examples/train.py with arguments, in this process."""
    spec = importlib.util.spec_from_file_location("train_example", EXAMPLES / "train.py")
    example = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "train_example", example)  # where its dataclasses look for their types
    spec.loader.exec_module(example)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
        example.main(*example.parse_arguments())

    return call


@pytest.fixture
def folders(tmp_path):
    """A model, six photographs with captions, and four generated images."""
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    write_set(tmp_path / "real", CUHK, {number: {"captions": ["a red coat", "in a hat"]} for number in range(6)})
    records = []
    for number in range(4):
        path = f"images/{number}.png"
        record = {
            "image_path": path,
            "captions": ["a blue bag"],
            "person_id": number,
            "provenance": {"source": "generated"},
        }
        records.append(record)
        file = tmp_path / "generated" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 48), (0, 50 * number, 0)).save(file)
    (tmp_path / "generated" / "SynTBPR.json").write_text(json.dumps(records))
    return tmp_path


def options(folders, output: str) -> list:
    given = {
        "config": EXAMPLES / "configs" / "syntbpr.yaml",
        "output_dir": folders / output,
        "max_steps": 2,
        "warmup_steps": 1,
        "batch_size": 4,
        "validation_fraction": 0.4,
        "bf16": "false",
        "use_cpu": "true",
        "dataloader_num_workers": 0,
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": "false",
    }
    return [part for name, value in given.items() for part in (f"--{name}", value)]


def test_generated_pairs_train_alone_and_then_among_repeated_real_ones(folders, train):
    alone = ["--model", folders / "model", "--dataset", "SynTBPR", "--data_dir", folders / "generated"]
    train(*options(folders, "alone"), *alone)
    mixed = ["--dataset", CUHK, "--data_dir", folders / "real", "--generated_dir", folders / "generated"]
    train(*options(folders, "mixed"), "--model", folders / "alone", *mixed, "--real_repeats", 3)
    weights = {name: load_model(folders / name)[0].state_dict() for name in ("model", "alone", "mixed")}
    name = "backbone.visual_projection.weight"
    assert len({tuple(state[name].flatten().tolist()) for state in weights.values()}) == 3
    state = json.loads((folders / "mixed" / "trainer_state.json").read_text())
    assert {"loss_n_itc", "loss_r_itc"} <= state["log_history"][0].keys()
    rates = [entry["learning_rate"] for entry in state["log_history"] if "learning_rate" in entry]
    assert rates == pytest.approx([1e-6, 5e-6])  # from the one to the other, as released
    card = (folders / "mixed" / "README.md").read_text()
    assert "# Noise-robust dual encoder" in card and "2503.22171" in card


def test_what_does_not_mix_is_refused(folders, train, capsys):
    with pytest.raises(SystemExit):
        train(*options(folders, "x"), "--dataset", "SynCPR", "--generated_dir", folders / "generated")
    assert "SynCPR holds triplets: leave them out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train(*options(folders, "x"), "--dataset", "CUHK-PEDE")
    assert "there is no dataset 'CUHK-PEDE'; did you mean 'CUHK-PEDES'?" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_adapters_train_and_load(tmp_path, kind):
    tiny_model(kind).save_pretrained(tmp_path / "base")
    tiny_processor(kind).save_pretrained(tmp_path / "base")
    adapted = add_lora(load_model(tmp_path / "base")[0], rank=2, targets="both")
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.1)
    pixels = torch.randn(2, 3, 48, 24)
    expected = adapted.eval().get_target_features(pixels)
    assert not torch.allclose(expected, tiny_model(kind).get_target_features(pixels))
    adapted.save_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(AutoModel.from_pretrained(tmp_path / "adapter").get_target_features(pixels), expected)
    torch.testing.assert_close(merge_lora(adapted).get_target_features(pixels), expected)
