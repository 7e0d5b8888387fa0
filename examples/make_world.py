"""Make the painted world of people: a training set like SynCPR and a test set like ITCPR.

    python examples/make_world.py --output train-world/world

paints 24,000 training images and about 700 test images in a minute or two on two cores (500 MB). The folders have the
formats of the real data sets, so everything that reads its `SynCPR` and its `ITCPR` reads the real ones, too.
"""

import argparse
from pathlib import Path

from fafa.commands import check_numbers, command
from fafa.files import check_output_folder, printable
from fafa.world import TOWNS, make_world


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("train-world/world"), help="folder to write")
    parser.add_argument("--diptychs", type=int, default=12_000, help="training pairs; each gives two triplets")
    parser.add_argument("--diptychs-per-quadruple", type=int, default=4, help="people painted per quadruple")
    parser.add_argument("--queries", type=int, default=125, help="test queries")
    parser.add_argument("--gallery", type=int, default=560, help="images in the test gallery")
    parser.add_argument("--height", type=int, default=192, help="height of the images in pixels; they are half as wide")
    parser.add_argument("--look-alikes", type=int, default=2, help="others in the asked-for clothes, for each query")
    parser.add_argument("--caption-noise", type=float, default=0.0, help="share of triplets with captions of others")
    parser.add_argument("--spoilt", type=float, default=0.0, help="share of images that are blurred or partly hidden")
    parser.add_argument("--town", choices=list(TOWNS), default="home", help="whose garments, colours and words")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=None, help="painting processes; default: one per core")
    arguments = parser.parse_args()
    if arguments.workers == 0:
        parser.error("--workers is 0, expected a number from 1")
    check_numbers(parser, arguments, "workers")
    return arguments


def main(arguments: argparse.Namespace) -> None:
    """Make the world and say where it is."""
    check_output_folder(arguments.output)

    # 1. Paint. A folder that already holds this very world is reused, and damaged files in it are painted again; any
    #    other content is an error.
    world = make_world(
        arguments.output,
        num_diptychs=arguments.diptychs,
        diptychs_per_quadruple=arguments.diptychs_per_quadruple,
        num_queries=arguments.queries,
        gallery_size=arguments.gallery,
        image_size=(arguments.height, arguments.height // 2),
        seed=arguments.seed,
        num_workers=arguments.workers,
        look_alikes=arguments.look_alikes,
        caption_noise=arguments.caption_noise,
        spoilt=arguments.spoilt,
        town=arguments.town,
    )

    # 2. Say where things are.
    print(f"training set: {printable(world / 'SynCPR')}")
    print(f"test set:     {printable(world / 'ITCPR')}")


if __name__ == "__main__":  # painting starts processes, which import this file
    given = parse_arguments()
    with command(kept=f"{printable(given.output)} holds a part of the world: the same command makes it whole."):
        main(given)
