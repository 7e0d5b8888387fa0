"""Files: written whole or not at all, hashed, and told from one another by their contents. Knows nothing of models."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import xxhash
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from .names import printable
from .names import some as some  # beside `printable`, for who imports both

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
SEAL = "checksum of all else here"  # the entry of a manifest that `sealed` adds
_PIECE = 1 << 20
_UNCOMPRESSED = {b"BM", b"II", b"MM", b"P4", b"P5", b"P6", b"Pf", b"PF"}  # how BMP, TIFF and PPM begin
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP}  # of file systems that have none
_INCOMPLETE = ".incomplete"  # the folder that `whole_folder` writes to, or the end of its name
_LARGEST_JSON = 256 << 20  # bytes; what is larger was not written by this package


@contextmanager
def whole_file(file: Path, is_flushed: bool = True) -> Iterator[Path]:
    """A path to write to, beside `file`, which becomes `file` when all went well, and goes when it did not.

    What has its name is whole and on the disk, also after a power cut. Of several processes that write one file at the
    same time, the last to finish wins.

    Args:
        file: its folder is made if need be.
        is_flushed: whether to wait for the disk: not for one of a million files whose checksums are noted elsewhere.

    Raises:
        OSError: it cannot be written; for a full disk the message tells the space that is left.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with _own_part(file) as part, full_disk_told(file):
        try:
            yield part
            if is_flushed:
                flush(part)
            part.replace(file)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise


def flush(path: Path) -> None:
    """Waits until what was written to a file, or which names a folder holds, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)  # not to write: it may be a link to a file on a read-only disk
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(file: Path, text: str) -> None:
    """Writes a text whole or not at all; see `whole_file`.

    A file's name in it may hold a byte that is no UTF-8. It is escaped, and JSON reads the escape as that name again.
    """
    with whole_file(file) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_json(file: Path, content: Any) -> None:
    """Writes a value as JSON, whole or not at all."""
    write_whole(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def _own_part(file: Path) -> Iterator[Path]:
    """Where to write what becomes `file`: one name always, so that a killed run's goes, or a spare one.

    The spare one is for when another process, or thread, is writing there. An empty file lies there.
    """
    part = file.with_name(f"{file.name}.part")
    only = fcntl.LOCK_EX | fcntl.LOCK_NB
    with ExitStack() as stack:
        try:
            if part.is_symlink():
                part.unlink()
            elif part.exists():
                with part.open("rb") as left:
                    fcntl.flock(left, only)  # or somebody writes it
                    if os.path.samestat(os.fstat(left.fileno()), part.lstat()):  # or it just became its writer's `file`
                        part.unlink()  # rather than written over: it may be a link to a file of the user's
            stream = stack.enter_context(part.open("xb"))
            fcntl.flock(stream, only)
            is_own = os.path.samestat(os.fstat(stream.fileno()), part.lstat())  # or another took it for a killed run's
        except OSError as error:
            is_own = False
            if error.errno in _NO_LOCKS:
                part.unlink(missing_ok=True)  # all writers take spare names here
        yield part if is_own else file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}.part")


@contextmanager
def locked(file: Path, in_use: str) -> Iterator[None]:
    """Holds a lock, which is a file; the system frees it with its process, however that ends.

    Raises:
        BlockingIOError: another process holds it; `in_use` is the message.
    """
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(in_use) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def whole_folder(folder: str | os.PathLike, last: str) -> Iterator[Path]:
    """A folder to write to, whose files become those of `folder` when all went well, and go when it did not.

    It lies beside `folder`, and takes its name at the end; within it where `folder` is there and empty, since a mount
    point or the current folder cannot be replaced. What a killed run left in it goes.

    Args:
        folder: absent or empty; those above it are made.
        last: the file without which the others are nothing. It comes last where files have to be moved one by one.

    Raises:
        FileExistsError: `folder` holds something, or another process writes it just now.
        OSError: it cannot be written; for a full disk the message tells the space that is left.
    """
    name, folder = printable(folder), Path(folder).resolve()
    check_empty(folder)
    is_there = folder.is_dir()
    part = folder / _INCOMPLETE if is_there else folder.with_name(f".{folder.name}{_INCOMPLETE}")
    if part.is_symlink():
        part.unlink()  # rather than empty what it leads to
    part.mkdir(parents=True, exist_ok=True)
    with full_disk_told(folder), (part / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise FileExistsError(f"{name} is being written by another process: wait for it, or end it") from error
        moved: list[Path] = []
        try:
            for left in part.iterdir():
                if left.name != ".lock":
                    shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            yield part
            for file in filter(Path.is_file, part.rglob("*")):
                flush(file)
            check_empty(folder)
            if not is_there:
                Path(lock.name).unlink()
                part.rename(folder)
                return
            for file in sorted(part.iterdir(), key=lambda file: (file.name == last, file.name)):
                if file.name != ".lock":
                    moved.append(file.rename(folder / file.name))
            shutil.rmtree(part)
        except BaseException:
            for path in [*reversed(moved), part]:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            raise


def check_empty(folder: str | os.PathLike) -> None:
    """Looks, before long work, whether `whole_folder` may write a folder: it is absent, or empty.

    What a killed run left there, and `whole_folder` removes, does not count.

    Raises:
        FileExistsError: it is a file, or holds something.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and {entry.name for entry in folder.iterdir()} <= {_INCOMPLETE}):
        raise FileExistsError(f"{printable(folder)} exists already; name a folder that is absent or empty")


@contextmanager
def full_disk_told(file: Path) -> Iterator[None]:
    """Around writing a file: an error for a full disk, which often has no name, names it and the space that is left."""
    try:
        yield
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


def hash_file(file: str | os.PathLike) -> str:
    """A hash of a file's contents, in hexadecimal digits (xxh3_128): against mistakes and damage, not forgery."""
    digest = xxhash.xxh3_128()
    piece = memoryview(bytearray(_PIECE))
    with Path(file).open("rb", buffering=0) as stream:
        while size := stream.readinto(piece):
            digest.update(piece[:size])
    return digest.hexdigest()


def sha256_of(*files: Path) -> str:
    """SHA-256 of the contents of files, one behind the other, in hexadecimal digits, as `cat FILES | sha256sum` tells.

    Raises:
        FileNotFoundError: one is missing.
    """
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while piece := stream.read(_PIECE):
                digest.update(piece)
    return digest.hexdigest()


def hash_files(files: Sequence[str]) -> str:
    """A hash of the contents of several files, in order."""
    return xxhash.xxh3_128_hexdigest("".join(map(hash_file, files)).encode())


def stamp_of(status: os.stat_result) -> tuple[int, int, int, int]:
    """What is quickly known of a file: size, time of change, time of its entry's last change, number of the entry.

    Equal stamps at one path mean equal contents: a program that sets the time of change back (`cp -p`, `rsync -t`,
    `unzip`) cannot set the entry's. Different stamps mean nothing, since after `cp -r` all differ: then `contents_of`
    decides.
    """
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def contents_of(file: str | os.PathLike) -> str:
    """What tells a file from others wherever it lies: its size, and a hash of all of it, or of parts of a large one.

    Up to 1 MiB all is read; of more, four parts of 256 KiB, the first and the last among them. A photograph that was
    changed is compressed anew, so all its parts differ. Formats that need not be compressed are read whole.
    """
    part = _PIECE // 4
    with Path(file).open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        digest = xxhash.xxh3_128()
        start = stream.read(2)
        stream.seek(0)
        if size <= 4 * part or start in _UNCOMPRESSED:
            while piece := stream.read(_PIECE):
                digest.update(piece)
        else:
            for number in range(4):
                stream.seek((size - part) * number // 3)
                digest.update(stream.read(part))
    return f"{size}-{digest.hexdigest()}"


def record_files(folder: Path, names: Iterable[str]) -> dict[str, dict[str, int | str]]:
    """For a manifest: of each file, by its path relative to the folder, the bytes and a hash; see `faults_of`."""
    return {
        name: {"bytes": Path(folder, name).stat().st_size, "xxh3_128": hash_file(Path(folder, name))} for name in names
    }


def faults_of(
    folder: Path, recorded: Mapping[str, Mapping[str, int | str]], contents: bool = True, show_progress: bool = False
) -> Iterator[str]:
    """How files differ from what `record_files` noted: missing, of another size or, with `contents`, damaged.

    Raises:
        OSError: a file is there, but cannot be read now.
    """
    bar = tqdm(recorded.items(), unit="file", desc=f"Checking {Path(folder).name}", delay=1, disable=not show_progress)
    for name, record in bar:
        file = Path(folder, name)
        if not isinstance(record, Mapping) or not isinstance(record.get("bytes"), int):
            yield f"{name} has no readable record of its size and contents"
        elif not file.is_file():
            yield f"{name} is missing"
        elif (size := file.stat().st_size) != record["bytes"]:
            yield f"{name} has {size:,} bytes instead of {record['bytes']:,}"
        elif contents and hash_file(file) != record.get("xxh3_128"):
            yield f"{name} is damaged: its contents are not those that were written (checksum)"


def read_json(file: str | os.PathLike) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, nested too deep, or far too large; the message names the file.
    """
    file = Path(file)
    if not file.is_file() and file.exists():
        raise ValueError(f"{file}: is no file")  # a folder, a pipe: reading one could wait for ever
    if (size := file.stat().st_size) > _LARGEST_JSON:
        raise ValueError(f"{file}: is too large for what it should hold ({size:,} bytes)")
    try:
        return json.loads(file.read_bytes().decode())
    except RecursionError:
        raise ValueError(f"{file}: is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"{file}: is no JSON ({error})") from None


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with a checksum of itself, for a file of JSON."""
    rest = {name: value for name, value in manifest.items() if name != SEAL}
    return rest | {SEAL: _hash_of(rest)}


def is_sealed(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest that was read is as `sealed` made it, to the last value."""
    rest = {name: value for name, value in manifest.items() if name != SEAL}
    return manifest.get(SEAL) == _hash_of(rest)


def _hash_of(content: Any) -> str:
    content = json.loads(json.dumps(content))  # as a file gives it back: keys are texts
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())


def check_output_file(file: str | os.PathLike) -> None:
    """Looks, before long work, whether a file can be written; folders that are missing are made later.

    Raises:
        OSError: it cannot; the message says what to do.
    """
    file = Path(file)
    if file.is_dir():
        raise IsADirectoryError(f"{printable(file)} is a folder: give the name of a file")
    check_output_folder(file.parent)


def check_output_folder(folder: str | os.PathLike) -> None:
    """Looks, before long work, whether files can be written into a folder, which need not be there.

    Raises:
        OSError: they cannot; the message says what to do.
    """
    folder = Path(folder)
    there = folder
    while not (there.exists() or there.is_symlink()) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(f"{printable(there)} is no folder: nothing can be written to {printable(folder)}")
    try:
        TemporaryFile(dir=there).close()  # rights alone tell too little: of a full disk, of /proc, of root
    except OSError as error:
        wanted = "" if there == folder else f", where {printable(folder)} is to be"
        raise OSError(
            f"no file can be written into {printable(there)}{wanted} ({error.strerror}): choose another place, or see "
            "to it"
        ) from error
