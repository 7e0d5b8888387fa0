"""LoRA: what trains, what a folder holds, and that nothing is lost on the way."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from peft import PeftModel
from safetensors.torch import load_file
from tiny import tiny_batch, tiny_model, tiny_processor
from tiny_run import tiny_trainer
from transformers import AutoModel

from fafa import FafaModel, FafaProcessor
from fafa.training import FafaTrainer
from fafa.training.adapters import FafaLoraModel, add_lora, merge_lora
from fafa.world import make_world

ROOT = Path(__file__).parent.parent.parent
LAUNCH = ROOT / "examples" / "configs" / "accelerate"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model folder with a frozen tower, as BLIP-2's weights come."""
    folder = tmp_path_factory.mktemp("base")
    tiny_model(freeze_vision=True).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def shaken_lora(base, **options) -> FafaLoraModel:
    """An adapter all of whose parameters differ from where they started."""
    model = add_lora(FafaModel.from_pretrained(base), **{"rank": 4, "dropout": 0.0, **options}).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name in trained(model):
            model.get_parameter(name).add_(0.05 * torch.rand_like(model.get_parameter(name)))
    return model


@torch.no_grad()
def outputs(model) -> list[torch.Tensor]:
    batch = tiny_batch()
    query = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    torch.manual_seed(0)  # the masks of masked feature reasoning
    loss = model.eval()(**batch).loss
    return [model.get_query_features(**query), model.get_target_features(batch["pixel_values"]), loss]


def assert_equal_outputs(model, expected: list[torch.Tensor], tolerance: float = 1e-5) -> None:
    for ours, theirs in zip(outputs(model), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


@pytest.mark.parametrize("targets", ["qformer", "vision", "both"])
def test_lora_adapts_its_targets_and_nothing_else(base, targets):
    model = add_lora(FafaModel.from_pretrained(base), rank=4, targets=targets).train()
    model(**tiny_batch()).loss.backward()
    names = trained(model)
    assert names == {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    adapted = {name.split(".lora_")[0] for name in names if ".lora_" in name}
    sides = {name.removeprefix("base_model.model.").split(".")[0] for name in adapted}
    assert sides == {"qformer": {"qformer"}, "vision": {"vision_model"}, "both": {"qformer", "vision_model"}}[targets]
    # 4 layers of self-attention, 2 with cross-attention, query and value each; 3 blocks of the tower
    assert len(adapted) == {"qformer": 12, "vision": 3, "both": 15}[targets]
    whole = {name for name in names if ".lora_" not in name}
    for part in ("temperature", "vision_projection", "text_projection", "mfr_predictor", "post_layernorm"):
        assert any(part in name for name in whole), part
    assert not any("query_tokens" in name for name in whole)


def test_saved_adapter_restores_all_that_was_trained(base, tmp_path):
    """By peft alone, and by AutoModel, which finds the base by the folder's name."""
    model = shaken_lora(base, targets="both")
    expected = outputs(model)
    model.save_pretrained(tmp_path)
    assert len(load_file(tmp_path / "adapter_model.safetensors")) == len(trained(model))
    loaded = PeftModel.from_pretrained(AutoModel.from_pretrained(base), tmp_path)
    assert_equal_outputs(loaded, expected, 0.0)
    for name in trained(model):
        assert torch.equal(loaded.get_parameter(name), model.get_parameter(name)), name
    assert_equal_outputs(AutoModel.from_pretrained(tmp_path), expected, 0.0)
    again = FafaLoraModel.from_pretrained(FafaModel.from_pretrained(base), tmp_path, is_trainable=True)
    assert trained(again) == trained(model)


def test_an_adapter_finds_its_base_from_any_folder(base, tmp_path, monkeypatch):
    """Of a relative path nothing was found elsewhere, and the Hub was asked for it."""
    monkeypatch.chdir(base.parent)
    model = shaken_lora(base.name)
    expected = outputs(model)
    model.save_pretrained(tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    assert_equal_outputs(AutoModel.from_pretrained(tmp_path / "adapter"), expected, 0.0)


def test_merged_adapter_is_an_ordinary_model(base, tmp_path):
    model = shaken_lora(base, targets="both")
    expected = outputs(model)
    merge_lora(model).save_pretrained(tmp_path)
    merged = FafaModel.from_pretrained(tmp_path)
    assert merged.state_dict().keys() == FafaModel.from_pretrained(base).state_dict().keys()
    assert_equal_outputs(merged, expected)


def test_merging_does_not_round_to_a_half_precision_tower(base):
    model = FafaModel.from_pretrained(base).freeze_vision_tower(torch.bfloat16)
    weight = model.vision_model.encoder.layers[0].self_attn.qkv.weight.clone().float()
    model = add_lora(model, rank=4, targets="vision")
    layer = model.vision_model.encoder.layers[0].self_attn.qkv
    layer.lora_B["default"].weight.data.fill_(1e-4)
    update = layer.get_delta_weight("default").detach().clone()
    merged = merge_lora(model).vision_model.encoder.layers[0].self_attn.qkv.weight
    assert merged.dtype == torch.float32
    torch.testing.assert_close(merged - weight, update, atol=1e-7, rtol=0)


def test_lora_wants_a_model_with_a_folder():
    """peft would write an adapter without a base, which asks the Hub for it when loaded."""
    with pytest.raises(ValueError, match="whose folder the adapter names"):
        add_lora(tiny_model())


def make_trainer(folder, base, triplets, **options) -> FafaTrainer:
    model = add_lora(FafaModel.from_pretrained(base), rank=4, targets="both")
    settings = {"per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1}
    return tiny_trainer(folder, triplets, model, **{**settings, **options})


def test_lora_training_resumes_bit_equal(base, triplets, tmp_path):
    """With dropout in the adapters; the temperature, too."""
    whole = make_trainer(tmp_path / "whole", base, triplets, max_steps=4)
    start = whole.model.temperature.item()
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", base, triplets, max_steps=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert whole.model.temperature.item() != start
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize("options", [{"gradient_checkpointing": True}, {"gradient_cache_size": 2}], ids=str)
def test_lora_trains_in_little_memory(base, triplets, tmp_path, options):
    """Equal to plain training up to rounding, so no gradient is cut off in the frozen tower."""
    losses = []
    for run in ({}, options):
        torch.manual_seed(0)
        trainer = make_trainer(tmp_path, base, triplets, max_steps=3, save_strategy="no", **run)
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # its masks are drawn chunk by chunk
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_adapters_that_get_no_gradient_stop_the_run(base, triplets, tmp_path):
    """The old kind of checkpointing passes none into a frozen tower; they kept their zeros, and torch warned."""
    trainer = make_trainer(tmp_path, base, triplets, max_steps=1)
    trainer.model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(ValueError, match=r"weights are to train and got no gradient .*lora_A.*use_reentrant=False"):
        trainer.train()


def test_best_adapter_is_loaded_at_the_end(base, triplets, tmp_path):
    trainer = make_trainer(
        tmp_path,
        base,
        triplets,
        max_steps=4,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
    )
    trainer.train()
    best = load_file(Path(trainer.state.best_model_checkpoint, "adapter_model.safetensors"))
    trainer.save_model()
    final = load_file(tmp_path / "adapter_model.safetensors")
    assert best.keys() == final.keys() and all(torch.equal(best[name], final[name]) for name in best)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(
        tmp_path_factory.mktemp("adapters") / "world", num_diptychs=24, num_queries=6, gallery_size=40, num_workers=1
    )


@pytest.mark.parametrize("config", sorted(LAUNCH.glob("*.yaml")), ids=lambda path: path.stem)
def test_launch_configurations_are_accelerates(config):
    """Its parser raises on unknown keys."""
    parsed = load_config_from_file(str(config))
    given = yaml.safe_load(config.read_text(encoding="utf-8"))
    assert parsed.distributed_type == given["distributed_type"] and parsed.num_processes >= 2


def test_example_launched_on_two_processes_trains_and_merges_an_adapter(base, world, tmp_path):
    """The shipped configurations, but for what makes the run large."""
    output = tmp_path / "run"
    settings = {"config": ROOT / "examples" / "configs" / "lora.yaml", "data_dir": world / "SynCPR", "model": base}
    settings |= {"output_dir": output, "max_steps": 2, "batch_size": 8, "gradient_cache_size": 2}
    settings |= {"validation_fraction": 0.2, "eval_strategy": "no", "load_best_model_at_end": "false"}
    settings |= {"bf16": "false", "vision_dtype": "float32", "use_cpu": "true", "dataloader_num_workers": 0}
    settings |= {"logging_steps": 1, "report_to": "none", "disable_tqdm": "true"}
    launch = [sys.executable, "-m", "accelerate.commands.launch"]
    launch += ["--config_file", str(LAUNCH / "cpu_two_processes.yaml"), str(ROOT / "examples" / "train.py")]
    launch += [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    run = subprocess.run(launch, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    adapted = PeftModel.from_pretrained(AutoModel.from_pretrained(base), output)
    assert_equal_outputs(FafaModel.from_pretrained(output / "merged"), outputs(adapted))
    for folder in (output, output / "merged"):
        assert FafaProcessor.from_pretrained(folder).image_processor.person_size["width"] == 48
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "lora_rank: 16" in card and "8 triplets (2 processes × 4 × 1 accumulated)" in card
        assert "batch_size: 8\n" in card and "--num_processes 2" in card and "--batch_size 8" in card


def test_fsdp_equals_one_process(triplets, tmp_path):
    """In fp32; in bf16, the whole model runs in it. Saved folders load, though FSDP knows no scalars."""
    triplets.save_to_disk(str(tmp_path / "triplets"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).with_name("fsdp_processes.py")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, str(script), str(tmp_path), str(port)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    losses = {
        name: [float(loss) for loss in (tmp_path / f"{name}.txt").read_text().split()]
        for name in ("one", "fp32-0", "fp32-1", "bf16-0")
    }
    assert losses["fp32-0"] == losses["fp32-1"] == pytest.approx(losses["one"], abs=1e-4)
    assert losses["bf16-0"] == pytest.approx(losses["one"], abs=0.2)
    one, sharded = (FafaModel.from_pretrained(tmp_path / name).state_dict() for name in ("one", "fp32"))
    for name in one:
        torch.testing.assert_close(sharded[name], one[name], atol=1e-5, rtol=0)
    assert FafaModel.from_pretrained(tmp_path / "bf16").temperature.shape == ()
