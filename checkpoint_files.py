"""Opens files of weights that others made: none of their code runs, and nothing they claim is believed.

A file is recognised by its contents, not by its name. Everything in it is bounded by the file's own size before it is
used, and what can be compared is compared: the checksums of a zip archive, and the sizes that its tensors claim.
"""

import errno
import io
import os
import re
import stat
import struct
import textwrap
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from .files import printable, read_json, some

BOOKKEEPING = "training state beside the weights"

_FETCH_AGAIN = "fetch it again from its authors"
_LARGEST_READ = 16 << 20  # bytes of a zip's list of members; that of the released file has 0.2 MB
_LARGEST_PICKLE = 64 << 20  # bytes of the names, shapes and plain values; those of the released file have 0.3 MB
_LARGEST_HEADER = 100_000_000  # bytes of a safetensors header; the library's own limit
_ENCRYPTED = 1  # the bit of a zip member's flags


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Opens a `.pt`, `.pth` or `.safetensors` file, memory-mapped, without running code from it.

    Files of torch before 1.6 are not zip archives: they are read into memory, and have no checksums.

    Returns:
        the state dict, and the names of what else the file holds, with the reason why it is dropped.

    Raises:
        ValueError: the file is broken, or holds anything but tensors and plain values.
    """
    kind = _kind_of(path)
    if kind == "safetensors":
        return read_safetensors([path]), {}
    content = _load(path, is_zip=kind == "zip")
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{printable(path)} holds a {type(content).__name__}, expected a state dict or {{'model': state dict}}"
        )
    beside: dict[str, str] = {}
    if isinstance(content.get("model"), Mapping):
        beside = {printable(str(key)): BOOKKEEPING for key in content if key != "model"}
        content = content["model"]
    try:
        check_names(content)
    except ValueError as error:
        raise ValueError(f"{printable(path)}: {error}") from error
    return dict(content), beside


def read_safetensors(paths: list[Path]) -> dict[str, Tensor]:
    """State dict of one or several safetensors files, memory-mapped.

    The format has no checksums: a changed weight that is still a number is not noticed.

    Raises:
        ValueError: a file is broken, or two files hold a tensor of one name.
    """
    state_dict: dict[str, Tensor] = {}
    for path in paths:
        if (kind := _kind_of(path)) != "safetensors":
            raise _Refused(path, f"it is no safetensors file but a {kind} of torch")
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                if twice := sorted(state_dict.keys() & names):
                    raise ValueError(f"{printable(path)}: {some(twice)} lie in another file of the folder, too")
                state_dict |= {name: file.get_tensor(name) for name in names}
        except (SafetensorError, RuntimeError, AttributeError, KeyError) as error:  # the latter for dtypes torch lacks
            raise ValueError(f"{printable(path)} is broken; {_FETCH_AGAIN}. ({error})") from error
    return state_dict


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a Hugging Face model folder.

    Raises:
        FileNotFoundError: there are none, or one that the index names is missing.
        ValueError: the index is damaged, or it is not clear which files are meant.
    """
    index, whole = folder / "model.safetensors.index.json", folder / "model.safetensors"
    names = [whole.name]
    if index.exists():
        if whole.exists():
            raise ValueError(
                f"{printable(folder)} holds {whole.name} and {index.name}, two sets of weights: remove the wrong one"
            )
        fields = read_json(index)
        shards = fields.get("weight_map") if isinstance(fields, dict) else None
        if not isinstance(shards, dict) or not shards or not all(map(_is_plain_name, shards.values())):
            raise ValueError(
                f"{printable(index)} is damaged: expected a weight_map from names of tensors to names of files beside "
                f"it; {_FETCH_AGAIN}"
            )
        names = sorted(set(shards.values()))
    if missing := [name for name in names if not (folder / name).exists()]:
        raise FileNotFoundError(f"{printable(folder)}: no {some(missing)}; expected a model saved with safetensors")
    return [folder / name for name in names]


def check_names(state_dict: Mapping[str, Tensor]) -> None:
    """Refuses keys that are no names, such as the numbers of a list of tensors that was saved as a dict."""
    if strange := [repr(key) for key in state_dict if not isinstance(key, str)]:
        raise ValueError(f"keys are no names ({len(strange)}: {some(strange)}); is this a state dict?")


def check_regular_file(path: str | os.PathLike) -> None:
    """Refuses a folder, and a pipe or a device, which could be read forever, by a ValueError."""
    if not stat.S_ISREG(Path(path).stat().st_mode):
        kind = "a folder" if Path(path).is_dir() else "a pipe or a device"
        raise ValueError(f"{printable(path)} is {kind}, expected a file")


def _is_plain_name(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


class _Refused(ValueError):
    """A file is not read, or not to its end."""

    def __init__(self, path: Path, reason: str, remedy: str = _FETCH_AGAIN):
        super().__init__(f"{printable(path)} was refused: {reason}; {remedy}")


def _kind_of(path: Path) -> str:
    """ "zip" or "pickle", torch's two formats, or "safetensors"; anything else is refused with what it looks like."""
    check_regular_file(path)
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(zipfile.stringFileHeader):
        return "zip"
    if start.startswith(b"\x80"):
        return "pickle"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _LARGEST_HEADER:
        return "safetensors"
    if not start:
        raise _Refused(path, "it is empty")
    if start.startswith(b"version https://git-lfs"):
        raise _Refused(path, "it is a pointer of Git LFS to the file, not the file", "fetch that with `git lfs pull`")
    if start.startswith(b"\x1f\x8b") or start[257:262] == b"ustar":
        raise _Refused(path, "it is a gzip or tar archive", "unpack it (`gunzip`, `tar -xf`), and give what was in it")
    if not any(start):
        raise _Refused(path, "it begins with zeros, as a download that was broken off")
    is_text = start.isascii() and all(byte >= 32 or byte in b"\t\n\r\f" for byte in start)
    looks = "a text, such as a web page that was saved in its place" if is_text else "of another format, or damaged"
    raise _Refused(path, f"it is no file of torch or safetensors, but {looks}")


def _load(path: Path, is_zip: bool) -> Any:
    """The tensors and plain values that a file of torch holds, on the CPU, in dicts and lists."""
    records = _check_archive(path) if is_zip else []
    size, claimed = path.stat().st_size, []

    def keep(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
        claimed.append((storage.data_ptr(), storage.nbytes()))
        if storage.nbytes() > size:
            raise ValueError(f"a tensor claims {storage.nbytes():,} bytes of the {size:,} that the file has")
        return storage  # on the CPU, whichever device it was saved from

    try:
        content = torch.load(path, map_location=keep, weights_only=True, mmap=is_zip)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # damaged and forged pickles raise nearly anything
        raise _Refused(path, f"it is broken, or holds more than tensors and plain values ({_reason(error)})") from error
    if is_zip:
        _check_claims(path, records, claimed)
    return content


def _reason(error: Exception) -> str:
    """The part of torch's message that says what was found, without its advice to switch off the safe reader."""
    text = str(error).partition("WeightsUnpickler error:")[2].strip() or str(error).strip() or type(error).__name__
    if "Weights only load failed" in text:
        text = "its list of contents is damaged"
    return textwrap.shorten(re.split(r"\n|\. Please use|\. In PyTorch", text)[0], 200, placeholder=" ...")


def _check_archive(path: Path) -> list[tuple[int, int]]:
    """Reads a zip archive once, to see that nothing in it is compressed and that every checksum fits.

    torch maps the file into memory, and would take compressed or damaged bytes for weights.

    Returns:
        offset and bytes of each tensor's storage, in order.
    """
    try:
        with _BoundedReader(path) as file, zipfile.ZipFile(file) as archive:
            members = sorted(archive.infolist(), key=lambda member: member.header_offset)
            if packed := [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]:
                raise _Refused(
                    path,
                    f"{len(packed)} of its {len(members)} parts are compressed, {printable(packed[0])} the first of "
                    "them, as by a program for zip files; torch does not compress",
                    "unpack it and pack it again without compression (`zip -0 -r`), or fetch it from its authors",
                )
            if any(m.flag_bits & _ENCRYPTED for m in members):
                raise _Refused(path, "it is encrypted")
            names = [m.filename for m in members]
            if len(set(names)) < len(names):
                raise _Refused(path, "two of its parts have one name")
            records = []
            with tqdm(total=file.size, desc=f"checking {path.name}", unit="B", unit_scale=True, delay=2) as bar:
                for member in members:
                    inner = member.filename.partition("/")[2]
                    if inner == "data.pkl" and member.file_size > _LARGEST_PICKLE:
                        raise _Refused(path, f"its list of contents has {member.file_size:,} bytes")
                    with archive.open(member) as stream:
                        while piece := stream.read(1 << 20):
                            bar.update(len(piece))
                    if inner.startswith("data/") and member.file_size:
                        records.append((file.contents_of(member), member.file_size))
    except (_Refused, MemoryError):
        raise
    except Exception as error:  # zipfile raises nearly any over a damaged list of parts
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # an offset before the file's beginning
            raise
        raise _Refused(path, f"it is cut off or damaged ({error})") from error
    return records


def _check_claims(path: Path, records: list[tuple[int, int]], claimed: list[tuple[int, int]]) -> None:
    """Compares the sizes that a file's tensors claim with the records that hold them.

    If a tensor claims more than its record has, torch takes what follows the record for weights.

    Args:
        records: offset and bytes of the archive's records, in order.
        claimed: address in memory and bytes of the storages.
    """
    found = sorted((address, size) for address, size in claimed if size)
    base = found[0][0] - records[0][0] if found and records else 0
    if [(address - base, size) for address, size in found] != records:
        raise _Refused(
            path,
            f"its tensors claim {sum(size for _, size in found):,} bytes in {len(found)} parts, but it holds "
            f"{sum(size for _, size in records):,} in {len(records)}",
        )


class _BoundedReader(io.FileIO):
    """A file that is never read in one piece, whatever it says about its parts."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.size = os.fstat(self.fileno()).st_size

    def read(self, size: int = -1) -> bytes:
        size = self.size - self.tell() if size < 0 else size
        if size > _LARGEST_READ:
            raise zipfile.BadZipFile(f"its list of parts has {size:,} bytes")
        return super().read(size)

    def contents_of(self, member: zipfile.ZipInfo) -> int:
        """Where a member's contents begin: after its own header, whose length is only in that header."""
        self.seek(member.header_offset)
        name, extra = struct.unpack("<HH", self.read(zipfile.sizeFileHeader)[26:30])
        return member.header_offset + zipfile.sizeFileHeader + name + extra
