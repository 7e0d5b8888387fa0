"""From a film to its people, with a known answer: painted people walk, are followed, clustered and found by a sentence.

The benchmark of the same name does so with larger films, which FFmpeg's program encodes, and with other detectors.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from films import write_film

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from walking_people import (
    AnswerDetector,
    PlaceDetector,
    entries_of,
    index_film,
    judge_clusters,
    judge_detector,
    judge_search,
    judge_tracks,
)

from fafa import TINY_CHECKPOINT
from fafa.model_folder import load_model
from fafa.people.clusters import cluster_people
from fafa.world.walking import plan_film

pytest.importorskip("supervision", reason="people are followed by supervision: pip install '.[people]'")

RATE = 5


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """Three people, each of whom walks through the picture twice."""
    film = plan_film(np.random.default_rng(4), num_people=3, walks_each=2, seconds=24, size=(240, 120))
    frames = list(film.frames(RATE))
    file = write_film(tmp_path_factory.mktemp("film") / "film.mp4", [frame.image for frame in frames], rate=RATE)
    return film, file, {frame.time: frame.boxes for frame in frames}


def test_who_when_and_where(painted, tmp_path):
    film, file, truth = painted
    detector = AnswerDetector(film, truth, RATE)
    gallery = index_film(*load_model(TINY_CHECKPOINT), file, detector, RATE, tmp_path / "index")
    judged = judge_tracks(entries_of(gallery), film, truth)
    assert judged.walks == 6 and judged.missed == judged.false == 0 and judged.right >= 5
    cluster_people(tmp_path / "index", least=2)
    gallery.refresh()
    clusters = judge_clusters(entries_of(gallery), film, truth)
    assert clusters["exact"] >= 2 and clusters["precision"] == 1
    assert sum(judge_search(gallery, film, truth, np.random.default_rng(0))) >= 2


def test_what_differs_from_the_place_are_people(painted):
    """Who overlaps is one person to that detector."""
    film, file, truth = painted
    found = judge_detector(PlaceDetector(film.place), file, truth, rate=2)
    assert found["right"] >= 0.6 * found["seen"] and found["right"] >= 0.6 * found["found"]
