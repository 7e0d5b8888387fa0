"""Training step and encoding of the full ViT-g FAFA on a GPU: the released code's way beside ours.

    python benchmarks/gpu_training.py            # two or three minutes; wants 80 GB of GPU memory
    python benchmarks/gpu_training.py --small    # the same code with the tiny preset on a CPU: a check, no results

Random weights and random inputs, 224 pixels, batches of 256 (triplets to train on, images to encode), three ways, each
in a process of its own:

  released  fp16 autocast with a gradient scaler, the frozen tower stored in fp16, attention written out, AdamW; as the
            authors' code runs
  eager     bf16 autocast, the frozen tower stored in bf16, PyTorch's fused attention, fused AdamW, gradient clipping
  fafa      the same, its blocks compiled (torch.compile): as they are alike, that takes seconds instead of minutes

None keeps a graph of the frozen tower. A step is forward, loss, backward and optimiser; encoding is
`get_target_features` without a graph, all in bf16, or for `released` with its mixed weights. Times are medians, after
warming up.

Model FLOP utilisation is F / (t · P). F: the floating-point operations of the matrix products and attention of a step,
2·m·n·k for a product of m x k and k x n; backward counts twice the forward where gradients flow, the frozen tower its
forward alone (`count_flops`). t: seconds of the step. P: the device's dense half-precision peak.

Without CUDA it says so and exits with status 2. Results go to benchmarks/results/gpu_training.json and gpu_training.md.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from torch import Tensor
from transformers.models.blip_2.modeling_blip_2 import Blip2EncoderLayer, Blip2QFormerLayer

from fafa import FafaConfig, FafaModel
from fafa.tables import markdown_table

RESULTS = Path(__file__).parent / "results"
# Dense half-precision peaks in TFLOP/s, from the data sheets; the first name that the device's contains counts.
PEAKS = {"H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "H200": 989, "A100": 312}


@dataclass
class Way:
    """How to run the model."""

    dtype: torch.dtype
    attention: str
    fused: bool
    compiled: bool


WAYS = {
    "released": Way(torch.float16, "eager", fused=False, compiled=False),
    "eager": Way(torch.bfloat16, "sdpa", fused=True, compiled=False),
    "fafa": Way(torch.bfloat16, "sdpa", fused=True, compiled=True),
}


@dataclass
class Scale:
    """What to measure, where."""

    device: str
    batch_size: int
    warm_up: int
    repetitions: int

    @property
    def config(self) -> FafaConfig:
        """The released dimensions, or the tiny preset on a CPU.

        BLIP-2 starts its tower at a scale of 1e-10. Multiplying by nothing takes less power, hence a GPU runs it faster
        than real weights.
        """
        if self.device == "cpu":
            return FafaConfig.tiny(freeze_vision=True)
        return FafaConfig(vision_config={"initializer_range": 0.02})


FULL = Scale("cuda", batch_size=256, warm_up=5, repetitions=20)
SMALL = Scale("cpu", batch_size=4, warm_up=1, repetitions=1)


def make_batch(config: FafaConfig, batch_size: int, device: str) -> dict[str, Tensor]:
    """Triplets with captions of full length, each a group of its own."""
    pixels = (batch_size, 3, config.vision_config.image_size, config.vision_config.image_size)
    text = (batch_size, config.max_text_length)
    return {
        "pixel_values": torch.randn(pixels, device=device),
        "target_pixel_values": torch.randn(pixels, device=device),
        "input_ids": torch.randint(config.qformer_config.vocab_size, text, device=device),
        "attention_mask": torch.ones(text, dtype=torch.long, device=device),
    }


def count_flops(config: FafaConfig, batch_size: int) -> dict[str, int]:
    """Floating-point operations of a training step and of encoding a batch; products and attention only, as above."""
    vision, qformer = config.vision_config, config.qformer_config
    patches = (vision.image_size // vision.patch_size) ** 2
    states, width = patches + 1, vision.hidden_size
    tokens, hidden = config.num_query_tokens, qformer.hidden_size

    def layer(length: int, width: int, intermediate: int) -> int:
        """Self-attention and feed-forward of one layer on one sequence."""
        return 2 * length * width * (4 * width + 2 * intermediate) + 4 * length**2 * width

    tower = 2 * patches * 3 * vision.patch_size**2 * width
    tower += vision.num_hidden_layers * layer(states, width, vision.intermediate_size)
    # Query tokens look at the image; keys and values are made from the tower's states.
    look = 4 * tokens * hidden**2 + 4 * states * width * hidden + 4 * tokens * states * hidden
    looks = -(-qformer.num_hidden_layers // qformer.cross_attention_frequency) * look
    layers = qformer.num_hidden_layers
    target = looks + layers * layer(tokens, hidden, qformer.intermediate_size)
    target += 2 * tokens * hidden * config.projection_dim
    query = looks + layers * layer(tokens + config.max_text_length, hidden, qformer.intermediate_size)
    query += 2 * hidden * config.projection_dim
    predict = 2 * 2 * 3 * hidden * config.mfr_hidden_size  # masked feature reasoning, both directions
    compare = 2 * batch_size * tokens * config.projection_dim * (1 + tokens)  # scores, and diversity of all tokens
    trained = batch_size * (target + query + predict + compare)
    return {"training": 2 * batch_size * tower + 3 * trained, "encoding": batch_size * (tower + target)}


def seconds_of(run: Callable[[], object], scale: Scale) -> float:
    """Median time of a call, after warming up."""
    times = []
    for _ in range(scale.warm_up + scale.repetitions):
        synchronize(scale)
        start = time.perf_counter()
        run()
        synchronize(scale)
        times.append(time.perf_counter() - start)
    return statistics.median(times[scale.warm_up :])


def synchronize(scale: Scale) -> None:
    """Waits for the GPU."""
    if scale.device == "cuda":
        torch.cuda.synchronize()


def measure(name: str, scale: Scale) -> dict:
    """One way, in this process: seconds and peak memory of a training step and of encoding a batch."""
    way = WAYS[name]
    torch.manual_seed(0)
    with torch.device(scale.device):
        model = FafaModel._from_config(scale.config, attn_implementation=way.attention)
    model.freeze_vision_tower(way.dtype).train()
    if way.compiled:
        compile_blocks(model, scale)
    batch = make_batch(scale.config, scale.batch_size, scale.device)
    result = {"way": name}
    for task, prepare in {"training": training_step, "encoding": encoding_of}.items():
        torch.compiler.reset()  # there is a limit to how many versions of a block are kept
        if scale.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        result[task] = {"seconds": seconds_of(prepare(model, batch, way, scale), scale)}
        if scale.device == "cuda":
            result[task]["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        model.zero_grad()  # gradients of the step are not part of encoding
    return result


def compile_blocks(model: FafaModel, scale: Scale) -> None:
    """Each block of both towers; on the CPU only traced, which checks as much and takes no compiler."""
    for block in model.modules():
        if isinstance(block, (Blip2EncoderLayer, Blip2QFormerLayer)):
            block.compile(dynamic=False, backend="inductor" if scale.device == "cuda" else "eager")


def training_step(model: FafaModel, batch: dict[str, Tensor], way: Way, scale: Scale) -> Callable[[], None]:
    """Forward, loss, backward, optimiser."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # None lets torch choose, which is what the released code does.
    optimizer = torch.optim.AdamW(trained, lr=2e-6, betas=(0.9, 0.98), eps=1e-7, fused=way.fused or None)
    half = way.dtype == torch.float16
    scaler = torch.amp.GradScaler(scale.device, enabled=half)

    def step() -> None:
        with torch.autocast(scale.device, way.dtype):
            loss = model(**batch).loss
        scaler.scale(loss).backward()
        if not half:
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step


def encoding_of(model: FafaModel, batch: dict[str, Tensor], way: Way, scale: Scale) -> Callable[[], None]:
    """Target features of a batch of images."""
    model.eval()
    mixed = way.dtype == torch.float16
    if not mixed:
        model.to(way.dtype)

    @torch.no_grad()
    def run() -> None:
        with torch.autocast(scale.device, way.dtype) if mixed else contextlib.nullcontext():
            model.get_target_features(batch["pixel_values"])

    return run


def measure_in_subprocess(name: str, small: bool) -> dict:
    """One way in a process of its own, so that its memory and its compiled code are its own."""
    command = [sys.executable, __file__, "--measure", name, *["--small"] * small]
    run = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)  # its errors go to the terminal
    if run.returncode:
        raise SystemExit(f"measuring {name!r} failed (status {run.returncode}); what was measured before is written")
    return json.loads(run.stdout.splitlines()[-1])


def summarize(runs: list[dict], scale: Scale) -> dict:
    """The record: conditions, throughput, utilisation, and ratios to the released way."""
    device = torch.cuda.get_device_name() if scale.device == "cuda" else "CPU"
    peak = next((value for name, value in PEAKS.items() if name in device), None)
    flops = count_flops(scale.config, scale.batch_size)
    for run in runs:
        for task, operations in flops.items():
            entry = run[task]
            entry["per_second"] = scale.batch_size / entry["seconds"]
            entry["utilisation"] = operations / entry["seconds"] / (peak * 1e12) if peak else None
            entry["times_faster_than_released"] = runs[0][task]["seconds"] / entry["seconds"]
    return {
        "date": date.today().isoformat(),
        "command": "python benchmarks/gpu_training.py",
        "device": device,
        "peak_tflops": peak,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "batch_size": scale.batch_size,
        "repetitions": scale.repetitions,
        "tflop": {task: operations / 1e12 for task, operations in flops.items()},
        "runs": runs,
    }


def to_markdown(record: dict) -> str:
    """The record as a page."""
    peak = f"{record['peak_tflops']} TFLOP/s" if record["peak_tflops"] else "not in the table of this script"
    lines = [
        "# Training step and encoding on a GPU",
        "",
        f"{record['date']}, {record['device']} (half-precision peak: {peak}), torch {record['torch']}, CUDA "
        f"{record['cuda']}: `{record['command']}`",
        "",
        f"Batches of {record['batch_size']}: {record['tflop']['training']:.3g} TFLOP a training step, "
        f"{record['tflop']['encoding']:.3g} TFLOP to encode. Medians of {record['repetitions']}.",
    ]
    for task, unit in {"training": "triplets", "encoding": "images"}.items():
        rows = []
        for run in record["runs"]:
            entry = run[task]
            utilisation = f"{entry['utilisation']:.0%}" if entry["utilisation"] else "-"
            memory = f"{entry['peak_gib']:.1f}" if "peak_gib" in entry else "-"
            speed = f"{entry['seconds']:.3f}", f"{entry['per_second']:,.0f}"
            faster = f"{entry['times_faster_than_released']:.2f}"
            rows.append([run["way"], *speed, faster, utilisation, memory])
        header = [task, "seconds a batch", f"{unit}/s", "times faster", "model FLOP utilisation", "peak GiB"]
        lines += ["", markdown_table(header, rows)]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measures every way and writes the results; with --measure, one way, printed as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny preset on the CPU, a step each; writes no results")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for gpu_training.json and gpu_training.md")
    parser.add_argument("--measure", choices=list(WAYS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    scale = SMALL if arguments.small else FULL
    if scale.device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA device here, and this measures one. --small checks the code on a CPU.", file=sys.stderr)
        return 2
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, scale)))
        return 0

    runs = []
    for name in WAYS:  # written way by way: compiling can take minutes, and a lent GPU be gone
        runs.append(measure_in_subprocess(name, arguments.small))
        record = summarize(runs, scale)
        if not arguments.small:
            arguments.output.mkdir(parents=True, exist_ok=True)
            (arguments.output / "gpu_training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            (arguments.output / "gpu_training.md").write_text(to_markdown(record), encoding="utf-8")
    print(to_markdown(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
