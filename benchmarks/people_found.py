"""Photographs that packages carry, through detector and index: who is found, who is missed, what is taken for a person.

    apt-get download opencv-doc && dpkg -x opencv-doc_*.deb packages/
    pip download --no-deps scikit-image ultralytics && for wheel in *.whl; do unzip -q $wheel -d packages/; done
    python benchmarks/people_found.py --packages packages/ --sheet found.png

matplotlib, scikit-learn and gradio, whose photographs are used, too, are installed. Nobody here made any of these
pictures; whoever is in them was marked by eye, before any detector had seen them, by boxes that are right to some 10
pixels. A person counts who is at least half to be seen; a crowd out of focus does not.

A box is right if it and a marked one have an intersection over union of 0.4, each once, the surest box first. The
detector is asked down to a score far below the one that it is used with, so that other bounds can be told from one run.
Takes two minutes on one core. Results go to benchmarks/results/people_found.json and people_found.md.
"""

import argparse
import importlib.util
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import av
from PIL import Image
from scoring import processor_name

from fafa import TINY_CHECKPOINT
from fafa.drawing.boxes import draw_box
from fafa.drawing.sheet import not_too_thin, save_sheet
from fafa.image_reading_fafa import open_image
from fafa.people import Detector, FoundPerson, detectors, index_people, load_detector
from fafa.people.scenes import SCORE
from fafa.tables import markdown_table

RESULTS = Path(__file__).parent / "results"
SAME = 0.4  # intersection over union
LOWEST = 0.0  # HOG's distance from its border that the run asks for
BOUNDS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
FILM = "vtest.avi"
STREET, OTHERS, EMPTY = "a street, from above", "other people", "nobody"

Box = tuple[int, int, int, int]

# Frames of a film of a street, each as a photograph: number -> who is in it.
FRAMES: dict[int, list[Box]] = {
    50: [(374, 180, 398, 258), (412, 182, 428, 262), (432, 176, 458, 247), (506, 218, 540, 308),
         (555, 214, 587, 300), (668, 256, 714, 370)],
    150: [(70, 91, 88, 128), (637, 107, 657, 165), (659, 112, 679, 166), (713, 111, 728, 175), (388, 196, 416, 278),
          (435, 192, 462, 274), (444, 178, 472, 254), (594, 228, 626, 315)],
    250: [(38, 176, 62, 245), (194, 152, 220, 225), (373, 231, 418, 326), (545, 190, 578, 266), (600, 256, 642, 353),
          (634, 121, 656, 186), (658, 126, 678, 186)],
    350: [(384, 180, 402, 235), (385, 226, 418, 318), (472, 188, 510, 276), (673, 222, 700, 318), (698, 226, 728, 316)],
    450: [(312, 206, 338, 288), (487, 184, 515, 258), (558, 242, 594, 336)],
    550: [(126, 167, 154, 232), (594, 168, 630, 242), (644, 304, 668, 412), (170, 368, 226, 510), (236, 375, 288, 508)],
    650: [(141, 150, 162, 219), (222, 156, 240, 222), (314, 157, 346, 228), (470, 226, 500, 313), (640, 194, 668, 280),
          (333, 372, 380, 515)],
    750: [(183, 202, 222, 282), (237, 216, 273, 303), (368, 182, 400, 258), (398, 212, 424, 299), (508, 178, 534, 250),
          (634, 218, 676, 318), (660, 117, 686, 173)],
}  # fmt: skip
# Photographs: name -> who is in it, and of how many pixels' width the picture is in which the boxes were marked.
PEOPLE: dict[str, tuple[int, list[Box]]] = {
    "basketball1.png": (768, [(42, 95, 235, 567), (560, 30, 768, 576)]),
    "basketball2.png": (768, [(45, 100, 240, 567), (560, 30, 768, 576)]),
    "messi5.jpg": (768, [(98, 85, 640, 470)]),
    "left01.jpg": (768, [(310, 25, 710, 575)]),
    "left06.jpg": (768, [(255, 46, 480, 576)]),
    "left07.jpg": (768, [(140, 45, 645, 560)]),
    "left13.jpg": (768, [(172, 0, 705, 570)]),
    "face_swapped.jpg": (160, [(20, 20, 160, 160)]),
    "bus.jpg": (768, [(48, 378, 232, 853), (213, 386, 326, 815), (630, 375, 768, 832), (0, 530, 72, 825)]),
    "zidane.jpg": (768, [(95, 122, 690, 432), (445, 25, 690, 432)]),
    "astronaut.png": (512, [(40, 0, 370, 512)]),
    "camera.png": (768, [(0, 95, 500, 768)]),
    "grace_hopper.jpg": (512, [(30, 15, 480, 600)]),
}
NOBODY = (
    *("aero1.jpg", "aloeL.jpg", "apple.jpg", "baboon.jpg", "board.jpg", "building.jpg", "butterfly.jpg", "fruits.jpg"),
    *(
        "home.jpg",
        "left.jpg",
        "leuvenA.jpg",
        "leuvenB.jpg",
        "licenseplate_motion.jpg",
        "orange.jpg",
        "squirrel_cls.jpg",
    ),
    *("stuff.jpg", "box_in_scene.png", "rubberwhale1.png", "coffee.png", "motorcycle_left.png", "chelsea.png"),
    *("rocket.jpg", "china.jpg", "flower.jpg", "cheetah.jpg", "lion.jpg", "tower.jpg"),
)


NOTES = """\
## What was wrong, looked at one by one (`hog`)

- In the street it misses who is smaller than some 60 pixels, who is half behind the lamp post or its sign, and one of \
two who walk close together. Twice it draws one tall box around two people who walk behind one another.
- Of the other people it finds none: they sit, lean, kick a ball, hold a board before them, or are cut by the edge of \
the picture. Two men who stand whole before a bus, 450 pixels high, are missed, too. Portraits that are indexed whole \
lose little by it; a group would be one entry.
- For people it takes a label on the astronaut's helmet, a butterfly's wing, a rocket and a corner of a pagoda.

So `hog` serves to try things without a download, where people walk in front of a camera that does not move. For \
photographs take a detector of transformers; none could be run here, for lack of weights: their code is tested on tiny \
models with random weights.

The size at which it looks at a picture (1,024 pixels, small ones enlarged up to twice) and its bound were chosen on \
these photographs: with pictures as they are it found 28 people of the street, and at the bound 0.5, 10 boxes were of \
nobody. So the figures above flatter it."""


class Photograph(NamedTuple):
    """A photograph, what kind it is, and who is in it, in its own pixels."""

    path: Path
    kind: str
    people: list[tuple[float, ...]]


def gather(packages: Path, folder: Path) -> list[Photograph]:
    """The photographs of the packages, linked into one folder; a name that is not found ends the run."""
    installed = {"matplotlib": "mpl-data/sample_data", "sklearn": "datasets/images", "gradio": "media_assets/images"}
    places = [packages, *(Path(importlib.util.find_spec(name).origin).parent / at for name, at in installed.items())]
    files = {file.name: file for place in places for file in sorted(place.rglob("*")) if file.is_file()}
    found = []
    with av.open(str(files[FILM])) as film:
        for number, frame in enumerate(film.decode(video=0)):
            if number in FRAMES:
                path = folder / f"{Path(FILM).stem}_{number}.png"
                frame.to_image().save(path)
                found.append(Photograph(path, STREET, FRAMES[number]))
    for name in (*PEOPLE, *NOBODY):
        path = folder / name
        path.symlink_to(files[name].absolute())
        width, boxes = PEOPLE.get(name, (1, []))
        scale = open_image(path).width / width
        people = [tuple(scale * side for side in box) for box in boxes]
        found.append(Photograph(path, OTHERS if people else EMPTY, people))
    return found


def find(photographs: Sequence[Photograph], detector: Detector, folder: Path) -> dict[Path, list[FoundPerson]]:
    """Whom an index of the photographs holds, by what its entries say."""
    from fafa.model_folder import load_model

    model, processor = load_model(TINY_CHECKPOINT)
    paths = [photograph.path for photograph in photographs]
    gallery = index_people(model, processor, paths, detector, folder / "index", 0.0, progress=False)
    found = defaultdict(list)
    for entry in gallery.state.entries(range(gallery.state.num_rows)):
        if entry.box is not None:
            found[Path(entry.path)].append(FoundPerson(entry.box, entry.tags[SCORE]))
    return found


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (sum(areas) - width * height)


def judge(photograph: Photograph, found: Sequence[FoundPerson]) -> list[bool]:
    """Whether each box, the surest first, is that of a person whom no surer box has."""
    left, right = list(photograph.people), []
    for person in sorted(found, key=lambda person: -person.score):
        best = max(left, key=lambda box: overlap(box, person.box), default=None)
        right.append(best is not None and overlap(best, person.box) >= SAME)
        if right[-1]:
            left.remove(best)
    return right


def counts(photographs: Sequence[Photograph], found: dict[Path, list[FoundPerson]], least: float) -> list[Any]:
    """People, those found, boxes of nobody, and photographs that are indexed whole."""
    judged = [
        judge(photograph, [person for person in found[photograph.path] if person.score >= least])
        for photograph in photographs
    ]
    return [
        sum(len(photograph.people) for photograph in photographs),
        sum(map(sum, judged)),
        sum(one.count(False) for one in judged),
        sum(not one for one in judged),
    ]


def draw(photographs: Sequence[Photograph], found: dict[Path, list[FoundPerson]], least: float, file: Path) -> None:
    """All photographs with the boxes, to look at."""
    cell, columns = 320, 6
    sheet = Image.new("RGB", (columns * cell, -(-len(photographs) // columns) * cell), "white")
    for number, photograph in enumerate(photographs):
        image = not_too_thin(open_image(photograph.path))
        for person in found[photograph.path]:
            if person.score >= least:
                image = draw_box(image, person.box)
        image.thumbnail((cell - 6, cell - 6))
        sheet.paste(image, (number % columns * cell, number // columns * cell))
    save_sheet(sheet, file)


def page(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    by_kind = [[kind, *row] for kind, row in result["kinds"].items()]
    bounds = [[bound, *row] for bound, row in result["bounds"].items()]
    per_picture = [[name, *row] for name, row in result["photographs"].items()]
    head = ["people", "found", "boxes of nobody", "indexed whole"]
    return f"""# Who is found in photographs that nobody here made

{result["date"]}, {result["processor"]}, detector {result["detector"]}. {result["number"]} photographs of the \
packages opencv-doc (Debian), scikit-image, ultralytics, matplotlib, scikit-learn and gradio, through \
`fafa.people.index_people`; those of the street are frames of a film, ten seconds apart. People were marked by eye. \
That is few, of few places: take it as what can go wrong, not as rates. All of it took {result["seconds"]:.0f} seconds.

{markdown_table(["photographs of", "photographs", *head], by_kind)}

## By the detector's bound

The distance from the classifier's border from which on it says "a person"; the one in use is {result["bound"]}.

{markdown_table(["bound", *head], bounds)}

## By photograph

{markdown_table(["photograph", "people", "found", "boxes of nobody"], per_picture)}

{NOTES}
"""


def main() -> None:
    """Gathers, indexes, compares, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="folder that the packages were unpacked into")
    parser.add_argument("--detector", default="hog", help="hog, or a detector of transformers")
    parser.add_argument("--sheet", type=Path, help="draw all photographs with what was found, such as found.png")
    args = parser.parse_args()
    bound, detectors._HOG_SURE = detectors._HOG_SURE, LOWEST
    sure = {each: detectors.score_of(each) for each in BOUNDS}
    with TemporaryDirectory() as name:
        folder = Path(name)
        photographs = gather(args.packages, folder)
        started = time.perf_counter()
        found = find(photographs, load_detector(args.detector), folder)
        seconds = time.perf_counter() - started
        kinds = {kind: [one for one in photographs if one.kind == kind] for kind in (STREET, OTHERS, EMPTY)}
        least = sure[bound]
        result = {
            "date": str(date.today()),
            "processor": processor_name(),
            "detector": args.detector,
            "number": len(photographs),
            "seconds": round(seconds, 1),
            "bound": bound,
            "kinds": {kind: [len(of), *counts(of, found, least)] for kind, of in kinds.items()},
            "bounds": {str(each): counts(photographs, found, sure[each]) for each in BOUNDS},
            "photographs": {one.path.name: counts([one], found, least)[:3] for one in photographs},
        }
        if args.sheet:
            draw(photographs, found, least, args.sheet)
    (RESULTS / "people_found.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "people_found.md").write_text(page(result), encoding="utf-8")
    print(page(result))


if __name__ == "__main__":
    main()
