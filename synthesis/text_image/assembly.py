"""The stage that writes a text-image data set: which image shows whom, its captions, and where it comes from."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..components import Record
from ..stages import DataSetStage, Workspace, write_data_set
from .records import pictures_by_person

DATASET = "SynTBPR"
_GENERATED, _EDITED = "generated", "edited"


def image_entries(people: Iterable[Sequence[Record]], models: dict[str, str]) -> Iterator[tuple[dict[str, Any], str]]:
    """The records of SynTBPR.json, each with the image's path in the synthesis.

    People are numbered from 0, in order. The numbers of people without any captioned image are left out.

    Args:
        people: For each person the images that the pose filter kept, the generated one first, then its edits: `id`,
            `image`, `prompt`, `seed`, and `edit` of edits; an image without `captions` is left out.
        models: What painted, by "generated" and "edited".

    Yields:
        `{"image_path", "captions", "person_id", "provenance"}`; a provenance has the keys source, model, prompt, seed,
        edit and parent (`image_path` of the image that an edit starts from; both null for others).
    """
    for person, (original, *edits) in enumerate(people):
        for record in (original, *edits):
            if "captions" not in record:
                continue
            source = _GENERATED if record is original else _EDITED
            provenance = {
                "source": source,
                "model": models[source],
                "prompt": record["prompt"],
                "seed": record["seed"],
                "edit": record.get("edit"),
                "parent": None if record is original else _path(_GENERATED, original),
            }
            entry = {"image_path": _path(source, record), "captions": record["captions"], "person_id": person}
            yield entry | {"provenance": provenance}, record["image"]


def _path(source: str, record: Record) -> str:
    """The path in the data set; a folder for every thousand prompts holds few files."""
    folder = record["id"].split("-")[0].zfill(6)[:-3]
    suffix = record["image"].rpartition(".")[2]
    return f"images/{source}/{folder}/{record['id']}.{suffix}"


class Assemble(DataSetStage):
    """Writes the data set."""

    name, source = "assemble", "captions"

    def __init__(self, with_edits: bool):
        super().__init__()
        self._with_edits, self.settings = with_edits, {}

    def sources(self) -> list[str]:
        """The images and their captions."""
        return ["poses", *(["edits", "edit_poses"] if self._with_edits else []), "captions"]

    def data_sets(self, settings: Mapping[str, Any]) -> list[Path]:
        """See `DataSetStage.data_sets`."""
        return [Path(DATASET, f"{DATASET}.json")]

    def make(self, work: Workspace) -> dict[str, Any]:
        """See `WholeStage.make`."""
        models = {_GENERATED: _model_of(work, "pictures"), _EDITED: _model_of(work, "edits")}
        entries = image_entries(pictures_by_person(work, self._with_edits), models)
        placed = ((entry, {entry["image_path"]: work.root / image}) for entry, image in entries)
        (file,) = self.results(work)
        images, persons = write_data_set(file, placed, "person_id")
        return {"images": images, "people": persons}


def _model_of(work: Workspace, stage: str) -> str:
    """The model that painted, by the manifest of its stage."""
    about = work.manifest(stage).get("about", {})
    return " ".join(str(about[key]) for key in ("model", "revision") if about.get(key))
