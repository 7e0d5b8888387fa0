"""Make a data set by a recipe.

    fafa synthesize painter --output data/painter            # a recipe of the package, on a CPU, in minutes
    fafa synthesize my_recipe.yaml --output data/mine --dry-run
    fafa synthesize syncpr --output data/syncpr --shard 3/16
    accelerate launch -m fafa.synthesis syncpr --output data/syncpr   # a shard per process

The same command goes on where it was stopped, even by kill -9. With another recipe it refuses, and says what changed.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from ..commands import check_numbers, command, make_parser
from ..files import check_output_folder, write_whole
from .brakes import remedy_of
from .components import SynthesisError
from .preflight import discard_canary, run_canary, try_models
from .recipes import find_recipe, read_recipe
from .report.counting import num_kept
from .settings import RecipeError
from .stages import Stage, Workspace, discard_from, position_of, run_stages


def parse_arguments(
    arguments: list[str] | None = None, program: str = "python -m fafa.synthesis"
) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(program, __doc__)
    parser.add_argument("recipe", help="a YAML file, or the name of a recipe of the package")
    parser.add_argument("--output", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--shard", type=_shard, help="i/n: do the i-th of n parts, from 0; all write to one folder")
    parser.add_argument("--limit", type=int, help="number of items to make; default: all")
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage")
    parser.add_argument("--redo", metavar="STAGE", help="discard this stage and what follows from it, then go on")
    parser.add_argument("--dry-run", action="store_true", help="show prompts, the plan and what it would cost")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)
    check_numbers(parser, options, "limit")
    if options.redo and options.shard and options.shard[0]:
        parser.error("--redo discards what all shards made: give it to shard 0, then start the others without it")
    return options


def main(arguments: list[str] | None = None, program: str = "python -m fafa.synthesis") -> int:
    """Run the command; returns the exit status of one that went well."""
    options = parse_arguments(arguments, program)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    for chatty in ("httpx", "httpx2", "openai"):  # the library beneath openai has had two names
        logging.getLogger(chatty).setLevel(logging.WARNING)
    with command("What is finished stays: the same command goes on from there.", (SynthesisError, RecipeError)):
        _run(options)
    return 0


def _run(options: argparse.Namespace) -> None:
    file = find_recipe(options.recipe)
    recipe = read_recipe(file)
    if options.limit is not None:
        recipe = recipe.limited(options.limit)
    if options.dry_run:
        print(recipe.plan())
        return
    check_output_folder(options.output)

    # Under `accelerate launch` every process takes a part of the shard, and a GPU of its own.
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    number, total = options.shard or (0, 1)
    shard = (number + total * int(os.environ.get("RANK", "0")), total * processes)
    if "LOCAL_RANK" in os.environ:
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))

    stages = recipe.stages()
    show_progress = not options.quiet and shard[0] == 0
    work = Workspace(options.output, recipe.num_chunks, shard, show_progress, recipe.brakes)
    if options.redo:
        _discard(options.redo, stages, work, processes)
        discard_canary(recipe, work, options.redo)
    if options.until:
        stages = stages[: position_of(options.until, stages) + 1]
    for stage in stages:
        stage.check_settings(work)
    if shard[0] == 0:
        work.root.mkdir(parents=True, exist_ok=True)
        write_whole(work.root / "recipe.yaml", file.read_text(encoding="utf-8"))
    if recipe.brakes.preflight:
        try_models(recipe.stages()[: len(stages)], work)
    run_canary(recipe, work, len(stages))
    unfinished = run_stages(stages, work, wait=processes > 1)
    if unfinished:
        print(unfinished)
        return
    if shard[0] == 0:
        print(_summary(stages, work))
    if empty := _stage_that_kept_nothing(stages, work):
        reasons = work.manifest(empty)["counts"]["rejected"]
        (reason, count), *_ = reasons.items()
        raise SynthesisError(
            f"nothing was kept: stage {empty} rejected all {sum(reasons.values()):,} items, {count:,} of them for "
            f"{reason!r}. {remedy_of(reason)}. They lie in {work.folder(empty)}; once mended, give --redo {empty}."
        )
    if shard[0] == 0 and not options.until:
        print(recipe.next_steps(work))


def _stage_that_kept_nothing(stages: list[Stage], work: Workspace) -> str | None:
    """The first of the stages on the way to the last one that had items and kept none; None if all kept some."""
    by_name = {stage.name: stage for stage in stages}
    found, stage = None, stages[-1]
    while stage is not None:
        counts = work.manifest(stage.name).get("counts", {})
        if counts.get("items") and not num_kept(counts):
            found = stage.name
        stage = by_name.get(stage.source)
    return found


def _discard(name: str, stages: list[Stage], work: Workspace, processes: int) -> None:
    """Discard a stage and the later ones, once for all processes, before any of them goes on."""
    if processes == 1:
        discard_from(name, stages, work)
        return
    from torch import distributed

    distributed.init_process_group("gloo")
    try:
        if distributed.get_rank() == 0:
            discard_from(name, stages, work)
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def _summary(stages: list[Stage], work: Workspace) -> str:
    """What every stage made, and what it rejected for which reasons."""
    lines = [f"{'stage':12} {'items':>9} {'kept':>9}  rejected"]
    for stage in stages:
        counts = work.manifest(stage.name).get("counts", {})
        if "items" in counts:
            rejected = counts["rejected"]
            reasons = ", ".join(f"{number:,} {reason}" for reason, number in list(rejected.items())[:4])
            more = f", {len(rejected) - 4} more reasons" if len(rejected) > 4 else ""
            lines.append(f"{stage.name:12} {counts['items']:>9,} {num_kept(counts):>9,}  {reasons}{more}")
        else:
            lines.append(f"{stage.name:12} " + ", ".join(f"{number:,} {name}" for name, number in counts.items()))
    return "\n".join(lines)


def _shard(text: str) -> tuple[int, int]:
    try:
        number, total = (int(part) for part in text.split("/"))
    except ValueError:
        number, total = 0, 0
    if not 0 <= number < total:
        raise argparse.ArgumentTypeError(f"expected i/n with 0 <= i < n, such as 0/4: {text}")
    return number, total


if __name__ == "__main__":
    sys.exit(main())
