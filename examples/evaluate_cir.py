"""Evaluate a model on a benchmark of composed image retrieval: FashionIQ, CIRR or CIRCO.

    python examples/evaluate_cir.py --benchmark CIRR --model runs/coalign --data /data/CIRR --output results/cirr
    python examples/evaluate_cir.py --benchmark CIRR --split test1 ...      # files for its server instead of figures

Any model of the package's contract can be evaluated: FAFA, CoAlign, your own. Prints a table of metrics with their 95 %
intervals and writes results.md and results.json; of splits whose targets a server keeps (CIRR's test1, CIRCO's test)
the files that it accepts. Annotation files are the authors', images the user's own: dataset_builders/fashioniq.py,
cirr.py and circo.py say where they go.

CIRR's val (4,181 queries, 2,297 images) takes a ViT-g a minute or two on a GPU, CIRCO's gallery (123,403 images) half
an hour to an hour; --features keeps what was encoded. CoAlign's paper reports zero-shot figures of its own training
set; no weights of it are public, so that there is nothing to check against.
"""

import argparse
from pathlib import Path

import fafa  # noqa: F401 - before what takes long, so that Ctrl-C is answered from here on  # isort: skip
from datasets import load_dataset

from fafa.commands import add_model_options, check_device, check_numbers, command, load_given_model
from fafa.dataset_builders.fashioniq import missing_images
from fafa.evaluation import QUERY_MODES, evaluate_circo, evaluate_cirr, evaluate_fashioniq, write_server_files
from fafa.evaluation.intervals import INTERVALS_EXPLAINED
from fafa.files import check_output_folder, printable, write_json, write_whole
from fafa.names import counted
from fafa.tables import markdown_table

EVALUATE = {"FashionIQ": evaluate_fashioniq, "CIRR": evaluate_cirr, "CIRCO": evaluate_circo}
QUERY_NUMBER = {"CIRR": "pair_id", "CIRCO": "query_id"}
INCOMPLETE = (
    "{missing} of {num_images} images are missing, and were left out of the gallery, with {left_out} of {num_queries} "
    "queries whose candidate or target they are. The rest is another, easier test: these figures are comparable with "
    "others over the same images alone. results.json names the images."
)
OVER_CATEGORIES = " The mean is over categories; for its interval queries are sampled within each."


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser, num_workers=0)
    parser.add_argument("--benchmark", required=True, choices=list(EVALUATE))
    parser.add_argument("--data", required=True, help="folder of the benchmark: annotations and images")
    parser.add_argument("--split", default="val", help="val, or a test split (CIRR: test1, CIRCO: test)")
    parser.add_argument("--mode", default="image+caption", choices=list(QUERY_MODES), help="kind of query")
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder for tables and files")
    parser.add_argument("--features", type=Path, help="folder that keeps features, to resume from and to use again")
    arguments = parser.parse_args()
    check_numbers(parser, arguments, "batch_size", "num_workers")
    check_device(parser, arguments.device)
    return arguments


def main(arguments: argparse.Namespace) -> None:
    """Evaluate, print, write."""
    check_output_folder(arguments.output)

    # 1. The benchmark. Images are opened later, when they are encoded.
    where = {"data_dir": arguments.data, "split": arguments.split}
    queries = load_dataset(arguments.benchmark, "query", **where)
    gallery = load_dataset(arguments.benchmark, "gallery", **where)

    # 2. The model, and the ranking of the gallery for every query.
    model, processor = load_given_model(arguments)
    results = EVALUATE[arguments.benchmark](
        model,
        processor,
        queries,
        gallery,
        arguments.mode,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        features_dir=arguments.features,
    )
    found = {
        "benchmark": arguments.benchmark,
        "split": arguments.split,
        "model": arguments.model,
        "mode": arguments.mode,
        "num_queries": len(queries),
        "num_gallery": len(gallery),
        "metrics": results.metrics,
        "intervals": results.intervals(),
    }
    lines = [f"# {arguments.benchmark}, {arguments.split}: {arguments.model}", ""]
    lines += [f"{counted(len(queries), 'query')} of {arguments.mode}, {counted(len(gallery), 'image')}.", ""]

    # 3. What is missing of FashionIQ.
    if arguments.benchmark == "FashionIQ":
        missing = missing_images(arguments.data, arguments.split)
        found["missing"] = missing
        if missing["images"]:
            numbers = {"missing": len(missing["images"]), "left_out": missing["num_queries_left_out"]}
            lines += [INCOMPLETE.format(**missing | numbers), ""]

    # 4. Figures with their intervals, or files for the server.
    if results.metrics:
        names = list(next(iter(results.metrics.values())))
        rows = []
        for group, values in results.metrics.items():
            ends = {name: "[{:.2f}, {:.2f}]".format(*found["intervals"][group][name]) for name in names}
            rows.append([group, *(f"{values[name]:.2f} {ends[name]}" for name in names)])
        lines += [markdown_table(["queries", *names], rows), ""]
        lines += [INTERVALS_EXPLAINED + (OVER_CATEGORIES if arguments.benchmark == "FashionIQ" else ""), ""]
    else:
        numbers = queries[QUERY_NUMBER[arguments.benchmark]][:]
        references = dict(zip(numbers, queries["reference"][:], strict=True))
        for file in write_server_files(arguments.benchmark, arguments.output, results.predictions, references):
            lines.append(f"For the server: {printable(file)}")
    text = "\n".join(lines)
    write_json(arguments.output / "results.json", found)
    write_whole(arguments.output / "results.md", text + "\n")
    print(text)
    print(f"written: {printable(arguments.output / 'results.md')}, results.json")


if __name__ == "__main__":  # workers that read images may import this file
    given = parse_arguments()
    with command(
        kept="Without --features nothing is kept of what was encoded."
        if given.features is None
        else f"What was encoded is kept in {printable(given.features)}: the same command goes on from there."
    ):
        main(given)
