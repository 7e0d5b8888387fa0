"""Show ranked results of ITCPR test queries: a table, and a picture with green frames around correct images.

    python examples/show_results.py --model checkpoints/tiny --data quickstart/world/ITCPR --output sheet.png

The queries are sampled at random, not picked; the sheet shows the seed. It takes a few seconds on the painted world;
the real ITCPR (20,510 gallery images to encode) needs a GPU.
"""

import argparse
import random

import fafa  # noqa: F401 - before what takes long, so that Ctrl-C is answered from here on  # isort: skip
from datasets import load_dataset

from fafa.commands import add_model_options, check_device, check_numbers, command, load_given_model
from fafa.evaluation import QUERY_MODES
from fafa.files import printable
from fafa.loading import undecoded
from fafa.retrieval import Gallery, RankedImage, RankedQuery, check_sheet, draw_contact_sheet
from fafa.tables import markdown_table


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    add_model_options(parser)
    parser.add_argument("--data", required=True, help="folder of the ITCPR test set (query.json, gallery.json, images)")
    parser.add_argument("--num-queries", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="which queries")
    parser.add_argument("--query", choices=list(QUERY_MODES), default="image+caption")
    parser.add_argument("--output", default="sheet.png", help="where to write the picture")
    args = parser.parse_args()
    check_numbers(parser, args, "num_queries", "batch_size", "num_workers")
    check_device(parser, args.device)
    return args


def main(args: argparse.Namespace) -> None:
    """Encode, rank, draw."""
    # 1. The test set and the model. If the picture cannot be drawn or written, it is better to know before.
    check_sheet(args.output)
    queries = load_dataset("ITCPR", "query", data_dir=args.data, split="test")
    gallery_set = load_dataset("ITCPR", "gallery", data_dir=args.data, split="test")
    queries, gallery_set = undecoded(queries), undecoded(gallery_set)  # the package's own reader opens the images
    num_queries = min(args.num_queries, len(queries))
    check_sheet(args.output, num_queries)
    model, processor = load_given_model(args)

    # 2. Encode the gallery once.
    gallery = Gallery.from_dataset(
        model, processor, gallery_set, batch_size=args.batch_size, num_workers=args.num_workers
    )
    instance_ids = list(gallery_set["instance_id"])

    # 3. Rank it for queries sampled at random.
    chosen = sorted(random.Random(args.seed).sample(range(len(queries)), num_queries))
    rows = []
    for query in queries.select(chosen):
        image = query["image"] if "image" in args.query else None
        caption = query["caption"] if "caption" in args.query else None
        ranking = gallery.search(image=image, caption=caption, top=None)
        correct = [instance_ids[result.index] == query["instance_id"] for result in ranking]
        shown = [
            RankedImage(gallery_set[result.index]["image"], result.score, is_correct)
            for result, is_correct in zip(ranking[:10], correct[:10], strict=True)
        ]
        rows.append(RankedQuery(image, caption, shown, first_match_rank=correct.index(True) + 1))

    # 4. A table, the picture, and how often the first image of these few is right.
    table = [[row.caption or "(the image alone)", f"{row.first_match_rank:,}"] for row in rows]
    print(markdown_table(["query", "rank of the first correct image"], table))
    hits = sum(row.first_match_rank == 1 for row in rows)
    draw_contact_sheet(
        rows,
        args.output,
        subtitle=f"{num_queries} of {len(queries):,} test queries sampled at random (seed {args.seed}), gallery of "
        f"{len(gallery):,} images; {hits} of {num_queries} correct at rank 1",
    )
    print(f"{hits} of these {num_queries} queries correct at rank 1; picture: {printable(args.output)}")


if __name__ == "__main__":  # processes that read images may import this file
    given = parse_arguments()
    with command(kept="Nothing was written."):
        main(given)
