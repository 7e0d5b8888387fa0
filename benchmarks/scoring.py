"""How fast scores and metrics are at ITCPR's size, against plain versions that build every token similarity.

    python benchmarks/scoring.py

Features are random unit vectors of the released model's sizes (2,202 queries, 20,510 images of 32 tokens, 256
dimensions, k = 6), with targets drawn towards their query so that metrics are neither 0 nor 100. Three ways from
features to metrics and a yardstick, each in a process of its own, whose time and peak memory it reports:

  fafa      `topk_mean_similarity` on blocks of queries, `retrieval_metrics` on rows as they come; at full size and on a
            slice
  sgemm     nothing but the products (739 GFLOP), as torch.mm makes them, block by block, each written over by the next;
            at full size
  released  as the released code does it: a broadcast product of blocks of 500 queries and 500 images into a tensor of
            queries x images x tokens, topk over all of it, argsort of the gallery; on the slice, because at full size
            it needs 6 GB for the tensor and 8 GB for a block
  matmul    the same with one matrix product instead of the broadcast one, which shows how much of the difference lies
            in that product alone; on the slice

Takes about a minute on one core. Results go to benchmarks/results/scoring.json and scoring.md.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

QUERIES, IMAGES, TOKENS, DIMENSIONS, K = 2_202, 20_510, 32, 256, 6
SLICE = (200, 400)  # queries, images
FULL = (QUERIES, IMAGES)
RUNS = [("fafa", *FULL), ("sgemm", *FULL), ("fafa", *SLICE), ("matmul", *SLICE), ("released", *SLICE)]
REPEATS = 3  # the fastest counts; the full size runs once
RESULTS = Path(__file__).parent / "results"


def make_features(num_queries: int, num_images: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query and image features and their ids; some queries have two matches, most images are distractors."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(num_queries, DIMENSIONS, generator=generator)
    targets = torch.randn(num_images, TOKENS, DIMENSIONS, generator=generator)
    query_ids = torch.arange(num_queries)
    matches = torch.cat([query_ids, query_ids[: num_queries // 96]])  # 2,224 of 2,202 queries; ITCPR has 2,225
    gallery_ids = torch.full((num_images,), -1)
    gallery_ids[: len(matches)] = matches
    targets[: len(matches), :K] += 0.12 * queries[matches, None]
    queries /= queries.norm(dim=-1, keepdim=True)
    targets /= targets.norm(dim=-1, keepdim=True)  # in place: a copy would count as peak memory
    return queries, targets, query_ids, gallery_ids


def fafa_metrics(queries: Tensor, targets: Tensor, query_ids: Tensor, gallery_ids: Tensor) -> dict[str, float]:
    """What the package does."""
    from fafa.evaluation import retrieval_metrics
    from fafa.evaluation.itcpr import ROWS
    from fafa.scoring_fafa import topk_mean_similarity

    rows = (topk_mean_similarity(block, targets, K) for block in queries.split(ROWS))
    return retrieval_metrics(rows, query_ids, gallery_ids)


def released_metrics(queries: Tensor, targets: Tensor, query_ids: Tensor, gallery_ids: Tensor) -> dict[str, float]:
    """All token similarities, by broadcast products of blocks of 500."""
    similarities = torch.empty(len(queries), len(targets), TOKENS)
    queries, targets = queries[:, None, None, :], targets.permute(0, 2, 1)
    for top in range(0, len(queries), 500):
        for left in range(0, len(targets), 500):
            products = (queries[top : top + 500] @ targets[left : left + 500]).squeeze(2)
            similarities[top : top + 500, left : left + 500] = products
    return sorted_metrics(similarities.topk(K, dim=-1).values.mean(-1), query_ids, gallery_ids)


def matmul_metrics(queries: Tensor, targets: Tensor, query_ids: Tensor, gallery_ids: Tensor) -> dict[str, float]:
    """All token similarities, by one product."""
    similarities = (queries @ targets.flatten(0, 1).T).unflatten(1, (-1, TOKENS))
    return sorted_metrics(similarities.topk(K, dim=-1).values.mean(-1), query_ids, gallery_ids)


def sorted_metrics(scores: Tensor, query_ids: Tensor, gallery_ids: Tensor) -> dict[str, float]:
    """Metrics from a sort of the whole gallery and the running number of hits at every rank."""
    order = scores.argsort(dim=1, descending=True)
    hits = gallery_ids[order] == query_ids[:, None]
    num_hits = hits.cumsum(1)
    ranks = torch.arange(1, len(gallery_ids) + 1)
    metrics = {f"rank-{k}": 100 * (num_hits[:, k - 1] > 0).double().mean().item() for k in (1, 5, 10)}
    average_precision = (num_hits / ranks * hits).double().sum(1) / hits.sum(1)
    last = torch.stack([row.nonzero()[-1, 0] + 1 for row in hits])
    metrics["mAP"] = 100 * average_precision.mean().item()
    metrics["mINP"] = 100 * (hits.sum(1).double() / last).mean().item()
    return metrics


def sgemm(queries: Tensor, targets: Tensor, query_ids: Tensor, gallery_ids: Tensor) -> None:
    """The products alone, into one block that is written over and over."""
    products = torch.empty(256 * TOKENS, len(queries))
    for block in targets.split(256):
        torch.mm(block.flatten(0, 1), queries.T, out=products[: len(block) * TOKENS])


WAYS = {"sgemm": sgemm, "fafa": fafa_metrics, "released": released_metrics, "matmul": matmul_metrics}


def measure(way: str, num_queries: int, num_images: int) -> dict:
    """One way at one size, in this process."""
    WAYS[way](*make_features(4, 16))  # imports and first-call set-up are not what is measured
    features = make_features(num_queries, num_images)
    wall, cpu = float("inf"), float("inf")
    for _ in range(1 if num_images == IMAGES else REPEATS):
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        metrics = WAYS[way](*features)
        wall, cpu = min(wall, time.perf_counter() - wall_start), min(cpu, time.process_time() - cpu_start)
    pairs = num_queries * num_images
    return {
        "way": way,
        "queries": num_queries,
        "images": num_images,
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "nanoseconds_per_pair": wall / pairs * 1e9,
        "inputs_mb": sum(tensor.nbytes for tensor in features) / 1e6,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,  # kB on Linux
        "metrics": metrics,
    }


def measure_in_subprocess(*run) -> dict:
    """One way at one size, in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, __file__, "--measure", *map(str, run)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def processor_name() -> str:
    """The processor's model name."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] if cpuinfo.exists() else []
    )
    return names[0].split(":")[1].strip() if names else platform.processor()


def summarize(runs: list[dict]) -> dict:
    """The record of one benchmark: conditions, ratios, and whether the metrics agree."""
    full, products, ours, matmul, released = runs
    return {
        "date": date.today().isoformat(),
        "command": f"OMP_NUM_THREADS={torch.get_num_threads()} python benchmarks/scoring.py",
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "times_faster_per_pair_than_released": released["nanoseconds_per_pair"] / full["nanoseconds_per_pair"],
        "times_faster_per_pair_than_matmul": matmul["nanoseconds_per_pair"] / full["nanoseconds_per_pair"],
        "cpu_time_over_sgemm": full["cpu_seconds"] / products["cpu_seconds"],
        "peak_mb_at_full_size": full["peak_mb"],
        "equal_metrics_on_slice": all(
            abs(ours["metrics"][name] - other["metrics"][name]) < 1e-4
            for other in (matmul, released)
            for name in ours["metrics"]
        ),
        "runs": runs,
    }


def to_markdown(record: dict) -> str:
    """The record as a page."""
    lines = [
        "# Scoring and metrics at ITCPR's size",
        "",
        f"{record['date']}, {record['processor']}, {record['threads']} of {record['cores']} cores, torch "
        f"{record['torch']}: `{record['command']}`",
        "",
        f"- {record['times_faster_per_pair_than_released']:.0f} times faster per pair than the released code's way, "
        f"{record['times_faster_per_pair_than_matmul']:.1f} times faster than with one matrix product.",
        f"- Features to metrics cost {record['cpu_time_over_sgemm']:.2f} times the CPU time of the bare products by "
        "torch.mm. Below 1 means that another library's products are faster than torch.mm's here.",
        f"- Peak memory at full size: {record['peak_mb_at_full_size']:,.0f} MB, the features "
        f"({record['runs'][0]['inputs_mb']:,.0f} MB) and the libraries included.",
        f"- Metrics on the slice are {'equal' if record['equal_metrics_on_slice'] else 'NOT EQUAL'} (within 1e-4).",
        "",
        "| way | queries | images | wall s | CPU s | ns per pair | inputs MB | peak MB | rank-1 | mAP |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for run in record["runs"]:
        sizes = f"{run['way']} | {run['queries']:,} | {run['images']:,}"
        times = f"{run['wall_seconds']:.2f} | {run['cpu_seconds']:.2f} | {run['nanoseconds_per_pair']:,.0f}"
        memory = f"{run['inputs_mb']:,.0f} | {run['peak_mb']:,.0f}"
        metrics = [f"{run['metrics'][name]:.2f}" for name in ("rank-1", "mAP")] if run["metrics"] else ["", ""]
        lines.append(f"| {sizes} | {times} | {memory} | {' | '.join(metrics)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every way and write the results; with --measure, one way, printed as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for scoring.json and scoring.md")
    parser.add_argument("--measure", nargs=3, metavar=("WAY", "QUERIES", "IMAGES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        way, num_queries, num_images = arguments.measure
        print(json.dumps(measure(way, int(num_queries), int(num_images))))
        return

    record = summarize([measure_in_subprocess(*run) for run in RUNS])
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "scoring.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (arguments.output / "scoring.md").write_text(to_markdown(record), encoding="utf-8")
    print(to_markdown(record))


if __name__ == "__main__":
    main()
