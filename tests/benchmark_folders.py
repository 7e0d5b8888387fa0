"""FashionIQ, CIRR and CIRCO in miniature, in the layouts and formats that their authors publish."""

import json
from pathlib import Path

from PIL import Image

WORDS = ("red coat", "blue bag", "red hat", "blue coat")


def write_json(file: Path, content) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def write_image(file: Path, number: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 16), (37 * number % 256, 91 * number % 256, 11 * number % 256)).save(file)


def make_fashioniq(root: Path, splits=("val",), missing=()) -> Path:
    """Two queries and four images a category; in `missing`, names of images that are not there."""
    for start, category in enumerate(("dress", "shirt", "toptee")):
        for split in splits:
            names = [f"B{split}{category}{number}" for number in range(4)]
            write_json(root / f"image_splits/split.{category}.{split}.json", names)
            records = [
                {"target": names[2 + number], "candidate": names[number], "captions": ["is a red coat", "a blue bag."]}
                for number in range(2)
            ]
            if split == "test":
                records = [{name: value for name, value in one.items() if name != "target"} for one in records]
            write_json(root / f"captions/cap.{category}.{split}.json", records)
            for number, name in enumerate(names):
                if name not in missing:
                    suffix = ".png" if number % 2 else ".jpg"
                    write_image(root / "images" / f"{name}{suffix}", 4 * start + number)
    return root


def make_cirr(root: Path, split="val", num_images=60, num_queries=3) -> Path:
    """Sets of six images, one query of each."""
    names = [f"{'dev' if split == 'val' else split}-{number}-0-img0" for number in range(num_images)]
    folder = "dev" if split == "val" else split
    write_json(root / f"image_splits/split.rc2.{split}.json", {name: f"./{folder}/{name}.png" for name in names})
    records = []
    for number in range(num_queries):
        members = names[6 * number : 6 * number + 6]
        record = {
            "pairid": 100 + number,
            "reference": members[0],
            "target_hard": members[1],
            "target_soft": {members[1]: 1.0},
            "caption": f"a {WORDS[number % 4]}",
            "img_set": {"id": number, "members": members, "reference_rank": 0, "target_rank": 1},
        }
        if split == "test1":
            record = {name: value for name, value in record.items() if not name.startswith("target")}
        records.append(record)
    write_json(root / f"captions/cap.rc2.{split}.json", records)
    for number, name in enumerate(names):
        write_image(root / folder / f"{name}.png", number)
    return root


def make_circo(root: Path, split="val", num_images=60, num_queries=3) -> Path:
    """Queries with one, two, three targets."""
    numbers = [8 + 7 * number for number in range(num_images)]
    records = []
    for number in range(num_queries):
        truths = numbers[10 * number + 1 : 10 * number + 2 + number]
        record = {
            "reference_img_id": numbers[10 * number],
            "target_img_id": truths[0],
            "relative_caption": f"a {WORDS[number % 4]}",
            "shared_concept": "a coat",
            "gt_img_ids": truths,
            "id": number,
            "semantic_aspects": ["negation", "cardinality"][: 1 + number % 2],
        }
        if split == "test":
            record = {name: record[name] for name in ("reference_img_id", "relative_caption", "shared_concept", "id")}
        records.append(record)
    write_json(root / f"annotations/{split}.json", records)
    for number, name in enumerate(numbers):
        write_image(root / "COCO2017_unlabeled/unlabeled2017" / f"{name:012d}.jpg", number)
    return root
