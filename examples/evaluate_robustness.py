"""How a model breaks: corrupted photos and sentences, contradictions between them, other wordings, negations.

    python examples/evaluate_robustness.py --model checkpoints/tiny --data quickstart/world/ITCPR --output robustness

`fafa evaluate robustness` does the same.

Any model, any test set of ITCPR's form. The gallery stays clean; queries by image and caption are spoilt in 14 ways, up
to five severities each (ITCPR-C). Writes tables (robustness.md), curves, a sheet that shows every corruption, and all
figures (robustness.json). On the painted world of `make train-world` it takes two minutes on two cores.
"""

import argparse

import fafa  # noqa: F401 - before what takes long, so that Ctrl-C is answered from here on  # isort: skip
import json

from fafa.commands import command, load_given_model
from fafa.evaluation.options import robustness_options
from fafa.evaluation.robustness import write_robustness_report
from fafa.evaluation.run import check_outputs, evaluate_spoilt, load_test_set, note_settings, tell


def parse_arguments() -> argparse.Namespace:
    """Read the command line; the options are those of `fafa evaluate robustness`."""
    return robustness_options(None, None, __doc__)


def main(options: argparse.Namespace) -> None:
    """Evaluate, print, write."""
    # 1. The model and the test set.
    check_outputs(options)
    model, processor = load_given_model(options)
    queries, gallery = load_test_set(options.data)

    # 2. The gallery is encoded once, the queries anew for every corruption.
    report = evaluate_spoilt(model, processor, queries, gallery, options)
    note_settings(report, options)

    # 3. Tables and pictures.
    files = write_robustness_report(report, options.output, None if options.no_pictures else queries)
    tell(report.to_markdown(), json.loads(report.to_json()), files, options.json)


if __name__ == "__main__":  # workers that read images may import this file
    given = parse_arguments()
    with command(kept="Nothing is kept of an evaluation that did not end."):
        main(given)
