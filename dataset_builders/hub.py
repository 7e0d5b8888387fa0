"""Fetching a data set from the Hub: download, unpack, find the annotation files.

How the authors pack their images is not relied on. Whatever archives a repository holds are unpacked, each into a
folder of its own name, and `layout.ImageFinder` matches the paths of the annotations to the folders that come out.
"""

import gzip
import hashlib
import io
import logging
import re
import shutil
import struct
import tarfile
import zipfile
import zlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import huggingface_hub
from filelock import FileLock
from huggingface_hub.errors import HTTPError
from tqdm.auto import tqdm

from .layout import Layout, list_files
from .records import DataFormatError

logger = logging.getLogger(__name__)

# x.zip, x.tar.gz, ...; in parts: x.zip.001, x.tar.part-aa, x.tgz_00, and x.z01, x.z02, ... with x.zip the last
_ARCHIVE = re.compile(
    r"(?P<name>.+)\.(?P<kind>zip|tgz|tbz2?|txz|tar\.gz|tar\.bz2|tar\.xz|tar)"
    r"(?:[._-]?(?:part)?[._-]?(?P<part>\d+|[a-z]{2}))?",
    re.IGNORECASE,
)
_SPANNED_ZIP = re.compile(r"(?P<name>.+)\.z(?P<part>\d{2,})", re.IGNORECASE)
_MAYBE_ARCHIVE = re.compile(r"\.(zip|z\d|t|7z|rar)", re.IGNORECASE)  # to sort out images quickly
_UNSUPPORTED = re.compile(r".+\.(7z(\.\d+)?|rar|tar\.zst|tzst)", re.IGNORECASE)
_FETCH_AGAIN = "fetch the repository again, with download_mode='force_redownload'"
_LONGEST_ZIP_END = (1 << 16) + 100  # bytes of a zip's end records and comment
_BROKEN = (
    EOFError,
    LZMAError,
    NotImplementedError,  # an unknown compression
    RuntimeError,  # an encrypted zip
    gzip.BadGzipFile,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


def hub_layout(
    repo_id: str,
    names: Sequence[str],
    unpack_dir: str,
    revision: str | None = None,
    token: str | bool | None = None,
    force_download: bool = False,
) -> Layout:
    """Download a data-set repository, unpack its archives, and find the annotation files in it.

    An interrupted download or unpacking goes on where it stopped.

    Args:
        repo_id: The repository, "owner/name".
        names: The annotation files, wherever they lie together.
        unpack_dir: Folder for what comes out of archives; may be shared with other data sets.
        revision: Branch, tag or commit.
        token: Access token.
        force_download: Download again what is there.

    Raises:
        ConnectionError: the repository cannot be fetched.
        DataFormatError: an archive is broken, or the annotation files are not there.
    """
    try:
        # Called by its full name, so that a stand-in put into huggingface_hub is found.
        snapshot = huggingface_hub.snapshot_download(
            repo_id, repo_type="dataset", revision=revision, token=token, force_download=force_download
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


def unpack_archives(folder: str | Path, output: str | Path) -> None:
    """Unpack all zip and tar archives below a folder, split ones and archives within archives included.

    An archive a/b.zip goes to the folder a/b below `output`. That folder appears when it is complete; until then it is
    called a/b.incomplete, and another attempt keeps the files already in it.

    Raises:
        DataFormatError: an archive is broken or of an unknown kind, a part is missing, two archives would go to one
            folder, or a member's path leads out of it.
    """
    for target, parts in find_archives(folder).items():
        destination = Path(output, target)
        if destination.is_dir():
            continue
        incomplete = destination.with_name(destination.name + ".incomplete")
        incomplete.mkdir(parents=True, exist_ok=True)
        _unpack(parts, incomplete)
        unpack_archives(incomplete, incomplete / "unpacked")
        incomplete.rename(destination)


def find_archives(folder: str | Path) -> dict[str, list[Path]]:
    """Archives below a folder: where to unpack each, relative to the folder -> its parts in order.

    Raises:
        DataFormatError: as `unpack_archives`.
    """
    archives: dict[str, list[tuple[str, int | None, Path]]] = defaultdict(list)
    for file in list_files([folder], wanted=_MAYBE_ARCHIVE.search):
        if match := _SPANNED_ZIP.fullmatch(file.name):
            kind = "zip"
        elif match := _ARCHIVE.fullmatch(file.name):
            kind = match["kind"].lower()
        elif _UNSUPPORTED.fullmatch(file.name):
            raise DataFormatError(
                f"{file}: this kind of archive is not supported. Remedy: unpack it by hand and pass data_dir=."
            )
        else:
            continue
        target = file.relative_to(folder).with_name(match["name"]).as_posix()
        archives[target].append((kind, _part_number(match["part"]), file))
    return {target: _in_order(parts) for target, parts in archives.items()}


def _part_number(part: str | None) -> int | None:
    if part is None or part.isdigit():
        return part and int(part)
    first, second = (ord(letter) - ord("a") for letter in part.lower())  # split's aa, ab, ..., ba, ...
    return 26 * first + second + 1


def _in_order(parts: list[tuple[str, int | None, Path]]) -> list[Path]:
    """The parts by number. One without a number is the whole archive, or the last part (.zip after .z01, .z02)."""
    whole = [file for _, number, file in parts if number is None]
    numbered = sorted((number, file) for _, number, file in parts if number is not None)
    files = [file for _, file in numbered] + whole
    if len(whole) > 1 or len({kind for kind, _, _ in parts}) > 1:
        raise DataFormatError(
            f"{files[0]} and {files[-1]}: would be unpacked to the same folder. "
            "Remedy: unpack the right one by hand and pass data_dir=."
        )
    if not whole and _SPANNED_ZIP.fullmatch(files[-1].name):
        raise DataFormatError(
            f"{files[-1]}: the last part, {files[-1].with_suffix('.zip').name}, is missing. Remedy: {_FETCH_AGAIN}."
        )
    first = min(1, numbered[0][0]) if numbered else 0
    for expected, (number, file) in enumerate(numbered, start=first):
        if number != expected:
            raise DataFormatError(f"{file}: part {expected} before it is missing. Remedy: {_FETCH_AGAIN}.")
    return files


def _unpack(parts: Sequence[Path], folder: Path) -> None:
    """Unpack one archive. Regular files alone are written, so that no link can lead out of the folder."""
    kind = _ARCHIVE.fullmatch(parts[-1].name)["kind"].lower()
    list_members = _zip_members if kind == "zip" else _tar_members
    try:
        with JoinedFiles(parts) as joined:
            for name, size, content in tqdm(list_members(joined), f"Unpacking {parts[0].name}", unit=" files"):
                _write_member(name, size, content, folder, parts[0])
    except _BROKEN as error:
        raise DataFormatError(f"{parts[0]}: cannot be unpacked: {error}. Remedy: {_FETCH_AGAIN}.") from error


def _write_member(name: str, size: int, content: BinaryIO, folder: Path, archive: Path) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or path.parts[0].endswith(":"):
        raise DataFormatError(
            f"{archive}: its member {name!r} would be written outside of {folder}. Remedy: do not use this archive."
        )
    file = folder / path
    with content:
        if file.is_file() and file.stat().st_size == size:  # from an earlier attempt
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as output:
            shutil.copyfileobj(content, output, 1 << 20)


def _tar_members(joined: "JoinedFiles") -> Iterator[tuple[str, int, BinaryIO]]:
    num_skipped = 0
    with tarfile.open(fileobj=io.BufferedReader(joined), mode="r:*") as archive:
        while member := archive.next():
            if member.isfile():
                yield member.name, member.size, archive.extractfile(member)
            elif not member.isdir():
                num_skipped += 1
            archive.members.clear()  # or a million members stay in memory
    if num_skipped:
        logger.warning("%s: %d links and special files were not unpacked.", joined.name, num_skipped)


def _zip_members(joined: "JoinedFiles") -> Iterator[tuple[str, int, BinaryIO]]:
    is_spanned = joined.mend_spanned_zip()
    with zipfile.ZipFile(io.BufferedReader(joined)) as archive:
        for member in archive.infolist():
            if is_spanned:
                # zipfile took the offsets for relative to the central directory; they are relative to a part.
                member.header_offset += joined.starts[member.volume] - archive.start_dir
                if hasattr(member, "_end_offset"):  # newer versions of zipfile check overlaps by it
                    member._end_offset = None
            if not member.is_dir():
                yield member.filename, member.file_size, archive.open(member)


class JoinedFiles(io.RawIOBase):
    """The parts of a split archive, read as one file.

    Args:
        parts: Paths of the parts, in order.
    """

    def __init__(self, parts: Sequence[Path]):
        self.name = str(parts[0])
        self._files = [part.open("rb") for part in parts]
        self.starts = list(accumulate((part.stat().st_size for part in parts), initial=0))  # ends with the whole size
        self._position = 0
        self._end = bytearray()  # stands for the last bytes

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an offset from the start, from here, or from the end."""
        self._position = offset + (0, self._position, self.starts[-1])[whence]
        if self._position < 0:
            raise OSError(f"{self.name}: cannot go to before the start")
        return self._position

    def readinto(self, buffer) -> int:
        """Read what one part holds from here on, up to the buffer's length."""
        index = bisect_right(self.starts, self._position) - 1
        if index == len(self._files):
            return 0
        self._files[index].seek(self._position - self.starts[index])
        count = self._files[index].readinto(buffer)
        end = self.starts[-1] - len(self._end)
        first = max(end - self._position, 0)
        if first < count:
            offset = self._position + first - end
            buffer[first:count] = self._end[offset : offset + count - first]
        self._position += count
        return count

    def close(self) -> None:
        """Close the parts."""
        for file in self._files:
            file.close()
        super().close()

    def mend_spanned_zip(self) -> bool:
        """Make the end records of a spanned zip (.z01, .z02, ..., .zip) such that zipfile accepts them.

        They name the part ("disk") that each offset counts from (APPNOTE 4.3.14 to 4.3.16). Here they are made to say
        that there is one part, with the central directory at offset 0: zipfile finds it by its size, from the end.

        Returns:
            Whether it is a spanned zip.
        """
        self.seek(max(0, self.starts[-1] - _LONGEST_ZIP_END))
        end = bytearray(self.readall())
        record = end.rfind(b"PK\5\6")
        if len(self._files) == 1 or record < 0 or struct.unpack_from("<H", end, record + 4)[0] == 0:
            return False
        (num_members,) = struct.unpack_from("<H", end, record + 10)
        struct.pack_into("<4H", end, record + 4, 0, 0, num_members, num_members)
        struct.pack_into("<L", end, record + 16, 0)
        locator = record - 20
        if end[locator : locator + 4] == b"PK\6\7":
            disk, offset = struct.unpack_from("<LQ", end, locator + 4)
            position = self.starts[disk] + offset
            struct.pack_into("<LQL", end, locator + 4, 0, position, 1)
            record64 = position - (self.starts[-1] - len(end))
            (num_members,) = struct.unpack_from("<Q", end, record64 + 32)
            struct.pack_into("<2L2Q", end, record64 + 16, 0, 0, num_members, num_members)
            struct.pack_into("<Q", end, record64 + 48, 0)
        self._end = end
        return True
