"""Search a folder of photographs by a photo and a sentence, a sentence alone, or a photo alone.

    python examples/query.py --model quickstart/model --gallery photos/ --image me.jpg --caption "in a red coat"

Prints the images ranked first and writes a picture of them; `--index` keeps the gallery's features for the next search,
which encodes only the photographs that are new or changed since. With the tiny model of the quickstart, encoding takes
about 15 ms per small photograph on one CPU core, and 0.1 s per photograph of 12 megapixels, most of it for reading the
file, which `--num-workers` processes do at once; the full model wants a GPU, and `--dtype bfloat16` there. What to
expect: the tiny model has only ever seen painted people, and its answers over real photographs mean nothing. The full
model was trained for crops that show one person each.
"""

import argparse
import logging
from pathlib import Path

import torch

from fafa import FafaModel, FafaProcessor
from fafa.retrieval import Gallery, RankedImage, RankedQuery, draw_contact_sheet, find_images


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or Hub name of a FafaModel with its processor")
    parser.add_argument("--gallery", required=True, type=Path, help="folder of photographs, with its subfolders")
    parser.add_argument("--image", help="reference photo of the person")
    parser.add_argument("--caption", help="what the person looks like, or what differs from the photo")
    parser.add_argument("--top", type=int, default=10, help="how many results")
    parser.add_argument("--output", type=Path, default=Path("result.png"), help="where to write the picture")
    parser.add_argument("--index", type=Path, help="folder that keeps the gallery's features between searches")
    parser.add_argument("--on-error", choices=["skip", "raise"], default="skip", help="at a photo that cannot be read")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="precision of the model")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument(
        "--num-workers", type=int, help="processes that read images (default: one a core, up to 8; 0 for few images)"
    )
    arguments = parser.parse_args()
    if arguments.image is None and arguments.caption is None:
        parser.error("a query needs --image, --caption or both")
    if arguments.top < 1:
        parser.error(f"--top is {arguments.top}, expected a number from 1")
    return arguments


def main() -> None:
    """Encode, search, draw."""
    args = parse_arguments()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("fafa").setLevel(logging.INFO)

    # 1. The model and its processor.
    model = FafaModel.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).to(args.device)
    processor = FafaProcessor.from_pretrained(args.model)

    # 2. The gallery, encoded once: with an index, a later search reads the features, and an interrupted one goes on.
    try:
        processor(images=args.image, text=args.caption)  # a photo or caption that is of no use is better known before
        folder, output = args.gallery.absolute(), args.output.resolve()
        photos = [path for path in find_images(folder) if path.resolve() != output]  # the picture of the last search
        gallery = Gallery.from_images(
            model,
            processor,
            photos,
            batch_size=args.batch_size,
            on_error=args.on_error,
            num_workers=args.num_workers,
            features_dir=args.index,
            folder=folder,
        )
    except (OSError, ValueError) as error:  # no such folder, another model's index, no image that can be read, ...
        raise SystemExit(str(error)) from error

    # 3. The search.
    results = gallery.search(image=args.image, caption=args.caption, top=args.top)
    print(f"{'rank':>4}  {'score':>6}  image")
    for result in results:
        print(f"{result.rank:>4}  {result.score:>6.3f}  {result.path.relative_to(gallery.folder)}")

    # 4. The picture. Nobody knows which photographs are right, so all frames are grey.
    row = RankedQuery(args.image, args.caption, [RankedImage(result.path, result.score) for result in results])
    searched = f"{len(gallery)} images searched, {len(gallery.skipped)} unreadable and skipped"
    title = f"Search in {args.gallery.resolve().name}"
    draw_contact_sheet([row], args.output, title=title, subtitle=searched, max_results=args.top)
    print(f"picture: {args.output}")


if __name__ == "__main__":  # processes that read images may import this file
    main()
