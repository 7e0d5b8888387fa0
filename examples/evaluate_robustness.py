"""How a model breaks: corrupted photos and sentences, contradictions between them, other wordings, negations.

    python examples/evaluate_robustness.py --model quickstart/model --data quickstart/world/ITCPR --output robustness

Any model, any test set of ITCPR's form. The gallery stays clean; queries by image and caption are spoilt in 14 ways, up
to five severities each (ITCPR-C). Writes tables (robustness.md), curves, a sheet that shows every corruption, and all
figures (robustness.json). On the small world of the quickstart it takes two minutes on two cores.
"""

import argparse
from pathlib import Path

import fafa  # noqa: F401 - before what takes long, so that Ctrl-C is answered from here on  # isort: skip
import torch
from datasets import load_dataset

from fafa import __version__
from fafa.commands import add_model_options, check_device, check_numbers, command, load_given_model
from fafa.drawing.curves import check_charts
from fafa.evaluation.robustness import evaluate_robustness, write_robustness_report
from fafa.files import check_output_folder, printable


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser, num_workers=0)
    parser.add_argument("--data", required=True, help="folder of the test set: query.json, gallery.json, images")
    parser.add_argument("--output", type=Path, default=Path("robustness"), help="folder for the report")
    parser.add_argument("--severities", nargs="+", type=int, choices=range(1, 6), default=[1, 2, 3, 4, 5], metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice")
    parser.add_argument("--no-pictures", action="store_true", help="tables only")
    arguments = parser.parse_args()
    check_numbers(parser, arguments, "batch_size", "num_workers")
    check_device(parser, arguments.device)
    if arguments.seed < 0:
        parser.error(f"--seed is {arguments.seed}, expected a number from 0")
    return arguments


def main(arguments: argparse.Namespace) -> None:
    """Evaluate, print, write."""
    pictures = not arguments.no_pictures
    if pictures:
        check_charts()
    check_output_folder(arguments.output)
    model, processor = load_given_model(arguments)
    queries = load_dataset("ITCPR", "query", data_dir=arguments.data, split="test")
    gallery = load_dataset("ITCPR", "gallery", data_dir=arguments.data, split="test")
    report = evaluate_robustness(
        model,
        processor,
        queries,
        gallery,
        severities=arguments.severities,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        seed=arguments.seed,
    )
    report.settings = {
        "model": arguments.model,
        "data": arguments.data,
        "dtype": arguments.dtype,
        "fafa": __version__,
        "torch": torch.__version__,
        **report.settings,
    }
    print(report.to_markdown())
    for path in write_robustness_report(report, arguments.output, queries if pictures else None):
        print(f"written: {printable(path)}")


if __name__ == "__main__":  # workers that read images may import this file
    given = parse_arguments()
    with command(kept="Nothing is kept of an evaluation that did not end."):
        main(given)
