"""Evaluate a model on ITCPR: Rank-1/5/10, mAP and mINP of three kinds of query and of two joined, with intervals.

    python examples/evaluate_itcpr.py --model quickstart/model --data quickstart/world/ITCPR --output results
    python examples/evaluate_itcpr.py --model pretrained/dual --dataset CUHK-PEDES --data /data/CUHK-PEDES

The second is text-to-image retrieval, for which every caption is a query by itself. It prints a table, and writes a
page with intervals, sources, caption lengths and pictures (results.md) and every query's ranks (results.json). On the
painted world of the quickstart it takes 15 seconds on two cores. On the real ITCPR (2,202 queries, 20,510 gallery
images) the released weights reach Rank-1 46.6 and mAP 55.7 with image and caption; encoding needs a GPU, or several
(`accelerate launch examples/evaluate_itcpr.py --features DIR ...`); scoring takes half a minute on two cores, the
curves in the pictures a minute more.

`python -m fafa.evaluation.compare results_a results_b` compares two reports, query by query.

The file is not called evaluate.py, because `import evaluate` would then import it instead of the library.
"""

import argparse
import os
from pathlib import Path

import fafa  # noqa: F401 - before what takes long, so that Ctrl-C is answered from here on  # isort: skip
import torch
from datasets import load_dataset

from fafa import __version__
from fafa.commands import add_model_options, check_device, check_numbers, command, load_given_model
from fafa.dataset_builders import TEXT_IMAGE
from fafa.drawing.curves import check_charts
from fafa.evaluation import QUERY_MODES, evaluate_itcpr, text_to_image_tables, write_report
from fafa.files import check_output_folder, printable
from fafa.model_card import add_results_to_card

# Set by `accelerate launch` and torchrun. All processes encode; the first one reports.
RANK = int(os.environ.get("RANK", 0))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser, num_workers=0)
    parser.add_argument("--data", required=True, help="folder of the test set: query.json, gallery.json, images")
    parser.add_argument(
        "--dataset",
        choices=["ITCPR", *TEXT_IMAGE],
        default="ITCPR",
        help="what it is; of images with captions every caption is a query by itself (text to image)",
    )
    parser.add_argument("--split", default="test", help="of images with captions: test or validation")
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder for the report")
    parser.add_argument("--features", type=Path, help="folder that keeps features, to resume from and to use again")
    parser.add_argument(
        "--modes", nargs="+", choices=list(QUERY_MODES), metavar="MODE", help="kinds of query; default: all"
    )
    parser.add_argument(
        "--features-dtype", choices=["float32", "bfloat16", "float16"], help="of the gallery's features"
    )
    parser.add_argument("--update-card", action="store_true", help="add the results to the card in the model's folder")
    parser.add_argument("--no-pictures", action="store_true", help="tables only: no curves, no sheets of queries")
    arguments = parser.parse_args()
    check_numbers(parser, arguments, "batch_size", "num_workers")
    check_device(parser, arguments.device)
    if arguments.dataset == "ITCPR":
        arguments.modes = arguments.modes or list(QUERY_MODES)
    elif arguments.modes not in (None, ["caption"]):
        parser.error(f"--modes: {arguments.dataset} has captions without reference images; leave it out")
    else:
        arguments.modes = ["caption"]
    if arguments.update_card and not Path(arguments.model).is_dir():
        parser.error(
            f"--update-card changes the card in the model's folder, but {arguments.model} is not a folder here"
        )
    return arguments


def main(arguments: argparse.Namespace) -> None:
    """Evaluate, print, write."""
    pictures = not arguments.no_pictures
    if pictures:
        check_charts()  # if matplotlib is missing, it is better to know before
    if RANK == 0:
        check_output_folder(arguments.output)  # likewise if nothing can be written there
        if arguments.update_card:
            check_output_folder(arguments.model)

    # 1. The model and its processor.
    model, processor = load_given_model(arguments)

    # 2. The test set. Images are opened later, when they are encoded.
    if arguments.dataset == "ITCPR":
        queries = load_dataset("ITCPR", "query", data_dir=arguments.data, split="test")
        gallery = load_dataset("ITCPR", "gallery", data_dir=arguments.data, split="test")
    else:
        images = load_dataset(arguments.dataset, data_dir=arguments.data, split=arguments.split)
        queries, gallery = text_to_image_tables(images, arguments.dataset)

    # 3. Encode the gallery once and the queries in every mode, score all pairs, rank; and again without the matches.
    report = evaluate_itcpr(
        model,
        processor,
        queries,
        gallery,
        modes=arguments.modes,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        features_dir=arguments.features,
        features_dtype=arguments.features_dtype and getattr(torch, arguments.features_dtype),
        curves=pictures,
        open_set=True,
    )
    if RANK > 0:
        return
    report.settings = {
        "model": arguments.model,
        "data": arguments.data,
        "dataset": arguments.dataset,
        "dtype": arguments.dtype,
        "features_dtype": arguments.features_dtype or arguments.dtype,
        "device": torch.device(arguments.device).type,
        "versions": {"fafa": __version__, "torch": torch.__version__},
        **report.settings,
    }

    # 4. The table, and the files.
    print(report.to_markdown())
    for path in write_report(report, arguments.output, *((queries, gallery) if pictures else ())):
        print(f"written: {printable(path)}")

    # 5. The model's card, where it is asked for.
    if arguments.update_card:
        counts = {"num_queries": len(queries), "num_gallery": len(gallery)}
        overall = {mode: groups["overall"] for mode, groups in report.metrics.items()}
        add_results_to_card(arguments.model, arguments.data, overall, **counts)
        print(f"updated: {Path(arguments.model, 'README.md')}")


if __name__ == "__main__":  # workers that read images may import this file
    given = parse_arguments()
    with command(
        kept="Without --features nothing is kept of what was encoded."
        if given.features is None
        else f"What was encoded is kept in {printable(given.features)}: the same command goes on from there."
    ):
        main(given)
