"""Who among a gallery's people are the same: clusters of their features, kept as the tag `cluster` of each entry.

scikit-learn's HDBSCAN (Campello, Moulavi and Sander 2013) finds groups that are dense beside what surrounds them, and
asks for no number of them. It sees the mean vectors that a search has of each image. Whoever is in no group has the
number -1. So a filter finds the images of a group: `cluster == 3`.

A track counts once, as the mean of its crops, and its crops stay together: they are known to be of one person, and so
alike that each track would be a group of its own.
"""

import logging
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..names import counted, printable
from ..retrieval.metadata import Entry
from ..retrieval.segment_list import GalleryFolder
from ..retrieval.segments import living_rows
from ..retrieval.state import GalleryState

logger = logging.getLogger(__name__)

CLUSTER = "cluster"  # the tag
NO_CLUSTER = -1
LEAST = 2  # people seen in a cluster
SHOWN = 8  # of each cluster

_WAIT = 60.0  # seconds for another writer
_LEAST_SURE = 0.5  # of HDBSCAN's membership: who joins a cluster only at twice the distance that holds it together
_DIMENSIONS = 32  # of the vectors that are clustered: the comparison of all pairs takes as long as they have numbers
_MANY = 50_000  # from which on it takes minutes


@dataclass(frozen=True)
class Cluster:
    """People who look the same.

    Args:
        number: from 0, the largest cluster; -1 for those who are in none.
        ids: of the images.
        num_seen: how often somebody was seen: photographs and tracks.
        num_files: in how many photographs and films; copies of a film are one.
        typical: images near the middle of the cluster, each of another photograph or track; paths are absolute.
    """

    number: int
    ids: list[int]
    num_seen: int
    num_files: int
    typical: list[Entry]


def cluster_people(gallery: str | Path, least: int = LEAST, wait: float | None = _WAIT) -> list[Cluster]:
    """Clusters the people of a gallery's folder, and tags each entry with the number of its cluster.

    Earlier numbers are replaced. The time grows with the square of how often somebody was seen, the memory with that
    number; benchmarks/results/walking_people.md says how much.

    Args:
        least: how often somebody must have been seen to be a cluster: photographs and tracks.
        wait: seconds to wait for another writer; None: until it is done.

    Returns:
        the clusters, large ones first; last, if there are any, those who are in none.

    Raises:
        FileNotFoundError: there is no gallery. ValueError: it is damaged, or too small for two clusters.
        OSError: it cannot be written; a BlockingIOError: another process writes all the time.
        ModuleNotFoundError: scikit-learn is missing.
    """
    if least < 2:
        raise ValueError(f"least is {least}, expected a whole number from 2: one alone is no cluster")
    place = GalleryFolder(gallery)
    state = place.read()
    entries = [entry for segment in state.segments for entry in segment.metadata.read_all(living_rows(segment.part))]
    owners = _owners(entries)
    num_seen = owners.max(initial=-1) + 1
    if num_seen < 2 * least:
        raise ValueError(
            f"{printable(place.path)} holds {counted(len(entries), 'image')} of people who were seen "
            f"{counted(num_seen, 'time')}, and two clusters of {least} need {2 * least}: index more"
            + ", or let a cluster be smaller (least)"
            * (least > 2)
        )
    if num_seen > _MANY:
        logger.info("clustering %s: it takes minutes", counted(num_seen, "person"))
    vectors = _unit(_vectors(state))
    seen = np.zeros((num_seen, vectors.shape[1]), dtype=np.float32)
    np.add.at(seen, owners, vectors)
    numbers = _numbered(_labels(_unit(seen), least))
    _tag(place, state, dict(zip(state.ids.tolist(), numbers[owners].tolist(), strict=True)), wait)
    return _described(state, entries, owners, numbers, vectors, seen)


def _owners(entries: list[Entry]) -> np.ndarray:
    """Whose each image is: numbers of photographs' people and of tracks, `(num_images,)`."""
    known: dict[Any, int] = {}
    keys = ((entry.contents or entry.path, entry.tags["track"]) if "track" in entry.tags else None for entry in entries)
    return np.array([known.setdefault(row if key is None else key, len(known)) for row, key in enumerate(keys)], int)


def _vectors(state: GalleryState) -> np.ndarray:
    """The mean vectors of all images that are not deleted, `(num_images, dim)`."""
    parts = [part.means.cpu().numpy()[living_rows(part)] for part in state.parts]
    return np.concatenate(parts)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _labels(vectors: np.ndarray, least: int) -> np.ndarray:
    from sklearn.cluster import HDBSCAN
    from sklearn.decomposition import PCA

    if min(vectors.shape) > _DIMENSIONS:
        vectors = PCA(_DIMENSIONS, svd_solver="covariance_eigh").fit_transform(vectors)
    # Not its "brute": that holds a table of all pairs.
    found = HDBSCAN(min_cluster_size=least, algorithm="kd_tree", copy=True).fit(vectors.astype(np.float64))
    # Somebody seen once, far from all, is counted to the cluster that lies nearest, with little confidence.
    return np.where(found.probabilities_ >= _LEAST_SURE, found.labels_, NO_CLUSTER)


def _numbered(labels: np.ndarray) -> np.ndarray:
    """Labels by size, the largest 0, of equal ones the first first; who is in none stays -1."""
    found, first, counts = np.unique(labels, return_index=True, return_counts=True)
    order = sorted((-count, start, label) for label, start, count in zip(found, first, counts, strict=True))
    numbers = {label: number for number, (*_, label) in enumerate(entry for entry in order if entry[2] >= 0)}
    return np.array([numbers.get(label, NO_CLUSTER) for label in labels])


def _tag(place: GalleryFolder, before: GalleryState, numbers: dict[int, int], wait: float | None) -> None:
    """Notes the clusters of the images that are still there."""
    with place.writing(wait, before) as writer:
        state, changed = writer.state, {}
        ids, start = iter(state.ids.tolist()), 0
        for segment in state.segments:
            rows = living_rows(segment.part)
            for row, entry in zip(rows.tolist(), segment.metadata.read_all(rows), strict=True):
                number = numbers.get(next(ids))
                if number is not None and entry.tags.get(CLUSTER) != number:
                    changed[start + row] = replace(entry, tags={**entry.tags, CLUSTER: number})
            start += len(segment.part)
        writer.change(changed)
        writer.commit()


def _described(
    state: GalleryState,
    entries: list[Entry],
    owners: np.ndarray,
    numbers: np.ndarray,
    vectors: np.ndarray,
    seen: np.ndarray,
) -> list[Cluster]:
    ids, members = state.ids.tolist(), defaultdict(list)
    for row, owner in enumerate(owners.tolist()):
        members[int(numbers[owner])].append(row)
    found = []
    for number in sorted(members, key=lambda number: (number == NO_CLUSTER, number)):
        rows = members[number]
        centre = _unit(seen[numbers == number]).mean(axis=0)
        best: dict[int, int] = {}  # the image nearest to the centre of each who was seen, nearest first
        for place in np.argsort(-(vectors[rows] @ centre), kind="stable").tolist():
            best.setdefault(int(owners[rows[place]]), rows[place])
        typical = [replace(entries[row], path=_absolute(state, entries[row])) for row in list(best.values())[:SHOWN]]
        told = (entries[row] for row in rows)
        files = {entry.contents or entry.path if "track" in entry.tags else entry.path for entry in told}
        found.append(Cluster(number, [ids[row] for row in rows], len(best), len(files), typical))
    return found


def _absolute(state: GalleryState, entry: Entry) -> str | None:
    path = state.path_of(entry.path)
    return None if path is None else str(path)
