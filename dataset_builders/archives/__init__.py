"""Unpacking archives that others made: zip and tar, in parts, and within one another.

What comes out is whole or an error. Nothing is written outside of the folder, no link is followed, and an archive that
is damaged, cut off or hostile is refused by its name and its member's, as far as can be before anything is written.

`finding` tells archives by their names, `parts` reads a split one as one file, `zips` and `tars` take them apart, and
`members` writes what they hold.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ...files import DISK_FULL
from ..layout import list_files
from ..records import DataFormatError
from .finding import BY_HAND, FETCH_AGAIN, INCOMPLETE, contended, find_archives, is_zip
from .members import ARCHIVES_WITHIN, Budget, Folder, Limits, require_room, shown, size_of
from .tars import unpack_tar
from .zips import check_zip, open_zip, unpack_zip

logger = logging.getLogger(__name__)

__all__ = ["Limits", "find_archives", "unpack_archives"]


def unpack_archives(folder: str | Path, output: str | Path, limits: Limits | None = None) -> None:
    """Unpack all zip and tar archives below a folder, split ones and archives within archives included.

    An archive a/b.zip goes to the folder a/b below `output`. That folder appears when it is complete and on the disk;
    until then it is called a/b.incomplete, and another attempt goes on from what is in it, after comparing contents. Of
    an archive that is refused nothing stays.

    All names in all zips are checked before the first file is written, and what all archives say of their sizes is
    compared with the free disk. Symbolic links and special files are left out, and counted in a warning.

    Args:
        folder: Where the archives lie.
        output: Where to unpack them.
        limits: What they may come to; None for `Limits()`.

    Raises:
        DataFormatError: an archive is broken, of an unknown kind, or beyond the limits; a part is missing; two archives
            would go to one folder; a member's name leads out of its folder, cannot be a file's, or is another's, too.
        OSError: the disk is full or cannot be written; what is whole stays for the next attempt.
    """
    budget = Budget(limits or Limits())
    _unpack_all(Path(folder), Path(output), budget, depth=1)


def _unpack_all(folder: Path, output: Path, budget: Budget, depth: int) -> None:
    archives = find_archives(folder)
    to_do = {target: parts for target, parts in archives.items() if not (output / target).is_dir()}
    if to_do and depth > budget.limits.depth:
        first = next(iter(to_do.values()))[0]
        raise DataFormatError(
            f"{first}: lies within {depth - 1} other archives; more than {budget.limits.depth} in one another are not "
            f"unpacked. Remedy: {BY_HAND}."
        )
    if depth == 1:
        budget.packed = sum(part.stat().st_size for parts in to_do.values() for part in parts)
    sizes = {target: _announced_size(parts, output / target, budget) for target, parts in to_do.items()}
    require_room(output, sum(sizes.values()), f"unpacking {folder}")

    for target, parts in to_do.items():
        destination = output / target
        incomplete = destination.with_name(destination.name + INCOMPLETE)
        incomplete.mkdir(parents=True, exist_ok=True)
        try:
            _unpack(parts, incomplete, budget)
            _unpack_all(incomplete, incomplete / ARCHIVES_WITHIN, budget, depth + 1)
            for other in archives:
                if other.startswith(f"{target}/") and (incomplete / other[len(target) + 1 :]).exists():
                    raise contended(parts[-1], archives[other][-1])
        except DataFormatError:
            shutil.rmtree(incomplete, ignore_errors=True)  # nothing of an archive that is refused
            raise
        if hasattr(os, "sync"):
            os.sync()  # after a power cut a complete folder must not hold files without contents
        incomplete.rename(destination)


def _announced_size(parts: Sequence[Path], destination: Path, budget: Budget) -> int:
    """Bytes that are still to be written by what the archive itself says; of a zip, all members are checked."""
    size = sum(part.stat().st_size for part in parts)  # a tar; compressed pictures come to hardly less
    if is_zip(parts):
        with _naming(parts[0]), open_zip(parts) as (_, members):
            check_zip(parts[0], members, destination)
            size = sum(member.file_size for member in members)
            ahead = Budget(budget.limits)
            ahead.members, ahead.bytes, ahead.packed = budget.members, budget.bytes, budget.packed
            ahead.spend(parts[0], len(members), size)
    earlier = destination.with_name(destination.name + INCOMPLETE)
    return max(0, size - sum(file.stat().st_size for file in list_files([earlier], wanted=lambda _: True)))


def _unpack(parts: Sequence[Path], path: Path, budget: Budget) -> None:
    """Unpack one archive."""
    folder = Folder(path, parts[0], budget)
    with _naming(parts[0], folder):
        (unpack_zip if is_zip(parts) else unpack_tar)(parts, folder)
    if folder.left_out:
        logger.warning(
            "%s: %d links and special files were not unpacked, %r the first of them.",
            parts[0],
            len(folder.left_out),
            folder.left_out[0],
        )


@contextmanager
def _naming(archive: Path, folder: "Folder | None" = None) -> Iterator[None]:
    """Whatever the decoders raise over a broken archive becomes a `DataFormatError` that names it and the member."""
    try:
        yield
    except DataFormatError:
        raise
    except Exception as error:
        member = f"its member {shown(folder.member)} " if folder and folder.member else ""
        if isinstance(error, OSError) and error.errno is not None:  # the disk's
            reason = error.strerror
            if error.errno in DISK_FULL:
                free = shutil.disk_usage(folder.path).free if folder else 0
                reason = f"the disk is full ({size_of(free)} free). Make room, and load again: what is whole stays"
            raise OSError(error.errno, f"{archive}: {member or 'it '}cannot be unpacked: {reason}") from error
        reason = str(error) or type(error).__name__
        raise DataFormatError(f"{archive}: {member}cannot be unpacked: {reason}. Remedy: {FETCH_AGAIN}.") from error
