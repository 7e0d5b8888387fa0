"""Evaluate a model on a benchmark of composed image retrieval: FashionIQ, CIRR or CIRCO.

    python examples/evaluate_cir.py --benchmark CIRR --model runs/coalign --data /data/CIRR --output results/cirr
    python examples/evaluate_cir.py --benchmark CIRR --split test1 ...      # files for its server instead of figures

`fafa evaluate cir` does the same.

Any model of the package's contract can be evaluated: FAFA, CoAlign, your own. Prints a table of metrics with their 95 %
intervals and writes results.md and results.json; of splits whose targets a server keeps (CIRR's test1, CIRCO's test)
the files that it accepts. Annotation files are the authors', images the user's own: dataset_builders/fashioniq.py,
cirr.py and circo.py say where they go.

CIRR's val (4,181 queries, 2,297 images) takes a ViT-g a minute or two on a GPU, CIRCO's gallery (123,403 images) half
an hour to an hour; --features keeps what was encoded. CoAlign's paper reports zero-shot figures of its own training
set; no weights of it are public, so that there is nothing to check against.
"""

import argparse

import fafa  # noqa: F401 - before what takes long, so that Ctrl-C is answered from here on  # isort: skip

from fafa.commands import command, load_given_model
from fafa.evaluation.options import cir_options
from fafa.evaluation.run import evaluate_benchmark, kept_of, load_benchmark, write_benchmark
from fafa.files import check_output_folder


def parse_arguments() -> argparse.Namespace:
    """Read the command line; the options are those of `fafa evaluate cir`."""
    return cir_options(None, None, __doc__)


def main(options: argparse.Namespace) -> None:
    """Evaluate, print, write."""
    # 1. The benchmark. Images are opened later, when they are encoded.
    check_output_folder(options.output)
    queries, gallery = load_benchmark(options.data, options.benchmark, options.split)

    # 2. The model, and the ranking of the gallery for every query.
    model, processor = load_given_model(options)
    results = evaluate_benchmark(model, processor, queries, gallery, options)

    # 3. Figures with their intervals, or files for the server; and what is missing of FashionIQ.
    write_benchmark(results, queries, len(gallery), options)


if __name__ == "__main__":  # workers that read images may import this file
    given = parse_arguments()
    with command(kept_of(given)):
        main(given)
