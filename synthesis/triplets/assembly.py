"""What the data set of triplets looks like: formats, records, paths of pictures, the cut into two splits."""

from pathlib import Path
from typing import Any, Literal

from ..components import Record, seed_of
from ..filtering.thresholds import DIRECTIONS
from ..settings import Settings, ShareBelowOne

_SIDES = {"ab": ("left", "right"), "ba": ("right", "left")}  # direction -> where reference and target are

# Data set -> its file, and the field that the triplets of one quadruple and direction share.
FORMATS = {"SynCPR": ("SynCPR.json", "cpr_id"), "CIRHS": ("CIRHS.json", "tid")}


class AssemblySettings(Settings):
    """What the data set looks like.

    Attributes:
        format: "SynCPR" or "CIRHS".
        validation_share: Share of the quadruples that go to a second folder, with all their triplets.
    """

    format: Literal[tuple(FORMATS)] = "SynCPR"
    validation_share: ShareBelowOne = 0.0


def triplet_of(record: Record, id_field: str) -> dict[str, Any]:
    """A record of SynCPR.json: the published fields, in the published order."""
    a, b = record["direction"]
    reference, target = _SIDES[record["direction"]]
    return {
        "reference_caption": record[f"caption_{a}"],
        "target_caption": record[f"caption_{b}"],
        "reference_image_path": _published_path(record, reference),
        "target_image_path": _published_path(record, target),
        "edit_caption": record[f"edit_{record['direction']}"],
        id_field: 2 * int(record["quadruple"]) + DIRECTIONS.index(record["direction"]),
    }


def _published_path(record: Record, side: str) -> str:
    suffix = Path(record[side]).suffix
    return f"test2/sub_img/img_{side}/{record['quadruple']}-{record['number']}_{side}{suffix}"


def data_set_files(name: str, validation_share: float) -> list[Path]:
    """The annotation file of the data set, and of the one for validation if there is one, below the workspace."""
    file_name, _ = FORMATS[name]
    return [Path(name, file_name), *([Path(f"{name}-validation", file_name)] if validation_share else [])]


def pictures_of(record: Record, folder: Path) -> dict[str, Path]:
    """The pictures of a triplet, by their paths in SynCPR.json; those in the record are relative to the folder."""
    return {_published_path(record, side): folder / record[side] for side in ("left", "right")}


def is_for_validation(record: Record, share: float, seed: int) -> bool:
    """Whether a triplet's quadruple goes to the validation set, drawn by the seed for this share of them."""
    return seed_of(seed, "validation", record["quadruple"]) % 1_000_000 < share * 1_000_000
