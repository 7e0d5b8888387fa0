"""Encoders as ONNX beside PyTorch: Rank-1 on painted people, in fp32 and in 8 bits, and CPU time, in turns in one run.

    python benchmarks/onnx_encoders.py --work DIR          # some three CPU-minutes, 1.5 GB in DIR

Rank-1 is that of the tiny model on the gallery of `make check-tiny`. That model is small: what eight bits cost a large
one is to be measured on it. Speed is that of one thread, also for a vision tower of the size of ViT-B/16 with random
weights, whose ranks would mean nothing.
"""

import argparse
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from datasets import load_dataset
from scoring import processor_name
from torch import Tensor

from fafa import TINY_CHECKPOINT, FafaConfig, FafaModel, FafaProcessor
from fafa.evaluation import retrieval_metrics
from fafa.files import read_json, write_json, write_whole
from fafa.onnx_encoders import OnnxModel
from fafa.retrieval.encoding import encode_queries, encode_targets
from fafa.retrieval.onnx_export import export_onnx
from fafa.retriever import QUERY_MODES
from fafa.tables import markdown_table
from fafa.world import make_world

RESULTS = Path(__file__).parent / "results"
WORLD = {"num_diptychs": 1, "num_queries": 115, "gallery_size": 500}
KINDS = ("PyTorch fp32", "ONNX fp32", "ONNX int8")
PAIRS = {  # who encodes queries, and who the gallery
    "PyTorch fp32": ("PyTorch fp32", "PyTorch fp32"),
    "ONNX fp32": ("ONNX fp32", "ONNX fp32"),
    "ONNX int8": ("ONNX int8", "ONNX int8"),
    "queries by ONNX int8, gallery by PyTorch fp32": ("ONNX int8", "PyTorch fp32"),
}
REPEATS = 3


def exports_of(model: Any, processor: Any, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model and both its exports by name, and what exporting told."""
    told = {}
    models = {"PyTorch fp32": model}
    for name, int8 in (("ONNX fp32", False), ("ONNX int8", True)):
        place = folder / name.replace(" ", "-")
        differences = export_onnx(model, processor, place, int8)
        size = sum(file.stat().st_size for file in place.iterdir())
        told[name] = {"largest_difference": max(differences.values()), "megabytes": round(size / 1e6, 1)}
        models[name] = OnnxModel(place)
    return models, told


def ranks(models: dict[str, Any], processor: Any, work: Path, seeds: list[int]) -> list[dict[str, Any]]:
    """Rank-1 and mAP of each pair of encoders in each kind of query, over all worlds together."""
    first: dict[tuple[str, str], list[float]] = {}
    found = {(pair, mode): {"rank-1": 0.0, "mAP": 0.0} for pair in PAIRS for mode in QUERY_MODES}
    for seed in seeds:
        world = make_world(work / f"world-{seed}", seed=seed, num_workers=1, **WORLD)
        queries, gallery = (
            load_dataset("ITCPR", part, data_dir=str(world / "ITCPR"), split="test", cache_dir=str(work / "cache"))
            for part in ("query", "gallery")
        )
        targets = {name: encode_targets(model, processor, gallery, progress=False) for name, model in models.items()}
        asked = {name: encode_queries(model, processor, queries, progress=False) for name, model in models.items()}
        query_ids, gallery_ids = queries["instance_id"][:], gallery["instance_id"][:]
        for pair, (asker, encoder) in PAIRS.items():
            for mode in QUERY_MODES:
                scores = models[asker].score(asked[asker][mode], targets[encoder])
                metrics = retrieval_metrics(scores, query_ids, gallery_ids)
                for name in ("rank-1", "mAP"):
                    found[pair, mode][name] += metrics[name] / len(seeds)
                best = torch.tensor(gallery_ids)[scores.argmax(dim=1)] == torch.tensor(query_ids)
                first.setdefault((pair, mode), []).extend(best.tolist())
    rows = []
    for (pair, mode), metrics in found.items():
        own, plain = first[pair, mode], first["PyTorch fp32", mode]
        changes = {
            "lost": sum(was and not now for was, now in zip(plain, own, strict=True)),
            "won": sum(now and not was for was, now in zip(plain, own, strict=True)),
        }
        rows.append({"encoders": pair, "query": mode, "queries": len(own), **metrics, **changes})
    return rows


def speeds(models: dict[str, Any], inputs: dict[str, Tensor], sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """CPU milliseconds of one image or query, the least of several, the models in turns."""

    def cost(encode: Callable[..., Tensor], given: dict[str, Tensor]) -> float:
        start = time.process_time()
        encode(**given)
        return time.process_time() - start

    rows = []
    for what, names in {"target": QUERY_MODES["image"], "image+caption": QUERY_MODES["image+caption"]}.items():
        for size in sizes:
            given = {name: inputs[name][:1].repeat(size, *[1] * (inputs[name].ndim - 1)) for name in names}
            least = dict.fromkeys(models, float("inf"))
            for repeat in range(REPEATS + 1):
                for name, model in models.items():
                    encode = model.get_target_features if what == "target" else model.get_query_features
                    seconds = cost(encode, given)
                    if repeat:  # the first is for set-up
                        least[name] = min(least[name], seconds)
            milliseconds = {name: 1e3 * seconds / size for name, seconds in least.items()}
            rows.append({"encoder": what, "batch": size, "cpu_milliseconds": milliseconds})
    return rows


def tiny() -> tuple[FafaModel, FafaProcessor]:
    """The model in the package."""
    return FafaModel.from_pretrained(TINY_CHECKPOINT).eval(), FafaProcessor.from_pretrained(TINY_CHECKPOINT)


def vit_b() -> tuple[FafaModel, FafaProcessor]:
    """A vision tower of the size of ViT-B/16 at 224 pixels, beside the tiny preset's Q-Former; random weights."""
    processor = FafaProcessor.from_pretrained(TINY_CHECKPOINT)
    words = FafaConfig.from_pretrained(TINY_CHECKPOINT).qformer_config.vocab_size
    tower = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    config = FafaConfig.tiny(
        words,
        vision_config={**tower, "image_size": 224, "patch_size": 16},
        qformer_config={"encoder_hidden_size": 768},
    )
    torch.manual_seed(0)
    return FafaModel(config).eval(), FafaProcessor.tiny(processor.tokenizer, config)


# By name: what makes it, batches that are timed, and whether it is trained, so that its ranks mean something.
MODELS = {"tiny": (tiny, (1, 32), True), "ViT-B/16": (vit_b, (1,), False)}


def to_markdown(record: dict[str, Any]) -> str:
    """The record as a page."""
    models = {name: model for name, model in record["models"].items() if model}
    dates = ", ".join(sorted({model["date"] for model in models.values()}))
    lines = [
        "# Encoders as ONNX",
        "",
        f"{dates}, {record['processor']} ({record['instructions']}), one thread, torch {record['torch']}, "
        f"onnxruntime {record['onnxruntime']}: `{record['command']}`",
        "",
        "## What eight bits cost in Rank-1",
        "",
        f"The tiny model in the package, on painted people it has not seen: worlds of seed "
        f"{', '.join(map(str, record['seeds']))} (1 is that of `make check-tiny`), {WORLD['gallery_size']} images in "
        "each. Lost and won: queries whose first result was right by PyTorch alone, or by these encoders alone. Of "
        f"{WORLD['num_queries']} queries without any lost, up to 3 % may be lost all the same (95 %).",
        "",
        markdown_table(
            ["encoders", "query", "queries", "Rank-1", "mAP", "lost", "won"],
            [
                [
                    *(row[name] for name in ("encoders", "query", "queries")),
                    *(f"{row[name]:.2f}" for name in ("rank-1", "mAP")),
                    *(row[name] for name in ("lost", "won")),
                ]
                for row in models.get("tiny", {}).get("ranks", [])
            ],
        ),
        "",
        "This model has 2 million parameters and was trained on such people; a large one has larger outliers among its "
        "activations, which eight bits are coarser for. Measure it with `fafa evaluate --model OUTPUT`.",
        "",
        "## Time on one thread",
        "",
        "CPU milliseconds for one image or query, the least of "
        f"{REPEATS}, the three in turns in one process; and how many times less than PyTorch's.",
        "",
        markdown_table(
            ["model", "encoder", "batch", *KINDS, "fp32 ratio", "int8 ratio"],
            [
                [model, row["encoder"], row["batch"]]
                + [f"{row['cpu_milliseconds'][kind]:.1f}" for kind in KINDS]
                + [f"{row['cpu_milliseconds'][KINDS[0]] / row['cpu_milliseconds'][kind]:.2f}" for kind in KINDS[1:]]
                for model, measured in models.items()
                for row in measured["speeds"]
            ],
        ),
        "",
        "## Size and parity",
        "",
        markdown_table(
            ["model", "parameters", "export", "MB", "largest difference of a feature's entry from PyTorch"],
            [
                [
                    model,
                    f"{measured['parameters']:,}",
                    kind,
                    f"{told['megabytes']:.1f}",
                    f"{told['largest_difference']:.1e}",
                ]
                for model, measured in models.items()
                for kind, told in measured["exports"].items()
            ],
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures everything, and writes the record and its page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for worlds and exports; absent or empty")
    parser.add_argument(
        "--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="others stay as they are"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="of worlds; 1 is that of `make check-tiny`")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for onnx_encoders.json and .md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.models:
        make, sizes, is_trained = MODELS[name]
        model, processor = make()
        with torch.no_grad():
            models, exports = exports_of(model, processor, arguments.work / name.replace("/", "-"))
            pixels = torch.randn(1, 3, *model.image_shape, generator=torch.Generator().manual_seed(0))
            words = processor.encode_captions(["a man in a red coat with a blue backpack and white sneakers"])
            found = {
                "date": date.today().isoformat(),
                "parameters": model.num_parameters(),
                "exports": exports,
                "speeds": speeds(models, {"pixel_values": pixels, **words}, sizes),
                "ranks": ranks(models, processor, arguments.work, arguments.seeds) if is_trained else [],
            }
        file = arguments.output / "onnx_encoders.json"
        record = read_json(file) if file.exists() else {"models": {}}
        record |= {
            "command": f"python benchmarks/onnx_encoders.py --work DIR --seeds {' '.join(map(str, arguments.seeds))}",
            "seeds": arguments.seeds,
            "processor": processor_name(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
        }
        record["models"] = {each: record["models"].get(each) for each in MODELS} | {name: found}
        write_json(file, record)
        write_whole(arguments.output / "onnx_encoders.md", to_markdown(record))


if __name__ == "__main__":
    main()
