"""Tiny data sets of images with captions, in the annotation formats that their authors publish."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

CUHK, ICFG, RSTP, UFINE, TBPS = "CUHK-PEDES", "ICFG-PEDES", "RSTPReid", "UFine6926", "TBPS-CLIP"


@dataclass(frozen=True)
class Annotated:
    """How a set is annotated: its file, the paths of its images, the first id, what else is in a record."""

    file: str
    image: Callable[[int, str], str]
    first_id: int = 0
    path: str = "file_path"
    splits: tuple[str, ...] = ("train", "train", "train", "val", "test", "test")
    more: Callable[[int], dict[str, Any]] = lambda number: {}

    def records(self) -> list[dict[str, Any]]:
        """Six images of five people, two captions each but for the last; `shade` is not of the format."""
        return [
            {
                "split": split,
                "captions": [f"A person {number} in red.", "Somebody."][: 1 if number == 5 else 2],
                self.path: self.image(number, split),
                "id": self.first_id + min(number, 4),
                "shade": number,
                **self.more(number),
            }
            for number, split in enumerate(self.splits)
        ]


_TOKENS = {"processed_tokens": [["a", "person"]]}
SETS = {
    CUHK: Annotated("reid_raw.json", lambda n, _: f"CUHK01/{n}.png", first_id=1, more=lambda n: _TOKENS),
    ICFG: Annotated(
        "ICFG-PEDES.json",
        lambda n, split: f"{split}/{n:04}_001_02_0303morning_0015_{n}.png",
        splits=("train", "train", "train", "train", "test", "test"),
        more=lambda n: _TOKENS,
    ),
    RSTP: Annotated("data_captions.json", lambda n, _: f"{n:04}_c5_0022.png", path="img_path"),
    UFINE: Annotated("UFine6926.json", lambda n, _: f"{n}.png"),
    TBPS: Annotated("train.json", lambda n, _: f"{n % 4}.png", more=lambda n: {"captions_bt": [f"somebody {n}"]}),
}


def write_set(
    root: Path,
    name: str,
    changes: dict[int, dict[str, Any]] | None = None,
    keep: Callable[[dict[str, Any]], bool] = lambda record: True,
) -> None:
    """Writes images and annotations; `changes` are of single records, `keep` leaves some out."""
    records = SETS[name].records()
    for record in records:
        place = Path("images", record["split"]) if name == TBPS else Path("imgs")
        file = root / place / record[SETS[name].path]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 48), (record.pop("shade"), 0, 0)).save(file)
    records = [record | (changes or {}).get(number, {}) for number, record in enumerate(records)]
    records = list(filter(keep, records))
    if name != TBPS:
        (root / SETS[name].file).write_text(json.dumps(records))
        return
    for split in {record["split"] for record in records}:
        own = [
            {key: value for key, value in record.items() if key != "split"}
            for record in records
            if record["split"] == split
        ]
        (root / f"{split}.json").write_text(json.dumps(own))
