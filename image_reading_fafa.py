"""The one reader of pictures: from anything that holds one to upright 8-bit RGB pixels.

Whoever opens a picture that the program did not make itself calls it: the image processor, search, `verify`, `export`,
sheets, and what asks image servers. Imports little: worker processes that only open images import nothing else.
"""

import errno
import os
import sys
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

try:  # an iPhone's HEIC, where it is installed; here, so that DataLoader workers open it, too
    from pillow_heif import register_heif_opener
except ImportError:
    pass
else:
    register_heif_opener()

_EXIF_ORIENTATION = 0x0112
_CHANNELS = (1, 2, 3, 4)
# Trouble of the system, the disk or the network: says nothing about the picture, and may have passed by the next try.
_SYSTEM_TROUBLE = {
    *("EACCES", "EPERM", "EAGAIN", "EBUSY", "EINTR", "EIO", "EMFILE", "ENFILE", "ENOLCK", "ENOMEM", "ENODEV", "ENXIO"),
    *("EREMOTEIO", "ESTALE", "ECONNABORTED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH"),
    *("ENOTCONN", "ESHUTDOWN", "ETIMEDOUT"),
}
_SOURCES = "a PIL image, an array, a tensor, a path or a mapping with 'path' or 'bytes'"


class UnreadableImageError(ValueError):
    """A file or picture that exists but cannot be decoded: truncated, empty, not an image, far too large.

    This is the one error that a policy of skipping corrupt images should catch: a missing file (`FileNotFoundError`)
    or a wrong type (`TypeError`) points at a broken data set or program, not at one bad picture.

    Attributes:
        source (`str`): What was being read, as named in the message.
        path (`str` or `None`): The file, where there is one.
    """

    # One positional argument, so that the error survives pickling and the DataLoader's re-raise in the main process.
    def __init__(self, message: str, source: str = "image", path: str | None = None):
        super().__init__(message)
        self.source = source
        self.path = path


class InaccessibleImageError(OSError):
    """A file that is there but cannot be read now: no permission, a disk or network drive in trouble.

    It says nothing about the picture, so nobody may keep it as a verdict on the picture.

    Attributes:
        errno, filename: As of the operating system's error.
        source (`str`): What was being read, as named in the message.
    """

    def __init__(self, message: str, number: int | None = None, path: str | None = None):
        super().__init__(message)
        self.errno, self.filename, self.source = number, path, path or "image"

    def __str__(self) -> str:
        return str(self.args[0])


def open_image(image: Any, name: str = "image") -> Image.Image:
    """Reads one picture as an upright 8-bit RGB image.

    Args:
        image: A PIL image of any mode; a path (`str` or `Path`); a mapping with `"bytes"` or `"path"`, as `datasets`
            gives undecoded images; or an array or tensor of rank 2 (height, width) or 3 (channels last or first; where
            both fit, arrays are read as channels last and tensors as channels first) with 1 to 4 channels: uint8,
            bool, uint16, other integers within 0..255, or floats within 0..1.
        name (`str`): How messages call the picture, for instance `"images[3]"`.

    Returns:
        `PIL.Image.Image`: Mode RGB, EXIF orientation applied. Transparent parts lie over white, as a viewer shows them
        (a plain conversion would reveal whatever colour is stored underneath); 16-bit values are divided by 257.
        A file already in RGB comes back with the pixels that the released code's `convert("RGB")` gives.

    Raises:
        FileNotFoundError: There is no such file.
        InaccessibleImageError: The file is there, but cannot be read now; an `OSError`.
        UnreadableImageError: The picture cannot be decoded, or exceeds Pillow's limit against decompression bombs.
        ValueError: An array of another rank or size, or with values that are not pixels (NaN, out of range).
        TypeError: None of the above, or an array of another dtype.
    """
    if isinstance(image, Image.Image):
        return _decode(image, name, getattr(image, "filename", None) or None)
    if isinstance(image, (str, os.PathLike)):
        return _decode(image, name, os.fspath(image))
    if isinstance(image, Mapping):
        return _open_mapping(image, name)
    if isinstance(image, np.ndarray):
        return _image_from_array(image, name)
    if _is_tensor(image):
        array = image.detach().cpu()
        array = array.float().numpy() if array.is_floating_point() else array.numpy()
        return _image_from_array(array, name, channels_first=True)
    raise TypeError(f"{name}: expected {_SOURCES}, got {type(image).__name__}.")


def _open_mapping(image: Mapping, name: str) -> Image.Image:
    data, path = image.get("bytes"), image.get("path")
    if data is not None:
        return _decode(BytesIO(data), name, path)
    if path is not None:
        return _decode(path, name, os.fspath(path))
    raise TypeError(f"{name}: expected a mapping with 'bytes' or 'path', got the keys {sorted(image)}.")


def _decode(source: Image.Image | str | os.PathLike | BytesIO, name: str, path: str | None) -> Image.Image:
    """Opens, loads, turns upright and converts; names the picture in whatever goes wrong."""
    try:
        if isinstance(source, Image.Image):
            return _to_rgb(source)
        with Image.open(source) as image:
            return _to_rgb(image)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{name}: no file {path!r} (current folder: {Path.cwd()}). Check the folder that paths are relative to; "
            "pictures behind a URL must be downloaded first."
        ) from error
    # A decoder that meets a broken file raises nearly anything: OSError, SyntaxError, struct.error, zlib.error, ...
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        where = f"{name}: {path!r}" if path else name
        if errno.errorcode.get(getattr(error, "errno", None)) in _SYSTEM_TROUBLE:
            raise InaccessibleImageError(
                f"{where} cannot be read now ({error.strerror or error}). See to its permissions, or to the disk or "
                "network drive it lies on, and start again.",
                error.errno,
                path,
            ) from error
        size = f" ({Path(path).stat().st_size} bytes)" if path and Path(path).is_file() else ""
        raise UnreadableImageError(
            f"{where}{size} cannot be read as an image ({type(error).__name__}: {error}). "
            "Expected a whole picture in a format that Pillow opens; fetch or export the file again, or leave it out.",
            source=path or name,
            path=path,
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Scales grey values of a PIL image in mode I or F, whose range no header tells, to uint8.

    uint16 counts from 0 to 65535. Otherwise the range is the smallest usual one that holds the values: 1 (floats),
    255 or 65535.
    """
    top = values.max(initial=0)
    if not (values.min(initial=0) >= 0 and top <= 65535):  # also true for NaN
        raise ValueError(f"grey values from {values.min()} to {top}, expected 0..65535; scale them to 0..255 first")
    if values.dtype.itemsize == 2 or top > 255:
        white = 65535
    elif values.dtype.kind == "f" and top <= 1:
        white = 1
    else:
        white = 255
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
        fits_first, fits_last = array.shape[0] in _CHANNELS, array.shape[2] in _CHANNELS
        if fits_first and (channels_first or not fits_last):
            return array.transpose(1, 2, 0)
        if fits_last:
            return array
    raise ValueError(
        f"{name}: an array of shape {array.shape} is not one picture. Expected (height, width), (height, width, "
        "channels) or (channels, height, width) with 1 to 4 channels; pass batches as a list or a rank-4 array."
    )


def _array_to_8_bit(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array * np.uint8(255)
    if array.dtype.newbyteorder("=") == np.uint16:
        return _to_8_bit(array)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name}: an array of dtype {array.dtype} holds no pixels. Expected integers or floats.")
    low, high = array.min(), array.max()
    if array.dtype.kind in "iu":
        if low < 0 or high > 255:
            raise ValueError(f"{name}: values from {low} to {high}. Expected 0..255, or dtype uint16 for 0..65535.")
        return array.astype(np.uint8)
    # A little overshoot is what interpolation leaves; anything more is another scale. The test is false for NaN.
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(
            f"{name}: values from {low} to {high}. Expected floats within 0..1, without NaN; "
            "convert 0..255 to uint8, and undo any normalisation before the image processor does its own."
        )
    return np.rint(array.clip(0, 1) * 255).astype(np.uint8)


def _is_tensor(image: Any) -> bool:
    """Whether it is a torch tensor; where torch was not imported, nothing is."""
    return "torch" in sys.modules and isinstance(image, sys.modules["torch"].Tensor)


__all__ = ["InaccessibleImageError", "UnreadableImageError", "open_image"]
