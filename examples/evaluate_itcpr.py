"""Evaluate a model on ITCPR: Rank-1/5/10, mAP and mINP of three kinds of query and of two joined, with intervals.

    python examples/evaluate_itcpr.py --model checkpoints/tiny --data quickstart/world/ITCPR --output results
    python examples/evaluate_itcpr.py --model pretrained/dual --dataset CUHK-PEDES --data /data/CUHK-PEDES

`fafa evaluate` takes the same options and the same steps.

The second is text-to-image retrieval, for which every caption is a query by itself. It prints a table, and writes a
page with intervals, sources, caption lengths and pictures (results.md) and every query's ranks (results.json). On the
painted world of the quickstart it takes 15 seconds on two cores. On the real ITCPR (2,202 queries, 20,510 gallery
images) the released weights reach Rank-1 46.6 and mAP 55.7 with image and caption; encoding needs a GPU, or several
(`accelerate launch examples/evaluate_itcpr.py --features DIR ...`); scoring takes half a minute on two cores, the
curves in the pictures a minute more.

`fafa evaluate compare results_a results_b` compares two reports, query by query.

The file is not called evaluate.py, because `import evaluate` would then import it instead of the library.
"""

import argparse

import fafa  # noqa: F401 - before what takes long, so that Ctrl-C is answered from here on  # isort: skip

from fafa.commands import command, load_given_model
from fafa.evaluation import write_report
from fafa.evaluation.options import itcpr_options
from fafa.evaluation.run import (
    check_outputs,
    evaluate_test_set,
    figures_of,
    kept_of,
    load_test_set,
    note_settings,
    tell,
    update_card,
)
from fafa.workers import is_first_process


def parse_arguments() -> argparse.Namespace:
    """Read the command line; the options are those of `fafa evaluate`."""
    return itcpr_options(None, None, __doc__)


def main(options: argparse.Namespace) -> None:
    """Evaluate, print, write."""
    # 1. If matplotlib is missing, or nothing can be written, it is better to know before. Then the model.
    check_outputs(options)
    model, processor = load_given_model(options)

    # 2. The test set. Images are opened later, when they are encoded.
    queries, gallery = load_test_set(options.data, options.dataset, options.split)

    # 3. Encode the gallery once and the queries in every mode, score all pairs, rank; and again without the matches.
    report = evaluate_test_set(model, processor, queries, gallery, options)
    if not is_first_process():  # of those that `accelerate launch` started; all of them encode
        return
    note_settings(report, options)

    # 4. The files, and the model's card, where it is asked for.
    files = write_report(report, options.output, *(() if options.no_pictures else (queries, gallery)))
    if options.update_card:
        files.append(update_card(report, options))

    # 5. The table.
    tell(report.to_markdown(), figures_of(report), files, options.json)


if __name__ == "__main__":  # workers that read images may import this file
    given = parse_arguments()
    with command(kept_of(given)):
        main(given)
