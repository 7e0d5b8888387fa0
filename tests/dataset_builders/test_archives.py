"""Archives that others made: what is tried on us, what is refused by name, what is accepted and why."""

import bz2
import errno
import gzip
import io
import lzma
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
import tarfile
import unicodedata
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from fafa.dataset_builders import archives
from fafa.dataset_builders.archives import find_archives, members, unpack_archives
from fafa.dataset_builders.archives.parts import JoinedFiles
from fafa.dataset_builders.records import DataFormatError


def zipped(*members, **options) -> bytes:
    """A zip of (name or ZipInfo, content)."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def patched(content: bytes, **changes: bytes) -> bytes:
    """A zip whose names, in local headers and directory, are replaced by others of the same length."""
    for old, new in changes.items():
        content = content.replace(old.encode(), new)
    return content


def in_directory(content: bytes, offset: int, kind: str, value: int, everywhere: bool = False) -> bytes:
    """A zip with one number changed in its directory's entries: in the last one, or in all."""
    content = bytearray(content)
    entry = content.find(b"PK\1\2") if everywhere else content.rfind(b"PK\1\2")
    while entry >= 0:
        struct.pack_into(kind, content, entry + offset, value)
        entry = content.find(b"PK\1\2", entry + 4)
    return bytes(content)


def tarred(*members, end: bool = True, **options) -> bytes:
    """A tar of (name or TarInfo, content)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **options) as archive:
        for name, content in members:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = member.size or len(content)
            archive.addfile(member, io.BytesIO(content))
        last = archive.offset
    return stream.getvalue() if end else stream.getvalue()[:last]


def special(name: str, kind: bytes, link: str = "", size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, size
    return member


def with_size(content: bytes, size: bytes, header: int = 0) -> bytes:
    """A tar with another size in one of its headers, whose checksum is made to fit."""
    content = bytearray(content)
    content[header + 124 : header + 136] = size
    content[header + 148 : header + 156] = b" " * 8
    content[header + 148 : header + 156] = b"%06o\0 " % sum(content[header : header + 512])
    return bytes(content)


def base256(number: int) -> bytes:
    """As GNU tar writes what eleven octal digits do not hold, also below 0."""
    return (b"\xff" if number < 0 else b"\x80") + (number % 256**11).to_bytes(11, "big")


def link_in_zip(name: str, target: str) -> bytes:
    member = zipfile.ZipInfo(name)
    member.create_system, member.external_attr = 3, 0o120777 << 16
    return zipped((member, target), ("b.png", b"b"))


def nested(levels: int) -> bytes:
    content = zipped(("a.png", b"a"))
    for _ in range(levels - 1):
        content = zipped(("a.zip", content))
    return content


def overlapping() -> bytes:
    """Two members whose contents are one and the same bytes of the file."""
    content = zipped(("a.png", b"x" * 100), ("b.png", b"x" * 100))
    return in_directory(content, 42, "<L", 10)


def lie64(size: int) -> bytes:
    """A zip64 entry that announces another size than there is."""
    info = zipfile.ZipInfo("a.png")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, archive.open(info, "w", force_zip64=True) as member:
        member.write(b"x" * 100)
    content = stream.getvalue()
    return in_directory(content, 24, "<L", size)


def sparse_without_end() -> bytes:
    """A sparse file (GNU, version 1.0) with more parts than its map, where the file ends, has room for."""
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a", "GNU.sparse.realsize": "9"}
    member = tarfile.TarInfo("a")
    member.pax_headers, member.size = headers, 512
    return tarred((member, b"999999999\n".ljust(512, b"1")), end=False, format=tarfile.PAX_FORMAT)


def sparse(size: int) -> bytes:
    headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,1"}
    member = tarfile.TarInfo("a.png")
    member.pax_headers = headers | {"GNU.sparse.size": str(size)}
    return tarred((member, b"x"), format=tarfile.PAX_FORMAT)


def pax_names(name: str) -> bytes:
    """A name of any kind, as pax headers hold it."""
    member = tarfile.TarInfo("short")
    member.pax_headers = {"path": name}
    return tarred((member, b"x"), format=tarfile.PAX_FORMAT)


def huge_header(kind: bytes) -> bytes:
    """A name of 256 MiB, compressed to some kilobytes: tarfile reads it whole."""
    start = with_size(tarred((special("name", kind), b""), end=False), base256(1 << 28))
    compressor = zlib.compressobj(1, wbits=31)
    pieces = [compressor.compress(start)] + [compressor.compress(bytes(1 << 20)) for _ in range(256)]
    return b"".join([*pieces, compressor.flush()])


def bomb(size: int = 1 << 31) -> bytes:
    """A zip whose one member announces, and with time would give, two gigabytes of zeros."""
    content = zipped(("a.png", bytes(1 << 20)), compression=zipfile.ZIP_DEFLATED)
    return in_directory(content, 24, "<L", size)


def tar_bomb() -> bytes:
    stream = io.BytesIO()
    with gzip.open(stream, "wb", 1) as target:
        target.write(with_size(tarred((tarfile.TarInfo("a.png"), b""), end=False), base256(1 << 33)))
        target.write(bytes(1 << 20))
    return stream.getvalue()


LONG = "n" * 300
DEEP = "/".join(["folder"] * 700)
TWO = tarred(("a.png", b"a" * 700), ("b.png", b"b" * 700))
GZ = gzip.compress(TWO)

REFUSED = {
    # names
    "zip: a name with NUL": (
        {"x.zip": patched(zipped(("aXb.png", b"")), aXb=b"a\0b")},
        r"x.zip.*'a\\x00b.png' has a NUL",
    ),
    "tar: a name with NUL": ({"x.tar": pax_names("a\0b.png")}, r"x.tar.*'a\\x00b.png' has a NUL"),
    "zip: a name of 300 characters": ({"x.zip": zipped(("a.png", b"a"), (LONG, b""))}, "300 characters.*300 bytes"),
    "tar: a name of 300 characters": ({"x.tar": tarred((LONG, b""))}, "300 characters.*300 bytes"),
    "tar: 200 characters of three bytes": ({"x.tar": tarred(("衣" * 200, b""))}, "200 characters.*600 bytes"),
    "zip: a path of 4,899 characters": ({"x.zip": zipped((DEEP, b""))}, r"4,899 characters\) lies in 699 folders"),
    "tar: a path of 5,000 bytes": ({"x.tar": tarred(("/".join(["n" * 249] * 20), b""))}, "would have a path of"),
    "zip: a name of 5,000 characters": ({"x.zip": zipped(("n" * 5_000, b""))}, "5,000 characters.*5,000 bytes"),
    "tar: a name that is a dot": ({"x.tar": tarred((".", b"a"))}, r"'\.' has no name"),
    "zip: a name that is a dot": ({"x.zip": zipped((".", b"a"))}, r"'\.' has no name"),
    "zip: a name that is not UTF-8": (
        {"x.zip": patched(zipped(("é.png", b"")), é=b"\xe9\xe9")},
        "x.zip: cannot be",
    ),
    "zip: a file and a folder": ({"x.zip": zipped(("b", b""), ("a", b""), ("a/b", b""))}, "'a' is a file and a folder"),
    "tar: a file, then a folder": ({"x.tar": tarred(("a", b""), ("a/b", b""))}, "'a' is a file and a folder"),
    "tar: a folder, then a file": ({"x.tar": tarred(("a/b", b""), ("a", b""))}, "'a' is a file and a folder"),
    "zip: one name twice": ({"x.zip": zipped(("a", b"1"), ("./a", b"2"))}, "'a' is in it twice with different"),
    "tar: one name twice": ({"x.tar": tarred(("a", b"1"), ("a", b"2"))}, "'a' is in it twice with different"),
    "tar: one name twice, longer": ({"x.tar": tarred(("a", b"1"), ("a", b"12"))}, "'a' is in it twice with different"),
    "tar: one name twice, shorter": ({"x.tar": tarred(("a", b"12"), ("a", b"1"))}, "'a' is in it twice with different"),
    "zip: where archives within go": ({"x.zip": zipped(("archives-within.unpacked/a", b""))}, "would be taken for"),
    # paths that lead out
    "zip: an absolute path": ({"x.zip": zipped(("/tmp/evil", b""))}, "'/tmp/evil' would be written outside"),
    "tar: dots in the middle": ({"x.tar": tarred(("a/../../evil", b""))}, "'a/../../evil' would be written outside"),
    "zip: backslashes": ({"x.zip": zipped(("..\\evil", b""))}, "evil' would be written outside"),
    "tar: a drive": ({"x.tar": tarred(("C:evil", b""))}, "'C:evil' would be written outside"),
    "tar: a hard link to what lies outside": (
        {"x.tar": tarred((special("a", tarfile.LNKTYPE, "../../evil"), b""))},
        "'../../evil' would be written outside",
    ),
    "tar: a hard link to nothing": (
        {"x.tar": tarred((special("a", tarfile.LNKTYPE, "b"), b""))},
        "'a' cannot be unpacked: it is a link to 'b', which does not come before it",
    ),
    # archives' own names
    "an archive called ..zip": ({"..zip": zipped(("a", b""))}, r"\.\.zip: no folder can be named"),
    "an archive called ...zip": ({"...zip": zipped(("a", b""))}, r"\.\.\.zip: no folder can be named"),
    "an archive called .zip": ({".zip": zipped(("a", b""))}, r"\.zip: no folder can be named"),
    "within an archive, one called ..zip": ({"x.zip": zipped(("..zip", b""))}, r"\.\.zip: no folder can be named"),
    "an archive called as an unfinished one": ({"x.incomplete.zip": b""}, "no folder can be named"),
    "an archive whose folder's name is too long": ({"n" * 250 + ".zip": b""}, "no folder can be named"),
    "two archives for one folder": (
        {"x.zip": zipped(("b/a", b"")), "x/b.zip": zipped(("c", b""))},
        "x.zip and .*x/b.zip: would be unpacked to the same folder",
    ),
    # how much
    "five zips in one another": ({"x.zip": nested(5)}, "lies within 4 other archives"),
    "440 zips in one another": ({"x.zip": nested(440)}, "lies within 4 other archives"),
    "zip: a bomb": ({"x.zip": bomb()}, "x.zip: more than 1.0 GiB come out of archives of 0.0 MiB.*a bomb"),
    "zip: a bomb in a zip": ({"x.zip": zipped(("y.zip", bomb()))}, "y.zip: more than 1.0 GiB"),
    "zip: members within one another": ({"x.zip": overlapping()}, "'b.png' lies within another"),
    "zip: a member longer than the file": ({"x.zip": in_directory(zipped(("a", b"")), 20, "<L", 99)}, "longer than"),
    "zip64: fewer bytes than announced": ({"x.zip": lie64(1_000)}, "'a.png' holds fewer bytes than the 1,000"),
    "zip64: more bytes than announced": ({"x.zip": lie64(10)}, "its member 'a.png' cannot be unpacked: Bad CRC-32"),
    "zip64: 4 GiB announced": ({"x.zip": lie64(0xFFFFFFFE)}, "x.zip: more than 1.0 GiB come out"),
    "tar.gz: a bomb": ({"x.tar.gz": tar_bomb()}, "x.tar.gz: more than 1.0 GiB come out"),
    "tar: a size of 8 EiB": (
        {"x.tar": with_size(TWO, base256(1 << 63))},
        "more than 1.0 GiB come out",
    ),
    "tar: a size below 0": ({"x.tar": with_size(TWO, base256(-1024))}, "'a.png' cannot be unpacked: a size of -1,024"),
    "tar: a later size below 0": (
        {"x.tar": with_size(TWO, base256(-2048), header=1536)},
        "'b.png' cannot be unpacked: a size of -2,048",
    ),
    "tar: a directory's size below 0": (
        {"x.tar": with_size(tarred((special("d", b"D"), b""), ("a", b"")), base256(-512))},
        "cannot be unpacked: a size of -512",
    ),
    "tar: a sparse file of 8 EiB": ({"x.tar": sparse(1 << 63)}, "more than 1.0 GiB come out"),
    "tar: a sparse file whose map does not end": ({"x.tar": sparse_without_end()}, "x.tar: cannot be unpacked"),
    "tar.gz: a GNU name of 256 MiB": ({"x.tar.gz": huge_header(b"L")}, "x.tar.gz.*a header has more than 1.0 MiB"),
    "tar.gz: a pax header of 256 MiB": ({"x.tar.gz": huge_header(b"x")}, "x.tar.gz.*a header has more than 1.0 MiB"),
    # damage
    "no zip at all": ({"x.zip": b"PK, then nothing"}, "x.zip: cannot be unpacked: File is not a zip file"),
    "no tar at all": ({"x.tar.gz": b"not an archive"}, "x.tar.gz: cannot be unpacked"),
    "an empty file": ({"x.tar": b""}, "x.tar: cannot be unpacked"),
    "zip: encrypted": (
        {"x.zip": in_directory(zipped(("a", b"1"), ("b", b"2")), 8, "<H", 1)},
        "x.zip: its member 'b' is encrypted",
    ),
    "zip: an unknown compression": (
        {"x.zip": in_directory(zipped(("a", b"1")), 10, "<H", 99)},
        "'a' is compressed",
    ),
    "zip: a flipped byte": (
        {"x.zip": zipped(("a", b"0123")).replace(b"0123", b"0133")},
        "'a' cannot be.*Bad CRC",
    ),
    "zip: names differ in directory": (
        {"x.zip": zipped(("a.png", b"")).replace(b"a.png", b"b.png", 1)},
        "'a.png' cannot be unpacked: File name in directory",
    ),
    "zip: cut off": ({"x.zip": zipped(("a", b"1" * 900))[:-30]}, "x.zip: cannot be unpacked"),
    "zip: bytes after its end": ({"x.zip": zipped(("a", b"1")) + b"\0" * 9}, "other bytes follow its end"),
    "zip: two in one file": ({"x.zip": zipped(("a", b"1")) + zipped(("b", b"2"))}, "another archive lies before it"),
    "zip: zeros": ({"x.zip": bytes(9_000)}, "x.zip: cannot be unpacked"),
    "tar: cut within a member": ({"x.tar": TWO[:2_100]}, "x.tar: its member 'b.png' cannot be unpacked"),
    "tar: cut within a header": ({"x.tar": TWO[:1_600]}, "x.tar: cannot be unpacked: it ends early"),
    "tar: cut at a member's end": ({"x.tar": TWO[:1_536]}, "x.tar: cannot be unpacked: it ends early"),
    "tar: cut within its end": ({"x.tar": TWO[: 3_072 + 512]}, "x.tar: cannot be unpacked: it ends early"),
    "tar: a damaged header": ({"x.tar": TWO[:1_540] + b"?" + TWO[1_541:]}, "what follows its last member is damaged"),
    "tar: two in one file": ({"x.tar": TWO + TWO}, "what follows its last member is damaged, or belongs"),
    "tar: zeros": ({"x.tar": bytes(1 << 20)}, "it holds zeros alone"),
    "tar: zeros for ever": ({"x.tar.gz": gzip.compress(TWO + bytes(1 << 27), 1)}, "more than 64.0 MiB of zeros"),
    "tar.gz: cut off": ({"x.tar.gz": GZ[:-20]}, "x.tar.gz: .*it ends early"),
    "tar.gz: a tar cut at a member's end": ({"x.tar.gz": gzip.compress(TWO[:1_536])}, "x.tar.gz: .*it ends early"),
    "tar.gz: without its checksum": ({"x.tar.gz": GZ[:-8]}, "x.tar.gz: .*it ends early"),
    "tar.gz: a wrong checksum": ({"x.tar.gz": GZ[:-8] + b"1234" + GZ[-4:]}, "x.tar.gz: .*incorrect data check"),
    "tar.gz: bytes after its end": ({"x.tar.gz": GZ + b"rubbish"}, "x.tar.gz: .*other bytes follow its end"),
    "tar.bz2: bytes after its end": ({"x.tar.bz2": bz2.compress(TWO) + b"rubbish"}, "other bytes follow its end"),
    "tar.xz: bytes after its end": ({"x.tar.xz": lzma.compress(TWO) + b"rubbish"}, "other bytes follow its end"),
    "tar.xz: cut off": ({"x.tar.xz": lzma.compress(TWO)[:-20]}, "it ends early"),
    "tar.xz: a dictionary of 1.5 GiB": (
        {"x.tar.xz": lzma.compress(TWO, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 3 << 29, "mode": 1, "mf": 3}])},
        "x.tar.xz: .*[Mm]emory usage limit",
    ),
    # parts
    "parts: the first is missing": ({"x.tar.gz.part-ab": b""}, "part-ab: part 1 before it is missing"),
    "parts: one is missing": ({"x.zip.001": b"", "x.zip.003": b""}, "x.zip.003: part 2 before it is missing"),
    "parts: the last of a tar.gz is missing": ({"x.tgz.001": GZ[:50], "x.tgz.002": GZ[50:100]}, "it ends early"),
    "parts: the last of a tar is missing": ({"x.tar.001": TWO[:1_000], "x.tar.002": TWO[1_000:1_536]}, "it ends early"),
    "parts: two numbers alike": ({"x.zip.001": b"", "x.zip.01": b""}, "x.zip.01: both are part 1"),
    "parts: out of order": (
        {"x.tar.001": TWO[700:900], "x.tar.002": TWO[:700], "x.tar.003": TWO[900:]},
        "x.tar.001: ",
    ),
    "parts: of two archives": ({"x.tgz.001": GZ[:50], "x.tgz.002": gzip.compress(b"another" * 99)[50:]}, "x.tgz.001: "),
    "parts: and the whole": (
        {"x.zip.001": b"", "x.zip.002": b"", "x.zip": b""},
        "would be unpacked to the same folder",
    ),
    "spanned: the first is missing": ({"x.z02": b"", "x.zip": b""}, "x.z02: part 1 before it is missing"),
    "spanned: the last is missing": ({"x.z01": b"", "x.z02": b""}, "x.z02: the last part, x.zip, is missing"),
    "spanned: the zip is of another archive": (
        {"x.z01": b"PK", "x.zip": zipped(("a", b""))},
        "it is the last of 1 parts, but there are 2",
    ),
    "zip and tar of one name": ({"x.zip": b"", "x.tar": b""}, "would be unpacked to the same folder"),
    "an unknown kind": ({"x.7z": b""}, "x.7z: this kind of archive is not supported"),
}

ACCEPTED = {
    "zip: an empty one": ({"x.zip": zipped()}, {}),
    "tar: an empty one": ({"x.tar": tarred()}, {}),
    "zip: a comment": ({"x.zip": zipped(("a", b"1"))[:-2] + b"\x03\0abc"}, {"x/a": b"1"}),
    "zip: names as Windows writes them": ({"x.zip": zipped(("a\\b", b"1"))}, {"x/a/b": b"1"}),
    "zip: UTF-8 without its mark, as of macOS": (
        {"x.zip": patched(zipped(("ab", b"1")), ab="é".encode())},
        {"x/é": b"1"},
    ),
    "zip: names of an old PC": ({"x.zip": patched(zipped(("ab", b"1")), ab=b"\x82b")}, {"x/éb": b"1"}),
    "names that Windows reserves": ({"x.tar": tarred(("NUL", b"1"), ("a.", b"2"))}, {"x/NUL": b"1", "x/a.": b"2"}),
    "names that differ in case": ({"x.zip": zipped(("A", b"1"), ("a", b"2"))}, {"x/A": b"1", "x/a": b"2"}),
    "one name twice, one content": ({"x.tar": tarred(("a", b"1"), ("./a", b"1"))}, {"x/a": b"1"}),
    "zip: one name twice, one content": ({"x.zip": zipped(("a", b"1"), ("./a", b"1"))}, {"x/a": b"1"}),
    "a name of 255 bytes": ({"x.tar": tarred(("n" * 255, b"1"))}, {"x/" + "n" * 255: b"1"}),
    "tar: GNU's long names": (
        {"x.tar": tarred(("/".join(["n" * 200] * 5), b"1"), format=tarfile.GNU_FORMAT)},
        {"x/" + "/".join(["n" * 200] * 5): b"1"},
    ),
    "tar: pax's long names": (
        {"x.tar": tarred(("/".join(["衣" * 60] * 5), b"1"), format=tarfile.PAX_FORMAT)},
        {"x/" + "/".join(["衣" * 60] * 5): b"1"},
    ),
    "tar: a hard link to an earlier member": (
        {"x.tar": tarred(("a", b"1"), (special("b", tarfile.LNKTYPE, "a"), b""))},
        {"x/a": b"1", "x/b": b"1"},
    ),
    "tar: links and devices are left out": (
        {
            "x.tar": tarred(
                ("a", b"1"), *((special(f"s{kind}", kind, "/etc"), b"") for kind in (b"2", b"3", b"4", b"6"))
            )
        },
        {"x/a": b"1"},
    ),
    "zip: a link is left out": ({"x.zip": link_in_zip("a", "/etc/passwd")}, {"x/b.png": b"b"}),
    "tar: a small sparse file": ({"x.tar": sparse(3)}, {"x/a.png": b"x\0\0"}),
    "tar.gz: two streams in one file": (
        {"x.tgz": gzip.compress(TWO[:900]) + gzip.compress(TWO[900:])},
        {"x/a.png": b"a" * 700, "x/b.png": b"b" * 700},
    ),
    "tar.gz: zeros after its end": ({"x.tgz": GZ + bytes(99)}, {"x/a.png": b"a" * 700, "x/b.png": b"b" * 700}),
    "tar.gz: not compressed": ({"x.tar.gz": TWO}, {"x/a.png": b"a" * 700, "x/b.png": b"b" * 700}),
    "four archives in one another": (
        {"x.zip": nested(4)},
        {f"x{3 * '/archives-within.unpacked/a'}/a.png": b"a"},
    ),
    "what macOS notes of an archive": ({"x.zip": zipped(("__MACOSX/._y.zip", b"1"))}, {"x/__MACOSX/._y.zip": b"1"}),
    "an archive in a folder of another's name": (
        {"x.zip": zipped(("a", b"1")), "x/b.zip": zipped(("c", b"2"))},
        {"x/a": b"1", "x/b/c": b"2"},
    ),
}


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("case", REFUSED)
def test_hostile_and_damaged_archives_are_refused_by_name_and_leave_nothing(tmp_path, case):
    files, expected = REFUSED[case]
    put(tmp_path / "in", files)
    with pytest.raises(DataFormatError, match=f"(?s){expected}") as error:
        unpack_archives(tmp_path / "in", tmp_path / "out")
    assert "Remedy:" in str(error.value) and len(str(error.value)) < 1_000
    assert not list((tmp_path / "out").rglob("*.png")), "nothing of an archive that is refused"
    assert sorted(path.name for path in tmp_path.iterdir()) in (["in"], ["in", "out"]), "nothing outside"


@pytest.mark.parametrize("case", ACCEPTED)
def test_odd_archives_that_are_sound_are_unpacked(tmp_path, case):
    files, expected = ACCEPTED[case]
    unpack_archives(put(tmp_path / "in", files), tmp_path / "out")
    found = tree(tmp_path / "out")
    assert {path: found.get(path) for path in expected} == expected
    assert len([path for path in found if not path.endswith(".zip")]) == len(
        [path for path in expected if not path.endswith(".zip")]
    )
    assert not list((tmp_path / "out").rglob("*.incomplete"))


def test_a_power_cut_that_leaves_files_without_contents_is_mended(tmp_path):
    """Files of the right size that hold zeros, or another's bytes, are not taken for what was unpacked."""
    content = {"a.png": b"a" * 3_000_000, "b.png": b"b", "c.png": b"", "d.png": b"d" * 9}
    put(tmp_path / "in", {"x.zip": zipped(*content.items()), "y.tar": tarred(*content.items())})
    zeros = {name: bytes(len(data)) for name, data in content.items()} | {"d.png": b"longer than it was"}
    put(tmp_path / "out/x.incomplete", zeros)
    put(tmp_path / "out/y.incomplete", zeros | {"a.png": content["a.png"][:2_000_000]})
    unpack_archives(tmp_path / "in", tmp_path / "out")
    assert tree(tmp_path / "out/x") == tree(tmp_path / "out/y") == content


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_that_was_stopped_begins_anew_and_finished_ones_stay(tmp_path, monkeypatch, kind):
    inner = {f"{number}.png": bytes([number]) * 100 for number in range(3)}
    pack = zipped if kind == "zip" else tarred
    put(tmp_path / "in", {"w.zip": zipped(("w.png", b"w")), f"x.{kind}": pack(*inner.items())})
    outer = pack(("a.png", b"a"), ("b.zip", zipped(*inner.items())), ("c.zip", zipped(("d.zip", zipped(("e", b"e"))))))
    put(tmp_path / "in", {f"y.{kind}": outer})
    copy, started, stop_at = members.Folder._copy, [], ""

    def copy_or_stop(folder, source, target, size, name):
        started.append(f"{folder.path.name}/{name}")
        if started[-1] == stop_at:
            target.write(b"half")
            raise KeyboardInterrupt
        copy(folder, source, target, size, name)

    monkeypatch.setattr(members.Folder, "_copy", copy_or_stop)
    for stop_at in ("x.incomplete/1.png", "c.incomplete/d.zip", "d.incomplete/e"):
        with pytest.raises(KeyboardInterrupt):
            unpack_archives(tmp_path / "in", tmp_path / "out")
        assert started[-1] == stop_at
    stop_at = ""
    unpack_archives(tmp_path / "in", tmp_path / "out")
    within = "archives-within.unpacked"
    found = {name: content for name, content in tree(tmp_path / "out").items() if not name.endswith(".zip")}
    assert found == {"w/w.png": b"w", **{f"x/{name}": content for name, content in inner.items()}} | {
        "y/a.png": b"a",
        **{f"y/{within}/b/{name}": content for name, content in inner.items()},
        f"y/{within}/c/{within}/d/e": b"e",
    }
    assert not list((tmp_path / "out").rglob("*.incomplete"))
    assert started.count("w.incomplete/w.png") == 1, "a finished archive is not unpacked again"
    assert started.count("b.incomplete/0.png") == 1, "nor is one within another"
    num_started = len(started)
    unpack_archives(tmp_path / "in", tmp_path / "out")
    assert len(started) == num_started


def test_a_disk_that_is_too_small_is_known_before_anything_is_written(tmp_path, monkeypatch):
    put(tmp_path / "in", {"x.zip": zipped(("a.png", bytes(600))), "y.tar": tarred(("b.png", bytes(600)))})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000))
    with pytest.raises(OSError, match=r"takes 0.0 MiB, but the disk has 0.0 MiB free. Make room") as error:
        unpack_archives(tmp_path / "in", tmp_path / "out")
    assert error.value.errno == errno.ENOSPC and not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_is_named(tmp_path, monkeypatch):
    content = {f"{number}.png": b"1" * 100 for number in range(5)}
    put(tmp_path / "in", {"x.tar.gz": gzip.compress(tarred(*content.items()))})
    copy = members.Folder._copy

    def fill_up(folder, source, target, size, name):
        if name == "3.png":
            target.write(b"1")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copy(folder, source, target, size, name)

    monkeypatch.setattr(members.Folder, "_copy", fill_up)
    with pytest.raises(OSError, match=r"x.tar.gz: its member '3.png' cannot be unpacked: the disk is full"):
        unpack_archives(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out/x").exists()
    monkeypatch.setattr(members.Folder, "_copy", copy)
    unpack_archives(tmp_path / "in", tmp_path / "out")
    assert tree(tmp_path / "out/x") == content


def test_all_zips_are_checked_before_the_first_file_is_written(tmp_path):
    put(tmp_path / "in", {"a.zip": zipped(("a.png", b"1")), "b.zip": zipped(("b.png", b"1"), ("../evil", b""))})
    with pytest.raises(DataFormatError, match="evil"):
        unpack_archives(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("other", ["A/IMG.png", unicodedata.normalize("NFD", "a/é.png")])
def test_names_that_the_disk_takes_for_the_same_do_not_replace_one_another(tmp_path, monkeypatch, kind, other):
    names = {"A/IMG.png": "a/img.png"}.get(other, "a/é.png"), other

    def open_folded(file, mode, buffering=-1):  # as a disk does that ignores case and Unicode's forms
        folded = unicodedata.normalize("NFC", Path(file).name).casefold()
        return (tmp_path / "out/x.incomplete" / folded).open(mode, buffering)

    monkeypatch.setattr(members, "open", open_folded, raising=False)
    put(
        tmp_path / "in",
        {f"x.{kind}": (zipped if kind == "zip" else tarred)(*((name, name.encode()) for name in names))},
    )
    with pytest.raises(DataFormatError, match="in case or in Unicode form only, which this disk takes for the same"):
        unpack_archives(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("name", ["NUL", "a/con.png", "a.", "a /b", "a.png:evil", "a?", "COM1"])
def test_on_windows_names_that_it_reserves_or_changes_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(members, "_ON_WINDOWS", True)
    put(tmp_path / "in", {"x.zip": zipped(("ok.png", b"1"), (name, b"1"))})
    with pytest.raises(DataFormatError, match="has a name that Windows reserves or changes"):
        unpack_archives(tmp_path / "in", tmp_path / "out")


def test_there_are_limits(tmp_path, monkeypatch):
    put(tmp_path / "in", {"x.zip": zipped(("a.png", b"1"), ("y.zip", zipped(("b.png", b"2")))), "z.tar": TWO})
    for limits, expected in (
        ([(archives, "DEPTH", 1)], "lies within 1 other archives; at most 1"),
        ([(members, "_MOST_FILES", 4)], "more than 4 files"),
        ([(members, "_RATIO", 0), (members, "_ALWAYS", 900)], "more than 0.0 MiB"),
    ):
        with monkeypatch.context() as limited, pytest.raises(DataFormatError, match=expected):
            for limit in limits:
                limited.setattr(*limit)
            unpack_archives(tmp_path / "in", tmp_path / f"out {expected}")
    monkeypatch.setattr(archives, "DEPTH", 2)
    monkeypatch.setattr(members, "_MOST_FILES", 5)
    unpack_archives(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("case", ["tar.gz: a pax header of 256 MiB", "tar.xz: a dictionary of 1.5 GiB", "zip: a bomb"])
def test_hostile_archives_are_refused_in_bounded_memory(tmp_path, case):
    put(tmp_path / "in", REFUSED[case][0])
    code = f"""
import resource, sys
from fafa.dataset_builders.archives import unpack_archives
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
try:
    unpack_archives({str(tmp_path / "in")!r}, {str(tmp_path / "out")!r})
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and re.search(REFUSED[case][1], done.stdout), done.stderr


def test_a_part_is_opened_when_it_is_read(tmp_path):
    """A data set may have more parts than a process may open files."""
    content = tarred(*((f"{number}.png", b"1") for number in range(200)))
    put(
        tmp_path / "in", {f"x.tar.{number:03d}": content[512 * number :][:512] for number in range(len(content) // 512)}
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(64, len(list(Path("/proc/self/fd").iterdir())) + 16), hard))
    try:
        unpack_archives(tmp_path / "in", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(tree(tmp_path / "out/x")) == 200


@pytest.mark.parametrize("name", ["../evil.png", "/tmp/evil.png", "a/../../evil.png", "..\\evil.png", "C:/evil.png"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_member_that_leads_out_of_the_folder_is_refused(tmp_path, name, kind):
    (tmp_path / "in").mkdir()
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "in/a.zip", "w") as archive:
            archive.writestr(name, b"evil")
    else:
        with tarfile.open(tmp_path / "in/a.tar", "w") as archive:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(DataFormatError, match="outside of"):
        unpack_archives(tmp_path / "in", tmp_path / "out")
    assert not list(tmp_path.rglob("evil.png"))


def test_links_in_archives_are_not_followed_but_reported(tmp_path, caplog):
    """A link to a folder outside, and then a file through it, would write anywhere."""
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in/a.tar", "w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "outside")
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("link/file.png"), io.BytesIO())
    unpack_archives(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out/a/link/file.png").is_file() and not (tmp_path / "outside").exists()
    assert "1 links and special files were not unpacked" in caplog.text


def test_names_that_are_no_archives_are_left_alone(tmp_path):
    for name in ("a.png", "zip", "a.zip.txt", "a.tar.json", "a.zipped", "query.json", "z01", "a.b.c"):
        (tmp_path / name).write_bytes(b"")
    assert find_archives(tmp_path) == {}


def test_joined_files_read_like_one_file(tmp_path):
    content = bytes(range(200))
    parts = []
    for number, part in enumerate([content[:70], b"", content[70:71], content[71:]]):
        parts.append(tmp_path / str(number))
        parts[-1].write_bytes(part)
    with JoinedFiles(parts) as joined, io.BufferedReader(joined, 16) as stream:
        assert stream.read() == content
        for start in range(0, 200, 7):
            stream.seek(start)
            assert stream.read(9) == content[start : start + 9]
        assert stream.seek(-3, io.SEEK_END) == 197 and stream.read() == content[197:]
