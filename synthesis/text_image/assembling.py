"""Writes down a text-image data set: which picture is whose, what is said of it, and where it comes from."""

from collections.abc import Iterable, Iterator
from typing import Any

from ..components import Record

GENERATED, EDITED = "generated", "edited"


def image_entries(
    pictures: Iterable[Record], edits: Iterable[Record], models: dict[str, str]
) -> Iterator[tuple[dict[str, Any], str]]:
    """The records of SynTBPR.json, each with the picture's path in the synthesis.

    Every kept picture is a person of its own, numbered from 0; edits show the person of the picture they start from.
    Numbers of people of whom no picture has a caption are left out.

    Args:
        pictures: Those that the pose filter kept, in order: `id`, `image`, `prompt`, `seed`; with `captions`, without
            which a picture is left out but its edits are not.
        edits: Of these pictures: `id`, `parent`, `image`, `edit`, `prompt`, `seed`, `captions`.
        models: What painted, by "generated" and "edited".

    Yields:
        `{"image_path", "captions", "person_id", "provenance"}`; a provenance has the keys source, model, prompt, seed,
        edit and parent (`image_path` of the picture an edit starts from; both null for others).
    """
    of_person: dict[str, list[Record]] = {}
    for edit in edits:
        of_person.setdefault(edit["parent"], []).append(edit)
    for person, picture in enumerate(pictures):
        for record in (picture, *of_person.get(picture["id"], ())):
            if "captions" in record:
                yield _entry(record, picture, person, models), record["image"]


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
