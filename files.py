"""Files: written whole or not at all, hashed, and told from one another by their contents. Knows nothing of models."""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_PIECE = 1 << 22


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A path to write to, beside `file`, which becomes `file` when all went well, and goes when it did not.

    What has its name is whole and on the disk, also after a power cut.

    Raises:
        OSError: it cannot be written; for a full disk the message tells the space that is left.
    """
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)  # of a run that was killed
    try:
        yield part
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.replace(file)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        free = shutil.disk_usage(file.parent).free
        raise OSError(
            error.errno,
            f"the disk is full ({free / 2**20:,.0f} MiB free): this file was not written, what was finished before "
            "stays. Make room, and give the same command again",
            str(file),
        ) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def hash_file(file: str | os.PathLike) -> str:
    """A hash of a file's contents, in hexadecimal digits (xxh3_128): against mistakes and damage, not forgery."""
    digest = xxhash.xxh3_128()
    with Path(file).open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def hash_files(files: Sequence[str]) -> str:
    """A hash of the contents of several files, in order."""
    return xxhash.xxh3_128_hexdigest("".join(map(hash_file, files)).encode())
