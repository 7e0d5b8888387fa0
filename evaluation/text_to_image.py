"""Text-to-image evaluation: every caption of a test set is a query, every image of it the gallery, people are matches.

The protocol of text-based person retrieval (CUHK-PEDES and its successors): an image is correct when it shows the
caption's person, the described image included. Metrics and report are those of `evaluate_itcpr`.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..retriever import Retriever, RetrieverProcessor
from .itcpr import evaluate_itcpr
from .report import EvaluationReport

if TYPE_CHECKING:
    import datasets

_NEEDED = ("image", "image_path", "captions", "person_id")


def evaluate_text_to_image(
    model: Retriever,
    processor: RetrieverProcessor,
    dataset: "datasets.Dataset",
    name: str = "text to image",
    **options: Any,
) -> EvaluationReport:
    """Ranks the images of a test set for each of its captions: Rank-k, mAP, mINP, with intervals.

    Args:
        model: any that keeps the contract.
        processor: the model's own.
        dataset: images with captions, as `load_dataset("CUHK-PEDES" | "ICFG-PEDES" | ..., split="test")` gives them.
        name: of the data set, under which the report lists its queries.
        options: of `evaluate_itcpr`, without `modes`: there are captions alone.

    Raises:
        TypeError: `modes` is given. ValueError: a column is missing, or as `evaluate_itcpr`.
    """
    if "modes" in options:
        raise TypeError("modes: text-to-image evaluation has one kind of query, the caption; leave it out")
    queries, gallery = text_to_image_tables(dataset, name)
    return evaluate_itcpr(model, processor, queries, gallery, modes=("caption",), **options)


def text_to_image_tables(
    dataset: "datasets.Dataset", name: str = "text to image"
) -> "tuple[datasets.Dataset, datasets.Dataset]":
    """The queries and the gallery that `evaluate_itcpr` and the pictures of a report take.

    Args:
        dataset: columns `image`, `image_path`, `captions` and `person_id`; no image is opened.
        name: what the queries' source is called.

    Returns:
        queries, one a caption, with the image that it describes; and the gallery. `instance_id` is the person.

    Raises:
        ValueError: a column is missing.
    """
    if missing := [column for column in _NEEDED if column not in dataset.column_names]:
        raise ValueError(
            f"the data set has no column {' and '.join(missing)}; it has {', '.join(dataset.column_names)}. Expected "
            "images with captions, such as load_dataset('CUHK-PEDES', data_dir=..., split='test')"
        )
    captions = dataset["captions"][:]
    rows = np.repeat(np.arange(len(dataset)), [len(some) for some in captions])
    gallery = dataset.select_columns(["image", "image_path", "person_id"]).rename_column("person_id", "instance_id")
    queries = gallery.select(rows)
    queries = queries.add_column("caption", [caption for some in captions for caption in some])
    return queries.add_column("source", [name] * len(queries)), gallery


__all__ = ["evaluate_text_to_image", "text_to_image_tables"]
