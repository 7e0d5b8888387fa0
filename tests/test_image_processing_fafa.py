"""The image processor: pixels of the released code, every kind and mode of source, one clear error for each bad one."""

import copy
import doctest
import hashlib
import importlib.util
import json
import os
import pickle
import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.numpy import load_file
from transformers.dynamic_module_utils import get_imports

from fafa import image_processing_fafa, image_reading_fafa
from fafa.image_processing_fafa import FafaImageProcessor
from fafa.image_reading_fafa import UnreadableImageError, open_image

GOLDEN = Path(__file__).parent / "fixtures" / "golden"
PILLOW_12 = int(PIL.__version__.split(".")[0]) < 13
# Pillow 13 swaps the passes of some resizes; the golden pixels are Pillow 12's.
GREY_LEVELS = 0 if PILLOW_12 else 14
TRANSFORMS = {
    "squarepad_test": {},
    "squarepad": {"do_person_resize": False},
    "inference": {"do_person_resize": False, "do_pad_square": False},
}


@pytest.fixture(scope="module")
def golden():
    return json.loads((GOLDEN / "preprocess_public.json").read_text()), load_file(
        GOLDEN / "preprocess_public.safetensors"
    )


@pytest.fixture(scope="module")
def person():
    """48 x 96 pixels in which every channel, row and column differs."""
    rows, columns = np.mgrid[0:96, 0:48]
    return np.stack([rows * 2, columns * 5, (rows + columns) % 256], axis=-1).astype(np.uint8)


@pytest.fixture
def tiny():
    return FafaImageProcessor(person_size={"height": 96, "width": 48}, size=96)


class TestReleasedPixels:
    @pytest.mark.parametrize("index", range(4))
    @pytest.mark.parametrize("transform", TRANSFORMS)
    def test_floats(self, golden, transform, index):
        info, tensors = golden
        image_processor = FafaImageProcessor(**TRANSFORMS[transform])
        pixels = image_processor(GOLDEN / info["images"][index]["file"])["pixel_values"]
        assert pixels.shape == (1, 3, 224, 224)
        assert pixels.dtype == np.float32
        tolerance = 1e-6 if PILLOW_12 else GREY_LEVELS / 255 / 0.26
        expected = tensors[f"{transform}.{index}.f32_sub8"]
        np.testing.assert_allclose(pixels[0, :, 3::8, 5::8], expected, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("index", range(4))
    def test_8_bit_pixels(self, golden, index):
        info, tensors = golden
        image_processor = FafaImageProcessor()
        square = image_processor.to_square(image_processor.to_person_crop(GOLDEN / info["images"][index]["file"]))
        difference = np.abs(square.astype(int) - tensors[f"squarepad_test.{index}.u8"])
        assert difference.max() <= GREY_LEVELS

    @pytest.mark.skipif(not PILLOW_12, reason="the hashes are those of Pillow 12")
    @pytest.mark.parametrize("index", range(4))
    @pytest.mark.parametrize("transform", TRANSFORMS)
    def test_every_pixel_by_hash(self, golden, transform, index):
        info, _ = golden
        image_processor = FafaImageProcessor(**TRANSFORMS[transform])
        square = image_processor.to_square(image_processor.to_person_crop(GOLDEN / info["images"][index]["file"]))
        assert hashlib.sha256(square.tobytes()).hexdigest() == info[transform][index]["sha256_u8_hwc"]

    @pytest.mark.parametrize("shape", [(384, 192), (192, 384), (384, 100), (384, 101), (96, 40), (300, 200), (224, 10)])
    @pytest.mark.parametrize("side", [224, 96, 336])
    @pytest.mark.parametrize("resample", [Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
    def test_black_that_is_not_resized_would_be_black(self, shape, side, resample):
        """The square of a person crop is resized without most of the bars beside the person."""
        rng = np.random.default_rng(0)
        crop = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
        image_processor = FafaImageProcessor(size={"height": side, "width": side}, resample=resample)
        longer = max(shape)
        square = ImageOps.expand(crop, ((longer - shape[1]) // 2, (longer - shape[0]) // 2))
        if square.width != square.height:
            pytest.skip("a pixel short of square")
        expected = np.asarray(square.resize((side, side), resample))
        np.testing.assert_array_equal(image_processor.to_square(crop), expected)

    def test_most_of_the_black_is_not_resized(self, monkeypatch):
        image_processor = FafaImageProcessor()
        sizes = []
        resize = Image.Image.resize
        monkeypatch.setattr(
            Image.Image, "resize", lambda image, *args: sizes.append(image.size) or resize(image, *args)
        )
        image_processor.to_square(Image.new("RGB", (192, 384), "red"))
        assert sizes == [(216, 384)]

    def test_training_augments_between_the_two_steps(self, golden):
        """The released training transform flips, pads by 10 and crops a person crop, then squares it."""
        info, tensors = golden
        train = info["squarepad_train"]
        image_processor = FafaImageProcessor()
        crop = image_processor.to_person_crop(GOLDEN / train["file"])
        left, top = train["crop_left"], train["crop_top"]
        crop = ImageOps.expand(ImageOps.mirror(crop), train["pad"]).crop((left, top, left + 192, top + 384))
        square = image_processor.to_square(crop)
        assert np.abs(square.astype(int) - tensors["squarepad_train.u8"]).max() <= GREY_LEVELS
        pixels = image_processor.to_pixel_values([square, square])
        assert pixels.shape == (2, 3, 224, 224)
        assert pixels.mean() == pytest.approx(train["mean"], abs=1e-6 if PILLOW_12 else 1e-2)


class TestSettings:
    def test_person_fills_the_middle_between_black_bars(self, tiny, person):
        """At its own size a person crop is neither resized nor moved off the middle."""
        square = tiny.to_square(tiny.to_person_crop(person))
        assert square.shape == (96, 96, 3)
        np.testing.assert_array_equal(square[:, 24:72], person)
        assert not square[:, :24].any() and not square[:, 72:].any()

    def test_without_normalisation_values_are_0_to_1(self, tiny, person):
        pixels = tiny(person, do_normalize=False)["pixel_values"][0]
        np.testing.assert_allclose(pixels[:, :, 24:72], person.transpose(2, 0, 1) / 255, atol=1e-7)

    def test_a_setting_for_one_call_does_not_stay(self, tiny, person):
        assert tiny(person, size=32)["pixel_values"].shape == (1, 3, 32, 32)
        assert tiny(person)["pixel_values"].shape == (1, 3, 96, 96)

    def test_none_means_the_saved_setting(self, tiny, person):
        assert tiny(person, size=None)["pixel_values"].shape == (1, 3, 96, 96)

    def test_unknown_setting_is_an_error(self, tiny, person):
        with pytest.raises(TypeError, match=r"do_center_crop.*has do_person_resize"):
            tiny(person, do_center_crop=True)

    @pytest.mark.parametrize("size", [{"shortest_edge": 224}, {"height": 224, "width": 112}])
    def test_size_must_be_a_square(self, size):
        with pytest.raises(ValueError, match="size"):
            FafaImageProcessor(size=size)

    def test_one_mean_for_all_channels(self, tiny, person):
        pixels = tiny(person, image_mean=0.5, image_std=[0.5, 0.5, 0.5])["pixel_values"]
        assert pixels.min() == -1 and pixels.max() <= 1

    def test_round_trip_keeps_all_settings(self, tmp_path):
        image_processor = FafaImageProcessor(
            person_size={"height": 96, "width": 48},
            size=64,
            do_pad_square=False,
            resample=2,
            image_mean=[0.1, 0.2, 0.3],
        )
        image_processor.save_pretrained(tmp_path)
        again = FafaImageProcessor.from_pretrained(tmp_path)
        assert json.loads(again.to_json_string()) == json.loads(image_processor.to_json_string())
        assert again.person_size.height == 96 and again.size.width == 64 and again.do_pad_square is False
        assert FafaImageProcessor.from_pretrained(tmp_path, size=32).size.height == 32

    def test_auto_class_finds_it(self, tmp_path, tiny):
        from transformers import AutoImageProcessor

        tiny.save_pretrained(tmp_path)
        again = AutoImageProcessor.from_pretrained(tmp_path)
        assert type(again) is FafaImageProcessor
        assert again.person_size == tiny.person_size

    def test_runs_without_torchvision(self):
        assert FafaImageProcessor().backend == "pil"


class TestSources:
    def test_all_kinds_give_the_same_pixels(self, tiny, person, tmp_path):
        path = tmp_path / "person.png"
        Image.fromarray(person).save(path)
        tensor = torch.from_numpy(person).permute(2, 0, 1)
        sources = {
            "PIL": Image.fromarray(person),
            "file not loaded yet": Image.open(path),
            "Path": path,
            "str": str(path),
            "datasets path": {"path": str(path), "bytes": None},
            "datasets bytes": {"path": "inside.zip", "bytes": path.read_bytes()},
            "channels last": person,
            "channels first": person.transpose(2, 0, 1),
            "floats": (person / 255).astype(np.float32),
            "64-bit integers": person.astype(np.int64),
            "uint16": person.astype(np.uint16) * 257,
            "big-endian uint16": (person.astype(np.uint16) * 257).astype(">u2"),
            "tensor": tensor,
            "float tensor that needs a gradient": (tensor / 255).requires_grad_(),
            "tensor channels last": tensor.permute(1, 2, 0),
        }
        expected = tiny(person)["pixel_values"][0]
        batch = tiny(list(sources.values()))["pixel_values"]
        for kind, pixels in zip(sources, batch, strict=True):
            np.testing.assert_array_equal(pixels, expected, err_msg=kind)

    def test_batches(self, tiny, person):
        other = person[::-1].copy()
        expected = tiny([person, other], return_tensors="pt")["pixel_values"]
        assert isinstance(expected, torch.Tensor) and expected.shape == (2, 3, 96, 96)
        stack = np.stack([person, other])
        for batch in (stack, torch.from_numpy(stack), torch.from_numpy(stack).permute(0, 3, 1, 2), (person, other)):
            torch.testing.assert_close(tiny(batch, return_tensors="pt")["pixel_values"], expected, rtol=0, atol=0)
        torch.testing.assert_close(tiny(other, return_tensors="pt")["pixel_values"][0], expected[1], rtol=0, atol=0)

    def test_grey_array(self, person):
        grey = person[:, :, 0]
        for array in (grey, grey[:, :, None], grey[None], grey == 0, (grey == 0).astype(float)):
            pixels = np.asarray(open_image(array))
            assert pixels.shape == (96, 48, 3)
            assert (pixels == pixels[:, :, :1]).all()
        assert (np.asarray(open_image(grey == 0))[0] == 255).all()

    def test_where_both_layouts_fit_arrays_are_channels_last_and_tensors_first(self):
        both = np.arange(45, dtype=np.uint8).reshape(3, 5, 3)
        np.testing.assert_array_equal(np.asarray(open_image(both)), both)
        np.testing.assert_array_equal(np.asarray(open_image(torch.from_numpy(both))), both.transpose(1, 2, 0))

    def test_opening_twice_changes_nothing(self, person, tmp_path):
        """The gallery opens a picture, and hands it to the processor, which opens it again."""
        for suffix in ("png", "jpg", "tiff", "webp"):
            path = tmp_path / f"person.{suffix}"
            Image.fromarray(person).save(path, exif=_orientation(6))
            once = open_image(path)
            assert once.size == (96, 48), suffix
            np.testing.assert_array_equal(np.asarray(open_image(once)), np.asarray(once), err_msg=suffix)

    def test_source_is_left_alone(self, person):
        image = Image.fromarray(person)
        image.info["transparency"] = (0, 0, 0)
        before = copy.deepcopy(np.asarray(image))
        open_image(image)
        np.testing.assert_array_equal(np.asarray(image), before)
        assert image.mode == "RGB"


def _orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


class TestExif:
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_every_orientation_comes_out_upright(self, person, tmp_path, orientation):
        undo = {
            1: lambda image: image,
            2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
            3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
            4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
            5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
            6: lambda image: image.transpose(Image.Transpose.ROTATE_90),  # stored lying on its left side
            7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
            8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
        }[orientation]
        upright = Image.fromarray(person)
        path = tmp_path / "stored.png"
        undo(upright).save(path, exif=_orientation(orientation))
        np.testing.assert_array_equal(np.asarray(open_image(path)), person)
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(open_image(image)), person)

    def test_grey_and_palette_files_too(self, person, tmp_path):
        for mode in ("L", "P", "RGBA"):
            image = Image.fromarray(person).convert(mode)
            image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "stored.png", exif=_orientation(6))
            expected = np.asarray(image.convert("RGB"))
            np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "stored.png")), expected, err_msg=mode)


class TestModes:
    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LA"])
    def test_opaque_pictures_equal_a_plain_conversion(self, person, mode):
        """What the released code does; LA and RGBA are opaque here."""
        rgb = Image.fromarray(person)
        image = rgb.convert("L").convert("LA") if mode == "LA" else rgb.convert(mode)
        np.testing.assert_array_equal(np.asarray(open_image(image)), np.asarray(image.convert("RGB")))

    @pytest.mark.parametrize(
        "mode", ["LA", "RGBA", "RGBa", "PA", "palette", "palette levels", "L colour", "RGB colour"]
    )
    def test_transparent_parts_are_white(self, mode):
        """A cut-out person must not stand before the arbitrary colour stored under the transparent pixels."""
        image = {
            "LA": lambda: Image.new("LA", (2, 1), (7, 0)),
            "RGBA": lambda: Image.new("RGBA", (2, 1), (7, 7, 7, 0)),
            "RGBa": lambda: Image.new("RGBA", (2, 1), (7, 7, 7, 0)).convert("RGBa"),
            "PA": lambda: Image.new("RGBA", (2, 1), (7, 7, 7, 0)).convert("PA"),
            "palette": lambda: _with_transparency(Image.new("RGB", (2, 1), (7, 7, 7)).quantize(2), 0),
            "palette levels": lambda: _with_transparency(Image.new("RGB", (2, 1), (7, 7, 7)).quantize(2), b"\0\0"),
            "L colour": lambda: _with_transparency(Image.new("L", (2, 1), 7), 7),
            "RGB colour": lambda: _with_transparency(Image.new("RGB", (2, 1), (7, 7, 7)), (7, 7, 7)),
        }[mode]()
        assert np.asarray(open_image(image)).tolist() == [[[255] * 3] * 2]

    def test_half_transparent(self):
        assert open_image(Image.new("RGBA", (1, 1), (0, 0, 0, 128))).getpixel((0, 0)) == (127, 127, 127)

    @pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
    def test_16_bit_is_scaled_not_clipped(self, mode, tmp_path):
        values = np.array([[0, 257, 32896, 65535]])
        dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "int32", "F": "float32"}[mode]
        image = Image.fromarray(values.astype(dtype))
        assert image.mode == mode
        assert np.asarray(open_image(image))[0, :, 0].tolist() == [0, 1, 128, 255]
        image.save(tmp_path / "deep.tiff")
        assert np.asarray(open_image(tmp_path / "deep.tiff"))[0, :, 0].tolist() == [0, 1, 128, 255]

    def test_16_bit_png(self, tmp_path):
        Image.fromarray(np.array([[0, 32896, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
        assert np.asarray(open_image(tmp_path / "deep.png"))[0, :, 1].tolist() == [0, 128, 255]

    def test_dark_16_bit_stays_dark(self):
        """uint16 says how far it counts, so a picture with small values only is black, not a bright 8-bit one."""
        assert np.asarray(open_image(np.full((2, 2), 200, dtype=np.uint16))).max() == 1

    def test_wide_modes_with_8_bit_or_unit_range(self):
        grey = Image.fromarray(np.array([[0, 100, 255]], dtype=np.uint8))
        for mode in ("I", "F"):
            assert np.asarray(open_image(grey.convert(mode)))[0, :, 2].tolist() == [0, 100, 255]
        unit = Image.fromarray(np.array([[0, 0.5, 1]], dtype=np.float32))
        assert np.asarray(open_image(unit))[0, :, 0].tolist() == [0, 128, 255]

    @pytest.mark.parametrize("bad", [[[np.nan, 1]], [[-5, 1]], [[1, 1e6]]])
    def test_grey_values_that_are_no_pixels(self, bad):
        with pytest.raises(UnreadableImageError, match=r"expected 0 to 65535\. Remedy: scale them"):
            open_image(Image.fromarray(np.array(bad, dtype=np.float32)))

    def test_adobe_cmyk_jpeg(self, tmp_path):
        image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
        image.save(tmp_path / "red.jpg")
        red, green, blue = open_image(tmp_path / "red.jpg").getpixel((4, 4))
        assert red > 240 and green < 15 and blue < 15


class TestBadFiles:
    def test_missing_file(self, tiny, person, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"images\[1\]: no file .*absent\.jpg.*relative"):
            tiny([person, tmp_path / "absent.jpg"])

    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tiff"])
    def test_truncated_file(self, tiny, person, tmp_path, suffix):
        path = tmp_path / f"half.{suffix}"
        Image.fromarray(person).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(
            UnreadableImageError, match=rf"images\[0\]: .*half\.{suffix}.*bytes\).*fetch or export"
        ) as caught:
            tiny(path)
        assert caught.value.path == str(path)

    @pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
    def test_not_an_image(self, tmp_path, content):
        path = tmp_path / "person.png"
        path.write_bytes(content)
        with pytest.raises(UnreadableImageError, match=rf"person\.png' \({len(content)} bytes\)"):
            open_image(path)

    def test_decompression_bomb(self, tmp_path):
        header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
        (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT")
        with pytest.raises(UnreadableImageError, match=r"bomb\.png.*60,000 x 60,000.*may have 89 million"):
            open_image(tmp_path / "bomb.png")

    def test_truncated_bytes_and_unloaded_images_name_their_source(self, person, tmp_path):
        path = tmp_path / "half.png"
        Image.fromarray(person).save(path)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(UnreadableImageError, match=r"half\.png"):
            open_image(Image.open(path))
        with pytest.raises(UnreadableImageError, match=r"images\[7\].*part/a\.png") as caught:
            open_image({"bytes": path.read_bytes(), "path": "part/a.png"}, name="images[7]")
        assert caught.value.path == "part/a.png"
        with pytest.raises(UnreadableImageError, match=r"images\[7\] \(\d+ bytes\) cannot") as caught:
            open_image({"bytes": path.read_bytes(), "path": None}, name="images[7]")
        assert caught.value.source == "images[7]" and caught.value.path is None

    def test_a_full_table_of_open_files_is_no_corrupt_image(self, tmp_path, monkeypatch):
        """A policy that skips corrupt images must not swallow trouble of the machine."""

        def no_more_files(*args, **kwargs):
            raise OSError(24, "Too many open files")

        (tmp_path / "any.png").write_bytes(b"any")
        monkeypatch.setattr(os, "open", no_more_files)
        with pytest.raises(OSError, match="Too many open files") as caught:
            open_image(tmp_path / "any.png")
        assert not isinstance(caught.value, UnreadableImageError)

    def test_error_crosses_processes(self):
        """DataLoader workers pickle errors, or rebuild them from the message alone."""
        error = UnreadableImageError("images[0]: 'a.png' cannot be read", source="a.png", path="a.png")
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.source, again.path) == (str(error), "a.png", "a.png")
        assert str(UnreadableImageError(str(error))) == str(error)


class TestBadValues:
    @pytest.mark.parametrize(
        ("image", "error", "message"),
        [
            (np.zeros((9, 9, 5), np.uint8), ValueError, r"shape \(9, 9, 5\).*1 to 4 channels"),
            (np.zeros(4, np.uint8), ValueError, r"shape \(4,\)"),
            (torch.zeros(1, 1, 3, 4, 4), ValueError, "rank-4"),
            (np.zeros((0, 4, 3), np.uint8), ValueError, "no pixels"),
            (np.full((4, 4, 3), np.nan), ValueError, "without NaN"),
            (np.full((4, 4, 3), np.inf, np.float32), ValueError, r"Expected floats within 0\.\.1"),
            (np.full((4, 4, 3), 128.0), ValueError, r"convert 0\.\.255 to uint8"),
            (torch.full((3, 4, 4), -2.0), ValueError, "undo any normalisation"),
            (np.full((4, 4, 3), 300), ValueError, r"values from 300 to 300.*0\.\.255"),
            (np.full((4, 4, 3), -1), ValueError, r"0\.\.255"),
            (np.zeros((4, 4, 3), complex), TypeError, "dtype complex128"),
            (None, TypeError, "images\\[1\\]: expected a PIL image.*got NoneType"),
            (3, TypeError, "got int"),
            (b"raw", TypeError, "got bytes"),
            ([], TypeError, "got list"),
            ({"file": "a.png"}, TypeError, r"'bytes' or 'path'.*\['file'\]"),
        ],
    )
    def test_error_names_the_picture_and_what_was_expected(self, tiny, person, image, error, message):
        with pytest.raises(error, match=message) as caught:
            tiny([person, image])
        assert str(caught.value).startswith("images[1]")
        assert not isinstance(caught.value, UnreadableImageError), "only undecodable files may be skipped"

    @pytest.mark.parametrize("nothing", [[], (), np.zeros((0, 4, 4, 3)), torch.zeros(0, 3, 4, 4)])
    def test_empty_batch(self, tiny, nothing):
        with pytest.raises(ValueError, match="images is empty"):
            tiny(nothing)

    def test_overshoot_of_interpolation_is_no_error(self):
        image = open_image(np.full((2, 2, 3), 1.0002, np.float32))
        assert image.getpixel((0, 0)) == (255, 255, 255)


def _with_transparency(image: Image.Image, transparency) -> Image.Image:
    image.info["transparency"] = transparency
    return image


def test_heic_is_opened_where_pillow_heif_is_installed_and_needs_it_nowhere(monkeypatch):
    registered = []
    heif = SimpleNamespace(register_heif_opener=lambda: registered.append("HEIF"))
    for module, expected in [(heif, ["HEIF"]), (None, [])]:  # None: the import fails
        registered.clear()
        monkeypatch.setitem(sys.modules, "pillow_heif", module)
        spec = importlib.util.spec_from_file_location("fafa.image_reading_again", image_reading_fafa.__file__)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        assert registered == expected
    # A folder that holds its code is refused by transformers where one of these is missing.
    assert "pillow_heif" not in get_imports(image_reading_fafa.__file__)


def test_docstring_examples():
    results = doctest.testmod(image_processing_fafa)
    assert results.attempted > 0 and results.failed == 0
