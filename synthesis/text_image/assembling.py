"""Writes down a text-image data set: which picture is whose, what is said of it, and where it comes from."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..components import Record

DATASET = "SynTBPR"
GENERATED, EDITED = "generated", "edited"


def image_entries(people: Iterable[Sequence[Record]], models: dict[str, str]) -> Iterator[tuple[dict[str, Any], str]]:
    """The records of SynTBPR.json, each with the picture's path in the synthesis.

    People are numbered from 0, in order. Numbers of people of whom no picture has a caption are left out.

    Args:
        people: Of each person the pictures that the pose filter kept, the generated one first, then its edits: `id`,
            `image`, `prompt`, `seed`, of edits `edit`; a picture without `captions` is left out.
        models: What painted, by "generated" and "edited".

    Yields:
        `{"image_path", "captions", "person_id", "provenance"}`; a provenance has the keys source, model, prompt, seed,
        edit and parent (`image_path` of the picture an edit starts from; both null for others).
    """
    for person, pictures in enumerate(people):
        for record in pictures:
            if "captions" in record:
                yield _entry(record, pictures[0], person, models), record["image"]


def _entry(record: Record, picture: Record, person: int, models: dict[str, str]) -> dict[str, Any]:
    source = GENERATED if record is picture else EDITED
    return {
        "image_path": _path(source, record),
        "captions": record["captions"],
        "person_id": person,
        "provenance": {
            "source": source,
            "model": models[source],
            "prompt": record["prompt"],
            "seed": record["seed"],
            "edit": record.get("edit"),
            "parent": None if record is picture else _path(GENERATED, picture),
        },
    }


def _path(source: str, record: Record) -> str:
    """Folders by the first number of the id hold few files each."""
    folder = record["id"].split("-")[0].zfill(6)[:-3]
    suffix = record["image"].rpartition(".")[2]
    return f"images/{source}/{folder}/{record['id']}.{suffix}"
