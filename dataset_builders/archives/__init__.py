"""Unpacks archives that others made: zip and tar, in parts, and within one another.

What comes out is whole, or there is an error. Nothing is written outside of the folder, and no link is followed. An
archive that is damaged, cut off or hostile is refused; the message names it and its member.

`finding` recognises archives by their names, `parts` reads a split one as one file, `zips` and `tars` take them apart,
and `members` writes what they hold.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ...files import DISK_FULL
from ..records import DataFormatError
from .finding import ARCHIVES_WITHIN, BY_HAND, FETCH_AGAIN, INCOMPLETE, find_archives, is_zip, same_folder
from .members import DEPTH, Budget, Folder, require_room, shown, size_of
from .tars import unpack_tar
from .zips import check_zip, open_zip, unpack_zip

logger = logging.getLogger(__name__)

__all__ = ["find_archives", "unpack_archives"]


def unpack_archives(folder: str | Path, output: str | Path) -> None:
    """Unpack all zip and tar archives below a folder, split ones and archives within archives included.

    An archive a/b.zip goes to the folder a/b below `output`. That folder appears when it is complete and on the disk;
    until then it is called a/b.incomplete. Another attempt leaves complete folders alone, and begins the others anew.
    Nothing of a refused archive stays.

    All names in all zips are checked before the first file is written, and the sizes that the archives announce are
    compared with the free disk. Symbolic links and special files are left out, and counted in a warning.

    Args:
        folder: Where the archives lie.
        output: Where to unpack them.

    Raises:
        DataFormatError: an archive is broken, of an unknown kind, or beyond the limits; a part is missing; two archives
            would go to one folder; a member's name leads out of its folder, cannot be a file's, or is used twice.
        OSError: the disk is full or cannot be written; complete folders stay for the next attempt.
    """
    _unpack_all(Path(folder), Path(output), Budget(), depth=1)


def _unpack_all(folder: Path, output: Path, budget: Budget, depth: int) -> None:
    archives = find_archives(folder)
    to_do = {target: parts for target, parts in archives.items() if not (output / target).is_dir()}
    if to_do and depth > DEPTH:
        first = next(iter(to_do.values()))[0]
        raise DataFormatError(
            f"{first}: lies within {depth - 1} other archives; at most {DEPTH} in one another are "
            f"unpacked. Remedy: {BY_HAND}."
        )
    if depth == 1:
        budget.packed = sum(part.stat().st_size for parts in to_do.values() for part in parts)
    folders = {target: (output / target).with_name(Path(target).name + INCOMPLETE) for target in to_do}
    for incomplete in filter(Path.is_dir, folders.values()):  # left by a stopped attempt
        for entry in incomplete.iterdir():
            if not entry.is_dir():
                entry.unlink()
            elif entry.name != ARCHIVES_WITHIN:
                shutil.rmtree(entry)
    sizes = [_announced_size(parts, output / target, budget) for target, parts in to_do.items()]
    require_room(output, sum(sizes), f"unpacking {folder}")

    for target, parts in to_do.items():
        incomplete = folders[target]
        incomplete.mkdir(parents=True, exist_ok=True)
        try:
            _unpack(parts, incomplete, budget)
            _unpack_all(incomplete, incomplete / ARCHIVES_WITHIN, budget, depth + 1)
            for other in archives:
                if other.startswith(f"{target}/") and (incomplete / other[len(target) + 1 :]).exists():
                    raise same_folder(parts[-1], archives[other][-1])
        except DataFormatError:
            shutil.rmtree(incomplete, ignore_errors=True)
            raise
        if hasattr(os, "sync"):
            os.sync()  # after a power cut a complete folder must not hold files without contents
        incomplete.rename(output / target)


def _announced_size(parts: Sequence[Path], destination: Path, budget: Budget) -> int:
    """Bytes that are to be written, by what the archive itself says; all members of a zip are checked."""
    if not is_zip(parts):
        return sum(part.stat().st_size for part in parts)  # compressed images come to hardly less
    with _naming(parts[0]), open_zip(parts) as (_, members):
        check_zip(parts[0], members, destination)
        size = sum(member.file_size for member in members)
        replace(budget).spend(parts[0], len(members), size)
        return size


def _unpack(parts: Sequence[Path], path: Path, budget: Budget) -> None:
    """Unpack one archive."""
    folder = Folder(path, parts[0], budget)
    with _naming(parts[0], folder):
        (unpack_zip if is_zip(parts) else unpack_tar)(parts, folder)
    if folder.left_out:
        logger.warning(
            "%s: %d links and special files were not unpacked, the first of them is %r.",
            parts[0],
            len(folder.left_out),
            folder.left_out[0],
        )


@contextmanager
def _naming(archive: Path, folder: Folder | None = None) -> Iterator[None]:
    """Turn whatever the decoders raise over a broken archive into a `DataFormatError` that names it and the member."""
    try:
        yield
    except DataFormatError:
        raise
    except Exception as error:
        member = f"its member {shown(folder.member)} " if folder and folder.member else ""
        if isinstance(error, OSError) and error.errno is not None:  # from the disk
            reason = error.strerror
            if error.errno in DISK_FULL:
                free = shutil.disk_usage(folder.path).free if folder else 0
                reason = f"the disk is full ({size_of(free)} free). Make room, and load again: complete folders stay"
            raise OSError(error.errno, f"{archive}: {member or 'it '}cannot be unpacked: {reason}") from error
        reason = str(error) or type(error).__name__
        raise DataFormatError(f"{archive}: {member}cannot be unpacked: {reason}. Remedy: {FETCH_AGAIN}.") from error
