"""The GPU benchmark, as far as a CPU can tell: every way runs, operations are counted right, no GPU is no crash."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from pages import unpadded
from torch.utils.flop_counter import FlopCounterMode

from fafa import FafaModel

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu_training.py"
spec = importlib.util.spec_from_file_location("gpu_training", SCRIPT)
benchmark = importlib.util.module_from_spec(spec)
sys.modules["gpu_training"] = benchmark  # dataclasses look their module up
spec.loader.exec_module(benchmark)


def test_operations_are_those_that_torch_counts():
    config, batch_size = benchmark.SMALL.config, 3
    model = FafaModel._from_config(config, attn_implementation="eager").train()
    batch = benchmark.make_batch(config, batch_size, "cpu")
    with FlopCounterMode(display=False) as training:
        model(**batch).loss.backward()
    with FlopCounterMode(display=False) as encoding:
        model.requires_grad_(False).get_target_features(batch["pixel_values"])
    expected = {"training": training.get_total_flops(), "encoding": encoding.get_total_flops()}
    assert benchmark.count_flops(config, batch_size) == expected


@pytest.mark.parametrize("way", list(benchmark.WAYS))
def test_every_way_trains_and_encodes(way):
    result = json.loads(json.dumps(benchmark.measure(way, benchmark.SMALL)))
    assert result["way"] == way and result["training"]["seconds"] > 0 and result["encoding"]["seconds"] > 0


def test_page_shows_ratios_and_utilisation(monkeypatch):
    """With a made-up GPU, one step of which takes as long as its peak allows, and twice that."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    flops = benchmark.count_flops(benchmark.FULL.config, 256)
    runs = [
        {"way": way, **{task: {"seconds": slower * flops[task] / 989e12, "peak_gib": 9.5} for task in flops}}
        for way, slower in {"released": 2.0, "fafa": 1.0}.items()
    ]
    record = benchmark.summarize(runs, benchmark.FULL)
    page = benchmark.to_markdown(record)
    rates = [round(256 / run["training"]["seconds"]) for run in runs]
    page = unpadded(page)
    assert f"{rates[1]:,} | 2.00 | 100% | 9.5 |" in page and f"{rates[0]:,} | 1.00 | 50% | 9.5 |" in page
    assert record["tflop"]["encoding"] == pytest.approx(256 * 0.535, rel=0.05)  # 1 billion parameters, 257 positions


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_training.py"])
    assert benchmark.main() == 2 and "no CUDA device" in capsys.readouterr().err
