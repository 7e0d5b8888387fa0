"""Search a folder of photographs by a photo and a sentence, a sentence alone, or a photo alone.

    python examples/query.py --model quickstart/model --gallery photos/ --image me.jpg --caption "in a red coat"

`fafa index` and `fafa search` do the same in two steps.

Prints the images ranked first and writes a picture of them; `--index` keeps the gallery's features for the next search,
which encodes only the photographs that are new or changed since. With the tiny model of the quickstart most of the time
goes into reading files, which `--num-workers` processes do at once (benchmarks/results/indexing.md); the full model
needs a GPU, with `--dtype bfloat16`. What to expect: the tiny model has only ever seen painted people, and its answers
for real photographs mean nothing. The full model was trained for crops that show one person each.

The search leaves out photographs that cannot be read; files that programs keep beside photographs, such as previews and
waste baskets (`--include-rubbish` searches them, too); what `--exclude` names; and the query's own photograph, with its
exact copies, which would always be ranked first (`--keep-query-photo` shows it). The output says how many of each.
"""

import argparse
import logging
from pathlib import Path

from fafa.commands import add_model_options, check_device, check_numbers, command, load_given_model
from fafa.drawing.sheet import is_sheet
from fafa.files import printable
from fafa.names import counted
from fafa.retrieval import Gallery, RankedImage, RankedQuery, check_sheet, draw_contact_sheet, find_images


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    add_model_options(parser)
    parser.add_argument(
        "--gallery",
        required=True,
        type=Path,
        help="folder of photographs, with its subfolders and what links in it lead to",
    )
    parser.add_argument("--image", help="reference photo of the person")
    parser.add_argument("--caption", help="what the person looks like, or what differs from the photo")
    parser.add_argument("--top", type=int, default=10, help="how many results")
    parser.add_argument("--output", type=Path, default=Path("result.png"), help="where to write the picture")
    parser.add_argument("--index", type=Path, help="folder that keeps the gallery's features between searches")
    parser.add_argument("--on-error", choices=["skip", "raise"], default="skip", help="at a photo that cannot be read")
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out files or folders, such as '*_small*'",
    )
    parser.add_argument(
        "--include-rubbish", action="store_true", help="search previews, waste baskets and the like, too"
    )
    parser.add_argument(
        "--exact-pixels",
        action="store_true",
        help="decode large photographs in full, as the released code does: slower, scores differ a little",
    )
    parser.add_argument("--keep-query-photo", action="store_true", help="show it and its copies among the results")
    arguments = parser.parse_args()
    if arguments.image is None and arguments.caption is None:
        parser.error("a query needs --image, --caption or both")
    check_numbers(parser, arguments, "top", "batch_size", "num_workers")
    check_device(parser, arguments.device)
    return arguments


def main(args: argparse.Namespace) -> None:
    """Encode, search, draw."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("fafa").setLevel(logging.INFO)

    # 1. Problems that are better known before: a picture that cannot be written, an empty folder.
    check_sheet(args.output, max_results=args.top)
    folder, output = args.gallery.absolute(), args.output.resolve()
    photos = find_images(folder, args.exclude, args.include_rubbish)
    is_photo = output in [path.resolve() for path in photos] or (args.image and Path(args.image).resolve() == output)
    if is_photo and output.is_file() and not is_sheet(output):
        raise ValueError(
            f"--output {printable(args.output)} is a photograph, which the picture would replace: choose another name"
        )
    photos = [path for path in photos if path.resolve() != output]  # the picture of the last search

    # 2. The model and its processor; then the query, which may have problems, too.
    model, processor = load_given_model(args)
    if hasattr(processor.image_processor, "draft_photographs"):  # photographs are larger than crops of people
        processor.image_processor.draft_photographs = not args.exact_pixels
    if args.image is not None:
        processor.open_crop(args.image)
    if args.caption is not None:
        processor.encode_captions([args.caption], ["--caption"])

    # 3. The gallery, encoded once: with an index, a later search reads the features, and an interrupted one goes on.
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

    # 4. The search.
    own = [args.image] if args.image and not args.keep_query_photo else []
    results = gallery.search(image=args.image, caption=args.caption, top=args.top, exclude=own)
    if not results:
        raise ValueError("the gallery holds nothing but the query's own photograph; --keep-query-photo shows it")
    print(f"{'rank':>4}  {'score':>6}  image")
    for result in results:
        print(f"{result.rank:>4}  {result.score:>6.3f}  {printable(result.path.relative_to(gallery.folder))}")

    # 5. The picture. The right photographs are not known, so all frames are grey.
    row = RankedQuery(args.image, args.caption, [RankedImage(result.path, result.score) for result in results])
    searched = f"{counted(len(gallery), 'image')} searched, {len(gallery.skipped)} unreadable and skipped"
    title = f"Search in {args.gallery.resolve().name}"
    draw_contact_sheet([row], args.output, title=title, subtitle=searched, max_results=args.top)
    print(f"picture: {printable(args.output)}")


if __name__ == "__main__":  # processes that read images may import this file
    given = parse_arguments()
    with command(
        kept="Without --index nothing is kept of a search."
        if given.index is None
        else f"What was encoded is kept in {printable(given.index)}: the same command goes on from there."
    ):
        main(given)
