"""Find the bounds of a recipe's filter from a person's verdicts on a sample.

    fafa synthesize mine.yaml --output DIR     # best with `filter: {bounds: {}}`: every pair is judged
    fafa synthesize calibrate DIR              # draws pages of pairs, and verdicts.csv to fill in
    fafa synthesize calibrate DIR --verdicts DIR/calibration/verdicts.csv --precision 0.95

The first call also draws a sheet per score, from its lowest values to its highest. The second writes a report:
precision and recall of the present bounds, and bounds that reach the wanted precision, measured on verdicts that they
were not found on.
"""

import argparse
import sys
from pathlib import Path

from tqdm.auto import tqdm

from ..commands import check_numbers, command, make_parser
from ..files import check_output_folder
from ..names import counted
from .components import SynthesisError
from .filtering.calibration import (
    Pair,
    cut_in_halves,
    find_thresholds,
    read_judgements,
    read_pairs,
    read_verdicts,
    sample_pairs,
    write_form,
)
from .filtering.controls import count_controls
from .filtering.thresholds import Thresholds
from .settings import RecipeError, read_settings, read_yaml

FORM = "verdicts.csv"


def parse_arguments(
    arguments: list[str] | None = None, program: str = "python -m fafa.synthesis.calibrate"
) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(program, __doc__)
    parser.add_argument("folder", type=Path, help="the --output of a synthesis")
    parser.add_argument("--output", type=Path, help="where to write; by default calibration/ in that folder")
    parser.add_argument("--samples", type=int, default=200, help="pairs to judge (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (default: %(default)s)")
    parser.add_argument("--verdicts", type=Path, help="the filled-in file, to find bounds and report")
    parser.add_argument("--precision", type=float, default=0.95, help="to reach (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)
    if not 0 < options.precision <= 1:
        parser.error(f"--precision must be above 0 and at most 1: {options.precision}")
    check_numbers(parser, options, "samples")
    return options


def main(arguments: list[str] | None = None, program: str = "python -m fafa.synthesis.calibrate") -> int:
    """Run the command; returns the exit status of one that went well."""
    options = parse_arguments(arguments, program)
    output = options.output or options.folder / "calibration"
    with command(user_errors=(SynthesisError, RecipeError)):
        pairs = read_pairs(options.folder)
        recipe = options.folder / "recipe.yaml"
        present = read_settings(Thresholds, read_yaml(recipe).get("filter") or {}, f"{recipe}: filter")
        check_output_folder(output)
        output.mkdir(parents=True, exist_ok=True)
        print((_report if options.verdicts else _draw)(options, output, pairs, present))
    return 0


def _draw(options: argparse.Namespace, output: Path, pairs: list[Pair], present: Thresholds) -> str:
    from ..drawing.sheet import save_sheet
    from .filtering.calibration_sheets import PAIRS_PER_PAGE, draw_page, draw_score_sheet

    form = output / FORM
    if form.exists():  # somebody may have filled it in
        raise SynthesisError(f"{form} is there already: give it with --verdicts, or move it away")
    sample = sample_pairs(pairs, options.samples, options.seed)
    starts = range(0, len(sample), PAIRS_PER_PAGE)
    names = list(dict.fromkeys(name for pair in pairs for name in pair.scores))
    with tqdm(total=len(starts) + len(names), desc="sheets", disable=options.quiet) as bar:
        for page, start in enumerate(starts, start=1):
            sheet = draw_page(sample[start : start + PAIRS_PER_PAGE], options.folder, page, len(starts))
            save_sheet(sheet, output / f"page-{page:02d}.png")
            bar.update()
        for name in names:
            sheet = draw_score_sheet(name, pairs, options.folder, present.bounds.get(name))
            save_sheet(sheet, output / f"score-{name}.png")
            bar.update()
    write_form(form, sample, PAIRS_PER_PAGE)
    pages, of_all = counted(len(starts), "page"), counted(len(pairs), "pair")
    return (
        f"{pages} in {output}, with {len(sample):,} of {of_all}. Fill in {FORM} there, then "
        "give it with --verdicts. What each score means is on score-*.png."
    )


def _report(options: argparse.Namespace, output: Path, pairs: list[Pair], present: Thresholds) -> str:
    from .filtering.calibration_report import RECIPE, REPORT, write_report

    verdicts, empty = read_verdicts(options.verdicts, pairs)
    learned, unseen = cut_in_halves(verdicts)
    if not learned or not unseen:
        raise SynthesisError(f"{options.verdicts}: all verdicts are of one quadruple; judge more pairs")
    found = find_thresholds(learned, options.precision)
    controls = count_controls(read_judgements(options.folder), present)
    result = write_report(
        output, options.folder.name, (learned, unseen), empty, options.precision, present, found, controls
    )
    return (
        f"Bounds for a precision of {options.precision:g} are in {output / RECIPE}; on {result.good + result.bad:,} "
        f"verdicts that they were not found on they have precision {result.precision:.3f} and recall "
        f"{result.recall:.3f}. See {output / REPORT}."
    )


if __name__ == "__main__":
    sys.exit(main())
