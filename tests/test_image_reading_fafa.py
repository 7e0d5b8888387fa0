"""The one reader: what it makes of files that are no files, of drives in trouble, and of pictures beyond the budget."""

import errno
import io
import os
import pickle
import re
import socket
import warnings
from pathlib import Path

import numpy as np
import pytest
from odd_images import LFS_POINTER, UPRIGHT, encode, exif, jpeg_of_size, jpeg_with, picture, png, turned
from PIL import Image, ImageFile

import fafa
from fafa import FafaImageProcessor
from fafa import image_reading_fafa as reading
from fafa.image_reading_fafa import (
    PHOTO_FORMATS,
    ImageFacts,
    InaccessibleImageError,
    UnreadableImageError,
    inspect_image,
    open_image,
    photo_formats,
    read_image_file,
)

READERS = [open_image, inspect_image, read_image_file]


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "person.png"
    file.write_bytes(encode(picture(), "PNG"))
    return file


@pytest.fixture
def failing(monkeypatch):
    """Makes the next attempts to open a file fail with these numbers, and counts all attempts."""
    attempts, os_open = [], os.open

    def fail(*numbers):
        def fails(path, *args, **kwargs):
            attempts.append(path)
            if len(attempts) <= len(numbers):
                raise OSError(numbers[len(attempts) - 1], os.strerror(numbers[len(attempts) - 1]), path)
            return os_open(path, *args, **kwargs)

        monkeypatch.setattr(os, "open", fails)
        monkeypatch.setattr(reading, "_PAUSES", (0, 0))
        return attempts

    return fail


def test_nothing_else_in_the_package_opens_pictures():
    """Two readers would judge differently, and `Image.open` starts Ghostscript for a PostScript file."""
    root = Path(fafa.__file__).parent
    rooms = ("dataset_builders", "evaluation", "examples", "people", "retrieval", "synthesis", "training")
    files = [*root.glob("*.py"), *(file for room in rooms for file in (root / room).rglob("*.py"))]
    assert len(files) > 80
    assert [file for file in files if re.search(r"\bImage\.open\(", file.read_text(encoding="utf-8"))] == []


class TestFiles:
    @pytest.mark.parametrize("read", READERS)
    @pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "device"])
    def test_what_is_no_file_is_refused_and_never_waited_for(self, tmp_path, monkeypatch, kind, read):
        monkeypatch.chdir(tmp_path)  # a socket's path must be short
        path = Path("/dev/null") if kind == "device" else Path("picture.png")
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            socket.socket(socket.AF_UNIX).bind(str(path))
        with pytest.raises(UnreadableImageError, match=rf"{path}'.*it is a .*{kind}") as caught:
            read(path)
        assert caught.value.path == str(path)

    @pytest.mark.parametrize("read", READERS)
    def test_a_missing_file_is_no_bad_picture(self, file, read):
        for path in (file.with_name("absent.png"), file / "below_a_file.png"):
            with pytest.raises(FileNotFoundError, match=r"no file .*png"):
                read(path)

    def test_a_path_that_cannot_be(self, tmp_path):
        (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
        for path in (tmp_path / "loop.png", tmp_path / ("x" * 5_000), "nul\0.png"):
            with pytest.raises(UnreadableImageError, match=r"loop|xxx|nul"):
                open_image(path)

    def test_a_file_that_is_too_large_is_refused_before_it_is_read(self, tmp_path):
        with (tmp_path / "sparse.png").open("wb") as stream:
            os.truncate(stream.fileno(), 40 * 10**9)
        for read in READERS:
            with pytest.raises(UnreadableImageError, match=r"sparse\.png' \(40000000000 bytes\)"):
                read(tmp_path / "sparse.png")

    def test_bytes_are_limited_too(self, monkeypatch):
        monkeypatch.setattr(reading, "MAX_BYTES", 100)
        with pytest.raises(UnreadableImageError, match="may have 100 bytes"):
            open_image({"bytes": encode(picture(), "PNG")})

    def test_a_name_that_is_not_unicode(self, tmp_path):
        path = os.fsencode(tmp_path) + b"/caf\xe9.png"
        for name in (path, os.fsdecode(path)):
            Path(os.fsdecode(path)).write_bytes(encode(picture(), "PNG"))
            assert open_image(os.fsdecode(name)).size == UPRIGHT
            Path(os.fsdecode(path)).write_bytes(b"")
            with pytest.raises(UnreadableImageError, match=r"caf\\udce9\.png") as caught:
                open_image(os.fsdecode(name))
            str(caught.value).encode()  # can be printed

    def test_a_pointer_of_git_lfs_is_named(self, file):
        file.write_bytes(LFS_POINTER)
        with pytest.raises(UnreadableImageError, match=r"person\.png'.*Git LFS.*git lfs pull") as caught:
            FafaImageProcessor()(file)
        assert "person.png" not in caught.value.reason


class TestTrouble:
    @pytest.mark.parametrize(
        "name",
        ["ESTALE", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "ENXIO", "EREMOTEIO", "EIO", "EAGAIN", "EINTR", "EMFILE"],
    )
    def test_passing_trouble_is_tried_again(self, file, failing, name):
        """A network drive that was away for a moment made a photograph unreadable for ever."""
        attempts = failing(getattr(errno, name))
        assert open_image(file).size == UPRIGHT
        assert len(attempts) == 2

    def test_trouble_that_stays_says_nothing_about_the_picture(self, file, failing):
        attempts = failing(*[errno.ESTALE] * 9)
        for read in READERS:
            with pytest.raises(InaccessibleImageError, match=r"person\.png' cannot be read now.*[Ss]tale") as caught:
                read(file)
            assert (caught.value.errno, caught.value.filename) == (errno.ESTALE, str(file))
            assert not isinstance(caught.value, UnreadableImageError)
            again = pickle.loads(pickle.dumps(caught.value))  # from a worker
            assert (str(again), again.errno, again.filename, again.reason) == (
                str(caught.value),
                errno.ESTALE,
                str(file),
                caught.value.reason,
            )
        assert len(attempts) == 9

    @pytest.mark.parametrize("name", ["EACCES", "EPERM", "EUCLEAN"])
    def test_other_trouble_of_the_system_is_told_at_once(self, file, failing, name):
        attempts = failing(*[getattr(errno, name)] * 3)
        with pytest.raises(InaccessibleImageError, match="permissions"):
            open_image(file)
        assert len(attempts) == 1

    def test_an_error_number_of_a_decoder_is_no_trouble_of_the_system(self, file, monkeypatch):
        def load(image):
            raise OSError(errno.EIO, "decoder")

        monkeypatch.setattr(ImageFile.ImageFile, "load", load)
        with pytest.raises(UnreadableImageError, match=r"person\.png"):
            open_image(file)

    @pytest.mark.parametrize("error", [MemoryError(), RecursionError(), AssertionError(), SystemError("codec")])
    def test_whatever_a_decoder_raises_is_the_pictures_fault(self, file, monkeypatch, error):
        def load(image):
            raise error

        monkeypatch.setattr(ImageFile.ImageFile, "load", load)
        for read in (open_image, inspect_image):
            with pytest.raises(UnreadableImageError, match=r"person\.png' \(\d+ bytes\) cannot be read.*Remedy"):
                read(file)


class TestBudget:
    def test_time_is_looked_at_while_decoding(self, monkeypatch):
        """A progressive JPEG of 683 kB took 87 seconds."""
        noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
        ticks = iter(range(10**6))
        monkeypatch.setattr(reading.time, "thread_time", lambda: next(ticks))
        for format in ("JPEG", "PNG", "BMP", "GIF", "PPM"):
            data = encode(Image.fromarray(noise), format, progressive=True)
            monkeypatch.setattr(reading, "MAX_SECONDS", 10**5)
            before = next(ticks)
            open_image({"bytes": data})
            num_looks = next(ticks) - before
            monkeypatch.setattr(reading, "MAX_SECONDS", num_looks - 3)
            with pytest.raises(UnreadableImageError, match="seconds of computing"):
                open_image({"bytes": data})

    def test_the_programs_own_limit_stays_and_nothing_is_warned_of(self, monkeypatch):
        limit = Image.MAX_IMAGE_PIXELS
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for data in (jpeg_of_size(60_000, 60_000), png(20_000, 8_000, rows=b"")):
                with pytest.raises(UnreadableImageError, match="million"):
                    open_image({"bytes": data})
        assert limit == Image.MAX_IMAGE_PIXELS

    def test_a_photograph_of_many_megapixels_is_read_at_a_smaller_scale(self, monkeypatch):
        """200 megapixels in 3 MB were refused as a bomb."""
        data = encode(picture(size=(640, 480)), "JPEG")
        monkeypatch.setattr(reading, "MAX_PIXELS", 100 * 100)
        monkeypatch.setattr(reading, "MAX_PHOTO_PIXELS", 640 * 480)
        assert open_image({"bytes": data}).size == (80, 60)
        assert inspect_image({"bytes": data}) == ImageFacts("JPEG", 640, 480)
        lying = jpeg_with(exif(turned()), picture(size=(640, 480)))
        assert open_image({"bytes": lying}).size == (60, 80)
        assert inspect_image({"bytes": lying}) == ImageFacts("JPEG", 480, 640)
        for format, options in (("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {})):
            with pytest.raises(UnreadableImageError, match="640 x 480 pixels"):  # these are decoded as a whole
                open_image({"bytes": encode(picture(size=(640, 480)), format, **options)})
        with pytest.raises(UnreadableImageError, match="648 x 480 pixels"):
            open_image({"bytes": encode(picture(size=(648, 480)), "JPEG")})

    def test_a_picture_in_memory_has_the_same_limits(self):
        with pytest.raises(UnreadableImageError, match=r"images\[0\] cannot.*side"):
            FafaImageProcessor()(Image.new("L", (65_536, 1)))

    def test_a_strip_is_not_padded_to_gigabytes(self, file):
        file.write_bytes(png(65_000, 1))
        image_processor = FafaImageProcessor(do_person_resize=False)
        with pytest.raises(UnreadableImageError, match=r"person\.png' has 65,000 x 1 pixels.*65,000 x 65,000"):
            image_processor(file)
        assert FafaImageProcessor()(file)["pixel_values"].shape == (1, 3, 224, 224)

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "I", "F"])
    def test_conversion_in_strips_changes_no_pixel(self, monkeypatch, mode):
        image = picture(mode)
        if mode == "P":
            image.info["transparency"] = 3
        elif mode in ("RGBA", "LA"):
            image.putalpha(picture("L").transpose(Image.Transpose.ROTATE_180))
        whole = np.asarray(open_image(image))
        monkeypatch.setattr(reading, "_STRIP_PIXELS", 100)
        np.testing.assert_array_equal(np.asarray(open_image(image)), whole)


class TestFormats:
    def test_only_those_that_this_pillow_decodes_are_offered(self, monkeypatch):
        assert {"BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF"} <= set(photo_formats()) <= PHOTO_FORMATS
        assert "EPS" not in PHOTO_FORMATS
        monkeypatch.delitem(Image.OPEN, "WEBP")
        assert "WEBP" not in photo_formats()
        with pytest.raises(UnreadableImageError, match="none of the formats"):
            open_image({"bytes": encode(picture(), "WEBP")})

    def test_a_drawing_that_somebody_else_opened_starts_no_program_either(self, monkeypatch):
        image = Image.open(io.BytesIO(encode(picture(), "EPS")))
        monkeypatch.setattr(type(image), "load", lambda *args, **kwargs: pytest.fail("it was drawn"))
        with pytest.raises(UnreadableImageError, match="EPS is no format of photographs"):
            open_image(image)

    def test_orientation_by_xmp_counts_where_exif_has_none(self):
        packet = b'http://ns.adobe.com/xap/1.0/\0<rdf:Description tiff:Orientation="6"/>'
        lying = picture(size=UPRIGHT[::-1])
        assert open_image({"bytes": jpeg_with(packet, lying)}).size == UPRIGHT
        assert open_image({"bytes": encode(lying, "WEBP", xmp=packet)}).size == UPRIGHT

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
    def test_orientation_is_read_as_pillow_reads_it(self, format, order):
        if format not in photo_formats():
            pytest.skip(f"this Pillow lacks {format}")
        for value in range(1, 9):
            written = Image.Exif()
            written.endian = order
            written[0x010F], written[0x0112], written[0x011A] = "a maker", value, 72.0
            data = encode(picture(), format, exif=written)
            expected = UPRIGHT if value < 5 else UPRIGHT[::-1]
            assert open_image({"bytes": data}).size == expected, value
            facts = inspect_image({"bytes": data}, decode=False)
            assert facts == inspect_image({"bytes": data}) == ImageFacts(format, *expected), value


@pytest.fixture(scope="module")
def photograph():
    return encode(picture(size=(2_000, 3_000)), "JPEG", quality=90)


class TestDraft:
    def test_it_stays_as_large_as_asked(self, photograph):
        sizes = {(2_000, 3_000): 1, (1_001, 1): 1, (1_000, 1_500): 2, (501, 2): 2, (400, 750): 4, (1, 376): 4}
        for at_least, scale in {**sizes, (250, 375): 8, (0, 0): 8, (9_999, 9_999): 1}.items():
            image = open_image({"bytes": photograph}, at_least=at_least)
            assert image.size == (2_000 // scale, 3_000 // scale), at_least
        lying = jpeg_with(exif(turned()), picture(size=(3_000, 1_000)))
        assert open_image({"bytes": lying}, at_least=(500, 1_500)).size == (500, 1_500)

    def test_photographs_of_12_megapixels_take_a_quarter(self):
        for width, height in ((4_032, 3_024), (3_024, 4_032), (4_000, 3_000)):
            least = FafaImageProcessor(draft_photographs=True).enough_pixels
            assert min(width // least[0], height // least[1]) >= 4

    def test_other_formats_and_pictures_are_left_alone(self, photograph):
        for image in ({"bytes": encode(picture(size=(400, 400)), "PNG")}, picture(size=(400, 400))):
            assert open_image(image, at_least=(1, 1)).size == (400, 400)

    def test_the_processor_drafts_only_if_told(self, photograph, tmp_path):
        exact, drafting = FafaImageProcessor(), FafaImageProcessor(draft_photographs=True)
        assert exact.enough_pixels is None
        assert drafting.enough_pixels == (364, 729)
        drafting.save_pretrained(tmp_path)
        assert FafaImageProcessor.from_pretrained(tmp_path).draft_photographs is True
        expected = open_image({"bytes": photograph}).resize((192, 384), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(np.asarray(exact.to_person_crop({"bytes": photograph})), np.asarray(expected))
        drafted = np.asarray(drafting.to_person_crop({"bytes": photograph}), dtype=int)
        assert 0 < np.abs(drafted - np.asarray(expected)).max() <= 4

    def test_person_crops_are_not_changed(self):
        """ITCPR's are smaller than the size from which a JPEG is decoded at half its size."""
        for size in ((383, 767), (192, 384), (727, 1_457), (1_000, 1_457), (60, 160)):
            data = encode(picture(size=size), "JPEG")
            exact, drafting = FafaImageProcessor(), FafaImageProcessor(draft_photographs=True)
            np.testing.assert_array_equal(
                exact({"bytes": data})["pixel_values"], drafting({"bytes": data})["pixel_values"]
            )
