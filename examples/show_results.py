"""Draw ranked results of ITCPR test queries, with green frames around correct images and red ones around the rest.

    python examples/show_results.py --model quickstart/model --data quickstart/world/ITCPR --output sheet.png

The queries are drawn at random, not picked: the sheet says with which seed. Takes a few seconds on the small world; the
real ITCPR (20,510 gallery images to encode) wants a GPU.
"""

import argparse
import random

import fafa  # noqa: F401 - before what takes long, so that Ctrl-C is answered from here on  # isort: skip
import torch
from datasets import load_dataset

from fafa.commands import check_device, check_numbers, command, loading
from fafa.files import printable
from fafa.loading import undecoded
from fafa.model_folder import load_model
from fafa.retrieval import Gallery, RankedImage, RankedQuery, check_sheet, draw_contact_sheet


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or Hub name of a FafaModel with its processor")
    parser.add_argument("--data", required=True, help="folder of the ITCPR test set (query.json, gallery.json, images)")
    parser.add_argument("--num-queries", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="which queries")
    parser.add_argument("--query", choices=["image+caption", "caption", "image"], default="image+caption")
    parser.add_argument("--output", default="sheet.png", help="where to write the picture")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="precision of the model")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument(
        "--num-workers", type=int, help="processes that read images (default: one a core, up to 8; 0 for few images)"
    )
    args = parser.parse_args()
    check_numbers(parser, args, "num_queries", "batch_size", "num_workers")
    check_device(parser, args.device)
    return args


def main(args: argparse.Namespace) -> None:
    """Encode, rank, draw."""
    # 1. The test set and the model. That the picture cannot be drawn or written is better known before.
    check_sheet(args.output)
    queries = load_dataset("ITCPR", "query", data_dir=args.data, split="test")
    gallery_set = load_dataset("ITCPR", "gallery", data_dir=args.data, split="test")
    queries, gallery_set = undecoded(queries), undecoded(gallery_set)  # the package's own reader opens the images
    num_queries = min(args.num_queries, len(queries))
    check_sheet(args.output, num_queries)
    with loading(args.model):
        model, processor = load_model(args.model, dtype=getattr(torch, args.dtype))
    model.to(args.device)

    # 2. Encode the gallery once.
    gallery = Gallery.from_dataset(
        model, processor, gallery_set, batch_size=args.batch_size, num_workers=args.num_workers
    )
    instance_ids = list(gallery_set["instance_id"])

    # 3. Rank it for queries drawn at random.
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

    # 4. The picture, and how often the first image of these few is right.
    hits = sum(row.first_match_rank == 1 for row in rows)
    draw_contact_sheet(
        rows,
        args.output,
        title="FAFA: composed person retrieval",
        subtitle=f"{num_queries} of {len(queries):,} test queries drawn at random (seed {args.seed}), gallery of "
        f"{len(gallery):,} images; {hits} of {num_queries} correct at rank 1",
    )
    print(f"{hits} of these {num_queries} queries correct at rank 1; picture: {printable(args.output)}")


if __name__ == "__main__":  # processes that read images may import this file
    given = parse_arguments()
    with command(kept="Nothing was written."):
        main(given)
