"""The last stages: deciding which pairs become triplets, and writing the data set that load_dataset reads."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ..components import Record, seed_of
from ..filtering.thresholds import DIRECTIONS
from ..pictures import link_picture
from ..settings import Settings, ShareBelowOne
from ..stages import Workspace, as_json_list

_SIDES = {"ab": ("left", "right"), "ba": ("right", "left")}  # direction -> where reference and target are
_PATHS = ("reference_image_path", "target_image_path")

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


def assemble(work: Workspace, settings: AssemblySettings, seed: int) -> dict[str, int]:
    """Write the data set's folder (and one for validation): annotations, and the pictures as hard links or copies.

    Args:
        work: Holds the decisions of stage `filter`, which name the pictures.
        settings: What to write.
        seed: Decides which quadruples are for validation.

    Returns:
        Counts: triplets and groups, of each folder.
    """
    _, id_field = FORMATS[settings.format]
    counts: dict[str, int] = {}
    files = data_set_files(settings.format, settings.validation_share)
    for file, is_validation in zip(files, (False, True), strict=False):
        name = file.parent.name
        final, part = work.root / name, work.root / f".{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        groups: set[int] = set()

        def triplets(
            is_validation: bool = is_validation, part: Path = part, groups: set[int] = groups
        ) -> Iterator[Record]:
            for record in kept_triplets(work):
                if _is_for_validation(record, settings.validation_share, seed) != is_validation:
                    continue
                triplet = triplet_of(record, id_field)
                for side, path in zip(_SIDES[record["direction"]], _PATHS, strict=True):
                    link_picture(work.root / record[side], part / triplet[path])
                groups.add(triplet[id_field])
                yield triplet

        num_triplets = as_json_list(triplets(), part / file.name)
        if final.exists():
            shutil.rmtree(final)
        part.rename(final)
        counts |= {f"{name} triplets": num_triplets, f"{name} groups": len(groups)}
    return counts


def kept_triplets(work: Workspace) -> Iterator[Record]:
    """Every triplet that the filter kept, in order: with texts, image paths below the workspace, and `direction`."""
    for chunk in range(work.num_chunks):
        quadruples = {record["id"]: record for record in work.kept("distinct", chunk)}
        pairs = {record["id"]: record for record in work.kept("split", chunk)}
        for decision in work.kept("filter", chunk):
            pair = pairs[decision["pair"]]
            yield quadruples[pair["quadruple"]] | pair | decision


def _is_for_validation(record: Record, share: float, seed: int) -> bool:
    return seed_of(seed, "validation", record["quadruple"]) % 1_000_000 < share * 1_000_000
