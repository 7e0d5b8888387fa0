"""The options of `fafa evaluate`'s kinds, and of the examples that take the same steps."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import torch

from ..commands import add_model_options, check_device, check_numbers, make_parser
from ..dataset_builders import TEXT_IMAGE
from ..retriever import QUERY_MODES

BENCHMARKS = ("FashionIQ", "CIRR", "CIRCO")


def itcpr_options(arguments: Sequence[str] | None, program: str | None, description: str) -> Namespace:
    """Of an evaluation on ITCPR, another test set of its form, or images with captions (text to image).

    Args:
        arguments: of the command line; None for this process's.
        program: the command, as it is given; None for the script's name.
        description: for its help; so are those of the other functions here.

    Raises:
        SystemExit: with 2, after one line that names the option; with 0 after the help.
    """
    parser = make_parser(program, description)
    add_model_options(parser, num_workers=0)
    _add_data(parser)
    parser.add_argument(
        "--dataset",
        choices=["ITCPR", *TEXT_IMAGE],
        default="ITCPR",
        help="what it is; of images with captions every caption is a query by itself (text to image)",
    )
    parser.add_argument("--split", default="test", help="of images with captions: test or validation")
    _add_features(parser)
    parser.add_argument(
        "--modes", nargs="+", choices=list(QUERY_MODES), metavar="MODE", help="kinds of query; default: all"
    )
    parser.add_argument(
        "--features-dtype", choices=["float32", "bfloat16", "float16"], help="of the gallery's features"
    )
    parser.add_argument("--update-card", action="store_true", help="add the results to the card in the model's folder")
    _add_outputs(parser, "results")
    options = parser.parse_args(arguments)
    _check(parser, options)
    if options.dataset == "ITCPR":
        options.modes = options.modes or list(QUERY_MODES)
    elif options.modes not in (None, ["caption"]):
        parser.error(f"--modes: {options.dataset} has captions without reference images; leave it out")
    else:
        options.modes = ["caption"]
    if options.update_card and not Path(options.model).is_dir():
        parser.error(f"--update-card changes the card in the model's folder, but {options.model} is not a folder here")
    return options


def cir_options(arguments: Sequence[str] | None, program: str | None, description: str) -> Namespace:
    """Of an evaluation on a benchmark of composed image retrieval."""
    parser = make_parser(program, description)
    add_model_options(parser, num_workers=0)
    parser.add_argument("--benchmark", required=True, choices=BENCHMARKS)
    parser.add_argument("--data", required=True, help="folder of the benchmark: annotations and images")
    parser.add_argument("--split", default="val", help="val, or a test split (CIRR: test1, CIRCO: test)")
    parser.add_argument("--mode", default="image+caption", choices=list(QUERY_MODES), help="kind of query")
    _add_features(parser)
    _add_outputs(parser, "results", pictures=False)
    options = parser.parse_args(arguments)
    _check(parser, options)
    return options


def robustness_options(arguments: Sequence[str] | None, program: str | None, description: str) -> Namespace:
    """Of an evaluation of spoilt queries."""
    parser = make_parser(program, description)
    add_model_options(parser, num_workers=0)
    _add_data(parser)
    parser.add_argument("--severities", nargs="+", type=int, choices=range(1, 6), default=[1, 2, 3, 4, 5], metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice")
    _add_outputs(parser, "robustness")
    options = parser.parse_args(arguments)
    _check(parser, options)
    if options.seed < 0:
        parser.error(f"--seed is {options.seed}, expected a number from 0")
    return options


def embedder_options(arguments: Sequence[str] | None, program: str | None, description: str) -> Namespace:
    """Of an evaluation of a general embedder."""
    parser = make_parser(program, description)
    parser.add_argument("--embedder", required=True, help="folder or Hub id of a model of sentence-transformers")
    _add_data(parser)
    parser.add_argument(
        "--gallery-captions",
        metavar="FILE",
        help="compare captions with captions: JSON of image paths and captions, or a list of records with file_path "
        "and caption, such as the gallery.json of a test set that has some",
    )
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=32, help="inputs embedded at a time")
    _add_outputs(parser, "results")
    options = parser.parse_args(arguments)
    check_numbers(parser, options, "batch_size")
    check_device(parser, options.device)
    return options


def _add_data(parser: ArgumentParser) -> None:
    parser.add_argument("--data", required=True, help="folder of the test set: query.json, gallery.json, images")


def _add_features(parser: ArgumentParser) -> None:
    parser.add_argument("--features", type=Path, help="folder that keeps features, to resume from and to use again")


def _add_outputs(parser: ArgumentParser, folder: str, pictures: bool = True) -> None:
    parser.add_argument("--output", type=Path, default=Path(folder), help=f"folder for the report (default: {folder})")
    if pictures:
        parser.add_argument("--no-pictures", action="store_true", help="tables only: no curves, no sheets")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _check(parser: ArgumentParser, options: Namespace) -> None:
    check_numbers(parser, options, "batch_size", "num_workers")
    check_device(parser, options.device)
