"""A baseline for any table: a general embedder of sentence-transformers, by Hub id or folder, on ITCPR.

    python examples/evaluate_embedder.py --embedder clip-ViT-B-32 --data quickstart/world/ITCPR --output results/clip
    python examples/evaluate_embedder.py --embedder Qwen/Qwen3-VL-Embedding-2B --data /data/ITCPR --output results/qwen
    python examples/evaluate_embedder.py --embedder all-MiniLM-L6-v2 --data /data/ITCPR --gallery-captions captions.json

Queries are embedded as captions, as images and as both; one that takes no image and caption together answers by the sum
of both embeddings. The report has the form of examples/evaluate_itcpr.py's, so that `python -m fafa.evaluation.compare`
compares the two query by query. With --gallery-captions no image is looked at: queries are captions, and are compared
with those of the gallery, which a file holds. It needs sentence-transformers:
`pip install -c constraints.txt ".[synthesis]"`.
"""

import argparse
from pathlib import Path

import fafa  # noqa: F401 - before what takes long, so that Ctrl-C is answered from here on  # isort: skip
import torch
from datasets import load_dataset
from sentence_transformers import SentenceTransformer

from fafa import __version__
from fafa.commands import check_device, check_numbers, command, loading
from fafa.drawing.curves import check_charts
from fafa.evaluation import evaluate_embedder, with_captions, write_report
from fafa.files import check_output_folder, printable


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--embedder", required=True, help="folder or Hub id of a model of sentence-transformers")
    parser.add_argument("--data", required=True, help="folder of the test set: query.json, gallery.json, images")
    parser.add_argument(
        "--gallery-captions",
        metavar="FILE",
        help="compare captions with captions: JSON of image paths and captions, or a list of records with file_path "
        "and caption, such as the gallery.json of a test set that has some",
    )
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder for the report")
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=32, help="inputs embedded at a time")
    parser.add_argument("--no-pictures", action="store_true", help="tables only: no curves, no sheets of queries")
    arguments = parser.parse_args()
    check_numbers(parser, arguments, "batch_size")
    check_device(parser, arguments.device)
    return arguments


def main(arguments: argparse.Namespace) -> None:
    """Embed, rank, print, write."""
    pictures = not arguments.no_pictures
    if pictures:
        check_charts()
    check_output_folder(arguments.output)
    queries = load_dataset("ITCPR", "query", data_dir=arguments.data, split="test")
    gallery = load_dataset("ITCPR", "gallery", data_dir=arguments.data, split="test")
    if arguments.gallery_captions is not None:
        gallery = with_captions(gallery, arguments.gallery_captions)
    with loading(arguments.embedder):
        model = SentenceTransformer(arguments.embedder, device=arguments.device)
    report = evaluate_embedder(
        model,
        queries,
        gallery,
        captions=arguments.gallery_captions is not None,
        batch_size=arguments.batch_size,
        curves=pictures,
    )
    report.settings = {
        "model": arguments.embedder,
        "data": arguments.data,
        **({} if arguments.gallery_captions is None else {"gallery captions": arguments.gallery_captions}),
        "versions": {"fafa": __version__, "torch": torch.__version__},
        **report.settings,
    }
    print(report.to_markdown())
    for path in write_report(report, arguments.output, *((queries, gallery) if pictures else ())):
        print(f"written: {printable(path)}")


if __name__ == "__main__":
    given = parse_arguments()
    with command(kept="Nothing is kept of what was embedded."):
        main(given)
