"""Metadata of photographs: dates and cameras, however damaged, and what is cut off before decoding."""

import os
import struct

import pytest
from odd_images import UPRIGHT, chunk, damaged_exif, encode, exif, jpeg_with, picture, png, turned
from PIL import Image

from fafa import image_metadata_fafa as metadata
from fafa import image_reading_fafa as reading
from fafa.image_metadata_fafa import taken_and_camera
from fafa.image_reading_fafa import PhotoFacts, UnreadableImageError, open_image, photo_facts, photo_formats

TAKEN, CHANGED, CAMERA = b"2024:05:01 10:30:00\0", b"2025:01:01 00:00:00\0", b"Canon EOS R6\0"


def exif_of_a_camera(taken=TAKEN, changed=CHANGED, camera=CAMERA) -> bytes:
    """EXIF with a date of taking in its own list of entries, as cameras write it."""
    first = 8 + 2 + 4 * 12 + 4  # where the second list begins
    texts = first + 2 + 12 + 4
    second = struct.pack("<HHHII", 1, 0x9003, 2, len(taken), texts + len(changed) + len(camera)) + bytes(4)
    return exif(
        (0x0110, 2, len(camera), struct.pack("<I", texts + len(changed))),
        turned(),
        (0x0132, 2, len(changed), struct.pack("<I", texts)),
        (0x8769, 4, 1, struct.pack("<I", first)),
        tail=second + changed + camera + taken,
    )


class TestFacts:
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
    @pytest.mark.parametrize("order", ["<", ">"])
    def test_date_camera_and_orientation_as_pillow_writes_them(self, tmp_path, format, order):
        if format not in photo_formats():
            pytest.skip(f"this Pillow lacks {format}")
        written = Image.Exif()
        written.endian = order
        written[0x0110], written[0x0112], written[0x0132] = "Pixel 9", 8, "2025:01:01 00:00:00"
        written.get_ifd(0x8769)[0x9003] = "2024:05:01 10:30:00"
        file = tmp_path / "photo"
        file.write_bytes(encode(picture(), format, exif=written))
        taken = "2025-01-01T00:00:00" if format == "TIFF" else "2024-05-01T10:30:00"  # Pillow drops the latter there
        assert photo_facts(file) == PhotoFacts(taken, "Pixel 9", 8)

    def test_of_a_jpeg_only_the_head_is_read(self, tmp_path, monkeypatch):
        file = tmp_path / "photo.jpg"
        file.write_bytes(jpeg_with(exif_of_a_camera(), picture(size=(600, 600))))
        monkeypatch.setattr(reading, "_HEAD", 1_000)
        monkeypatch.setattr(reading, "_identify", None)  # would be called
        assert photo_facts(file) == PhotoFacts("2024-05-01T10:30:00", "Canon EOS R6", 6)

    @pytest.mark.parametrize(
        ("damaged", "expected"),
        [
            ({"taken": b"0000:00:00 00:00:00\0"}, PhotoFacts("2025-01-01T00:00:00", "Canon EOS R6", 6)),
            ({"taken": b"2024:13:45 10:30:00\0"}, PhotoFacts("2025-01-01T00:00:00", "Canon EOS R6", 6)),
            ({"taken": b"2024-05-01\0"}, PhotoFacts("2024-05-01", "Canon EOS R6", 6)),
            ({"taken": b"yesterday, I think\0", "changed": bytes(20)}, PhotoFacts(None, "Canon EOS R6", 6)),
            ({"camera": b"a\x1b[31mred\x07 one\0"}, PhotoFacts("2024-05-01T10:30:00", None, 6)),
            ({"camera": b"\xff\xfe" * 8 + b"\0"}, PhotoFacts("2024-05-01T10:30:00", "\ufffd" * 16, 6)),
            ({"camera": b"  A   B  \0 and more\0"}, PhotoFacts("2024-05-01T10:30:00", "A B", 6)),
            ({"camera": b"x" * 50_000}, PhotoFacts("2024-05-01T10:30:00", "x" * 200, 6)),
        ],
    )
    def test_what_is_no_date_or_name_is_left_out(self, tmp_path, damaged, expected):
        file = tmp_path / "photo.jpg"
        file.write_bytes(jpeg_with(exif_of_a_camera(**damaged)))
        assert photo_facts(file) == expected

    def test_hostile_exif_costs_nothing_and_raises_nothing(self, tmp_path):
        """Of a wrong type, Pillow tells only when it writes it again; chains of entries may have no end."""
        file = tmp_path / "photo.jpg"
        hostile = [segment for _, segment, _ in damaged_exif()]
        hostile += [
            exif((0x0110, 2, 2**32 - 1, struct.pack("<I", 2**32 - 1)), (0x9003, 5, 2**31, bytes(4))),
            exif((0x0110, 129, 2**32 - 1, struct.pack("<I", 8)), (0x8769, 4, 1, struct.pack("<I", 2**32 - 1))),
            exif((0x0110, 3, 1, bytes(4)), (0x0132, 12, 1, bytes(4)), (0x8769, 2, 3, b"ab\0\0")),
            exif(*[(0x8769, 4, 1, struct.pack("<I", 8))] * 5_000),
            exif()[:-4] + b"\x08\0\0\0",  # the next list is this one
        ]
        for segment in hostile:
            file.write_bytes(jpeg_with(segment))
            facts = photo_facts(file)
            assert facts.taken is None and facts.orientation in range(1, 9)
            assert facts.camera is None or facts.camera.isprintable()
            start = segment.index(b"\0\0") + 2
            taken_and_camera(segment[start:])  # as PNG and WebP have it

    def test_metadata_never_decide_even_where_there_is_no_image(self, tmp_path):
        (tmp_path / "text.jpg").write_text("no photograph at all")
        (tmp_path / "empty.jpg").touch()
        (tmp_path / "cut.jpg").write_bytes(jpeg_with(exif_of_a_camera())[:20])
        os.mkfifo(tmp_path / "pipe.jpg")
        for name in ("text.jpg", "empty.jpg", "cut.jpg", "pipe.jpg", "not-there.jpg", "nul\0.jpg", "."):
            assert photo_facts(f"{tmp_path}/{name}") == PhotoFacts()


class TestSegments:
    """A file may consist of millions of segments without a pixel; to step over them takes longer than any decoding."""

    def test_millions_are_refused(self, monkeypatch):
        monkeypatch.setattr(metadata, "MAX_SEGMENTS", 100)
        data = encode(picture(), "JPEG")
        for segment in (b"\xff\xe0\0\2", b"\xff\xd0", b"\xff"):  # the last two have no contents
            with pytest.raises(UnreadableImageError, match="more than 100 segments"):
                open_image({"bytes": data[:2] + segment * 100 + data[2:]})
        with pytest.raises(UnreadableImageError, match="more than 100 segments"):
            open_image({"bytes": png(4, 4, *[chunk(b"tEXt")] * 100)})
        assert open_image({"bytes": data[:2] + b"\xff\xe0\0\2" * 80 + data[2:]}).size == UPRIGHT

    def test_scans_are_counted_up_to_the_end_of_the_first_image(self):
        one = encode(picture(size=(64, 64)), "JPEG")
        several = encode(picture(size=(64, 64)), "JPEG", progressive=True)
        num_scans = several.count(b"\xff\xda")
        assert num_scans > 1
        for data, expected in (
            (one, 1),
            (several, num_scans),
            (one + several, 1),  # as in a file of several images (MPO)
            (several + one, num_scans),
            (several[:-2], num_scans),  # the file lacks its end
            (one[: one.index(b"\xff\xda") + 2], 1),
            (one[:30], 1),
        ):
            assert metadata.bare_jpeg(data)[3] == expected
