"""Files: written whole or not at all, hashed, and compared by their contents. Knows nothing of models."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import xxhash
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from .names import printable
from .names import some as some  # for those who import both

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
SEAL = "checksum of all else here"  # the entry of a manifest that `sealed` adds
_PIECE = 1 << 20
_UNCOMPRESSED = {b"BM", b"II", b"MM", b"P4", b"P5", b"P6", b"Pf", b"PF"}  # how BMP, TIFF and PPM begin
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP}  # the file system has no locks
_INCOMPLETE = ".incomplete"  # the folder that `whole_folder` writes to, or the end of its name
_LARGEST_JSON = 256 << 20  # bytes; this package writes no larger file


@contextmanager
def whole_file(file: Path, is_flushed: bool = True) -> Iterator[Path]:
    """A path to write to, beside `file`. It becomes `file` when the block ends, and is removed if an error ends it.

    So `file` is always whole and on the disk, even after a power cut. If several processes write one file at the same
    time, the last to finish wins.

    Args:
        file: its folder is made if need be.
        is_flushed: whether to wait for the disk; not needed for one of a million files with checksums elsewhere.

    Raises:
        OSError: it cannot be written; see `full_disk_told`.
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
    """Waits until the contents of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)  # not to write: it may be a link to a file on a read-only disk
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(file: Path, text: str) -> None:
    """Writes a text whole or not at all; see `whole_file`.

    If a file's name in it holds a byte that is not UTF-8, it is escaped; JSON reads the escape as that name again.
    """
    with whole_file(file) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_json(file: Path, content: Any) -> None:
    """Writes a value as JSON, whole or not at all."""
    write_whole(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def _own_part(file: Path) -> Iterator[Path]:
    """Where to write what becomes `file`: always under one name, which replaces what a killed run left there.

    While another process or thread is writing there, it is a spare name.
    """
    part = file.with_name(f"{file.name}.part")
    only = fcntl.LOCK_EX | fcntl.LOCK_NB
    with ExitStack() as stack:
        try:
            if part.is_symlink():
                part.unlink()
            elif part.exists():
                with part.open("rb") as left:
                    fcntl.flock(left, only)  # fails while somebody writes it
                    if os.path.samestat(os.fstat(left.fileno()), part.lstat()):  # not if it just became its `file`
                        part.unlink()  # not written over: it may be a hard link to a user's file
            stream = stack.enter_context(part.open("xb"))
            fcntl.flock(stream, only)
            is_own = os.path.samestat(os.fstat(stream.fileno()), part.lstat())  # not if another writer removed it
        except OSError as error:
            is_own = False
            if error.errno in _NO_LOCKS:
                part.unlink(missing_ok=True)  # here all writers take spare names
        yield part if is_own else file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}.part")


@contextmanager
def locked(file: Path, in_use: str) -> Iterator[None]:
    """Holds a lock, which is a file; the system frees it when the process ends, however it ends.

    Raises:
        BlockingIOError: another process holds it; `in_use` is the message.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(file, timeout=0))
        except Timeout:
            raise BlockingIOError(in_use) from None
        yield


@contextmanager
def whole_folder(folder: str | os.PathLike, last: str) -> Iterator[Path]:
    """A folder to write to. Its files become those of `folder` when the block ends, or are removed after an error.

    It lies beside `folder`, and is renamed at the end. If `folder` exists and is empty, it lies within, since a mount
    point or the current folder cannot be replaced. What a killed run left in it is removed.

    Args:
        folder: absent or empty; those above it are made.
        last: the file without which the others are useless. It is moved last where files are moved one by one.

    Raises:
        FileExistsError: `folder` holds something, or another process is writing it.
        OSError: it cannot be written; see `full_disk_told`.
    """
    name, folder = printable(folder), Path(folder).resolve()
    check_empty(folder)
    is_there = folder.is_dir()
    part = folder / _INCOMPLETE if is_there else folder.with_name(f".{folder.name}{_INCOMPLETE}")
    if part.is_symlink():
        part.unlink()  # do not empty what it leads to
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
    """Checks, before long work, that a folder is absent or empty, apart from what a killed `whole_folder` left.

    Raises:
        FileExistsError: it is a file, or holds something.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and {entry.name for entry in folder.iterdir()} <= {_INCOMPLETE}):
        raise FileExistsError(f"{printable(folder)} exists already; name a folder that is absent or empty")


@contextmanager
def full_disk_told(file: Path) -> Iterator[None]:
    """While a file is written: an error for a full disk, which often has no name, names it and the space left."""
    try:
        yield
    except Exception as error:
        if not says_disk_full(error):
            raise
        free = shutil.disk_usage(file.parent).free
        raise OSError(
            getattr(error, "errno", errno.ENOSPC),
            f"the disk is full ({free / 2**20:,.0f} MiB free): this file was not written, but what was finished before "
            "is kept. Make room, and give the same command again",
            str(file),
        ) from error


def says_disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk is full; safetensors says so in words alone."""
    words = (f"(os error {code})" in str(error) for code in DISK_FULL)
    return getattr(error, "errno", None) in DISK_FULL or any(words)


def hash_file(file: str | os.PathLike) -> str:
    """A hash of a file's contents, in hexadecimal digits (xxh3_128): against mistakes and damage, not forgery."""
    return _digest_of(xxhash.xxh3_128(), file)


def sha256_of(*files: Path) -> str:
    """SHA-256 of the contents of files, one after another, in hexadecimal digits, like `cat FILES | sha256sum`."""
    return _digest_of(hashlib.sha256(), *files)


def _digest_of(digest: Any, *files: str | os.PathLike) -> str:
    piece = memoryview(bytearray(_PIECE))
    for file in files:
        with Path(file).open("rb", buffering=0) as stream:
            while size := stream.readinto(piece):
                digest.update(piece[:size])
    return digest.hexdigest()


def hash_files(files: Sequence[str]) -> str:
    """A hash of the contents of several files, in order."""
    return xxhash.xxh3_128_hexdigest("".join(map(hash_file, files)).encode())


def stamp_of(status: os.stat_result) -> tuple[int, int, int, int]:
    """What is quickly known about a file: size, time of change, time of its inode's last change, number of the inode.

    Equal stamps at one path mean equal contents: a program that sets the time of change back (`cp -p`, `rsync -t`,
    `unzip`) cannot set the inode's. Different stamps mean nothing, since after `cp -r` all differ: then `contents_of`
    decides.
    """
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def contents_of(file: str | os.PathLike | bytes) -> str:
    """What distinguishes a file, or its bytes, wherever it lies: size, and a hash of all of it, or of parts if large.

    Up to 1 MiB, and in formats that need not be compressed, all is read; else four parts of 256 KiB, the first and the
    last among them. A photograph that was changed is compressed again, so all its parts differ.
    """
    part = _PIECE // 4
    with BytesIO(file) if isinstance(file, bytes) else _open_regular(file) as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        if size <= 4 * part:  # opened once: for a small image, opening takes longer than reading
            return f"{size}-{xxhash.xxh3_128_hexdigest(stream.read())}"
        if stream.read(2) in _UNCOMPRESSED:
            return f"{size}-{xxhash.xxh3_128_hexdigest(file) if isinstance(file, bytes) else hash_file(file)}"
        digest = xxhash.xxh3_128()
        for number in range(4):
            stream.seek((size - part) * number // 3)
            digest.update(stream.read(part))
    return f"{size}-{digest.hexdigest()}"


def _open_regular(file: str | os.PathLike) -> BinaryIO:
    """A file's bytes; a pipe that has taken a file's name is refused, where opening it might never end."""
    stream = os.fdopen(os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "it is no regular file", os.fspath(file))
    return stream


def record_files(folder: Path, names: Iterable[str]) -> dict[str, dict[str, int | str]]:
    """For a manifest: the size and a hash of each file, by its path relative to the folder; see `faults_of`."""
    return {
        name: {"bytes": Path(folder, name).stat().st_size, "xxh3_128": hash_file(Path(folder, name))} for name in names
    }


def faults_of(
    folder: Path, recorded: Mapping[str, Mapping[str, int | str]], contents: bool = True, show_progress: bool = False
) -> Iterator[str]:
    """How files differ from what `record_files` noted: missing, of another size or, with `contents`, damaged."""
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
            yield f"{name} is damaged: its contents have changed since it was written (checksum)"


def read_json(file: str | os.PathLike) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, nested too deep, or far too large; the message names the file.
    """
    file = Path(file)
    if not file.is_file() and file.exists():
        raise ValueError(f"{file}: is no file")  # a folder, or a pipe, which could be waited for forever
    if (size := file.stat().st_size) > _LARGEST_JSON:
        raise ValueError(f"{file}: is too large for what it should hold ({size:,} bytes)")
    try:
        return json.loads(file.read_bytes().decode())
    except RecursionError:
        raise ValueError(f"{file}: is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"{file}: is no JSON ({error})") from None


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with a checksum of itself, for a JSON file."""
    rest = {name: value for name, value in manifest.items() if name != SEAL}
    as_read = json.loads(json.dumps(rest))  # as a file gives it back: all keys are strings
    return rest | {SEAL: xxhash.xxh3_128_hexdigest(json.dumps(as_read, sort_keys=True).encode())}


def is_sealed(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest that was read is as `sealed` made it, to the last value."""
    return manifest.get(SEAL) == sealed(manifest)[SEAL]


def check_output_file(file: str | os.PathLike) -> None:
    """Checks, before long work, that a file can be written; missing folders are made later.

    Raises:
        OSError: it cannot; the message says what to do.
    """
    file = Path(file)
    if file.is_dir():
        raise IsADirectoryError(f"{printable(file)} is a folder: give the name of a file")
    check_output_folder(file.parent)


def check_output_folder(folder: str | os.PathLike) -> None:
    """Checks, before long work, that files can be written into a folder, which need not exist yet.

    Raises:
        OSError: they cannot; the message says what to do.
    """
    folder = Path(folder)
    existing = (place for place in (folder, *folder.parents) if place.exists() or place.is_symlink())
    there = next(existing, folder)
    if not there.is_dir():
        raise NotADirectoryError(f"{printable(there)} is no folder: nothing can be written to {printable(folder)}")
    try:
        TemporaryFile(dir=there).close()  # permissions say too little about a full disk, /proc, or root
    except OSError as error:
        wanted = "" if there == folder else f", where {printable(folder)} is to be"
        raise OSError(
            f"no file can be written into {printable(there)}{wanted} ({error.strerror}): choose another place, or fix "
            "this one"
        ) from error
