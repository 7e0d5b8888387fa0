"""Calibrates a model's scores on queries with known matches: any test set in ITCPR's form, or triplets in SynCPR's."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..model_folder import check_fit
from ..names import printable
from ..retriever import QUERY_MODES, Retriever, RetrieverProcessor
from .calibration import PROBES, Calibration, HighestScores, ScoreCalibration
from .encoding import encode_queries, encode_targets
from .fingerprint import feature_settings

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

_ROWS = 128  # queries scored together
_QUERY_COLUMNS = ("image", "image_path", "caption", "instance_id")
_IMAGE_COLUMNS = ("image", "image_path", "instance_id")
_TRIPLET_COLUMNS = ("reference_image", "reference_image_path", "edit_caption", "target_image", "target_image_path")


def calibrate(
    model: Retriever,
    processor: RetrieverProcessor,
    queries: "datasets.Dataset",
    images: "datasets.Dataset | None" = None,
    modes: Sequence[str] | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    progress: bool = True,
    seed: int = 0,
) -> Calibration:
    """What the model's scores mean, learnt on queries with and without their matches; see `ScoreCalibration`.

    Use data that the model was not trained on, as like your own as you can get: scores on training data are higher.
    Some hundred queries do; a false-alarm rate of 1 % needs a hundred at the least.

    Args:
        queries: in ITCPR's form, with the columns `image`, `image_path`, `caption` and `instance_id`; or triplets in
            SynCPR's, of which every target is an image of the calibration's gallery. Other people's images of a group
            (in the very clothes asked for) are no matches.
        images: with queries in ITCPR's form: the gallery, with `image`, `image_path` and `instance_id`. An image
            matches where its id is the query's; the query's own photograph is left out.
        modes: kinds of query to calibrate for, of "image+caption", "caption", "image"; by default all three, but those
            of which the queries do not tell enough, such as captions that are all the same: a warning names them.
        batch_size: images encoded at a time; `num_workers`: processes that read them.
        seed: decides which images make up parts of the gallery.

    Raises:
        ValueError: a column is missing, a query has no match or every image is one, there are fewer than 50 queries.
        And errors as for `encode_queries`.
    """
    check_fit(model, processor)
    if images is None:
        queries, images = _from_triplets(queries)
    _check_columns(queries, "queries", _QUERY_COLUMNS)
    _check_columns(images, "images", _IMAGE_COLUMNS)
    query_ids, image_ids = (np.asarray(table["instance_id"][:]) for table in (queries, images))
    if (lacking := (~np.isin(query_ids, image_ids) | (query_ids == -1)).nonzero()[0]).size:
        raise ValueError(
            f"query {lacking[0]} (instance_id {query_ids[lacking[0]]}) has no match among the images, and so have "
            f"{lacking.size} of {len(query_ids)}: calibration needs known matches; leave these queries out"
        )
    places = {path: place for place, path in enumerate(images["image_path"][:])}
    own_places = np.asarray([places.get(path, -1) for path in queries["image_path"][:]])

    options = {"batch_size": batch_size, "num_workers": num_workers, "progress": progress}
    features = encode_queries(model, processor, queries, modes or list(QUERY_MODES), **options)
    targets = encode_targets(model, processor, images, **options)
    probing = np.linspace(0, len(query_ids) - 1, min(PROBES, len(query_ids))).astype(int)
    kinds, probes, levels = {}, {}, {}
    for mode, of_mode in features.items():
        highest = HighestScores(len(image_ids), seed)
        for rows in np.array_split(np.arange(len(query_ids)), -(-len(query_ids) // _ROWS)):
            is_match = query_ids[rows, None] == image_ids
            is_own = own_places[rows, None] == np.arange(len(image_ids))
            scores = model.score(of_mode[rows], targets)
            highest.add(scores, torch.from_numpy(is_match), torch.from_numpy(is_own & ~is_match))
        try:
            kinds[mode] = ScoreCalibration.fit(highest)
        except ValueError as error:
            if modes is not None or (mode == list(features)[-1] and not kinds):
                raise
            logger.warning("not calibrated for queries of %s: %s", mode, error)
            continue
        probes[mode], levels[mode] = of_mode[probing].half().cpu(), highest.levels
    return Calibration(feature_settings(model, processor, "target", model.feature_shape), kinds, probes, levels)


def _from_triplets(triplets: "datasets.Dataset") -> "tuple[datasets.Dataset, datasets.Dataset]":
    """Triplets as queries and a gallery in ITCPR's form; no image is opened."""
    _check_columns(triplets, "queries without images are taken for triplets, which", _TRIPLET_COLUMNS)
    targets = triplets["target_image_path"][:]
    numbers = {path: number for number, path in enumerate(dict.fromkeys(targets))}
    first_rows = {path: row for row, path in reversed(list(enumerate(targets)))}
    ids = [numbers[path] for path in targets]
    names = {"reference_image": "image", "reference_image_path": "image_path", "edit_caption": "caption"}
    queries = triplets.select_columns(list(names)).rename_columns(names).add_column("instance_id", ids)
    names = {"target_image": "image", "target_image_path": "image_path"}
    images = triplets.select([first_rows[path] for path in numbers]).select_columns(list(names)).rename_columns(names)
    return queries, images.add_column("instance_id", list(range(len(numbers))))


def _check_columns(table: "datasets.Dataset", name: str, expected: Sequence[str]) -> None:
    found = getattr(table, "column_names", None)
    if not isinstance(found, list):
        raise TypeError(f"{name}: got a {type(table).__name__}, expected a datasets.Dataset, as load_dataset gives it")
    if missing := [column for column in expected if column not in found]:
        raise ValueError(
            f"{name} lack the columns {printable(', '.join(missing))}: pass load_dataset('ITCPR', 'query') with "
            "images=load_dataset('ITCPR', 'gallery'), or load_dataset('SynCPR') alone"
        )
