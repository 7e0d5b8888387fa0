"""A baseline for any table: a general embedder of sentence-transformers, by Hub id or folder, on ITCPR.

    python examples/evaluate_embedder.py --embedder clip-ViT-B-32 --data quickstart/world/ITCPR --output results/clip
    python examples/evaluate_embedder.py --embedder Qwen/Qwen3-VL-Embedding-2B --data /data/ITCPR --output results/qwen
    python examples/evaluate_embedder.py --embedder all-MiniLM-L6-v2 --data /data/ITCPR --gallery-captions captions.json

`fafa evaluate embedder` does the same.

Queries are embedded as captions, as images and as both; one that takes no image and caption together answers by the sum
of both embeddings. The report has the form of examples/evaluate_itcpr.py's, so that `fafa evaluate compare`
compares the two query by query. With --gallery-captions no image is looked at: queries are captions, and are compared
with those of the gallery, which a file holds. It needs sentence-transformers:
`pip install -c constraints.txt ".[synthesis]"`.
"""

import argparse

import fafa  # noqa: F401 - before what takes long, so that Ctrl-C is answered from here on  # isort: skip
from sentence_transformers import SentenceTransformer

from fafa.commands import command, loading
from fafa.evaluation import with_captions, write_report
from fafa.evaluation.options import embedder_options
from fafa.evaluation.run import check_outputs, evaluate_baseline, figures_of, load_test_set, note_settings, tell


def parse_arguments() -> argparse.Namespace:
    """Read the command line; the options are those of `fafa evaluate embedder`."""
    return embedder_options(None, None, __doc__)


def main(options: argparse.Namespace) -> None:
    """Embed, rank, print, write."""
    # 1. The test set, with captions of its gallery where captions are compared; then the embedder.
    check_outputs(options)
    queries, gallery = load_test_set(options.data)
    if options.gallery_captions is not None:
        gallery = with_captions(gallery, options.gallery_captions)
    with loading(options.embedder):
        model = SentenceTransformer(options.embedder, device=options.device)

    # 2. Embed gallery and queries, score all pairs, rank.
    report = evaluate_baseline(model, queries, gallery, options)
    note_settings(report, options)

    # 3. The table, and the files.
    files = write_report(report, options.output, *(() if options.no_pictures else (queries, gallery)))
    tell(report.to_markdown(), figures_of(report), files, options.json)


if __name__ == "__main__":
    given = parse_arguments()
    with command(kept="Nothing is kept of what was embedded."):
        main(given)
