"""Writes the small world: a training set in SynCPR's format and a test set in ITCPR's.

    <output>/SynCPR/SynCPR.json                                    triplets, two per diptych
    <output>/SynCPR/test2/sub_img/img_left/12-1_left.png           quadruple 12, diptych 1, outfit A
    <output>/SynCPR/test2/sub_img/img_right/12-1_right.png         the same person in outfit B
    <output>/ITCPR/query.json, gallery.json                        the test set
    <output>/ITCPR/{Celeb-reID,PRCC,LAST}/...                      its images
    <output>/world.json                                            how the world was made
    <output>/checksums.json                                        checksums of all these files, once it is finished

As in SynCPR, a quadruple is two outfits A and B with a caption each and an edit caption for either direction, painted
for several people; `cpr_id` numbers quadruple and direction. As in ITCPR, a gallery image is correct when its
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
from .hardships import spoil_image, swap_captions
from .painter import paint_person
from .people import (
    HOME,
    TOWNS,
    Identity,
    Outfit,
    Town,
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
SOURCES = {  # where the real data sets keep an image of a person
    "Celeb-reID": "Celeb-reID/{person:03d}/{person}_{number}_0.jpg",
    "PRCC": "PRCC/rgb/test/A/{person:03d}/cropped_rgb{number:03d}.jpg",
    "LAST": "LAST/{person:06d}/{person:06d}_{number:04d}.jpg",
}

_TRAINING, _TEST, _IMAGE, _CAPTION_NOISE, _SPOILING = range(5)  # streams of random numbers under one seed
_MANIFEST, _CHECKSUMS = "world.json", "checksums.json"
_LIMITS = {  # least and most
    "num_diptychs": (1, 1_000_000),  # 40 GB of images; the plan alone takes 2 GB of memory
    "diptychs_per_quadruple": (1, 40),  # more people who look different would be hard to find
    "num_queries": (1, 1_000),  # the same
    "gallery_size": (1, 1_000_000),
    "seed": (0, 2**63 - 1),
    "look_alikes": (0, 20),
}
_WITHOUT_OPTIONS = {"look_alikes": 2, "caption_noise": 0.0, "spoilt": 0.0, "town": "home"}
_SIDES = (16, 4_096)  # pixels
_IMAGES_PER_TASK = 64
_SAVE_OPTIONS = {".jpg": {"quality": 92}, ".png": {"compress_level": 1, "compress_type": zlib.Z_RLE}}  # fast


@dataclass(frozen=True)
class PlannedImage:
    """One image to paint: its path relative to the world, and who wears what."""

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
    look_alikes: int = 2,
    caption_noise: float = 0.0,
    spoilt: float = 0.0,
    town: str = "home",
) -> Path:
    """Paints a small world of people; the same arguments give the same bytes, whatever the number of workers.

    Args:
        output_dir: Folder to write. A finished world of the same parameters is reused; images that are missing or
            damaged in it are painted again.
        num_diptychs: Pairs of images to train on; each gives two triplets, one per direction.
        diptychs_per_quadruple: People painted per quadruple, give or take one.
        gallery_size: Images in the test gallery, matches included. At least about 4.2 per query: its matches, the
            same person in other clothes, and the look-alikes.
        image_size: Height and width of the images in pixels.
        seed: Non-negative; decides everything random.
        num_workers: Processes that paint; by default one per core. With more than one, call this under
            `if __name__ == "__main__":`, as with any multiprocessing.
        look_alikes: Other people in the asked-for clothes, for each query.
        caption_noise: Share of the training triplets that have the captions of another group.
        spoilt: Share of all images that are blurred, or of which a part is hidden.
        town: Where the people live, of `people.TOWNS`: in "harbour" garments, colours and the words for them are others
            than at "home", and nothing is in both.

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
    # Left out where they change nothing: a world that was made without them is this one.
    options = {"look_alikes": look_alikes, "caption_noise": caption_noise, "spoilt": spoilt, "town": town}
    parameters |= {name: value for name, value in options.items() if value != _WITHOUT_OPTIONS[name]}
    _check_parameters(parameters)
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"num_workers must be at least 1: {num_workers}")
    output_dir = Path(output_dir)
    damaged = _find_damaged(output_dir, parameters)
    if damaged is not None and not damaged:
        return output_dir

    triplets, training_images = plan_training(num_diptychs, diptychs_per_quadruple, seed, TOWNS[town])
    triplets = swap_captions(triplets, caption_noise, np.random.default_rng([seed, _CAPTION_NOISE]))
    queries, gallery, test_images = plan_test(num_queries, gallery_size, seed, look_alikes, TOWNS[town])

    write_json(output_dir / _MANIFEST, {"finished": False, **parameters})
    # The test set comes first, so that its images do not depend on the size of the training set.
    images = [*test_images, *training_images]
    paint_images(images, output_dir, image_size, seed, num_workers, show_progress, damaged, spoilt)
    write_json(output_dir / "SynCPR/SynCPR.json", triplets)
    write_json(output_dir / "ITCPR/query.json", queries)
    write_json(output_dir / "ITCPR/gallery.json", gallery)
    files = ["SynCPR/SynCPR.json", "ITCPR/query.json", "ITCPR/gallery.json", *(image.path for image in images)]
    write_json(output_dir / _CHECKSUMS, sealed({"world": parameters, "files": record_files(output_dir, files)}))
    write_json(output_dir / _MANIFEST, {"finished": True, **parameters})
    return output_dir


def verify_world(folder: str | os.PathLike, show_progress: bool = False) -> list[str]:
    """What is wrong with a painted world: a line for every file that is missing or not as it was painted."""
    folder = Path(folder)
    try:
        manifest, checksums = read_json(folder / _MANIFEST), _read_checksums(folder)
    except (FileNotFoundError, ValueError) as error:
        return [f"{_MANIFEST} or {_CHECKSUMS} is missing, damaged or of an earlier version ({error})"]
    is_finished = manifest == {"finished": True, **checksums["world"]}
    faults = [] if is_finished else [f"{_MANIFEST} is damaged, or the world is not finished"]
    return [*faults, *faults_of(folder, checksums["files"], show_progress=show_progress)]


def _read_checksums(folder: Path) -> dict[str, dict]:
    """The parameters of a finished world, as `world`, and what was recorded of its `files`."""
    checksums = read_json(folder / _CHECKSUMS)
    if not (isinstance(checksums, dict) and is_sealed(checksums) and {"world", "files"} <= checksums.keys()):
        raise ValueError(f"{_CHECKSUMS} is damaged: its contents are not those that were written (checksum)")
    return checksums


def _check_parameters(parameters: dict) -> None:
    for name in ("caption_noise", "spoilt"):
        if not 0 <= parameters.get(name, 0) <= 1:
            raise ValueError(f"{name} must be from 0 to 1: {parameters[name]!r:.40}")
    if parameters.get("town", "home") not in TOWNS:
        raise ValueError(f"town must be one of {', '.join(TOWNS)}: {parameters['town']!r:.40}")
    for name, (least, most) in _LIMITS.items():
        if name not in parameters:
            continue
        if type(parameters[name]) is not int or not least <= parameters[name] <= most:
            raise ValueError(f"{name} must be a whole number from {least} to {most:,}: {parameters[name]!r:.40}")
    if not all(type(side) is int and _SIDES[0] <= side <= _SIDES[1] for side in parameters["image_size"]):
        raise ValueError(
            f"image_size must be {_SIDES[0]} to {_SIDES[1]:,} pixels either way: {parameters['image_size']!r:.60}"
        )


def plan_training(
    num_diptychs: int, diptychs_per_quadruple: int, seed: int, town: Town = HOME
) -> tuple[list[dict], list[PlannedImage]]:
    """The records of SynCPR.json and the images they name."""
    triplets, images = [], []
    quadruple = 0
    while len(images) < 2 * num_diptychs:
        rng = np.random.default_rng([seed, _TRAINING, quadruple])
        outfit_a, outfit_b, texts = write_quadruple(rng, town)
        size = max(1, diptychs_per_quadruple + int(rng.choice((-1, 0, 1), p=(0.1, 0.8, 0.1))))
        size = min(size, num_diptychs - len(images) // 2)
        for diptych, identity in enumerate(sample_people(rng, size, test=False), start=1):
            left = f"test2/sub_img/img_left/{quadruple}-{diptych}_left.png"
            right = f"test2/sub_img/img_right/{quadruple}-{diptych}_right.png"
            for path, outfit in ((left, outfit_a), (right, outfit_b)):
                images.append(PlannedImage(f"SynCPR/{path}", identity, outfit))
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
    return triplets, images


def plan_test(
    num_queries: int, gallery_size: int, seed: int, look_alikes: int = 2, town: Town = HOME
) -> tuple[list[dict], list[dict], list[PlannedImage]]:
    """The records of query.json and gallery.json, and the images they name.

    Every query gets its matches, the same person in other clothes, and other people in exactly the clothes asked for;
    people in random clothes fill the gallery up.

    Raises:
        ValueError: the gallery is too small for that.
    """
    rng = np.random.default_rng([seed, _TEST])
    # How many gallery images match: mostly one, now and then two or three.
    match_counts = [3 if query % 25 == 7 else 2 if query % 8 == 3 else 1 for query in range(num_queries)]
    num_strangers = gallery_size - sum(match_counts) - num_queries * (1 + look_alikes)
    if num_strangers < 0:
        raise ValueError(
            f"gallery_size={gallery_size} is too small for {num_queries} queries with their matches and distractors: "
            f"pass at least {gallery_size - num_strangers}"
        )
    queries, gallery, images = [], [], []
    person_ids: dict[str, dict[Identity, int]] = {source: {} for source in SOURCES}
    num_images = Counter()

    def plan_image(source: str, person: Identity, outfit: Outfit, instance_id: int = -1) -> dict:
        """The record of another image; people and files are numbered as in the three sources."""
        person_id = person_ids[source].setdefault(person, len(person_ids[source]) + 1)
        num_images[source, person_id] += 1
        path = SOURCES[source].format(person=person_id, number=num_images[source, person_id])
        images.append(PlannedImage(f"ITCPR/{path}", person, outfit))
        return {"file_path": path, "datasets": source, "person_id": person_id, "instance_id": instance_id}

    askers: dict[Identity, None] = {}  # no two queries are about the same person
    while len(askers) < num_queries:
        askers[sample_identity(rng, test=True)] = None
    asked_for: set[Outfit] = set()
    for instance, (person, num_matches) in enumerate(zip(askers, match_counts, strict=True)):
        source = list(SOURCES)[instance % len(SOURCES)]
        before, after = _sample_unseen_change(rng, asked_for, town)
        queries.append(plan_image(source, person, before, instance) | {"caption": describe_change(before, after, rng)})
        gallery += [plan_image(source, person, after, instance) for _ in range(num_matches)]
        gallery.append(plan_image(source, person, _sample_other_clothes(rng, before, after, town)))
        for lookalike in _sample_bystanders(rng, look_alikes, askers, unlike=person):
            gallery.append(plan_image(source, lookalike, after))
    for stranger in _sample_bystanders(rng, num_strangers, askers):
        gallery.append(plan_image("Celeb-reID", stranger, sample_outfit(rng, test=True, town=town)))
    rng.shuffle(gallery)
    return queries, gallery, images


def _sample_bystanders(
    rng: np.random.Generator, count: int, askers: Collection[Identity], unlike: Identity | None = None
) -> list[Identity]:
    """Test identities that no query asks for and that look different from `unlike`."""
    people: list[Identity] = []
    while len(people) < count:
        candidate = sample_identity(rng, test=True)
        if candidate not in askers and (unlike is None or look_different(candidate, unlike)):
            people.append(candidate)
    return people


def _sample_unseen_change(rng: np.random.Generator, asked_for: set[Outfit], town: Town) -> tuple[Outfit, Outfit]:
    """A query's two outfits; no other query asks for the second."""
    while True:
        before = sample_outfit(rng, test=True, town=town)
        after = sample_change(rng, before, test=True, town=town)
        if after not in asked_for:
            asked_for.add(after)
            return before, after


def _sample_other_clothes(rng: np.random.Generator, before: Outfit, after: Outfit, town: Town) -> Outfit:
    """Clothes for the same-person distractor: those of the reference image, or a change of them not asked for."""
    if rng.random() < 0.6:
        return before
    while True:
        other = sample_change(rng, before, test=True, town=town)
        if any(getattr(other, slot) != getattr(after, slot) for slot in changed_slots(before, after)):
            return other


def paint_images(
    images: Sequence[PlannedImage],
    root: Path,
    image_size: tuple[int, int],
    seed: int,
    num_workers: int | None = None,
    show_progress: bool = True,
    wanted: Collection[str] | None = None,
    spoilt: float = 0.0,
) -> None:
    """Paints the images, or only those whose paths are wanted, and saves them under `root`, as PNG or JPEG."""
    for folder in sorted({(root / image.path).parent for image in images}):
        folder.mkdir(parents=True, exist_ok=True)
    numbered = [(number, one) for number, one in enumerate(images) if wanted is None or one.path in wanted]
    paint = partial(_paint_image, root=root, image_size=image_size, seed=seed, spoilt=spoilt)
    painted = in_processes(paint, numbered, num_workers or num_cores(), per_task=_IMAGES_PER_TASK)
    for _ in tqdm(painted, "Painting", len(numbered), unit="image", mininterval=1, disable=not show_progress):
        pass


def _paint_image(
    numbered: tuple[int, PlannedImage], root: Path, image_size: tuple[int, int], seed: int, spoilt: float
) -> None:
    """Paints and saves. Each image has its own random numbers, so it does not matter which process paints it."""
    number, planned = numbered
    scene = sample_scene(np.random.default_rng([seed, _IMAGE, number]))
    image = paint_person(planned.identity, planned.outfit, scene, image_size)
    rng = np.random.default_rng([seed, _SPOILING, number])
    if rng.random() < spoilt:
        image = spoil_image(image, rng)
    image.save(root / planned.path, **_SAVE_OPTIONS[Path(planned.path).suffix])


def _find_damaged(output_dir: Path, parameters: dict) -> set[str] | None:
    """Files of this very world that are missing or damaged; None if it is not finished.

    Raises:
        FileExistsError: the folder holds anything else.
    """
    if not output_dir.exists() or (output_dir.is_dir() and not any(output_dir.iterdir())):
        return None
    try:
        found = read_json(output_dir / _MANIFEST)
        is_finished = found.pop("finished", False)
    except (FileNotFoundError, NotADirectoryError, ValueError, AttributeError) as error:
        raise FileExistsError(
            f"{output_dir} holds something else than a painted world ({_MANIFEST} is missing or damaged): choose "
            "another folder"
        ) from error
    names = dict.fromkeys([*parameters, *found])
    if differing := [name for name in names if found.get(name) != parameters.get(name)]:
        made, wanted = _WITHOUT_OPTIONS | found, _WITHOUT_OPTIONS | parameters
        difference = ", ".join(f"{name}={made.get(name)} and not {wanted.get(name)}" for name in differing)
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
