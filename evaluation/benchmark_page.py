"""What the evaluation on a benchmark of composed image retrieval found: a record for JSON, and a page to read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..markdown_text import plain, public
from ..names import counted
from ..tables import markdown_table
from .image_benchmarks import BenchmarkResults
from .intervals import INTERVALS_EXPLAINED

_INCOMPLETE = (
    "{missing} of {num_images} images are missing, and were left out of the gallery, with {left_out} of {num_queries} "
    "queries whose candidate or target they are. The rest is another, easier test: these figures are comparable with "
    "others over the same images alone. results.json names the images."
)
_OVER_CATEGORIES = " The mean is over categories; for its interval queries are sampled within each."


def benchmark_record(
    results: BenchmarkResults,
    benchmark: str,
    split: str,
    model: str,
    mode: str,
    num_queries: int,
    num_gallery: int,
    missing: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """All figures with their intervals, and what they were measured on.

    Args:
        missing: images that FashionIQ lacks, as `missing_images` returns them; None for other benchmarks.
    """
    record = {
        "benchmark": benchmark,
        "split": split,
        "model": model,
        "mode": mode,
        "num_queries": num_queries,
        "num_gallery": num_gallery,
        "metrics": results.metrics,
        "intervals": results.intervals(),
    }
    return record if missing is None else record | {"missing": missing}


def benchmark_page(record: dict[str, Any], server_files: Sequence[Path] = ()) -> str:
    """The record as Markdown: a table of figures, or the files for the server that keeps the targets."""
    benchmark, metrics = record["benchmark"], record["metrics"]
    lines = [f"# {benchmark}, {record['split']}: {plain(public(record['model']))}", ""]
    queries, images = counted(record["num_queries"], "query"), counted(record["num_gallery"], "image")
    lines += [f"{queries} of {record['mode']}, {images}.", ""]
    missing = record.get("missing")
    if missing and missing["images"]:
        numbers = {"missing": len(missing["images"]), "left_out": missing["num_queries_left_out"]}
        lines += [_INCOMPLETE.format(**missing | numbers), ""]
    if metrics:
        names = list(next(iter(metrics.values())))
        rows = []
        for group, values in metrics.items():
            ends = {name: "[{:.2f}, {:.2f}]".format(*record["intervals"][group][name]) for name in names}
            rows.append([group, *(f"{values[name]:.2f} {ends[name]}" for name in names)])
        lines += [markdown_table(["queries", *names], rows), ""]
        lines += [INTERVALS_EXPLAINED + (_OVER_CATEGORIES if benchmark == "FashionIQ" else ""), ""]
    lines += [f"For the server: {plain(public(str(file)))}" for file in server_files]
    return "\n".join(lines)
