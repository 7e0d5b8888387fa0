"""The one reader of images: from anything that holds one to upright 8-bit RGB pixels.

Everything in the package that opens an image from outside calls it, so that all judge alike whether an image is sound:

- A file is what its contents say, whatever its name, and only the formats of photographs are opened (`PHOTO_FORMATS`).
  Pillow knows others, and starts another program for some of them (Ghostscript for EPS).
- An image is sound if all its pixels can be decoded. A file that lacks its last bytes is sound if no pixel is lost.
  Metadata never decides: damaged metadata is ignored.
- An image has a budget of bytes, pixels, memory and computing time. An image that exceeds it is refused.

A file is read whole before it is decoded, so that an error of the system (`InaccessibleImageError`) is never taken for
an error of the image (`UnreadableImageError`). Only the first frame of an animation is read.

It imports little, because worker processes that only open images import nothing else.
"""

import errno
import logging
import os
import re
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from .image_metadata_fafa import bare_jpeg, bare_png, orientation_of, taken_and_camera

try:  # an iPhone's HEIC, if this is installed; registered here, so that DataLoader workers open it, too
    from pillow_heif import register_heif_opener
except ImportError:
    pass
else:
    register_heif_opener()

logger = logging.getLogger(__name__)

# Pillow's names. HEIF needs pillow-heif, JXL needs pillow-jxl-plugin, AVIF depends on Pillow's build.
PHOTO_FORMATS = frozenset(
    {"AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "JXL", "MPO", "PNG", "PPM", "TIFF", "WEBP"}
)

# The budget of one image.
MAX_BYTES = 2**28  # size of the file: an uncompressed image of 89 megapixels
MAX_SIDE = 65_535  # JPEG's own limit; beyond it, resizing alone runs out of memory
MAX_PIXELS = 89_478_485  # decoded pixels: where Pillow begins to warn of decompression bombs
MAX_PHOTO_PIXELS = 2**28  # for a JPEG that can be decoded at 1/2 to 1/8 of its size: phones take 200 megapixels
MAX_SCANS = 100  # of a JPEG; a usual progressive one has 10, and each costs a pass over the image
MAX_MEMORY = 2**30  # bytes while decoding; eight workers do this at once
MAX_SECONDS = 20  # of computing, not waiting: a verdict must not depend on how busy the machine or a network drive is

# Bytes per pixel while decoding and converting, for formats that need more than Pillow's 4 and the 4 of a copy.
_BYTES_PER_PIXEL = {"AVIF": 12, "HEIF": 12, "JPEG2000": 24, "JXL": 16, "WEBP": 16}
_STRIP_PIXELS = 2**22  # converted at a time
_HEAD = 2**17  # bytes of a JPEG that hold its EXIF, a segment of 2^16 at most, which is among the first
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"

_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)

# Errors that may be gone a moment later, above all on a network drive.
_PASSING_ERRORS = {
    getattr(errno, name, None)
    for name in (
        *("EAGAIN", "EBUSY", "EINTR", "EIO", "EMFILE", "ENFILE", "ENODEV", "ENOLCK", "ENOMEM", "ENXIO", "EREMOTEIO"),
        *("ECONNABORTED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENOTCONN"),
        *("ESHUTDOWN", "ESTALE", "ETIMEDOUT"),
    )
} - {None}
_PAUSES = (0.05, 0.2)  # seconds between attempts; short, since a dead drive delays every image by this much

_SOURCES = "a PIL image, an array, a tensor, a path or a mapping with 'path' or 'bytes'"
_REMEDY = "fetch or export the file again, or leave it out"
_AGAIN = "download it again, with the login that its address asks for"
_OTHER_FORMAT = "convert it to PNG or JPEG, or leave it out"
_SHRINK = "shrink or cut it, or leave it out"
_NO_PHOTOGRAPHS = (  # how files begin that are found where images are expected; what they are, and what to do
    (rb"version https://git-lfs", "a pointer of Git LFS, the image itself was not fetched", "run git lfs pull"),
    (rb"\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body)", "a web page, such as a login or an error", _AGAIN),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!doctype svg[^>]*>\s*)?<svg", "an SVG drawing", _OTHER_FORMAT),
    (rb"\s*(<\?xml|<Error>|[\[{]\s*[]\"}{[])", "an XML or JSON document, such as a server's error", _AGAIN),
    (rb"PK\x03\x04|PK\x05\x06|\x1f\x8b|BZh|\xfd7zXZ\x00|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd|.{257}ustar", "an archive",
     "unpack it"),
    (rb"%PDF|%!PS|\xc5\xd0\xd3\xc6|8BPS|DDS |BLP[12]|FTEX|\x00\x00[\x01\x02]\x00|icns",
     "a PDF, PostScript or Photoshop document, a texture or an icon", _OTHER_FORMAT),
    (rb"....ftyp(hei|hev|mif1|msf1)", "a HEIC photograph, which needs pillow-heif", "pip install pillow-heif"),
    (rb"....ftypavi", "an AVIF photograph, which this build of Pillow lacks", "install a newer Pillow"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "a JPEG XL photograph, which needs a plugin",
     "pip install pillow-jxl-plugin and import pillow_jxl, or convert it"),
    (rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI |\x00\x00\x01\xba", "a video", "export its images, or leave it out"),
    (rb"\x00{16}", "full of zeros, as after a power cut or a broken download", _REMEDY),
    (rb"[\t\n\r\x20-\x7e]{16}", "a text", _REMEDY),
)  # fmt: skip


class UnreadableImageError(ValueError):
    """An image that is there but cannot be decoded: truncated, empty, no photograph, beyond the budget.

    This is the one error that a policy of skipping corrupt images should catch: a missing file (`FileNotFoundError`)
    or a wrong type (`TypeError`) points at a broken data set or program, not at one bad image.
    """

    # With one required argument, the error survives pickling and the DataLoader's re-raise in the main process.
    def __init__(self, message: str, source: str = "image", path: str | None = None, reason: str | None = None):
        super().__init__(message)
        self.source, self.path = source, path  # what messages call the image, and its file if it has one
        self.reason = message if reason is None else reason  # cause and remedy, without the file's name


class InaccessibleImageError(OSError):
    """A file that is there but cannot be read now: no permission, or a failing disk or network drive.

    It says nothing about the image, so nobody may keep it as a verdict on the image. The attributes are those of
    `OSError` and of `UnreadableImageError`.
    """

    def __init__(self, message: str, number: int | None = None, path: str | None = None, reason: str | None = None):
        super().__init__(message)
        self.errno, self.filename, self.source = number, path, path or "image"
        self.reason = message if reason is None else reason

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self):  # OSError's own loses the attributes
        return type(self), (self.args[0], self.errno, self.filename, self.reason)


class ImageFacts(NamedTuple):
    """What `inspect_image` tells about a sound image."""

    format: str  # Pillow's name: "JPEG", "PNG", ...
    width: int  # pixels of the upright image
    height: int


class PhotoFacts(NamedTuple):
    """What a photograph's metadata tell."""

    taken: str | None = None  # ISO 8601 without a time zone: "2024-05-01T10:30:00", or a date alone
    camera: str | None = None  # its model
    orientation: int = 1  # as EXIF numbers them, 1 to 8; 1 is upright


class _Refused(Exception):
    """An image may not be read. The message is the cause."""

    def __init__(self, cause: str, remedy: str = _REMEDY):
        super().__init__(cause)
        self.remedy = remedy


def photo_formats() -> tuple[str, ...]:
    """The formats among `PHOTO_FORMATS` that this installation decodes, in the order in which Pillow tries them."""
    Image.init()  # imports Pillow's plugins, once
    return tuple(name for name in Image.OPEN if name in PHOTO_FORMATS)


def open_image(image: Any, name: str = "image", at_least: tuple[int, int] | None = None) -> Image.Image:
    """Reads one image as an upright 8-bit RGB image.

    Args:
        image: A PIL image of any mode; a path (`str` or `Path`); a mapping with `"bytes"` or `"path"`, as `datasets`
            gives undecoded images; or an array or tensor of rank 2 (height, width) or 3 (channels last or first; if
            both fit, last for arrays and first for tensors) with 1 to 4 channels: uint8, bool, uint16, other integers
            within 0..255, or floats within 0..1.
        name (`str`): What messages call the image, for instance `"images[3]"`.
        at_least (`tuple[int, int]`, *optional*): Width and height that are enough. A JPEG file is then decoded at 1/2,
            1/4 or 1/8 of its size, as long as it stays this large. That is several times faster, and pixels differ
            slightly from those of the whole image, resized. By default only a JPEG of more than `MAX_PIXELS` pixels
            is reduced.

    Returns:
        `PIL.Image.Image`: Mode RGB, EXIF orientation applied. Transparent parts lie over white, as viewers show them; a
        plain conversion would reveal the colour stored underneath. 16-bit values are divided by 257. A file already in
        RGB has the pixels that the released code's `convert("RGB")` gives.

    Raises:
        FileNotFoundError, InaccessibleImageError, UnreadableImageError: See these.
        ValueError: An array of another rank or size, or with values that are not pixels (NaN, out of range).
        TypeError: None of the above, or an array of another dtype.
    """
    if isinstance(image, Image.Image):
        return _from_pil(image, name)
    if isinstance(image, np.ndarray):
        return _image_from_array(image, name)
    if "torch" in sys.modules and isinstance(image, sys.modules["torch"].Tensor):  # without importing torch
        array = image.detach().cpu()
        array = array.float().numpy() if array.is_floating_point() else array.numpy()
        return _image_from_array(array, name, channels_first=True)
    data, path = _contents(image, name)
    with _decoding(name, path, len(data)):
        return _read_pixels(_open(data), at_least)


def inspect_image(image: Any, name: str = "image", decode: bool = True) -> ImageFacts:
    """Tells whether an image is sound, as `open_image` would, and its size; a JPEG is decoded at 1/8 of its size.

    Args:
        image: A path, or a mapping with `"bytes"` or `"path"`.
        name (`str`): What messages call the image.
        decode (`bool`): Whether to decode the pixels. If not, only the header is read, which is no verdict.
    """
    data, path = _contents(image, name)
    with _decoding(name, path, len(data)):
        opened = _open(data)
        kind, size = opened.image.format, opened.image.size  # before a draft changes it
        if decode:
            _read_pixels(opened, at_least=(1, 1))
        else:
            _check_size(opened)
        return ImageFacts(kind, *(size[::-1] if opened.orientation in _SIDEWAYS else size))


def photo_facts(path: str | os.PathLike) -> PhotoFacts:
    """What a photograph's EXIF and XMP tell, without decoding a pixel; of a JPEG, only the head is read.

    Metadata never decide about an image: a file that is damaged, gone, or not to be read now has none.
    """
    try:
        path = os.fsdecode(path)
        data = _read_file(path, _HEAD)
        if data.startswith(_JPEG):
            _, exif, xmp, _ = bare_jpeg(data)
        else:
            _, exif, xmp, _ = _read_header(_read_file(path), time.thread_time() + MAX_SECONDS)
        return PhotoFacts(*taken_and_camera(exif), orientation_of(exif, xmp))
    except Exception as error:  # libraries raise nearly anything
        logger.debug("%s: no metadata: %s", path, error)
        return PhotoFacts()


def read_image_file(path: str | os.PathLike, name: str = "image") -> bytes:
    """The contents of an image's file: a regular file of at most `MAX_BYTES`. It retries after passing errors.

    Raises:
        FileNotFoundError, InaccessibleImageError: See `open_image`.
        UnreadableImageError: It is a folder, a named pipe, a device, empty or too large.
    """
    path, pauses = os.fsdecode(path), list(_PAUSES)
    while True:
        try:
            return _read_file(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise FileNotFoundError(
                    f"{name}: no file {path!r} (current folder: {Path.cwd()}). Check the folder that paths are "
                    "relative to; images behind a URL must be downloaded first."
                ) from error
            if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
                raise _unreadable(name, path, error) from error
            if error.errno not in _PASSING_ERRORS or not pauses:
                raise _inaccessible(name, path, error) from error
            time.sleep(pauses.pop(0))
        except (_Refused, ValueError, MemoryError) as error:  # ValueError: a NUL in the path
            raise _unreadable(name, path, error) from error


def _read_file(path: str, num_bytes: int = -1) -> bytes:
    _check_file(os.stat(path))  # noqa: PTH116 - before opening, which may hang or do something to a device
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    with open(path, "rb", buffering=0, opener=lambda file, _: os.open(file, flags)) as stream:
        _check_file(os.fstat(stream.fileno()))
        return stream.read(num_bytes)


def _check_file(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
        raise _Refused(f"it is {kind}", "name an image's file")
    _check_num_bytes(status.st_size)


def _check_num_bytes(size: int) -> None:
    if size == 0:
        raise _Refused("it is empty")
    if size > MAX_BYTES:
        raise _Refused(f"an image's file may have {MAX_BYTES:,} bytes", _SHRINK)


def _contents(image: Any, name: str) -> tuple[bytes, str | None]:
    """The bytes of an image that is given as a path or a mapping, and its path if it has one."""
    if isinstance(image, (str, os.PathLike)):
        return read_image_file(image, name), os.fsdecode(image)
    if not isinstance(image, Mapping):
        raise TypeError(f"{name}: expected {_SOURCES}, got {type(image).__name__}.")
    data, path = image.get("bytes"), image.get("path")
    path = None if path is None else os.fsdecode(path)
    if data is not None:
        return bytes(data), path
    if path is not None:
        return read_image_file(path, name), path
    raise TypeError(f"{name}: expected a mapping with 'bytes' or 'path', got the keys {sorted(image)}.")


def _from_pil(image: Image.Image, name: str) -> Image.Image:
    """An image that the caller opened and may not have decoded yet."""
    path = getattr(image, "filename", None)
    path = os.fsdecode(path) if path else None
    try:
        if getattr(image, "tile", None) and image.format not in PHOTO_FORMATS:
            raise _Refused(f"{image.format} is no format of photographs", "call its load() before, if you trust it")
        _check_size(_Opened(image))
        image.load()
        orientation = 1
        try:
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        except Exception as error:  # damaged metadata raises nearly anything, and is no reason to refuse the pixels
            logger.debug("EXIF ignored: %s", error)
        return _turn(_to_rgb(image), orientation)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: no file {path!r}.") from error
    except Exception as error:  # decoders raise nearly anything
        if isinstance(error, OSError) and error.errno is not None:
            raise _inaccessible(name, path, error) from error
        raise _unreadable(name, path, error) from error


@contextmanager
def _decoding(name: str, path: str | None, num_bytes: int) -> Iterator[None]:
    """Turns any error into one that names the image."""
    try:
        _check_num_bytes(num_bytes)
        yield
    except Exception as error:  # decoders raise nearly anything
        raise _unreadable(name, path, error, num_bytes) from error


def _unreadable(name: str, path: str | None, error: Exception, num_bytes: int | None = None) -> UnreadableImageError:
    """The error that names an image, made of what was raised while it was read."""
    if isinstance(error, MemoryError):
        error = _Refused("there is not enough memory to decode it", _SHRINK)
    cause = str(error) if isinstance(error, _Refused) else f"{type(error).__name__}: {error}"
    if num_bytes is None and path is not None:
        with suppress(OSError, ValueError):
            num_bytes = Path(path).stat().st_size
    size = "" if num_bytes is None else f" ({num_bytes} bytes)"
    reason = f"cannot be read as an image: {cause}. Remedy: {getattr(error, 'remedy', _REMEDY)}."
    return refused_image(name, path, reason, size)


def refused_image(name: str, path: str | None, reason: str, size: str = "") -> UnreadableImageError:
    """The error that names an image and its file."""
    where = f"{name}: {path!r}" if path else name
    return UnreadableImageError(f"{where}{size} {reason}", source=path or name, path=path, reason=reason)


def _inaccessible(name: str, path: str | None, error: OSError) -> InaccessibleImageError:
    reason = (
        f"cannot be read now ({error.strerror or error}). Check its permissions and the disk or network drive that it "
        "is on, and start again."
    )
    where = f"{name}: {path!r}" if path else name
    return InaccessibleImageError(f"{where} {reason}", error.errno, path, reason)


class _Stream(BytesIO):
    """Bytes in memory that can no longer be read once the time is up; decoders ask for one block after another."""

    def __init__(self, data: bytes, end: float):
        super().__init__(data)
        self._end, self._num_reads = end, 0

    def read(self, size: int | None = -1) -> bytes:
        self._num_reads += 1
        is_due = size != 1 or self._num_reads % 64 == 0  # headers are read byte by byte, faster than the clock
        if is_due and time.thread_time() > self._end:
            raise _Refused(f"decoding it takes more than {MAX_SECONDS} seconds of computing", _SHRINK)
        return super().read(size)


class _Opened(NamedTuple):
    """An image that is not decoded yet, and what its header says."""

    image: Image.Image
    orientation: int = 1  # by EXIF or XMP; 1 is upright
    num_scans: int = 0  # of a JPEG; 0 for other formats


def _open(data: bytes) -> _Opened:
    """Finds the format and reads the header.

    It does not use `Image.open`, which has one limit of pixels for the whole program, and hides why a file that it
    recognised cannot be opened.
    """
    image, exif, xmp, num_scans = _read_header(data, time.thread_time() + MAX_SECONDS)
    if image.format == "TIFF":  # Pillow turns it while decoding
        return _Opened(image)
    return _Opened(image, orientation_of(exif, xmp), num_scans)


def _read_header(data: bytes, end: float) -> tuple[Image.Image, bytes | None, bytes | None, int]:
    """An image that is not decoded yet, its EXIF and XMP, and its number of scans, see `_Opened`."""
    if data.startswith(_JPEG):
        data, exif, xmp, num_scans = bare_jpeg(data)
        return _identify(data, end), exif, xmp, num_scans
    if data.startswith(_PNG):
        data, exif, xmp = bare_png(data)
        return _identify(data, end), exif, xmp, 0
    image = _identify(data, end)
    # A TIFF is a list of entries as EXIF's, and what it tells stands there.
    exif = data if image.format == "TIFF" else image.info.get("exif")
    return image, exif, image.info.get("xmp"), 0


def _identify(data: bytes, end: float) -> Image.Image:
    failed = None
    for name in photo_formats():
        factory, accepts = Image.OPEN[name]
        accepted = accepts is None or accepts(data[:16])
        if isinstance(accepted, str):  # the format, but this Pillow lacks its library
            failed = _Refused(accepted, _OTHER_FORMAT)
        elif accepted:
            try:
                return factory(_Stream(data, end), "")
            except SyntaxError as error:  # not this format after all, or broken
                failed = error
    if failed:
        raise failed
    for pattern, kind, remedy in _NO_PHOTOGRAPHS:
        if re.match(pattern, data[:1024], re.IGNORECASE | re.DOTALL):
            raise _Refused(f"it is {kind}", remedy)
    raise _Refused(f"it is in none of the formats {', '.join(sorted(photo_formats()))}, or its first bytes are damaged")


def _read_pixels(opened: _Opened, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Decodes an image within the budget: upright 8-bit RGB."""
    image, orientation, num_scans = opened
    _check_size(opened)
    if num_scans:
        _draft(image, at_least and at_least[::-1] if orientation in _SIDEWAYS else at_least)
    image.load()
    rgb = _turn(_to_rgb(image), orientation)
    rgb.info = {}  # its metadata is used up: it must not count again where the image is opened again
    return rgb


def _turn(rgb: Image.Image, orientation: int) -> Image.Image:
    if orientation not in _TURNS:
        return rgb
    rgb = rgb.transpose(_TURNS[orientation])
    rgb.info = {}  # as above
    return rgb


def _check_size(opened: _Opened) -> None:
    """Refuses an image beyond the budget before it is decoded."""
    image, _, num_scans = opened
    width, height = image.size
    shape, most = f"{width:,} x {height:,} pixels", MAX_PIXELS
    if max(width, height) > MAX_SIDE:
        raise _Refused(f"it has {shape}, and a side may have {MAX_SIDE:,}", _SHRINK)
    if num_scans > MAX_SCANS:
        raise _Refused(f"it has {num_scans:,} scans, and a JPEG may have {MAX_SCANS}", "save it again, or leave it out")
    if num_scans > 1:
        image.decodermaxblock = 4096  # a block may hold several scans, and the time is checked between blocks
    elif num_scans == 1:
        most = MAX_PHOTO_PIXELS  # the decoder keeps a few lines; with several scans it keeps everything
    most = min(most, MAX_MEMORY // _BYTES_PER_PIXEL.get(image.format, 1))
    if width * height > most:
        raise _Refused(f"it has {shape}, and a {image.format or 'image'} may have {most / 1e6:.0f} million", _SHRINK)


def _draft(image: Image.Image, at_least: tuple[int, int] | None) -> None:
    """Has a JPEG decoded at 1/2, 1/4 or 1/8 where that leaves it large enough, or where it has too many pixels."""
    width, height = image.size
    enough = min(width // max(at_least[0], 1), height // max(at_least[1], 1)) if at_least else 1
    scale = next((scale for scale in (8, 4, 2) if scale <= enough), 1)
    while width * height > MAX_PIXELS * scale * scale:
        scale *= 2
    if scale > 1:
        image.draft(None, (width // scale, height // scale))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _grey_to_8_bit(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgb = Image.new("RGB", image.size)
    for box in _strips(image):  # a whole copy for each step would take the memory of five images
        part = image.crop(box).convert("RGBA")
        rgb.paste(Image.alpha_composite(Image.new("RGBA", part.size, "white"), part).convert("RGB"), box)
    return rgb


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of a few million pixels each that together cover an image."""
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        yield 0, top, width, min(top + rows, height)


def _grey_to_8_bit(image: Image.Image) -> Image.Image:
    """Scales a PIL image in mode I or F to mode L."""
    parts = [np.asarray(image.crop(box)) for box in _strips(image)]
    low, high = np.min([part.min() for part in parts]), np.max([part.max() for part in parts])  # NaN stays NaN
    white = _white(parts[0].dtype, low, high)
    grey = Image.new("L", image.size)
    for box, part in zip(_strips(image), parts, strict=True):
        grey.paste(Image.fromarray(_scale(part, white)), box)
    return grey


def _white(dtype: np.dtype, low: float, high: float) -> int:
    """The value that stands for white, which no header tells.

    It is 65535 for uint16, and otherwise the smallest usual value that is not exceeded: 1 (floats), 255 or 65535.
    """
    if not (low >= 0 and high <= 65535):  # also true for NaN
        raise _Refused(f"its grey values are {low} to {high}, expected 0 to 65535", "scale them to 0 to 255")
    if dtype.itemsize == 2 or high > 255:
        return 65535
    return 1 if dtype.kind == "f" and high <= 1 else 255


def _scale(values: np.ndarray, white: int) -> np.ndarray:
    return np.rint(values * (255 / white)).astype(np.uint8)


def _image_from_array(array: np.ndarray, name: str, channels_first: bool = False) -> Image.Image:
    array = _channels_last(array, name, channels_first)
    if array.size == 0:
        raise ValueError(f"{name}: the array of shape {array.shape} holds no pixels.")
    pixels = np.ascontiguousarray(_array_to_8_bit(array, name))
    channels = pixels.shape[2]
    return _to_rgb(Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels))


def _channels_last(array: np.ndarray, name: str, channels_first: bool) -> np.ndarray:
    if array.ndim == 2:
        return array[:, :, None]
    if array.ndim == 3:
        fits_first, fits_last = 1 <= array.shape[0] <= 4, 1 <= array.shape[2] <= 4
        if fits_first and (channels_first or not fits_last):
            return array.transpose(1, 2, 0)
        if fits_last:
            return array
    raise ValueError(
        f"{name}: an array of shape {array.shape} is not one image. Expected (height, width), (height, width, "
        "channels) or (channels, height, width) with 1 to 4 channels; pass batches as a list or a rank-4 array."
    )


def _array_to_8_bit(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array * np.uint8(255)
    if array.dtype.newbyteorder("=") == np.uint16:
        return _scale(array, _white(array.dtype, 0, 0))
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name}: an array of dtype {array.dtype} holds no pixels. Expected integers or floats.")
    low, high = array.min(), array.max()
    if array.dtype.kind in "iu":
        if low < 0 or high > 255:
            raise ValueError(f"{name}: values from {low} to {high}. Expected 0..255, or dtype uint16 for 0..65535.")
        return array.astype(np.uint8)
    # Interpolation overshoots a little; anything more is another scale. The comparison is false for NaN.
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(
            f"{name}: values from {low} to {high}. Expected floats within 0..1, without NaN; "
            "convert 0..255 to uint8, and undo any normalisation before the image processor does its own."
        )
    return np.rint(array.clip(0, 1) * 255).astype(np.uint8)
