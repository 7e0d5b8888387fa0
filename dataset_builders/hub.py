"""Fetches a data set from the Hub: downloads, unpacks, finds the annotation files.

It does not rely on how the authors packed their images. All archives of a repository are unpacked, each into a folder
of its own name, and `layout.ImageFinder` matches the paths of the annotations to the folders that come out.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
from filelock import FileLock
from huggingface_hub.errors import HTTPError

from .archives import unpack_archives
from .layout import Layout, list_files
from .records import DataFormatError


def hub_layout(
    repo_id: str,
    names: Sequence[str],
    unpack_dir: str,
    revision: str | None = None,
    token: str | bool | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Layout:
    """Download a data-set repository, unpack its archives, and find the annotation files in it.

    An interrupted download goes on where it stopped; archives that were unpacked whole stay.

    Args:
        repo_id: The repository, "owner/name".
        names: The annotation files, which lie in one folder, whichever it is.
        unpack_dir: Folder for what comes out of archives; may be shared with other data sets.
        revision: Branch, tag or commit.
        token: Access token.
        force_download: Download again what is there.
        local_files_only: Take what was downloaded before, and ask the Hub nothing.

    Raises:
        ConnectionError: the repository cannot be fetched.
        DataFormatError: an archive is broken or refused, or the annotation files are not there.
        OSError: the disk is full or cannot be written.
    """
    try:
        # Called by its full name, so that a stand-in put into huggingface_hub is found.
        snapshot = huggingface_hub.snapshot_download(
            repo_id,
            repo_type="dataset",
            revision=revision,
            token=token,
            force_download=force_download,
            local_files_only=local_files_only,
        )
    except (OSError, HTTPError) as error:
        raise ConnectionError(
            f"The data-set repository {repo_id}{f' at {revision}' if revision else ''} could not be fetched from the "
            f"Hub: {error}\nRemedy: go online (HF_HUB_OFFLINE unset; another repository by repo_id=), or download it "
            f"elsewhere (hf download {repo_id} --repo-type dataset --local-dir FOLDER), unpack it there so that image "
            "paths are relative to FOLDER, and call load_dataset with data_dir=FOLDER."
        ) from error

    key = hashlib.sha256(str(Path(snapshot).resolve()).encode()).hexdigest()[:16]  # the path holds the commit
    unpacked = Path(unpack_dir, f"{repo_id.replace('/', '--')}-{key}")
    unpacked.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{unpacked}.lock"):
        unpack_archives(snapshot, unpacked)
    return find_annotations(repo_id, names, [str(unpacked), str(snapshot)])


def find_annotations(repo_id: str, names: Sequence[str], roots: Sequence[str]) -> Layout:
    """Find the folder nearest to the roots that holds all the annotation files.

    Raises:
        DataFormatError: there is none.
    """
    files = list_files(roots, wanted=set(names).__contains__)
    for file in files:
        annotations = {name: file.with_name(name) for name in names}
        if set(files).issuperset(annotations.values()):
            paths = {name: str(path) for name, path in annotations.items()}
            return Layout(str(file.parent), paths, (str(file.parent), *roots), repo_id)
    some = ", ".join(file.name for file in list_files(roots, wanted=bool)[:10]) or "nothing"
    raise DataFormatError(
        f"{repo_id}: expected {' and '.join(names)} in the repository or its archives, found {some}. "
        "Remedy: pass another revision= or repo_id=, or your own copy as data_dir=."
    )
