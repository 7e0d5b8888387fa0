"""Evaluate a model on ITCPR: Rank-1/5/10, mAP and mINP of three kinds of query, overall and per source.

    python examples/evaluate_itcpr.py --model quickstart/model --data quickstart/world/ITCPR --output results

Prints a table and writes results.json and results.md. On the small world of the quickstart it takes a quarter of a
minute on two cores, most of it importing libraries. On the real ITCPR (2,202 queries, 20,510 gallery images) the
released weights reach Rank-1 46.6 and mAP 55.7 with image and caption; encoding wants a GPU, scoring takes seconds
anywhere.

The file is not called evaluate.py, because `import evaluate` would then import it instead of the library.
"""

import argparse
from pathlib import Path

import evaluate
import torch
from datasets import load_dataset

from fafa import FafaModel, FafaProcessor, __version__
from fafa.evaluation import QUERY_MODES, evaluate_itcpr

METRIC = Path(__file__).resolve().parent.parent / "evaluation" / "composed_retrieval"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub name of a FafaModel with its processor")
    parser.add_argument("--data", required=True, help="folder of the test set: query.json, gallery.json, images")
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder for results.json and results.md")
    parser.add_argument("--modes", nargs="+", choices=list(QUERY_MODES), default=list(QUERY_MODES), metavar="MODE")
    parser.add_argument("--batch-size", type=int, default=64, help="images encoded at a time")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that read images, beside this one")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="precision of the model")
    return parser.parse_args()


def main() -> None:
    """Evaluate, print, write."""
    arguments = parse_arguments()

    # 1. The model and its processor.
    model = FafaModel.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype)).to(arguments.device)
    processor = FafaProcessor.from_pretrained(arguments.model)

    # 2. The test set. Images are opened later, when they are encoded.
    queries = load_dataset("ITCPR", "query", data_dir=arguments.data, split="test")
    gallery = load_dataset("ITCPR", "gallery", data_dir=arguments.data, split="test")

    # 3. Encode the gallery once and the queries in every mode, score all pairs, rank. The overall metrics come from the
    #    `evaluate` library, with the module in evaluation/composed_retrieval.
    report = evaluate_itcpr(
        model,
        processor,
        queries,
        gallery,
        modes=arguments.modes,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        metric=evaluate.load(str(METRIC), keep_in_memory=True),
    )
    report.settings = {
        "model": arguments.model,
        "data": arguments.data,
        "dtype": arguments.dtype,
        "device": torch.device(arguments.device).type,
        "versions": {"fafa": __version__, "torch": torch.__version__},
    }

    # 4. The table, and the files.
    print(report.to_markdown())
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, text in {"results.json": report.to_json(), "results.md": report.to_markdown()}.items():
        (arguments.output / name).write_text(text, encoding="utf-8")
        print(f"written: {arguments.output / name}")


if __name__ == "__main__":  # workers that read images may import this file
    main()
