"""How good the recipe of checkpoints/tiny is: several training seeds, on galleries of people never trained on.

    for seed in 0 1 2; do python examples/train.py --config examples/configs/tiny.yaml --seed $seed \\
        --output_dir tiny/model-$seed; done                             # `make tiny` paints tiny/world; 20 minutes each
    python benchmarks/tiny_model.py --models tiny/model-0 tiny/model-1 tiny/model-2 --work tiny

Each model ranks three galleries of 500 images for 115 queries each; per query at least one image of the same person in
other clothes and two of other people in the clothes asked for. The learning curve is each run's own: held-out
quadruples of the training world. Results go to benchmarks/results/tiny_model.json and tiny_model.md.
"""

import argparse
import json
from datetime import date
from pathlib import Path
from statistics import mean, stdev

import torch
from ablation import RESULTS, TEST_SEEDS, read_test_sets
from scoring import processor_name
from torch import Tensor

from fafa.evaluation import QUERY_MODES, retrieval_metrics
from fafa.markdown_text import Markdown
from fafa.model_folder import load_model
from fafa.tables import markdown_table
from fafa.world import make_world

METRICS = ("rank-1", "rank-5", "rank-10", "mAP", "mINP")


@torch.no_grad()
def evaluate(folder: Path, work: Path) -> dict[str, dict[str, float]]:
    """Metrics of each kind of query, mean over the galleries."""
    model, processor = load_model(folder)
    found: dict[str, list[dict[str, float]]] = {mode: [] for mode in QUERY_MODES}
    for inputs, pixels, query_ids, gallery_ids in read_test_sets(work, processor):
        targets: Tensor = model.get_target_features(pixels)
        for mode, names in QUERY_MODES.items():
            queries = model.get_query_features(**{name: inputs[name] for name in names})
            found[mode].append(retrieval_metrics(model.score(queries, targets), query_ids, gallery_ids))
    return {mode: {name: mean(each[name] for each in results) for name in METRICS} for mode, results in found.items()}


def learning_curve(folder: Path) -> dict[int, dict[str, float]]:
    """Held-out metrics by training step."""
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    evaluations = [entry for entry in history if "eval_rank-1" in entry]
    return {entry["step"]: {name: entry[f"eval_{name}"] for name in METRICS} for entry in evaluations}


def to_markdown(record: dict) -> str:
    """The record as a page."""
    lines = [
        "# The recipe of checkpoints/tiny over training seeds",
        "",
        f"{record['date']}, {record['processor']}, torch {record['torch']}. Recipe: examples/configs/tiny.yaml, "
        f"{len(record['models'])} seeds. Percent, {record['queries']} queries over {len(TEST_SEEDS)} galleries of 500 "
        "images of people never trained on.",
        "",
    ]
    table = []
    for mode in QUERY_MODES:
        rows = [metrics[mode] for metrics in record["results"]]
        for model, row in zip(record["models"], rows, strict=True):
            table.append([mode, model, *(f"{row[name]:.1f}" for name in METRICS)])
        cells = [f"{mean(row[n] for row in rows):.1f} ± {stdev([row[n] for row in rows]):.1f}" for n in METRICS]
        table.append([mode, Markdown("**mean ± standard deviation**"), *cells])
    lines.append(markdown_table(["query", "seed", *METRICS], table))
    lines += ["", "Learning curve: held-out Rank-1 / mAP by step, image + caption.", ""]
    points = [
        [step, *(f"{curve[step]['rank-1']:.1f} / {curve[step]['mAP']:.1f}" for curve in record["curves"])]
        for step in record["curves"][0]
    ]
    lines.append(markdown_table(["step", *record["models"]], points))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Paint the galleries, evaluate, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", type=Path, nargs="+", required=True, help="folders of examples/train.py, two or more"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for the galleries")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    for seed in TEST_SEEDS:
        make_world(arguments.work / f"test-{seed}", num_diptychs=1, num_queries=115, gallery_size=500, seed=seed)
    record = {
        "date": date.today().isoformat(),
        "processor": processor_name(),
        "torch": torch.__version__,
        "queries": 115 * len(TEST_SEEDS),
        "models": [str(number) for number in range(len(arguments.models))],
        "results": [evaluate(folder, arguments.work) for folder in arguments.models],
        "curves": [learning_curve(folder) for folder in arguments.models],
    }
    (arguments.output / "tiny_model.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (arguments.output / "tiny_model.md").write_text(to_markdown(record), encoding="utf-8")
    print(to_markdown(record))


if __name__ == "__main__":
    main()
