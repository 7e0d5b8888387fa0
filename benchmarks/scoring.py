"""How fast scores and metrics are at ITCPR's size, against plain versions that build every token similarity.

    python benchmarks/scoring.py

Features are random unit vectors of the released model's sizes (2,202 queries, 20,510 images of 32 tokens, 256
dimensions, k = 6), with targets drawn towards their query so that metrics are neither 0 nor 100. First scores and a
yardstick in turns, a piece of the one and a piece of the other in one process, so that both find the same machine: once
as it is ("idle", if nothing else runs) and once beside two processes of its own that never rest:

  scores    `topk_mean_similarity` on blocks of queries, as the evaluation does it
  ranks     the places of the matches among these scores
  sgemm     nothing but the products (739 GFLOP), as torch.mm makes them, block by block, each written over by the next

Then three ways from features to metrics, each in a process of its own, whose time and peak memory it reports:

  fafa      `topk_mean_similarity` on blocks of queries, `retrieval_metrics` on rows as they come; at full size and on a
            slice
  released  as the released code does it: a broadcast product of blocks of 500 queries and 500 images into a tensor of
            queries x images x tokens, topk over all of it, argsort of the gallery; on the slice, because at full size
            it needs 6 GB for the tensor and 8 GB for a block
  matmul    the same with one matrix product instead of the broadcast one, which shows how much of the difference lies
            in that product alone; on the slice

Takes a minute or two on two cores. Results go to benchmarks/results/scoring.json and scoring.md.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

QUERIES, IMAGES, TOKENS, DIMENSIONS, K = 2_202, 20_510, 32, 256, 6
SLICE = (200, 400)  # queries, images
FULL = (QUERIES, IMAGES)
RUNS = [("fafa", *FULL), ("fafa", *SLICE), ("matmul", *SLICE), ("released", *SLICE)]
BUSY = 2  # processes beside which scores and products are measured again
GOALS = {True: 1.5, False: 1.0}  # CPU time of scores over that of sgemm, with AVX-512 and without
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


WAYS = {"fafa": fafa_metrics, "released": released_metrics, "matmul": matmul_metrics}


class Cost:
    """What calls took, summed over pieces of the work."""

    def __init__(self) -> None:
        self.wall_seconds = self.cpu_seconds = self.page_faults = 0.0

    def of(self, function: Callable, *arguments) -> object:
        """Calls the function, and adds what it took."""
        faults, wall, cpu = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter(), time.process_time()
        result = function(*arguments)
        self.wall_seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu
        self.page_faults += resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        return result

    def record(self, pairs: int) -> dict:
        """The sums, and the wall time a pair."""
        return vars(self) | {"nanoseconds_per_pair": self.wall_seconds / pairs * 1e9}


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """So many processes that never rest; they end with this one, however it ends."""
    spin = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
    processes = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure_in_turns(num_queries: int, num_images: int, num_busy: int) -> dict:
    """Scores, ranks and bare products of one size, in turns in this process, beside `num_busy` others."""
    from fafa.evaluation import MatchRanker
    from fafa.evaluation.itcpr import ROWS
    from fafa.scoring_fafa import topk_mean_similarity

    queries, targets, query_ids, gallery_ids = make_features(num_queries, num_images)
    products = torch.empty(256 * TOKENS, num_queries)

    def sgemm(images: Tensor) -> None:
        for block in images.split(256):
            torch.mm(block.flatten(0, 1), queries.T, out=products[: len(block) * TOKENS])

    topk_mean_similarity(queries[:64], targets[:64], K)  # imports and first-call set-up are not what is measured
    sgemm(targets[:64])
    ranker, costs = MatchRanker(query_ids, gallery_ids), {"scores": Cost(), "ranks": Cost(), "sgemm": Cost()}
    query_blocks = queries.split(ROWS)
    with busy_processes(num_busy):
        for rows, images in zip(query_blocks, targets.tensor_split(len(query_blocks)), strict=True):
            scores = costs["scores"].of(topk_mean_similarity, rows, targets, K)
            costs["ranks"].of(ranker.add, scores)
            costs["sgemm"].of(sgemm, images)
    pairs = num_queries * num_images
    return {"busy_processes": num_busy} | {name: cost.record(pairs) for name, cost in costs.items()}


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


def in_subprocess(function: str, *arguments) -> dict:
    """One measurement in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, __file__, "--measure", function, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def vector_extensions() -> list[str]:
    """What the processor has for arithmetic on many numbers at once, as far as torch says."""
    known = getattr(torch.cpu, "get_capabilities", dict)()
    names = [name for name in sorted(known) if known[name] is True and name.startswith(("avx", "amx", "fma", "sve"))]
    return names or [torch.backends.cpu.get_cpu_capability()]


def processor_name() -> str:
    """The processor's model name."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] if cpuinfo.exists() else []
    )
    return names[0].split(":")[1].strip() if names else platform.processor()


def summarize(runs: list[dict], idle: dict, busy: dict, load: float) -> dict:
    """The record of one benchmark: conditions, ratios, and whether the metrics agree."""
    full, ours, matmul, released = runs
    slowdown = {name: busy[name]["wall_seconds"] / idle[name]["wall_seconds"] for name in ("scores", "sgemm")}
    return {
        "date": date.today().isoformat(),
        "command": f"OMP_NUM_THREADS={torch.get_num_threads()} python benchmarks/scoring.py",
        "processor": processor_name(),
        "vector_extensions": vector_extensions(),
        "torch_uses": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_before": load,
        "times_faster_per_pair_than_released": released["nanoseconds_per_pair"] / full["nanoseconds_per_pair"],
        "times_faster_per_pair_than_matmul": matmul["nanoseconds_per_pair"] / full["nanoseconds_per_pair"],
        "cpu_time_over_sgemm": idle["scores"]["cpu_seconds"] / idle["sgemm"]["cpu_seconds"],
        "cpu_time_over_sgemm_busy": busy["scores"]["cpu_seconds"] / busy["sgemm"]["cpu_seconds"],
        "goal_of_cpu_time_over_sgemm": GOALS["AVX512" in torch.backends.cpu.get_cpu_capability()],
        "slowdown_when_busy": slowdown,
        "peak_mb_at_full_size": full["peak_mb"],
        "equal_metrics_on_slice": all(
            abs(ours["metrics"][name] - other["metrics"][name]) < 1e-4
            for other in (matmul, released)
            for name in ours["metrics"]
        ),
        "idle": idle,
        "busy": busy,
        "runs": runs,
    }


def to_markdown(record: dict) -> str:
    """The record as a page."""
    from fafa.tables import markdown_table

    lines = [
        "# Scoring and metrics at ITCPR's size",
        "",
        f"{record['date']}, {record['processor']} ({', '.join(record['vector_extensions'])}; torch uses "
        f"{record['torch_uses']}), {record['threads']} of {record['cores']} cores, torch {record['torch']}, "
        f"load before {record['load_before']:.1f}: `{record['command']}`",
        "",
        f"- Scores cost {record['cpu_time_over_sgemm']:.2f} times the CPU time of the bare products by torch.mm, in "
        f"turns in one process: at most {record['goal_of_cpu_time_over_sgemm']:.1f} was aimed at on such a processor.",
        f"- Beside {record['busy']['busy_processes']} processes that never rest, scores take "
        f"{record['slowdown_when_busy']['scores']:.1f} times as long as without, the bare products "
        f"{record['slowdown_when_busy']['sgemm']:.1f} times.",
        f"- {record['times_faster_per_pair_than_released']:.0f} times faster per pair than the released code's way, "
        f"{record['times_faster_per_pair_than_matmul']:.1f} times faster than with one matrix product.",
        f"- Peak memory at full size: {record['peak_mb_at_full_size']:,.0f} MB, the features "
        f"({record['runs'][0]['inputs_mb']:,.0f} MB) and the libraries included.",
        f"- Metrics on the slice are {'equal' if record['equal_metrics_on_slice'] else 'NOT EQUAL'} (within 1e-4).",
        "",
        f"## In turns at full size, {QUERIES:,} queries and {IMAGES:,} images",
        "",
        markdown_table(
            ["beside", "", "wall s", "CPU s", "ns per pair", "page faults"],
            [
                [
                    f"{turns['busy_processes'] or 'no'} busy processes",
                    name,
                    *(f"{turns[name][measure]:.2f}" for measure in ("wall_seconds", "cpu_seconds")),
                    *(f"{turns[name][measure]:,.0f}" for measure in ("nanoseconds_per_pair", "page_faults")),
                ]
                for turns in (record["idle"], record["busy"])
                for name in ("scores", "ranks", "sgemm")
            ],
        ),
        "",
        "Scores are new memory, a page for each 1,024; the bare products write over one block.",
        "",
        "## From features to metrics",
        "",
    ]
    rows = [
        [
            run["way"],
            *(f"{run[name]:,}" for name in ("queries", "images")),
            *(f"{run[name]:.2f}" for name in ("wall_seconds", "cpu_seconds")),
            *(f"{run[name]:,.0f}" for name in ("nanoseconds_per_pair", "inputs_mb", "peak_mb")),
            *(f"{run['metrics'][name]:.2f}" for name in ("rank-1", "mAP")),
        ]
        for run in record["runs"]
    ]
    header = ["way", "queries", "images", "wall s", "CPU s", "ns per pair", "inputs MB", "peak MB", "rank-1", "mAP"]
    lines.append(markdown_table(header, rows))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every way and write the results; with --measure, one way, printed as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for scoring.json and scoring.md")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        function, *values = arguments.measure
        if function == "in_turns":
            print(json.dumps(measure_in_turns(*map(int, values))))
        else:
            print(json.dumps(measure(values[0], int(values[1]), int(values[2]))))
        return

    load = os.getloadavg()[0]
    idle, busy = (in_subprocess("in_turns", *FULL, number) for number in (0, BUSY))
    record = summarize([in_subprocess("way", *run) for run in RUNS], idle, busy, load)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "scoring.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (arguments.output / "scoring.md").write_text(to_markdown(record), encoding="utf-8")
    print(to_markdown(record))


if __name__ == "__main__":
    main()
