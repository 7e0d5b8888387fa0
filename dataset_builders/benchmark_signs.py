"""Tells by names of files which benchmarks of composed image retrieval a folder holds. It imports nothing large."""

import re
from pathlib import Path

_FOLDERS = ("captions", "image_splits")
_FILES = {
    "FashionIQ": re.compile(r"(cap|split)\.(dress|shirt|toptee)\.(train|val|test)\.json"),
    "CIRR": re.compile(r"(cap|split)\.rc2\.(train|val|test1)\.json"),
}
_CIRCO_FILES, _CIRCO_FOLDERS = (
    ("annotations/val.json", "annotations/test.json"),
    ("COCO2017_unlabeled", "unlabeled2017"),
)
WHERE_THEY_ARE = "captions/ and image_splits/ of FashionIQ or CIRR (rc2), or annotations/val.json or test.json of CIRCO"


def benchmarks_in(root: Path) -> list[str]:
    """The benchmarks of which annotation files lie in a folder, even if only some of a split's.

    CIRCO's files have names that others could have: they or the image folder beside them must be CIRCO's.
    """
    names = {file.name for folder in _FOLDERS for file in (root / folder).glob("*.json")}
    found = [name for name, pattern in _FILES.items() if any(map(pattern.fullmatch, names))]
    files = [root / file for file in _CIRCO_FILES if (root / file).is_file()]
    if files and (any((root / folder).is_dir() for folder in _CIRCO_FOLDERS) or any(map(_is_circo, files))):
        found.append("CIRCO")
    return found


def _is_circo(file: Path) -> bool:
    with file.open("rb") as stream:
        return b'"reference_img_id"' in stream.read(1 << 16)
