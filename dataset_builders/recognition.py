"""Tells by a record whose annotation file it is of, for errors that name the file that was given instead."""

import re
from typing import NamedTuple

from .records import DataFormatError

# MSMT17's file names, which ICFG-PEDES takes over, and the folders of CUHK-PEDES.
_ICFG_NAME = re.compile(r"(^|/)\d{4}_\d{3}_\d{2}_\d{4}[a-z]+_\d+_\d+")
_CUHK_FOLDERS = {"CUHK01", "CUHK03", "Market", "cam_a", "cam_b", "train_query", "test_query"}


class Sign(NamedTuple):
    """How a record of a format is known: by fields that it has, and fields that it lacks."""

    name: str
    has: frozenset[str]
    lacks: frozenset[str] = frozenset()


def _sign(name: str, has: str, lacks: str = "") -> Sign:
    return Sign(name, frozenset(has.split()), frozenset(lacks.split()))


SIGNS = (  # the first that fits
    _sign("SynCPR", "edit_caption cpr_id"),
    _sign("CIRHS", "edit_caption tid"),
    _sign("ITCPR", "file_path instance_id"),
    _sign("SynTBPR", "image_path captions provenance"),
    _sign("RSTPReid", "img_path captions"),
    _sign("CIRR", "pairid reference"),
    _sign("FashionIQ", "candidate captions"),
    _sign("CIRCO", "reference_img_id relative_caption"),
    _sign("TBPS-CLIP", "file_path id captions captions_bt", "split"),
    _sign("an older CUHK-PEDES, without splits", "file_path id captions", "split captions_bt"),
    _sign("CUHK-PEDES or ICFG-PEDES", "split file_path id captions processed_tokens"),
    _sign("UFine6926", "split file_path id captions", "processed_tokens"),
)


def recognise(record: dict) -> str | None:
    """The name of the data set that a record is of, as far as can be told; None: of none that is known."""
    name = next((sign.name for sign in SIGNS if sign.has <= record.keys() and not sign.lacks & record.keys()), None)
    if name == "CUHK-PEDES or ICFG-PEDES" and isinstance(path := record["file_path"], str):
        if _ICFG_NAME.search(path):
            return "ICFG-PEDES"
        if _CUHK_FOLDERS & set(path.split("/")[:-1]):
            return "CUHK-PEDES"
    return name


def refuse_another(file: str, record: object, expected: str) -> None:
    """Refuses the annotation file of another data set, by its first record.

    Args:
        file: its path, for the message.
        record: the first one.
        expected: the data set that it should be of.

    Raises:
        DataFormatError: it is another's; the message says whose.
    """
    found = recognise(record) if isinstance(record, dict) else None
    if found is None or expected in found.split(" or "):
        return
    fields = ", ".join(sorted(map(str, record))[:12])
    raise DataFormatError(
        f"{file}: this looks like an annotation file of {found}, not of {expected} (its first record has {fields}). "
        f"Remedy: put {expected}'s own file in its place, or load this one as what it is."
    )
