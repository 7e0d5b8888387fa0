"""What several stages know of people and their images, put together."""

from collections.abc import Iterator

from ..components import REJECTED, Record
from ..stages import Workspace


def people_of(work: Workspace, chunk: int) -> list[Record]:
    """The people of a chunk who passed the pose filter: what is known of them, and the image cut out."""
    prompts, pictures = work.by_id("prompts", chunk), work.by_id("pictures", chunk)
    painted = (pictures[pose["id"]] | pose for pose in work.kept("poses", chunk))
    return [prompts[picture["of"]] | picture for picture in painted]


def edited_people(work: Workspace, chunk: int) -> list[Record]:
    """The edited images of a chunk that passed the pose filter."""
    originals, edits = {record["id"]: record for record in people_of(work, chunk)}, work.by_id("edits", chunk)
    painted = (edits[pose["id"]] | pose for pose in work.kept("edit_poses", chunk))
    return [originals[edit["parent"]] | edit for edit in painted]


def pictures_by_person(work: Workspace, with_edits: bool) -> Iterator[list[Record]]:
    """For each person the images that passed the pose filter, the generated one first, each with its captions."""
    for chunk in range(work.num_chunks):
        captions = work.by_id("captions", chunk)
        pictures = {person["id"]: [person] for person in people_of(work, chunk)}
        for edit in edited_people(work, chunk) if with_edits else ():
            pictures[edit["parent"]].append(edit)
        for of_person in pictures.values():
            for picture in of_person:
                if found := captions.get(picture["id"]):
                    picture["captions"] = found["captions"]
            yield of_person


def rejected_pictures(work: Workspace, with_edits: bool) -> Iterator[Record]:
    """The images that were painted and rejected later, as they were painted."""
    steps = [("pictures", "poses"), *([("edits", "edit_poses")] if with_edits else [])]
    for chunk in range(work.num_chunks):
        for painting, filtering in steps:
            painted = work.by_id(painting, chunk)
            for record in (*work.read(filtering, chunk), *work.read("captions", chunk)):
                if REJECTED in record and record["id"] in painted:
                    yield painted[record["id"]] | record
