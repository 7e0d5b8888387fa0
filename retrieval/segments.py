"""A segment: some images' features, ids and entries in a folder of files that are written once and whole.

    segments/NAME/ids.npy means.npy tokens.npy codes.npy scales.npy errors.npy    what `Part` holds, or codes alone
                  rows.npy            a checksum of each image's tokens, or, where codes alone are kept, of its codes
                  entries.sqlite      see `metadata`; `entries-7.sqlite` after a change of what is known
                  deleted-7.npy       the rows that are deleted, as of the gallery's generation 7

No file is ever changed. The list of segments, `gallery.json`, has the size and the checksum of each. Small files are
compared with it when they are opened; of large ones, tokens row by row as they are used, codes before all are used. So
a segment of any size is open at once.
"""

import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from torch import Tensor

from ..files import faults_of, flush, full_disk_told, hash_file, record_files
from ..threads import PARSING
from .metadata import Entry, Metadata, change_entries, write_entries
from .parts import Part
from .quantization import make_part, row_checksums

CODES_ALONE = "int8"
KEPT = ("float16", "bfloat16", "float32", "float64", CODES_ALONE)  # in which precision tokens are kept
REMEDY = "index the images again, into another folder"
_CHECKED_WHEN_OPENED = 64 << 20  # bytes of tokens or codes
_ROWS_AT_ONCE = 4_096


class Segment(NamedTuple):
    """An open segment.

    Args:
        record: its entry in the list: `name`, `rows`, `files` (each file's size and checksum), `entries` (the file),
            `deleted` (the file, or None), `num_deleted`, `tags` (the kinds of values of each).
    """

    record: dict[str, Any]
    part: Part
    metadata: Metadata

    @property
    def num_living(self) -> int:
        """The number of images that are not deleted."""
        return self.record["rows"] - self.record["num_deleted"]


def open_segment(segments: Path, record: Mapping[str, Any], keep: str, shape: tuple[int, int]) -> Segment:
    """Opens a segment; its arrays stay on the disk until they are used.

    Args:
        keep: how tokens are kept, see `KEPT`. `shape`: of one image's, `(num_tokens, dim)`.

    Raises:
        FileNotFoundError: a file is gone. ValueError: one is damaged, or the record is none.
    """
    folder, count, files = segments / record["name"], record["rows"], record["files"]
    large, opened = {}, {}
    for name, (dtype, of_one) in _arrays(keep, shape).items():
        file = folder / f"{name}.npy"
        is_large = name in ("tokens", "codes") and file.stat().st_size > _CHECKED_WHEN_OPENED
        _check_file(file, files, contents=not is_large)
        if is_large:
            large[name] = file
        opened[name] = _map(file, dtype, (count, *of_one))
    ids = opened["ids"]
    if count and (int(ids[0]) < 0 or (np.diff(ids) <= 0).any()):
        raise ValueError(f"{folder / 'ids.npy'} is damaged (ids do not ascend); {REMEDY}")
    as_tensors = {name: _tensor(array) for name, array in opened.items()}
    if keep == "bfloat16":
        as_tensors["tokens"] = as_tensors["tokens"].view(torch.bfloat16)
    entries = folder / record["entries"]
    _check_file(entries, files)
    part = Part(
        as_tensors["ids"],
        as_tensors.get("tokens"),
        *(as_tensors[name] for name in ("means", "codes", "scales", "errors")),
        alive=_alive(folder, record),
        # Where all rows have just been compared with a checksum, there is nothing left to look at.
        row_checksums=as_tensors["rows"] if _kept_file(keep) in large else None,
    )
    return Segment(dict(record), with_check(part, large, files), Metadata.open(entries))


def with_check(part: Part, large: Mapping[str, Path], files: Mapping[str, Any]) -> Part:
    """A part whose large files are compared with their checksums before all of them is read for the first time."""
    unchecked = dict(large)

    def check(name: str) -> None:
        if name in unchecked:
            _check_file(unchecked[name], files)
            unchecked.pop(name, None)

    return replace(part, check=check) if unchecked else part


def reopen(segment: Segment, segments: Path, record: Mapping[str, Any]) -> Segment:
    """An open segment of which other rows are deleted, or other things known, since."""
    metadata, folder = segment.metadata, segments / record["name"]
    if record["entries"] != segment.record["entries"]:
        _check_file(folder / record["entries"], record["files"])
        metadata = Metadata.open(folder / record["entries"])
    return Segment(dict(record), replace(segment.part, alive=_alive(folder, record)), metadata)


def in_memory(part: Part, entries: Iterable[Entry]) -> Segment:
    """A segment that lies in no folder."""
    metadata = Metadata.in_memory(entries)
    record = {"name": None, "rows": len(part), "files": {}, "entries": None, "deleted": None, "num_deleted": 0}
    return Segment(record | {"tags": metadata.kinds()}, part, metadata)


def write_segment(
    segments: Path,
    name: str,
    blocks: Iterable[Part],
    count: int,
    entries: Iterable[Entry],
    keep: str,
    shape: tuple[int, int],
) -> dict[str, Any]:
    """Writes a segment: it has its name once it is complete and on the disk. Returns its record.

    Args:
        blocks: parts of it, in order, of `count` images together, see `blocks_of` and `living_blocks`.
        entries: of its images, in order.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    folder, part = segments / name, segments / f".{name}"
    part.mkdir(parents=True)
    try:
        with full_disk_told(folder), ExitStack() as stack:
            writers = {
                key: stack.enter_context(closing(_ArrayFile(part / f"{key}.npy", dtype, (count, *of_one))))
                for key, (dtype, of_one) in _arrays(keep, shape).items()
            }
            for block in blocks:
                for key, writer in writers.items():
                    writer.write(block.row_checksums if key == "rows" else getattr(block, key))
            recorded = {f"{key}.npy": writer.finish() for key, writer in writers.items()}
            tags = write_entries(part / "entries.sqlite", entries)
            recorded |= record_files(part, ["entries.sqlite"])
            for file in (*(part / name for name in recorded), part):
                flush(file)
            part.rename(folder)
            flush(segments)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return {
        "name": name,
        "rows": count,
        "files": recorded,
        "entries": "entries.sqlite",
        "deleted": None,
        "num_deleted": 0,
        "tags": tags,
    }


def write_deleted(segments: Path, record: Mapping[str, Any], rows: np.ndarray, generation: int) -> dict[str, Any]:
    """Writes which rows of a segment are deleted; returns its new record.

    Raises:
        OSError: it cannot be written.
    """
    folder, name = segments / record["name"], f"deleted-{generation}.npy"
    with full_disk_told(folder / name), closing(_ArrayFile(folder / name, np.dtype(np.int64), rows.shape)) as writer:
        writer.write(torch.from_numpy(rows.astype(np.int64)))
        written = writer.finish()
        flush(writer.file)
        flush(folder)
    files = {file: known for file, known in record["files"].items() if file != record["deleted"]}
    return {**record, "files": files | {name: written}, "deleted": name, "num_deleted": len(rows)}


def write_changed(
    segments: Path, record: Mapping[str, Any], changed: Mapping[int, Entry], generation: int
) -> dict[str, Any]:
    """Writes what is known of a segment anew, with changes; returns its new record.

    Raises:
        OSError: it cannot be written.
    """
    folder, name = segments / record["name"], f"entries-{generation}.sqlite"
    with full_disk_told(folder / name):
        shutil.copyfile(folder / record["entries"], folder / name)
        change_entries(folder / name, changed)
        flush(folder / name)
        flush(folder)
    files = {file: known for file, known in record["files"].items() if file != record["entries"]}
    return {
        **record,
        "files": files | record_files(folder, [name]),
        "entries": name,
        "tags": Metadata.open(folder / name).kinds(),
    }


def blocks_of(ids: Tensor, tokens: Tensor, keep: str) -> Iterator[Part]:
    """Tokens `(n, num_tokens, dim)` as parts to write, a few images at a time."""
    dtype = torch.float32 if keep == CODES_ALONE else getattr(torch, keep)
    for start in range(0, len(ids), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        part = make_part(ids[block], tokens[block].to("cpu", dtype))
        yield replace(part, tokens=None, row_checksums=row_checksums(part.codes)) if keep == CODES_ALONE else part


def living_blocks(segment: Segment, keep: str) -> Iterator[Part]:
    """What is not deleted of a segment, as parts to write, as it is kept.

    Raises:
        ValueError: it is damaged.
    """
    if segment.part.check is not None:
        segment.part.check("codes")
    rows = torch.from_numpy(living_rows(segment.part))
    for chosen in rows.split(_ROWS_AT_ONCE):
        block = rows_of(segment.part, chosen)
        yield from [block] if block.codes is not None else blocks_of(block.ids, block.tokens, keep)


def rows_of(part: Part, rows: Tensor) -> Part:
    """Some rows of a part, copied, and their tokens, or else codes, compared with their checksums.

    Raises:
        ValueError: they are damaged.
    """
    names = ("ids", "tokens", "means", "codes", "scales", "errors")
    arrays = {name: None if getattr(part, name) is None else getattr(part, name)[rows] for name in names}
    found = row_checksums(arrays["codes"] if arrays["tokens"] is None else arrays["tokens"])
    if part.row_checksums is not None and not torch.equal(found, part.row_checksums[rows]):
        wrong = int(arrays["ids"][(found != part.row_checksums[rows]).nonzero()[0]])
        raise ValueError(f"the features of the image with id {wrong} are damaged (its checksum does not fit); {REMEDY}")
    return Part(**arrays, row_checksums=found)


def living_rows(part: Part) -> np.ndarray:
    """The rows of a part that are not deleted."""
    return np.arange(len(part)) if part.alive is None else np.flatnonzero(part.alive.numpy())


def faults_of_segment(segments: Path, record: Mapping[str, Any], keep: str, shape: tuple[int, int]) -> Iterator[str]:
    """A sentence for each file that is missing or damaged; all of them are read."""
    folder = segments / record["name"]
    faults = list(faults_of(folder, record["files"]))
    yield from (f"{folder}/{fault}" for fault in faults)
    if not faults:
        try:
            open_segment(segments, record, keep, shape)
        except (OSError, ValueError) as error:
            yield str(error)


class _ArrayFile:
    """An array that is written block by block into a file in NumPy's format, and hashed meanwhile.

    It is not mapped: on a full disk, writing to a map ends the process.
    """

    def __init__(self, file: Path, dtype: np.dtype, shape: tuple[int, ...]):
        self.file, self.dtype, self.stream = file, dtype, file.open("xb")
        self.digest, self.num_bytes = xxhash.xxh3_128(), 0
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self, header)

    def write(self, data: Tensor | bytes) -> None:
        if isinstance(data, Tensor):
            data = data.contiguous()
            data = (data.view(torch.int16) if data.dtype == torch.bfloat16 else data).numpy()
            data = memoryview(np.ascontiguousarray(data, self.dtype)).cast("B") if data.size else b""
        self.stream.write(data)
        self.digest.update(data)
        self.num_bytes += len(data)

    def finish(self) -> dict[str, Any]:
        self.close()
        return {"bytes": self.num_bytes, "xxh3_128": self.digest.hexdigest()}

    def close(self) -> None:
        self.stream.close()


def _arrays(keep: str, shape: tuple[int, int]) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """The arrays of a segment: name -> kind of numbers, and shape of one image's."""
    kept = "int16" if keep == "bfloat16" else keep  # which NumPy lacks
    tokens = {} if keep == CODES_ALONE else {"tokens": (kept, shape)}
    others = {"ids": ("int64", ()), "means": ("float32", shape[1:]), "codes": ("int8", shape)}
    others |= {"scales": ("float32", ()), "errors": ("float32", ()), "rows": ("int64", ())}
    return {name: (np.dtype(dtype), of_one) for name, (dtype, of_one) in (tokens | others).items()}


def _kept_file(keep: str) -> str:
    return "codes" if keep == CODES_ALONE else "tokens"


def _check_file(file: Path, files: Mapping[str, Any], contents: bool = True) -> None:
    recorded, size = files.get(file.name), file.stat().st_size
    if not isinstance(recorded, Mapping) or recorded.get("bytes") != size:
        raise ValueError(f"{file} is damaged ({size:,} bytes, which are not those that were written); {REMEDY}")
    if contents and hash_file(file) != recorded.get("xxh3_128"):
        raise ValueError(f"{file} is damaged (its checksum does not fit); {REMEDY}")


def _map(file: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    try:
        with PARSING:
            array = np.load(file, mmap_mode="r" if 0 not in shape else None, allow_pickle=False)
    except (EOFError, SyntaxError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({' '.join(str(error).split())[:200]}); {REMEDY}") from error
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{file} is damaged (expected {dtype} {shape}, found {array.dtype} {array.shape}); {REMEDY}")
    return array


def _tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():  # torch warns that nobody may write to it; nobody does
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def _alive(folder: Path, record: Mapping[str, Any]) -> Tensor | None:
    if record["deleted"] is None:
        return None
    file = folder / record["deleted"]
    _check_file(file, record["files"])
    rows = _map(file, np.dtype(np.int64), (record["num_deleted"],))
    alive = torch.ones(record["rows"], dtype=torch.bool)
    with suppress(IndexError):
        alive[_tensor(rows)] = False
    if int(alive.sum()) != record["rows"] - record["num_deleted"]:
        raise ValueError(f"{file} is damaged (not as many rows as it says); {REMEDY}")
    return alive
