"""The kinds of `fafa evaluate`, and the steps that they share with the examples of their names.

Each kind takes a command line, evaluates, prints a table (or JSON) and writes a report.
"""

import json
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import __version__
from ..commands import command, load_given_model, loading
from ..dataset_builders.fashioniq import missing_images
from ..drawing.curves import check_charts
from ..files import check_output_folder, printable, write_json, write_whole
from ..model_card import add_results_to_card
from ..workers import is_first_process
from .benchmark_page import benchmark_page, benchmark_record
from .embedders import evaluate_embedder, with_captions
from .image_benchmarks import BenchmarkResults, evaluate_circo, evaluate_cirr, evaluate_fashioniq
from .itcpr import evaluate_itcpr
from .options import cir_options, embedder_options, itcpr_options, robustness_options
from .report import OVERALL, EvaluationReport
from .report_folder import write_report
from .robustness import RobustnessReport, evaluate_robustness, write_robustness_report
from .server_files import write_server_files
from .text_to_image import text_to_image_tables

if TYPE_CHECKING:
    import datasets

_EVALUATE = {"FashionIQ": evaluate_fashioniq, "CIRR": evaluate_cirr, "CIRCO": evaluate_circo}
_QUERY_NUMBER = {"CIRR": "pair_id", "CIRCO": "query_id"}


def itcpr(arguments: Sequence[str] | None = None, program: str | None = None) -> None:
    """Evaluate a model on ITCPR, another test set of its form, or images with captions (text to image).

        fafa evaluate --model runs/paper --data /data/ITCPR --features features/paper --output results/paper
        fafa evaluate --model pretrained/dual --dataset CUHK-PEDES --data /data/CUHK-PEDES

    Prints a table, and writes a page with intervals, sources, caption lengths and pictures (results.md) and every
    query's ranks (results.json). Several GPUs: accelerate launch -m fafa.cli evaluate --features DIR ...
    """
    options = itcpr_options(arguments, program, cleandoc(itcpr.__doc__))
    with command(kept_of(options)):
        check_outputs(options)
        model, processor = load_given_model(options)
        queries, gallery = load_test_set(options.data, options.dataset, options.split)
        report = evaluate_test_set(model, processor, queries, gallery, options)
        if is_first_process():
            note_settings(report, options)
            files = write_report(report, options.output, *(() if options.no_pictures else (queries, gallery)))
            if options.update_card:
                files.append(update_card(report, options))
            tell(report.to_markdown(), figures_of(report), files, options.json)


def cir(arguments: Sequence[str] | None = None, program: str | None = None) -> None:
    """Evaluate a model on a benchmark of composed image retrieval: FashionIQ, CIRR or CIRCO.

        fafa evaluate cir --benchmark CIRR --model runs/coalign --data /data/CIRR --output results/cirr
        fafa evaluate cir --benchmark CIRR --split test1 ...      # files for its server instead of figures

    Prints a table of metrics with their intervals, and writes results.md and results.json.
    """
    options = cir_options(arguments, program, cleandoc(cir.__doc__))
    with command(kept_of(options)):
        check_output_folder(options.output)
        queries, gallery = load_benchmark(options.data, options.benchmark, options.split)
        model, processor = load_given_model(options)
        results = evaluate_benchmark(model, processor, queries, gallery, options)
        write_benchmark(results, queries, len(gallery), options)


def robustness(arguments: Sequence[str] | None = None, program: str | None = None) -> None:
    """How a model breaks: corrupted photos and sentences, contradictions between them, other wordings, negations.

        fafa evaluate robustness --model runs/paper --data /data/ITCPR --output robustness/paper

    Any test set of ITCPR's form. The gallery stays clean; queries by image and caption are spoilt in 14 ways, up to
    five severities each. Writes tables (robustness.md), curves, a sheet of all corruptions and robustness.json.
    """
    options = robustness_options(arguments, program, cleandoc(robustness.__doc__))
    with command("Nothing is kept of an evaluation that did not end."):
        check_outputs(options)
        model, processor = load_given_model(options)
        queries, gallery = load_test_set(options.data)
        report = evaluate_spoilt(model, processor, queries, gallery, options)
        note_settings(report, options)
        files = write_robustness_report(report, options.output, None if options.no_pictures else queries)
        tell(report.to_markdown(), json.loads(report.to_json()), files, options.json)


def embedder(arguments: Sequence[str] | None = None, program: str | None = None) -> None:
    """A baseline for any table: a general embedder of sentence-transformers on a test set of ITCPR's form.

        fafa evaluate embedder --embedder clip-ViT-B-32 --data /data/ITCPR --output results/clip

    Writes a report that `fafa evaluate compare` compares with another, query by query.
    """
    options = embedder_options(arguments, program, cleandoc(embedder.__doc__))
    with command("Nothing is kept of what was embedded."):
        from sentence_transformers import SentenceTransformer

        check_outputs(options)
        queries, gallery = load_test_set(options.data)
        if options.gallery_captions is not None:
            gallery = with_captions(gallery, options.gallery_captions)
        with loading(options.embedder):
            model = SentenceTransformer(options.embedder, device=options.device)
        report = evaluate_baseline(model, queries, gallery, options)
        note_settings(report, options)
        files = write_report(report, options.output, *(() if options.no_pictures else (queries, gallery)))
        tell(report.to_markdown(), figures_of(report), files, options.json)


def kept_of(options: Namespace) -> str:
    """What is kept of an evaluation that is interrupted, for `commands.command`."""
    if options.features is None:
        return "Without --features nothing is kept of what was encoded."
    return f"What was encoded is kept in {printable(options.features)}: the same command goes on from there."


def check_outputs(options: Namespace) -> None:
    """Refuses, before long work, pictures that cannot be drawn, and folders that cannot be written.

    Raises:
        ImportError: matplotlib is missing. OSError: a folder cannot be written.
    """
    if not options.no_pictures:
        check_charts()
    if is_first_process():
        check_output_folder(options.output)
        if getattr(options, "update_card", False):
            check_output_folder(options.model)


def load_test_set(
    data_dir: str | Path, dataset: str = "ITCPR", split: str = "test"
) -> "tuple[datasets.Dataset, datasets.Dataset]":
    """Queries and gallery in ITCPR's form; images with captions give a query for each caption. No image is opened.

    Args:
        dataset: "ITCPR" for all test sets of its form, or a name of `TEXT_IMAGE`.
        split: of images with captions.
    """
    from datasets import load_dataset

    if dataset != "ITCPR":
        return text_to_image_tables(load_dataset(dataset, data_dir=data_dir, split=split), dataset)
    return tuple(load_dataset("ITCPR", part, data_dir=data_dir, split="test") for part in ("query", "gallery"))


def load_benchmark(data_dir: str | Path, benchmark: str, split: str) -> "tuple[datasets.Dataset, datasets.Dataset]":
    """Queries and gallery of FashionIQ, CIRR or CIRCO; no image is opened."""
    from datasets import load_dataset

    return tuple(load_dataset(benchmark, part, data_dir=data_dir, split=split) for part in ("query", "gallery"))


def note_settings(report: EvaluationReport | RobustnessReport, options: Namespace) -> None:
    """Puts into a report which options and versions its figures come from."""
    given = vars(options)
    is_itcpr = "features_dtype" in given
    report.settings = {
        "model": given.get("model") or given["embedder"],
        "data": options.data,
        **({"dataset": options.dataset} if is_itcpr else {}),
        **({"gallery captions": options.gallery_captions} if given.get("gallery_captions") else {}),
        **({"dtype": options.dtype} if "dtype" in given else {}),
        **({"features_dtype": options.features_dtype or options.dtype} if is_itcpr else {}),
        "device": torch.device(options.device).type,
        "versions": {"fafa": __version__, "torch": torch.__version__},
        **report.settings,
    }


def figures_of(report: EvaluationReport) -> dict[str, Any]:
    """Its figures without those of each query, which results.json has."""
    names = ("metrics", "intervals", "chance", "open_set", "num_queries", "num_gallery", "settings")
    return {name: getattr(report, name) for name in names}


def update_card(report: EvaluationReport, options: Namespace) -> Path:
    """Adds the figures over all queries to the card in the model's folder; returns the card."""
    overall = {mode: groups[OVERALL] for mode, groups in report.metrics.items()}
    counts = {"num_queries": report.num_queries[OVERALL], "num_gallery": report.num_gallery}
    add_results_to_card(options.model, options.data, overall, **counts)
    return Path(options.model, "README.md")


def evaluate_test_set(
    model: Any, processor: Any, queries: "datasets.Dataset", gallery: "datasets.Dataset", options: Namespace
) -> EvaluationReport:
    """Encodes the gallery once, the queries in every mode, scores all pairs, ranks; and again without the matches."""
    return evaluate_itcpr(
        model,
        processor,
        queries,
        gallery,
        modes=options.modes,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        features_dir=options.features,
        features_dtype=options.features_dtype and getattr(torch, options.features_dtype),
        curves=not options.no_pictures,
        open_set=True,
    )


def evaluate_spoilt(
    model: Any, processor: Any, queries: "datasets.Dataset", gallery: "datasets.Dataset", options: Namespace
) -> RobustnessReport:
    """Encodes the gallery once, and the queries anew for every corruption."""
    return evaluate_robustness(
        model,
        processor,
        queries,
        gallery,
        severities=options.severities,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        seed=options.seed,
    )


def evaluate_baseline(
    model: Any, queries: "datasets.Dataset", gallery: "datasets.Dataset", options: Namespace
) -> EvaluationReport:
    """Embeds gallery and queries by a model of sentence-transformers, scores all pairs, ranks."""
    return evaluate_embedder(
        model,
        queries,
        gallery,
        captions=options.gallery_captions is not None,
        batch_size=options.batch_size,
        curves=not options.no_pictures,
    )


def evaluate_benchmark(
    model: Any, processor: Any, queries: "datasets.Dataset", gallery: "datasets.Dataset", options: Namespace
) -> BenchmarkResults:
    """Ranks the gallery for every query of the benchmark that the options name."""
    return _EVALUATE[options.benchmark](
        model,
        processor,
        queries,
        gallery,
        options.mode,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        features_dir=options.features,
    )


def write_benchmark(
    results: BenchmarkResults, queries: "datasets.Dataset", num_gallery: int, options: Namespace
) -> None:
    """Writes results.json, results.md and files for a server that keeps the targets; prints what was found."""
    benchmark, output = options.benchmark, options.output
    missing = missing_images(options.data, options.split) if benchmark == "FashionIQ" else None
    given = (benchmark, options.split, options.model, options.mode)
    record = benchmark_record(results, *given, len(queries), num_gallery, missing)
    server_files = []
    if not results.metrics:
        numbers = queries[_QUERY_NUMBER[benchmark]][:]
        references = dict(zip(numbers, queries["reference"][:], strict=True))
        server_files = write_server_files(benchmark, output, results.predictions, references)
    page = benchmark_page(record, server_files)
    write_json(output / "results.json", record)
    write_whole(output / "results.md", page + "\n")
    tell(page, record, [output / "results.md", output / "results.json"], options.json)


def tell(page: str, figures: Mapping[str, Any], files: Iterable[Path], as_json: bool) -> None:
    """Prints what was found, and the files written: a page, or all of it as JSON."""
    if as_json:
        print(json.dumps({**figures, "files": [str(file) for file in files]}, indent=1))
        return
    print(page)
    for file in files:
        print(f"written: {printable(file)}")
