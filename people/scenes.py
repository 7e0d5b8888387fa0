"""Photographs with several people: a gallery with one entry for each person, and its box in the photograph.

    photographs = find_images("photos/")
    gallery = index_people(model, processor, photographs, load_detector(), "people.index", folder="photos/")
    for result in gallery.search(image="me.jpg", caption="in a red coat"):
        print(result.path, result.entry.box)

What is searched stays `retrieval`'s; here people are found, and told about.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ..files import some
from ..names import counted
from ..retrieval import Gallery
from ..retrieval.cutting import Cut
from ..retriever import Retriever, RetrieverProcessor
from ..workers import is_first_process
from .crops import MARGIN, check_margin, choose_people
from .detectors import Detector, found_in

logger = logging.getLogger(__name__)

SCORE = "detector_score"  # the tag that says how sure the detector was of a person


class PeopleCount(NamedTuple):
    """What a gallery of people holds of photographs.

    Args:
        photographs: how many there are. `people`: how many were found in them.
        whole: the photographs in which nobody was found, which are indexed whole.
    """

    photographs: int
    people: int
    whole: list[Path]


class PeopleCutter:
    """Cuts people out of photographs, for `Gallery.from_images`.

    Attributes:
        settings: what decides who is cut out, and how; a gallery is one of these settings only.
        too_small: how many people, so far, were too small to be cut out.
    """

    def __init__(self, detector: Detector, margin: float = MARGIN):
        check_margin(margin)
        self.detector, self.margin, self.too_small = detector, margin, 0
        self.settings: Mapping[str, Any] = {"detector": detector.name, "margin": margin}

    def cut(self, images: Sequence[Image.Image]) -> list[list[Cut]]:
        """The people in each image, from left to right, see `choose_people`."""
        cuts = []
        for image, found in zip(images, found_in(images, self.detector), strict=True):
            chosen = choose_people(found, image.size, self.margin)
            self.too_small += chosen.too_small
            cuts.append([Cut(person.box, {SCORE: round(person.score, 4)}) for person in chosen.found])
        return cuts


def index_people(
    model: Retriever,
    processor: RetrieverProcessor,
    photographs: Sequence[str | Path],
    detector: Detector,
    features_dir: str | Path,
    margin: float = MARGIN,
    **options: Any,
) -> Gallery:
    """Makes a gallery's folder one of exactly the people in these photographs; a new one is begun.

    A photograph in which nobody is found is one entry as a whole, without a box. In a gallery that is there, people are
    looked for only in photographs that are new or changed, by their contents; renamed ones are followed. What an
    interrupted run has done is kept, and the next goes on from there. Processes of `accelerate launch` share the
    photographs. Entries of films stay as they are.

    Args:
        photographs: their files; none of them begins, or empties, a gallery.
        features_dir: the gallery's folder, which `Gallery.load` opens.
        margin: see `choose_people`.
        options: `folder`, `batch_size` (people encoded at a time), `num_workers` (threads that read photographs),
            `on_error`, `dtype` and `progress` as for `Gallery.from_images`, and so are further errors.

    Raises:
        ValueError: the gallery holds people of another detector or margin, or whole images.
    """
    cutter = PeopleCutter(detector, margin)
    files = list(dict.fromkeys(map(Path, photographs)))  # one given twice would have everybody in it twice
    gallery = Gallery.from_images(model, processor, files, features_dir=features_dir, cutter=cutter, **options)
    if cutter.too_small:
        logger.warning("%s left out: too small to be told from others", counted(cutter.too_small, "person"))
    if is_first_process() and len(files):
        count = count_people(gallery)
        logger.info("%s found in %s", *(counted(count.people, "person"), counted(count.photographs, "photograph")))
        if count.whole:
            logger.warning(
                "nobody was found in %s of them, which are indexed whole: %s",
                f"{len(count.whole):,}",
                some(count.whole),
            )
    return gallery


def count_people(gallery: Gallery) -> PeopleCount:
    """How many people were found in a gallery's photographs, films aside; and in which nobody was."""
    state = gallery.state
    entries = Counter(entry.path for _, entry in state.whereabouts() if entry.time is None)
    whole = [Path(entry.path) for entry in state.entries(state.living_rows_matching("time == None and left == None"))]
    return PeopleCount(len(entries), entries.total() - len(whole), whole)
