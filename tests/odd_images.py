"""Image files as real use brings them: every format that Pillow writes, damage, lies, bombs; each with its verdict.

    python tests/odd_images.py FOLDER

writes them all into a folder. Everything is made here, in a second; the largest file has 0.4 MB.
"""

import io
import json
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 26, 40
UPRIGHT, TURNED = (WIDTH, HEIGHT), (HEIGHT, WIDTH)
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I", "F")
PHOTO_SUFFIXES = {
    **{"BMP": "bmp", "GIF": "gif", "JPEG": "jpg", "JPEG2000": "jp2", "MPO": "mpo", "PNG": "png", "PPM": "ppm"},
    **{"TIFF": "tiff", "WEBP": "webp", "AVIF": "avif"},
}
OTHER_FORMATS = ("BLP", "DDS", "DIB", "EPS", "ICNS", "ICO", "IM", "MSP", "PALM", "PCX", "PDF", "QOI", "SGI", "SPIDER")
OTHER_FORMATS += ("TGA", "XBM")
ORIENTATION, X_RESOLUTION, RESOLUTION_UNIT = 0x0112, 0x011A, 0x0128
BYTE, ASCII, SHORT, LONG, RATIONAL, SIGNED_LONG, SIGNED_RATIONAL, DOUBLE = 1, 2, 3, 4, 5, 9, 10, 12
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 12345\n" % (b"4d" * 32)


class OddImage(NamedTuple):
    """A file and what a reader has to say of it.

    Attributes:
        name: Of the file.
        content: Its bytes.
        verdict: Width and height of the upright picture, or what the refusal says (a regular expression).
    """

    name: str
    content: bytes
    verdict: tuple[int, int] | str


def picture(mode: str = "RGB", size: tuple[int, int] = UPRIGHT) -> Image.Image:
    """Smooth, so that JPEG keeps it, with four different corners, so that every turn shows."""
    corners = np.array([[[250, 20, 20], [20, 250, 20]], [[20, 20, 250], [200, 200, 200]]], dtype=np.uint8)
    image = Image.fromarray(corners).resize(size, Image.Resampling.BILINEAR)
    if mode in ("I;16", "I", "F"):
        grey = np.asarray(image.convert("L"))
        return Image.fromarray(
            {"I;16": grey.astype(np.uint16) * 257, "I": grey.astype(np.int32)}.get(mode, grey / 255.0)
        )
    if mode == "PA":
        return image.convert("RGBA").convert("PA")
    return image.convert("L").convert("LA") if mode == "LA" else image.convert(mode)


def encode(image: Image.Image, format: str, **options) -> bytes:
    """The picture as a file."""
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def exif(*entries: tuple[int, int, int, bytes], tail: bytes = b"") -> bytes:
    """EXIF whose entries are (tag, type, count, value of 4 bytes or offset), little-endian, as no writer makes it."""
    body = b"".join(struct.pack("<HHI4s", tag, kind, count, value) for tag, kind, count, value in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4) + tail


def turned(value: int = 6) -> tuple[int, int, int, bytes]:
    """The entry of an orientation."""
    return ORIENTATION, SHORT, 1, struct.pack("<I", value)


def damaged_exif() -> Iterator[tuple[str, bytes, tuple[int, int]]]:
    """Name, EXIF, and the size of a picture of `TURNED` that has it."""
    after = 8 + 2 + 3 * 12 + 4  # where the tail of three entries begins
    unit = (RESOLUTION_UNIT, SHORT, 1, struct.pack("<I", 2))
    resolution = {
        "text": (ASCII, 4, b"72\0\0"),
        "negative": (SIGNED_RATIONAL, 1, struct.pack("<I", after)),
        "signed_long": (SIGNED_LONG, 1, struct.pack("<i", -72)),
        "double": (DOUBLE, 1, struct.pack("<I", after)),
        "zero_denominator": (RATIONAL, 1, struct.pack("<I", after + 8)),
        "no_such_type": (99, 1, bytes(4)),
        "beyond_the_end": (RATIONAL, 1, struct.pack("<I", 60_000)),
        "huge_count": (BYTE, 2**32 - 1, struct.pack("<I", after)),
    }
    for name, (kind, count, value) in resolution.items():
        tail = struct.pack("<iiii", -72, 1, 1, 0)
        yield f"resolution_{name}", exif(turned(), (X_RESOLUTION, kind, count, value), unit, tail=tail), UPRIGHT
    for value in (0, 9, 65_535):
        yield f"orientation_{value}", exif(turned(value)), TURNED
    yield "orientation_text", exif((ORIENTATION, ASCII, 2, b"6\0\0\0")), TURNED
    yield "orientation_long", exif((ORIENTATION, LONG, 1, struct.pack("<I", 6))), UPRIGHT
    yield "maker_note", exif(turned(), (0x927C, BYTE, 2**20, struct.pack("<I", after)), unit), UPRIGHT
    yield "loop", exif(turned(), (0x8769, LONG, 1, struct.pack("<I", 8)), unit), UPRIGHT
    yield "cut", exif(turned())[:-9], TURNED
    yield "rubbish", b"Exif\0\0" + bytes(range(64)), TURNED
    yield "nothing", b"Exif\0\0", TURNED


def jpeg_with(segment: bytes, image: Image.Image | None = None, marker: int = 0xE1, **options) -> bytes:
    """A JPEG with a segment of metadata."""
    data = encode(image or picture(size=TURNED), "JPEG", **options)
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(segment) + 2) + segment + data[2:]


def chunk(kind: bytes, content: bytes = b"", is_whole: bool = True) -> bytes:
    """Of a PNG."""
    check = zlib.crc32(kind + content) ^ (not is_whole)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png(width: int, height: int, *chunks: bytes, colours: int = 2, rows: bytes | None = None) -> bytes:
    """A PNG of 8 bits a channel, whose rows are zero unless given, with chunks between header and pixels."""
    if rows is None:
        channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colours]
        packer = zlib.compressobj(1)
        rows = b"".join(packer.compress(bytes(1 + channels * width)) for _ in range(height)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", rows) + chunk(b"IEND")


def with_chunks(data: bytes, *chunks: bytes, before: bytes = b"IDAT") -> bytes:
    """The PNG with more chunks before the one named."""
    place = data.index(before) - 4
    return data[:place] + b"".join(chunks) + data[place:]


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG whose header tells another size than its pixels have."""
    data = bytearray(encode(picture(), "JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_of_scans(number: int) -> bytes:
    """A progressive JPEG whose first scan is repeated."""
    data = encode(picture(size=(64, 64)), "JPEG", progressive=True)
    first = data.index(b"\xff\xda")
    second = min(data.index(b"\xff\xda", first + 2), data.index(b"\xff\xc4", first + 2))
    return data[:first] + data[first:second] * number + data[second:]


def _written() -> Iterator[OddImage]:
    Image.init()
    for format in sorted(Image.SAVE):
        for mode in MODES:
            if (format, mode) == ("TIFF", "YCbCr"):
                continue  # Pillow writes one that it cannot read
            if format in PHOTO_SUFFIXES:
                name, verdict = f"{mode.replace(';', '')}.{PHOTO_SUFFIXES[format]}", UPRIGHT
            elif format in OTHER_FORMATS and mode in ("1", "P", "RGB", "F"):
                name, verdict = f"{mode}_{format.lower()}.jpg", "Remedy"
            else:
                continue
            try:
                content = encode(picture(mode, (32, 32) if format == "ICNS" else UPRIGHT), format)
            except Exception:  # this format has no such mode, which Pillow says in many ways
                continue
            yield OddImage(f"written_{name}", content, verdict)


def _damaged_metadata() -> Iterator[OddImage]:
    for value in range(1, 9):
        size = UPRIGHT if value in (5, 6, 7, 8) else TURNED
        yield OddImage(f"turned_{value}.jpg", jpeg_with(exif(turned(value))), size)
    for name, segment, size in damaged_exif():
        yield OddImage(f"exif_{name}.jpg", jpeg_with(segment), size)
        whole = encode(picture(size=TURNED), "PNG")
        yield OddImage(f"exif_{name}.png", with_chunks(whole, chunk(b"eXIf", segment[6:])), size)
        yield OddImage(f"exif_{name}.webp", encode(picture(size=TURNED), "WEBP", exif=segment), size)
    behind = with_chunks(encode(picture(size=TURNED), "PNG"), chunk(b"eXIf", exif(turned())[6:]), before=b"IEND")
    yield OddImage("exif_behind_the_pixels.png", behind, UPRIGHT)
    for value in (6, 9):
        tags = {ORIENTATION: value, 270: "a person"}
        content = encode(picture(size=TURNED), "TIFF", tiffinfo=tags)
        yield OddImage(f"turned_{value}.tiff", content, UPRIGHT if value == 6 else TURNED)

    whole = encode(picture(), "PNG")
    bomb = zlib.compress(bytes(2**25), 9)
    yield OddImage("text_bomb.png", with_chunks(whole, chunk(b"zTXt", b"Comment\0\0" + bomb)), UPRIGHT)
    behind = with_chunks(whole, chunk(b"zTXt", b"Comment\0\0" + bomb), before=b"IEND")
    yield OddImage("text_bomb_behind.png", behind, UPRIGHT)
    yield OddImage("profile_bomb.png", with_chunks(whole, chunk(b"iCCP", b"ICC\0\0" + bomb)), UPRIGHT)
    yield OddImage("text_checksum.png", with_chunks(whole, chunk(b"tEXt", b"Comment\0hello", is_whole=False)), UPRIGHT)
    yield OddImage("physical_size.png", with_chunks(whole, chunk(b"pHYs", b"\0")), UPRIGHT)
    yield OddImage("unknown_chunk.png", with_chunks(whole, chunk(b"faFa", bytes(9))), UPRIGHT)
    frames = [picture().rotate(90), picture().rotate(180)]
    animation = encode(picture(), "PNG", save_all=True, append_images=frames)
    yield OddImage("animated.png", animation, UPRIGHT)
    control = animation.index(b"acTL") - 4
    yield OddImage("animated_without_control.png", animation[:control] + animation[control + 20 :], UPRIGHT)
    yield OddImage("animated_cut.png", animation[: animation.index(b"fdAT") + 9], UPRIGHT)
    yield OddImage("animated.gif", encode(picture(), "GIF", save_all=True, append_images=frames), UPRIGHT)
    yield OddImage("animated.webp", encode(picture(), "WEBP", save_all=True, append_images=frames), UPRIGHT)
    two = encode(picture(), "MPO", save_all=True, append_images=frames[:1])
    yield OddImage("two_pictures.mpo", two, UPRIGHT)
    index = two.index(b"MPF\0") + 4
    yield OddImage("index_damaged.mpo", two[: index + 8] + b"\xff" * 40 + two[index + 48 :], UPRIGHT)
    yield OddImage("second_picture_missing.jpg", two[: two.rindex(b"\xff\xd8\xff")], UPRIGHT)
    yield OddImage("profile_rubbish.jpg", jpeg_with(b"ICC_PROFILE\0\x02\x01rubbish", picture(), 0xE2), UPRIGHT)
    yield OddImage("photoshop_rubbish.jpg", jpeg_with(b"Photoshop 3.0\x008BIM\x03\xed", picture(), 0xED), UPRIGHT)
    yield OddImage("xmp_rubbish.jpg", jpeg_with(b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta", picture()), UPRIGHT)
    yield OddImage("comment.jpg", jpeg_with(bytes(60_000), picture(), 0xFE), UPRIGHT)
    yield OddImage("more_behind.jpg", encode(picture(), "JPEG") + b"\xff\xda" * 3_000, UPRIGHT)


def _truncated() -> Iterator[OddImage]:
    for format, suffix in PHOTO_SUFFIXES.items():
        if format == "AVIF" and format not in Image.SAVE:
            continue
        whole = encode(picture(), format)
        for share in (0.3, 0.9):
            yield OddImage(f"cut_{share}.{suffix}", whole[: int(len(whole) * share)], "Remedy")
    whole = encode(picture(), "PNG")
    for lost in (1, 4, 12, 16, 20):  # the end's chunk, the checksum and what checks the pixels, but not a pixel
        yield OddImage(f"lost_{lost}.png", whole[:-lost], UPRIGHT)
    yield OddImage("lost_30.png", whole[:-30], "truncated")
    yield OddImage("lost_1.jpg", encode(picture(), "JPEG")[:-1], "truncated")
    yield OddImage("signature.png", whole[:8], "Remedy")
    yield OddImage("signature.jpg", b"\xff\xd8\xff", "Remedy")
    middle = whole.index(b"IDAT") + 30
    yield OddImage("flipped_bit.png", whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :], "broken")
    yield OddImage("header_checksum.png", whole[:29] + bytes(4) + whole[33:], "checksum")
    yield OddImage("no_pixels.png", whole[: whole.index(b"IDAT") - 4] + chunk(b"IEND"), "Remedy")


def _strangers() -> Iterator[OddImage]:
    yield OddImage("empty.jpg", b"", "is empty")
    yield OddImage("lfs_pointer.jpg", LFS_POINTER, "Git LFS.*git lfs pull")
    yield OddImage("web_page.jpg", b"<!DOCTYPE html>\n<html><head><title>Sign in</title>", "web page.*login")
    yield OddImage("web_page_upper.png", b"\n <HTML><BODY>404 Not Found</BODY></HTML>", "web page")
    yield OddImage("error.jpg", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML.*server's error")
    yield OddImage("error.png", b'{"error": "rate limit exceeded"}', "JSON.*server's error")
    yield OddImage("drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG")
    yield OddImage("notes.jpg", b"Please find the pictures on my new drive.\n", "text")
    yield OddImage("zeros.jpg", bytes(5_000), "zeros.*power cut")
    yield OddImage("noise.jpg", np.random.default_rng(0).bytes(500), "none of the formats")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("person.png", encode(picture(), "PNG"))
    yield OddImage("archive.jpg", stream.getvalue(), "archive.*unpack")
    yield OddImage("archive.png", b"\x1f\x8b" + bytes(30), "archive.*unpack")
    yield OddImage("document.jpg", b"%PDF-1.7\n%", "PDF")
    yield OddImage("postscript.jpg", encode(picture(), "EPS"), "PostScript")
    yield OddImage("postscript.png", b"\xc5\xd0\xd3\xc6" + bytes(60), "PostScript")
    yield OddImage("film.jpg", b"\0\0\0\x18ftypisom" + bytes(40), "video")
    yield OddImage("portrait.jpg", b"\0\0\0\x18ftypheic" + bytes(40), "HEIC|HEIF|Remedy")
    texture = b"DDS " + struct.pack("<7I", 124, 0x1007, 8, 8, 0, 0, 0) + bytes(44)
    texture += struct.pack("<8I", 32, 0x40000, 0, 12, 0, 0, 0, 0) + bytes(20) + bytes(64)
    yield OddImage("texture.png", texture, "texture")
    for format, suffix in PHOTO_SUFFIXES.items():
        other = "png" if suffix != "png" else "jpg"
        if format in Image.SAVE:
            yield OddImage(f"really_{suffix}.{other}", encode(picture(), format), UPRIGHT)


def _extreme() -> Iterator[OddImage]:
    for size in ((1, 1), (1, 400), (400, 1), (65_535, 1)):
        yield OddImage(f"size_{size[0]}x{size[1]}.png", png(*size), size)
    yield OddImage("size_65536x1.png", png(65_536, 1), "65,536 x 1 pixels.*side.*65,535")
    yield OddImage("size_0x5.png", png(0, 5), "Remedy")
    flat = zlib.compress(bytes(400_000), 9)
    yield OddImage("strip.png", png(89_000_000, 1, colours=0, rows=flat), "89,000,000 x 1 pixels.*side")
    yield OddImage("column.png", png(1, 89_000_000, colours=0, rows=flat), "1 x 89,000,000 pixels.*side")
    yield OddImage("bomb.png", png(60_000, 60_000, rows=flat), "60,000 x 60,000.*89 million")
    yield OddImage("bomb_rgba.png", png(16_000, 11_000, colours=6, rows=flat), "16,000 x 11,000.*89 million")
    yield OddImage("bomb.jpg", jpeg_of_size(65_500, 65_500), "65,500 x 65,500.*268 million")
    yield OddImage("bomb.gif", b"GIF89a" + struct.pack("<HH", 65_000, 65_000) + bytes(3) + b",", "Remedy")
    header = struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0)
    yield OddImage("bomb.bmp", b"BM" + header, "50,000 x 50,000.*89 million")
    yield OddImage("bomb.ppm", b"P6 40000 40000 255\n", "40,000 x 40,000.*89 million")
    yield OddImage("scans.jpg", jpeg_of_scans(2_000), r"2,\d\d\d scans.*100")
    yield OddImage("scans_few.jpg", encode(picture(), "JPEG", progressive=True), UPRIGHT)
    yield OddImage("negative.tiff", encode(Image.fromarray(np.full((4, 4), -1, np.float32)), "TIFF"), r"0 to 65535")
    yield OddImage("nan.tiff", encode(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), r"nan.*0 to 65535")
    for compression in ("tiff_lzw", "jpeg", "tiff_adobe_deflate", "group4"):
        mode = "1" if compression == "group4" else "RGB"
        yield OddImage(f"{compression}.tiff", encode(picture(mode), "TIFF", compression=compression), UPRIGHT)
    clear = picture().quantize(16)
    yield OddImage("transparent.png", encode(clear, "PNG", transparency=0), UPRIGHT)
    yield OddImage("transparent.gif", encode(clear, "GIF", transparency=0), UPRIGHT)
    yield OddImage("lossless.webp", encode(picture("RGBA"), "WEBP", lossless=True), UPRIGHT)
    yield OddImage("plain.ppm", b"P3 2 1 255\n255 0 0 0 255 0\n", (2, 1))
    for name in ("a b", "-x", "Ünï", "u\u0308", "新しい", "a'b\"c", "new\nline", "x" * 200, ".hidden", "100%s{}"):
        yield OddImage(f"{name}.png", encode(picture(), "PNG"), UPRIGHT)


def odd_images() -> list[OddImage]:
    """All of them, sorted by name."""
    found = [*_written(), *_damaged_metadata(), *_truncated(), *_strangers(), *_extreme()]
    return sorted(found)


def write_odd_images(folder: Path) -> dict[Path, tuple[int, int] | str]:
    """Writes them, and tells each file's verdict."""
    folder.mkdir(parents=True, exist_ok=True)
    verdicts = {}
    for image in odd_images():
        file = folder / image.name
        file.write_bytes(image.content)
        verdicts[file] = image.verdict
    sparse = folder / "sparse.png"
    with sparse.open("wb") as stream:
        os.truncate(stream.fileno(), 40 * 10**9)
    verdicts[sparse] = "40000000000 bytes.*268,435,456 bytes"
    return verdicts


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/odd_images.py FOLDER")
    written = write_odd_images(Path(sys.argv[1]))
    listing = {file.name: verdict for file, verdict in written.items()}
    Path(sys.argv[1], "verdicts.json").write_text(json.dumps(listing, indent=1))
    print(f"{len(written)} files, with their verdicts in verdicts.json")
