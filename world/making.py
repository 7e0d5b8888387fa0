"""Writes the small world: a training set in SynCPR's format and a test set in ITCPR's.

    <output>/SynCPR/SynCPR.json                                    triplets, two per diptych
    <output>/SynCPR/test2/sub_img/img_left/12-1_left.png           quadruple 12, diptych 1, outfit A
    <output>/SynCPR/test2/sub_img/img_right/12-1_right.png         the same person in outfit B
    <output>/ITCPR/query.json, gallery.json                        the test set
    <output>/ITCPR/{Celeb-reID,PRCC,LAST}/...                      its pictures
    <output>/world.json                                            how the world was made
    <output>/checksums.json                                        of all these files, once it is finished

As in SynCPR, a quadruple is two outfits A and B with a caption each and an edit caption for either direction, painted
for several people; `cpr_id` numbers quadruple and direction. As in ITCPR, a gallery picture is correct when its
`instance_id` equals the query's, and -1 marks distractors.
"""

import logging
import os
import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ..files import faults_of, is_sealed, read_json, record_files, sealed, write_json
from ..workers import in_processes, num_cores
from .captions import describe_change, write_quadruple
from .painter import paint_person
from .people import (
    Identity,
    Outfit,
    changed_slots,
    look_different,
    sample_change,
    sample_identity,
    sample_outfit,
    sample_people,
    sample_scene,
)

logger = logging.getLogger(__name__)

WORLD_VERSION = 1  # raise it whenever the same parameters give other bytes
SOURCES = ("Celeb-reID", "PRCC", "LAST")

_TRAINING, _TEST, _PICTURE = range(3)  # streams of random numbers under one seed
_MANIFEST, _CHECKSUMS = "world.json", "checksums.json"
_LIMITS = {  # least and most
    "num_diptychs": (1, 1_000_000),  # 40 GB of pictures; the plan alone takes 2 GB of memory
    "diptychs_per_quadruple": (1, 40),  # more people who look different would be hard to find
    "num_queries": (1, 1_000),  # the same
    "gallery_size": (1, 1_000_000),
    "seed": (0, 2**63 - 1),
}
_SIDES = (16, 4_096)  # pixels
_LOOKALIKES = 2  # other people in the asked-for clothes, per query
_PICTURES_PER_TASK = 64
_SAVE_OPTIONS = {".jpg": {"quality": 92}, ".png": {"compress_level": 1, "compress_type": zlib.Z_RLE}}  # fast


@dataclass(frozen=True)
class Picture:
    """One picture to paint: where it goes (relative to the world), and who wears what."""

    path: str
    identity: Identity
    outfit: Outfit


def make_world(
    output_dir: str | os.PathLike,
    num_diptychs: int = 12_000,
    diptychs_per_quadruple: int = 4,
    num_queries: int = 125,
    gallery_size: int = 560,
    image_size: tuple[int, int] = (192, 96),
    seed: int = 0,
    num_workers: int | None = None,
    show_progress: bool = True,
) -> Path:
    """Paint a small world of people; the same arguments give the same bytes, whatever the number of workers.

    Args:
        output_dir: Folder to write; created if need be. A finished world of the same parameters is reused; pictures
            that are missing or damaged in it are painted again.
        num_diptychs: Pairs of pictures to train on; each gives two triplets, one per direction.
        diptychs_per_quadruple: People painted per quadruple, give or take one.
        num_queries: Test queries.
        gallery_size: Pictures in the test gallery, matches included. At least about 4.2 per query: its matches, the
            same person in other clothes, and two other people in the asked-for clothes.
        image_size: Height and width of the pictures in pixels.
        seed: Non-negative; of everything random.
        num_workers: Processes that paint; by default one per core. With more than one, call this under
            `if __name__ == "__main__":`, as with any multiprocessing.
        show_progress: Whether to show a progress bar.

    Returns:
        The world's folder.

    Raises:
        FileExistsError: `output_dir` holds something else than this very world.
        ValueError: an argument is out of range.
    """
    parameters = {
        "num_diptychs": num_diptychs,
        "diptychs_per_quadruple": diptychs_per_quadruple,
        "num_queries": num_queries,
        "gallery_size": gallery_size,
        "image_size": list(image_size),
        "seed": seed,
        "version": WORLD_VERSION,
    }
    _check_parameters(parameters)
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"num_workers must be at least 1: {num_workers}")
    output_dir = Path(output_dir)
    damaged = _find_damaged(output_dir, parameters)
    if damaged is not None and not damaged:
        return output_dir

    triplets, training_pictures = plan_training(num_diptychs, diptychs_per_quadruple, seed)
    queries, gallery, test_pictures = plan_test(num_queries, gallery_size, seed)

    write_json(output_dir / _MANIFEST, {"finished": False, **parameters})
    # The test set comes first, so that its pictures do not depend on the size of the training set.
    pictures = [*test_pictures, *training_pictures]
    paint_pictures(pictures, output_dir, image_size, seed, num_workers, show_progress, damaged)
    write_json(output_dir / "SynCPR/SynCPR.json", triplets)
    write_json(output_dir / "ITCPR/query.json", queries)
    write_json(output_dir / "ITCPR/gallery.json", gallery)
    files = ["SynCPR/SynCPR.json", "ITCPR/query.json", "ITCPR/gallery.json", *(picture.path for picture in pictures)]
    write_json(output_dir / _CHECKSUMS, sealed({"world": parameters, "files": record_files(output_dir, files)}))
    write_json(output_dir / _MANIFEST, {"finished": True, **parameters})
    return output_dir


def verify_world(folder: str | os.PathLike, show_progress: bool = False) -> list[str]:
    """What is wrong with a painted world: a line for every file that is missing or not as it was painted.

    Raises:
        OSError: a file cannot be read now.
    """
    folder = Path(folder)
    try:
        manifest, checksums = read_json(folder / _MANIFEST), _read_checksums(folder)
    except (FileNotFoundError, ValueError) as error:
        return [f"{_MANIFEST} or {_CHECKSUMS} is missing, damaged or of an earlier version ({error})"]
    is_finished = manifest == {"finished": True, **checksums["world"]}
    faults = [] if is_finished else [f"{_MANIFEST} is damaged, or the world is not finished"]
    return [*faults, *faults_of(folder, checksums["files"], show_progress=show_progress)]


def _read_checksums(folder: Path) -> dict[str, dict]:
    """Of a finished world its parameters, as `world`, and what was recorded of its `files`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or of something else.
    """
    checksums = read_json(folder / _CHECKSUMS)
    if not (isinstance(checksums, dict) and is_sealed(checksums) and {"world", "files"} <= checksums.keys()):
        raise ValueError(f"{_CHECKSUMS} is damaged: its contents are not those that were written (checksum)")
    return checksums


def _check_parameters(parameters: dict) -> None:
    for name, (least, most) in _LIMITS.items():
        if type(parameters[name]) is not int or not least <= parameters[name] <= most:
            raise ValueError(f"{name} must be a whole number from {least} to {most:,}: {parameters[name]!r:.40}")
    if not all(type(side) is int and _SIDES[0] <= side <= _SIDES[1] for side in parameters["image_size"]):
        raise ValueError(
            f"image_size must be {_SIDES[0]} to {_SIDES[1]:,} pixels either way: {parameters['image_size']!r:.60}"
        )


def plan_training(num_diptychs: int, diptychs_per_quadruple: int, seed: int) -> tuple[list[dict], list[Picture]]:
    """The records of SynCPR.json and the pictures they name."""
    triplets, pictures = [], []
    quadruple = 0
    while len(pictures) < 2 * num_diptychs:
        rng = np.random.default_rng([seed, _TRAINING, quadruple])
        outfit_a, outfit_b, texts = write_quadruple(rng)
        size = max(1, diptychs_per_quadruple + int(rng.choice((-1, 0, 1), p=(0.1, 0.8, 0.1))))
        size = min(size, num_diptychs - len(pictures) // 2)
        for diptych, identity in enumerate(sample_people(rng, size, test=False), start=1):
            left = f"test2/sub_img/img_left/{quadruple}-{diptych}_left.png"
            right = f"test2/sub_img/img_right/{quadruple}-{diptych}_right.png"
            pictures += [Picture(f"SynCPR/{left}", identity, outfit_a), Picture(f"SynCPR/{right}", identity, outfit_b)]
            for direction, old, new, reference, target in ((0, "a", "b", left, right), (1, "b", "a", right, left)):
                triplets.append(
                    {
                        "reference_caption": texts[f"caption_{old}"],
                        "target_caption": texts[f"caption_{new}"],
                        "reference_image_path": reference,
                        "target_image_path": target,
                        "edit_caption": texts[f"edit_{old}{new}"],
                        "cpr_id": 2 * quadruple + direction,
                    }
                )
        quadruple += 1
    return triplets, pictures


def plan_test(num_queries: int, gallery_size: int, seed: int) -> tuple[list[dict], list[dict], list[Picture]]:
    """The records of query.json and gallery.json, and the pictures they name.

    Every query gets its matches, the same person in other clothes, and two other people in exactly the clothes asked
    for; people in random clothes fill the gallery up.

    Raises:
        ValueError: the gallery is too small for that.
    """
    rng = np.random.default_rng([seed, _TEST])
    album = _Album()
    match_counts = [_num_matches(instance) for instance in range(num_queries)]
    num_strangers = gallery_size - sum(match_counts) - num_queries * (1 + _LOOKALIKES)
    if num_strangers < 0:
        raise ValueError(
            f"gallery_size={gallery_size} is too small for {num_queries} queries with their matches and distractors: "
            f"pass at least {gallery_size - num_strangers}"
        )
    askers = _sample_distinct_people(rng, num_queries)
    others = partial(_sample_bystanders, rng, askers=set(askers))
    asked_for: set[Outfit] = set()
    for instance, (person, num_matches) in enumerate(zip(askers, match_counts, strict=True)):
        source = SOURCES[instance % len(SOURCES)]
        before, after = _sample_unseen_change(rng, asked_for)
        album.add_query(source, person, before, instance, describe_change(before, after, rng))
        for _ in range(num_matches):
            album.add_target(source, person, after, instance)
        album.add_target(source, person, _sample_other_clothes(rng, before, after))
        for lookalike in others(_LOOKALIKES, unlike=person):
            album.add_target(source, lookalike, after)
    for stranger in others(num_strangers):
        album.add_target(SOURCES[0], stranger, sample_outfit(rng, test=True))
    rng.shuffle(album.gallery)
    return album.queries, album.gallery, album.pictures


def _num_matches(instance: int) -> int:
    """How many gallery pictures show what a query asks for: mostly one, now and then two or three."""
    return 3 if instance % 25 == 7 else 2 if instance % 8 == 3 else 1


def _sample_distinct_people(rng: np.random.Generator, count: int) -> list[Identity]:
    """Test identities for the queries, no two the same."""
    people: dict[Identity, None] = {}
    while len(people) < count:
        people[sample_identity(rng, test=True)] = None
    return list(people)


def _sample_bystanders(
    rng: np.random.Generator, count: int, askers: set[Identity], unlike: Identity | None = None
) -> list[Identity]:
    """Test identities that no query asks for and that look different from `unlike`."""
    people: list[Identity] = []
    while len(people) < count:
        candidate = sample_identity(rng, test=True)
        if candidate not in askers and (unlike is None or look_different(candidate, unlike)):
            people.append(candidate)
    return people


def _sample_unseen_change(rng: np.random.Generator, asked_for: set[Outfit]) -> tuple[Outfit, Outfit]:
    """A query's two outfits; no other query asks for the second."""
    while True:
        before = sample_outfit(rng, test=True)
        after = sample_change(rng, before, test=True)
        if after not in asked_for:
            asked_for.add(after)
            return before, after


def _sample_other_clothes(rng: np.random.Generator, before: Outfit, after: Outfit) -> Outfit:
    """Clothes for the same-person distractor: those of the reference image, or a change of them not asked for."""
    if rng.random() < 0.6:
        return before
    while True:
        other = sample_change(rng, before, test=True)
        if any(getattr(other, slot) != getattr(after, slot) for slot in changed_slots(before, after)):
            return other


class _Album:
    """Collects the records and pictures of the test set, numbering people and files as the three sources do."""

    def __init__(self):
        self.queries: list[dict] = []
        self.gallery: list[dict] = []
        self.pictures: list[Picture] = []
        self._person_ids: dict[str, dict[Identity, int]] = {source: {} for source in SOURCES}
        self._pictures_per_person = Counter()

    def add_query(self, source: str, person: Identity, outfit: Outfit, instance_id: int, caption: str) -> None:
        self.queries.append(self._add_picture(source, person, outfit, instance_id) | {"caption": caption})

    def add_target(self, source: str, person: Identity, outfit: Outfit, instance_id: int = -1) -> None:
        self.gallery.append(self._add_picture(source, person, outfit, instance_id))

    def _add_picture(self, source: str, person: Identity, outfit: Outfit, instance_id: int) -> dict:
        people = self._person_ids[source]
        person_id = people.setdefault(person, len(people) + 1)
        self._pictures_per_person[source, person_id] += 1
        path = _source_path(source, person_id, self._pictures_per_person[source, person_id])
        self.pictures.append(Picture(f"ITCPR/{path}", person, outfit))
        return {"file_path": path, "datasets": source, "person_id": person_id, "instance_id": instance_id}


def _source_path(source: str, person_id: int, number: int) -> str:
    """Where the real data set `source` would keep this picture."""
    if source == "Celeb-reID":
        return f"Celeb-reID/{person_id:03d}/{person_id}_{number}_0.jpg"
    if source == "PRCC":
        return f"PRCC/rgb/test/A/{person_id:03d}/cropped_rgb{number:03d}.jpg"
    return f"LAST/{person_id:06d}/{person_id:06d}_{number:04d}.jpg"


def paint_pictures(
    pictures: Sequence[Picture],
    root: Path,
    image_size: tuple[int, int],
    seed: int,
    num_workers: int | None = None,
    show_progress: bool = True,
    wanted: Collection[str] | None = None,
) -> None:
    """Paint every picture, or those whose paths are wanted, and save it under `root`; PNG or JPEG by its file name."""
    for folder in sorted({(root / picture.path).parent for picture in pictures}):
        folder.mkdir(parents=True, exist_ok=True)
    numbered = [(number, one) for number, one in enumerate(pictures) if wanted is None or one.path in wanted]
    paint = partial(_paint_picture, root=root, image_size=image_size, seed=seed)
    painted = in_processes(paint, numbered, num_workers or num_cores(), per_task=_PICTURES_PER_TASK)
    bar = tqdm(painted, "Painting", len(numbered), unit="picture", mininterval=1, disable=not show_progress)
    for _ in bar:
        pass


def _paint_picture(numbered: tuple[int, Picture], root: Path, image_size: tuple[int, int], seed: int) -> None:
    """Paint and save. Each picture has its own random numbers, so it does not matter who paints which."""
    number, picture = numbered
    scene = sample_scene(np.random.default_rng([seed, _PICTURE, number]))
    image = paint_person(picture.identity, picture.outfit, scene, image_size)
    image.save(root / picture.path, **_SAVE_OPTIONS[Path(picture.path).suffix])


def _find_damaged(output_dir: Path, parameters: dict) -> set[str] | None:
    """Files of this very world that are missing or damaged; None if it is not finished.

    Raises:
        FileExistsError: the folder holds anything else.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise FileExistsError(f"{output_dir} is a file: choose another folder")
    if not output_dir.exists() or not any(output_dir.iterdir()):
        return None
    if not (output_dir / _MANIFEST).exists():
        raise FileExistsError(f"{output_dir} is not empty and holds no world.json: choose another folder, or empty it")
    try:
        found = read_json(output_dir / _MANIFEST)
        is_finished = found.pop("finished", False)
    except (ValueError, AttributeError):
        raise FileExistsError(
            f"{output_dir / _MANIFEST} is damaged, or of something else: choose another folder, or delete this one"
        ) from None
    if differing := [name for name in parameters if found.get(name) != parameters[name]]:
        difference = ", ".join(f"{name}={found.get(name)} and not {parameters[name]}" for name in differing)
        raise FileExistsError(
            f"{output_dir} holds a world made with {difference}: choose another folder, or delete this one"
        )
    if not is_finished:
        return None
    try:
        files = _read_checksums(output_dir)["files"]
    except (FileNotFoundError, ValueError) as error:
        logger.warning("%s has no whole %s (%s): painted again", output_dir, _CHECKSUMS, error)
        return None
    damaged = {name: fault for name in files for fault in faults_of(output_dir, {name: files[name]})}
    if damaged:
        few = "; ".join(list(damaged.values())[:3])
        logger.warning("%s: %d files are missing or damaged, and made again: %s", output_dir, len(damaged), few)
    return set(damaged)
