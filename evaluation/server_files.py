"""Files for the servers that keep the targets of CIRR's and CIRCO's test splits, in the form that they accept.

    CIRR    recall.json, recall_subset.json    {"version": "rc2", "metric": "recall", "<pairid>": [50 names], ...}
                                               {..., "metric": "recall_subset", "<pairid>": [3 names], ...}
    CIRCO   map.json                           {"<id>": [50 numbers of images], ...}

Both demand every query of the split once, as many images for each, no image twice; CIRR's also a file of 5 MB at most,
and never the reference. A file is written only if it keeps all of that.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import write_whole
from .image_benchmarks import SUBSET_TOP, TOP

logger = logging.getLogger(__name__)

LARGEST = 5_000_000  # bytes
NUM_QUERIES = {"CIRR": 4_148, "CIRCO": 800}  # of the test splits, as published
NUM_IMAGES = {"recall": TOP, "recall_subset": SUBSET_TOP, "map": TOP}
_CIRR_VERSION = "rc2"


def write_server_files(
    benchmark: str,
    folder: str | Path,
    predictions: Mapping[str, Mapping[int, Sequence]],
    references: Mapping[int, str | int],
) -> list[Path]:
    """Writes one file for each metric of a server.

    Args:
        benchmark: "CIRR" or "CIRCO".
        folder: for the files.
        predictions: metric -> query -> images, best first; see `BenchmarkResults`.
        references: the reference image of every query of the split.

    Returns:
        the files.

    Raises:
        ValueError: predictions break a rule; nothing is written then.
        OSError: a file cannot be written.
    """
    if benchmark not in NUM_QUERIES:
        raise ValueError(f"benchmark is {benchmark!r}, expected {' or '.join(NUM_QUERIES)}: others have no server")
    if len(references) != NUM_QUERIES[benchmark]:
        logger.warning(
            "%s's server expects predictions for its %d test queries, and these are %d: it will refuse the files.",
            *(benchmark, NUM_QUERIES[benchmark], len(references)),
        )
    texts = {}
    for metric, of_queries in predictions.items():
        content = {str(query): list(images) for query, images in of_queries.items()}
        if benchmark == "CIRR":
            content = {"version": _CIRR_VERSION, "metric": metric, **content}
        check_server_file(benchmark, metric, content, references)
        texts[metric] = json.dumps(content, separators=(",", ":"))
        if len(texts[metric].encode()) > LARGEST:
            raise ValueError(
                f"{metric}: the file would have {len(texts[metric].encode()):,} bytes, and the server takes "
                f"{LARGEST:,}: are names of images longer than the published ones?"
            )
    files = {Path(folder, f"{metric}.json"): text for metric, text in texts.items()}
    for file, text in files.items():
        write_whole(file, text)
    return list(files)


def check_server_file(
    benchmark: str, metric: str, content: Mapping[str, object], references: Mapping[int, str | int]
) -> None:
    """Refuses what a server would refuse.

    Args:
        benchmark: "CIRR" or "CIRCO".
        metric: "recall", "recall_subset" or, of CIRCO, "map".
        content: of the file.
        references: the reference image of every query of the split.

    Raises:
        ValueError: it names the query, and the rule.
    """
    rest, number = dict(content), NUM_IMAGES[metric]
    if benchmark == "CIRR":
        head = {name: rest.pop(name, None) for name in ("version", "metric")}
        if head != {"version": _CIRR_VERSION, "metric": metric}:
            raise ValueError(
                f"{metric}: the file begins with {head}, expected version {_CIRR_VERSION}, metric {metric}"
            )
    expected = {str(query): reference for query, reference in references.items()}
    if missing := [query for query in expected if query not in rest]:
        raise ValueError(f"{metric}: query {missing[0]} is missing, with {len(missing) - 1} more: all are expected")
    if foreign := [query for query in rest if query not in expected]:
        raise ValueError(f"{metric}: {foreign[0]} is no query of this split")
    kind = str if benchmark == "CIRR" else int
    for query, images in rest.items():
        if type(images) is not list or len(images) != number or not all(type(image) is kind for image in images):
            shown = f"{len(images)} images" if type(images) is list else f"{images!r:.40}"
            raise ValueError(
                f"{metric}: query {query} has {shown}, expected a list of {number} "
                f"{'names' if kind is str else 'numbers'} of images; is the gallery whole?"
            )
        if len(set(images)) < number:
            raise ValueError(f"{metric}: query {query} names an image twice; are images in the gallery twice?")
        if benchmark == "CIRR" and expected[query] in images:
            raise ValueError(f"{metric}: query {query} names its own reference, {expected[query]}: leave it out")


__all__ = ["check_server_file", "write_server_files"]
