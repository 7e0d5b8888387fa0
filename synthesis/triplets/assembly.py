"""The stage that writes the data set of triplets, and the settings of that data set."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ..components import Record, seed_of
from ..filtering.thresholds import DIRECTIONS
from ..settings import Settings, ShareBelowOne, deciding
from ..stages import DataSetStage, Workspace, write_data_set
from .records import kept_triplets

_SIDES = {"ab": ("left", "right"), "ba": ("right", "left")}  # direction -> where reference and target are

# Data set -> its file, and the field that the triplets of one quadruple and direction share.
FORMATS = {"SynCPR": ("SynCPR.json", "cpr_id"), "CIRHS": ("CIRHS.json", "tid")}


class AssemblySettings(Settings):
    """Settings of the data set.

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


class Assemble(DataSetStage):
    """Writes the data set, and the one for validation if there is one."""

    name, source = "assemble", "filter"

    def __init__(self, settings: AssemblySettings, seed: int):
        super().__init__()
        self._settings, self._seed, self.settings = settings, seed, deciding(settings)

    def sources(self) -> list[str]:
        """The texts, the images, and which of them are kept."""
        return ["distinct", "split", "filter"]

    def data_sets(self, settings: Mapping[str, Any]) -> list[Path]:
        """See `DataSetStage.data_sets`."""
        name = settings["format"]
        folders = [name, *([f"{name}-validation"] if settings["validation_share"] else [])]
        return [Path(folder, FORMATS[name][0]) for folder in folders]

    def make(self, work: Workspace) -> dict[str, Any]:
        """See `WholeStage.make`."""
        id_field, counts = FORMATS[self._settings.format][1], {}
        share = self._settings.validation_share * 1_000_000
        for number, file in enumerate(self.results(work)):
            triplets = (
                (triplet_of(record, id_field), _images_of(record, work.root))
                for record in kept_triplets(work)
                if (seed_of(self._seed, "validation", record["quadruple"]) % 1_000_000 < share) == bool(number)
            )
            num_triplets, num_groups = write_data_set(file, triplets, id_field)
            counts |= {f"{file.parent.name} triplets": num_triplets, f"{file.parent.name} groups": num_groups}
        return counts


def _images_of(record: Record, folder: Path) -> dict[str, Path]:
    """The images of a triplet, by their paths in SynCPR.json; those in the record are relative to the folder."""
    return {_published_path(record, side): folder / record[side] for side in ("left", "right")}
